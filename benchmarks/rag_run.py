"""The RAG example as a pipeline mapping, and a place for its run that is gone afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SPLITS = 32
WORKERS = 2


def mapping(folder: Path, documents: Path, embed: str) -> dict[str, Any]:
    """Describe documents → clean → chunk → embed → Parquet, with nothing stored on the way."""
    return {
        "name": "benchmark",
        "imports": ["funcpipe_prefect.examples.rag"],
        "source": {"type": "jsonl", "path": str(documents), "record": "RawDoc", "splits": SPLITS},
        "operators": [
            {"type": "Map", "name": "clean", "func": "clean_doc", "error_policy": "drop"},
            {"type": "FlatMap", "name": "chunk", "func": "chunk_doc", "params": {"size": 512, "overlap": 64}},
            {"type": "BatchMap", "name": "embed", "func": embed, "max_batch_size": 128},
            {
                "type": "Sink",
                "name": "write",
                "func": "parquet",
                "contract": {"idempotent": True},
                "params": {"path": str(folder / "out"), "float_type": "float32"},
            },
        ],
        "backend": "dask",
        "resources": {"workers": WORKERS, "threads_per_worker": 1},
        "errors": {"path": str(folder / "dead_letters")},
        "cache": {"storage": str(folder / "store")},
    }


@contextmanager
def warm_cluster() -> Iterator[Any]:
    """Run a Prefect server and a Dask cluster for the time of the block, within `own_prefect`.

    Yields:
        The cluster's client.
    """
    from funcpipe_prefect.orchestration.server import one_server

    with one_server(), warm_dask() as client:
        yield client


@contextmanager
def warm_dask() -> Iterator[Any]:
    """Run a Dask cluster of two workers for the time of the block.

    Yields:
        The cluster's client.
    """
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def own_prefect() -> Iterator[Path]:
    """Keep Prefect's home, and all that a run writes, in a folder for the time of the block.

    To be entered before `prefect` is imported, which reads its settings then.

    Yields:
        An empty folder.
    """
    with tempfile.TemporaryDirectory(prefix="funcpipe-bench-", ignore_cleanup_errors=True) as root:
        os.environ.update(
            PREFECT_HOME=f"{root}/prefect",
            PREFECT_LOGGING_LEVEL="WARNING",
            DASK_TEMPORARY_DIRECTORY=f"{root}/dask",
            DASK_LOGGING__DISTRIBUTED="error",
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            DO_NOT_TRACK="1",
        )
        os.environ.pop("PREFECT_API_URL", None)
        (Path(root) / "work").mkdir()
        yield Path(root) / "work"

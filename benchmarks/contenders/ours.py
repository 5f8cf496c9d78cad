"""Ours, on each backend and granularity, by the functions that a user calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import rag_run
from benchmarks.contenders import work


def mapping(documents: Path, folder: Path) -> dict[str, Any]:
    """Describe the work as a pipeline."""
    described = rag_run.mapping(folder, documents, "sha_batch")
    del described["source"]["splits"]
    described["imports"].append(work.__name__)
    described["operators"][-1].update(func="jsonl", params={"path": str(folder / "out")})
    described["errors"]["path"] = str(folder / ".dead_letters")
    described["cache"]["storage"] = str(folder / ".store")
    return described


@contextmanager
def local() -> Iterator[work.Work]:
    """Run on one core."""
    from funcpipe_prefect import load_pipeline, run_local

    def run(documents: Path, folder: Path) -> None:
        run_local(load_pipeline({**mapping(documents, folder), "backend": "local", "resources": {}}))

    yield run


@contextmanager
def _on_dask(granularity: str) -> Iterator[work.Work]:
    from funcpipe_prefect import run_pipeline

    with rag_run.warm_cluster() as client:

        def run(documents: Path, folder: Path) -> None:
            asked = {"address": client.scheduler.address, "granularity": granularity}
            run_pipeline(mapping(documents, folder), overrides={"resources": asked})

        yield run


def dask_auto() -> Any:
    """Run with the granularity that is chosen for the number of splits: here a task run for each split."""
    return _on_dask("auto")


def dask_stage() -> Any:
    """Run with one task run for each stage."""
    return _on_dask("stage")


@contextmanager
def on_beam() -> Iterator[work.Work]:
    """Run as Prefect tasks that launch Beam pipelines."""
    from funcpipe_prefect import run_pipeline
    from funcpipe_prefect.orchestration.server import one_server

    with one_server():

        def run(documents: Path, folder: Path) -> None:
            run_pipeline(
                mapping(documents, folder), backend="beam", overrides={"resources": {"workers": work.WORKERS}}
            )

        yield run

"""As a user of Prefect begins: a task run for each document, on a Dask cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from benchmarks import rag_run
from benchmarks.contenders import work


@contextmanager
def naive_map() -> Iterator[work.Work]:
    """Map a task over the first documents; their number is in the variable `BENCH_DOCUMENTS`."""
    from prefect import flow, task
    from prefect_dask import DaskTaskRunner

    from funcpipe_prefect.examples import rag

    @task
    def ingest(line: str, folder: str) -> int:
        doc = rag.RawDoc(
            **{k: v for k, v in json.loads(line).items() if k in ("doc_id", "title", "abstract")}
        )
        found = work.sha_batch(work.passages(doc))
        target = Path(folder) / f"{doc.doc_id.replace('/', '_')}.jsonl"
        target.write_text("".join(json.dumps(vars(one)) + "\n" for one in found))
        return len(found)

    with rag_run.warm_cluster() as client:
        runner = DaskTaskRunner(address=client.scheduler.address)

        @flow(task_runner=runner)
        def ingestion(lines: list[str], folder: str) -> int:
            from prefect import unmapped

            return sum(ingest.map(lines, unmapped(folder)).result())

        def run(documents: Path, folder: Path) -> None:
            with documents.open() as file:
                lines = list(islice(file, int(os.environ["BENCH_DOCUMENTS"])))
            ingestion(lines, str(folder))

        yield run

"""A run through Prefect task runs on a warm Dask cluster, against bare `Client.map` on it.

Both sides take the same 32 byte ranges through the same functions to Parquet, by the same two
workers. Ours is timed from the call of `run_pipeline` to its return, so it includes building and
planning the pipeline, the flow run, the task runs, digests, hashes of the parts, and the commit.
"""

from __future__ import annotations

import logging
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks import by_hand, data, rag_run
from benchmarks.measure import pairs, summary, write_result

TARGET = 1.25
COPIES = 5
PAIRS = 3


class Sides:
    """The two ways to do the work, on one cluster."""

    def __init__(self, folder: Path, client: Any) -> None:
        self.folder, self.client = folder, client
        self.reports: list[Any] = []
        self.overheads: list[dict[str, float]] = []

    def ours(self, documents: Path) -> int:
        """Run the pipeline from nothing; give the records published."""
        from funcpipe_prefect import run_pipeline

        target = self._empty("ours")
        mapping = rag_run.mapping(target, documents, "embed_batch")
        started = time.time()
        report = run_pipeline(mapping, overrides={"resources": {"address": self.client.scheduler.address}})
        ended = time.time()
        self.reports.append(report)
        self._note_overhead(started, ended)
        return int(report.records_out)

    def bare(self, documents: Path) -> int:
        """Map one function over the byte ranges; give the records written."""
        target = self._empty("bare")
        ranges = [(s.location, s.start, s.stop) for s in self.splits(documents)]
        futures = self.client.map(by_hand.split_to_parquet, ranges, folder=str(target), pure=False)
        return sum(count for count, _ in self.client.gather(futures))

    def splits(self, documents: Path) -> list[Any]:
        """Give the byte ranges, the same for both."""
        from funcpipe_prefect.sources import JsonlSource

        return JsonlSource(str(documents), splits=rag_run.SPLITS).list_splits()

    def _empty(self, name: str) -> Path:
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        return target

    def _note_overhead(self, started: float, ended: float) -> None:
        """Keep when the first stage began on a worker and the last one ended, by Prefect's own record."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
        from prefect.client.schemas.sorting import FlowRunSort

        with get_client(sync_client=True) as api:
            run = api.read_flow_runs(limit=1, sort=FlowRunSort.START_TIME_DESC)[0]
            only = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            tasks = api.read_task_runs(flow_run_filter=only, limit=200)
        stages = [t for t in tasks if t.name != "commit" and t.start_time and t.end_time]
        if not stages:
            return
        first = min(t.start_time.timestamp() for t in stages)
        busy = sum((t.end_time - t.start_time).total_seconds() for t in stages)
        last = max(t.end_time.timestamp() for t in stages)
        self.overheads.append(
            {
                "before_first_stage_s": round(first - started, 3),
                "stages_s": round(last - first, 3),
                "after_last_stage_s": round(ended - last, 3),
                "busy_in_stages_s": round(busy, 3),
                "idle_between_stages_s": round(rag_run.WORKERS * (last - first) - busy, 3),
            }
        )


def warmed(sides: Sides, folder: Path) -> float:
    """Run both ways over little data, so that every process has imported and built what it needs."""
    little = folder / "warm.jsonl"
    data.write_documents(little, 1)
    started = time.perf_counter()
    sides.bare(little)
    sides.ours(little)
    sides.reports.clear()
    sides.overheads.clear()
    return time.perf_counter() - started


def quiet() -> None:
    """Silence the HTTP client, whose requests wordllama's import makes a process log."""
    logging.getLogger("httpx").setLevel(logging.WARNING)


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]} if rows else {}


def main() -> None:
    with rag_run.own_prefect() as folder:
        documents = folder / "docs.jsonl"
        count = data.write_documents(documents, COPIES)
        with rag_run.warm_cluster() as client:
            sides = Sides(folder, client)
            client.run(quiet)
            print(f"  warm after {warmed(sides, folder):.0f} s", flush=True)
            written: dict[str, int] = {}
            ours, bare = pairs(
                lambda: written.__setitem__("ours", sides.ours(documents)),
                lambda: written.__setitem__("bare", sides.bare(documents)),
                PAIRS,
            )
            assert written["ours"] == written["bare"], f"the two ways differ: {written}"
            splits = len(sides.splits(documents))
    ratio = summary([own / other for own, other in zip(ours, bare, strict=True)])
    write_result(
        "dask_run",
        what="time of a run through Prefect on a warm Dask cluster to that of bare Client.map",
        value=ratio["median"],
        unit="×",
        target=f"<= {TARGET}",
        met=ratio["median"] <= TARGET,
        data=data.origin(),
        documents=count,
        records_out=written["ours"],
        splits=splits,
        workers=rag_run.WORKERS,
        ours_s=summary(ours, 2),
        bare_s=summary(bare, 2),
        ratio=ratio,
        documents_per_s={
            "ours": round(count / statistics.median(ours)),
            "bare": round(count / statistics.median(bare)),
        },
        where_ours_goes=medians(sides.overheads),
    )
    print(f"  where ours goes: {medians(sides.overheads)}")


if __name__ == "__main__":
    main()

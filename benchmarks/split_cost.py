"""What a split costs above a bare Dask task: as a Prefect task run of its own, and under one task run a stage.

All sides read the same byte ranges on a warm cluster of two workers and count their words; ours with planning,
receipts, dead letters, digests and a commit. The work is next to nothing, so what is left is what a split costs.
"""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks import rag_run
from benchmarks.measure import in_turn, summary, write_result

STAGE_TARGET_MS, PARTITION_TARGET_S = 5.0, 0.12
SPLITS, ROUNDS = 1000, 3


def words_of(path: str, start: int, stop: int, folder: str) -> int:
    """Read a range of lines, and write how many words each has: what a bare task does."""
    with Path(path).open("rb") as file:
        file.seek(start)
        lines = file.read(stop - start).splitlines()
    rows = [{"id": one["id"], "words": len(one["text"].split())} for one in map(json.loads, lines)]
    target = Path(folder, f"{start}.jsonl")
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


class Sides:
    """The ways to do the work, on one cluster."""

    def __init__(self, folder: Path, client: Any, documents: Path) -> None:
        self.folder, self.client, self.documents = folder, client, documents
        self.done: dict[str, int] = {}

    def prepare(self, name: str) -> None:
        """Begin from nothing."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir()

    def bare(self) -> None:
        """Map one function over the ranges."""
        target = str(self.folder / "bare")
        size = self.documents.stat().st_size // SPLITS
        starts = [number * size for number in range(SPLITS)]
        futures = [
            self.client.submit(words_of, str(self.documents), start, start + size, target, pure=False)
            for start in starts
        ]
        self.done["bare"] = sum(self.client.gather(futures))

    def ours(self, granularity: str) -> None:
        """Run a pipeline that does the same."""
        from funcpipe_prefect import run_pipeline

        target = self.folder / granularity
        mapping = {
            "name": f"split-cost-{granularity}",
            "imports": ["benchmarks.split_functions"],
            "source": {"type": "jsonl", "path": str(self.documents), "splits": SPLITS, "by_content": False},
            "operators": [
                {"type": "Map", "name": "count", "func": "count_words"},
                {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
                 "params": {"path": str(target / "out")}},
            ],
            "resources": {"address": self.client.scheduler.address, "granularity": granularity},
            "cache": {"storage": str(target / "cache")},
        }  # fmt: skip
        report = run_pipeline(mapping, backend="dask")
        assert report.tasks_run == SPLITS
        self.done[granularity] = report.records_out


def main() -> None:
    with rag_run.own_prefect() as folder:
        documents = folder / "docs.jsonl"
        line = len(json.dumps({"id": f"{0:06d}", "text": "a few words of text"}) + "\n")
        with documents.open("w") as file:
            for number in range(SPLITS * 5):
                file.write(json.dumps({"id": f"{number:06d}", "text": "a few words of text"}) + "\n")
        assert documents.stat().st_size == SPLITS * 5 * line
        with rag_run.warm_cluster() as client:
            sides = Sides(folder, client, documents)
            works = {name: functools.partial(sides.ours, name) for name in ("stage", "partition")}
            taken: dict[str, tuple[list[float], list[float]]] = {}
            # The server works off the events of a thousand task runs long after their run: those come last.
            for name, work in works.items():
                for warm, do in (("bare", sides.bare), (name, work)):
                    sides.prepare(warm)
                    do()
                both, _ = in_turn({"bare": sides.bare, name: work}, ROUNDS, sides.prepare)
                taken[name] = both[name], both["bare"]
    assert len(set(sides.done.values())) == 1, f"the ways differ: {sides.done}"
    above = {
        name: summary([(own - other) / SPLITS * 1000 for own, other in zip(*both, strict=True)], 2)
        for name, both in taken.items()
    }
    stage_ms, partition_s = above["stage"]["median"], above["partition"]["median"] / 1000
    write_result(
        "split_cost",
        what="wall time of a split above a bare Dask task, granularity stage",
        value=stage_ms,
        unit="ms",
        target=f"<= {STAGE_TARGET_MS}",
        met=stage_ms <= STAGE_TARGET_MS,
        splits=SPLITS,
        workers=rag_run.WORKERS,
        seconds={
            name: {"ours": summary(own, 3), "bare": summary(bare, 3)} for name, (own, bare) in taken.items()
        },
        above_bare_ms=above,
        partition={
            "value_s": round(partition_s, 4),
            "target": f"<= {PARTITION_TARGET_S}",
            "met": partition_s <= PARTITION_TARGET_S,
        },
    )
    print(f"  granularity partition: {partition_s:.4f} s (target <= {PARTITION_TARGET_S})")


if __name__ == "__main__":
    main()

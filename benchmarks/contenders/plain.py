"""By hand: one function for a byte range, in a loop, a pool of processes, and as Dask futures.

The function is written with care: a failed record is noted with its position, a batch that fails is tried record
by record, and a part appears under its name when it is whole.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks import by_hand, rag_run
from benchmarks.contenders import work


def take_range(part: tuple[str, int, int], folder: str) -> tuple[int, by_hand.Letters]:
    """Take one byte range through to a file of its own; give its records and failures."""
    path, start, stop = part
    letters: by_hand.Letters = []
    encode, count = msgspec.json.Encoder().encode, 0
    target = Path(folder) / f"part-{start:012d}.jsonl"
    with target.with_suffix(".tmp").open("wb") as file:
        for batch in by_hand.embedded(
            by_hand.read_range(path, start, stop, letters), work.sha_batch, letters
        ):
            count += len(batch)
            for record in batch:
                file.write(encode(record) + b"\n")
    target.with_suffix(".tmp").rename(target)
    return count, letters


@contextmanager
def loop() -> Iterator[work.Work]:
    """Take one range after the other."""

    def run(documents: Path, folder: Path) -> None:
        for one in work.ranges(documents):
            take_range(one, str(folder))

    yield run


@contextmanager
def pool() -> Iterator[work.Work]:
    """Take the ranges in a pool of processes that is there already."""
    with multiprocessing.get_context("fork").Pool(work.WORKERS) as processes:

        def run(documents: Path, folder: Path) -> None:
            processes.starmap(take_range, [(one, str(folder)) for one in work.ranges(documents)], chunksize=1)

        yield run


@contextmanager
def futures() -> Iterator[work.Work]:
    """Map the function over the ranges on a cluster that is there already."""
    with rag_run.warm_dask() as client:

        def run(documents: Path, folder: Path) -> None:
            parts = client.map(take_range, work.ranges(documents), folder=str(folder), pure=False)
            client.gather(parts)

        yield run

"""JSON Lines: records that come in lists are written as those that come one by one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect.ir import Located, Part, Split
from funcpipe_prefect.kernel import Batch, LocatedLists
from funcpipe_prefect.sinks import JsonlSink

LISTS: list[Batch] = [
    ([3, 3, 4], [{"b": 1, "a": "ü\n"}, object(), {(1, 2): 3}]),
    ([], []),
    ([5], [float("nan")]),
    ([7, 8], [{"a": {"z", "y"}}, "x" * 100_000]),
]


def written(folder: Path, records: Iterator[Located]) -> tuple[bytes, Part, list[int]]:
    rejected: list[int] = []
    part = JsonlSink(str(folder)).write(Split("s"), records, Any, lambda at, *_: rejected.append(at))
    (file,) = (path for path in folder.rglob("*") if path.name == part.file)
    return file.read_bytes(), part, rejected


def test_lists_and_single_records_give_one_file_and_the_same_refusals(tmp_path: Path) -> None:
    def each() -> Any:
        yield from ((position, value) for batch in LISTS for position, value in zip(*batch, strict=True))

    def lists() -> Any:
        yield from LISTS

    singly = written(tmp_path / "singly", each())
    assert written(tmp_path / "lists", LocatedLists(each(), lists())) == singly
    assert singly[0].startswith(b'{"a":"\xc3\xbc\\n","b":1}\n')
    assert singly[1].records == singly[0].count(b"\n") == 4
    assert singly[2] == [3, 4]


def test_whoever_does_not_know_of_lists_reads_one_by_one_and_closing_ends_both() -> None:
    closed = []

    def one(name: str) -> Any:
        try:
            yield from ((0, name), (1, name))
        finally:
            closed.append(name)

    records = LocatedLists(one("each"), one("lists"))
    assert next(records) == (0, "each")
    assert next(records.lists) == (0, "lists")
    records.close()
    assert closed == ["each", "lists"]
    with pytest.raises(StopIteration):
        next(records)

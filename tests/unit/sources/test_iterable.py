"""Records that a program holds: any shape, any number of splits, the same in another process."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.ir import Undecodable
from funcpipe_prefect.sources import IterableSource


@dataclasses.dataclass
class Doc:
    id: int


class Model(pydantic.BaseModel):
    id: int


class Row(NamedTuple):
    id: int


def read(source: Any, record_type: Any = Any) -> list[tuple[int, Any]]:
    return [pair for split in source.list_splits() for pair in source.read(split, record_type)]


@given(count=st.integers(0, 600), splits=st.none() | st.integers(1, 50))
def test_any_number_of_splits_gives_every_record_once_in_order(count: int, splits: int | None) -> None:
    source = IterableSource.of(iter(range(count)), splits)
    assert read(source) == [(number, number) for number in range(count)]
    assert len(source.list_splits()) <= (splits or 32)


@pytest.mark.parametrize("record_type", [Doc, Model, Row])
def test_mappings_become_records_and_misfits_dead_letters(record_type: Any) -> None:
    source = IterableSource.of([{"id": 1}, record_type(id=2), {"id": "x"}, None, {"no": 1}, object()])
    found = [record for _, record in read(source, record_type)]
    assert found[:2] == [record_type(id=1), record_type(id=2)]
    assert all(isinstance(record, Undecodable) for record in found[2:])
    (split,) = source.list_splits()
    assert source.locate(split, 3) == "records[3]"


def test_a_changed_record_changes_its_own_split_only() -> None:
    one = IterableSource.of(range(100), 10).list_splits()
    other = IterableSource.of([*range(55), -1, *range(56, 100)], 10).list_splits()
    assert [a.identity == b.identity for a, b in zip(one, other, strict=True)].count(False) == 1


def test_an_instance_is_not_taken_for_its_mapping() -> None:
    (one,), (other,) = IterableSource.of([Doc(1)]).list_splits(), IterableSource.of([{"id": 1}]).list_splits()
    assert one.identity != other.identity


class Opaque:
    def __init__(self, value: int) -> None:
        self.value = value


def test_records_without_an_encoding_are_known_by_what_they_hold() -> None:
    """By their address, a new object could pass for an old one, and get the old one's cached result."""
    one, same, other = (IterableSource.of([Opaque(value)]).list_splits()[0].identity for value in (1, 1, 2))
    assert one == same != other


RECORDS = [
    Doc(1), {"id": 2}, {"id": "x"}, (3,), {"a": (1, 2)}, {"n": 2**80}, None, "text", b"\xff", [float("inf")], Model(id=5),
]  # fmt: skip


@pytest.mark.parametrize("record_type", [Any, Doc, Model, dict[str, Any]])
def test_records_that_went_through_files_are_the_same_records(tmp_path: Path, record_type: Any) -> None:
    source = IterableSource.of([*RECORDS, *RECORDS[:2], *RECORDS[:2]], 7)
    spooled = source.spooled(str(tmp_path / "deep" / "spool"), record_type)
    assert [split.name for split in spooled.list_splits()] == [split.name for split in source.list_splits()]
    assert read(pickle.loads(pickle.dumps(spooled)), record_type) == read(source, record_type)


def test_equal_slices_keep_their_own_positions_in_files(tmp_path: Path) -> None:
    source = IterableSource.of([1, 1, 1, 1], 4)
    assert read(source.spooled(str(tmp_path), Any)) == [(0, 1), (1, 1), (2, 1), (3, 1)]


def test_a_record_that_no_other_process_can_have_is_refused(tmp_path: Path) -> None:
    import threading

    with pytest.raises(SourceError, match="cannot be sent to another process"):
        IterableSource.of([threading.Lock()]).spooled(str(tmp_path), Any)

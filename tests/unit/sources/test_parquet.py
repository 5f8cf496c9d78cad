"""Parquet as a source: row groups are read once, in order, and every row is accounted for."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.ir import Undecodable
from funcpipe_prefect.sources import ParquetSource


@dataclasses.dataclass
class Row:
    id: int
    name: str | None = None


@pytest.fixture
def table(tmp_path: Path) -> str:
    rows = pa.table(
        {"id": range(1000), "name": [f"n{number}" if number % 3 else None for number in range(1000)]}
    )
    pq.write_table(rows, tmp_path / "t.parquet", row_group_size=64)
    return str(tmp_path / "t.parquet")


def read(source: ParquetSource, record_type: Any) -> list[tuple[int, Any]]:
    return [pair for split in source.list_splits() for pair in source.read(split, record_type)]


@pytest.mark.parametrize("splits", [None, 1, 2, 3, 5, 16, 40])
def test_any_number_of_splits_reads_every_row_once_with_its_number(table: str, splits: int | None) -> None:
    source = ParquetSource(table, splits=splits)
    expected = [(number, Row(number, f"n{number}" if number % 3 else None)) for number in range(1000)]
    assert read(source, Row) == expected
    assert len({split.name for split in source.list_splits()}) == len(source.list_splits())
    assert len(source.list_splits()) <= 16


def test_columns_narrow_what_is_read_and_an_unknown_one_is_named(table: str) -> None:
    assert read(ParquetSource(table, columns=("id",)), Any)[5] == (5, {"id": 5})
    with pytest.raises(SourceError, match="has no column title; it has id, name"):
        ParquetSource(table, columns=("id", "title")).list_splits()


def test_a_row_that_does_not_fit_is_a_dead_letter_with_its_number(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, None, 3]}), tmp_path / "t.parquet")
    (_, first), (position, bad), (_, last) = read(ParquetSource(str(tmp_path)), Row)
    assert (first, last, position) == (Row(1), Row(3), 1)
    assert isinstance(bad, Undecodable)
    assert bad.raw == b'{"id":null}'


def test_a_time_that_python_cannot_hold_costs_its_own_row_only(tmp_path: Path) -> None:
    far = pa.array([0, 2**62, 1], pa.timestamp("us"))
    pq.write_table(pa.table({"when": far}), tmp_path / "t.parquet")
    (_, first), (_, bad), (_, last) = read(ParquetSource(str(tmp_path)), Any)
    assert first == {"when": datetime.datetime(1970, 1, 1)}
    assert isinstance(bad, Undecodable)
    assert last["when"].microsecond == 1


def test_nested_columns_come_as_lists_mappings_and_records(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Nested:
        rows: list[Row]
        counts: dict[str, int]

    schema = pa.schema(
        {
            "rows": pa.list_(pa.struct({"id": pa.int64(), "name": pa.string()})),
            "counts": pa.map_(pa.string(), pa.int64()),
        }
    )
    values = [{"rows": [{"id": 1, "name": "a"}], "counts": {"k": 2}}]
    pq.write_table(pa.Table.from_pylist(values, schema=schema), tmp_path / "t.parquet")
    assert read(ParquetSource(str(tmp_path)), Nested) == [(0, Nested([Row(1, "a")], {"k": 2}))]
    assert read(ParquetSource(str(tmp_path)), Any) == [(0, values[0])]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not parquet at all", b"PAR1" + b"\x00" * 100 + b"PAR1"])
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(SourceError, match=r"t\.parquet is not a readable Parquet file"):
        ParquetSource(str(tmp_path)).list_splits()


def test_damage_inside_a_file_is_named_not_read_over(table: str) -> None:
    source = ParquetSource(table)
    splits = source.list_splits()
    path = Path(table)
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"t\.parquet"):
        [list(source.read(split, Any)) for split in splits]


def test_a_table_without_rows_has_no_record(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([], pa.int64())}), tmp_path / "t.parquet")
    assert read(ParquetSource(str(tmp_path)), Row) == []

"""CSV: every row is a record or a dead letter, whatever a spreadsheet, an editor or an export left in it."""

from __future__ import annotations

import bz2
import csv
import dataclasses
import gzip
import io
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import TypedDict

from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.ir import Undecodable
from funcpipe_prefect.sources import CsvSource


@pytest.fixture
def rows(tmp_path: Path) -> Any:
    def read(data: bytes | str, record_type: Any = Any, name: str = "t.csv", **rest: Any) -> list[Any]:
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        source = CsvSource(str(path), **rest)
        (split,) = source.list_splits()
        found = list(source.read(split, record_type))
        assert [position for position, _ in found] == list(range(1, len(found) + 1))
        return [record for _, record in found]

    return read


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    table=st.lists(st.tuples(CELL, CELL.filter(bool)), max_size=10),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_a_csv_writer_wrote_is_read_back(rows: Any, table: list[Any], delimiter: str, end: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *table])
    assert rows(text.getvalue(), delimiter=delimiter) == [{"a": a, "b": b} for a, b in table]


def test_quoted_newlines_quotes_and_a_byte_order_mark(rows: Any) -> None:
    data = b'\xef\xbb\xbfid,text\r\n1,"two\nlines, and ""quotes"""\r\n\r\n2,\xc3\xa4\r\n'
    assert rows(data) == [{"id": "1", "text": 'two\nlines, and "quotes"'}, {"id": "2", "text": "ä"}]


@dataclasses.dataclass
class Full:
    n: int
    x: float = 0.5
    ok: bool = False
    maybe: int | None = None
    name: str | None = None


class FullModel(pydantic.BaseModel):
    n: int
    x: float = 0.5
    ok: bool = False
    maybe: int | None = None
    name: str | None = None


def test_cells_become_numbers_booleans_and_none(rows: Any) -> None:
    data = "n,x,ok,maybe,name\n1,2.5,true,,\n-2,1e3,0,7,null\n3,4,1,,None\n"
    expected = [
        Full(1, 2.5, True, None, ""),
        Full(-2, 1000.0, False, 7, "null"),
        Full(3, 4.0, True, None, "None"),
    ]
    assert rows(data, Full) == expected
    assert rows(data, FullModel) == [FullModel(**dataclasses.asdict(one)) for one in expected]


class Typed(TypedDict):
    n: int


class Row(NamedTuple):
    n: int
    name: str = "n"


def test_a_column_that_is_missing_takes_its_default(rows: Any) -> None:
    assert rows("n\n1\n", Full) == [Full(1)]
    assert rows("n\n1\n", Typed) == [{"n": 1}]
    assert rows("n\n1\n", Row) == [Row(1, "n")]


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        (b"1,2,3", "ValueError", "3 fields, but the header has 2"),
        (b"1", "ValueError", "1 fields, but the header has 2"),
        (b"x,1", "ValidationError", "Expected `int`"),
        (b"1,\xe4", "UnicodeEncodeError", "surrogates"),
        (b'1,"a"b', "Error", "expected after"),
        (b'1,"never closed', "Error", "unexpected end"),
    ],
)
def test_a_bad_row_fails_alone_with_its_own_text(rows: Any, line: bytes, kind: str, words: str) -> None:
    data = b"n,name\n1,a\n" + line + b"\n2,b\n3,c\n"
    first, bad, *rest = rows(data, Full)
    assert [first, *rest] == [Full(1, name="a"), Full(2, name="b"), Full(3, name="c")]
    assert isinstance(bad, Undecodable)
    assert (bad.raw, bad.type) == (line, kind)
    assert words in bad.message


def test_an_unclosed_quote_does_not_swallow_the_rest_of_the_file(rows: Any) -> None:
    lines = [f"{number},ok" for number in range(2000)]
    lines[10] = '10,"open'
    lines[1000] = '1000,"open again'
    found = rows("n,name\n" + "\n".join(lines))
    assert len(found) == 2000
    assert [index for index, one in enumerate(found) if isinstance(one, Undecodable)] == [10, 1000]


def test_a_nul_byte_is_data_or_a_dead_letter_but_no_crash(rows: Any) -> None:
    found = rows(b"n,name\n1,a\x00b\n2,c\n")
    assert len(found) == 2
    assert found[1] == {"n": "2", "name": "c"}


def test_a_cell_of_megabytes_is_a_cell(rows: Any) -> None:
    assert len(rows("n,name\n1," + "x" * 3_000_000 + "\n")[0]["name"]) == 3_000_000


@pytest.mark.parametrize("data", ["", "\n\n", "n,name", "n,name\n", "\n\nn,name\r\n\r\n"])
def test_a_file_without_rows_has_no_record(rows: Any, data: str) -> None:
    assert rows(data) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'"n,name\n1,2\n', "not CSV"),
        (b"\xff\xfen\x00\n\x001", "UTF-8|NUL"),
        (b"n,n\n1,2\n", "column twice: 'n'"),
    ],
)
def test_a_header_that_cannot_name_the_columns_stops_the_run(rows: Any, data: bytes, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        rows(data)


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n"])
def test_a_delimiter_that_is_none_is_refused_at_once(delimiter: str) -> None:
    with pytest.raises(ValueError, match="delimiter"):
        CsvSource("a.csv", delimiter)


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress)])
def test_a_compressed_table_is_read(rows: Any, ending: str, compress: Any) -> None:
    assert rows(compress(b'n,name\n1,"a\nb"\n'), name=f"t.csv.{ending}") == [{"n": "1", "name": "a\nb"}]


def test_each_file_is_a_split_and_a_row_has_a_place(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n\n1\n")
    (tmp_path / "b.tsv").write_text("n\n2\n")
    (tmp_path / "c.txt").write_text("n\n3\n")
    source = CsvSource(str(tmp_path))
    splits = source.list_splits()
    assert [split.name for split in splits] == ["a.csv", "b.tsv"]
    assert source.locate(splits[0], 4) == f"{tmp_path}/a.csv (row 4)"

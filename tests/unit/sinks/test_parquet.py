"""Parquet as a sink: every supported type comes back, and a record that does not fit is refused alone."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
import pyarrow.parquet as pq
import pydantic
import pytest
from typing_extensions import TypedDict

from funcpipe_prefect.ir import Commit, Split
from funcpipe_prefect.schema import Approximate
from funcpipe_prefect.sinks import ParquetSink
from funcpipe_prefect.sources import ParquetSource


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Inner:
    x: int
    note: str | None = None


UTC = datetime.timezone.utc
EAST = datetime.timezone(datetime.timedelta(hours=5))


@dataclasses.dataclass
class Every:
    limit: ClassVar[int] = 3
    b: bool = True
    i: int = -(2**63)
    f: float = 1e-300
    s: str = "ä\n\x00"
    raw: bytes = b"\xff\x00"
    when: datetime.datetime = datetime.datetime(2020, 1, 2, 3, 4, 5, 678901, EAST)
    day: datetime.date = datetime.date(1, 1, 1)
    at: datetime.time = datetime.time(1, 2, 3, 4)
    long: datetime.timedelta = datetime.timedelta(days=-3, microseconds=7)
    money: decimal.Decimal = decimal.Decimal("1.25")
    id: uuid.UUID = uuid.UUID(int=5)
    colour: Colour = Colour.BLUE
    level: Level = Level.LOW
    word: Literal["a", "b"] = "a"
    rough: Annotated[float, Approximate()] = 0.5
    maybe: int | None = None
    names: list[str] = dataclasses.field(default_factory=lambda: ["a", ""])
    some: tuple[float, ...] = (1.0, 2.0)
    unique: frozenset[str] = frozenset({"p", "q", "r"})
    inner: Inner = dataclasses.field(default_factory=lambda: Inner(1))
    none: Inner | None = None
    inners: list[Inner] = dataclasses.field(default_factory=lambda: [Inner(1), Inner(2, "n")])
    counts: dict[str, int] = dataclasses.field(default_factory=lambda: {"k": 1, "a": 2})
    deep: list[list[int]] = dataclasses.field(default_factory=lambda: [[1], []])


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    id: uuid.UUID
    colour: Colour
    inner: Inner
    when: datetime.datetime
    tags: frozenset[str] = frozenset()
    parent: Model | None = None


class Plain(pydantic.BaseModel):
    id: uuid.UUID = uuid.UUID(int=1)
    colour: Colour = Colour.RED
    tags: frozenset[str] = frozenset({"x", "y"})

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def size(self) -> int:
        return len(self.tags)


class Holder(pydantic.BaseModel):
    plain: Plain
    more: list[Plain] = []


class Row(NamedTuple):
    id: int
    name: str = "n"


class Typed(TypedDict, total=False):
    id: int
    name: str


class Struct(msgspec.Struct):
    id: int
    inner: Inner | None = None


def round_trip(
    tmp_path: Path, record_type: Any, records: list[Any], **rest: Any
) -> tuple[list[Any], list[tuple[int, str]]]:
    refused: list[tuple[int, str]] = []
    sink = ParquetSink(str(tmp_path / "out"), **rest)
    sink.check_type(record_type)
    part = sink.write(
        Split("s"), iter(list(enumerate(records))), record_type,
        lambda place, record, error: refused.append((place, type(error).__name__)),
    )  # fmt: skip
    assert part.records == len(records) - len(refused)
    sink.commit([Commit("s", "k", part, "")])
    source = ParquetSource(str(tmp_path / "out"))
    return [one for split in source.list_splits() for _, one in source.read(split, record_type)], refused


@pytest.mark.parametrize(
    ("record_type", "records"),
    [
        (Every, [Every()]), (Every, [Every(maybe=1, none=Inner(3, "x"), names=[], counts={})] * 3),
        (Plain, [Plain(), Plain(tags=frozenset())]), (Holder, [Holder(plain=Plain(), more=[Plain(colour=Colour.BLUE)])]),
        (Row, [Row(1), Row(2, "b")]), (Typed, [{"id": 1, "name": "a"}]), (Struct, [Struct(1, Inner(2)), Struct(2)]),
        (Inner, [Inner(number) for number in range(5000)]),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)  # fmt: skip
def test_every_supported_type_comes_back(tmp_path: Path, record_type: Any, records: list[Any]) -> None:
    assert round_trip(tmp_path, record_type, records) == (records, [])


@pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip", "none"])
def test_every_compression_is_readable(tmp_path: Path, compression: Any) -> None:
    assert round_trip(tmp_path, Inner, [Inner(1)], compression=compression)[0] == [Inner(1)]


def test_narrow_floats_halve_the_vectors(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Vector:
        values: list[float]

    found, _ = round_trip(tmp_path, Vector, [Vector([0.5, 0.1])], float_type="float32")
    assert found[0].values == pytest.approx([0.5, 0.1])
    part = next((tmp_path / "out").glob("*.parquet"))
    assert str(pq.read_schema(part).field("values").type) == "list<element: float>"


def test_a_time_without_zone_is_read_back_as_utc(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Event:
        when: datetime.datetime

    found, _ = round_trip(tmp_path, Event, [Event(datetime.datetime(2020, 1, 1, 12))])
    assert found == [Event(datetime.datetime(2020, 1, 1, 12, tzinfo=UTC))]


def test_records_that_do_not_fit_are_refused_alone(tmp_path: Path) -> None:
    records: list[Any] = [Inner(number) for number in range(5000)]
    bad = {
        0: Inner("x"),
        17: Inner(2**70),
        2047: Inner(1, 5),
        2048: Inner(1, "\ud800"),
        4999: "no record at all",
    }  # type: ignore[arg-type]
    for index, record in bad.items():
        records[index] = record
    found, refused = round_trip(tmp_path, Inner, records)
    assert found == [Inner(number) for number in range(5000) if number not in bad]
    assert [place for place, _ in refused] == sorted(bad)


def test_many_misfits_cost_no_more_than_their_number(tmp_path: Path) -> None:
    records: list[Any] = [Inner("x" if number % 100 == 0 else number) for number in range(10_000)]  # type: ignore[arg-type]
    started = time.perf_counter()
    found, refused = round_trip(tmp_path, Inner, records)
    assert (len(found), len(refused)) == (9900, 100)
    assert time.perf_counter() - started < 5


def test_a_field_that_the_type_does_not_declare_is_not_dropped_in_silence(tmp_path: Path) -> None:
    records = [{"id": 1, "name": "a"}, {"id": 2, "name": "b", "more": 3}]
    assert round_trip(tmp_path, Typed, records) == (records[:1], [(1, "ValueError")])


class Tree(pydantic.BaseModel):
    children: list[Tree] = []


@dataclasses.dataclass
class Nothing:
    pass


@pytest.mark.parametrize(
    ("record_type", "words"),
    [
        (int, "int has no named fields"), (dict[str, int], "no named fields"), (Nothing, "no fields"), (Tree, "holds itself"),
        (dataclasses.make_dataclass("Loose", [("meta", dict)]), "'meta' of type dict"),
        (dataclasses.make_dataclass("Open", [("meta", Any)]), "'meta' of type Any"),
        (dataclasses.make_dataclass("Mixed", [("either", int | str)]), "'either'"),
        (dataclasses.make_dataclass("Keyed", [("by", dict[int, str])]), "'by'"),
    ],
)  # fmt: skip
def test_a_type_without_columns_is_refused_before_anything_runs(record_type: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        ParquetSink("out").check_type(record_type)


SCRIPT = """
import sys
from test_types import Every, Plain
from funcpipe_prefect.ir import Split
from funcpipe_prefect.sinks import ParquetSink
for tp in (Every, Plain):
    print(ParquetSink(sys.argv[1]).write(Split("s"), iter([(0, tp())]), tp, print).sha256)
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "test_types.py").write_text(Path(__file__).read_text())
    prints = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / seed)], cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for seed in ("0", "1", "2")
    }  # fmt: skip
    assert len(prints) == 1

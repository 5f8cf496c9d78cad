"""Each codec gives back every record it takes, with its position, and hands back what it cannot keep."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import io
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import pyarrow as pa
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funcpipe_prefect.schema import canonical_encoder
from funcpipe_prefect.store import PartitionStore
from funcpipe_prefect.store.codecs import partition_codec

CODECS = ["msgpack", "arrow", "pickle"]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    position: int
    msgpack: str | None


@dataclass
class Everything:
    """Field names that the codec uses itself must do no harm."""

    position: int
    msgpack: bytes
    text: str
    flag: bool
    number: float
    maybe: int | None
    vector: list[float]
    tags: set[str]
    pair: tuple[int, ...]
    inner: Inner
    inners: list[Inner]
    table: dict[str, int]
    when: datetime.datetime
    day: datetime.date
    hour: datetime.time
    span: datetime.timedelta
    price: decimal.Decimal
    id: uuid.UUID
    colour: Colour


class Named(NamedTuple):
    a: int
    b: str | None = None


class Typed(TypedDict):
    a: int
    b: list[str]


class Model(pydantic.BaseModel):
    a: int
    when: datetime.datetime
    tags: list[str]


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
INTS = st.integers(-(2**63), 2**63 - 1)
ZONES = st.one_of(
    st.none(),
    st.integers(-1439, 1439).map(lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes))),
)
RECORDS: dict[Any, st.SearchStrategy[Any]] = {
    Everything: st.builds(
        Everything,
        position=INTS,
        msgpack=st.binary(max_size=9),
        text=TEXT,
        number=st.floats(allow_nan=False),
        maybe=st.none() | INTS,
        vector=st.lists(st.floats(allow_nan=False), max_size=4),
        tags=st.sets(TEXT, max_size=3),
        pair=st.lists(INTS, max_size=3).map(tuple),
        inner=st.builds(Inner, INTS, st.none() | TEXT),
        inners=st.lists(st.builds(Inner, INTS, st.none() | TEXT), max_size=2),
        table=st.dictionaries(TEXT, INTS, max_size=3),
        when=st.datetimes(timezones=ZONES),
        span=st.timedeltas(datetime.timedelta(days=-10_000), datetime.timedelta(days=10_000)),
        price=st.decimals(allow_nan=False, allow_infinity=False),
    ),
    Named: st.builds(Named, INTS, st.none() | TEXT),
    Typed: st.fixed_dictionaries({"a": INTS, "b": st.lists(TEXT, max_size=3)}),
    Model: st.builds(Model, a=INTS, when=st.datetimes(), tags=st.lists(TEXT, max_size=3)),
}


def refuse(position: int, record: Any, error: Exception) -> None:
    raise AssertionError(f"{record!r} at {position} was refused: {error}")


def through(
    codec: Any, tp: Any, located: list[tuple[int, Any]], reject: Any = refuse
) -> list[tuple[int, Any]]:
    file = _Unclosed()
    partition_codec(codec, tp).write(file, located, reject)
    return list(partition_codec(codec, tp).read(io.BytesIO(file.getvalue())))


class _Unclosed(io.BytesIO):
    def close(self) -> None:
        """Keep the bytes."""


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("tp", list(RECORDS), ids=lambda tp: tp.__name__)
def test_records_come_back_equal_with_their_positions(codec: str, tp: Any) -> None:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.tuples(INTS, RECORDS[tp]), max_size=5))
    def check(located: list[tuple[int, Any]]) -> None:
        back = through(codec, tp, located)
        assert back == located
        canonical = canonical_encoder(tp)
        assert [canonical(record) for _, record in back] == [canonical(record) for _, record in located]
        assert [type(record) for _, record in back] == [type(record) for _, record in located]

    check()


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 5000])
def test_arrow_keeps_any_number_of_records_over_its_batches(count: int) -> None:
    located = [(index * 3, Named(index, "x" if index % 2 else None)) for index in range(count)]
    assert through("arrow", Named, located) == located


def test_an_arrow_partition_is_an_arrow_stream_that_any_reader_opens(tmp_path: Path) -> None:
    store = PartitionStore(str(tmp_path))
    stored = store.write("ab" * 32, [(7, Inner(1, "a")), (9, Inner(2, None))], Inner, refuse, "arrow")
    with pa.ipc.open_stream(next(tmp_path.rglob("*.fpp"))) as stream:
        table = stream.read_all()
    assert table.column(0).to_pylist() == [7, 9]
    assert table.column(1).to_pylist() == [1, 2]
    assert stored.codec == "arrow"
    assert list(store.read(stored, Inner)) == [(7, Inner(1, "a")), (9, Inner(2, None))]


@pytest.mark.parametrize("codec", ["msgpack", "arrow"])
def test_both_lossless_codecs_refuse_the_same_records_and_keep_the_rest(codec: str) -> None:
    """They share stage keys, so one must not keep a record that the other refuses."""

    @dataclasses.dataclass
    class Loose:
        number: int
        words: list[str]

    located: list[tuple[int, Any]] = [
        (0, Loose(1, ["a"])),
        (1, Loose(2**64 - 1, ["beyond a column of 64 bits with sign"])),
        (2, Loose(2**70, ["beyond MessagePack"])),
        (3, Loose(1.5, ["not what was declared"])),  # type: ignore[arg-type]
        (4, Loose(1, ("a",))),  # type: ignore[arg-type]
        (5, Loose(None, ["x"])),  # type: ignore[arg-type]
        (6, Loose(1, ["\ud800"])),
        (7, {"number": 1, "words": []}),
        (8, Loose(True, [])),
        (9, Loose(3, ["z"])),
    ]
    refused: list[int] = []
    back = through(codec, Loose, located, lambda position, record, error: refused.append(position))
    assert back == [located[0], located[1], (4, Loose(1, ["a"])), (7, Loose(1, [])), located[9]]
    assert refused == [2, 3, 5, 6, 8]


def test_pickle_keeps_what_the_others_refuse_and_hands_back_what_cannot_be_pickled() -> None:
    refused: list[int] = []
    located = [(0, (1, 2)), (1, lambda: None), (2, {3: {4}})]
    back = through("pickle", Any, located, lambda position, record, error: refused.append(position))
    assert (back, refused) == ([(0, (1, 2)), (2, {3: {4}})], [1])


@pytest.mark.parametrize("tp", [Any, str, dict[str, int], list[Inner]], ids=str)
def test_arrow_wants_named_fields(tp: Any) -> None:
    with pytest.raises(TypeError, match="field"):
        partition_codec("arrow", tp)

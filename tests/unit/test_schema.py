"""Record types: one canonical encoding, codecs that lose nothing, or say what they would lose."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import os
import subprocess
import sys
import uuid
import zoneinfo
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from funcpipe_prefect.schema import (
    Approximate,
    canonical_encoder,
    canonical_list_encoder,
    coerce,
    fields_of,
    json_codec,
    store_codec,
    type_name,
)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Inner:
    x: int
    y: float = 0.5


@dataclasses.dataclass
class Doc:
    name: str
    inner: Inner | None = None
    tags: tuple[str, ...] = ()
    pair: tuple[int, str] = (1, "a")
    words: frozenset[str] = frozenset()
    data: bytes = b""
    colour: Colour = Colour.RED
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    by_id: dict[int, str] = dataclasses.field(default_factory=dict)


class Model(pydantic.BaseModel):
    name: str
    inner: Inner | None = None
    words: set[str] = set()
    data: bytes = b""
    when: datetime.datetime | None = None


class Typed(TypedDict, total=False):
    name: str
    pair: tuple[int, int]


class Row(NamedTuple):
    id: int
    name: str = "n"


class Record(msgspec.Struct):
    name: str
    inner: Inner | None = None


@dataclasses.dataclass
class HoldsModel:
    model: Model
    path: Path = Path("a")


encode = canonical_encoder()
JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"))
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(codec="utf-8"), max_size=4) | st.integers(), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def test_a_record_is_the_same_as_instance_dict_model_or_struct() -> None:
    inner = {"y": 0.5, "x": 1}
    plain = {"inner": inner, "name": "a"}
    expected = encode(plain)
    assert encode({"name": "a", "inner": {"x": 1, "y": 0.5}}) == expected
    assert encode(Record("a", Inner(1))) == expected

    @dataclasses.dataclass
    class Other:
        inner: Inner
        name: str

    class Third(pydantic.BaseModel):
        name: str
        inner: Inner

    assert encode(Other(Inner(1), "a")) == expected
    assert encode(Third(name="a", inner=Inner(1))) == expected


@given(st.dictionaries(st.text(st.characters(codec="utf-8")) | st.integers(), JSON_LIKE), st.randoms())
def test_the_order_of_keys_changes_no_digest(record: dict[Any, Any], chance: Any) -> None:
    items = list(record.items())
    chance.shuffle(items)
    assert encode(dict(items)) == encode(record)


@given(JSON_LIKE, JSON_LIKE)
def test_different_records_differ(one: Any, other: Any) -> None:
    if repr(one) != repr(other) and one != other:
        assert encode(one) != encode(other)


DIFFERENT = [
    (None, float("nan")), (None, ""), (None, 0), (0, False), (1, "1"), (b"a", "a"), ([], {}), ([1, 2], [2, 1]),
    (2**70, 2**70 + 1), (2**70, str(2**70)), (-(2**70), 2**70), ({"n": 2**70}, {"n": {"__int__": str(2**70)}}),
    ({1: "a"}, {"1": "a"}), ({1: "a"}, [[1, "a"]]), ([b"a", 2**70], ["YQ==", 2**70]), ({1: 2, 3: 4}, {1: 4, 3: 2}),
    ({"a": b"a"}, {"a": "YQ=="}),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=repr)
def test_values_that_look_alike_are_not_one_record(one: Any, other: Any) -> None:
    assert encode(one) != encode(other)


@pytest.mark.parametrize(
    "value",
    [
        2**70, -(2**70), {"deep": [{"n": 2**64}]}, {2**70: 1}, {1: "a", "b": 2}, {(1, 2): 3}, {1, "a", None},
        frozenset({frozenset({1})}), {Inner.__name__: Inner(1)}, Level.LOW, datetime.datetime(2020, 1, 1),
        decimal.Decimal("1.50"), uuid.UUID(int=1), Path("a/b"), [Model(name="a")], {Level.LOW: 1},
    ],
    ids=lambda value: type(value).__name__,  # the order of a set's elements is chance
)  # fmt: skip
def test_what_python_programs_hold_has_an_encoding(value: Any) -> None:
    assert encode(value) == encode(value)


def test_numbers_of_numpy_and_strings_of_parsers_count_as_what_they_are() -> None:
    numpy = pytest.importorskip("numpy")

    class Navigable(str):  # as BeautifulSoup's
        pass

    record = {"a": numpy.float64(0.5), "b": numpy.int64(3), "c": numpy.array([1, 2]), "d": Navigable("x")}
    plain = {"a": 0.5, "b": 3, "c": [1, 2], "d": "x"}
    assert encode(record) == encode(plain)
    assert json_codec().encode(record) == json_codec().encode(plain)


def test_a_lone_surrogate_or_an_object_is_refused_not_changed() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode({"a": "\ud800"})
    with pytest.raises(TypeError, match="object values cannot be encoded"):
        encode({"a": object()})


def test_a_record_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RecursionError):
        encode(loop)


@dataclasses.dataclass
class Scored:
    name: str
    score: Annotated[float, Approximate(rel=1e-6)] = 0.0


@dataclasses.dataclass
class Page:
    title: str
    best: Scored | None
    hits: list[Scored]
    by_name: dict[str, Scored]
    next: Page | None = None


def test_approximate_fields_stay_out_at_any_depth() -> None:
    one, other = Scored("a", 1.0), Scored("a", 1.0000001)
    assert canonical_encoder(Scored)(one) == canonical_encoder(Scored)(other)
    assert canonical_encoder(Scored)(one) == canonical_encoder(Scored)({"name": "a", "score": 7.0})
    assert canonical_encoder(Scored)(one) != canonical_encoder(Scored)(Scored("b", 1.0))

    def page(hit: Scored) -> Page:
        return Page("t", hit, [hit, hit], {"k": hit}, Page("u", None, [hit], {}))

    assert canonical_encoder(Page)(page(one)) == canonical_encoder(Page)(page(other))
    assert canonical_encoder(Page)(page(one)) != canonical_encoder(Page)(page(Scored("b", 1.0)))
    assert canonical_encoder(list[Scored])([one]) == canonical_encoder(list[Scored])([other])


SCRIPT = """
import dataclasses, pydantic
from funcpipe_prefect.schema import canonical_encoder, json_codec, store_codec
class M(pydantic.BaseModel):
    words: set[str]
    more: dict[str, frozenset[str]] = {}
    deep: list[set[int]] = []
@dataclasses.dataclass
class D:
    words: frozenset[str]
words = frozenset("alpha beta gamma delta epsilon zeta eta theta".split())
for value, tp in ((M(words=words, more={"b": words, "a": words}, deep=[{9, 8, 7}]), M), (D(words), D)):
    print(canonical_encoder(tp)(value).hex(), json_codec(tp).encode(value), store_codec(tp).encode(value).hex())
print(canonical_encoder()({"w": words | {1, None}, "n": {1: words}}).hex())
print(json_codec().encode({"w": words | {1}, "n": {1: words}}))
"""


def test_sets_are_written_the_same_by_every_process() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for seed in ("0", "1", "2")
    }  # fmt: skip
    assert len(outputs) == 1


SURVIVORS = [
    (Doc, Doc("a", Inner(2**63 - 1, 1e300), ("x", "y"), (2, "b"), frozenset("abc"), b"\x00", Colour.RED, {"k": 1}, {3: "c"})),
    (Doc, Doc("", None)),
    (Model, Model(name="a", inner=Inner(1), words={"x"}, data=b"\xff\x00", when=datetime.datetime(2020, 1, 1))),
    (Typed, {"name": "a", "pair": (1, 2)}),
    (Typed, {}),
    (Row, Row(1, "x")),
    (Record, Record("a", Inner(1))),
    (HoldsModel, HoldsModel(Model(name="a"), Path("x/y"))),
    (list[Doc], [Doc("a")]),
    (tuple[int, str], (1, "a")),
    (int, 5), (str, "x"), (bytes, b"x"), (float, float("inf")),
    (decimal.Decimal, decimal.Decimal("1.50")), (uuid.UUID, uuid.UUID(int=7)), (datetime.date, datetime.date(2020, 1, 1)),
    (Any, {"a": [1, None, 2.5, "x", b"y", True], "b": {}}), (Any, {1: "a"}), (Any, None), (Any, 2**64 - 1),
]  # fmt: skip


@pytest.mark.parametrize(("tp", "record"), SURVIVORS, ids=lambda one: str(one)[:60])
def test_a_stored_record_comes_back_as_it_was(tp: Any, record: Any) -> None:
    codec = store_codec(tp)
    back = codec.decode(codec.encode(record))
    assert back == record
    assert type(back) is type(record)


@given(JSON_LIKE)
def test_any_plain_record_comes_back_or_is_refused(record: Any) -> None:
    codec = store_codec()
    try:
        data = codec.encode(record)
    except (TypeError, OverflowError):
        assert "1" in repr(record) or any(digit in repr(record) for digit in "23456789")
        return
    assert repr(codec.decode(data)) == repr(record)


def test_a_stored_record_with_nan_is_not_taken_for_a_changed_one() -> None:
    codec = store_codec()
    assert repr(codec.decode(codec.encode({"a": [float("nan")]}))) == "{'a': [nan]}"
    assert (
        repr(store_codec(Inner).decode(store_codec(Inner).encode(Inner(1, float("nan")))))
        == "Inner(x=1, y=nan)"
    )


def test_the_order_of_a_stored_dict_is_kept() -> None:
    codec = store_codec(dict[str, int])
    assert list(codec.decode(codec.encode({"b": 1, "a": 2}))) == ["b", "a"]
    assert list(store_codec().decode(store_codec().encode({"b": 1, "a": 2}))) == ["b", "a"]


@dataclasses.dataclass
class Loose:
    meta: dict[str, Any]


EAST = datetime.timezone(datetime.timedelta(hours=2))


@dataclasses.dataclass
class Moment:
    when: datetime.datetime


REFUSED = [
    (Any, (1, 2), "tuple would come back as a list"),
    (Any, {"a": (1, 2)}, "tuple would come back as a list"),
    (Any, Doc("a"), "Doc would come back as a dict"),
    (Any, {"a": {1, 2}}, "set would come back as a list"),
    (Any, {"a": Level.LOW}, "Level would come back as a int"),
    (Any, {"a": datetime.datetime(2020, 1, 1)}, "datetime would come back as a str"),
    (Loose, Loose({"when": datetime.datetime(2020, 1, 1)}), "datetime would come back as a str"),
    (Loose, Loose({"pair": (1, 2)}), "tuple would come back as a list"),
    (Doc, Doc(None), "does not fit its declared type Doc: Expected `str`"),  # type: ignore[arg-type]
    (Doc, {"name": "a"}, "dict would come back as a Doc"),
    (Typed, {"name": "a", "more": 1}, "other keys"),
    (Any, {"t": datetime.datetime(2026, 1, 1, tzinfo=EAST)}, "would come back as"),
    (Moment, Moment(datetime.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Rome"))), "time zone Europe/Rome"),
]  # fmt: skip


@pytest.mark.parametrize(("tp", "record", "words"), REFUSED, ids=lambda one: str(one)[:50])
def test_a_record_that_would_come_back_changed_is_refused_where_it_is_written(
    tp: Any, record: Any, words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        store_codec(tp).encode(record)


def test_an_integer_in_a_float_field_is_no_reason_to_refuse_a_record() -> None:
    codec = store_codec(Inner)
    assert codec.decode(codec.encode(Inner(1, 2))) == Inner(1, 2.0)


@pytest.mark.parametrize("zone", [None, datetime.timezone.utc, EAST], ids=str)
def test_a_moment_comes_back_with_its_offset(zone: datetime.timezone | None) -> None:
    record = Moment(datetime.datetime(2026, 1, 1, 12, tzinfo=zone))
    codec = store_codec(Moment)
    back = codec.decode(codec.encode(record))
    assert (back, back.when.utcoffset()) == (record, record.when.utcoffset())


def test_a_digest_is_the_same_before_and_behind_a_materialization_point() -> None:
    encode = canonical_encoder(Inner)
    stored = store_codec(Inner).decode(store_codec(Inner).encode(Inner(1, 2)))
    assert encode(Inner(1, 2)) == encode(stored) == encode(Inner(1, 2.0))
    assert encode(Inner(1, 2)) != encode(Inner(1, 2.5))


def test_what_a_type_does_not_declare_stays_in_the_digest() -> None:
    class Score(TypedDict):
        score: float

    encode = canonical_encoder(Score)
    assert encode({"score": 1, "more": 1}) != encode({"score": 1})
    assert encode({"score": True}) != encode({"score": 1})


def test_an_approximate_float_beside_an_exact_one_changes_nothing() -> None:
    @dataclasses.dataclass
    class Mixed:
        exact: float
        about: Annotated[float, Approximate()]

    encode = canonical_encoder(Mixed)
    assert encode(Mixed(1, 2)) == encode(Mixed(1.0, 2.5)) != encode(Mixed(3, 2))


def test_a_model_with_aliases_and_urls_survives_the_store() -> None:
    class Aliased(pydantic.BaseModel):
        id: int = pydantic.Field(alias="_id")
        url: pydantic.HttpUrl

    record = Aliased(_id=1, url="http://example.org/a")  # type: ignore[arg-type]
    codec = store_codec(Aliased)
    assert codec.decode(codec.encode(record)) == record
    assert canonical_encoder(Aliased)(record) == encode({"id": 1, "url": "http://example.org/a"})


def test_a_model_whose_validator_changes_its_own_output_is_refused() -> None:
    class Growing(pydantic.BaseModel):
        n: int

        @pydantic.field_validator("n")
        @classmethod
        def _more(cls, value: int) -> int:
            return value + 1

    with pytest.raises(TypeError, match="come back as 3"):
        store_codec(Growing).encode(Growing(n=1))


@given(JSON_LIKE)
def test_json_lines_are_deterministic_and_never_hold_a_newline(record: Any) -> None:
    line = json_codec().encode(record)
    assert b"\n" not in line
    if isinstance(record, dict):
        assert json_codec().encode(dict(reversed(record.items()))) == line


@pytest.mark.parametrize(
    ("tp", "record"),
    [
        (Doc, SURVIVORS[0][1]), (Model, Model(name="a", data=b"text", words={"x", "y"})), (Row, Row(1, "b")),
        (Typed, {"name": "a"}), (Record, Record("a")), (HoldsModel, HoldsModel(Model(name="a"))),
        (dict[int, str], {10: "b", 9: "a"}), (int, 2**80),
    ],
)  # fmt: skip
def test_json_comes_back_as_it_was(tp: Any, record: Any) -> None:
    codec = json_codec(tp)
    assert codec.decode(codec.encode(record)) == record


def test_a_named_tuple_is_read_from_and_written_to_objects() -> None:
    assert json_codec(Row).encode(Row(1)) == b'{"id":1,"name":"n"}'
    assert json_codec(Row).decode(b'{"id":1}') == Row(1, "n")
    assert coerce({"id": 3, "name": "x"}, Row) == Row(3, "x")
    with pytest.raises(ValueError, match="missing required field `id`"):
        json_codec(Row).decode(b'{"name":"x"}')


def test_coerce_leaves_an_instance_alone_and_validates_a_mapping() -> None:
    doc = Doc("a")
    assert coerce(doc, Doc) is doc
    assert coerce({"name": "a"}, Doc) == doc
    assert coerce({"name": "a"}, Model) == Model(name="a")
    with pytest.raises(ValueError, match=r"Expected `str`, got `int` - at `\$.name`"):
        coerce({"name": 1}, Doc)
    with pytest.raises(ValueError, match="name"):
        coerce({}, Model)


def test_fields_are_the_record_s_own() -> None:
    @dataclasses.dataclass
    class WithClassVar:
        limit: dataclasses.InitVar[int]
        name: str = ""

    assert list(fields_of(Model)) == ["name", "inner", "words", "data", "when"]
    assert list(fields_of(Record)) == ["name", "inner"]
    with pytest.raises(TypeError, match="int has no named fields"):
        fields_of(int)


@pytest.mark.parametrize(
    ("tp", "name"),
    [(Any, "Any"), (None, "None"), (Doc, "Doc"), (list[Doc], f"list[{__name__}.Doc]"), (int, "int")],
)
def test_types_have_the_names_that_a_pipeline_file_uses(tp: Any, name: str) -> None:
    assert type_name(tp).endswith(name.rpartition(".")[2])


@dataclasses.dataclass
class Vectors:
    one: float
    many: list[float]


def test_integers_and_floats_that_are_equal_have_one_digest_wherever_floats_are_declared() -> None:
    encode = canonical_encoder(Vectors)
    as_floats = encode(Vectors(1.0, [2.0, 3.0]))
    for record in (Vectors(1, [2.0, 3.0]), Vectors(1.0, [2.0, 3]), Vectors(1.0, [2, 3]), Vectors(1, [2, 3])):
        assert encode(record) == as_floats
    assert encode(Vectors(1.0, [2.0, 3.5])) != as_floats
    for odd in (Vectors(None, []), Vectors(1.0, None), Vectors(1.0, (2.0,)), Vectors(True, ["x"])):  # type: ignore[arg-type]
        assert encode(odd) == encode(dataclasses.replace(odd)), "what does not fit its type has an encoding"


@dataclasses.dataclass
class Mapped:
    name: str
    more: dict[str, float]


ODD = st.one_of(st.floats(), st.integers(-5, 5), st.none(), st.text(max_size=2), st.booleans())
MANY = st.one_of(st.lists(st.one_of(st.floats(), st.integers()), max_size=4), ODD, st.tuples(st.floats()))
ANY_VECTORS = st.one_of(
    st.builds(Vectors, ODD, MANY),
    st.builds(Vectors, st.floats(), st.lists(st.floats(), max_size=4)),
    st.builds(lambda one: {"one": one, "many": [one]}, st.floats()),
)


def taken_in_one_go(records: list[Any]) -> list[bytes] | None:
    try:
        found = canonical_list_encoder(Vectors)(records)
        return None if found is None else [*found]
    except Exception:  # left to the encoder of one, too
        return None


@given(st.lists(ANY_VECTORS, max_size=5))
def test_a_list_of_records_has_the_bytes_of_each_or_is_left_to_the_encoder_of_one(records: list[Any]) -> None:
    found = taken_in_one_go(records)
    if found is not None:
        assert found == [canonical_encoder(Vectors)(one) for one in records]
        assert all(type(one) is Vectors for one in records)


def test_lists_of_plain_records_are_taken_in_one_go_and_types_with_rules_of_their_own_are_not() -> None:
    plain = [Vectors(1.0, [2.0]), Vectors(0.5, [])]
    assert taken_in_one_go(plain) is not None
    assert canonical_list_encoder(Inner)([Inner(1, 2.0)]) is not None
    for tp, one in ((Scored, Scored("a")), (Mapped, Mapped("a", {})), (Any, 1), (Model, None)):
        assert canonical_list_encoder(tp)([one]) is None


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 65_535, 65_536])
def test_integers_among_floats_are_seen_whatever_their_size_and_number(count: int) -> None:
    many = [0.5] * count
    assert taken_in_one_go([Vectors(1.0, many)] * 3) is not None
    for odd in (1, 200, 1 << 20, 1 << 40, -1 << 40, (1 << 64) - 1, 1 << 80, True, None, "12345678"):
        for place in {0, count // 2, count}:
            changed = [*many]
            changed.insert(place, odd)
            assert taken_in_one_go([Vectors(1.0, many), Vectors(1.0, changed)]) is None
        assert taken_in_one_go([Vectors(odd, many)]) is None  # type: ignore[arg-type]

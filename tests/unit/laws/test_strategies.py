"""Strategies of record types: every field varies, every value fits its type and survives a store."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import math
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path, PurePath
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, TypeVar, Union

import annotated_types
import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import NotRequired, Required, TypeAliasType, TypedDict

from funcpipe_prefect.laws.strategies import mixed, strategy_for
from funcpipe_prefect.schema import Approximate, difference, store_codec

T = TypeVar("T")
Text = TypeVar("Text", bound=str)
Number = TypeVar("Number", int, float)
DocId = NewType("DocId", int)
Pairs = TypeAliasType("Pairs", list[tuple[str, int]])
few = settings(max_examples=20, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
search = settings(few, max_examples=2000, derandomize=True, phases=(Phase.generate,))
quick = settings(search, phases=(Phase.generate, Phase.shrink))


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Inner:
    x: int
    y: float = 0.5


@dataclasses.dataclass
class Doc:
    name: str
    _: dataclasses.KW_ONLY
    inner: Inner | None = None
    tags: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()
    colour: Colour = Colour.RED
    score: Annotated[float, Approximate(rel=1e-6)] = 0.0
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    size: int = dataclasses.field(default=7, init=False)


class Row(NamedTuple):
    id: int
    name: str = "n"


class Record(msgspec.Struct, kw_only=True):
    name: str = "n"
    rank: Annotated[int, msgspec.Meta(ge=1, le=9)]


class Loose(TypedDict, total=False):
    name: Required[str]
    pair: tuple[int, int]


class Strict(TypedDict):
    name: str
    note: NotRequired[str]


class Model(pydantic.BaseModel):
    name: Annotated[str, pydantic.Field(min_length=2, max_length=5)]
    rank: int = pydantic.Field(default=3, gt=0, lt=10, alias="Rank")
    price: decimal.Decimal = pydantic.Field(default=decimal.Decimal(0), ge=0, le=1)
    code: str = pydantic.Field(default="a1", pattern=r"^[a-z]\d$")
    tags: set[str] = set()
    inner: Inner | None = None
    extra: pydantic.JsonValue = None
    url: pydantic.HttpUrl | None = None


class Range(pydantic.BaseModel):
    low: int
    high: int

    @pydantic.model_validator(mode="after")
    def ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class Labels(pydantic.RootModel[dict[str, int]]):
    pass


class Renamed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True, alias_generator=str.upper)

    count: int = 0


class Chosen(pydantic.BaseModel):
    count: int = pydantic.Field(validation_alias=pydantic.AliasChoices("n", "number"))


class FromPath(pydantic.BaseModel):
    count: int = pydantic.Field(default=0, validation_alias=pydantic.AliasPath("a", "b"))


@pydantic_dataclass
class Checked:
    rank: int = pydantic.Field(default=1, ge=1, le=3)


@dataclasses.dataclass
class Even:
    n: int

    def __post_init__(self) -> None:
        if self.n % 2:
            raise ValueError("odd")


@dataclasses.dataclass
class Box(Generic[T]):
    item: T
    more: list[T | None]


@dataclasses.dataclass
class Node:
    value: int
    children: list[Node]
    next: Node | None = None


class Tree(pydantic.BaseModel):
    name: str
    children: list[Tree] = []
    owner: Owner | None = None


class Owner(pydantic.BaseModel):
    trees: dict[str, Tree]


@dataclasses.dataclass
class Sum:
    left: Sum | Product | int
    right: Sum | Product | int


@dataclasses.dataclass
class Product:
    factors: Annotated[list[Sum | Product | int], annotated_types.MinLen(1)]


@dataclasses.dataclass
class Endless:
    next: Endless


class Untold:
    def __init__(self, value):  # type: ignore[no-untyped-def]
        self.value = value


@dataclasses.dataclass
class HoldsUntold:
    parts: list[tuple[str, Untold]]


KEPT = [
    None, bool, int, float, str, bytes, Literal["a", 1, None], Optional[int], int | str, Union[None, str, list[int]],  # noqa: UP007, UP045
    Annotated[float, Approximate()], Annotated[int, "a doc"], list[int], list[list[str]], tuple[int, str],
    tuple[int, ...], tuple[()], set[str], frozenset[int], AbstractSet[int], dict[str, int], dict[int, list[str]],
    Mapping[str, Any], Sequence[int], MutableSequence[int], typing.List[int], typing.Dict[str, float],  # noqa: UP006
    Colour, Level, Doc, Row, Record, Loose, Strict, Model, Range, Labels, Checked, Even, Box[int], Box[str],
    Node, Tree, DocId, list[DocId], Any, dict, list, tuple, set, frozenset, list[Any], dict[str, Any],
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID, Path, PurePath,
    list[Doc | None], dict[str, list[Range]], tuple[Row, Strict],
]  # fmt: skip


@pytest.mark.parametrize("tp", KEPT, ids=str)
def test_what_is_drawn_comes_back_from_the_store_as_it_was(tp: Any) -> None:
    codec = store_codec(tp)

    @few
    @given(strategy_for(tp))
    def check(value: Any) -> None:
        assert difference(value, codec.decode(codec.encode(value))) == ""

    check()


def drawn(tp: Any, condition: Callable[[Any], bool], own: Mapping[Any, st.SearchStrategy[Any]] = {}) -> Any:
    """Find the simplest value of a type for which something is so."""
    return find(strategy_for(tp, own), condition, settings=quick)


def shown(part: Any) -> str:
    return "" if isinstance(part, types.FunctionType) else str(part)


VARIES: list[tuple[Any, Callable[[Any], bool]]] = [
    (bool, lambda value: value),
    (int, lambda value: value < 0),
    (int, lambda value: value > 2**53),
    (float, lambda value: value % 1 != 0),
    (str, lambda value: " " in value),
    (str, lambda value: "the" in value),
    (str, lambda value: "\n\n" in value),
    (str, lambda value: any(ord(char) > 0xFFFF for char in value)),
    (str, lambda value: any(ord(char) < 32 and not char.isspace() for char in value)),
    (bytes, lambda value: len(value) > 3),
    (Literal["a", "b"], lambda value: value == "b"),
    (int | None, lambda value: value is not None),
    (int | None, lambda value: value is None),
    (list[int], lambda value: len(value) == 4),
    (tuple[int, ...], lambda value: len(value) == 2),
    (dict[str, int], lambda value: len(value) == 3),
    (set[int], lambda value: len(value) == 3),
    (set, lambda value: None in value and "" in value),
    (Colour, lambda value: value is Colour.BLUE),
    (Doc, lambda value: value.name != ""),
    (Doc, lambda value: value.inner is not None and value.inner.y != 0.5),
    (Doc, lambda value: len(value.tags) > 1),
    (Doc, lambda value: len(value.words) > 1),
    (Doc, lambda value: value.colour is Colour.BLUE),
    (Doc, lambda value: value.score != 0),
    (Doc, lambda value: len(value.counts) > 1),
    (Row, lambda value: value.name != "n"),
    (Record, lambda value: value.name != "n"),
    (Loose, lambda value: "pair" in value),
    (Loose, lambda value: "pair" not in value),
    (Strict, lambda value: "note" in value),
    (Strict, lambda value: "note" not in value),
    (Model, lambda value: value.rank == 7),
    (Model, lambda value: "rank" not in value.model_fields_set),
    (Model, lambda value: 0 < value.price < 1),
    (Model, lambda value: value.code != "a1"),
    (Model, lambda value: len(value.tags) > 1),
    (Model, lambda value: value.inner is not None),
    (Model, lambda value: isinstance(value.extra, dict)),
    (Model, lambda value: value.url is not None and value.url.host != "0.org"),
    (Range, lambda value: value.low < value.high),
    (Labels, lambda value: len(value.root) > 1),
    (Renamed, lambda value: value.count != 0),
    (Chosen, lambda value: value.count != 0),
    (Checked, lambda value: value.rank == 3),
    (Box[int], lambda value: value.item > 0 and None in value.more),
    (Node, lambda value: value.next is not None),
    (Node, lambda value: len(value.children) > 1),
    (Tree, lambda value: value.owner is not None and bool(value.owner.trees)),
    (Sum, lambda value: isinstance(value.left, Product) and isinstance(value.right, Sum)),
    (Pairs, lambda value: len(value) > 1),
    (Text, lambda value: value == "the"),
    (Number, lambda value: isinstance(value, float)),
    (Any, lambda value: isinstance(value, dict) and any(isinstance(one, list) for one in value.values())),
    (datetime.datetime, lambda value: value.year > 2000),
    (datetime.timedelta, lambda value: value < datetime.timedelta(days=-400)),
    (decimal.Decimal, lambda value: value % 1 != 0),
    (fractions.Fraction, lambda value: value.denominator > 1),
    (Path, lambda value: len(value.parts) > 1),
    (collections.deque[int], lambda value: len(value) > 1),
    (Iterable[int], lambda value: len(value) > 1),
    (complex, lambda value: value.imag != 0),
]


@pytest.mark.parametrize(("tp", "condition"), VARIES, ids=shown)
def test_every_field_differs_from_its_default_now_and_then(tp: Any, condition: Callable[[Any], bool]) -> None:
    assert condition(find(strategy_for(tp), condition, settings=search))


SIMPLEST = [
    (None, None), (int, 0), (float, 0.0), (str, ""), (bytes, b""), (int | None, None), (str | int, ""),
    (list[str], []), (dict[str, int], {}), (Any, None), (Colour, Colour.RED), (Doc, Doc("")), (Row, Row(0, "")),
    (Loose, {"name": ""}), (Renamed, Renamed()), (Node, Node(0, [])), (Path, Path()),
]  # fmt: skip


@pytest.mark.parametrize(("tp", "simplest"), SIMPLEST, ids=str)
def test_a_counter_example_shrinks_to_the_simplest_value(tp: Any, simplest: Any) -> None:
    assert drawn(tp, lambda _: True) == simplest


def test_a_counter_example_keeps_only_what_matters() -> None:
    assert drawn(str, lambda text: "the" in text) == "the"
    assert drawn(Doc, lambda doc: "a" in doc.words) == Doc("", words=frozenset({"a"}))
    assert drawn(list[Inner], lambda items: any(item.y > 2 for item in items)) == [Inner(0, 3.0)]
    assert drawn(Node, lambda node: bool(node.children)) == Node(0, [Node(0, [])])


@few
@given(strategy_for(list[Any]), strategy_for(tuple[int, float, str, datetime.datetime]))
def test_values_are_such_as_any_store_keeps(
    plain: list[Any], row: tuple[int, float, str, datetime.datetime]
) -> None:
    number, fraction, text, when = row
    assert -(2**63) <= number < 2**63
    assert math.isfinite(fraction)
    text.encode()
    assert when.tzinfo is None
    assert when.fold == 0
    assert difference(plain, msgspec.json.decode(msgspec.json.encode(plain))) == ""


BOUNDED: list[tuple[Any, Callable[[Any], bool]]] = [
    (Annotated[int, annotated_types.Gt(10**12), annotated_types.Le(10**12 + 5)], lambda n: n > 10**12),
    (Annotated[int, pydantic.Field(multiple_of=5, ge=0, le=50)], lambda n: n % 5 == 0),
    (Annotated[int, annotated_types.MultipleOf(1024)], lambda n: n % 1024 == 0),
    (Annotated[float, annotated_types.Interval(gt=0, lt=1e-9)], lambda x: 0 < x < 1e-9),
    (Annotated[decimal.Decimal, annotated_types.Ge(2), annotated_types.Lt(3)], lambda x: 2 <= x < 3),
    (Annotated[datetime.date, annotated_types.Ge(datetime.date(2024, 2, 1))], lambda day: day.year >= 2024),
    (Annotated[str, annotated_types.Len(20, 30)], lambda text: 20 <= len(text) <= 30),
    (Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Z]{2}\d$")], lambda text: text[:2].isupper()),
    (Annotated[bytes, annotated_types.MaxLen(1)], lambda data: len(data) <= 1),
    (Annotated[list[int], annotated_types.MinLen(7)], lambda items: len(items) >= 7),
    (Annotated[set[str], msgspec.Meta(min_length=2)], lambda items: len(items) >= 2),
    (Annotated[dict[str, int], annotated_types.MaxLen(1)], lambda items: len(items) <= 1),
    (Annotated[int | None, annotated_types.Gt(0)], lambda n: n is None or n > 0),
    (Annotated[str, st.just("given")], lambda text: text == "given"),
    (list[Annotated[int, pydantic.Field(ge=1, le=3)]], lambda items: all(1 <= n <= 3 for n in items)),
    (Annotated[DocId, annotated_types.Lt(0)], lambda n: n < 0),
    (pydantic.UUID4, lambda one: one.version == 4),
    (pydantic.AwareDatetime, lambda when: when.tzinfo is not None),
]


@pytest.mark.parametrize(("tp", "keeps"), BOUNDED, ids=shown)
def test_bounds_of_a_type_are_kept(tp: Any, keeps: Callable[[Any], bool]) -> None:
    @few
    @given(strategy_for(tp))
    def check(value: Any) -> None:
        assert keeps(value), value

    check()


@few
@given(strategy_for(list[Range | Even]))
def test_what_a_class_refuses_is_not_drawn(items: list[Range | Even]) -> None:
    assert all(item.low <= item.high if isinstance(item, Range) else item.n % 2 == 0 for item in items)


def test_a_type_that_holds_itself_ends_and_stays_small() -> None:
    def size(node: Node) -> int:
        return 1 + sum(map(size, node.children)) + (size(node.next) if node.next else 0)

    sizes: list[int] = []

    @settings(few, max_examples=100)
    @given(strategy_for(Node))
    def check(node: Node) -> None:
        sizes.append(size(node))

    check()
    assert max(sizes) > 4
    assert sum(sizes) / len(sizes) < 20


def test_own_strategies_win_wherever_their_type_stands() -> None:
    own = {
        str: st.just("mine"),
        Inner: st.just(Inner(5)),
        int | None: st.just(9),
        Any: st.just("whatever"),
        Row: st.nothing(),
    }

    @few
    @given(strategy_for(tuple[Doc, Model, Box[int], dict[str, Any], Annotated[str, "doc"], Row | None], own))
    def check(values: tuple[Doc, Model, Box[int], dict[str, Any], str, Row | None]) -> None:
        doc, model, box, plain, text, row = values
        assert doc.name == model.name == text == "mine"
        assert set(doc.tags) | doc.words | set(doc.counts) | model.tags | set(plain) <= {"mine"}
        assert doc.inner in (None, Inner(5))
        assert model.inner in (None, Inner(5))
        assert set(box.more) <= {9}
        assert set(plain.values()) <= {"whatever"}
        assert row is None

    check()
    assert drawn(list[float], lambda values: bool(values), {float: st.just(math.inf)}) == [math.inf]


def test_own_strategies_make_up_for_types_without_one() -> None:
    assert drawn(HoldsUntold, lambda _: True, {Untold: st.builds(Untold, st.just(1))}) == HoldsUntold([])


IMPOSSIBLE = [
    (Untold, r"^no values of Untold can be made: give a strategy of your own for it$"),
    (HoldsUntold, r"^HoldsUntold\.parts: no values of Untold"),
    (list[HoldsUntold], r"^HoldsUntold\.parts: no values of Untold"),
    (Endless, r"no values of Endless can be made: each would have to hold another"),
    (FromPath, r"FromPath\.count: it is read from a path"),
    (set[list[int]], r"list\[int\] can be made: they cannot be hashed"),
    (dict[Doc, int], r"Doc can be made: they cannot be hashed"),
    (pydantic.PostgresDsn, "no values of PostgresDsn"),
    (Annotated[int, annotated_types.Gt(3), annotated_types.Lt(2)], "no values of int can be made"),
    (Annotated[list[int], annotated_types.Len(3, 2)], r"no values of list\[int\] can be made"),
    (Annotated[str, annotated_types.MinLen(5), pydantic.Field(pattern="(")], "no values of str can be made"),
    (collections.namedtuple("Plain", "a"), r"Plain\.a: its type is not told"),
    ("Missing", "no values of Missing"),
    ([int], r"no values of \[<class 'int'>\]"),
    (3, "no values of 3"),
]


@pytest.mark.parametrize(("tp", "message"), IMPOSSIBLE, ids=str)
def test_a_type_without_a_strategy_is_named_before_anything_is_drawn(tp: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        strategy_for(tp)


def test_a_type_whose_name_is_unknown_is_told() -> None:
    @dataclasses.dataclass
    class Lost:
        other: Hidden  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match="Lost: name 'Hidden' is not defined"):
        strategy_for(list[Lost])


def test_samples_and_their_type_are_both_drawn_from() -> None:
    values = mixed(str, ["a real document", "another"])
    assert find(values, lambda text: text.startswith("a real"), settings=quick) == "a real document"
    assert find(values, lambda _: True, settings=quick) == ""
    assert find(values, lambda text: "a" in text, settings=quick) == "a"


@pytest.mark.parametrize("tp", [Any, object, pydantic.JsonValue, Untold, Endless, HoldsUntold])
def test_samples_alone_are_drawn_when_the_type_tells_nothing(tp: Any) -> None:
    @few
    @given(mixed(tp, ["one", "two"]))
    def check(value: Any) -> None:
        assert value in ("one", "two")

    check()


def test_own_strategies_count_beside_samples() -> None:
    assert find(mixed(Any, ["one"], {Any: st.just("mine")}), lambda value: value == "mine") == "mine"
    assert find(mixed(Untold, ["one"], {Untold: st.just("mine")}), lambda value: value == "mine") == "mine"


def test_without_samples_the_type_alone_is_drawn_from() -> None:
    assert find(mixed(list[int], []), bool) == [0]
    with pytest.raises(TypeError, match="no values of Untold"):
        mixed(Untold, [])


def test_a_type_that_refuses_everything_ends_as_unsatisfiable_not_as_its_own_error() -> None:
    class Never:
        def __init__(self, size: int) -> None:
            raise RuntimeError(size)

    with pytest.raises(Unsatisfiable):
        drawn(Never, lambda _: True)


@few
@given(strategy_for(list[Colour]), st.data())
def test_a_strategy_serves_beside_others_of_hypothesis(colours: list[Colour], data: st.DataObject) -> None:
    assert all(isinstance(colour, Colour) for colour in colours)
    assert data.draw(strategy_for(Level)) in Level

"""A counter-example pasted into a test is the one that the law check found."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import math
import operator
import os
import pathlib
import random
import re
import sys
import threading
import types
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funcpipe_prefect.examples.rag import RawDoc, clean_doc
from funcpipe_prefect.laws.paste import Pasted, paste, pasted_test
from funcpipe_prefect.monoid import Counter, Product, Sum, TopK


class Color(enum.Enum):
    RED = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    LOW = 1


Odd = enum.Enum("Odd", {"a b": 1, "class": 2}, module=__name__)


class Outer:
    class Inner(enum.Enum):
        DEEP = 1

    @dataclasses.dataclass
    class Record:
        a: int


@dataclasses.dataclass(frozen=True)
class Doc:
    id: int
    text: str = "none"
    tags: list[str] = dataclasses.field(default_factory=list)
    length: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", len(self.text))

    @functools.cached_property
    def words(self) -> list[str]:
        return self.text.split()


@dataclasses.dataclass
class Link:
    label: float = 0.0
    next: Any = None


@dataclasses.dataclass
class Doubled:
    size: int

    def __post_init__(self) -> None:
        self.size *= 2


@dataclasses.dataclass
class Marked:
    tags: list[str]

    def __post_init__(self) -> None:
        self.tags.append("end")


@dataclasses.dataclass(slots=True)
class Slotted:
    a: int = 1
    b: str = ""


class Point(NamedTuple):
    x: int
    y: int = 0


class Row(msgspec.Struct):
    a: int
    b: list[int] = []


class Page(pydantic.BaseModel):
    number: int
    title: str = ""
    lines: list[str] = pydantic.Field(default_factory=list)


class Mail(pydantic.BaseModel):
    sender: str = pydantic.Field(alias="from")
    reply_to: str = pydantic.Field(default="", alias="reply-to")


class Upper(pydantic.BaseModel):
    text: str

    @pydantic.field_validator("text")
    @classmethod
    def grown(cls, text: str) -> str:
        return text + "!"


class Loose(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int = 0


class Tokens(list[str]):
    pass


class Table(dict[str, int]):
    pass


class Title(str):
    pass


class Cleaner:
    def __call__(self, text: str) -> str:
        return text.strip()

    @classmethod
    def made(cls) -> Cleaner:
        return cls()

    @staticmethod
    def plain(text: str) -> str:
        return text

    def __eq__(self, other: object) -> bool:
        return type(other) is Cleaner

    __hash__ = None  # type: ignore[assignment]


class Splitter:
    def __init__(self, size: int, *, overlap: int = 0) -> None:
        self.size, self.overlap = size, overlap

    def run(self, text: str) -> list[str]:
        return [text[: self.size]]

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class Hidden:
    def __init__(self, secret: int) -> None:
        self._secret = secret

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


def loudly(function: Callable[[str], str]) -> Callable[[str], str]:
    @functools.wraps(function)
    def call(text: str) -> str:
        return function(text).upper()

    return call


@loudly
def shout(text: str) -> str:
    return text


def adder(n: int) -> Callable[[int], int]:
    def add(x: int) -> int:
        return x + n

    return add


add_3 = adder(3)
halve = lambda x: x / 2  # noqa: E731


def back(pasted: Pasted, **names: Any) -> Any:
    """Evaluate an expression as a test does that imports what it says."""
    exec("\n".join(pasted.imports), names)
    return eval(pasted.expression, names)


moments = st.datetimes(timezones=st.none() | st.just(datetime.timezone.utc) | st.timezones())
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False) | st.dates() | moments | st.times() | st.timedeltas()
    | st.decimals(allow_nan=False) | st.fractions() | st.uuids()
    | st.sampled_from([Color.RED, Right.READ | Right.WRITE, Level.LOW, Outer.Inner.DEEP, *Odd])
    | st.builds(Point, st.integers(), st.integers()) | st.builds(Title, st.text())
    | st.builds(pathlib.PurePosixPath, st.text(st.characters(exclude_characters="\0")))
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(scalars, inner) | st.sets(scalars)
        | st.frozensets(scalars) | st.builds(Doc, st.integers(), st.text(), st.lists(inner))
        | st.builds(Slotted, inner) | st.builds(Row, inner) | st.builds(Link, inner, inner)
        | st.builds(Page, number=st.integers(), lines=st.lists(st.text())) | st.lists(inner).map(Tokens)
        | st.dictionaries(scalars, inner).map(collections.OrderedDict) | st.builds(collections.deque, st.lists(inner))
        | st.dictionaries(scalars, st.integers()).map(collections.Counter)
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(values)
def test_a_pasted_value_is_the_value(value: Any) -> None:
    pasted = paste(value)
    again = back(pasted)
    assert again == value
    assert type(again) is type(value)
    assert paste(again) == pasted


@given(st.text() | st.floats())
def test_a_float_or_text_keeps_every_bit(value: Any) -> None:
    again = back(paste(value))
    assert repr(again) == repr(value)


@pytest.mark.parametrize(
    ("value", "expression"),
    [
        (None, "None"),
        (float("nan"), 'float("nan")'),
        (-math.inf, 'float("-inf")'),
        ((), "()"),
        ((1,), "(1,)"),
        (set(), "set()"),
        ({10, 9, 2}, "{2, 9, 10}"),
        (frozenset({1}), "frozenset({1})"),
        (collections.Counter("aab"), "collections.Counter({'a': 2, 'b': 1})"),
        (collections.defaultdict(list, a=[1]), "collections.defaultdict(list, {'a': [1]})"),
        (Color.RED, "Color.RED"),
        (Odd["a b"], "Odd['a b']"),
        (Outer.Inner.DEEP, "Outer.Inner.DEEP"),
        (Right.READ | Right.WRITE, "Right(3)"),
        (datetime.date(2024, 2, 29), "datetime.date(2024, 2, 29)"),
        (
            datetime.datetime(2024, 1, 2, 3, 4, tzinfo=datetime.timezone.utc),
            "datetime.datetime(2024, 1, 2, 3, 4, tzinfo=datetime.timezone.utc)",
        ),
        (decimal.Decimal("1.50"), "decimal.Decimal('1.50')"),
        (fractions.Fraction(1, 3), "fractions.Fraction(1, 3)"),
        (uuid.UUID(int=0), "uuid.UUID('00000000-0000-0000-0000-000000000000')"),
        (pathlib.Path("a/b"), "pathlib.Path('a/b')" if os.name == "posix" else r"pathlib.Path('a\\b')"),
        (re.compile("a+", re.IGNORECASE), "re.compile('a+', 34)"),
        (Doc(0, "a"), "Doc(id=0, text='a')"),
        (Doc(0), "Doc(id=0)"),
        (Outer.Record(1), "Outer.Record(a=1)"),
        (Point(1), "Point(x=1)"),
        (Row(1), "Row(a=1)"),
        (Page(number=1, lines=["x"]), "Page(number=1, lines=['x'])"),
        (Mail(**{"from": "me", "reply-to": "you"}), "Mail(**{'from': 'me', 'reply-to': 'you'})"),
        (Upper(text="a"), "Upper.model_construct(text='a!')"),
        (Loose(a=1, b=2), "Loose(a=1, b=2)"),
        (Tokens(["a"]), "Tokens(['a'])"),
        (Table(a=1), "Table({'a': 1})"),
        (collections.deque([1], maxlen=2), "collections.deque([1], maxlen=2)"),
        (Cleaner(), "Cleaner()"),
        (Splitter(3), "Splitter(size=3)"),
        (Splitter(3, overlap=1), "Splitter(size=3, overlap=1)"),
        (Sum(), "Sum()"),
        (TopK(3), "TopK(k=3)"),
        (Product(Sum(), Counter()), "Product(Sum(), Counter())"),
        (zoneinfo.ZoneInfo("UTC"), "zoneinfo.ZoneInfo(key='UTC')"),
        (operator.itemgetter(1), "operator.itemgetter(1)"),
        (functools.partial(clean_doc), "functools.partial(clean_doc)"),
        (functools.partial(int, "ff", base=16), "functools.partial(int, 'ff', base=16)"),
    ],

)  # fmt: skip
def test_a_value_reads_as_its_author_would_write_it(value: Any, expression: str) -> None:
    assert paste(value).expression == expression
    if value == value and not isinstance(value, (functools.partial, operator.itemgetter)):
        assert back(paste(value)) == value


@pytest.mark.parametrize(
    ("value", "expression", "line"),
    [
        (clean_doc, "clean_doc", "from funcpipe_prefect.examples.rag import clean_doc"),
        (RawDoc, "RawDoc", "from funcpipe_prefect.examples.rag import RawDoc"),
        (Outer.Inner, "Outer.Inner", f"from {__name__} import Outer"),
        (Cleaner.plain, "Cleaner.plain", f"from {__name__} import Cleaner"),
        (Cleaner.made, "Cleaner.made", f"from {__name__} import Cleaner"),
        (Splitter(2).run, "Splitter(size=2).run", f"from {__name__} import Splitter"),
        (shout, "shout", f"from {__name__} import shout"),
        (shout.__wrapped__, "shout", f"from {__name__} import shout"),  # type: ignore[attr-defined]
        (add_3, "add_3", f"from {__name__} import add_3"),
        (halve, "halve", f"from {__name__} import halve"),
        (random.randint, "random.randint", "import random"),
        (numpy.sin, "numpy.sin", "import numpy"),
        (math.floor, "math.floor", "import math"),
    ],
)
def test_a_callable_is_imported_from_where_it_is_defined(value: Any, expression: str, line: str) -> None:
    assert paste(value) == Pasted(expression, frozenset({line}))


@pytest.mark.parametrize("value", [len, str.upper, "ab".upper, (5).bit_length, dict.fromkeys, ValueError])
def test_a_builtin_needs_no_import(value: Any) -> None:
    assert paste(value).imports == frozenset()
    assert back(paste(value)) == value


def test_what_a_test_defines_itself_is_named_and_not_imported() -> None:
    def clean(text: str) -> str:
        return text

    class Note(NamedTuple):
        text: str

    assert paste(clean) == Pasted("clean")
    assert paste([Note("a")]) == Pasted("[Note(text='a')]")
    assert back(paste(Note("a")), Note=Note) == Note("a")


def test_what_a_script_defines_is_named_and_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    script = types.ModuleType("__main__")
    exec("def clean(text): return text\nclass Doc: pass", vars(script))
    monkeypatch.setitem(sys.modules, "__main__", script)
    assert paste(script.clean) == Pasted("clean")
    assert paste(script.Doc()) == Pasted("Doc()")


def test_a_lambda_without_a_name_still_runs_in_the_pasted_test() -> None:
    assert back(paste(lambda x: x + 1))(2) == 3


@pytest.mark.parametrize(
    "alias",
    [list[int], int | None, Literal["a"], Annotated[int, 1], Callable[[int], str], dict[str, Doc]],
)
def test_a_generic_type_keeps_its_arguments(alias: Any) -> None:
    assert back(paste(alias)) == alias


@pytest.mark.parametrize(
    "value",
    [Hidden(3), Doubled(3), [Hidden(3)], random.Random(1)],
    ids=["hidden", "doubled", "listed", "random"],
)
def test_an_object_that_its_class_would_make_differently_is_pickled(value: Any) -> None:
    pasted = paste(value)
    assert "cloudpickle.loads(base64.b85decode(" in pasted.expression
    again = back(pasted)
    assert again.getstate() == value.getstate() if isinstance(value, random.Random) else again == value


def test_pasting_changes_no_record_whose_class_changes_what_it_is_given() -> None:
    marked = Marked(["a"])
    assert back(paste(marked)) == marked == Marked(["a"])


def test_an_embedding_in_a_record_stays_readable() -> None:
    link = Link(0.5, numpy.array([1.0]))
    assert paste(link).expression == "Link(label=0.5, next=numpy.array([1.0], dtype='float64'))"


def test_what_a_record_has_cached_stays_out_of_it() -> None:
    doc = Doc(1, "a b")
    assert doc.words == ["a", "b"]
    assert paste(doc).expression == "Doc(id=1, text='a b')"


def test_minus_zero_is_not_left_out_for_a_default_of_zero() -> None:
    assert paste(Link(-0.0)).expression == "Link(label=-0.0)"
    assert paste(Slotted(True)).expression == "Slotted(a=True)"


def test_a_long_chain_of_records_is_written_in_no_time() -> None:
    chain = functools.reduce(lambda rest, n: Link(n, rest), range(1, 40), None)
    assert back(paste(chain)) == chain


@pytest.mark.parametrize("levels", [59, 61, 300])
def test_a_deeply_nested_value_is_one_that_python_can_parse(levels: int) -> None:
    nested: Any = functools.reduce(lambda inner, _: [Point(1, inner)], range(levels // 2), 0)
    assert back(paste(nested)) == nested


def test_a_value_that_contains_itself_is_pasted_all_the_same() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    again = back(paste(ring))
    assert again[0] == 1
    assert again[1] is again
    link = Link()
    link.next = [link, link]
    assert back(paste(link)).next[1].next[0].label == 0.0


def test_what_cannot_be_pickled_is_named_for_the_reader_to_give() -> None:
    assert paste([1, threading.Lock()]).expression == "[1, lock_to_be_given]"


def test_looking_at_an_open_file_does_not_close_it(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "a.txt").open("w") as file:
        paste({"file": file})
        file.write("still open")
    assert (tmp_path / "a.txt").read_text() == "still open"


def test_a_number_of_many_digits_is_one_that_python_can_parse() -> None:
    assert back(paste(7**6000)) == 7**6000


@pytest.mark.parametrize(
    "array",
    [
        numpy.array([1.5, math.nan], dtype="float32"),
        numpy.array([[1, 2], [3, 4]]),
        numpy.array([], dtype="int8"),
        numpy.zeros((0, 3)),
        numpy.array(5),
        numpy.array(["ab", "c"]),
        numpy.array([1], dtype=">i4"),
        numpy.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        numpy.array(["2024-01-01"], dtype="datetime64[ns]"),
        numpy.array([None, "a"], dtype=object),
        numpy.ones((2, 3)).T,
        numpy.float32(1.1),
        numpy.float64(0.1),
        numpy.bool_(True),
        numpy.datetime64("2024-01-01", "s"),
        numpy.str_("a"),
    ],
)
def test_a_numpy_value_keeps_its_type_and_shape(array: Any) -> None:
    again = back(paste(array))
    assert (type(again), again.dtype, again.shape) == (type(array), array.dtype, array.shape)
    assert numpy.array_equal(again, array, equal_nan=array.dtype.kind == "f")


def test_an_array_reads_as_its_author_would_write_it() -> None:
    array = numpy.array([1.5, math.nan], dtype="float32")
    assert paste(array) == Pasted(
        "numpy.array([1.5, float(\"nan\")], dtype='float32')", frozenset({"import numpy"})
    )


def test_two_classes_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    other = types.ModuleType("other_records")
    monkeypatch.setitem(sys.modules, "other_records", other)
    exec("import dataclasses\n@dataclasses.dataclass\nclass Doc:\n  Doc: str\n  tag: str = ''", vars(other))
    both = ["ü", Doc(1), other.Doc("Doc")]
    pasted = paste(both)
    assert back(pasted) == both
    assert "Doc(Doc='Doc')" in pasted.expression
    source = pasted_test(
        "both", {"one": paste(Doc(1)), "other": paste(other.Doc("x"))}, ["assert one != other"]
    )
    run(source)


def run(source: str, **names: Any) -> None:
    exec(compile(source, "<pasted>", "exec"), names)
    next(item for name, item in names.items() if name.startswith("test_"))()


def test_a_pasted_test_is_a_whole_module() -> None:
    parts = {"records": paste([Doc(0, "a"), datetime.date(2024, 1, 2)]), "n": paste(2)}
    source = pasted_test(
        "mean is associative", parts, ["for record in records:", "    assert record", "", "assert n == 2"],
        ["from math import floor"],
    )  # fmt: skip
    assert source.splitlines() == [
        "import datetime",
        *sorted(["from math import floor", f"from {__name__} import Doc"]),
        "",
        "",
        "def test_mean_is_associative() -> None:",
        "    records = [Doc(id=0, text='a'), datetime.date(2024, 1, 2)]",
        "    n = 2",
        "    for record in records:",
        "        assert record",
        "",
        "    assert n == 2",
    ]
    run(source)


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("clean_doc", "test_clean_doc"),
        ("RawDoc: round-trip (JSON)", "test_RawDoc_round_trip_JSON"),
        ("λ²", "test_λ"),
        ("3 times", "test_3_times"),
        ("!!", "test_counter_example"),
        ("", "test_counter_example"),
    ],
)
def test_any_name_makes_a_test_that_pytest_finds(name: str, identifier: str) -> None:
    source = pasted_test(name, {}, [])
    assert f"def {identifier}() -> None:" in source
    run(source)


def test_a_function_named_like_a_variable_of_the_test_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = types.ModuleType("shop")
    exec("def function(x): return x + 1\ndef record(x): return x + 2", vars(shop))
    monkeypatch.setitem(sys.modules, "shop", shop)
    body = ["assert function(1) == 3", "assert record[0](1) == 2"]
    run(pasted_test("names", {"function": paste(shop.record), "record": paste([shop.function])}, body))


def test_a_local_function_named_like_a_variable_of_the_test_is_taken_as_it_is() -> None:
    def function(x: int) -> int:
        return x

    run(pasted_test("local", {"function": paste(function)}, ["assert function(1) == 1"]), function=function)

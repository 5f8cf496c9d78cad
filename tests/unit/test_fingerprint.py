"""Fingerprints: nothing that matters goes unseen, nothing that does not matter costs a re-run."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect.fingerprint import fingerprint, key_of

PrintOf = Callable[..., str]


BASE = '''
import re
import functools
import dataclasses
import enum
from typing import NamedTuple

LIMIT = 10
TABLE = {"a": 1, "b": [1, 2]}
FIND = re.compile("x+").findall
LONG = re.compile("(?:" + "a" * 300 + "|b)")

class Mode(enum.Enum):
    FAST = 1
    SLOW = 2

class Base:
    factor = 3
    def scale(self, x):
        return x * self.factor

class Tool(Base):
    def __init__(self, by=2):
        self.by = by
    @property
    def twice(self):
        return self.by * 2
    @functools.cached_property
    def thrice(self):
        return self.by * 3
    @staticmethod
    def plain(x):
        return x + 4
    @classmethod
    def made(cls):
        return cls(5)
    def run(self, x):
        return x * self.by

class Slotted:
    __slots__ = ("size",)
    def __init__(self, size):
        self.size = size

@dataclasses.dataclass
class Inner:
    size: int = 6

@dataclasses.dataclass
class Doc:
    text: str
    inner: Inner = None
    tags: list = dataclasses.field(default_factory=list)
    def __post_init__(self):
        self.text = self.text.strip()
    def _private(self):
        return self.text.lower()

class Row(NamedTuple):
    id: int
    name: str = "n"

def deepest(x):
    return x + LIMIT

def helper(x, *, more=7):
    return deepest(x) + more

@functools.cache
def remembered(x):
    return x + 8

@functools.singledispatch
def shown(x):
    return str(x)

@shown.register
def _(x: int):
    return x + 9

def logged(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args) or 11
    return wrapper

@logged
def wrapped(x):
    return x + 12

TOOL = Tool()
SLOTTED = Slotted(13)
BOUND = TOOL.run
PART = functools.partial(helper, more=14)

def even(n):
    return True if n == 0 else odd(n - 1)

def odd(n):
    return False if n == 0 else even(n - 1)

HANDLERS = {}

def handle(x):
    return HANDLERS.get(x, handle)

HANDLERS["h"] = handle

def f(x, y=15):
    """Say what it does."""
    if x in {"p", "q"}:
        return 16
    try:
        x = helper(x)
    except ValueError:
        x = 17
    return [TABLE, FIND, LONG, Mode, Tool, Doc, Row, remembered(x), shown(x), wrapped(x),
            TOOL, SLOTTED, BOUND, PART, even(3), handle, lambda z: z + 18]
'''

CHANGES = {
    "a constant": ("return 16", "return 160"),
    "a constant in a set": ('{"p", "q"}', '{"p", "r"}'),
    "a default": ("y=15", "y=150"),
    "a global two calls away": ("LIMIT = 10", "LIMIT = 100"),
    "a helper two calls away": ("return x + LIMIT", "return x - LIMIT"),
    "a keyword default of a helper": ("more=7", "more=70"),
    "a value in a dict": ('"a": 1', '"a": 2'),
    "a list in a dict": ("[1, 2]", "[2, 1]"),
    "a regex behind a bound method": ('"x+"', '"x*"'),
    "the end of a long regex": ("|b)", "|c)"),
    "a value of an enum": ("SLOW = 2", "SLOW = 3"),
    "an inherited class attribute": ("factor = 3", "factor = 30"),
    "an inherited method": ("x * self.factor", "x + self.factor"),
    "the state of an instance": ("TOOL = Tool()", "TOOL = Tool(by=20)"),
    "a property": ("self.by * 2", "self.by * 20"),
    "a cached property": ("self.by * 3", "self.by * 30"),
    "a static method": ("return x + 4", "return x + 40"),
    "a class method": ("cls(5)", "cls(50)"),
    "a method": ("return x * self.by", "return x / self.by"),
    "the state of a slotted instance": ("Slotted(13)", "Slotted(130)"),
    "the type of a field": ("text: str", "text: bytes"),
    "a default of a nested dataclass": ("size: int = 6", "size: int = 60"),
    "a type in a nested dataclass": ("size: int = 6", "size: float = 6"),
    "a factory of a field": ("default_factory=list", "default_factory=set"),
    "a __post_init__": ("self.text.strip()", "self.text.rstrip()"),
    "a private method of a dataclass": ("self.text.lower()", "self.text.upper()"),
    "a frozen dataclass": (
        "@dataclasses.dataclass\nclass Doc",
        "@dataclasses.dataclass(order=True)\nclass Doc",
    ),
    "a field of a NamedTuple": ("id: int", "id: str"),
    "a default of a NamedTuple": ('name: str = "n"', 'name: str = "m"'),
    "a cached helper": ("return x + 8", "return x + 80"),
    "a function of a single dispatch": ("return x + 9", "return x + 90"),
    "a decorator": ("or 11", "or 110"),
    "a decorated function": ("return x + 12", "return x + 120"),
    "an argument of a partial": ("more=14", "more=140"),
    "mutual recursion": ("return False if", "return None if"),
    "an exception that is caught": ("except ValueError", "except TypeError"),
    "a lambda": ("z + 18", "z + 180"),
    "a step that moved into a try": (
        "    try:\n        x = helper(x)\n    except ValueError:\n        x = 17\n",
        "    x = helper(x)\n    try:\n        pass\n    except ValueError:\n        x = 17\n",
    ),
}

NO_CHANGES = {
    "a comment": ("LIMIT = 10", "LIMIT = 10  # ten"),
    "blank lines": ("def f(x", "\n\n\n\ndef f(x"),
    "a docstring": ('"""Say what it does."""', '"""Something else."""'),
    "no docstring": ('    """Say what it does."""\n', ""),
    "a docstring of a class": ("class Mode(enum.Enum):", 'class Mode(enum.Enum):\n    """Speed."""'),
    "a docstring of a helper": ("def deepest(x):", 'def deepest(x):\n    """Add."""'),
    "the order of a dict": ('{"a": 1, "b": [1, 2]}', '{"b": [1, 2], "a": 1}'),
    "the order of a set": ('{"p", "q"}', '{"q", "p"}'),
    "an unused global": ("LIMIT = 10", "LIMIT = 10\nUNUSED = 3"),
    "an unused function": ("def even(n)", "def unused():\n    return 1\n\ndef even(n)"),
    "an annotation of a function": ("def deepest(x):", "def deepest(x: int) -> int:"),
    "another layout": ("return x + LIMIT", "return (\n        x\n        + LIMIT\n    )"),
    "a helper that moved": ("LIMIT = 10\n", ""),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_that_may_alter_the_result_is_never_missed(
    print_of: PrintOf, change: tuple[str, str]
) -> None:
    old, new = change
    assert BASE.count(old) >= 1
    assert print_of(BASE.replace(old, new)) != print_of(BASE)


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES)
def test_a_change_without_meaning_recomputes_nothing(print_of: PrintOf, change: tuple[str, str]) -> None:
    old, new = change
    assert BASE.count(old) >= 1
    moved = "LIMIT = 10\n" if not new else ""
    assert print_of(BASE.replace(old, new) + moved) == print_of(BASE)


def test_using_a_function_does_not_change_it(print_of: PrintOf) -> None:
    before = print_of(BASE)
    module = sys.modules["user_code"]
    module.f("p")  # type: ignore[attr-defined]
    module.shown(3.5)  # type: ignore[attr-defined]
    assert module.TOOL.thrice == 6  # type: ignore[attr-defined]
    assert module.remembered(1) == 9  # type: ignore[attr-defined]
    assert fingerprint(module.f) == before  # type: ignore[attr-defined]


SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from funcpipe_prefect.fingerprint import fingerprint
from funcpipe_prefect.ir import Artifact, BatchMap, Function
from funcpipe_prefect.examples import rag
import stable
call = Function("f", stable.f, (("words", {"z", "y", "x", "w"}), ("size", 3)), (Artifact("m", stable.model),))
print(json.dumps([fingerprint(one) for one in (
    stable.f, stable.closed, stable.part, stable.Shape, stable.bound, stable.lazy, stable.Cfg, call,
    BatchMap("b", call), rag.clean_doc, rag.embedder, rag.RawDoc,
    {"a": {1, 2}, "b": frozenset("xyzw")}, stable.Colour, stable.fold,
)]))
"""

STABLE = (
    BASE
    + """
import pydantic, abc
import numpy as np

WORDS = {"alpha", "beta", "gamma", "delta", "epsilon"}
ARRAY = np.arange(5000)

def outer(words):
    def closed(x):
        return x in words or x in {"alpha", "beta", "gamma", ("t", 1)}
    return closed

closed = outer(frozenset(WORDS))
part = functools.partial(closed, WORDS)
bound = Tool(4).run

class Shape(abc.ABC):
    names = WORDS
    @abc.abstractmethod
    def area(self): ...

class Cfg(pydantic.BaseModel):
    model_config = {"extra": "forbid"}
    words: set[str] = pydantic.Field(default_factory=set, max_length=9)
    kind: Mode = Mode.FAST
    @pydantic.field_validator("words", mode="after")
    @classmethod
    def _check(cls, value):
        return value | WORDS

class Colour(enum.IntFlag):
    RED = 1
    BLUE = 2

def model():
    return WORDS

def lazy(x):
    from lazily import norm
    import json
    return norm(json.dumps(x))

@functools.singledispatch
def fold(x, array=ARRAY):
    return x
"""
)


def _in_new_process(folder: Path, seed: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1" if seed == "1" else ""},
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip


def test_a_worker_in_another_process_computes_the_same_keys(tmp_path: Path) -> None:
    (tmp_path / "stable.py").write_text(STABLE)
    (tmp_path / "lazily.py").write_text("def norm(x): return x\n")
    prints = {_in_new_process(tmp_path, seed) for seed in ("0", "1", "4711")}
    assert len(prints) == 1


MODEL = """
import pydantic
class Part(pydantic.BaseModel):
    size: int = pydantic.Field(1, gt=0)
class f(pydantic.BaseModel):
    model_config = {"extra": "ignore"}
    part: Part | None = None
    parts: list[Part] = []
    name: str = pydantic.Field("n", alias="other")
    @pydantic.field_validator("name", mode="before")
    @classmethod
    def _clean(cls, value):
        return value.strip()
    @pydantic.computed_field
    @property
    def shout(self) -> str:
        return self.name.upper()
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("size: int", "size: float"), ("gt=0", "gt=1"), ('"ignore"', '"forbid"'), ("Field(1", "Field(2"),
        ("list[Part]", "tuple[Part, ...]"), ('alias="other"', 'alias="another"'), ("strip()", "lstrip()"),
        ('mode="before"', 'mode="after"'), ("upper()", "title()"),
    ],
)  # fmt: skip
def test_a_changed_pydantic_model_is_seen(print_of: PrintOf, old: str, new: str) -> None:
    assert print_of(MODEL) == print_of(MODEL + "\n# a comment\n")
    assert print_of(MODEL.replace(old, new)) != print_of(MODEL)


def test_a_changed_element_of_a_large_array_is_seen() -> None:
    numpy = pytest.importorskip("numpy")
    one, other = numpy.arange(5000), numpy.arange(5000)
    assert fingerprint(one) == fingerprint(other)
    other[2500] = 0
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) != fingerprint(one.astype("float32"))


def test_a_module_with_the_name_of_the_caller_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, print_of: PrintOf
) -> None:
    """`def clean(x): return helpers.clean(x)` calls code that must count."""
    monkeypatch.syspath_prepend(tmp_path)
    prints = []
    for number in (1, 2):
        module = type(sys)("helper_code")
        module.__file__ = str(tmp_path / "helper_code.py")
        exec(f"def f(x): return x + {number}", vars(module))
        monkeypatch.setitem(sys.modules, "helper_code", module)
        prints.append(print_of("import helper_code\ndef f(x): return helper_code.f(x)\n"))
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    "style", ["from lazy_code import norm", "import lazy_code", "import lazy_code as norm"]
)
def test_a_module_that_is_imported_inside_the_function_counts(tmp_path: Path, style: str) -> None:
    folder = tmp_path / style.replace(" ", "")
    folder.mkdir()
    (folder / "code_of_user.py").write_text(f"def f(x):\n    {style}\n    return norm\n")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import code_of_user; "
        "from funcpipe_prefect.fingerprint import fingerprint; print(fingerprint(code_of_user.f)); "
        "assert 'lazy_code' not in sys.modules"
    )

    def current() -> str:
        run = [sys.executable, "-B", "-c", script, str(folder)]
        return subprocess.run(run, capture_output=True, text=True, check=True, timeout=120).stdout

    texts = (
        "def norm(x): return x + 1\n",
        "# new\ndef norm(x): return x + 1\n",
        "def norm(x): return x + 2\n",
    )
    prints = []
    for text in texts:
        (folder / "lazy_code.py").write_text(text)
        prints.append(current())
    assert prints[0] == prints[1] != prints[2]


def test_methods_of_differently_configured_objects_differ() -> None:
    class Cleaner:
        def __init__(self, lower: bool) -> None:
            self.lower = lower

        def __call__(self, text: str) -> str:
            return text.lower() if self.lower else text

        run = __call__

    assert fingerprint(Cleaner(True).run) == fingerprint(Cleaner(True).run)
    assert fingerprint(Cleaner(True).run) != fingerprint(Cleaner(False).run)
    assert fingerprint(Cleaner(True)) != fingerprint(Cleaner(False))


def test_lambdas_and_closures_differ_by_what_they_close_over() -> None:
    def adder(n: int) -> Callable[[int], int]:
        return lambda x: x + n

    assert fingerprint(adder(1)) == fingerprint(adder(1))
    assert fingerprint(adder(1)) != fingerprint(adder(2))


def test_partials_differ_by_function_and_arguments() -> None:
    assert fingerprint(functools.partial(int, base=2)) == fingerprint(functools.partial(int, base=2))
    assert fingerprint(functools.partial(int, base=2)) != fingerprint(functools.partial(int, base=8))
    assert fingerprint(functools.partial(int)) != fingerprint(functools.partial(float))


def test_equal_values_count_alike_whether_they_are_one_object_or_two() -> None:
    shared = [1, (2, 3)]
    assert fingerprint([shared, shared]) == fingerprint([[1, (2, 3)], [1, (2, 3)]])


def test_containers_that_hold_themselves_end() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    table: dict[str, Any] = {"a": 1}
    table["self"] = table
    assert fingerprint(loop) == fingerprint(loop)
    assert fingerprint(table) == fingerprint(table)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, "1"), (1, 1.0), (True, 1), (0, None), (b"a", "a"), ((1, 2), [1, 2]), ({1}, [1]),
        (("ab", "c"), ("a", "bc")), ({}, None), ({"a": 1}, {"a": "1"}), (list[int], list[str]),
        (dict[str, int], dict[str, float]), (int | None, int), (float("inf"), float("-inf")),
    ],
    ids=repr,
)  # fmt: skip
def test_values_of_different_type_or_content_differ(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_locks_loggers_and_open_files_in_reach_do_not_break_the_key(print_of: PrintOf) -> None:
    source = """
    import logging, threading, os, sys, weakref
    LOG = logging.getLogger("x")
    LOCK = threading.Lock()
    SEEN = weakref.WeakKeyDictionary()
    ENV = os.environ
    OUT = open(os.devnull)
    def f(x):
        with LOCK:
            LOG.info(x, ENV, SEEN, OUT, sys.stdout)
    """
    first = print_of(source)
    module: Any = sys.modules["user_code"]
    module.LOG.setLevel("DEBUG")
    os.environ["FUNCPIPE_TEST"] = "1"
    try:
        assert fingerprint(module.f) == first
        module.OUT.close()
    finally:
        del os.environ["FUNCPIPE_TEST"]


def test_joined_strings_do_not_collide() -> None:
    assert key_of("ab", "c") != key_of("a", "bc")
    assert key_of("a") != key_of("a", "")


def test_a_function_without_a_module_has_a_fingerprint() -> None:
    scope: dict[str, Any] = {}
    exec("def f(x): return x + 1", scope)
    assert len(fingerprint(scope["f"])) == 64

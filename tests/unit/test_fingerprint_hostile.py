"""Fingerprints of code that is written to be hard to follow: no change is missed, nothing breaks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect.fingerprint import fingerprint
from funcpipe_prefect.ir import (
    Artifact,
    BatchMap,
    Combine,
    ErrorSettings,
    FlatMap,
    Function,
    Map,
    Pipeline,
    RecordOperator,
)
from funcpipe_prefect.ir import Sink as SinkNode
from funcpipe_prefect.monoid import Sum
from funcpipe_prefect.plan import lower
from funcpipe_prefect.registry import Registry

PrintOf = Callable[..., str]

CASES = {
    "a renamed import": ("from math import floor as z\ndef f(x): return z(x)", "floor", "ceil"),
    "a C function": ("from operator import add as op\ndef f(x): return op(x, x)", "add", "mul"),
    "an itemgetter": ("import operator\nG = operator.itemgetter(1)\ndef f(x): return G(x)", "(1)", "(2)"),
    "a methodcaller": ("import operator\nG = operator.methodcaller('a', k=1)\ndef f(x): return G(x)", "k=1", "k=2"),
    "flags of a regex": ("import re\nG = re.compile('a')\ndef f(x): return G", "'a'", "'a', re.I"),
    "a Decimal": ("from decimal import Decimal\nG = Decimal('1.5')\ndef f(x): return G", "1.5", "1.50"),
    "a random generator": ("import random\nG = random.Random(1)\ndef f(x): return G", "(1)", "(2)"),
    "a numpy scalar": ("import numpy as np\nA = np.float32(1.5)\ndef f(x): return A", "1.5", "2.5"),
    "a numpy dtype": ("import numpy as np\nA = np.dtype('f4')\ndef f(x): return A", "f4", "f8"),
    "a numpy ufunc": ("import numpy as np\nA = np.sin\ndef f(x): return A(x)", "np.sin", "np.cos"),
    "an Arrow schema": (
        "import pyarrow as pa\nG = pa.schema([('a', pa.int32())])\ndef f(x): return G", "int32", "int64"
    ),
    "the order of enum members": (
        "import enum\nclass E(enum.Enum):\n  A = enum.auto()\n  B = enum.auto()\ndef f(x): return E(x)",
        "A = enum.auto()\n  B", "B = enum.auto()\n  A",
    ),
    "a method behind an enum member": (
        "import enum\nclass E(enum.Enum):\n  A = 1\n  def g(self): return 5\nM = E.A\ndef f(x): return M.g()", "5", "6"
    ),
    "a nested class": ("class A:\n  class B:\n    K = 1\ndef f(x): return A.B.K", "K = 1", "K = 2"),
    "a metaclass": ("class M(type):\n  def g(c): return 1\nclass A(metaclass=M): pass\ndef f(x): return A.g()", "1", "2"),
    "a descriptor": ("class D:\n  def __get__(s, i, o): return 1\nclass A:\n  x = D()\ndef f(x): return A().x", "1", "2"),
    "an operator method": ("class A:\n  def __add__(s, x): return 1\nV = A()\ndef f(x): return V + 0", "1", "2"),
    "a method of a super class": (
        "class A:\n  def g(s): return 1\nclass B(A):\n  def g(s): return super().g()\ndef f(x): return B().g()", "1", "2"
    ),
    "a mixin two classes up": (
        "class A:\n  K = 1\nclass B(A): pass\nclass C(B): pass\ndef f(x): return C().K", "K = 1", "K = 2"
    ),
    "a monkeypatched method": (
        "class A:\n  def g(s): return 1\nA.g = lambda s: 2\ndef f(x): return A().g()", "s: 2", "s: 3"
    ),
    "an attribute of a function": ("def h(x): return 1\nh.table = {1: 2}\ndef f(x): return h.table[x]", "1: 2", "1: 3"),
    "a function in a table": (
        "H = {}\ndef reg(g): H[g.__name__] = g\n@reg\ndef a(x): return 1\ndef f(x): return H['a'](x)",
        "return 1", "return 2",
    ),
    "a global that is written": ("N = 0\ndef f(x):\n  global N\n  N += 1\n  return N", "+= 1", "+= 2"),
    "a global that is missing": ("def f(x): return nowhere(x)", "nowhere", "nowhere_else"),
    "the package's own __version__": ("__version__ = '1'\ndef f(x): return __version__", "'1'", "'2'"),
    "a context manager": (
        "import contextlib\n@contextlib.contextmanager\ndef g():\n  yield 1\ndef f(x):\n  with g() as y: return y",
        "yield 1", "yield 2",
    ),
    "a function made by exec": (
        "ns = {}\nexec('def g(x): return 1', ns)\ng = ns['g']\ndef f(x): return g(x)", "return 1", "return 2"
    ),
    "text for eval": ("def f(x): return eval('x + 1')", "+ 1", "+ 2"),
    "a pattern of match": ("def f(x):\n  match x:\n    case {'a': 1}: return 2", "'a': 1", "'a': 3"),
    "an async def": ("async def f(x): return 1", "1", "2"),
    "a positional-only parameter": ("def f(x, a=1): return a", "x, a", "x, /, a"),
    "metadata of a dataclass field": (
        "import dataclasses as d\n@d.dataclass\nclass A:\n  x: int = d.field(default=1, metadata={'k': 1})\n"
        "def f(x): return A", "'k': 1", "'k': 2",
    ),
    "a type named later": (
        "from __future__ import annotations\nimport dataclasses as d\n@d.dataclass\nclass A:\n  x: B | None\n"
        "@d.dataclass\nclass B:\n  y: int\ndef f(x): return A", "y: int", "y: str",
    ),
    "a NewType": ("from typing import NewType\nT = NewType('T', int)\ndef f(x): return T(x)", "int", "str"),
    "the bound of a TypeVar": ("from typing import TypeVar\nT = TypeVar('T', bound=int)\ndef f(x): return T", "int", "str"),
    "a key that a TypedDict may lack": (
        "from typing_extensions import NotRequired, TypedDict\nclass A(TypedDict):\n  x: NotRequired[int]\n"
        "def f(x): return A", "NotRequired[int]", "int",
    ),
    "a tag of a Struct": ("import msgspec\nclass A(msgspec.Struct, tag='a'):\n  x: int\ndef f(x): return A", "'a'", "'b'"),
    "a factory of a defaultdict": (
        "import collections\nV = collections.defaultdict(int)\ndef f(x): return V", "(int)", "(str)"
    ),
    "a method of a dict's subclass": (
        "class D(dict):\n  def g(self): return 1\nV = D(a=1)\ndef f(x): return V.g()", "return 1", "return 2"
    ),
    "an attribute of a str's subclass": (
        "class S(str): pass\nV = S('a')\nV.k = 1\ndef f(x): return V.k", "k = 1", "k = 2"
    ),
    "a str whose repr lies": (
        "class S(str):\n  def __repr__(self): return 'S'\nV = S('a')\ndef f(x): return V + 'b'", "S('a')", "S('c')"
    ),
    "an object whose pickle hides its state": (
        "class A:\n  def __init__(s, k): s.k = k\n  def __getstate__(s): return {}\nV = A(1)\ndef f(x): return V.k",
        "A(1)", "A(2)",
    ),
    "the end of a chain of 3,000 calls": (
        "".join(f"def h{i}(x): return h{i + 1}(x)\n" for i in range(3000)) + "def h3000(x): return -1\nf = h0",
        "return -1", "return -2",
    ),
    "the core of 2,000 nested objects": (
        "class N:\n  def __init__(s, n): s.n = n\nv = -5\nfor _ in range(2000): v = N(v)\ndef f(x): return v", "-5", "-6"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "old", "new"), CASES.values(), ids=CASES)
def test_a_hidden_change_is_seen(print_of: PrintOf, source: str, old: str, new: str) -> None:
    assert source.count(old) == 1
    first = print_of(source)
    assert print_of(f"# a comment\n{source}") == first
    assert print_of(source.replace(old, new)) != first


@pytest.mark.parametrize(
    "body",
    [
        "import hard_code as m\ndef f(x): return m.g(x)",
        "import hard_code as m\ndef f(x): return getattr(m, 'g')(x)",
        "import hard_code as m\ndef f(x): return getattr(m, chr(103))(x)",
        "import hard_code as m\ndef f(x): return vars(m)['g'](x)",
        "import hard_code as m\ndef use(mod, x): return mod.g(x)\ndef f(x): return use(m, x)",
        "import hard_code as m\nALL = [m]\ndef f(x): return ALL[0].g(x)",
        "import hard_code as m\ndef f(x):\n  other = m\n  return other.g(x)",
        "import importlib\ndef f(x): return importlib.import_module('hard_code').g(x)",
        "from hard_code import *\ndef f(x): return g(x)",
        "def f(x): return (lambda: __import__('hard_code').g(x))()",
    ],
)
def test_a_helper_is_found_however_its_module_is_used(tmp_path: Path, body: str) -> None:
    (tmp_path / "users_code.py").write_text(f"{body}\n")
    script = "import users_code\nfrom funcpipe_prefect.fingerprint import fingerprint\nprint(fingerprint(users_code.f))"

    def current(text: str) -> str:
        (tmp_path / "hard_code.py").write_text(textwrap.dedent(text))
        return subprocess.run(
            [sys.executable, "-B", "-c", script], env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, check=True, timeout=120,
        ).stdout  # fmt: skip

    first = current("def g(x):\n    return x + 1\n")
    assert current("# new\ndef g(x):\n    '''Add.'''\n\n    return x + 1\n") == first
    assert current("def g(x):\n    return x + 2\n") != first


def test_where_a_module_lies_does_not_count(print_of: PrintOf) -> None:
    source = "import os\nHERE = 1\ndef f(x): return os.path.dirname(__file__), HERE"
    first = print_of(source)
    module: Any = sys.modules["user_code"]
    module.__file__ = "/elsewhere/user_code.py"
    assert fingerprint(module.f) == first


def _key(*operators: RecordOperator | Combine | SinkNode) -> str:
    stage, *_ = lower(Pipeline("p", operators, ErrorSettings("letters"), "store"))
    return stage.fingerprint


def _first(x: int) -> list[int]:
    return [x]


def _second(x: int) -> list[int]:
    return [x + 1]


def test_kind_name_policy_types_and_parameters_of_an_operator_count() -> None:
    call = Function("f", _first, (("a", 1), ("b", 2)))
    keys = {
        _key(Map("m", call)), _key(FlatMap("m", call)), _key(BatchMap("m", call)), _key(BatchMap("m", call, max_batch_size=3)),
        _key(Map("n", call)), _key(Map("m", call, error_policy="drop")), _key(Map("m", call, in_type=int)),
        _key(Map("m", call, out_type=int)), _key(Map("m", call, transient=(KeyError,))),
        _key(Map("m", Function("f", _first, (("a", 1), ("b", 3))))), _key(Map("m", Function("f", _first, (("a", 1),)))),
        _key(Map("m", Function("f", _second, call.params))), _key(Combine("m", call, Sum())),
    }  # fmt: skip
    assert len(keys) == 13
    assert _key(Map("m", call)) == _key(Map("m", Function("f", _first, (("b", 2), ("a", 1)))))


@pytest.mark.parametrize("version", ["1", ""])
def test_a_version_stands_for_the_code_of_functions_and_artifacts(version: str) -> None:
    def key(call: Any, model: Any, pinned: str | None) -> str:
        return _key(Map("m", Function("f", call, (), (Artifact("model", model, pinned),), pinned)))

    assert key(_first, _first, version) == key(_second, _second, version)
    assert key(_first, _first, version) != key(_first, _first, "2")
    assert key(_first, _first, None) != key(_second, _first, None) != key(_second, _second, None)


def test_a_version_stands_for_the_code_of_monoids_sinks_and_sources(print_of: PrintOf) -> None:
    source = """
    class f:
        commutative = True
        def __init__(self, size=1):
            self.size = size
        def empty(self):
            return 0
        def combine(self, a, b):
            return a + b
    """

    def key(text: str, version: str | None, kind: str, size: int = 1) -> str:
        print_of(text)
        cls: Any = sys.modules["user_code"].f  # type: ignore[attr-defined]
        registry = Registry()
        if kind == "monoid":
            registry.monoid("sum", cls(size), version=version)
        elif kind == "sink":
            registry.sink(cls, idempotent=True, version=version)
        else:
            registry.source(cls, version=version)
        return fingerprint(cls(size))

    other = source.replace("a + b", "b + a")
    for kind in ("monoid", "sink", "source"):
        assert key(source, None, kind) != key(other, None, kind)
        assert key(source, "1", kind) == key(other, "1", kind)
        assert key(source, "1", kind) != key(source, "2", kind)
        assert key(source, "1", kind) != key(source, "1", kind, size=2)


def test_a_version_that_would_not_count_is_refused() -> None:
    with pytest.raises(ValueError, match="only a class can have a version"):
        Registry().source(lambda: None, name="s", version="1")
    with pytest.raises(ValueError, match="cannot carry a version"):
        Registry().monoid("m", 5, version="1")  # type: ignore[arg-type]

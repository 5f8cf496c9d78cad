"""Python source for values, so that a counter-example can be pasted into a test."""

from __future__ import annotations

import ast
import base64
import datetime
import decimal
import enum
import fractions
import functools
import keyword
import pathlib
import sys
import types
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, get_origin

import cloudpickle

from funcpipe_prefect.laws.rebuilt import call_that_makes

__all__ = ["Pasted", "paste", "pasted_test"]

_DEEPEST = 60
"""Levels of values within values: Python's parser takes some 100, and a cycle has no end."""


@dataclass(frozen=True)
class Pasted:
    """A Python expression, on one line, and the imports that it needs.

    Attributes:
        expression: Such as `Doc(id=0, due=datetime.date(2024, 2, 29))`.
        imports: Lines such as `import datetime` or `from shop.records import Doc`.
    """

    expression: str
    imports: frozenset[str] = frozenset()


_Division: TypeAlias = tuple[Sequence[Any], Callable[[list[str]], str]]
"""The values within another, and how their expressions make up its own."""


def paste(value: Any) -> Pasted:
    """Write a value, a function or a class as Python source that gives it back.

    A record or another object becomes a call of its class if that, once tried, makes the same
    object; what has no such source is pickled. What is defined in a function or in `__main__`
    cannot be imported: its bare name is given, for a test that stands beside it. What cannot even
    be pickled becomes a name for the reader to define.

    Example:
        >>> paste([datetime.date(2024, 2, 29), float("nan")]).expression
        '[datetime.date(2024, 2, 29), float("nan")]'
        >>> paste(functools.partial(round, ndigits=1)).expression
        'functools.partial(round, ndigits=1)'
    """
    try:
        return _source(value, 0)
    except Exception:
        return _pickled(value)


def pasted_test(
    name: str, parts: Mapping[str, Pasted], body: Sequence[str], imports: Iterable[str] = ()
) -> str:
    """Write a whole test.

    Args:
        name: Any text; it becomes part of an identifier.
        parts: What is assigned before the body, by the name of its variable.
        body: Lines of the test.
        imports: Import lines that the body needs.

    Example:
        >>> print(pasted_test("sum of 2", {"x": Pasted("2")}, ["assert x + x == 5"]), end="")
        def test_sum_of_2() -> None:
            x = 2
            assert x + x == 5
    """
    needed = frozenset(imports)
    taken = {**dict.fromkeys(parts, ""), **{_bound_by(line): line for line in needed}}
    expressions, lines = _together(list(parts.values()), taken)
    given = [f"{key} = {text}" for key, text in zip(parts, expressions, strict=True) if text != key]
    head = sorted(lines | needed, key=_plain_first)
    words = "".join(letter if f"a{letter}".isidentifier() else "_" for letter in name).split("_")
    definition = f"def test_{'_'.join(filter(None, words)) or 'counter_example'}() -> None:"
    inner = [f"    {line}".rstrip() for line in [*given, *body] or ["pass"]]
    return "\n".join([*head, *(["", ""] if head else []), definition, *inner, ""])


def _plain_first(line: str) -> tuple[bool, str]:
    return line.startswith("from "), line


def _bound_by(line: str) -> str:
    return line.split()[-1].partition(".")[0]


def _together(parts: Sequence[Pasted], taken: Mapping[str, str]) -> tuple[list[str], frozenset[str]]:
    """Bring parts into one namespace: an import gets an alias if its name belongs to another line."""
    lines = frozenset[str]().union(*(part.imports for part in parts))
    owners = dict(taken)
    aliases: dict[str, str] = {}
    for line in sorted(lines, key=_plain_first):
        if owners.setdefault(_bound_by(line), line) != line and line.startswith("from "):
            aliases[line] = f"{_bound_by(line)}_of_{line.split()[1].replace('.', '_')}"
    expressions = []
    for part in parts:
        renames = {_bound_by(line): aliases[line] for line in part.imports & aliases.keys()}
        expressions.append(_renamed(part.expression, renames) if renames else part.expression)
    aliased = {f"{line.partition(' as ')[0]} as {alias}" for line, alias in aliases.items()}
    return expressions, (lines - aliases.keys()) | aliased


def _renamed(expression: str, renames: Mapping[str, str]) -> str:
    code = expression.encode()
    names = [node for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Name)]
    for node in sorted(names, key=lambda node: node.col_offset, reverse=True):
        new = renames.get(node.id, node.id).encode()
        code = code[: node.col_offset] + new + code[node.end_col_offset :]
    return code.decode()


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _is_path(text: str) -> bool:
    return all(map(_is_name, text.split(".")))


def _source(value: Any, depth: int) -> Pasted:
    if type(value) in _LEAVES:
        return _LEAVES[type(value)](value)
    if depth == _DEEPEST:
        raise RecursionError
    if isinstance(getattr(value, "__qualname__", None), str) and get_origin(value) is None:
        reference = _reference(value)
        if reference is not None:
            return reference
        division = _method(value)
    else:
        is_member = isinstance(value, enum.Enum)
        division = _member(value) if is_member else _DIVISIONS.get(type(value), _called)(value)
    if division is None:
        return _pickled(value)
    parts, shape = division
    expressions, imports = _together([_source(part, depth + 1) for part in parts], {})
    return Pasted(shape(expressions), imports)


def _pickled(value: Any) -> Pasted:
    try:
        text = base64.b85encode(cloudpickle.dumps(value)).decode()
    except Exception:
        return Pasted(f"{type(value).__name__}_to_be_given")
    imports = frozenset({"import base64", "import cloudpickle"})
    return Pasted(f'cloudpickle.loads(base64.b85decode("{text}"))', imports)


def _reference(value: Any) -> Pasted | None:
    """Name a function or class as its module does, or else as the code around it does."""
    path = value.__qualname__
    home = getattr(value, "__module__", None) or getattr(value, "__objclass__", type).__module__
    module = sys.modules.get(home)
    there = _reached(module, path)
    name = path if there is value else _global_name(module, value)
    if not name and _is_bound(value):
        return None
    is_bare = home == "__main__" or not _is_path(home) or (not name and "<locals>" in path)
    name = name or (path.rpartition("<locals>.")[2] if is_bare or there is not None else "")
    if not _is_path(name):
        return None
    if is_bare or home == "builtins":
        return Pasted(name)
    if home in sys.stdlib_module_names or home == "numpy":
        return Pasted(f"{home}.{name}", frozenset({f"import {home}"}))
    return Pasted(name, frozenset({f"from {home} import {name.partition('.')[0]}"}))


def _reached(module: Any, path: str) -> Any:
    try:
        return functools.reduce(getattr, path.split("."), module)
    except AttributeError:
        return None


def _global_name(module: Any, value: Any) -> str:
    return next((name for name, item in vars(module).items() if item is value), "") if module else ""


def _is_bound(value: Any) -> bool:
    owner = getattr(value, "__self__", None)
    return owner is not None and not isinstance(owner, types.ModuleType)


def _method(value: Any) -> _Division | None:
    if not _is_bound(value) or getattr(value.__self__, value.__name__, None) != value:
        return None

    def shape(texts: list[str]) -> str:
        is_plain = _is_path(texts[0]) or texts[0].endswith(")")
        return f"{texts[0] if is_plain else f'({texts[0]})'}.{value.__name__}"

    return [value.__self__], shape


def _member(member: Any) -> _Division:
    cls, name = type(member), member._name_
    if name not in cls.__members__:  # several flags
        return [cls, member._value_], lambda texts: f"{texts[0]}({texts[1]})"
    return [cls], lambda texts: f"{texts[0]}{f'.{name}' if _is_name(name) else f'[{name!r}]'}"


def _called(value: Any) -> _Division | None:
    call = call_that_makes(value) if _reference(type(value)) else None
    if call is None:
        return None
    make, arguments, words = call

    def shape(texts: list[str]) -> str:
        pairs = list(zip(words, texts[1 + len(arguments) :], strict=True))
        inner = texts[1 : 1 + len(arguments)] + [f"{name}={text}" for name, text in pairs if _is_name(name)]
        odd = ", ".join(f"{name!r}: {text}" for name, text in pairs if not _is_name(name))
        return f"{texts[0]}({', '.join([*inner, f'**{{{odd}}}'] if odd else inner)})"

    return [make, *arguments, *words.values()], shape


def _moment(value: Any) -> _Division:
    naive = repr(value.replace(tzinfo=None))
    if value.tzinfo is None:
        return [type(value)], lambda texts: naive
    return [type(value), value.tzinfo], lambda texts: f"{naive[:-1]}, tzinfo={texts[1]})"


def _set(value: Any) -> _Division:
    def shape(texts: list[str]) -> str:
        return f"{{{', '.join(sorted(texts, key=lambda text: (len(text), text)))}}}" if texts else "set()"

    return list(value), shape


def _dict(value: Any) -> _Division:
    def shape(texts: list[str]) -> str:
        pairs = zip(texts[: len(value)], texts[len(value) :], strict=True)
        return f"{{{', '.join(f'{key}: {item}' for key, item in pairs)}}}"

    return [*value, *value.values()], shape


_DIVISIONS: Mapping[type, Callable[[Any], _Division | None]] = {
    datetime.datetime: _moment,
    datetime.time: _moment,
    list: lambda value: (value, lambda texts: f"[{', '.join(texts)}]"),
    tuple: lambda value: (value, lambda texts: f"({', '.join(texts)}{',' * (len(texts) == 1)})"),
    set: _set,
    dict: _dict,
}
"""How values are written in which others stand, other than as calls; by exact types only."""


def _float(value: float) -> Pasted:
    text = repr(value)
    return Pasted(text if text[-1].isdigit() else f'float("{text}")')


def _as_repr(module: str = "") -> Callable[[Any], Pasted]:
    """Take the repr, after the name of its module."""
    prefix = f"{module}." if module else ""
    imports = frozenset({f"import {module}"} if module else ())
    return lambda value: Pasted(f"{prefix}{repr(value).removeprefix(prefix)}", imports)


_LEAVES: Mapping[type, Callable[[Any], Pasted]] = {
    **dict.fromkeys((type(None), type(...), bool, int, str, bytes, bytearray, range), _as_repr()),
    float: _float,
    **dict.fromkeys((datetime.date, datetime.timedelta, datetime.timezone), _as_repr("datetime")),
    decimal.Decimal: _as_repr("decimal"),
    fractions.Fraction: _as_repr("fractions"),
    uuid.UUID: _as_repr("uuid"),
    zoneinfo.ZoneInfo: _as_repr("zoneinfo"),
    **dict.fromkeys((pathlib.PurePosixPath, pathlib.PureWindowsPath), _as_repr("pathlib")),
    type(pathlib.Path()): lambda value: Pasted(
        f"pathlib.Path({str(value)!r})", frozenset({"import pathlib"})
    ),
}
"""How values are written in which no others stand; by exact types only."""

"""Type tags: `FPResult[RawDoc]` in a file, annotations in code, and whether one fits the other."""

from __future__ import annotations

import ast
import collections.abc
import re
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from funcpipe_prefect.result import Err, Ok
from funcpipe_prefect.schema import type_name

__all__ = [
    "Opaque",
    "TagError",
    "codec_type",
    "element_of",
    "fits",
    "parse_tag",
    "record_types",
    "show",
    "unwrap",
]

_BUILTINS: Mapping[str, Any] = {
    **{tp.__name__: tp for tp in (str, int, float, bool, bytes, dict, list, set, frozenset, tuple, object)},
    "Any": Any,
    "None": None,
    "Optional": typing.Optional,
    "Union": Union,
}
_WRAPPERS = ("FPResult", "Result", "Ok")
_MODULES = re.compile(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")
_LONGEST_TAG = 500
_ITERABLES = (
    list,
    tuple,
    set,
    frozenset,
    collections.abc.Iterable,
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.Sequence,
    collections.abc.Collection,
    collections.abc.MutableSequence,
    collections.abc.Set,
)


class TagError(ValueError):
    """A tag that cannot be read; `name` is the unknown word, if that is the reason."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class Opaque:
    """A type that is known by name only: its functions carry no annotations."""

    name: str


def show(tp: Any) -> str:
    """Name a type for a message, without the modules of its parts."""
    return tp.name if isinstance(tp, Opaque) else _MODULES.sub("", type_name(tp))


def codec_type(tp: Any) -> Any:
    """The type to encode by: a type known only by name is encoded as a plain value."""
    return Any if isinstance(tp, Opaque) else tp


def parse_tag(text: str, known: Mapping[str, Any], *, opaque: bool = False) -> Any:
    """Read a tag such as `RawDoc`, `FPResult[RawDoc]` or `list[str]`.

    Args:
        text: The tag.
        known: Record types by name.
        opaque: Take an unknown plain name as a type known by name only.

    Raises:
        TagError: The tag is malformed or names an unknown type.
    """
    if len(text) > _LONGEST_TAG:
        raise TagError(f"longer than {_LONGEST_TAG} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TagError("not a type") from error
    return _type_of(node, known, opaque=opaque)


def _type_of(node: ast.expr, known: Mapping[str, Any], *, opaque: bool) -> Any:
    match node:
        case ast.Name(id=name) | ast.Constant(value=str(name)):
            if name in known or name in _BUILTINS:
                return known.get(name, _BUILTINS.get(name))
            if name in _WRAPPERS:
                raise TagError(f"{name} of what?")
            if opaque and name.isidentifier():
                return Opaque(name)
            raise TagError(f"unknown type {name}", name)
        case ast.Constant(value=None):
            return None
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in _WRAPPERS:
            first = inner.elts[0] if isinstance(inner, ast.Tuple) and inner.elts else inner
            return _type_of(first, known, opaque=opaque)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _generic(Union, [left, right], node, known, opaque=opaque)
        case ast.Subscript(value=outer, slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return _generic(_type_of(outer, known, opaque=False), parts, node, known, opaque=opaque)
    raise TagError("not a type")


def _generic(
    outer: Any, parts: list[ast.expr], node: ast.expr, known: Mapping[str, Any], *, opaque: bool
) -> Any:
    try:
        args = tuple(
            ...
            if isinstance(part, ast.Constant) and part.value is ...
            else _type_of(part, known, opaque=False)
            for part in parts
        )
        return outer[args if len(args) > 1 else args[0]]
    except TagError as error:
        if opaque and error.name:
            return Opaque(ast.unparse(node))
        raise
    except (TypeError, IndexError) as error:
        raise TagError(str(error)) from error


def unwrap(hint: Any) -> Any:
    """Take the success type out of `Result[T, E]`, `Ok[T]` and `Annotated`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return unwrap(args[0])
    if hint is Ok or hint is Err:
        return Any
    if origin is Ok:
        return unwrap(args[0])
    if origin in (Union, types.UnionType):
        kept = [arg for arg in args if arg is not Err and get_origin(arg) is not Err]
        if len(kept) < len(args) or any(get_origin(arg) is Ok for arg in kept):
            parts = tuple(unwrap(arg) for arg in kept)
            return Union[parts] if parts else Any  # noqa: UP007
    return Any if isinstance(hint, TypeVar) or hint is object else hint


def element_of(hint: Any) -> Any:
    """Give the element type of an iterable's annotation.

    Raises:
        TypeError: The annotation is not of an iterable of records.
    """
    hint = unwrap(hint)
    if hint is Any:
        return Any
    origin, args = get_origin(hint), get_args(hint)
    if origin in _ITERABLES:
        return unwrap(args[0])
    if (
        isinstance(hint, type)
        and hint not in (str, bytes, dict)
        and issubclass(hint, collections.abc.Iterable)
    ):
        return Any
    raise TypeError(f"{show(hint)} is not an iterable of records")


def fits(produced: Any, expected: Any) -> bool:
    """Tell whether every value of one type is a value of another.

    Example:
        >>> fits(list[int], collections.abc.Sequence[int]), fits(str, int)
        (True, False)
    """
    produced, expected = unwrap(produced), unwrap(expected)
    if produced is Any or expected is Any or produced == expected:
        return True
    if isinstance(produced, Opaque) or isinstance(expected, Opaque):
        return show(produced) == show(expected)
    if get_origin(produced) in (Union, types.UnionType):
        return all(fits(part, expected) for part in get_args(produced))
    if get_origin(expected) in (Union, types.UnionType):
        return any(fits(produced, part) for part in get_args(expected))
    one, other = _class_of(produced), _class_of(expected)
    if one is int and other is float:
        return True
    if typing.is_typeddict(other) or typing.is_typeddict(one):
        return (
            one is other or (other is dict or other is collections.abc.Mapping) and typing.is_typeddict(one)
        )
    if not (isinstance(one, type) and isinstance(other, type) and _is_subclass(one, other)):
        return False
    mine, theirs = get_args(produced), get_args(expected)
    if not mine or not theirs or one is tuple:
        return True
    return len(mine) != len(theirs) or all(fits(a, b) for a, b in zip(mine, theirs, strict=True))


def _class_of(tp: Any) -> Any:
    return type(None) if tp is None else get_origin(tp) or tp


def _is_subclass(one: type, other: type) -> bool:
    try:
        return issubclass(one, other)
    except TypeError:
        return False


def record_types(functions: Iterator[Callable[..., Any]]) -> Mapping[str, Any]:
    """Collect the record types that functions' annotations mention, by name."""
    found: dict[str, Any] = {}
    for function in functions:
        try:
            hints = typing.get_type_hints(function)
        except Exception:  # reported where the function is used
            continue
        for hint in hints.values():
            _collect(hint, found)
    return found


def _collect(hint: Any, found: dict[str, Any]) -> None:
    for part in get_args(hint):
        _collect(part, found)
    if isinstance(hint, type) and get_origin(hint) is None and hint.__module__ not in ("builtins", "typing"):
        found.setdefault(hint.__name__, hint)

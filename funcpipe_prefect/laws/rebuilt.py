"""The call that makes an object again: the first that gives the same one when it is tried."""

from __future__ import annotations

import collections
import copy
import functools
import inspect
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from funcpipe_prefect.schema import is_model

__all__ = ["Call", "call_that_makes"]


class Call(NamedTuple):
    """What to call, with which arguments and words."""

    make: Any
    arguments: Sequence[Any] = ()
    words: Mapping[str, Any] = {}


def call_that_makes(value: Any) -> Call | None:
    """Find the call, mostly of its class, that makes an object again; None if there is no such call.

    Example:
        >>> call_that_makes(collections.Counter("aab"))
        Call(make=<class 'collections.Counter'>, arguments=({'a': 2, 'b': 1},), words={})
    """
    if type(value) in _KNOWN:
        return _KNOWN[type(value)](value)
    for recipe in _recipes(type(value)):
        try:
            before = _state(value)
            call = recipe(value)
            if _state(_made(call)) == before:
                return call
        except Exception:
            continue
    return None


def _recipes(cls: type) -> Sequence[Callable[[Any], Call]]:
    if is_model(cls):
        return (_by_fields, _unvalidated)
    return (_by_array,) if cls.__module__ == "numpy" else (_by_init, _by_content, _by_reduction)


def _made(call: Call) -> Any:
    """Make a call with copies of lists and the like, since a class may change what it is given."""

    def own(item: Any) -> Any:
        return copy.copy(item) if isinstance(item, (list, dict, set)) else item

    return call.make(*map(own, call.arguments), **{name: own(item) for name, item in call.words.items()})


def _state(value: Any) -> Any:
    """Give what two objects are compared by; what they keep in cached properties does not count."""
    cls = type(value)

    def is_cached(key: Any) -> bool:
        return isinstance(getattr(cls, str(key), None), functools.cached_property)

    def seen(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: item for key, item in part.items() if not is_cached(key)}
        return list(part) if isinstance(part, Iterator) else part

    return cls, value if is_model(cls) else [*map(seen, value.__reduce_ex__(2))]


def _by_init(value: Any) -> Call:
    """Hand each parameter the attribute of its name, unless its default makes the same attribute."""
    cls, parameters = type(value), inspect.signature(type(value)).parameters.values()
    starred = [getattr(value, one.name) for one in parameters if one.kind is one.VAR_POSITIONAL]
    arguments = [*itertools.chain(*starred)]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [one for one in parameters if one.kind in kinds and hasattr(value, one.name)]
    words = {one.name: getattr(value, one.name) for one in named}
    needed = {one.name: words[one.name] for one in named if one.default is one.empty}
    try:
        usual = _made(Call(cls, arguments, needed))
    except Exception:
        return Call(cls, arguments, words)
    is_usual = {name: _is_twin(getattr(usual, name), words[name]) for name in words.keys() - needed.keys()}
    return Call(cls, arguments, {name: item for name, item in words.items() if not is_usual.get(name)})


def _by_fields(value: Any) -> Call:
    words = {}
    for name, field in type(value).model_fields.items():
        item = getattr(value, name)
        if field.is_required() or not _is_twin(field.get_default(call_default_factory=True), item):
            words[field.validation_alias if isinstance(field.validation_alias, str) else name] = item
    return Call(type(value), (), {**words, **(value.model_extra or {})})


def _is_twin(one: Any, other: Any) -> bool:
    try:
        return one is other or (type(one) is type(other) and repr(one) == repr(other) and bool(one == other))
    except Exception:
        return False


def _unvalidated(value: Any) -> Call:
    return Call(
        type(value).model_construct, (), {name: getattr(value, name) for name in type(value).model_fields}
    )


def _by_array(value: Any) -> Call:
    numpy = sys.modules["numpy"]
    if type(value) is not numpy.ndarray:  # a scalar
        return Call(type(value), (value.item(),))
    dtype = value.dtype.str if value.dtype.kind in "US" else value.dtype.name
    return Call(numpy.array, (value.tolist(),), {"dtype": dtype})


def _by_content(value: Any) -> Call:
    builtin = (str, bytes, int, float, tuple, list, set, frozenset, dict)
    base = next(base for base in builtin if isinstance(value, base))
    return Call(type(value), (base(value),))


def _by_reduction(value: Any) -> Call:
    make, arguments = value.__reduce_ex__(2)
    if make is not type(value):
        raise TypeError
    return Call(make, arguments)


def _deque(value: Any) -> Call:
    return Call(collections.deque, [list(value)], {} if value.maxlen is None else {"maxlen": value.maxlen})


_KNOWN: Mapping[type, Callable[[Any], Call]] = {
    complex: lambda value: Call(complex, [value.real, value.imag]),
    frozenset: lambda value: Call(frozenset, [set(value)] if value else []),
    collections.deque: _deque,
    collections.defaultdict: lambda value: Call(
        collections.defaultdict, [value.default_factory, dict(value)]
    ),
    re.Pattern: lambda value: Call(re.compile, [value.pattern, value.flags]),
    functools.partial: lambda value: Call(functools.partial, [value.func, *value.args], value.keywords),
}
"""Calls that need no trying; by exact types only."""

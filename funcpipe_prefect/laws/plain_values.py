"""Values of types that hold no others, their bounds, and what all strategies are made with."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import math
import operator
import os
import re
import string
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException, HypothesisWarning
from pydantic import TypeAdapter

from funcpipe_prefect.schema import type_name

__all__ = [
    "Bounds",
    "DrawnValues",
    "JSON",
    "MISSING",
    "SCALARS",
    "SIZE",
    "TEXT",
    "bounds_of",
    "by_hypothesis",
    "impossible",
    "is_hashable",
    "made_by",
    "plain",
    "sizes",
    "within",
]

DrawnValues: TypeAlias = st.SearchStrategy[Any]
Bounds: TypeAlias = Mapping[str, Any]

SIZE = 4  # of a container
_LENGTH = 12  # of bytes, and of text that has bounds


def is_hashable(value: Any) -> bool:
    """Tell whether a value can be a key."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def impossible(tp: Any, why: str = "give a strategy of your own for it") -> TypeError:
    """Give the error that says why no value of a type can be made."""
    return TypeError(f"no values of {type_name(tp)} can be made: {why}")


MISSING = object()


def made_by(make: Callable[[Any], Any], values: DrawnValues) -> DrawnValues:
    """Make values of drawn ones, but for those that the making refuses."""

    def attempt(value: Any) -> Any:
        try:
            return make(value)
        except Exception:
            return MISSING

    return values.map(attempt).filter(lambda made: made is not MISSING)


_ALLOWS: Mapping[str, Callable[[Any, Any], Any]] = {
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
    "multiple_of": lambda value, step: value % step == 0,
    "min_length": lambda value, length: len(value) >= length,
    "max_length": lambda value, length: len(value) <= length,
    "pattern": lambda value, pattern: re.search(pattern, value),
    "uuid_version": lambda value, version: value.version == version,
}
"""Bounds, under the names that annotated-types, pydantic and msgspec share."""


def bounds_of(marks: Sequence[Any]) -> dict[str, Any]:
    """Gather the bounds in the marks of an `Annotated` type, by the name of each."""
    found: dict[str, Any] = {}
    for mark in marks:
        if isinstance(inner := getattr(mark, "metadata", None), list):  # pydantic's Field
            found |= bounds_of(inner)
        found |= {name: bound for name in _ALLOWS if (bound := getattr(mark, name, None)) is not None}
    return found


def within(bounds: Bounds, values: DrawnValues) -> DrawnValues:
    """Keep the values that are within bounds."""

    def keeps(value: Any) -> bool:
        try:
            return all(_ALLOWS[name](value, bound) for name, bound in bounds.items())
        except (AttributeError, TypeError):  # the bound is on another type of a union
            return True

    return values.filter(keeps) if bounds else values


def sizes(bounds: Bounds, size: int = SIZE) -> dict[str, int]:
    """Give the smallest and the largest size of a container or text, as Hypothesis takes them."""
    low = bounds.get("min_length", 0)
    return {"min_size": low, "max_size": min(low + size, bounds.get("max_length", low + size))}


def _between(make: Callable[..., DrawnValues], bounds: Bounds) -> DrawnValues:
    low = [bounds[name] for name in ("ge", "gt") if bounds.get(name, -math.inf) != -math.inf]
    high = [bounds[name] for name in ("le", "lt") if bounds.get(name, math.inf) != math.inf]
    return make(**({"min_value": max(low)} if low else {}), **({"max_value": min(high)} if high else {}))


_CHARACTERS = st.one_of(
    st.sampled_from(string.ascii_letters + "  "),
    st.sampled_from(string.digits + string.punctuation + " \n\t"),
    st.characters(codec="utf-8"),
)
_WORDS = st.sampled_from(
    ["a", "the", "of", "is", "not", "Paris", "2024", "3.14", "naïve", "東京", "https://a.org/b?c=1"]
)
TEXT = st.lists(
    st.one_of(_WORDS, st.sampled_from([" ", ". ", ", ", "\n", "\n\n", "\t"]), _CHARACTERS), max_size=8
).map("".join)
_NAMES = st.text(string.ascii_lowercase + string.digits + "_-", min_size=1, max_size=8)


def _integers(step: Any, min_value: Any = -math.inf, max_value: Any = math.inf) -> DrawnValues:
    values = st.integers(math.ceil(max(min_value, -(2**63))), math.floor(min(max_value, 2**63 - 1)))
    return values.map(lambda number: number - number % step) if isinstance(step, int) else values


def _text(bounds: Bounds) -> DrawnValues:
    if "pattern" in bounds:
        return st.from_regex(bounds["pattern"])
    if "min_length" in bounds or "max_length" in bounds:
        return st.text(_CHARACTERS, **sizes(bounds, _LENGTH))
    return TEXT


def _unfolded(when: Any) -> Any:
    return when.replace(fold=0)  # no store keeps which of two equal hours it was


_YEARS = datetime.timedelta(days=3650)
_PLAIN: Mapping[Any, Callable[[Bounds], DrawnValues]] = {
    type(None): lambda _: st.none(),
    bool: lambda _: st.booleans(),
    int: lambda bounds: _between(partial(_integers, bounds.get("multiple_of")), bounds),
    float: partial(_between, partial(st.floats, allow_nan=False, allow_infinity=False)),
    str: _text,
    bytes: lambda bounds: st.binary(**sizes(bounds, _LENGTH)),
    datetime.datetime: lambda bounds: _between(st.datetimes, bounds).map(_unfolded),
    datetime.date: partial(_between, st.dates),
    datetime.time: lambda bounds: _between(st.times, bounds).map(_unfolded),
    datetime.timedelta: lambda bounds: _between(st.timedeltas, {"ge": -_YEARS, "le": _YEARS, **bounds}),
    decimal.Decimal: partial(_between, partial(st.decimals, allow_nan=False, allow_infinity=False)),
    fractions.Fraction: partial(_between, st.fractions),
    uuid.UUID: lambda bounds: st.uuids(version=bounds.get("uuid_version")),
}
SCALARS = st.one_of(*(_PLAIN[tp]({}) for tp in (type(None), bool, int, float, str)))
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=SIZE) | st.dictionaries(TEXT, inner, max_size=SIZE),
    max_leaves=SIZE,
)
_FORMATS: Mapping[str, DrawnValues] = {
    "date": st.dates(),
    "date-time": st.datetimes() | st.datetimes(timezones=st.just(datetime.timezone.utc)),
    "email": st.emails(),
    "ipvanyaddress": st.ip_addresses(),
    "password": TEXT,
    "uri": st.builds("https://{}.org/{}".format, _NAMES.filter(str.isalnum), _NAMES),
}
"""By the format that the JSON schema of a pydantic kind, such as HttpUrl, tells."""


def plain(tp: type, bounds: Bounds) -> DrawnValues | None:
    """Make the strategy of a type that holds no others; None for other types."""
    if issubclass(tp, enum.Enum):
        return st.sampled_from(list(tp))
    if tp is os.PathLike or issubclass(tp, PurePath):
        kind: type = Path if tp is os.PathLike else tp
        return made_by(lambda names: kind(*names), st.lists(_NAMES, max_size=3))
    if hasattr(tp, "__get_pydantic_core_schema__") and tp.__module__.startswith("pydantic."):
        adapter = TypeAdapter(tp)
        known = _FORMATS.get(adapter.json_schema().get("format", ""))
        if known is None:
            raise impossible(tp)
        return made_by(adapter.validate_python, known)
    base = (
        tp if tp in _PLAIN else next((one for one in (str, bytes, int, float) if issubclass(tp, one)), None)
    )
    if base is None:
        return None
    values = within(bounds, _PLAIN[base](bounds))
    return values if base is tp else made_by(tp, values)


@st.composite
def _but_for_failures(draw: st.DrawFn, values: DrawnValues) -> Any:
    try:
        return draw(values)
    except HypothesisException:
        raise
    except Exception:
        return reject()


def by_hypothesis(tp: Any) -> DrawnValues:
    """Leave a class to Hypothesis's `from_type`.

    Raises:
        TypeError: It makes none, either.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", HypothesisWarning)  # a class made of nothing is always the same
        try:
            values = st.from_type(tp)
            values.validate()
        except Exception as error:
            raise impossible(tp) from error
    return _but_for_failures(values)

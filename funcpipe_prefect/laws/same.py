"""When two values count as the same: as the digest sees them, and approximate fields by tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, get_args, get_origin

from funcpipe_prefect.fingerprint import fingerprint
from funcpipe_prefect.schema import Approximate, canonical_encoder, fields_of, is_model, is_named_tuple

__all__ = ["alike", "same_records"]


def same_records(one: Any, other: Any) -> bool:
    """Tell whether two records, or lists of records, are the same.

    They are if they have equal canonical bytes, which is what a digest sees: the order of a dict's
    keys and of a set's elements does not count. Fields declared `Approximate` stay out of it and
    are compared by their tolerance.
    """
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_records, one, other))
    tp = _type_of(one)
    try:
        encode = canonical_encoder(tp)
        is_same = encode(one) == encode(other)
    except Exception:
        return alike(one, other) or (type(one) is type(other) and fingerprint(one) == fingerprint(other))
    return is_same and _approximately(one, other, tp)


def _type_of(record: Any) -> Any:
    cls = type(record)
    return cls if _hints(cls) else Any


def _hints(cls: Any) -> Mapping[str, Any]:
    try:
        return fields_of(cls)
    except (NameError, TypeError):
        return {}


def _approximately(one: Any, other: Any, tp: Any) -> bool:
    """Compare the fields that a digest leaves out, at any depth of record classes."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return all(_approximately(a, b, _type_of(a)) for a, b in zip(one, other, strict=False))
    for name, hint in _hints(tp).items():
        a, b = getattr(one, name, None), getattr(other, name, None)
        marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        mark = next((mark for mark in marks if isinstance(mark, Approximate)), None)
        if mark is not None and not alike(a, b, rel=mark.rel, abs_=mark.abs):
            return False
        if mark is None and not _approximately(a, b, _type_of(a)):
            return False
    return True


def alike(one: Any, other: Any, *, rel: float = 0.0, abs_: float = 0.0) -> bool:
    """Tell whether two values are equal at any depth; NaN equals NaN.

    Args:
        one: A value.
        other: Another one.
        rel: Relative tolerance of numbers.
        abs_: Absolute tolerance of numbers.
    """

    def inner(a: Any, b: Any) -> bool:
        return alike(a, b, rel=rel, abs_=abs_)

    if hasattr(one, "tolist") or hasattr(other, "tolist"):  # numpy arrays and scalars
        one, other = (value.tolist() if hasattr(value, "tolist") else value for value in (one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(inner(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and type(one) is type(other):
        return len(one) == len(other) and all(map(inner, one, other))
    if isinstance(one, AbstractSet) and isinstance(other, AbstractSet):
        return bool(one == other)
    if isinstance(one, float) or isinstance(other, float):
        return _close(one, other, rel, abs_)
    if type(one) is type(other) and (_hints(type(one)) or is_model(type(one)) or is_named_tuple(type(one))):
        if one == other:
            return True
        return all(inner(getattr(one, name), getattr(other, name)) for name in _hints(type(one)))
    try:
        return bool(one == other) or bool(one != one and other != other)
    except Exception:
        return False


def _close(one: Any, other: Any, rel: float, abs_: float) -> bool:
    try:
        return bool(
            one == other
            or (one != one and other != other)
            or ((rel or abs_) and math.isclose(one, other, rel_tol=rel, abs_tol=abs_))
        )
    except (TypeError, OverflowError):
        return False

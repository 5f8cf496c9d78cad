"""Values of records: made from plain ones, turned into plain ones, compared."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import os
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Any, get_origin

import msgspec

from funcpipe_prefect.schema.types import UNORDERED, field_names, is_model, is_named_tuple, type_name

__all__ = ["Walk", "coerce", "decode_foreign", "difference", "encode_foreign", "from_mapping"]


def encode_foreign(value: Any) -> Any:
    """Turn what msgspec does not know into plain values (its `enc_hook`)."""
    if is_model(type(value)):
        return value.model_dump(mode="python")
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return value.tolist()
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "unicode_string"):  # pydantic's URLs
        return str(value)
    raise TypeError(f"{type(value).__name__} values cannot be encoded")


def decode_foreign(tp: type, value: Any) -> Any:
    """Make what msgspec does not know from plain values (its `dec_hook`)."""
    if isinstance(value, tp):
        return value
    if is_model(tp):
        return tp.model_validate(value)  # type: ignore[attr-defined]
    if issubclass(tp, (os.PathLike, str, float)):
        return tp(value)  # type: ignore[call-arg]
    raise TypeError(f"{type_name(tp)} values cannot be decoded")


def coerce(value: Any, tp: Any) -> Any:
    """Give a value as an instance of `tp`: as it is, or validated from a mapping.

    Raises:
        ValueError: The value does not fit the type (msgspec and pydantic errors both are).
    """
    if tp is Any or (isinstance(tp, type) and get_origin(tp) is None and _is_instance(value, tp)):
        return value
    return from_mapping(value, tp)


def from_mapping(value: Any, tp: Any, *, strict: bool = True) -> Any:
    """Validate plain values into an instance of `tp`.

    Args:
        value: A mapping of field names to values, or whatever else the type is made from.
        tp: The record type.
        strict: Refuse text in place of numbers and booleans.

    Raises:
        ValueError: The value does not fit the type.
    """
    if is_model(tp):
        return tp.model_validate(value)
    if isinstance(value, Mapping) and is_named_tuple(tp):
        value = _in_order(value, tp)
    return msgspec.convert(value, tp, strict=strict, dec_hook=decode_foreign)


def _in_order(values: Mapping[str, Any], tp: Any) -> list[Any]:
    missing = [name for name in tp._fields if name not in values and name not in tp._field_defaults]
    if missing:
        raise ValueError(f"Object missing required field `{missing[0]}`")
    return [values.get(name, tp._field_defaults.get(name)) for name in tp._fields]


def _is_instance(value: Any, tp: type) -> bool:
    try:
        return isinstance(value, tp)
    except TypeError:  # TypedDict and friends
        return False


@dataclasses.dataclass(frozen=True)
class Walk:
    """Prepares, value by value, what a fast encoder refuses or would order by chance.

    Attributes:
        encode: Of the values within; the elements of a set are sorted by it.
        mapping: Makes what stands for a mapping from its prepared keys and values.
        integer: Makes what stands for an integer beyond 64 bits.
        keeps_offsets: Write a datetime with its offset from UTC, not as a moment alone.
    """

    encode: Callable[[Any], bytes]
    mapping: Callable[[list[tuple[Any, Any]]], Any] = dict
    integer: Callable[[int], Any] = int
    keeps_offsets: bool = False

    def __call__(self, value: Any) -> Any:
        """Prepare a value and all within."""
        if isinstance(value, enum.Enum):
            return self(value.value)
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            return self.integer(value)
        if isinstance(value, Mapping):
            return self.mapping([(key, self(item)) for key, item in value.items()])
        if isinstance(value, (list, tuple)):
            return [self(item) for item in value]
        if isinstance(value, UNORDERED):
            return [msgspec.Raw(item) for item in sorted(self.encode(self(item)) for item in value)]
        if is_model(type(value)) or hasattr(value, "tolist"):
            return self(encode_foreign(value))
        if self.keeps_offsets and isinstance(value, datetime.datetime):
            return value.isoformat()
        names = field_names(type(value))
        return value if names is None else {name: self(getattr(value, name)) for name in names}


_SCALARS = frozenset({bool, int, float, str, bytes, type(None)})


def difference(record: Any, back: Any) -> str:
    """Say where a record that was written and read differs from what it was; empty if nowhere."""
    if type(back) is float and isinstance(record, (int, float)):
        return "" if back == record or math.isnan(record) else f"{record!r} would come back as {back!r}"
    if type(back) is not type(record):
        return f"a {type(record).__name__} would come back as a {type(back).__name__}"
    if isinstance(record, dict):
        if list(record) != list(back):
            return "a dict would come back with other keys"
        return next(filter(None, (difference(record[key], back[key]) for key in record)), "")
    if isinstance(record, (list, tuple)):
        kinds = list(map(type, record))
        if kinds == list(map(type, back)) and _SCALARS.issuperset(kinds) and record == back:
            return ""
        if len(record) != len(back):
            return f"a {type(record).__name__} would come back with another length"
        return next(filter(None, map(difference, record, back)), "")
    names = tuple(vars(record)) if is_model(type(record)) else field_names(type(record))
    if names is not None:
        pairs = ((getattr(record, name), getattr(back, name)) for name in names)
        return next(filter(None, (difference(*pair) for pair in pairs)), "")
    if isinstance(record, datetime.datetime) and record.utcoffset() != back.utcoffset():
        return f"{record!r} would come back as {back!r}"
    if isinstance(getattr(record, "tzinfo", None), zoneinfo.ZoneInfo) and record.tzinfo.key != "UTC":
        return f"the time zone {record.tzinfo.key} would come back as a fixed offset, so use one or UTC"
    return "" if record == back else f"{record!r} would come back as {back!r}"

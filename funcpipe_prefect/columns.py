"""Record types as Arrow columns: what Parquet sinks and the partition store's `arrow` codec share."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import types
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from funcpipe_prefect.later import imported_later
from funcpipe_prefect.schema import encode_foreign, fields_of, is_model, is_named_tuple, type_name

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = imported_later("pyarrow")

__all__ = ["arrow_schema", "row_maker"]


@functools.cache
def _scalars() -> Mapping[Any, pa.DataType]:
    return {
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
        str: pa.string(),
        bytes: pa.binary(),
        datetime.datetime: pa.timestamp("us", tz="UTC"),
        datetime.date: pa.date32(),
        datetime.time: pa.time64("us"),
        datetime.timedelta: pa.duration("us"),
        decimal.Decimal: pa.decimal128(38, 18),
        uuid.UUID: pa.string(),
    }


_NATIVE = (bytes, datetime.datetime, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)


def row_maker(record_type: Any, native: tuple[type, ...] = _NATIVE) -> Callable[[Any], dict[str, Any]]:
    """Make the function that turns a record of this type into a row: its fields by name.

    Args:
        record_type: A type that `arrow_schema` admits.
        native: Types whose values stay what they are; other foreign values become text.

    Returns:
        A function that raises for a record that is not of this type.
    """
    hints = fields_of(record_type)
    names = tuple(hints)
    if dataclasses.is_dataclass(get_origin(record_type) or record_type) and all(
        _is_flat(hint, native) for hint in hints.values()
    ):
        return lambda record: {name: getattr(record, name) for name in names}
    plain: Callable[[Any], Any] = functools.partial(
        msgspec.to_builtins, builtin_types=native, enc_hook=encode_foreign, order="deterministic"
    )
    if is_model(record_type):
        return lambda record: plain({name: getattr(record, name) for name in names})
    if is_named_tuple(record_type):
        return lambda record: plain(record._asdict())

    def row(record: Any) -> dict[str, Any]:
        values: dict[str, Any] = plain(record)
        extra = values.keys() - hints.keys()
        if extra:
            raise ValueError(f"{type_name(record_type)} has no field {sorted(extra)[0]!r}")
        return values

    return row


def _is_flat(hint: Any, native: tuple[type, ...]) -> bool:
    if get_origin(hint) is Annotated:
        return _is_flat(get_args(hint)[0], native)
    if get_origin(hint) in (list, tuple, Union, types.UnionType):
        return all(_is_flat(part, native) for part in get_args(hint) if part is not Ellipsis)
    return hint in (bool, int, float, str, bytes, type(None)) or (
        hint in native and hint in (datetime.datetime, datetime.date)
    )


def arrow_schema(record_type: Any, changes: Mapping[Any, pa.DataType] | None = None) -> pa.Schema:
    """Derive the columns of a record type.

    Args:
        record_type: A dataclass, pydantic model, TypedDict, NamedTuple or Struct.
        changes: Column types in place of the usual ones, by Python type.

    Raises:
        TypeError: A field has no column type, or the type has no fields.
    """
    scalars = {**_scalars(), **(changes or {})}
    hints = fields_of(record_type)
    if not hints:
        raise TypeError(f"{type_name(record_type)} has no fields, so no columns")
    try:
        return pa.schema([pa.field(name, _arrow(hint, scalars, name)) for name, hint in hints.items()])
    except RecursionError:
        raise TypeError(f"{type_name(record_type)} holds itself: it has no end of columns") from None


def _arrow(hint: Any, scalars: Mapping[Any, pa.DataType], name: str) -> pa.DataType:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _arrow(args[0], scalars, name)
    if hint in scalars:
        return scalars[hint]
    if origin in (Union, types.UnionType):
        rest = [arg for arg in args if arg is not type(None)]
        if len(rest) == 1:
            return _arrow(rest[0], scalars, name)
    if origin is Literal:
        return _arrow(type(args[0]), scalars, name)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _arrow(type(next(iter(hint)).value), scalars, name)
    if origin in (list, set, frozenset, Sequence) or (origin is tuple and args[1:] == (Ellipsis,)):
        return pa.list_(_arrow(args[0], scalars, name))
    if origin in (dict, Mapping) and args[0] is str:
        return pa.map_(pa.string(), _arrow(args[1], scalars, name))
    if isinstance(hint, type) and origin is None and hint not in (Any, dict, list, tuple, set, object):
        parts = _fields_or_none(hint)
        if parts:
            return pa.struct([pa.field(key, _arrow(part, scalars, name)) for key, part in parts.items()])
    raise TypeError(f"field {name!r} of type {type_name(hint)} has no column type")


def _fields_or_none(hint: Any) -> Mapping[str, Any] | None:
    try:
        return fields_of(hint)
    except TypeError:
        return None

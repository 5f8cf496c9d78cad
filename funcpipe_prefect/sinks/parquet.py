"""Parquet: the record type's fields are the columns."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import itertools
import types
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from funcpipe_prefect.fingerprint import LAYOUT
from funcpipe_prefect.ir import Commit, Located, Part, Reject, Split
from funcpipe_prefect.schema import encode_foreign, fields_of, is_model, is_named_tuple, type_name
from funcpipe_prefect.sinks.directory import Directory

__all__ = ["ParquetSink", "arrow_schema"]

_ROWS = 2048

_SCALARS: Mapping[Any, pa.DataType] = {
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


@dataclass(frozen=True)
class ParquetSink:
    """A folder of Parquet files.

    Times are kept in UTC: a datetime without zone is taken as UTC and is read back with that zone.

    Attributes:
        path: Folder or fsspec URL.
        compression: Codec of the columns.
        float_type: How floats are kept; `float32` halves vectors that were computed in it.
    """

    path: str = dataclasses.field(metadata=LAYOUT)
    compression: Literal["zstd", "snappy", "gzip", "none"] = "zstd"
    float_type: Literal["float64", "float32"] = "float64"
    idempotent = True

    @cached_property
    def directory(self) -> Directory:
        """The output folder."""
        return Directory(self.path, ".parquet")

    @property
    def location(self) -> str:
        """The output folder's URL."""
        return self.path

    def check_type(self, record_type: Any) -> None:
        """Refuse, before anything runs, a record type that has no columns.

        Raises:
            TypeError: A field has no column type, or the type has no fields.
        """
        arrow_schema(record_type, self._float)

    @property
    def _float(self) -> pa.DataType:
        return pa.float32() if self.float_type == "float32" else pa.float64()

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        """Stage the records of one split; one that does not fit the columns is handed to `reject`."""
        schema = arrow_schema(record_type, self._float)
        row = _row_maker(record_type)
        with self.directory.staged(split) as file:
            writer = pq.ParquetWriter(file.raw, schema, compression=self.compression)
            try:
                while batch := list(itertools.islice(records, _ROWS)):
                    table = _table(batch, row, schema, reject)
                    writer.write_table(table)
                    file.records += table.num_rows
            finally:
                writer.close()
        return file.part

    def has(self, part: Part) -> bool:
        """Tell whether a part is staged or published, with its full size."""
        return self.directory.has(part)

    def sweep(self, token: str) -> None:
        """Remove the temporary files of a run."""
        self.directory.sweep(token)

    def published(self) -> Mapping[str, Commit]:
        """The entries that readers see, by stage key."""
        return self.directory.published()

    def commit(self, entries: Sequence[Commit]) -> None:
        """Make exactly these parts visible."""
        self.directory.commit(entries)


def _table(
    batch: list[Located], row: Callable[[Any], dict[str, Any]], schema: pa.Schema, reject: Reject
) -> pa.Table:
    """Make a table of the records that fit; when one does not, halve until it stands alone."""
    try:
        return pa.Table.from_pylist([row(record) for _, record in batch], schema=schema)
    except Exception as error:
        if len(batch) == 1:
            reject(*batch[0], error)
            return schema.empty_table()
    half = len(batch) // 2
    return pa.concat_tables(_table(part, row, schema, reject) for part in (batch[:half], batch[half:]))


_NATIVE = (bytes, datetime.datetime, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)


def _row_maker(record_type: Any) -> Callable[[Any], dict[str, Any]]:
    hints = fields_of(record_type)
    names = tuple(hints)
    if dataclasses.is_dataclass(record_type) and all(map(_is_flat, hints.values())):
        return lambda record: {name: getattr(record, name) for name in names}
    plain: Callable[[Any], Any] = functools.partial(
        msgspec.to_builtins, builtin_types=_NATIVE, enc_hook=encode_foreign, order="deterministic"
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


def _is_flat(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _is_flat(get_args(hint)[0])
    if get_origin(hint) in (list, tuple, Union, types.UnionType):
        return all(_is_flat(part) for part in get_args(hint) if part is not Ellipsis)
    return hint in (bool, int, float, str, bytes, type(None), datetime.datetime, datetime.date)


def arrow_schema(record_type: Any, float_type: pa.DataType | None = None) -> pa.Schema:
    """Derive the columns of a record type.

    Args:
        record_type: A dataclass, pydantic model, TypedDict, NamedTuple or Struct.
        float_type: Column type of floats; 64 bits by default.

    Raises:
        TypeError: A field has no column type, or the type has no fields.
    """
    floats = float_type or pa.float64()
    hints = fields_of(record_type)
    if not hints:
        raise TypeError(f"{type_name(record_type)} has no fields, so no columns")
    try:
        return pa.schema([pa.field(name, _arrow(hint, floats, name)) for name, hint in hints.items()])
    except RecursionError:
        raise TypeError(f"{type_name(record_type)} holds itself: it has no end of columns") from None


def _arrow(hint: Any, floats: pa.DataType, name: str) -> pa.DataType:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _arrow(args[0], floats, name)
    if hint is float:
        return floats
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin in (Union, types.UnionType):
        rest = [arg for arg in args if arg is not type(None)]
        if len(rest) == 1:
            return _arrow(rest[0], floats, name)
    if origin is Literal:
        return _arrow(type(args[0]), floats, name)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _arrow(type(next(iter(hint)).value), floats, name)
    if origin in (list, set, frozenset, Sequence) or (origin is tuple and args[1:] == (Ellipsis,)):
        return pa.list_(_arrow(args[0], floats, name))
    if origin in (dict, Mapping) and args[0] is str:
        return pa.map_(pa.string(), _arrow(args[1], floats, name))
    if isinstance(hint, type) and origin is None and hint not in (Any, dict, list, tuple, set, object):
        parts = _fields_or_none(hint)
        if parts:
            return pa.struct([pa.field(key, _arrow(part, floats, name)) for key, part in parts.items()])
    raise TypeError(f"field {name!r} of type {type_name(hint)} has no Parquet column type")


def _fields_or_none(hint: Any) -> Mapping[str, Any] | None:
    try:
        return fields_of(hint)
    except TypeError:
        return None

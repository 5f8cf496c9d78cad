"""How the records of a partition become bytes: by record type, without loss, each with its position.

    msgpack  zstd over length-prefixed MessagePack
    arrow    an Arrow IPC stream of record batches, compressed with zstd: a column for each field
    pickle   zstd over length-prefixed pickles; only for those who ask for it by name
    value    as msgpack where nothing is lost by it, else as pickle: a Combine's answer

A record is compared with what would be read back where it is written. `arrow` keeps a record
that does not fit its columns as MessagePack in a column of its own, so both refuse the same
records and either may stand in for the other under one stage key.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import itertools
import pickle
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from funcpipe_prefect.columns import arrow_schema, row_maker
from funcpipe_prefect.ir import CodecName, Located, Reject
from funcpipe_prefect.later import imported_later
from funcpipe_prefect.schema import difference, from_mapping, is_model, store_codec
from funcpipe_prefect.store.exchange import decode_value, encode_value, harmless

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = imported_later("pyarrow")

__all__ = ["PartitionCodec", "columns_of", "partition_codec"]

_HEADER = struct.Struct(">qI")  # position, length
_ROWS = 1024
_BESIDE = "msgpack"


@functools.cache
def _exact() -> Mapping[Any, pa.DataType]:
    return {
        datetime.datetime: pa.string(),  # a timestamp column has one zone for all, and no offset
        datetime.time: pa.string(),
        decimal.Decimal: pa.string(),  # a decimal column gives every value the same digits
    }


_NATIVE = (bytes, datetime.date, datetime.timedelta)


class PartitionCodec(Protocol):
    """Writes located records to a file and streams them back."""

    def write(self, file: Any, records: Iterable[Located], reject: Reject) -> int:
        """Write records, streaming; give how many. One without a lossless form goes to `reject`."""

    def read(self, file: Any) -> Iterator[Located]:
        """Stream what was written."""


@functools.cache
def partition_codec(name: CodecName, record_type: Any, *, may_unpickle: bool = True) -> PartitionCodec:
    """Make the codec of a record type.

    Raises:
        TypeError: `arrow` for a type without named fields, or with one that has no column type.
    """
    if name == "arrow":
        return _Columns(record_type)
    if name == "pickle":
        return _Framed(_pickled, pickle.loads)
    if name == "value":
        return _Framed(encode_value, decode_value if may_unpickle else _plain_value)
    codec = store_codec(record_type)
    return _Framed(codec.encode, codec.decode)


def columns_of(record_type: Any) -> pa.Schema:
    """Derive the columns in which the `arrow` codec keeps a record type.

    Raises:
        TypeError: The type has no named fields, or one without a column type.
    """
    return arrow_schema(record_type, _exact())


def _plain_value(data: bytes) -> Any:
    return harmless(data[1:], "an answer in the store") if data[0] else decode_value(data)


def _pickled(record: Any) -> bytes:
    return pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL)


class _Framed:
    """Each record by itself, behind its position and length."""

    def __init__(self, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> None:
        self._encode, self._decode = encode, decode

    def write(self, file: Any, records: Iterable[Located], reject: Reject) -> int:
        count = 0
        with pa.CompressedOutputStream(pa.PythonFile(file, "w"), "zstd") as out:
            for position, record in records:
                try:
                    data = self._encode(record)
                except Exception as error:
                    reject(position, record, error)
                    continue
                out.write(_HEADER.pack(position, len(data)) + data)
                count += 1
        return count

    def read(self, file: Any) -> Iterator[Located]:
        with pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd") as data:
            while head := data.read(_HEADER.size):
                position, length = _HEADER.unpack(head)
                yield position, self._decode(data.read(length))


class _Columns:
    """Record batches: positions first, then the fields, then what did not fit them.

    The fields' columns are found by their place, so a field may have any name.
    """

    def __init__(self, record_type: Any) -> None:
        self._type = record_type
        self._fields = columns_of(record_type)
        self._schema = pa.schema(
            [pa.field("position", pa.int64()), *self._fields, pa.field(_BESIDE, pa.binary())]
        )
        self._row = row_maker(record_type, _NATIVE)
        self._beside = store_codec(record_type)

    def write(self, file: Any, records: Iterable[Located], reject: Reject) -> int:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        count, located = 0, iter(records)
        with pa.ipc.new_stream(pa.PythonFile(file, "w"), self._schema, options=options) as out:
            while taken := list(itertools.islice(located, _ROWS)):
                batch = self._batch(taken, reject)
                out.write_batch(batch)
                count += batch.num_rows
        return count

    def _batch(self, taken: list[Located], reject: Reject) -> pa.RecordBatch:
        positions: list[int] = []
        rows: list[dict[str, Any]] = []
        beside: list[bytes | None] = []
        for (position, record), row in zip(taken, self._lossless(taken), strict=True):
            data = None
            if row is None or is_model(self._type):  # a model's own rules may refuse what columns hold
                try:
                    data = self._beside.encode(record)
                except Exception as error:
                    reject(position, record, error)
                    continue
            positions.append(position)
            rows.append(row or {})
            beside.append(data if row is None else None)
        fields = pa.RecordBatch.from_pylist(rows, schema=self._fields)
        columns = [pa.array(positions, pa.int64()), *fields.columns, pa.array(beside, pa.binary())]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _lossless(self, taken: list[Located]) -> list[dict[str, Any] | None]:
        """Give each record's row; None for one that would not come back as it is."""
        rows = [self._row_or_none(record) for _, record in taken]
        backs = self._back(rows) or [(self._back([row]) or [None])[0] for row in rows]
        return [
            row if row is not None and back is not None and self._is_same(record, back) else None
            for (_, record), row, back in zip(taken, rows, backs, strict=True)
        ]

    def _row_or_none(self, record: Any) -> dict[str, Any] | None:
        try:
            return self._row(record)
        except Exception:
            return None

    def _back(self, rows: list[dict[str, Any] | None]) -> list[dict[str, Any] | None] | None:
        """Put rows through their columns; None when one of them does not fit."""
        try:
            batch = pa.RecordBatch.from_pylist([row or {} for row in rows], schema=self._fields)
            return [*batch.to_pylist(maps_as_pydicts="strict")]
        except Exception:
            return None

    def _is_same(self, record: Any, back: dict[str, Any]) -> bool:
        try:
            return not difference(record, from_mapping(back, self._type))
        except Exception:
            return False

    def read(self, file: Any) -> Iterator[Located]:
        with pa.ipc.open_stream(pa.PythonFile(file, "r")) as batches:
            for batch in batches:
                positions, *columns, beside = batch.columns
                places: list[Any] = positions.to_pylist()
                fields = pa.RecordBatch.from_arrays(columns, schema=self._fields)
                rows = fields.to_pylist(maps_as_pydicts="strict")
                for position, row, data in zip(places, rows, beside.to_pylist(), strict=True):
                    record = from_mapping(row, self._type) if data is None else self._beside.decode(data)
                    yield position, record

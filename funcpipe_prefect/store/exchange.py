"""Exchange files: what the first half of a grouping operator hands to its second.

    <root>/partitions/<two digits>/<key>.fpx

A file has segments, each of them for one slot; the keys of a slot are neighbours in the keys'
order. A receipt lists the segments with their places and checksums, so a reader takes only those
of its own range of keys.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cloudpickle
import msgspec

from funcpipe_prefect.errors import BackendError, CorruptPartition
from funcpipe_prefect.later import imported_later
from funcpipe_prefect.plan import Segment
from funcpipe_prefect.schema import store_codec

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = imported_later("pyarrow")

__all__ = [
    "ALLOW_PICKLE",
    "ExchangeWriter",
    "decode_value",
    "encode_value",
    "harmless",
    "read_segments",
    "refusal",
]

ALLOW_PICKLE = "PREFECT_INTEGRATIONS_FUNCPIPE_ALLOW_PICKLE"
"""Environment variable: `true` lets pickles be read from a store that others may write to."""

_BUFFERED_BYTES = 16 << 20
_ROWS = 1 << 15
_SCALARS = frozenset({bool, int, float, str, bytes, type(None)})
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[bool, msgspec.Raw]]).decode
_decode_plain = msgspec.msgpack.Decoder().decode


class ExchangeWriter:
    """Writes columns of equal length to the slots of their keys.

    Args:
        file: Opened for writing bytes.
        slots: How many there are.
        slot_of: Gives the slot of a key, which is what the first column holds.
    """

    def __init__(self, file: Any, slots: int, slot_of: Callable[[bytes], int]) -> None:
        self._file, self._slots, self._slot_of = file, slots, slot_of
        self.segments: list[Segment] = []
        self._offset = self._buffered = 0
        self._rows: list[list[tuple[Any, ...]]] = [[] for _ in range(slots)]

    def add_table(self, columns: Sequence[Sequence[Any]]) -> int:
        """Write columns at once; give the bytes written."""
        begin, slot_of, rows = self._offset, self._slot_of, self._rows
        for row in zip(*columns, strict=True):
            rows[slot_of(row[0])].append(row)
        self.flush()
        return self._offset - begin

    def add(self, *row: Any, size: int) -> None:
        """Write a row sooner or later.

        Args:
            row: A value for each column.
            size: About how many bytes it has.
        """
        self._rows[self._slot_of(row[0])].append(row)
        self._buffered += size
        if self._buffered > _BUFFERED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered."""
        for slot, rows in enumerate(self._rows):
            for begin in range(0, len(rows), _ROWS):
                self._write(slot, [*zip(*rows[begin : begin + _ROWS], strict=True)])
            rows.clear()
        self._buffered = 0

    def _write(self, slot: int, columns: list[tuple[Any, ...]]) -> None:
        raw = _encode([_encoded(column) for column in columns])
        data = pa.compress(raw, codec="lz4", asbytes=True)
        self._file.write(data)
        checksum = hashlib.sha256(data).hexdigest()[:32]
        self.segments.append(Segment(slot, self._offset, len(data), len(raw), len(columns[0]), checksum))
        self._offset += len(data)


def _encoded(column: tuple[Any, ...]) -> tuple[bool, Any]:
    """Encode a column: as MessagePack where nothing can be lost, else by pickle."""
    if _SCALARS.issuperset(map(type, column)):
        try:
            return False, msgspec.Raw(_encode(column))
        except (ValueError, OverflowError):  # an integer or a text without a form
            pass
    try:
        data = pickle.dumps(list(column), protocol=5)
    except Exception:
        data = cloudpickle.dumps(list(column))
    return True, msgspec.Raw(_encode(data))


def read_segments(
    file: Any, path: str, segments: Iterable[Segment], *, may_unpickle: bool = True
) -> Iterator[list[list[Any]]]:
    """Read segments, in their order; each gives its columns.

    Raises:
        CorruptPartition: FP407, a segment is not what was written.
        BackendError: FP501, it is pickled where that may not be read.
    """
    for segment in segments:
        file.seek(segment.offset)
        data = file.read(segment.size)
        if hashlib.sha256(data).hexdigest()[:32] != segment.sha256:
            raise CorruptPartition(f"{path} is not what was written at byte {segment.offset}")
        raw = pa.decompress(data, decompressed_size=segment.raw, codec="lz4", asbytes=True)
        yield [_decoded(*column, path, may_unpickle) for column in _decode(raw)]


def _decoded(is_pickled: bool, data: msgspec.Raw, path: str, may_unpickle: bool) -> Any:
    plain = _decode_plain(data)
    if not is_pickled:
        return plain
    return pickle.loads(plain) if may_unpickle else harmless(plain, path)


_HARMLESS = {
    "builtins": {"bytearray", "complex", "frozenset", "set"},
    "collections": {"Counter", "OrderedDict"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "uuid": {"UUID"},
    "funcpipe_prefect.keyed": {"KeyValue", "WindowedValue"},
    "funcpipe_prefect.statistics": {"Least"},
}
"""Classes whose values hold data and run nothing: those of the built-in monoids are among them."""


class _Harmless(pickle.Unpickler):
    """Reads pickles of harmless classes alone."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in _HARMLESS.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def harmless(data: bytes, path: str) -> Any:
    """Unpickle values of harmless classes.

    Raises:
        BackendError: FP501, there is another one.
    """
    try:
        return _Harmless(io.BytesIO(data)).load()
    except Exception as error:
        raise refusal(path) from error


def refusal(path: str) -> BackendError:
    """Say why a file is not unpickled."""
    return BackendError(
        f"{path} is pickled, and whoever may write there could have any code run by it: keep the store where "
        f"only you may write, let values be plain (text, numbers, lists, records), or set {ALLOW_PICKLE}=true"
    )


def encode_value(value: Any) -> bytes:
    """Encode any object behind a byte that tells how: as MessagePack without loss, else by pickle."""
    try:
        return b"\0" + store_codec().encode(value)
    except Exception:
        return b"\1" + bytes(cloudpickle.dumps(value))


def decode_value(data: bytes) -> Any:
    """Decode what `encode_value` gives."""
    return cloudpickle.loads(data[1:]) if data[0] else store_codec().decode(data[1:])

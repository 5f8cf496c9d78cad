"""Partitions in files named by their stage key, under any fsspec URL.

    <root>/partitions/<two digits>/<key>.fpp      records: zstd over length-prefixed MessagePack
    <root>/partitions/<two digits>/<key>.letters  dead letters of the stage, JSON Lines
    <root>/partitions/<two digits>/<key>.json     the receipt; it is written last

A stage that writes to a sink, merges or counts leaves its receipt alone.

A file is written under a temporary name and renamed. The receipt holds the checksum and the
size; without a receipt there is no partition, and a file that does not match is never used.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import fsspec
import msgspec
import pyarrow as pa

from funcpipe_prefect.errors import CorruptPartition, SinkError
from funcpipe_prefect.ir import Located
from funcpipe_prefect.plan import StageReceipt, StoredPartition
from funcpipe_prefect.running import temporary_name
from funcpipe_prefect.schema import store_codec

__all__ = ["PartitionStore"]

_HEADER = struct.Struct(">qI")  # position, length


@dataclass(frozen=True)
class PartitionStore:
    """Materialized partitions below a URL.

    Attributes:
        url: Root folder or fsspec URL.
    """

    url: str

    @cached_property
    def _place(self) -> tuple[Any, str]:
        fs, root = fsspec.url_to_fs(self.url)
        return fs, root.rstrip("/")

    def _path(self, key: str, suffix: str) -> str:
        return f"{self._place[1]}/partitions/{key[:2]}/{key}.{suffix}"

    def lookup(self, key: str) -> StageReceipt | None:
        """Find a partition whose file is there with its full size and its dead letters as written.

        The records' checksum is verified when they are read.
        """
        receipt = self.receipt(key)
        try:
            return receipt if receipt is not None and self._is_whole(key, receipt) else None
        except OSError:
            return None

    def receipt(self, key: str) -> StageReceipt | None:
        """Read the receipt of a stage that ended, whether or not what it made is there still."""
        try:
            data = self._place[0].cat_file(self._path(key, "json"))
            return msgspec.json.decode(data, type=StageReceipt)
        except (OSError, ValueError):  # msgspec's errors are ValueErrors
            return None

    def _is_whole(self, key: str, receipt: StageReceipt) -> bool:
        fs, _ = self._place
        stored, letters = receipt.stored, receipt.entry.dead_letters[-1:]
        if stored is None or stored.key != key or fs.size(self._path(key, "fpp")) != stored.size:
            return False
        path = self._path(key, "letters")
        return all(self._checksum(path) == (part.sha256, part.size) for part in letters if part.file)

    def forget(self, key: str) -> None:
        """Remove a partition's receipt, so that it is computed again."""
        fs, _ = self._place
        if fs.exists(self._path(key, "json")):
            fs.rm_file(self._path(key, "json"))

    def write(
        self,
        key: str,
        records: Iterable[Located],
        record_type: Any,
        reject: Callable[[int, Any, Exception], None],
    ) -> StoredPartition:
        """Store a partition, streaming.

        Args:
            key: The stage key.
            records: Each record with the position of the source record that it stems from.
            record_type: Its declared type; decides the codec.
            reject: Receives a record that has no lossless encoding.

        Returns:
            Its reference.

        Raises:
            SinkError: FP408, the file cannot be written.
        """
        encode = store_codec(record_type).encode
        count = 0
        with self._temporary(key, "fpp") as file:
            with pa.CompressedOutputStream(pa.PythonFile(file.raw, "w"), "zstd") as out:
                for position, record in records:
                    try:
                        data = encode(record)
                    except Exception as error:
                        reject(position, record, error)
                        continue
                    out.write(_HEADER.pack(position, len(data)) + data)
                    count += 1
            # Of the own file, before another writer of this key can put its own in the place.
            sha256, size = self._checksum(file.temporary)
        return StoredPartition(key, count, size, sha256)

    def sweep(self, token: str, keys: Iterable[str]) -> None:
        """Remove the temporary files under these keys of a run whose processes have ended."""
        fs, _ = self._place
        folders = {self._path(key, "").rpartition("/")[0] for key in keys}
        for folder in folders:
            with suppress(OSError):
                for path in fs.glob(f"{folder}/*.{token}-*.tmp"):
                    fs.rm_file(path)

    def write_letters(self, key: str, lines: IO[bytes]) -> None:
        """Store a stage's dead letters beside its partition."""
        with self._temporary(key, "letters") as file:
            shutil.copyfileobj(lines, file.raw)

    def write_receipt(self, key: str, receipt: StageReceipt) -> None:
        """Finish a partition: from now on it is found."""
        with self._temporary(key, "json") as file:
            file.raw.write(msgspec.json.encode(receipt))

    def read(self, stored: StoredPartition, record_type: Any) -> Iterator[Located]:
        """Stream a partition, after its checksum was verified.

        Raises:
            CorruptPartition: FP407, the file is missing, truncated or not what was written.
        """
        fs, _ = self._place
        path = self._path(stored.key, "fpp")
        try:
            sha256, size = self._checksum(path)
        except FileNotFoundError as error:
            raise CorruptPartition(f"{path} is missing") from error
        if sha256 != stored.sha256:
            raise CorruptPartition(
                f"{path} has {size} bytes and is not what was written ({stored.size} bytes)"
            )
        return self._records(fs, path, record_type)

    @staticmethod
    def _records(fs: Any, path: str, record_type: Any) -> Iterator[Located]:
        decode = store_codec(record_type).decode
        with fs.open(path, "rb") as raw, pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd") as data:
            while head := data.read(_HEADER.size):
                position, length = _HEADER.unpack(head)
                yield position, decode(data.read(length))

    def open_letters(self, key: str) -> Any:
        """Open a stage's dead letters for reading."""
        return self._place[0].open(self._path(key, "letters"), "rb")

    def _checksum(self, path: str) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        with self._place[0].open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
        return digest.hexdigest(), size

    def _temporary(self, key: str, suffix: str) -> _Renamed:
        return _Renamed(self._place[0], self._path(key, suffix))


class _Renamed:
    """A file that gets its name when it was written without error, and vanishes otherwise."""

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path = fs, path
        self.temporary = f"{path}.{temporary_name()}"
        self.raw: Any = None

    def __enter__(self) -> _Renamed:
        with self._named():
            self._fs.makedirs(self._path.rpartition("/")[0], exist_ok=True)
            self.raw = self._fs.open(self.temporary, "wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            with self._named():
                self.raw.close()
                if kind is None:
                    self._fs.mv(self.temporary, self._path)
        finally:
            with suppress(OSError):
                if self._fs.exists(self.temporary):
                    self._fs.rm_file(self.temporary)
        if isinstance(error, OSError):
            raise SinkError(f"cannot write {self._path}: {error}") from error

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SinkError(f"cannot write {self._path}: {error}") from error

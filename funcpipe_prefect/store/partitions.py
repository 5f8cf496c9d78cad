"""Partitions in files named by their stage key, under any fsspec URL.

    <root>/partitions/<two digits>/<key>.fpp      records, in the codec that the receipt names
    <root>/partitions/<two digits>/<key>.fpx      partial answers on their way to where they are merged
    <root>/partitions/<two digits>/<key>.letters  dead letters of the stage, JSON Lines
    <root>/partitions/<two digits>/<key>.json     the receipt; it is written last
    <root>/partitions/<two digits>/<key>.failed   the records behind the dead letters, without loss
    <root>/partitions/<two digits>/<key>.again    what came of them when they were run again
    <root>/partitions/<two digits>/<key>.<run>.json   the receipt of what a sink was given of them then
    <root>/partitions/<two digits>/<key>.lock     while somebody computes it, with `isolation`

A stage that writes to a sink or counts leaves its receipt alone.

A file is written under a temporary name and renamed. The receipt holds the checksum and the
size, and a checksum of itself; without a receipt there is no partition, and a file that does not
match is never used.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import msgspec
from fsspec.implementations.local import LocalFileSystem

from funcpipe_prefect.errors import CorruptPartition, SinkError
from funcpipe_prefect.ir import CodecName, Located, Reject
from funcpipe_prefect.plan import Segment, StageReceipt, StoredPartition
from funcpipe_prefect.running import temporary_name
from funcpipe_prefect.storage import filesystem
from funcpipe_prefect.store.codecs import partition_codec
from funcpipe_prefect.store.exchange import ALLOW_PICKLE, ExchangeWriter, read_segments, refusal
from funcpipe_prefect.store.locks import PartitionLock

__all__ = ["PartitionStore", "RenamedFile", "sealed", "unsealed"]


class _Sealed(msgspec.Struct):
    """A receipt's file."""

    receipt: msgspec.Raw
    sha256: str


_FEW_KEYS = 256  # as many as there are folders


@dataclass(frozen=True)
class PartitionStore:
    """Materialized partitions below a URL.

    Attributes:
        url: Root folder or fsspec URL.
    """

    url: str

    @cached_property
    def _place(self) -> tuple[Any, str]:
        fs, root = filesystem(self.url)
        return fs, root.rstrip("/")

    def _path(self, key: str, suffix: str) -> str:
        """Give a file's path; what is kept beside a partition, as `<key>.failed`, has an ending already."""
        name = key if suffix == "fpp" and "." in key else f"{key}.{suffix}"
        return f"{self._place[1]}/partitions/{key[:2]}/{name}"

    def lookup(self, key: str) -> StageReceipt | None:
        """Find a partition whose file is there with its full size and its dead letters as written.

        The records' checksum is verified when they are read.
        """
        receipt = self.receipt(key)
        return receipt if receipt is not None and not self.damage(key, receipt) else None

    def receipt(self, key: str) -> StageReceipt | None:
        """Read the receipt of a stage that ended, whether or not what it made is there still."""
        try:
            return unsealed(self._place[0].cat_file(self._path(key, "json")))
        except (OSError, ValueError):
            return None

    def with_receipts(self, keys: Iterable[str]) -> set[str]:
        """Find which keys may have a receipt: of many by listing their folders, of a few all of them."""
        fs, root = self._place
        found: set[str] = set()
        wanted = set(keys)
        if len(wanted) <= _FEW_KEYS:
            return wanted
        for shard in {key[:2] for key in wanted}:
            with suppress(FileNotFoundError):
                names = (
                    path.rpartition("/")[2] for path in fs.ls(f"{root}/partitions/{shard}", detail=False)
                )
                found.update(name.removesuffix(".json") for name in names if name.endswith(".json"))
        return found & wanted

    def damage(self, key: str, receipt: StageReceipt | None) -> str:
        """Say what is wrong with a partition, for a person; empty when nothing is or there is none.

        Args:
            key: The stage key.
            receipt: What `receipt` gave for it.
        """
        fs, _ = self._place
        path = self._path(key, "json")
        try:
            if receipt is None:
                return f"{path} is not what was written" if fs.exists(path) else ""
            if receipt.entry.key != key:
                return f"{path} is the receipt of another partition"
            if receipt.exchange is not None:
                return self._damage_of_exchange(key, receipt.exchange)
            return "" if receipt.stored is None else self._damage_of_files(key, receipt, receipt.stored)
        except OSError as error:
            return f"{path} cannot be checked: {error}"

    def _damage_of_files(self, key: str, receipt: StageReceipt, stored: StoredPartition) -> str:
        fs, _ = self._place
        path = self._path(key, "fpp")
        if not fs.exists(path):
            return f"{path} is missing"
        size = fs.size(path)
        if size != stored.size:
            return f"{path} has {size} bytes, not the {stored.size} that were written"
        path = self._path(key, "letters")
        for part in receipt.entry.dead_letters[-1:]:
            if part.file and not fs.exists(path):
                return f"{path} is missing"
            if part.file and self._checksum(path) != (part.sha256, part.size):
                return f"{path} is not what was written"
        return ""

    def _damage_of_exchange(self, key: str, segments: Sequence[Segment]) -> str:
        fs, _ = self._place
        path = self._path(key, "fpx")
        if not fs.exists(path):
            return f"{path} is missing"
        expected, size = sum(segment.size for segment in segments), fs.size(path)
        return "" if size == expected else f"{path} has {size} bytes, not the {expected} that were written"

    def lock(self, key: str) -> PartitionLock:
        """The lock of a partition; only where `can_lock` says so of the store's URL."""
        return PartitionLock(Path(self._path(key, "lock")))

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
        reject: Reject,
        codec: CodecName = "msgpack",
    ) -> StoredPartition:
        """Store a partition, streaming.

        Args:
            key: The stage key.
            records: Each record with the position of the source record that it stems from.
            record_type: Its declared type.
            reject: Receives a record that has no lossless encoding.
            codec: How the records are written.

        Returns:
            Its reference.

        Raises:
            SinkError: FP408, the file cannot be written.
        """
        with self._temporary(key, "fpp") as file:
            count = partition_codec(codec, record_type).write(file.raw, records, reject)
            file.raw.close()
            # Of the own file, before another writer of this key can put its own in the place.
            sha256, size = self._checksum(file.temporary)
        return StoredPartition(key, count, size, sha256, codec)

    @contextmanager
    def exchange(self, key: str, slots: int, slot_of: Callable[[bytes], int]) -> Iterator[ExchangeWriter]:
        """Write an exchange file; it is there when the block ends without error.

        Args:
            key: The stage key.
            slots: How many slots it has.
            slot_of: Gives the slot of a key.

        Raises:
            SinkError: FP408, the file cannot be written.
        """
        with self._temporary(key, "fpx") as file:
            writer = ExchangeWriter(file.raw, slots, slot_of)
            yield writer
            writer.flush()

    def exchanged(self, key: str, segments: Iterable[Segment]) -> Iterator[list[list[Any]]]:
        """Read segments of an exchange file, each as its columns.

        Raises:
            CorruptPartition: FP407, the file is missing or not what was written.
        """
        path = self._path(key, "fpx")
        try:
            with self._place[0].open(path, "rb") as file:
                yield from read_segments(file, path, segments, may_unpickle=self._may_unpickle)
        except FileNotFoundError as error:
            raise CorruptPartition(f"{path} is missing") from error

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
            file.raw.write(sealed(receipt))

    def read(self, stored: StoredPartition, record_type: Any) -> Iterator[Located]:
        """Stream a partition, after its checksum was verified.

        Raises:
            CorruptPartition: FP407, the file is missing, truncated or not what was written.
        """
        path = self._path(stored.key, "fpp")
        try:
            sha256, size = self._checksum(path)
        except FileNotFoundError as error:
            raise CorruptPartition(f"{path} is missing") from error
        if sha256 != stored.sha256:
            raise CorruptPartition(
                f"{path} has {size} bytes and is not what was written ({stored.size} bytes)"
            )
        return self._records(path, stored.codec, record_type)

    def _records(self, path: str, codec: CodecName, record_type: Any) -> Iterator[Located]:
        if codec == "pickle" and not self._may_unpickle:
            raise refusal(path)
        with self._place[0].open(path, "rb") as file:
            yield from partition_codec(codec, record_type, may_unpickle=self._may_unpickle).read(file)

    @cached_property
    def _may_unpickle(self) -> bool:
        """A pickle may run any code: it is read only where nobody else may write, or by consent."""
        if os.environ.get(ALLOW_PICKLE, "").lower() in ("1", "true", "yes"):
            return True
        fs, root = self._place
        if not isinstance(fs, LocalFileSystem):
            return False
        try:
            found = Path(root).stat()
        except OSError:
            return True
        return found.st_uid == os.getuid() and not found.st_mode & 0o022

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

    def _temporary(self, key: str, suffix: str) -> RenamedFile:
        return RenamedFile(self._place[0], self._path(key, suffix))


def sealed(receipt: StageReceipt) -> bytes:
    """Write a receipt, with a checksum of itself."""
    data = msgspec.json.encode(receipt)
    return msgspec.json.encode(_Sealed(msgspec.Raw(data), _hash(data)))


def unsealed(data: bytes) -> StageReceipt:
    """Read a receipt's file.

    Raises:
        ValueError: It is not what was written.
    """
    sealed = msgspec.json.decode(data, type=_Sealed)
    if _hash(sealed.receipt) != sealed.sha256:
        raise ValueError("the receipt does not match its checksum")
    return msgspec.json.decode(sealed.receipt, type=StageReceipt)


def _hash(data: bytes | msgspec.Raw) -> str:
    return hashlib.sha256(data).hexdigest()


class RenamedFile:
    """A file that gets its name when it was written without error, and vanishes otherwise."""

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path = fs, path
        self.temporary = f"{path}.{temporary_name()}"
        self.raw: Any = None

    def __enter__(self) -> RenamedFile:
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

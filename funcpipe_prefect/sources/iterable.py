"""Records that a Python program already holds."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cloudpickle
from pydantic import PositiveInt

from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.fingerprint import LAYOUT, fingerprint, key_of
from funcpipe_prefect.ir import Located, Split, Undecodable
from funcpipe_prefect.schema import canonical_encoder, coerce
from funcpipe_prefect.storage import filesystem, open_file

__all__ = ["IterableSource", "SpooledSource"]

_MOST_SPLITS, _RECORDS_PER_SPLIT = 32, 256


@dataclass(frozen=True)
class IterableSource:
    """A list of records, or of mappings that fit the record type; split by index.

    Attributes:
        records: The records.
        splits: How many splits to make; by default one for each 256 records, at most 32.
    """

    records: tuple[Any, ...] = dataclasses.field(metadata=LAYOUT, repr=False)
    splits: PositiveInt | None = dataclasses.field(default=None, metadata=LAYOUT)

    @classmethod
    def of(cls, records: Iterable[Any], splits: int | None = None) -> IterableSource:
        """Hold any iterable; a generator is read now, so that a split can be read twice."""
        return cls(tuple(records), splits)

    def list_splits(self) -> list[Split]:
        """Cut the list into slices of equal length."""
        count = len(self.records)
        wanted = self.splits or min(_MOST_SPLITS, -(-count // _RECORDS_PER_SPLIT))
        step = max(1, -(-count // max(1, wanted)))
        return [
            Split(
                f"records-{start:09d}",
                "records",
                start,
                min(start + step, count),
                self._identity(start, step),
            )
            for start in range(0, count, step)
        ]

    def _identity(self, start: int, step: int) -> str:
        return key_of(*(_identity_of(record) for record in self.records[start : start + step]))

    def read(self, split: Split, record_type: Any) -> Iterator[Located]:
        """Stream a slice; each position is an index."""
        yield from _coerced(self.records[split.start : split.stop], split.start, record_type)

    def locate(self, split: Split, position: int) -> str:
        """Give the index."""
        return f"records[{position}]"

    def spooled(self, folder: str, record_type: Any) -> SpooledSource:
        """Write the records to files below `folder`, so that other processes read them there.

        Raises:
            SourceError: FP409, a record has no form that another process could read back.
        """
        splits = self.list_splits()
        hashes: dict[str, str] = {}
        fs, root = filesystem(folder)
        fs.makedirs(root, exist_ok=True)
        for split in splits:
            data = _portable(list(self.read(split, record_type)))
            hashes[split.name] = hashlib.sha256(data).hexdigest()
            with fs.open(f"{root}/{_file_of(split)}", "wb") as file:
                file.write(data)
        return SpooledSource(folder, splits, hashes)


@dataclass(frozen=True)
class SpooledSource:
    """An `IterableSource` whose records were written to files for other processes.

    Attributes:
        folder: URL of the files.
        slices: The splits of the source that it stands for.
        hashes: SHA-256 of each file, by the split's name: what somebody else put there is not read.
    """

    folder: str = dataclasses.field(metadata=LAYOUT)
    slices: list[Split] = dataclasses.field(metadata=LAYOUT)
    hashes: dict[str, str] = dataclasses.field(default_factory=dict, metadata=LAYOUT)

    @property
    def stands_for(self) -> IterableSource:
        """The kind of source that it is in stage keys: the same records have the same keys on any backend."""
        return IterableSource(())

    def list_splits(self) -> list[Split]:
        """Give the splits of the original."""
        return self.slices

    def read(self, split: Split, record_type: Any) -> Iterator[Located]:
        """Stream a slice from its file.

        Raises:
            SourceError: FP409, the file is not what was written.
        """
        path = f"{self.folder}/{_file_of(split)}"
        with open_file(path) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != self.hashes.get(split.name):
            raise SourceError(f"{path} is not what was written")
        yield from cloudpickle.loads(data)

    def locate(self, split: Split, position: int) -> str:
        """Give the index."""
        return f"records[{position}]"


def _coerced(records: Iterable[Any], start: int, record_type: Any) -> Iterator[Located]:
    for index, record in enumerate(records, start):
        try:
            value = coerce(record, record_type)
        except Exception as error:
            raw = repr(record).encode("utf-8", "replace")
            value = Undecodable(raw, type(error).__name__, str(error))
        yield index, value


def _file_of(split: Split) -> str:
    return f"{split.name}-{split.identity[:16]}.pickle"


def _portable(records: list[Located]) -> bytes:
    try:
        return bytes(cloudpickle.dumps(records))
    except Exception as error:
        raise SourceError(f"a record cannot be sent to another process: {error}") from error


def _identity_of(record: Any) -> str:
    try:
        return f"{type(record).__qualname__} {canonical_encoder()(record).hex()}"
    except Exception:
        return fingerprint(record)

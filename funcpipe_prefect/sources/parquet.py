"""Parquet, split by row groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import ByteSize, PositiveInt

from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.fingerprint import LAYOUT
from funcpipe_prefect.ir import Located, Split, Undecodable
from funcpipe_prefect.later import imported_later
from funcpipe_prefect.schema import coerce
from funcpipe_prefect.sources.content import identify_files
from funcpipe_prefect.sources.files import InputFile, find_files
from funcpipe_prefect.storage import open_file

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
else:
    pa = imported_later("pyarrow")
    pq = imported_later("pyarrow.parquet")

__all__ = ["ParquetSource", "records_of"]

_BATCH_ROWS = 1024


@dataclass(frozen=True)
class ParquetSource:
    """One record a row, its fields the columns.

    Attributes:
        path: File, folder, glob or fsspec URL.
        split_size: Uncompressed bytes in a split; a split holds at least one row group.
        splits: About how many splits to make instead.
        columns: Read only these.
        by_content: Files are recognised by a hash of their bytes, not by size with modification
            time or ETag.
    """

    path: str = dataclasses.field(metadata=LAYOUT)
    split_size: ByteSize = dataclasses.field(default=ByteSize(64 * 2**20), metadata=LAYOUT)
    splits: PositiveInt | None = dataclasses.field(default=None, metadata=LAYOUT)
    columns: tuple[str, ...] | None = None
    by_content: bool = dataclasses.field(default=False, metadata=LAYOUT)

    def list_splits(self) -> list[Split]:
        """Group row groups, by the files' footers alone."""
        found = find_files(self.path, (".parquet",))
        if self.by_content:
            found = identify_files(found)
        files = [(file, self._group_sizes(file)) for file in found]
        total = sum(sum(sizes) for _, sizes in files)
        step = max(1, -(-total // self.splits)) if self.splits else int(self.split_size)
        return [split for file, sizes in files for split in _groups(file, sizes, step)]

    def read(self, split: Split, record_type: Any) -> Iterator[Located]:
        """Stream the rows; each position is the row's number in its file, from 0.

        Raises:
            SourceError: FP409, the file is missing or damaged.
        """
        names = list(self.columns) if self.columns else None
        try:
            with open_file(split.location) as raw, pq.ParquetFile(raw) as file:
                groups = list(range(split.start, split.stop))
                position = sum(file.metadata.row_group(index).num_rows for index in range(split.start))
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=names):
                    for record in records_of(batch, record_type):
                        yield position, record
                        position += 1
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{split.location} is not a readable Parquet file: {error}") from error

    def _group_sizes(self, file: InputFile) -> list[int]:
        try:
            with open_file(file.url) as raw, pq.ParquetFile(raw) as opened:
                metadata, known = opened.metadata, opened.schema_arrow.names
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{file.url} is not a readable Parquet file: {error}") from error
        unknown = sorted(set(self.columns or ()) - set(known))
        if unknown:
            raise SourceError(f"{file.url} has no column {', '.join(unknown)}; it has {', '.join(known)}")
        return [metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)]

    def locate(self, split: Split, position: int) -> str:
        """Give file and row."""
        return f"{split.location} (row {position})"


def records_of(batch: pa.RecordBatch, record_type: Any) -> Iterator[Any]:
    """Give the rows of a batch; a value that Python cannot hold costs its own row alone."""
    try:
        rows = batch.to_pylist(maps_as_pydicts="strict")
    except Exception:
        for index in range(batch.num_rows):
            yield _single(batch.slice(index, 1), record_type)
        return
    for row in rows:
        try:
            record = coerce(row, record_type)
        except Exception as error:
            raw = msgspec.json.encode(row, enc_hook=repr)
            record = Undecodable(raw, type(error).__name__, str(error))
        yield record


def _single(batch: pa.RecordBatch, record_type: Any) -> Any:
    try:
        return coerce(batch.to_pylist(maps_as_pydicts="strict")[0], record_type)
    except Exception as error:
        return Undecodable(str(batch).encode("utf-8", "replace"), type(error).__name__, str(error))


def _groups(file: InputFile, sizes: list[int], step: int) -> Iterator[Split]:
    start = gathered = 0
    for index, size in enumerate(sizes):
        gathered += size
        if gathered >= step or index == len(sizes) - 1:
            name = file.name if start == 0 and index == len(sizes) - 1 else f"{file.name}-{start:06d}"
            yield Split(name, file.url, start, index + 1, file.identity, gathered)
            start, gathered = index + 1, 0

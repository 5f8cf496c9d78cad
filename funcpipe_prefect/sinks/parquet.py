"""Parquet: the record type's fields are the columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from funcpipe_prefect.columns import arrow_schema, row_maker
from funcpipe_prefect.fingerprint import LAYOUT
from funcpipe_prefect.ir import Commit, Located, Part, Reject, Split
from funcpipe_prefect.later import imported_later
from funcpipe_prefect.sinks.directory import Directory
from funcpipe_prefect.sinks.staging import write_rows

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = imported_later("pyarrow")

__all__ = ["ParquetSink"]

_ROWS = 2048


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

    def version(self) -> str:
        """Name what is published."""
        return self.directory.version()

    def check_type(self, record_type: Any) -> None:
        """Refuse, before anything runs, a record type that has no columns.

        Raises:
            TypeError: A field has no column type, or the type has no fields.
        """
        arrow_schema(record_type, {float: self._float})

    @property
    def _float(self) -> pa.DataType:
        return pa.float32() if self.float_type == "float32" else pa.float64()

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        """Stage the records of one split; one that does not fit the columns is handed to `reject`."""
        schema = arrow_schema(record_type, {float: self._float})
        row = row_maker(record_type)
        with self.directory.staged(split) as file:
            file.records = write_rows(file.raw, records, schema, row, reject, self.compression)
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

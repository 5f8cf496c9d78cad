"""A Delta Lake table, split by its files."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.fingerprint import LAYOUT, key_of
from funcpipe_prefect.ir import Located, Split
from funcpipe_prefect.sources.parquet import records_of

__all__ = ["DeltaSource"]

_BATCH_ROWS = 1024
_OURS = "funcpipe_part"


@dataclass(frozen=True)
class DeltaSource:
    """One record a row, its fields the columns.

    A run reads the version that was the last when it was planned, whatever is written meanwhile. A
    file that stays is the same split in the next version. Tables with deletion vectors are refused.

    Attributes:
        path: The table's folder or URL.
        columns: Read only these.
        version: Read this version, not the last.
        storage_options: What delta-rs needs to know of a remote storage beside its environment.
    """

    path: str = dataclasses.field(metadata=LAYOUT)
    columns: tuple[str, ...] | None = None
    version: int | None = dataclasses.field(default=None, metadata=LAYOUT)
    storage_options: Mapping[str, str] = dataclasses.field(
        default_factory=dict, metadata=LAYOUT, hash=False, repr=False
    )

    def list_splits(self) -> list[Split]:
        """Give a split for each file, in the order of their paths."""
        table, data = self._opened(self.version)
        unknown = sorted(set(self.columns or ()) - set(data.schema.names))
        if unknown:
            raise SourceError(
                f"{self.path} has no column {', '.join(unknown)}; it has {', '.join(data.schema.names)}"
            )
        rows = table.get_add_actions(flatten=True)
        names = ("path", "size_bytes", "modification_time")
        known = sorted(zip(*(_values(rows, name) for name in names), strict=True))
        return [
            Split(path, self.path, 0, table.version(), key_of("file", path, str(size), str(time)), size, moves=True)
            for path, size, time in known
        ]  # fmt: skip

    def read(self, split: Split, record_type: Any) -> Iterator[Located]:
        """Stream the rows of a file; each position is the row's number in it, from 0.

        Raises:
            SourceError: FP409, the table is missing or damaged, or the file was vacuumed.
        """
        _, data = self._opened(split.stop)
        names = list(self.columns or (name for name in data.schema.names if name != _OURS))
        fragment = next((one for one in data.get_fragments() if one.path.endswith(split.name)), None)
        if fragment is None:
            raise SourceError(f"{self.path} has no file {split.name} in version {split.stop}")
        position = 0
        try:
            for batch in fragment.to_batches(schema=data.schema, columns=names, batch_size=_BATCH_ROWS):
                for record in records_of(batch, record_type):
                    yield position, record
                    position += 1
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.path}/{split.name} cannot be read: {error}") from error

    def locate(self, split: Split, position: int) -> str:
        """Give file and row."""
        return f"{split.location}/{split.name} (version {split.stop}, row {position})"

    def _opened(self, version: int | None) -> tuple[Any, Any]:
        try:
            delta = importlib.import_module("deltalake")
        except ModuleNotFoundError as error:
            raise SourceError(
                f'Delta Lake is not installed ({error}): pip install "funcpipe-prefect[delta]"'
            ) from error
        try:
            table = delta.DeltaTable(
                self.path, version=version, storage_options=dict(self.storage_options) or None
            )
            return table, table.to_pyarrow_dataset()
        except Exception as error:
            reason = str(error).split("\n", 1)[0]
            raise SourceError(f"{self.path} is no readable Delta Lake table: {reason}") from error


def _values(rows: Any, name: str) -> list[Any]:
    import pyarrow as pa

    values: list[Any] = pa.table(rows).column(name).to_pylist()
    return values

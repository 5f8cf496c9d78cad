"""A Lance dataset, split by fragments."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.fingerprint import LAYOUT, key_of
from funcpipe_prefect.ir import Located, Split
from funcpipe_prefect.sources.parquet import records_of

__all__ = ["LanceSource"]

_BATCH_ROWS = 1024


@dataclass(frozen=True)
class LanceSource:
    """One record a row, its fields the columns.

    A run reads the version that was the last when it was planned, whatever is written meanwhile. A
    fragment that stays is the same split in the next version.

    Attributes:
        path: The dataset's folder or URL.
        columns: Read only these.
        version: Read this version, not the last.
    """

    path: str = dataclasses.field(metadata=LAYOUT)
    columns: tuple[str, ...] | None = None
    version: int | None = dataclasses.field(default=None, metadata=LAYOUT)

    def list_splits(self) -> list[Split]:
        """Give a split for each fragment."""
        dataset = self._dataset(self.version)
        unknown = sorted(set(self.columns or ()) - set(dataset.schema.names))
        if unknown:
            raise SourceError(
                f"{self.path} has no column {', '.join(unknown)}; it has {', '.join(dataset.schema.names)}"
            )
        return [self._split(dataset, fragment) for fragment in dataset.get_fragments()]

    def _split(self, dataset: Any, fragment: Any) -> Split:
        known = {name: value for name, value in fragment.metadata.to_json().items() if name != "id"}
        identity = key_of("fragment", json.dumps(known, sort_keys=True, default=str))
        name = f"{self.path.rstrip('/').rpartition('/')[2]}-{identity[:16]}"
        size = sum(file.file_size_bytes or 0 for file in fragment.metadata.files)
        return Split(name, self.path, fragment.fragment_id, dataset.version, identity, size, moves=True)

    def read(self, split: Split, record_type: Any) -> Iterator[Located]:
        """Stream the rows of a fragment; each position is the row's number in it, from 0.

        Raises:
            SourceError: FP409, the dataset is missing or damaged, or the version was removed.
        """
        names = list(self.columns) if self.columns else None
        position = 0
        fragment = self._dataset(split.stop).get_fragment(split.start)
        try:
            for batch in fragment.to_batches(columns=names, batch_size=_BATCH_ROWS):
                for record in records_of(batch, record_type):
                    yield position, record
                    position += 1
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.path} cannot be read: {error}") from error

    def locate(self, split: Split, position: int) -> str:
        """Give fragment and row."""
        return f"{split.location} (fragment {split.start} of version {split.stop}, row {position})"

    def _dataset(self, version: int | None) -> Any:
        try:
            return importlib.import_module("lance").dataset(self.path, version=version)
        except ModuleNotFoundError as error:
            raise SourceError(
                f'Lance is not installed ({error}): pip install "funcpipe-prefect[lance]"'
            ) from error
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.path} is no readable Lance dataset: {error}") from error

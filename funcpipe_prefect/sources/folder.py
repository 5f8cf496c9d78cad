"""A folder laid out as a data set of the Hugging Face Hub, found by its conventions."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml
from pydantic import ByteSize

from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.fingerprint import LAYOUT
from funcpipe_prefect.ir import Located, RecordSource, Split
from funcpipe_prefect.sources.csv import CsvSource
from funcpipe_prefect.sources.jsonl import JsonlSource
from funcpipe_prefect.sources.parquet import ParquetSource
from funcpipe_prefect.storage import filesystem

__all__ = ["HfFolderSource"]

_ENDINGS = {
    ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv",
}  # fmt: skip
_NAMES = ("data/{0}-*", "data/{0}.*", "data/{0}/*", "{0}-*", "{0}.*", "{0}/*")
_CARD = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class HfFolderSource:
    """One record a row or line of the files of one split of a data set.

    The files are those that the card (`README.md`) names under `configs:`, or else those of the
    usual names: `data/train-00000-of-00004.parquet`, `train.jsonl`, `train/*.csv` and the like.

    Attributes:
        path: The folder, or its URL.
        split: The data set's split.
        config: The data set's configuration, where its card has several.
        split_size: Bytes in one of our splits.
    """

    path: str = dataclasses.field(metadata=LAYOUT)
    split: str = "train"
    config: str = "default"
    split_size: ByteSize = dataclasses.field(default=ByteSize(16 * 2**20), metadata=LAYOUT)

    def list_splits(self) -> list[Split]:
        """Split the files as the source of their format does."""
        return list(self._files.list_splits())

    def read(self, split: Split, record_type: Any) -> Iterator[Located]:
        """Stream the records of one split."""
        return self._files.read(split, record_type)

    def locate(self, split: Split, position: int) -> str:
        """Give file and place."""
        return self._files.locate(split, position)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @cached_property
    def _files(self) -> RecordSource:
        """Give the source of the files.

        Raises:
            SourceError: FP409, there are none of the split, or they have several formats.
        """
        fs, root = filesystem(self.path)
        root = root.rstrip("/")
        named = self._of_card(fs, root)
        if len(named) > 1:
            raise SourceError(f"{self.path}/README.md names several patterns for {self.split!r}, and one can be read: {', '.join(named)}")  # fmt: skip
        patterns = named or [name.format(self.split) for name in _NAMES]
        for pattern in patterns:
            kinds = {kind for name in fs.glob(f"{root}/{pattern}") if (kind := _kind(name)) is not None}
            if len(kinds) > 1:
                raise SourceError(
                    f"{self.path}/{pattern} has files of several formats: {', '.join(sorted(kinds))}"
                )
            if kinds:
                return self._source(kinds.pop(), f"{self.path.rstrip('/')}/{pattern}")
        raise SourceError(
            f"{self.path} has no files of the split {self.split!r}: looked for {', '.join(patterns)}"
        )

    def _source(self, kind: str, url: str) -> RecordSource:
        if kind == "parquet":
            return ParquetSource(url, split_size=self.split_size)
        return CsvSource(url) if kind == "csv" else JsonlSource(url, split_size=self.split_size)

    def _of_card(self, fs: Any, root: str) -> list[str]:
        """Give the patterns that the data set's card names for the split."""
        if not fs.exists(f"{root}/README.md"):
            return []
        found = _CARD.match(fs.cat_file(f"{root}/README.md").decode("utf-8", "replace"))
        try:
            card = yaml.safe_load(found.group(1)) if found else None
        except yaml.YAMLError as error:
            raise SourceError(f"{self.path}/README.md has a head that is no YAML: {error}") from error
        configs = card.get("configs") if isinstance(card, dict) else None
        if not configs:
            return []
        chosen = next((one for one in configs if one.get("config_name", "default") == self.config), None)
        if chosen is None:
            names = ", ".join(str(one.get("config_name", "default")) for one in configs)
            raise SourceError(f"{self.path} has no configuration {self.config!r}; it has {names}")
        files = chosen.get("data_files") or []
        if isinstance(files, str):
            files = [{"split": "train", "path": files}]
        paths = [
            one["path"] for one in files if isinstance(one, dict) and one.get("split", "train") == self.split
        ]
        patterns = [path for one in paths for path in ([one] if isinstance(one, str) else one)]
        unsafe = [one for one in patterns if one.startswith("/") or ".." in one.split("/") or "://" in one]
        if unsafe:
            raise SourceError(f"{self.path}/README.md names files outside of the folder: {unsafe[0]}")
        if files and not patterns:
            raise SourceError(f"{self.path} has no split {self.split!r}")
        return patterns


def _kind(name: str) -> str | None:
    bare = re.sub(r"\.(gz|zst|bz2)\Z", "", name.lower())
    return next((kind for ending, kind in _ENDINGS.items() if bare.endswith(ending)), None)

"""JSON Lines: one record a line, keys of mappings sorted, bytes equal from run to run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from funcpipe_prefect.fingerprint import LAYOUT
from funcpipe_prefect.ir import Commit, Located, Part, Reject, Split
from funcpipe_prefect.schema import json_codec
from funcpipe_prefect.sinks.directory import Directory, StagedFile

__all__ = ["JsonlSink"]

_BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class JsonlSink:
    """A folder of JSON Lines files.

    JSON has no form for NaN and the infinities: they are written as null.

    Attributes:
        path: Folder or fsspec URL.
    """

    path: str = field(metadata=LAYOUT)
    idempotent = True

    @cached_property
    def directory(self) -> Directory:
        """The output folder."""
        return Directory(self.path, ".jsonl")

    @property
    def location(self) -> str:
        """The output folder's URL."""
        return self.path

    def version(self) -> str:
        """Name what is published."""
        return self.directory.version()

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        """Stage the records of one split; one that has no JSON form is handed to `reject`."""
        encode = json_codec(record_type).encode
        lines: list[bytes] = []
        size = 0
        with self.directory.staged(split) as file:
            for position, record in records:
                try:
                    line = encode(record)
                except Exception as error:
                    reject(position, record, error)
                    continue
                lines.append(line)
                size += len(line)
                if size >= _BLOCK_BYTES:
                    _write_lines(file, lines)
                    size = 0
            _write_lines(file, lines)
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


def _write_lines(file: StagedFile, lines: list[bytes]) -> None:
    """Write lines that are gathered, and gather anew: a call for each would cost more than the lines."""
    if lines:
        file.raw.write(b"\n".join(lines) + b"\n")
        file.records += len(lines)
        lines.clear()

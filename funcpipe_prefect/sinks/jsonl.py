"""JSON Lines: one record a line, keys of mappings sorted, bytes equal from run to run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from funcpipe_prefect.fingerprint import LAYOUT
from funcpipe_prefect.ir import Commit, Located, Part, Reject, Split
from funcpipe_prefect.kernel import LocatedLists
from funcpipe_prefect.schema import JsonCodec, json_codec
from funcpipe_prefect.sinks.directory import Directory

__all__ = ["JsonlSink"]

_BLOCK_BYTES = 1 << 15
"""Bytes to write at once, about. Dask has its workers give free memory back from 64 KiB on: larger blocks, which come
and go, would cost more for fresh pages than for what is in them."""


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
        codec = json_codec(record_type)
        blocks: list[bytes] = []
        size = 0
        with self.directory.staged(split) as file:
            for block, count in _blocks(codec, records, reject):
                blocks.append(block)
                size += len(block)
                file.records += count
                if size >= _BLOCK_BYTES // 2:
                    file.raw.write(b"".join(blocks))
                    blocks, size = [], 0
            file.raw.write(b"".join(blocks))
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


def _blocks(codec: JsonCodec, records: Iterator[Located], reject: Reject) -> Iterator[tuple[bytes, int]]:
    """Encode records as whole lines, a list at a time where they come in lists; give bytes and number of lines."""
    if codec.encode_lines is None or not isinstance(records, LocatedLists):
        yield from _lines(codec, records, reject)
        return
    many = 1
    for positions, values in records.lists:
        start = 0
        while start < len(values):
            stop = start + many
            some = values[start:stop]
            try:
                block = codec.encode_lines(some)
            except Exception:
                yield from _lines(codec, zip(positions[start:stop], some, strict=True), reject)
            else:
                yield block, len(some)
                many = max(1, len(some) * _BLOCK_BYTES // len(block))
            start = stop


def _lines(codec: JsonCodec, records: Iterable[Located], reject: Reject) -> Iterator[tuple[bytes, int]]:
    for position, record in records:
        try:
            line = codec.encode(record)
        except Exception as error:
            reject(position, record, error)
        else:
            yield line + b"\n", 1

"""A folder of text files: one record a file, many files a split."""

from __future__ import annotations

import codecs
import dataclasses
import posixpath
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ByteSize, PositiveInt

from funcpipe_prefect.fingerprint import LAYOUT, key_of
from funcpipe_prefect.ir import Located, Split, Undecodable
from funcpipe_prefect.schema import coerce
from funcpipe_prefect.sources.content import identify_files
from funcpipe_prefect.sources.files import InputFile, find_files, open_bytes

__all__ = ["TextSource"]

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SHOWN_BYTES = 1000
_SUFFIXES = (".txt", ".md", ".rst", ".html", ".htm", ".xml", ".srt", ".abs", ".tex", ".org", ".adoc")


@dataclass(frozen=True)
class TextSource:
    """Each file is a record with `doc_id`, `path`, `title`, `text` and `encoding`.

    A record type takes of these what it declares; `str` takes the text alone. A byte order mark
    decides the encoding, else `encoding` does.

    Attributes:
        path: Folder, glob, file or fsspec URL. A folder stands for its text files.
        encoding: Of files without a byte order mark.
        undecodable: `collect`: a file with bytes outside the encoding is a dead letter;
            `replace`: such bytes become U+FFFD.
        files_per_split: About how many files go into a split. Borders depend on the files' own
            names, so that a new file changes one split only.
        split_size: Bytes in a split, at most (one larger file stays whole).
        splits: How many splits to make instead.
        by_content: Files are recognised by a hash of their bytes, not by size with modification
            time or ETag.
        max_file: Bytes that a file may have, decompressed; a longer one is a dead letter with its beginning.
    """

    path: str = dataclasses.field(metadata=LAYOUT)
    encoding: str = "utf-8"
    undecodable: Literal["collect", "replace"] = "collect"
    files_per_split: PositiveInt = dataclasses.field(default=32, metadata=LAYOUT)
    split_size: ByteSize = dataclasses.field(default=ByteSize(16 * 2**20), metadata=LAYOUT)
    splits: PositiveInt | None = dataclasses.field(default=None, metadata=LAYOUT)
    by_content: bool = dataclasses.field(default=False, metadata=LAYOUT)
    max_file: ByteSize = ByteSize(256 * 2**20)

    def __post_init__(self) -> None:
        try:
            b" ".decode(self.encoding, "replace")
        except (LookupError, UnicodeError) as error:
            raise ValueError(f"encoding: {error}") from error

    def list_splits(self) -> list[Split]:
        """Group files."""
        files = find_files(self.path, _SUFFIXES)
        if self.by_content:
            files = identify_files(files)
        return [_split(group) for group in self._groups(files)]

    def _groups(self, files: list[InputFile]) -> Iterator[list[InputFile]]:
        if self.splits:
            step = -(-len(files) // self.splits)
            yield from (files[start : start + step] for start in range(0, len(files), step))
            return
        group: list[InputFile] = []
        size = 0
        for file in files:
            if group and size + file.size > self.split_size:
                yield group
                group, size = [], 0
            group.append(file)
            size += file.size
            if zlib.crc32(file.name.encode("utf-8", "surrogateescape")) % self.files_per_split == 0:
                yield group
                group, size = [], 0
        if group:
            yield group

    def read(self, split: Split, record_type: Any) -> Iterator[Located]:
        """Stream the files; each position is the file's index in its split."""
        for index, url in enumerate(split.members):
            with open_bytes(url) as file:
                raw = file.read(self.max_file + 1)
            if len(raw) > self.max_file:
                message = f"the file has more than max_file: {self.max_file:,} bytes"
                yield index, Undecodable(raw[:_SHOWN_BYTES], "FileTooLong", message)
                continue
            yield index, self._record(posixpath.relpath(url, split.location), url, raw, record_type)

    def _record(self, name: str, url: str, raw: bytes, record_type: Any) -> Any:
        encoding = next((found for mark, found in _BOMS if raw.startswith(mark)), self.encoding)
        try:
            text = raw.decode(encoding, "strict" if self.undecodable == "collect" else "replace")
            if record_type is str:
                return text
            title = posixpath.splitext(posixpath.basename(name))[0]
            values = {"doc_id": name, "path": url, "title": title, "text": text, "encoding": encoding}
            return coerce(values, record_type)
        except Exception as error:
            return Undecodable(raw, type(error).__name__, str(error))

    def locate(self, split: Split, position: int) -> str:
        """Give the file."""
        return split.members[position]


def _split(group: list[InputFile]) -> Split:
    first = group[0]
    return Split(
        name=first.name if len(group) == 1 else f"{first.name}-and-{len(group) - 1}-more",
        location=first.url[: -len(first.name)].rstrip("/") or "/",
        start=0,
        stop=len(group),
        identity=key_of(*(f"{file.url} {file.identity}" for file in group)),
        size=sum(file.size for file in group),
        members=tuple(file.url for file in group),
    )

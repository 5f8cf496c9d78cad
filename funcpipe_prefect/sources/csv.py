"""CSV by RFC 4180: one split a file, since a quoted field may hold newlines."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.fingerprint import LAYOUT
from funcpipe_prefect.ir import Located, Split, Undecodable
from funcpipe_prefect.schema import fields_of, from_mapping
from funcpipe_prefect.sources.content import identify_files
from funcpipe_prefect.sources.files import find_files, open_bytes

__all__ = ["CsvSource"]

_LARGEST_FIELD = 2**31 - 1


@dataclass(frozen=True)
class CsvSource:
    """A header line, then one record a row; each file is one split.

    An empty cell is None for a field that allows None and holds no text. A row that breaks the
    rules of quoting fails alone: reading goes on at the next line.

    Attributes:
        path: File, folder, glob or fsspec URL.
        delimiter: One character between fields.
        by_content: Files are recognised by a hash of their bytes, not by size with modification
            time or ETag.
    """

    path: str = dataclasses.field(metadata=LAYOUT)
    delimiter: str = ","
    by_content: bool = dataclasses.field(default=False, metadata=LAYOUT)

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 or self.delimiter in '\r\n"':
            raise ValueError(f"delimiter: one character, not {self.delimiter!r}")

    def list_splits(self) -> list[Split]:
        """Give one split for each file."""
        files = find_files(self.path, (".csv", ".tsv"))
        if self.by_content:
            files = identify_files(files)
        return [Split(file.name, file.url, 0, -1, file.identity, file.size) for file in files]

    def read(self, split: Split, record_type: Any) -> Iterator[Located]:
        """Stream the rows; each position is the row's number, from 1 behind the header.

        Raises:
            SourceError: FP409, the header is not text or names a column twice.
        """
        with open_bytes(split.location) as raw:
            text = io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="")
            rows = _rows(_Lines(text), self.delimiter)
            header = _header(next(rows, ([], "")), split.location)
            make = _record_maker(header, record_type)
            for number, (row, source) in enumerate(rows, 1):
                try:
                    source.encode()  # refuses the marks that undecodable bytes left
                    record = make(row)
                except Exception as error:
                    data = source.rstrip("\r\n").encode("utf-8", "surrogateescape")
                    record = Undecodable(data, type(error).__name__, str(error))
                yield number, record
            text.detach()

    def locate(self, split: Split, position: int) -> str:
        """Give file and row."""
        return f"{split.location} (row {position})"


class _Lines:
    """Lines that remember what was taken since the last row, and take lines back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._back: deque[str] = deque()
        self.taken: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.taken.append(line)
        return line

    def row_done(self) -> str:
        source = "".join(self.taken)
        self.taken.clear()
        return source

    def give_back(self) -> str:
        """Keep the first line of the row, to be blamed; the others are read again."""
        first, *others = self.taken
        self._back.extendleft(reversed(others))
        self.taken.clear()
        return first


def _rows(lines: _Lines, delimiter: str) -> Iterator[tuple[list[str] | csv.Error, str]]:
    """Give each row, or what is wrong with it, and the text that it was read from."""
    csv.field_size_limit(_LARGEST_FIELD)
    while True:
        try:
            for row in csv.reader(lines, delimiter=delimiter, strict=True):
                source = lines.row_done()
                if row:
                    yield row, source
            return
        except csv.Error as error:
            yield error, lines.give_back()


def _header(first: tuple[list[str] | csv.Error, str], location: str) -> list[str]:
    header, source = first
    if isinstance(header, csv.Error):
        raise SourceError(f"the header of {location} is not CSV: {header}")
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"the header of {location} is not UTF-8") from error
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise SourceError(f"the header of {location} names a column twice: {', '.join(map(repr, twice))}")
    return header


def _record_maker(header: list[str], record_type: Any) -> Callable[[list[str] | csv.Error], Any]:
    optional = _optional_fields(record_type)

    def make(row: list[str] | csv.Error) -> Any:
        if isinstance(row, csv.Error):
            raise row
        if len(row) != len(header):
            raise ValueError(f"{len(row)} fields, but the header has {len(header)}")
        values = dict(zip(header, row, strict=True))
        if record_type is Any:
            return values
        for name in optional:
            if values.get(name) == "":
                values[name] = None  # type: ignore[assignment]
        return from_mapping(values, record_type, strict=False)

    return make


def _optional_fields(record_type: Any) -> tuple[str, ...]:
    try:
        hints = fields_of(record_type)
    except TypeError:
        return ()
    return tuple(
        name for name, hint in hints.items() if type(None) in (kinds := get_args(hint)) and str not in kinds
    )

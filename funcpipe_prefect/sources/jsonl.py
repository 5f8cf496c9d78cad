"""JSON Lines, split by byte range on record borders."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal

import msgspec
from pydantic import ByteSize, PositiveInt

from funcpipe_prefect.fingerprint import LAYOUT
from funcpipe_prefect.ir import Located, Split, Undecodable
from funcpipe_prefect.schema import json_codec
from funcpipe_prefect.sources.content import content_splits, first_line, identify_lines
from funcpipe_prefect.sources.files import find_files, is_compressed, is_local, open_bytes, range_splits

__all__ = ["JsonlSource"]

_BOM = b"\xef\xbb\xbf"
_SHOWN_BYTES = 1000


@dataclass(frozen=True)
class JsonlSource:
    """One JSON value a line; blank lines are skipped.

    Attributes:
        path: File, folder, glob or fsspec URL.
        split_size: Bytes in a split.
        splits: About how many splits to make instead.
        field: Read the record from this field of each line's object, for example `record` of
            the dead letters.
        by_content: Splits are recognised by a hash of their lines, so that appending to a file
            re-runs only the splits behind its old end; else by size with modification time or
            ETag. Unset: by content on a local file system, not on remote storage.
        cut: Where files are cut: at multiples of `split_size`, or, by `content`, behind lines that are
            chosen by their own hash, on the average `split_size` apart. A document that is put in, taken
            out or changed then re-runs only the split in which it is, wherever in the file that is.
        max_line: Bytes that a line may have; a longer one is a dead letter with its beginning, and is never
            held as a whole.
    """

    path: str = dataclasses.field(metadata=LAYOUT)
    split_size: ByteSize = dataclasses.field(default=ByteSize(16 * 2**20), metadata=LAYOUT)
    splits: PositiveInt | None = dataclasses.field(default=None, metadata=LAYOUT)
    field: str | None = None
    by_content: bool | None = dataclasses.field(default=None, metadata=LAYOUT)
    cut: Literal["size", "content"] = dataclasses.field(default="size", metadata=LAYOUT)
    max_line: ByteSize = ByteSize(256 * 2**20)

    def __post_init__(self) -> None:
        if self.cut == "content" and (self.splits is not None or self.by_content is False):
            raise ValueError("cut: content takes split_size, and neither splits nor by_content: false")

    def list_splits(self) -> list[Split]:
        """Cut the files into byte ranges."""
        files = find_files(self.path, (".jsonl", ".ndjson", ".json"))
        if self.cut == "content":
            return content_splits(files, self.split_size)
        by_content = is_local(files[0].url) if files and self.by_content is None else self.by_content
        splits = range_splits(files, self.split_size, self.splits)
        return identify_lines(splits) if by_content else splits

    def read(self, split: Split, record_type: Any) -> Iterator[Located]:
        """Stream the lines that begin inside the range; each position is a byte offset."""
        decode = json_codec(record_type).decode
        if self.field is not None:
            decode = _inside(self.field, decode)
        with open_bytes(split.location) as file:
            begin = split.start if split.moves else 0
            for position, line in _lines(file, split, self.max_line):
                if len(line) > self.max_line:
                    message = f"the line has more than max_line: {self.max_line:,} bytes"
                    yield position - begin, Undecodable(line[:_SHOWN_BYTES], "LineTooLong", message)
                    continue
                try:
                    record = decode(line)
                except Exception as error:
                    record = Undecodable(line, type(error).__name__, str(error))
                yield position - begin, record

    def locate(self, split: Split, position: int) -> str:
        """Give file, line and byte offset; for failures only, since it reads the file again."""
        place = position + split.start if split.moves else position
        return f"{split.location}:{_line_number(split, place)} (byte {place})"


def _lines(file: IO[bytes], split: Split, most: int) -> Iterator[tuple[int, bytes]]:
    """Give the lines with their places; of one that is too long its first `most` bytes and one more."""
    first = first_line(file, split.start, split.stop)
    if first is None:
        return
    if split.start > 0:
        file.seek(first)
    position = first
    while split.stop < 0 or position < split.stop:
        line = file.readline(most + 1)
        if not line:
            return
        behind = 0
        if len(line) > most and not line.endswith(b"\n"):
            behind = _skipped(file)
        text = (line.removeprefix(_BOM) if position == 0 else line).rstrip(b"\r\n")
        if text and not text.isspace():
            yield position, text
        position += len(line) + behind


def _skipped(file: IO[bytes]) -> int:
    """Read on to the end of the line; give how many bytes that were."""
    count = 0
    while piece := file.readline(_BLOCK_BYTES):
        count += len(piece)
        if piece.endswith(b"\n"):
            break
    return count


@dataclass(frozen=True)
class _Block:
    """Bytes of a file from a place on, and a place in them up to which lines are counted."""

    start: int
    data: bytes
    counted: int
    lines: int

    def advanced(self, position: int) -> _Block:
        more = self.data.count(b"\n", self.counted - self.start, position - self.start)
        return _Block(self.start, self.data, position, self.lines + more)


_BLOCK_BYTES, _COMPRESSED_BLOCK_BYTES = 1 << 18, 1 << 24
_MOST_BLOCKS = 4
_blocks: dict[Split, _Block] = {}
"""The block that was last looked at, by split: neighbours of a failed record often fail too."""


def _line_number(split: Split, position: int) -> int:
    block = _blocks.get(split)
    if block is None or not block.counted <= position <= block.start + len(block.data):
        block = _block_of(split, position, block)
        if len(_blocks) >= _MOST_BLOCKS:
            _blocks.clear()
    block = _blocks[split] = block.advanced(position)
    return 1 + block.lines


def _block_of(split: Split, position: int, known: _Block | None) -> _Block:
    """Read the block that holds a position, counting lines on from the block before it."""
    size = _COMPRESSED_BLOCK_BYTES if is_compressed(split.location) else _BLOCK_BYTES
    if known is not None and known.counted <= position:
        start = known.start + len(known.data)
        lines = known.advanced(start).lines
    else:
        start, lines = split.start, _lines_before(split)
    with open_bytes(split.location) as file:
        _skip(file, start, by_reading=is_compressed(split.location))
        while True:
            data = file.read(size)
            if position <= start + len(data) or not data:
                return _Block(start, data, start, lines)
            start += len(data)
            lines += data.count(b"\n")


@functools.lru_cache(maxsize=256)
def _lines_before(split: Split) -> int:
    lines, left = 0, split.start
    if left > 0:
        with open_bytes(split.location) as file:
            while left > 0 and (data := file.read(min(left, 1 << 20))):
                lines += data.count(b"\n")
                left -= len(data)
    return lines


def _skip(file: IO[bytes], count: int, *, by_reading: bool) -> None:
    if not by_reading:
        file.seek(count)
        return
    while count > 0:
        count -= len(file.read(min(count, 1 << 20))) or count


def _inside(name: str, decode: Callable[[bytes | str], Any]) -> Callable[[bytes | str], Any]:
    outer = msgspec.json.Decoder(dict[str, msgspec.Raw])

    def decoded(line: bytes | str) -> Any:
        values = outer.decode(line)
        if name not in values:
            raise ValueError(f"the line has no field {name!r}")
        return decode(bytes(values[name]))

    return decoded

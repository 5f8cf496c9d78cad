"""Identity by content: SHA-256 over the bytes that a split reads, in place of time or ETag.

Appending to a file of lines changes then only the ranges behind its old end, and touching a file
or writing it anew with equal bytes changes none. Hashing reads the input once; it happens when a
run is planned, in threads, since hashing and reading both release Python's global lock.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import IO, TypeVar

from funcpipe_prefect.fingerprint import key_of
from funcpipe_prefect.ir import Split
from funcpipe_prefect.sources.files import InputFile, is_compressed, open_raw

__all__ = ["content_splits", "first_line", "identify_files", "identify_lines"]

_BLOCK_BYTES, _TAIL_BYTES = 1 << 20, 1 << 16
_LINE_BYTES = 1 << 26
_RUN_BYTES = 1 << 23
_MOST_THREADS = 16

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of a range: where the first begins, their hash, and how many line ends they hold."""

    first: int
    sha256: str
    ends: int


def identify_files(files: list[InputFile]) -> list[InputFile]:
    """Give files the hash of their bytes as identity.

    Raises:
        SourceError: FP409, a file cannot be read.
    """
    hashes = _in_threads(_file_hash, [file.url for file in files])
    return [replace(file, identity=f"sha256-{found}") for file, found in zip(files, hashes, strict=True)]


def identify_lines(splits: list[Split]) -> list[Split]:
    """Give byte ranges of lines the hash of the lines that begin in them as identity.

    A line that straddles a range's end belongs to the range in which it begins. The place of the
    first line counts as well, in bytes and in lines, since dead letters name it.

    Args:
        splits: Byte ranges, those of a file in order and without a gap. One that goes to the
            file's end is hashed whole, as it is stored.

    Raises:
        SourceError: FP409, a file cannot be read.
    """
    identified = []
    before = 0
    hashes = chain.from_iterable(_in_threads(_line_hashes, _neighbours(splits)))
    for split, lines in zip(splits, hashes, strict=True):
        before = before if split.start > 0 else 0
        identity = key_of("lines", str(lines.first), str(before), lines.sha256)
        identified.append(replace(split, identity=identity))
        before += lines.ends
    return identified


def content_splits(files: list[InputFile], split_size: int) -> list[Split]:
    """Cut files of lines behind lines that are chosen by their own hash, and know each piece by its own.

    Borders move with the lines around them, so a change touches only the pieces in which it is. This
    is content-defined chunking. Source: Muthitacharoen et al., "A Low-bandwidth Network File System" (2001).

    Args:
        files: The files, in order; a compressed one stays whole.
        split_size: Bytes in a piece, on the average; none has more than four times as many, but for
            one long line.

    Raises:
        SourceError: FP409, a file cannot be read.
    """
    cut = functools.partial(_pieces, split_size=split_size)
    return [split for found in _in_threads(cut, files) for split in found]


def _pieces(file: InputFile, split_size: int) -> list[Split]:
    found: list[tuple[int, int, str]] = []
    if is_compressed(file.url) or file.size == 0:
        return [Split(file.name, file.url, 0, -1, f"sha256-{_file_hash(file.url)}", file.size)]
    digest, start, stop = hashlib.sha256(), 0, 0
    with open_raw(file.url) as raw:
        for line in iter(functools.partial(raw.readline, _LINE_BYTES), b""):
            digest.update(line)
            stop += len(line)
            size = stop - start
            is_border = zlib.crc32(line) * split_size < len(line) << 33  # one in half a split's bytes
            is_whole = line.endswith(b"\n")
            if is_whole and (size >= 4 * split_size or (is_border and size >= split_size // 2)):
                found.append((start, stop, digest.hexdigest()))
                digest, start = hashlib.sha256(), stop
    if stop > start:
        found.append((start, stop, digest.hexdigest()))
    seen: collections.Counter[str] = collections.Counter()
    splits = []
    for start, stop, sha256 in found:
        seen[sha256] += 1
        again = f"-{seen[sha256]}" if seen[sha256] > 1 else ""
        name = f"{file.name}-{sha256[:16]}{again}"
        splits.append(Split(name, file.url, start, stop, f"sha256-{sha256}", stop - start, moves=True))
    return splits


def first_line(file: IO[bytes], start: int, stop: int) -> int | None:
    """Find where the first line begins that begins inside a range; None when none does.

    Args:
        file: The file, seekable unless `start` is 0.
        start: First byte of the range.
        stop: One past its last byte; -1 means the file's end.
    """
    if start <= 0:
        return 0
    position = start - 1
    file.seek(position)
    while stop < 0 or position < stop - 1:
        block = file.read(_TAIL_BYTES if stop < 0 else min(_TAIL_BYTES, stop - 1 - position))
        if not block:
            return None
        if (end := block.find(b"\n")) >= 0:
            return position + end + 1
        position += len(block)
    return None


def _line_hashes(splits: Sequence[Split]) -> list[_Lines]:
    """Hash neighbouring ranges of one file, which is opened once."""
    if splits[0].stop < 0:
        return [_Lines(0, _file_hash(split.location), 0) for split in splits]
    with open_raw(splits[0].location) as file:
        return [_line_hash(file, split) for split in splits]


def _line_hash(file: IO[bytes], split: Split) -> _Lines:
    digest, ends = hashlib.sha256(), 0
    first = first_line(file, split.start, split.stop)
    if first is None or first >= split.stop:
        return _Lines(-1, digest.hexdigest(), 0)
    file.seek(first)
    left = split.stop - 1 - first
    while left > 0 and (block := file.read(min(left, _BLOCK_BYTES))):
        digest.update(block)
        ends += block.count(b"\n")
        left -= len(block)
    while block := file.readline(_TAIL_BYTES):
        digest.update(block)
        if block.endswith(b"\n"):
            ends += 1
            break
    return _Lines(first, digest.hexdigest(), ends)


def _neighbours(splits: Iterable[Split]) -> Iterator[list[Split]]:
    """Put ranges of one file together, as many as make a few megabytes."""
    found: list[Split] = []
    size = 0
    for split in splits:
        if found and (size >= _RUN_BYTES or split.location != found[0].location or split.stop < 0):
            yield found
            found, size = [], 0
        found.append(split)
        size += split.size
    if found:
        yield found


def _file_hash(url: str) -> str:
    digest = hashlib.sha256()
    with open_raw(url) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _in_threads(call: Callable[[T], R], items: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(call, items))

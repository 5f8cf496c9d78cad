"""What the file formats share: finding files under any fsspec URL, opening them, cutting them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.ir import Split
from funcpipe_prefect.later import imported_later
from funcpipe_prefect.storage import filesystem, open_file

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = imported_later("pyarrow")

__all__ = [
    "MANIFEST",
    "InputFile",
    "find_files",
    "is_compressed",
    "is_local",
    "open_bytes",
    "open_raw",
    "range_splits",
]

MANIFEST = "_manifest.json"
_STAGING = "_staging"
_MARKS = "*?["


def _gzip(raw: Any) -> Any:
    return gzip.GzipFile(fileobj=raw, mode="rb")


def _zstd(raw: Any) -> Any:
    stream: Any = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    return io.BufferedReader(stream, 1 << 18)


_COMPRESSED: Mapping[str, Callable[[Any], Any]] = {".gz": _gzip, ".zst": _zstd, ".bz2": bz2.BZ2File}


def _reading_errors() -> tuple[type[Exception], ...]:
    return OSError, EOFError, zlib.error, pa.ArrowException


MOST_EXPANSION = "PREFECT_INTEGRATIONS_FUNCPIPE_MOST_EXPANSION"
"""Environment variable: how many times its size a compressed file may unfold to, beyond 256 MiB."""
_EXPANSION, _HARMLESS_BYTES = 300, 256 << 20


class _Bounded(io.RawIOBase):
    """What a decompressor gives, up to so many times what it was given: a bomb unfolds to a thousand times."""

    def __init__(self, stream: Any, raw: Any, url: str) -> None:
        self._stream, self._raw, self._url = stream, raw, url
        self._most = float(os.environ.get(MOST_EXPANSION) or _EXPANSION)
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._given += len(data)
        if self._given > _HARMLESS_BYTES and self._given > self._most * max(1, self._raw.tell()):
            raise SourceError(
                f"{self._url} unfolds to more than {self._given:,} bytes, over {self._most:g} times what was read of it: "
                f"if that is meant, set {MOST_EXPANSION} higher"
            )
        buffer[: len(data)] = data
        return len(data)


@dataclass(frozen=True)
class InputFile:
    """A file of the input.

    Attributes:
        url: Its address.
        name: Its path below the pattern's fixed folder; for people.
        size: Bytes.
        identity: Changes when its content may have changed: size with ETag or modification time, or
            a hash of its bytes.
    """

    url: str
    name: str
    size: int
    identity: str


def find_files(path: str, suffixes: tuple[str, ...] = ()) -> list[InputFile]:
    """List the files that a path, folder or glob names, sorted by address.

    A folder stands for the files below it with one of the suffixes, links to files included, links
    to folders (which may lead in circles) not; where it is an output of
    ours, for the parts that its manifest makes visible (none, when the output has no record).

    Raises:
        SourceError: FP409, nothing matches, or the place cannot be listed.
    """
    try:
        fs, root = filesystem(path)
        infos, base = _list(fs, root, suffixes, path)
    except (OSError, ValueError, ImportError) as error:
        raise SourceError(f"cannot list {path!r}: {error}") from error
    return [
        InputFile(
            url=_url(fs, info["name"]),
            name=os.path.relpath(info["name"], base).replace(os.sep, "/"),
            size=int(info.get("size") or 0),
            identity=_identity(info),
        )
        for info in sorted(infos, key=lambda info: str(info["name"]))
    ]


def _list(fs: Any, root: str, suffixes: tuple[str, ...], asked: str) -> tuple[list[dict[str, Any]], str]:
    if not fs.exists(root):
        infos, base = _matches(fs, root) if any(mark in root for mark in _MARKS) else ([], root)
    elif (info := fs.info(root))["type"] == "file":
        infos, base = [info], os.path.dirname(root)
    elif fs.exists(f"{root.rstrip('/')}/{MANIFEST}"):
        names = _published(fs, root.rstrip("/"))
        infos, base = [fs.info(name) for name in names if _fits(name, suffixes)], root
        if not names:
            return [], root
    else:
        infos, base = _below(fs, root, suffixes), root
    if not infos:
        kinds = f" ({', '.join(suffixes)})" if suffixes and fs.exists(root) else ""
        raise SourceError(f"no file{kinds} matches {asked!r} (working directory: {os.getcwd()})")
    return infos, base


def _matches(fs: Any, pattern: str) -> tuple[list[dict[str, Any]], str]:
    found = fs.glob(pattern, detail=True)
    fixed = pattern[: min(pattern.index(mark) for mark in _MARKS if mark in pattern)]
    base = os.path.dirname(fixed)
    seen = {name: info for name, info in found.items() if f"/{_STAGING}/" not in name[len(base) :]}
    return _files_of(fs, seen), base or "."


def _published(fs: Any, root: str) -> list[str]:
    try:
        entries = json.loads(fs.cat_file(f"{root}/{MANIFEST}"))["parts"]
        names = [str(entry["part"]["file"]) for entry in entries if entry["part"]["file"]]
        if any("/" in name or "\\" in name for name in names):
            raise ValueError("it names a part outside of its folder")
        return [f"{root}/{name}" for name in names]
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{root}/{MANIFEST} is not a manifest of ours: {error!r}") from error


def _below(fs: Any, root: str, suffixes: tuple[str, ...]) -> list[dict[str, Any]]:
    return _files_of(
        fs,
        {
            name: info
            for name, info in fs.find(root, detail=True).items()
            if _fits(name, suffixes)
            and not any(step.startswith((".", "_")) for step in os.path.relpath(name, root).split(os.sep))
        },
    )


def _files_of(fs: Any, found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the files, and what links lead to; a link to a folder or to nowhere is left out."""
    infos = []
    for name, info in found.items():
        if info.get("islink"):
            with suppress(OSError):
                info = fs.info(name)
        if info["type"] == "file":
            infos.append(info)
    return infos


def _fits(name: str, suffixes: tuple[str, ...]) -> bool:
    lower = name.lower()
    bare = next((lower.removesuffix(end) for end in _COMPRESSED if lower.endswith(end)), lower)
    return not suffixes or bare.endswith(suffixes)


def _url(fs: Any, name: str) -> str:
    local = "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))
    return name if local else str(fs.unstrip_protocol(name))


def _identity(info: dict[str, Any]) -> str:
    stamp = next(
        (
            info[key]
            for key in ("ETag", "etag", "mtime", "LastModified", "last_modified", "created")
            if info.get(key)
        ),
        "",
    )
    return f"{info.get('size')}-{stamp}"


def is_compressed(url: str) -> bool:
    """Tell whether a file is compressed as a whole, so that it must be one split."""
    return url.lower().endswith(tuple(_COMPRESSED))


def is_local(url: str) -> bool:
    """Tell whether a file found by `find_files` is on a file system of this machine."""
    return "://" not in url


@contextmanager
def open_raw(url: str) -> Iterator[IO[bytes]]:
    """Open a file for reading, as it is.

    Raises:
        SourceError: FP409, the file is missing or unreadable.
    """
    try:
        with open_file(url) as raw:
            yield raw
    except _reading_errors() as error:
        raise _unreadable(url, error) from error


@contextmanager
def open_bytes(url: str) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed by its ending (gzip, zstd, bzip2).

    Raises:
        SourceError: FP409, the file is missing, unreadable, or its compressed data is cut or damaged.
    """
    opener = next((opener for end, opener in _COMPRESSED.items() if url.lower().endswith(end)), None)
    try:
        with open_file(url) as raw:
            if opener is None:
                yield raw
            else:
                with opener(raw) as stream, _Bounded(stream, raw, url) as bounded:
                    yield io.BufferedReader(bounded, 1 << 18)
    except _reading_errors() as error:
        raise _unreadable(url, error) from error


def _unreadable(url: str, error: Exception) -> SourceError:
    return SourceError(f"{url} cannot be read: {type(error).__name__}: {error}")


def range_splits(files: list[InputFile], split_size: int, splits: int | None) -> list[Split]:
    """Cut files into byte ranges of equal size; a compressed file stays whole.

    Borders are multiples of the size and a range's name tells only its first byte, so that a file
    that grows keeps the ranges before its old end.

    Args:
        files: The files, in order.
        split_size: Bytes in a range.
        splits: About how many ranges to make instead.
    """
    step = max(1, math.ceil(sum(file.size for file in files) / splits)) if splits else split_size
    return [split for file in files for split in _ranges(file, step)]


def _ranges(file: InputFile, step: int) -> Iterator[Split]:
    if is_compressed(file.url) or file.size == 0:
        yield Split(file.name, file.url, 0, -1, file.identity, file.size)
        return
    for start in range(0, file.size, step):
        stop = min(start + step, file.size)
        name = f"{file.name}-{start:012d}" if start else file.name
        yield Split(name, file.url, start, stop, file.identity, stop - start)

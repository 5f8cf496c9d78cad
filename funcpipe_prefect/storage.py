"""Where files are: the file system behind a URL, with one kind of error for whatever goes wrong there.

Drivers of remote storage raise what their client libraries raise: `botocore` has its own errors for
missing credentials and unreachable servers, Google's and Azure's clients have theirs. Here all of them
are `OSError`s that name the place, like those of local files. Listings are not remembered: another process
of the run may have written meanwhile.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

__all__ = ["canonical", "filesystem", "open_file"]

T = TypeVar("T")

_OWN = (OSError, ValueError, TypeError, NotImplementedError, ImportError)
_BUFFER_BYTES = 1 << 18
_LAZY = ("_upload_chunk", "_initiate_upload", "commit")


class _Remote:
    """A file system whose every error is an `OSError`."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._fs, name)
        return _telling(found) if callable(found) else found

    def open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        """Open a file, which may read and write much later."""
        file = _telling(self._fs.open)(path, mode, **more)
        for name in _LAZY:
            if hasattr(file, name):
                setattr(file, name, _telling(getattr(file, name)))
        if hasattr(getattr(file, "cache", None), "fetcher"):
            file.cache.fetcher = _telling(file.cache.fetcher)
        return io.BufferedReader(file, _BUFFER_BYTES) if mode == "rb" else file


def _telling(call: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(call)
    def told(*args: Any, **kwargs: Any) -> T:
        try:
            return call(*args, **kwargs)
        except _OWN:
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error

    return told


def filesystem(url: str) -> tuple[Any, str]:
    """Give the file system of a path or fsspec URL, and the path in it.

    Raises:
        ValueError: There is no such protocol.
        ImportError: Its driver is not installed.
        OSError: It cannot be reached.
    """
    if "://" not in url:
        return fsspec.url_to_fs(url)  # type: ignore[no-any-return]
    fs, path = _telling(fsspec.url_to_fs)(url, use_listings_cache=False)
    return (fs if isinstance(fs, (LocalFileSystem, MemoryFileSystem)) else _Remote(fs)), path


def canonical(url: str) -> str:
    """Name a place: equal for all ways to write its URL.

    Raises:
        ValueError: There is no such protocol.
        ImportError: Its driver is not installed.
    """
    fs, path = filesystem(url)
    return str(fs.unstrip_protocol(path)).rstrip("/")


def open_file(url: str) -> Any:
    """Open a file for reading.

    Raises:
        OSError: It cannot be read.
    """
    fs, path = filesystem(url)
    if isinstance(
        fs, LocalFileSystem
    ):  # a call in Python for each line read would cost as much as decoding it
        return open(path, "rb", buffering=_BUFFER_BYTES)
    return fs.open(path, "rb")

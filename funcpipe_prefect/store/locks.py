"""Locks of partitions: a file beside the partition, so that two runs compute it once.

The holder renews the file every few seconds. A waiter takes over when it has seen no renewal for
a while by its own clock, so neither a killed holder nor clocks that differ block anybody. A
holder that was only paused finds its lock gone: both compute the same bytes, and none is hurt.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec.utils

from funcpipe_prefect.errors import SinkError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

__all__ = ["PartitionLock", "can_lock"]


def can_lock(url: str) -> bool:
    """Tell whether files below a URL can be created exclusively and renewed: on local file systems.

    Example:
        >>> can_lock("/data/store"), can_lock("s3://bucket/store")
        (True, False)
    """
    return fcntl is not None and fsspec.utils.get_protocol(url) in ("file", "local")


@dataclass(frozen=True)
class PartitionLock:
    """An exclusive lock between processes that ends with its holder.

    Attributes:
        path: The lock file.
        renew_s: Seconds between renewals.
        stale_s: Seconds without a renewal after which another takes over; several times `renew_s`.
        poll_s: Seconds between a waiter's looks.
    """

    path: Path
    renew_s: float = 3.0
    stale_s: float = 15.0
    poll_s: float = 0.1

    @contextlib.contextmanager
    def held(self, *, waits: bool = True) -> Iterator[bool]:
        """Hold the lock until the block ends.

        Args:
            waits: Wait for it; otherwise go on without it when somebody else has it.

        Yields:
            Whether the lock is held.

        Raises:
            SinkError: FP408, the lock file cannot be written.
        """
        file = self._acquired(waits)
        if file is None:
            yield False
            return
        ended = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(file, ended), daemon=True)
        renewal.start()
        try:
            yield True
        finally:
            ended.set()
            renewal.join()
            self._remove(file)
            os.close(file)

    def _acquired(self, waits: bool) -> int | None:
        seen: tuple[int, int] | None = None
        since = 0.0
        while True:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
            except FileExistsError:
                pass
            except OSError as error:
                raise SinkError(f"cannot lock {self.path}: {error}") from error
            else:
                os.write(file, f"{os.getpid()} {uuid.uuid4().hex}\n".encode())
                return file
            if not waits:
                return None
            now, look = time.monotonic(), _look(self.path)
            if look != seen:
                seen, since = look, now
            elif look is not None and now - since > self.stale_s:
                self._break_if(look)
                seen = None
                continue
            time.sleep(self.poll_s)

    def _renew(self, file: int, ended: threading.Event) -> None:
        while not ended.wait(self.renew_s):
            with contextlib.suppress(OSError):
                os.utime(file)

    def is_live(self, now: float) -> bool:
        """Tell whether somebody holds the lock and renewed it lately."""
        look = _look(self.path)
        return look is not None and now - look[1] / 1e9 <= self.stale_s

    def _break_if(self, look: tuple[int, int]) -> bool:
        """Remove the lock if it is still the file, renewed at the time, that was found stale.

        Two waiters cannot both break it: each needs the file itself for a moment, and the second
        finds another one, or none, in its place.
        """
        try:
            file = os.open(self.path, os.O_RDWR)
        except OSError:
            return False
        try:
            return _look(self.path) == look and self._remove(file)
        finally:
            os.close(file)

    def break_stale(self, now: float) -> bool:
        """Remove a lock that was last renewed more than `stale_s` before `now`; tell whether it was."""
        look = _look(self.path)
        return look is not None and now - look[1] / 1e9 > self.stale_s and self._break_if(look)

    def _remove(self, file: int) -> bool:
        """Remove the lock file if it is this open one still."""
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            here = self.path.stat()
        except OSError:
            return False
        if not os.path.samestat(here, os.fstat(file)):
            return False
        self.path.unlink()
        return True


def _look(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns

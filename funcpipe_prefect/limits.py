"""Rates that operators keep to, such as ten calls a second of a model server.

A limit is shared by all that name it. Under Prefect it is one of the server's global concurrency limits,
with a slot decay; elsewhere it holds in this process.
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from funcpipe_prefect.errors import TransientError
from funcpipe_prefect.ir import Limit

__all__ = ["LIMITER", "TokenBucket", "keeping", "limited_by"]

R = TypeVar("R")
Wait = Callable[[Limit], None]

LIMITER = "FUNCPIPE_LIMITER"
"""Environment variable: a module with a function `wait(limit)`, for processes that a run starts."""

_wait: ContextVar[Wait | None] = ContextVar("funcpipe_limiter", default=None)
_buckets: dict[Limit, TokenBucket] = {}
_lock = threading.Lock()


class TokenBucket:
    """Lets so many calls through a second, and as many at once when there were none for a second.

    Args:
        per_second: The rate.
        clock: Gives the time, in seconds.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        per_second: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate, self._clock, self._sleep = per_second, clock, sleep
        self._most = max(1.0, per_second)
        self._left, self._seen = self._most, clock()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the next call may be made."""
        with self._lock:
            now = self._clock()
            self._left = min(self._most, self._left + (now - self._seen) * self._rate) - 1.0
            self._seen = now
            if self._left < 0:
                self._sleep(-self._left / self._rate)


@contextmanager
def limited_by(wait: Wait) -> Iterator[None]:
    """Let what is inside ask `wait` before a call."""
    mark = _wait.set(wait)
    try:
        yield
    finally:
        _wait.reset(mark)


def keeping(limits: Sequence[Limit], call: Callable[..., R]) -> Callable[..., R]:
    """Make a function wait for all limits before each call.

    Raises:
        TransientError: FP400, from the call: the limit is kept elsewhere, and cannot be asked.
    """
    if not limits:
        return call

    def kept(*args: Any) -> R:
        wait = _wait.get() or _of_process()
        for limit in limits:
            try:
                wait(limit)
            except Exception as error:
                raise TransientError(f"the limit {limit.name} cannot be asked: {error}") from error
        return call(*args)

    return kept


@functools.cache
def _of_process() -> Wait:
    module = os.environ.get(LIMITER)
    if module:
        found: Wait = importlib.import_module(module).wait
        return found
    return _in_process


def _in_process(limit: Limit) -> None:
    with _lock:
        bucket = _buckets.setdefault(limit, TokenBucket(limit.per_second))
    bucket.wait()

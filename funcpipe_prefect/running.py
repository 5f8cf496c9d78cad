"""What surrounds the work on a split: whose temporary files it makes, and whether it is to stop.

A killed process leaves temporary files behind. Their names begin with their run's token, so the
run can remove its own, and nobody else's, when it ends before its time.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

__all__ = [
    "CHILD_VARIABLES",
    "check",
    "child_environment",
    "die_with_parent",
    "new_token",
    "run_by",
    "stoppable",
    "temporary_name",
]

T = TypeVar("T")

CHILD_VARIABLES: dict[str, str] = {}
"""Environment variables for processes that a run starts, beside those of this process."""

_CHECK_EVERY_S = 0.2
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG

_token: ContextVar[str] = ContextVar("funcpipe_token", default="")
_check: ContextVar[Callable[[], None] | None] = ContextVar("funcpipe_check", default=None)


def new_token() -> str:
    """Make the token of a run: 12 hexadecimal digits."""
    return uuid.uuid4().hex[:12]


@contextmanager
def run_by(token: str, check: Callable[[], None] | None = None) -> Iterator[None]:
    """Do what is inside for a run.

    Args:
        token: Of the run.
        check: Called several times a second while records stream; raises when the run is to stop.
            When absent, the one of the block around this one stays.
    """
    mark = _token.set(token or _token.get())
    other = _check.set(check or _check.get())
    try:
        yield
    finally:
        _check.reset(other)
        _token.reset(mark)


def check() -> None:
    """Ask whether the work at hand is to stop.

    Raises:
        Exception: Whatever the run's check raises.
    """
    ask = _check.get()
    if ask is not None:
        ask()


def temporary_name() -> str:
    """Give a new file name that tells its run."""
    return f"{_token.get()}-{uuid.uuid4().hex}.tmp"


def child_environment() -> dict[str, str]:
    """Let a child process import what this one can."""
    path = os.pathsep.join(dict.fromkeys(entry or os.getcwd() for entry in sys.path))  # noqa: PTH109
    return {**os.environ, **CHILD_VARIABLES, "PYTHONPATH": path}


def die_with_parent(number: int) -> None:
    """Have this process sent a signal when the thread that started it ends; on Linux only.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, number)


def stoppable(records: Iterable[T]) -> Iterator[T]:
    """Pass records on until the run is to stop.

    Raises:
        Exception: Whatever the run's check raises.
    """
    check = _check.get()
    if check is None:
        yield from records
        return
    check()
    due = time.monotonic() + _CHECK_EVERY_S
    for record in records:
        if time.monotonic() >= due:
            check()
            due = time.monotonic() + _CHECK_EVERY_S
        yield record

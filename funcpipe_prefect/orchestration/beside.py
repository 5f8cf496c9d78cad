"""A thread beside a run, for the time of a block."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["beside"]


@contextmanager
def beside(work: Callable[[threading.Event], object], name: str, last_s: float = 0.0) -> Iterator[None]:
    """Do something in a thread, under the settings of this one: it would not know this run's server.

    Args:
        work: Is to return soon after its event is set, which happens when the block ends.
        name: Of the thread.
        last_s: Seconds to wait for it then.
    """
    ended, settings = threading.Event(), contextvars.copy_context()
    thread = threading.Thread(target=settings.run, args=(work, ended), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        if last_s:
            thread.join(last_s)

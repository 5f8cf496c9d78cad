"""The records that a keyed combine gives."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["KeyValue", "WindowedValue"]

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class KeyValue(Generic[K, V]):
    """A key, and the answer for all records that have it."""

    key: K
    value: V


@dataclass(frozen=True)
class WindowedValue(Generic[K, V]):
    """A key, and the answer for all of its records within one window of event time.

    Attributes:
        start: The window's first moment, in UTC.
        end: The first moment behind it.
    """

    key: K
    start: datetime.datetime
    end: datetime.datetime
    value: V

"""Windows of event time over bounded data: to which of them a time belongs.

Inside, a time is a whole number of microseconds since 1970, and a window is a pair of them: its first
microsecond, and the first one behind it. A time gets the windows that Beam's window functions of the
same names give it, in their order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

__all__ = ["FixedWindows", "SlidingWindows", "WindowFn", "bounds_of", "micros_of"]

_SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_ALL_TIME = (datetime.max - datetime.min) // _MICROSECOND
_ROUNDING = Fraction(1, 10**14)
"""How far, relatively, the seconds that a float gives may be from a whole microsecond."""
_SHOWN_BITS = 100


@dataclass(frozen=True)
class FixedWindows:
    """Windows of one size that follow each other: each time belongs to one.

    A window is `[n * size + offset, (n + 1) * size + offset)`, for every whole n.

    Attributes:
        size: Seconds, in whole microseconds.
        offset: Seconds from 1970 to the start of a window, below `size`.
        size_micros: `size` in microseconds.
        offset_micros: `offset` in microseconds.

    Raises:
        TypeError: A number was expected.
        ValueError: A number is out of range, or no whole number of microseconds.

    Source:
        `apache_beam.transforms.window.FixedWindows.assign` of Beam 2.77. It brings an offset that is
        out of range into it, and takes 1.001 seconds as 1,000,999 microseconds; here that is an error,
        and 1,001,000.

    Example:
        >>> FixedWindows(60.0).assign(90_000_000)
        [(60000000, 120000000)]
    """

    size: float
    offset: float = 0.0
    size_micros: int = field(init=False, repr=False, compare=False)
    offset_micros: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        size = _positive("size", self.size)
        _keep(self, size_micros=size, offset_micros=_offset(self.offset, size, "size"))

    def assign(self, micros: int) -> list[tuple[int, int]]:
        """Give the window of a time.

        Args:
            micros: Microseconds since 1970.

        Returns:
            One window: its start and its end, which is not part of it, in microseconds since 1970.
        """
        start = micros - (micros - self.offset_micros) % self.size_micros
        return [(start, start + self.size_micros)]


@dataclass(frozen=True)
class SlidingWindows:
    """Windows of one size, one of which starts at every period: they overlap, or leave gaps.

    A window is `[n * period + offset, n * period + offset + size)`, for every whole n.

    Attributes:
        size: Seconds, in whole microseconds.
        period: Seconds from one start to the next, in whole microseconds. Longer than `size`, it leaves
            times that belong to no window.
        offset: Seconds from 1970 to the start of a window, below `period`.
        size_micros: `size` in microseconds.
        period_micros: `period` in microseconds.
        offset_micros: `offset` in microseconds.

    Raises:
        TypeError: A number was expected.
        ValueError: A number is out of range, or no whole number of microseconds.

    Source:
        `apache_beam.transforms.window.SlidingWindows.assign` of Beam 2.77; as for `FixedWindows`.

    Example:
        >>> SlidingWindows(60.0, 30.0).assign(70_000_000)
        [(60000000, 120000000), (30000000, 90000000)]
        >>> SlidingWindows(10.0, 30.0).assign(70_000_000)
        []
    """

    size: float
    period: float
    offset: float = 0.0
    size_micros: int = field(init=False, repr=False, compare=False)
    period_micros: int = field(init=False, repr=False, compare=False)
    offset_micros: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        size, period = _positive("size", self.size), _positive("period", self.period)
        offset = _offset(self.offset, period, "period")
        _keep(self, size_micros=size, period_micros=period, offset_micros=offset)

    def assign(self, micros: int) -> list[tuple[int, int]]:
        """Give the windows of a time, the latest first.

        Args:
            micros: Microseconds since 1970.

        Returns:
            Windows: start and end, which is not part of it, in microseconds since 1970.
        """
        size, period = self.size_micros, self.period_micros
        latest = micros - (micros - self.offset_micros) % period
        return [(start, start + size) for start in range(latest, micros - size, -period)]


WindowFn: TypeAlias = FixedWindows | SlidingWindows


def micros_of(time: Any) -> int:
    """Give a time in microseconds since 1970.

    Args:
        time: An aware datetime, or seconds since 1970. Of a float, what is below a microsecond is cut off.

    Raises:
        TypeError: It is neither.
        ValueError: A datetime without a time zone, or a number that is not finite, or too large.

    Source:
        `apache_beam.utils.timestamp.Timestamp(seconds).micros` of Beam 2.77: `int(seconds * 10**6)`, so
        that 1.001 seconds are 1,000,999 microseconds, and −0.0000015 seconds are −1.

    Example:
        >>> micros_of(1.5), micros_of(datetime(1970, 1, 1, 1, tzinfo=timezone.utc))
        (1500000, 3600000000)
    """
    if isinstance(time, datetime):
        if time.utcoffset() is None:
            raise ValueError(f"the event time {time!r} has no time zone, so it names no moment: give it one")
        return (time - _EPOCH) // _MICROSECOND
    if isinstance(time, bool) or not isinstance(time, (int, float)):
        raise TypeError(
            f"an event time is an aware datetime, or seconds since 1970 as an int or float, "
            f"not {type(time).__name__}"
        )
    try:
        return int(time * _SECOND)
    except (ValueError, OverflowError):
        raise ValueError(f"the event time {time!r} is not finite, or too large") from None


@lru_cache(maxsize=1024)  # many records share a window
def bounds_of(window: tuple[int, int]) -> tuple[datetime, datetime]:
    """Give a window's start and its end, which is not part of it, as datetimes in UTC.

    Args:
        window: Start and end in microseconds since 1970.

    Raises:
        OverflowError: The window is not wholly within the years 1 to 9999.

    Example:
        >>> [str(bound) for bound in bounds_of((0, 60_000_000))]
        ['1970-01-01 00:00:00+00:00', '1970-01-01 00:01:00+00:00']
    """
    start, end = window
    try:
        return _EPOCH + timedelta(microseconds=start), _EPOCH + timedelta(microseconds=end)
    except OverflowError:
        shown = f" from {start} to {end} microseconds" if start.bit_length() <= _SHOWN_BITS else ""
        raise OverflowError(
            f"the window of event time{shown} since 1970 is not within the years 1 to 9999"
        ) from None


def _keep(windows: Any, **micros: int) -> None:
    for name, value in micros.items():
        object.__setattr__(windows, name, value)


def _positive(name: str, seconds: Any) -> int:
    micros = _whole_micros(name, seconds)
    if micros <= 0:
        raise ValueError(f"the {name} of windows must be above 0 seconds, not {seconds!r}")
    return micros


def _offset(seconds: Any, length: int, name: str) -> int:
    micros = _whole_micros("offset", seconds)
    if not 0 <= micros < length:
        raise ValueError(
            f"the offset of windows must be at least 0 and below their {name}, {length / _SECOND:.15g} seconds, "
            f"not {seconds!r}; {micros % length / _SECOND:.15g} gives the windows that it means"
        )
    return micros


def _whole_micros(name: str, seconds: Any) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(
            f"the {name} of windows must be seconds, as an int or float, not {type(seconds).__name__}"
        )
    if isinstance(seconds, float) and not math.isfinite(seconds):
        raise ValueError(f"the {name} of windows must be a finite number of seconds, not {seconds!r}")
    exact = Fraction(seconds) * _SECOND
    micros = round(exact)
    if abs(exact - micros) > _ROUNDING * abs(exact):
        raise ValueError(f"the {name} of windows must be whole microseconds, not {seconds!r} seconds")
    if abs(micros) > _ALL_TIME:
        raise ValueError(f"the {name} of windows is longer than the years 1 to 9999")
    return micros

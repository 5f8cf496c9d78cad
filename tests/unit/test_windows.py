"""Windows of event time: a time that gets other windows than on Beam moves a user's counts."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any

import pytest
from apache_beam.transforms import window as beam_window
from apache_beam.transforms.window import WindowFn as BeamWindowFn
from apache_beam.utils.timestamp import Duration, Timestamp

from funcpipe_prefect.windows import FixedWindows, SlidingWindows, WindowFn, bounds_of, micros_of

SECOND = 1_000_000
DAY = 86_400
LENGTHS = (
    1,
    2,
    7,
    999,
    1_000,
    1_001,
    999_999,
    SECOND,
    1_500_000,
    60 * SECOND,
    DAY * SECOND,
    7 * DAY * SECOND,
)


def beam_windows(fn: BeamWindowFn[Any], micros: int) -> list[tuple[int, int]]:
    """Ask Beam."""
    context = BeamWindowFn.AssignContext(Timestamp(micros=micros))
    return [(one.start.micros, one.end.micros) for one in fn.assign(context)]


def as_beam(windows: WindowFn) -> BeamWindowFn[Any]:
    """Make Beam's windows of the same whole microseconds."""
    size, offset = Duration(micros=windows.size_micros), Timestamp(micros=windows.offset_micros)
    if isinstance(windows, FixedWindows):
        return beam_window.FixedWindows(size, offset)
    return beam_window.SlidingWindows(size, Duration(micros=windows.period_micros), offset)


def lengths(chance: random.Random) -> int:
    """Choose microseconds, from one to some years."""
    return chance.choice(LENGTHS) if chance.random() < 0.3 else int(10 ** chance.uniform(0, 14)) or 1


def offsets(chance: random.Random, length: int) -> int:
    return chance.choice((0, length - 1, chance.randrange(length)))


def times(chance: random.Random, around: int) -> Iterator[int]:
    """Choose times: near 1970, on and beside bounds, and anywhere."""
    for _ in range(4):
        bound = chance.randint(-50, 50) * around
        yield from (bound - 1, bound, bound + 1)
        yield chance.randint(-3 * around, 3 * around)
        yield chance.randint(-(10**16), 10**17)


def seconds_of(micros: int) -> float:
    return micros / SECOND


@pytest.mark.parametrize("seed", range(4))
def test_fixed_windows_are_those_of_beam(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        size = lengths(chance)
        ours = FixedWindows(seconds_of(size), seconds_of(offsets(chance, size)))
        theirs = as_beam(ours)
        for micros in times(chance, size):
            found = ours.assign(micros)
            assert found == beam_windows(theirs, micros), (ours, micros)
            ((start, end),) = found
            assert start <= micros < end


@pytest.mark.parametrize("seed", range(4))
def test_sliding_windows_are_those_of_beam(seed: int) -> None:
    chance = random.Random(100 + seed)
    numbers = set()
    for _ in range(200):
        period = lengths(chance)
        size = max(1, int(period * chance.choice((0.1, 0.5, 1, 1, 1.5, 2, 3, chance.uniform(0.01, 20)))))
        ours = SlidingWindows(seconds_of(size), seconds_of(period), seconds_of(offsets(chance, period)))
        theirs = as_beam(ours)
        for micros in times(chance, period):
            found = ours.assign(micros)
            assert found == beam_windows(theirs, micros), (ours, micros)
            assert all(start <= micros < end for start, end in found)
            numbers.add(len(found))
    assert {0, 1, 2, 3} <= numbers, "gaps and overlaps were tried"


@pytest.mark.parametrize("seconds", [1, 60, 60.0, 0.5, 0.25, 0.1, 0.3, 1e-6, 86_400, 2.5, 3_600.000001])
@pytest.mark.parametrize("offset", [0, 0.0, 1e-6])
def test_the_seconds_that_a_user_writes_give_the_same_windows(seconds: float, offset: float) -> None:
    if offset >= seconds:
        return
    chance = random.Random(7)
    pairs: list[tuple[WindowFn, BeamWindowFn[Any]]] = [
        (FixedWindows(seconds, offset), beam_window.FixedWindows(seconds, offset)),
        (
            SlidingWindows(2 * seconds, seconds, offset),
            beam_window.SlidingWindows(2 * seconds, seconds, offset),
        ),
    ]
    for ours, theirs in pairs:
        for _ in range(100):
            micros = chance.randint(-(10**15), 10**16)
            assert ours.assign(micros) == beam_windows(theirs, micros)


def test_fixed_windows_at_their_bounds() -> None:
    minute = FixedWindows(60)
    assert minute.assign(0) == [(0, 60 * SECOND)]
    assert minute.assign(60 * SECOND - 1) == [(0, 60 * SECOND)]
    assert minute.assign(60 * SECOND) == [(60 * SECOND, 120 * SECOND)]
    assert minute.assign(-1) == [(-60 * SECOND, 0)]
    assert FixedWindows(60, 15).assign(0) == [(-45 * SECOND, 15 * SECOND)]


def test_sliding_windows_overlap_or_leave_gaps() -> None:
    assert SlidingWindows(3, 1).assign(0) == [
        (0, 3_000_000),
        (-1_000_000, 2_000_000),
        (-2_000_000, 1_000_000),
    ]
    gaps = SlidingWindows(1, 10, offset=5)
    assert gaps.assign(5 * SECOND) == [(5 * SECOND, 6 * SECOND)]
    assert gaps.assign(6 * SECOND - 1) == [(5 * SECOND, 6 * SECOND)]
    assert gaps.assign(6 * SECOND) == []
    assert gaps.assign(-5 * SECOND) == [(-5 * SECOND, -4 * SECOND)]
    assert gaps.assign(-4 * SECOND) == []


def test_a_size_of_which_beam_loses_a_microsecond_is_whole() -> None:
    assert beam_window.FixedWindows(1.001).size.micros == 1_000_999
    assert FixedWindows(1.001).size_micros == 1_001_000
    assert SlidingWindows(1.001, 1.003, 1.001).period_micros == 1_003_000


def test_a_size_that_was_computed_is_taken() -> None:
    assert FixedWindows(0.1 + 0.2).size_micros == 300_000
    assert FixedWindows(sum([0.1] * 10)).size_micros == SECOND


def test_windows_are_values() -> None:
    windows = SlidingWindows(60, 30.0, 5)
    assert (windows.size, windows.period, windows.offset) == (60, 30.0, 5)
    assert repr(windows) == "SlidingWindows(size=60, period=30.0, offset=5)"
    assert windows == SlidingWindows(60.0, 30, 5.0)
    assert hash(windows) == hash(SlidingWindows(60.0, 30, 5.0))
    assert windows != SlidingWindows(60, 30, 6)
    copy = pickle.loads(pickle.dumps(windows))
    assert copy == windows
    assert copy.assign(-7) == windows.assign(-7)
    assert replace(windows, period=10).period_micros == 10 * SECOND
    with pytest.raises(FrozenInstanceError):
        windows.size = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: FixedWindows(0), ValueError, "size of windows must be above 0 seconds, not 0"),
        (lambda: FixedWindows(-1.5), ValueError, "size of windows must be above 0 seconds, not -1.5"),
        (lambda: FixedWindows(float("nan")), ValueError, "size of windows must be a finite"),
        (lambda: FixedWindows(float("inf")), ValueError, "size of windows must be a finite"),
        (lambda: FixedWindows(1e-7), ValueError, "size of windows must be whole microseconds"),
        (lambda: FixedWindows(0.0000015), ValueError, "whole microseconds, not 1.5e-06"),
        (lambda: FixedWindows(86_400.0000005), ValueError, "whole microseconds"),
        (lambda: FixedWindows(1e300), ValueError, "size of windows is longer than the years"),
        (lambda: FixedWindows(10**5000), ValueError, "size of windows is longer than the years"),
        (lambda: FixedWindows(True), TypeError, "size of windows must be seconds.*bool"),
        (lambda: FixedWindows("60"), TypeError, "size of windows must be seconds.*str"),
        (lambda: FixedWindows(Decimal(60)), TypeError, "size of windows must be seconds.*Decimal"),
        (lambda: FixedWindows(None), TypeError, "size of windows must be seconds.*NoneType"),
        (lambda: FixedWindows(timedelta(1)), TypeError, "size of windows must be seconds.*timedelta"),
        (lambda: FixedWindows(60, 60), ValueError, "below their size, 60 seconds, not 60; 0 gives"),
        (lambda: FixedWindows(60, -0.5), ValueError, "below their size, 60 seconds, not -0.5; 59.5 gives"),
        (lambda: FixedWindows(60, 1e-7), ValueError, "offset of windows must be whole microseconds"),
        (lambda: FixedWindows(60, float("nan")), ValueError, "offset of windows must be a finite"),
        (lambda: FixedWindows(60, "0"), TypeError, "offset of windows must be seconds.*str"),
        (lambda: SlidingWindows(0, 1), ValueError, "size of windows must be above 0"),
        (lambda: SlidingWindows(1, 0), ValueError, "period of windows must be above 0"),
        (lambda: SlidingWindows(1, -1), ValueError, "period of windows must be above 0"),
        (lambda: SlidingWindows(1, float("inf")), ValueError, "period of windows must be a finite"),
        (lambda: SlidingWindows(1, "1"), TypeError, "period of windows must be seconds.*str"),
        (lambda: SlidingWindows(60, 30, 30), ValueError, "below their period, 30 seconds, not 30; 0 gives"),
    ],
)
def test_windows_that_cannot_be_are_told(make: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()


def test_the_offset_that_is_suggested_gives_the_windows_of_beam() -> None:
    theirs = beam_window.FixedWindows(DAY, -5 * 3_600)
    for micros in (0, -1, 10**12, -(10**15)):
        assert FixedWindows(DAY, 19 * 3_600).assign(micros) == beam_windows(theirs, micros)
    with pytest.raises(ValueError, match="68400 gives"):
        FixedWindows(DAY, -5 * 3_600)


def test_seconds_are_cut_to_microseconds_as_beam_does() -> None:
    chance = random.Random(11)
    tried: list[float] = [
        0,
        -0.0,
        1,
        -1,
        1.001,
        -1.001,
        0.0000015,
        -0.0000015,
        1e-9,
        -1e-9,
        1e300,
        10**30,
        2**53,
    ]
    tried += [chance.randint(-(10**11), 10**11) for _ in range(500)]
    tried += [chance.uniform(-1e10, 1e10) for _ in range(2_000)]
    tried += [chance.uniform(-10, 10) for _ in range(2_000)]
    tried += [round(chance.uniform(-2e9, 2e9), chance.randint(0, 7)) for _ in range(2_000)]
    for time in tried:
        assert micros_of(time) == Timestamp(time).micros, time
        assert type(micros_of(time)) is int


class Unknown(tzinfo):
    """A time zone that does not know its distance from UTC."""

    def utcoffset(self, dt: datetime | None, /) -> None:
        return None

    def dst(self, dt: datetime | None, /) -> None:
        return None

    def tzname(self, dt: datetime | None, /) -> None:
        return None


def test_a_datetime_is_taken_exactly() -> None:
    chance = random.Random(13)
    epoch, zone = datetime(1970, 1, 1, tzinfo=timezone.utc), timezone(timedelta(hours=5, minutes=30))
    lowest = (datetime.min - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    highest = (datetime.max - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    for micros in [lowest, -1, 0, 1, highest, *(chance.randint(lowest, highest) for _ in range(2_000))]:
        time = epoch + timedelta(microseconds=micros)
        assert micros_of(time) == micros
        assert micros_of(time) == Timestamp.from_utc_datetime(time).micros
    local = datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=zone)
    assert micros_of(local) == micros_of(local.astimezone(timezone.utc))
    assert micros_of(datetime.min.replace(tzinfo=zone)) == lowest - int(5.5 * 3_600) * SECOND


@pytest.mark.parametrize(
    ("time", "error", "says"),
    [
        (datetime(2024, 1, 1), ValueError, "no time zone"),
        (datetime(2024, 1, 1, tzinfo=Unknown()), ValueError, "no time zone"),
        (True, TypeError, "not bool"),
        (float("nan"), ValueError, "event time nan is not finite"),
        (float("inf"), ValueError, "event time inf is not finite"),
        (float("-inf"), ValueError, "event time -inf is not finite"),
        (1e308, ValueError, "too large"),
        ("2024-01-01", TypeError, "not str"),
        (None, TypeError, "not NoneType"),
        (date(2024, 1, 1), TypeError, "not date"),
        (timedelta(1), TypeError, "not timedelta"),
        (Decimal(1), TypeError, "not Decimal"),
        (1j, TypeError, "not complex"),
    ],
)
def test_what_is_no_time_is_told(time: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        micros_of(time)


def test_bounds_are_aware_datetimes_in_utc() -> None:
    start, end = bounds_of((-1, 1_500_000))
    assert start == datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc)
    assert end == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=timezone.utc)
    assert start.tzinfo is timezone.utc
    assert end.tzinfo is timezone.utc


def test_bounds_give_the_microseconds_back() -> None:
    chance = random.Random(17)
    for _ in range(2_000):
        start = chance.randint(-62_135_596_800 * SECOND, 253_402_300_000 * SECOND)
        window = (start, start + chance.randint(1, 299 * SECOND))
        assert tuple(map(micros_of, bounds_of(window))) == window


@pytest.mark.parametrize(
    "micros",
    [
        micros_of(datetime.min.replace(tzinfo=timezone.utc)),
        micros_of(datetime.max.replace(tzinfo=timezone.utc)),
        -(10**18),
        10**18,
        10**25,
        -(10**30),
        10**40,
        pytest.param(10**5000, id="too long to print"),
    ],
)
def test_a_window_beyond_all_dates_is_told(micros: int) -> None:
    (window,) = FixedWindows(7 * DAY).assign(micros)
    with pytest.raises(OverflowError, match="not within the years 1 to 9999"):
        bounds_of(window)

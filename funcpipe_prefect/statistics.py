"""Statistics as monoids: their totals merge without rounding, so no partitioning changes an answer.

A monoid here takes what a lift gives for one record and makes a total of it, by `unit` or `unit_at`.
A value that it refuses raises ValueError or TypeError there, so that the record is blamed, not the merge.
Totals are plain values; nothing is rounded before `finish`.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from operator import itemgetter
from typing import Any, TypeAlias

from funcpipe_prefect.monoid import Monoid
from funcpipe_prefect.schema import canonical_encoder

__all__ = [
    "STATISTICS",
    "ArgMax",
    "ArgMin",
    "Histogram",
    "Least",
    "Moments",
    "ReservoirSample",
    "Variance",
    "plain_number",
    "require_whole",
]

PowerSums: TypeAlias = tuple[int, int, int, int]
Best: TypeAlias = tuple[Any, Any] | None
Drawn: TypeAlias = tuple[int, Any]

_encode = canonical_encoder()


def plain_number(value: Any) -> Any:
    """Give a number as one of Python's; those compare exactly with each other, numpy's do not.

    Raises:
        TypeError: It is no number.
        ValueError: It is NaN.
    """
    if value.__class__ is int:
        return value
    if value.__class__ is not float:
        if hasattr(value, "tolist"):  # numpy scalars
            value = value.tolist()
        if not isinstance(value, (Real, Decimal)):
            raise TypeError(f"{value!r} is no number")
    if value != value:
        raise ValueError("NaN is no number to reckon with")
    return value


def require_whole(owner: object, name: str, least: int, most: int | None = None) -> None:
    """Check that a parameter is an integer within bounds.

    Raises:
        ValueError: It is not.
    """
    value = getattr(owner, name)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} of {type(owner).__name__} must be an integer, {bounds}: not {value!r}")


def _ratio(value: Any) -> tuple[int, int]:
    if value.__class__ is int:
        return value, 1
    try:
        numerator, denominator = plain_number(value).as_integer_ratio()
    except OverflowError as error:
        raise ValueError("infinity is no number to reckon with") from error
    return int(numerator), int(denominator)


def _divided(numerator: int, denominator: int) -> float:
    """Divide, rounding once; what is too large for a float is infinite."""
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf


def _root(numerator: int, denominator: int) -> float:
    """Give the square root of a fraction, rounding once.

    Source: `statistics._float_sqrt_of_frac` of CPython 3.11: an integer root of 55 bits or more, with
    the last bit set where it is not exact, rounds to 53 bits as the true root does.
    """
    shift = (numerator.bit_length() - denominator.bit_length() - 109) // 2
    top, bottom = (
        (numerator, denominator << 2 * shift) if shift >= 0 else (numerator << -2 * shift, denominator)
    )
    root = math.isqrt(top // bottom)
    root |= root * root * bottom != top
    return _divided(root << shift, 1) if shift >= 0 else _divided(root, 1 << -shift)


@dataclass(frozen=True)
class _PowerSums:
    """The totals of variance: count, sum and sum of squares, exact.

    A total is `(count, p, q, d)`: the values are fractions over the common denominator `d`, the sum of
    them is `p / d`, that of their squares `q / d**2`. `d` is the least common multiple of the values'
    own denominators, so that equal inputs have equal totals.
    """

    commutative = True
    associative = True

    def empty(self) -> PowerSums:
        """Give the total of no value."""
        return (0, 0, 0, 1)

    def unit(self, value: Any) -> PowerSums:
        """Take one number: an int, float, Fraction, Decimal or numpy number.

        Raises:
            ValueError: It is NaN or infinite.
            TypeError: It is no number.
        """
        numerator, denominator = _ratio(value)
        return (1, numerator, numerator * numerator, denominator)

    def combine(self, a: PowerSums, b: PowerSums) -> PowerSums:
        """Add two totals."""
        count, p, q, d = a
        others, r, s, e = b
        if d == e:
            return (count + others, p + r, q + s, d)
        common = math.lcm(d, e)
        f, g = common // d, common // e
        return (count + others, p * f + r * g, q * f * f + s * g * g, common)

    def fold(self, values: Iterable[PowerSums]) -> PowerSums:
        """Add totals; those of one denominator, of which floats have few, are added as integers."""
        sums: dict[int, list[int]] = {}
        for count, p, q, d in values:
            held = sums.get(d)
            if held is None:
                sums[d] = [count, p, q]
            else:
                held[0] += count
                held[1] += p
                held[2] += q
        totals: Iterable[PowerSums] = ((count, p, q, d) for d, (count, p, q) in sums.items())
        return functools.reduce(self.combine, totals, self.empty())


def _spread(total: PowerSums, ddof: int) -> tuple[int, int]:
    """Give the variance as numerator and denominator."""
    count, p, q, d = total
    return count * q - p * p, count * (count - ddof) * d * d


@dataclass(frozen=True)
class Variance(_PowerSums):
    """The variance of numbers: lift a record to a number. None for too few of them.

    Args:
        ddof: What is taken off the count in the divisor: 0 for the variance of a population, 1 for an
            estimate from a sample.

    Example:
        >>> monoid = Variance(ddof=1)
        >>> monoid.finish(monoid.fold(map(monoid.unit, [1, 2, 4])))
        2.3333333333333335
    """

    ddof: int = 0

    def __post_init__(self) -> None:
        require_whole(self, "ddof", 0)

    def finish(self, total: PowerSums) -> float | None:
        """Give the variance, rounded once; infinite where it is too large for a float."""
        return _divided(*_spread(total, self.ddof)) if total[0] > self.ddof else None


@dataclass(frozen=True)
class Moments(_PowerSums):
    """Count, mean, variance and standard deviation of numbers, as a population: lift a record to a number.

    Example:
        >>> monoid = Moments()
        >>> monoid.finish(monoid.fold(map(monoid.unit, [2.0, 4.0])))
        {'count': 2, 'mean': 3.0, 'variance': 1.0, 'stddev': 1.0}
    """

    def finish(self, total: PowerSums) -> dict[str, Any]:
        """Give the answers, each rounded once; None where no value was."""
        count, p, _, d = total
        if not count:
            return {"count": 0, "mean": None, "variance": None, "stddev": None}
        spread = _spread(total, 0)
        return {
            "count": count,
            "mean": _divided(p, count * d),
            "variance": _divided(*spread),
            "stddev": _root(*spread),
        }


def _require_order(value: Any) -> None:
    if isinstance(value, (list, tuple)):
        for part in value:
            _require_order(part)
    elif value is None or isinstance(value, (set, frozenset)):
        raise ValueError(f"{value!r} is neither more nor less than other values")
    elif value != value:
        raise ValueError("NaN is neither more nor less than other values")
    else:
        bool(value < value)  # what has no order at all raises here


@dataclass(frozen=True)
class ArgMin:
    """Where a value is smallest: lift a record to `(value, argument)`; the pair of the smallest is the answer.

    Of equal values the one is taken whose argument has the smallest canonical encoding. None is the
    identity, and the answer for no record.

    Example:
        >>> monoid = ArgMin()
        >>> monoid.fold(map(monoid.unit, [(3.5, "b"), (2.0, "c"), (2.0, "a")]))
        (2.0, 'a')
    """

    commutative = True
    associative = True

    def empty(self) -> Best:
        """Give what any pair replaces."""
        return None

    def unit(self, pair: Any) -> Best:
        """Take one pair; its value may be anything that `<` orders.

        Raises:
            ValueError: It is no pair, or its value has no order: NaN, None or a set.
            TypeError: The value cannot be compared by `<`, or the argument has no canonical encoding.
        """
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError(f"lift to a pair (value, argument), not to {pair!r}")
        value, argument = pair
        if value.__class__ is not int:
            if hasattr(value, "tolist"):
                value = value.tolist()
            _require_order(value)
        _encode(argument)
        return (value, argument)

    def combine(self, a: Best, b: Best) -> Best:
        """Take the better of two pairs."""
        if a is None or b is None:
            return b if a is None else a
        return b if self._is_better(b, a) else a

    def fold(self, values: Iterable[Best]) -> Best:
        """Take the best of all pairs."""
        best: Best = None
        for pair in values:
            if pair is not None and (best is None or self._is_better(pair, best)):
                best = pair
        return best

    def _is_better(self, a: Sequence[Any], b: Sequence[Any]) -> bool:
        if self._is_before(a[0], b[0]):
            return True
        return not self._is_before(b[0], a[0]) and self._wins_tie(a, b)

    @staticmethod
    def _is_before(a: Any, b: Any) -> bool:
        return bool(a < b)

    @staticmethod
    def _wins_tie(a: Sequence[Any], b: Sequence[Any]) -> bool:
        one, other = _encode(a[1]), _encode(b[1])
        if one != other:
            return one < other
        return _form(a[0]) < _form(b[0])  # 1, 1.0 and True are equal, but not written alike


def _form(value: Any) -> tuple[str, str]:
    return type(value).__name__, repr(value)


@dataclass(frozen=True)
class ArgMax(ArgMin):
    """Where a value is largest: lift a record to `(value, argument)`; the pair of the largest is the answer.

    Ties and the identity are as in `ArgMin`.
    """

    @staticmethod
    def _is_before(a: Any, b: Any) -> bool:
        return bool(b < a)


class Least:
    """Gathers the k entries `(priority, item)` with the smallest priorities, in bounded memory.

    Equal priorities are told apart by the items' canonical encoding.
    """

    def __init__(self, k: int) -> None:
        self._k, self._most = k, 2 * k + 1024
        self._kept: list[Drawn] = []
        self._limit: int | None = None
        self._in_order = True

    def add(self, entries: Sequence[Drawn]) -> None:
        """Take some more entries; k of them at once are what `entries` gave, and in order."""
        if self._limit is not None:
            limit = self._limit
            entries = [entry for entry in entries if entry[0] <= limit]
        if not entries:
            return
        if not self._kept and len(entries) == self._k:
            self._kept, self._limit = list(entries), entries[-1][0]
            return
        self._kept.extend(entries)
        self._in_order = False
        if len(self._kept) >= self._most:
            self._limit = self.entries()[-1][0]

    def entries(self) -> list[Drawn]:
        """Give the smallest entries so far, in order."""
        kept = self._kept
        if not self._in_order:
            kept.sort(key=itemgetter(0))
            if len({entry[0] for entry in kept}) < len(kept):
                kept.sort(key=lambda entry: (entry[0], _encode(entry[1])))
            del kept[self._k :]
            self._in_order = True
        return kept


@dataclass(frozen=True)
class ReservoirSample:
    """A uniform sample of k items without replacement: lift a record to what is sampled.

    Each record draws a priority, a hash of the seed and of its place in the input; those with the
    smallest are the sample. So it is the same for any partitioning and any order of merging.

    Source: Cohen and Kaplan, "Summarizing data using bottom-k sketches" (PODC 2007).

    Args:
        k: How many items to keep, at least 1.
        seed: Another seed draws another sample.

    Example:
        >>> monoid = ReservoirSample(k=2)
        >>> monoid.finish(monoid.fold(monoid.unit_at(word, f"file:{n}") for n, word in enumerate("abcdef")))
        ['d', 'e']
    """

    k: int = 10
    seed: int = 0
    commutative = True
    associative = True

    def __post_init__(self) -> None:
        require_whole(self, "k", 1)
        if not isinstance(self.seed, int):
            raise ValueError(f"seed of ReservoirSample must be an integer, not {self.seed!r}")

    def empty(self) -> list[Drawn]:
        """Give the sample of nothing."""
        return []

    def unit_at(self, item: Any, place: str) -> list[Drawn]:
        """Draw one item's priority.

        Args:
            item: What is sampled.
            place: A text that no other record has, the same for any partitioning.
        """
        drawn = hashlib.sha256(f"{self.seed}\0{place}".encode("utf-8", "surrogatepass")).digest()
        return [(int.from_bytes(drawn[:8], "big"), item)]

    def combine(self, a: Sequence[Drawn], b: Sequence[Drawn]) -> list[Drawn]:
        """Keep the k smallest entries of two samples."""
        return self.fold((a, b))

    def fold(self, values: Iterable[Sequence[Drawn]]) -> list[Drawn]:
        """Keep the k smallest entries of all samples."""
        least = Least(self.k)
        for entries in values:
            least.add(entries)
        return least.entries()

    def finish(self, total: Iterable[Drawn]) -> list[Any]:
        """Give the items, in order of priority: any first few of them are a sample as well."""
        return [item for _, item in total]


@dataclass(frozen=True)
class Histogram:
    """How many numbers fall into each bin: lift a record to a number.

    Bins are half-open, `[a, b)`; the last one includes its upper edge.

    Args:
        low: Lower edge of the first bin.
        high: Upper edge of the last bin.
        bins: How many bins of equal width there are.
        edges: The edges of bins of any width, ascending; where given, `low`, `high` and `bins` do not count.

    Example:
        >>> monoid = Histogram(edges=(0, 1, 10))
        >>> monoid.finish(monoid.fold(map(monoid.unit, [0.5, 1, 2, 10, 11])))
        {'edges': [0.0, 1.0, 10.0], 'counts': [1, 3], 'below': 0, 'above': 1}
    """

    low: float = 0.0
    high: float = 1.0
    bins: int = 10
    edges: tuple[float, ...] = ()
    commutative = True
    associative = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(self.edges))
        edges = list(map(_finite, self.edges)) if self.edges else self._even_edges()
        if len(edges) < 2:
            raise ValueError(f"edges of Histogram must be two or more: not {self.edges!r}")
        if any(a >= b for a, b in itertools.pairwise(edges)):
            what = (
                "must be ascending" if self.edges else "lie too close together for floats to tell them apart"
            )
            raise ValueError(f"edges of Histogram {what}: {_shortened(edges)}")
        object.__setattr__(self, "_edges", edges)

    def _even_edges(self) -> list[float]:
        require_whole(self, "bins", 1)
        low, high, bins = _finite(self.low), _finite(self.high), self.bins
        if low >= high:
            raise ValueError(f"low of Histogram must be below high: not {self.low!r} and {self.high!r}")
        return [low * (1 - n / bins) + high * (n / bins) for n in range(bins + 1)]

    def empty(self) -> dict[int, int]:
        """Give the counts of no number."""
        return {}

    def unit(self, value: Any) -> dict[int, int]:
        """Find one number's bin: -1 below all, as many as there are bins above all.

        Raises:
            ValueError: It is NaN.
            TypeError: It is no number.
        """
        edges: list[float] = self.__dict__["_edges"]
        number = plain_number(value)
        if number == edges[-1]:
            return {len(edges) - 2: 1}
        return {bisect.bisect_right(edges, number) - 1: 1}

    def combine(self, a: Mapping[int, int], b: Mapping[int, int]) -> dict[int, int]:
        """Add two totals."""
        return self.fold((a, b))

    def fold(self, values: Iterable[Mapping[int, int]]) -> dict[int, int]:
        """Add totals."""
        total: dict[int, int] = {}
        held = total.get
        for counts in values:
            for place, count in counts.items():
                total[place] = held(place, 0) + count
        return total

    def finish(self, total: Mapping[int, int]) -> dict[str, Any]:
        """Give the edges, the count of each bin, and the counts below and above all bins."""
        edges: list[float] = self.__dict__["_edges"]
        bins = len(edges) - 1
        return {
            "edges": list(edges),
            "counts": [total.get(place, 0) for place in range(bins)],
            "below": total.get(-1, 0),
            "above": total.get(bins, 0),
        }


def _finite(value: Any) -> float:
    try:
        number = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"edges of Histogram must be finite numbers: not {value!r}")
    return number


def _shortened(edges: list[float]) -> str:
    return repr(edges) if len(edges) <= 8 else f"[{', '.join(map(repr, edges[:4]))}, ... {len(edges)} edges]"


STATISTICS: Mapping[str, Monoid[Any]] = {
    "variance": Variance(),
    "moments": Moments(),
    "arg_min": ArgMin(),
    "arg_max": ArgMax(),
    "reservoir_sample": ReservoirSample(),
    "histogram": Histogram(),
}

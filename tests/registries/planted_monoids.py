"""Monoids with a planted fault, each followed by a twin that does the same job and keeps the laws."""

from __future__ import annotations

import collections
import functools
import heapq
import itertools
import math
import statistics
from collections.abc import Iterable
from fractions import Fraction

Scored = tuple[int, str]
"""A score and the name that earned it."""

Event = tuple[int, str]
"""A time and what happened then."""


class MeanOfMeans:
    commutative = True

    def empty(self) -> float:
        return 0.0

    def combine(self, a: float, b: float) -> float:
        return (a + b) / 2


class MeanBySumAndCount:
    commutative = True

    def empty(self) -> tuple[int, int]:
        return (0, 0)

    def combine(self, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        return (a[0] + b[0], a[1] + b[1])

    def finish(self, total: tuple[int, int]) -> float | None:
        return total[0] / total[1] if total[1] else None


class StockLeftBySubtraction:
    commutative = True

    def empty(self) -> int:
        return 0

    def combine(self, a: int, b: int) -> int:
        return a - b


class StockLeftBySignedChanges:
    commutative = True

    def empty(self) -> int:
        return 0

    def combine(self, a: int, b: int) -> int:
        return a + b


class TotalRoundedAtEachMerge:
    """Precise within a merge only: `fsum` of two floats rounds as `+` does."""

    commutative = True

    def empty(self) -> float:
        return 0.0

    def combine(self, a: float, b: float) -> float:
        return math.fsum((a, b))


class TotalInFractions:
    commutative = True

    def empty(self) -> Fraction:
        return Fraction(0)

    def combine(self, a: Fraction, b: Fraction) -> Fraction:
        return a + b

    def finish(self, total: Fraction) -> float:
        return float(total)


class FloatTotal:
    commutative = True

    def empty(self) -> float:
        return 0.0

    def combine(self, a: float, b: float) -> float:
        return a + b


class FloatTotalWithinTolerance(FloatTotal):
    tolerance = 1e-9


class Concatenated:
    commutative = True

    def empty(self) -> list[int]:
        return []

    def combine(self, a: list[int], b: list[int]) -> list[int]:
        return a + b


class MergedInOrder:
    commutative = True

    def empty(self) -> list[int]:
        return []

    def combine(self, a: list[int], b: list[int]) -> list[int]:
        return list(heapq.merge(a, b))


class LastWriteWins:
    commutative = True

    def empty(self) -> dict[str, int]:
        return {}

    def combine(self, a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
        return {**a, **b}


class NewestVersionWins:
    """The greatest (timestamp, value) of each key."""

    commutative = True

    def empty(self) -> dict[str, tuple[int, int]]:
        return {}

    def combine(
        self, a: dict[str, tuple[int, int]], b: dict[str, tuple[int, int]]
    ) -> dict[str, tuple[int, int]]:
        return {**a, **{key: max(version, a.get(key, version)) for key, version in b.items()}}


class HighestAboveZero:
    commutative = True

    def empty(self) -> int:
        return 0

    def combine(self, a: int, b: int) -> int:
        return max(a, b)


class HighestIfAny:
    commutative = True

    def empty(self) -> int | None:
        return None

    def combine(self, a: int | None, b: int | None) -> int | None:
        return max((value for value in (a, b) if value is not None), default=None)


class NamesJoinedByComma:
    commutative = True

    def empty(self) -> str:
        return ""

    def combine(self, a: str, b: str) -> str:
        return f"{a}, {b}"


class NamesJoinedAtTheEnd:
    commutative = True

    def empty(self) -> frozenset[str]:
        return frozenset()

    def combine(self, a: frozenset[str], b: frozenset[str]) -> frozenset[str]:
        return a | b

    def finish(self, total: frozenset[str]) -> str:
        return ", ".join(sorted(total))


class CountsAddedInPlace:
    commutative = True

    def empty(self) -> dict[str, int]:
        return {}

    def combine(self, a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
        for word, count in b.items():
            a[word] = a.get(word, 0) + count
        return a


class CountsAddedToACopy:
    commutative = True

    def empty(self) -> dict[str, int]:
        return {}

    def combine(self, a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
        total = dict(a)
        for word, count in b.items():
            total[word] = total.get(word, 0) + count
        return total


class SmallerIntoLarger:
    commutative = True

    def empty(self) -> set[int]:
        return set()

    def combine(self, a: set[int], b: set[int]) -> set[int]:
        smaller, larger = sorted((a, b), key=len)
        larger.update(smaller)
        return larger


class UnionAsANewSet:
    commutative = True

    def empty(self) -> set[int]:
        return set()

    def combine(self, a: set[int], b: set[int]) -> set[int]:
        return a | b


class IndexOverAShallowCopy:
    """The dict is a copy, the sets in it are those of the left argument."""

    commutative = True

    def empty(self) -> dict[str, set[int]]:
        return {}

    def combine(self, a: dict[str, set[int]], b: dict[str, set[int]]) -> dict[str, set[int]]:
        index = dict(a)
        for word, ids in b.items():
            index.setdefault(word, set()).update(ids)
        return index


class IndexOfNewSets:
    commutative = True

    def empty(self) -> dict[str, set[int]]:
        return {}

    def combine(self, a: dict[str, set[int]], b: dict[str, set[int]]) -> dict[str, set[int]]:
        index = dict(a)
        for word, ids in b.items():
            index[word] = index.get(word, set()) | ids
        return index


class VisitsFromOneSharedDict:
    commutative = True
    start: dict[str, int] = {}

    def empty(self) -> dict[str, int]:
        return self.start

    def combine(self, a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
        total = self.empty()
        for page, visits in itertools.chain(a.items(), b.items()):
            total[page] = total.get(page, 0) + visits
        return total


class VisitsFromANewDict:
    commutative = True

    def empty(self) -> dict[str, int]:
        return {}

    def combine(self, a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
        total = self.empty()
        for page, visits in itertools.chain(a.items(), b.items()):
            total[page] = total.get(page, 0) + visits
        return total


class ExponentialDecay:
    commutative = True

    def empty(self) -> float:
        return 0.0

    def combine(self, a: float, b: float) -> float:
        return 0.875 * a + 0.125 * b


class DecayOfKeptReadings:
    """Readings by their time; the decay is worked out over all of them, in time order."""

    commutative = True

    def empty(self) -> dict[int, int]:
        return {}

    def combine(self, a: dict[int, int], b: dict[int, int]) -> dict[int, int]:
        return {**a, **{second: max(value, a.get(second, value)) for second, value in b.items()}}

    def finish(self, total: dict[int, int]) -> float:
        return functools.reduce(lambda kept, second: 0.875 * kept + 0.125 * total[second], sorted(total), 0.0)


class MedianOfMedians:
    commutative = True

    def empty(self) -> list[int]:
        return []

    def combine(self, a: list[int], b: list[int]) -> list[int]:
        both = a + b
        return [statistics.median_low(both)] if both else []


class MedianByCounts:
    commutative = True

    def empty(self) -> dict[int, int]:
        return {}

    def combine(self, a: dict[int, int], b: dict[int, int]) -> dict[int, int]:
        return {value: a.get(value, 0) + b.get(value, 0) for value in a.keys() | b.keys()}

    def finish(self, total: dict[int, int]) -> int | None:
        values = [value for value in sorted(total) for _ in range(total[value])]
        return statistics.median_low(values) if values else None


class FirstOneWins:
    commutative = True

    def empty(self) -> str | None:
        return None

    def combine(self, a: str | None, b: str | None) -> str | None:
        return b if a is None else a


class EarliestOneWins:
    commutative = True

    def empty(self) -> Event | None:
        return None

    def combine(self, a: Event | None, b: Event | None) -> Event | None:
        return min((event for event in (a, b) if event is not None), default=None)


class GrowthRoundedAtEachStep:
    commutative = True

    def empty(self) -> float:
        return 1.0

    def combine(self, a: float, b: float) -> float:
        return round(a * b, 2)


class GrowthRoundedAtTheEnd:
    commutative = True

    def empty(self) -> Fraction:
        return Fraction(1)

    def combine(self, a: Fraction, b: Fraction) -> Fraction:
        return a * b

    def finish(self, total: Fraction) -> float:
        return round(float(total), 2)


class CommonTagsFromNone:
    """The intersection, which stays empty once it began empty."""

    commutative = True

    def empty(self) -> frozenset[str]:
        return frozenset()

    def combine(self, a: frozenset[str], b: frozenset[str]) -> frozenset[str]:
        return a & b


class CommonTagsFromEverything:
    """The intersection; None stands for every tag there is."""

    commutative = True

    def empty(self) -> frozenset[str] | None:
        return None

    def combine(self, a: frozenset[str] | None, b: frozenset[str] | None) -> frozenset[str] | None:
        if a is None or b is None:
            return b if a is None else a
        return a & b


class DistinctAcrossTheSeam:
    """Adds the counts and takes off what both neighbours saw, but remembers the last neighbour only."""

    commutative = True

    def empty(self) -> tuple[int, frozenset[int]]:
        return (0, frozenset())

    def combine(
        self, a: tuple[int, frozenset[int]], b: tuple[int, frozenset[int]]
    ) -> tuple[int, frozenset[int]]:
        return (a[0] + b[0] - len(a[1] & b[1]), b[1])


class DistinctByUnion:
    commutative = True

    def empty(self) -> frozenset[int]:
        return frozenset()

    def combine(self, a: frozenset[int], b: frozenset[int]) -> frozenset[int]:
        return a | b

    def finish(self, total: frozenset[int]) -> int:
        return len(total)


class VarianceWithoutCounts:
    """(mean, variance) of two samples as if they were of one size."""

    commutative = True

    def empty(self) -> tuple[float, float]:
        return (0.0, 0.0)

    def combine(self, a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
        return ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2 + ((a[0] - b[0]) / 2) ** 2)


class VarianceByPowerSums:
    """(count, sum, sum of squares), all of them integers."""

    commutative = True

    def empty(self) -> tuple[int, int, int]:
        return (0, 0, 0)

    def combine(self, a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
        return (a[0] + b[0], a[1] + b[1], a[2] + b[2])

    def finish(self, total: tuple[int, int, int]) -> Fraction | None:
        count, plain, squares = total
        return Fraction(squares, count) - Fraction(plain, count) ** 2 if count else None


class TopThreeCutBeforeSorting:
    commutative = True

    def empty(self) -> list[int]:
        return []

    def combine(self, a: list[int], b: list[int]) -> list[int]:
        return sorted((a + b)[:3], reverse=True)


class TopThreeCutAfterSorting:
    commutative = True

    def empty(self) -> list[int]:
        return []

    def combine(self, a: list[int], b: list[int]) -> list[int]:
        return sorted(a + b, reverse=True)[:3]


class BestThreeOneAScore:
    """Of those with equal scores, whoever came last is kept."""

    commutative = True

    def empty(self) -> list[Scored]:
        return []

    def combine(self, a: list[Scored], b: list[Scored]) -> list[Scored]:
        return sorted({score: (score, name) for score, name in a + b}.values(), reverse=True)[:3]


class BestThreeTiesByName:
    commutative = True

    def empty(self) -> list[Scored]:
        return []

    def combine(self, a: list[Scored], b: list[Scored]) -> list[Scored]:
        return sorted(a + b, reverse=True)[:3]


class BalancesByCounterAddition:
    """`Counter + Counter` drops every key that is not above zero."""

    commutative = True

    def empty(self) -> dict[str, int]:
        return {}

    def combine(self, a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
        return dict(collections.Counter(a) + collections.Counter(b))


class BalancesByCounterUpdate:
    """`Counter.update` keeps what is zero or below."""

    commutative = True

    def empty(self) -> dict[str, int]:
        return {}

    def combine(self, a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
        total = collections.Counter(a)
        total.update(b)
        return dict(total)


class UnsoldByCounterDifference:
    commutative = True

    def empty(self) -> collections.Counter[str]:
        return collections.Counter()

    def combine(self, a: collections.Counter[str], b: collections.Counter[str]) -> collections.Counter[str]:
        return a - b


class UnsoldByReceivedAndSold:
    """(received, sold), subtracted when all is known."""

    commutative = True

    def empty(self) -> tuple[collections.Counter[str], collections.Counter[str]]:
        return (collections.Counter(), collections.Counter())

    def combine(
        self,
        a: tuple[collections.Counter[str], collections.Counter[str]],
        b: tuple[collections.Counter[str], collections.Counter[str]],
    ) -> tuple[collections.Counter[str], collections.Counter[str]]:
        return (a[0] + b[0], a[1] + b[1])

    def finish(
        self, total: tuple[collections.Counter[str], collections.Counter[str]]
    ) -> collections.Counter[str]:
        return total[0] - total[1]


class AllPassedFromFalse:
    commutative = True

    def empty(self) -> bool:
        return False

    def combine(self, a: bool, b: bool) -> bool:
        return a and b


class AllPassedFromTrue:
    commutative = True

    def empty(self) -> bool:
        return True

    def combine(self, a: bool, b: bool) -> bool:
        return a and b


class ParityByEquality:
    """Equality is associative, but its identity is True."""

    commutative = True

    def empty(self) -> bool:
        return False

    def combine(self, a: bool, b: bool) -> bool:
        return a == b


class ParityByExclusiveOr:
    commutative = True

    def empty(self) -> bool:
        return False

    def combine(self, a: bool, b: bool) -> bool:
        return a ^ b


class LongestWhoeverComesFirst:
    commutative = True

    def empty(self) -> str:
        return ""

    def combine(self, a: str, b: str) -> str:
        return a if len(a) >= len(b) else b


class LongestThenGreatest:
    commutative = True

    def empty(self) -> str:
        return ""

    def combine(self, a: str, b: str) -> str:
        return max(a, b, key=lambda text: (len(text), text))


class BalanceNeverBelowZero:
    commutative = True

    def empty(self) -> int:
        return 0

    def combine(self, a: int, b: int) -> int:
        return max(a + b, 0)


class BalanceClampedAtTheEnd:
    commutative = True

    def empty(self) -> int:
        return 0

    def combine(self, a: int, b: int) -> int:
        return a + b

    def finish(self, total: int) -> int:
        return max(total, 0)


class SumWhoseFoldDropsTheOdd:
    """The fold adds in pairs, and `zip` leaves out the last of an odd number."""

    commutative = True

    def empty(self) -> int:
        return 0

    def combine(self, a: int, b: int) -> int:
        return a + b

    def fold(self, values: Iterable[int]) -> int:
        listed = list(values)
        return sum(left + right for left, right in zip(listed[::2], listed[1::2], strict=False))


class SumWhoseFoldKeepsTheOdd(SumWhoseFoldDropsTheOdd):
    def fold(self, values: Iterable[int]) -> int:
        listed = list(values)
        return sum(
            left + right for left, right in itertools.zip_longest(listed[::2], listed[1::2], fillvalue=0)
        )


class TotalWhoseFoldAverages:
    commutative = True

    def empty(self) -> Fraction:
        return Fraction(0)

    def combine(self, a: Fraction, b: Fraction) -> Fraction:
        return a + b

    def fold(self, values: Iterable[Fraction]) -> Fraction:
        return statistics.mean([Fraction(0), *values])


class TotalWhoseFoldAdds(TotalWhoseFoldAverages):
    def fold(self, values: Iterable[Fraction]) -> Fraction:
        return sum(values, start=Fraction(0))


class ExactTotalFoldedInFloats:
    """Exact when it combines, rounded when it folds."""

    commutative = True

    def empty(self) -> Fraction:
        return Fraction(0)

    def combine(self, a: Fraction, b: Fraction) -> Fraction:
        return a + b

    def fold(self, values: Iterable[Fraction]) -> Fraction:
        return Fraction(math.fsum(values))


class ExactTotalFoldedOverOneDenominator(ExactTotalFoldedInFloats):
    def fold(self, values: Iterable[Fraction]) -> Fraction:
        listed = list(values)
        shared = math.lcm(*(value.denominator for value in listed))
        return Fraction(sum(value.numerator * (shared // value.denominator) for value in listed), shared)


class LowestWhoseFoldNeedsOne:
    """`min` of nothing raises, so an empty partition fails the run."""

    commutative = True

    def empty(self) -> int | None:
        return None

    def combine(self, a: int | None, b: int | None) -> int | None:
        return min((value for value in (a, b) if value is not None), default=None)

    def fold(self, values: Iterable[int | None]) -> int | None:
        return min(value for value in values if value is not None)


class LowestWhoseFoldTakesNone(LowestWhoseFoldNeedsOne):
    def fold(self, values: Iterable[int | None]) -> int | None:
        return min((value for value in values if value is not None), default=None)

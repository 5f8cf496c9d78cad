"""Monoids: how partial answers are merged, and the ones that come built in.

A monoid has an identity (`empty`) and a `combine` that is associative. Here it must be declared
commutative too, because partitions end in any order. The laws are stated in `laws`.

Source: Lämmel, "Google's MapReduce programming model – revisited" (2008), for why a
distributed fold needs exactly a commutative monoid.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import heapq
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

__all__ = [
    "BUILTIN_MONOIDS",
    "Count",
    "Counter",
    "Digest",
    "ExactSum",
    "Max",
    "Mean",
    "Min",
    "Monoid",
    "Product",
    "SetUnion",
    "Sum",
    "TopK",
    "digest_of",
    "digest_text",
    "digest_total",
    "digests_of",
    "finish",
    "fold",
]

A = TypeVar("A")
K = TypeVar("K", bound=Hashable)


@runtime_checkable
class Monoid(Protocol[A]):
    """An identity, an associative operation, and the declaration that order does not matter.

    Optional members: `associative` (taken as True when absent), `unit(value)`, which makes a total of
    what the lift gives for one record, or `unit_at(value, place)` where the total depends on the
    record's place in the input; `fold(values)` to merge many values at once in place of repeated
    `combine`, `finish(total)` for an answer that is derived from the total, such as a mean, and
    `tolerance`, the relative difference that rounding may make between two ways of merging (0 when
    absent), and `needs`, names of modules without which a pipeline with it is refused.
    """

    commutative: bool

    def empty(self) -> A:
        """Give the identity: `combine(empty(), x) == x`."""

    def combine(self, a: A, b: A, /) -> A:
        """Merge two partial answers, changing neither."""


def fold(monoid: Monoid[A], values: Iterable[A]) -> A:
    """Merge any number of values; no value gives the identity.

    Example:
        >>> fold(Sum(), [1, 2, 3])
        6
    """
    own: Callable[[Iterable[A]], A] | None = getattr(monoid, "fold", None)
    if own is not None:
        return own(values)
    return functools.reduce(monoid.combine, values, monoid.empty())


def finish(monoid: Monoid[Any], total: Any) -> Any:
    """Derive the answer from the total; most totals are the answer already.

    Example:
        >>> finish(Mean(), fold(Mean(), [(2, 1), (4, 1)]))
        3.0
    """
    own = getattr(monoid, "finish", None)
    return total if own is None else own(total)


@dataclass(frozen=True)
class Sum:
    """Addition. Exact for integers; for floats use `ExactSum`, since float addition is not associative."""

    commutative = True
    associative = True

    def empty(self) -> Any:
        return 0

    def combine(self, a: Any, b: Any) -> Any:
        return a + b


@dataclass(frozen=True)
class Count(Sum):
    """Counts records: give it a lift that returns 1."""


@dataclass(frozen=True)
class ExactSum:
    """Addition of floats without rounding: partial sums are fractions, the answer is one float."""

    commutative = True
    associative = True

    def empty(self) -> Fraction:
        return Fraction(0)

    def combine(self, a: float | Fraction, b: float | Fraction) -> Fraction:
        return Fraction(a) + Fraction(b)

    def finish(self, total: Fraction) -> float:
        return float(total)


@dataclass(frozen=True)
class Min:
    """The smallest value; None is the identity, and a NaN stays, whatever comes before or after it."""

    commutative = True
    associative = True

    def empty(self) -> Any:
        return None

    def combine(self, a: Any, b: Any) -> Any:
        if a is None or b is None:
            return b if a is None else a
        if a != a or b != b:
            return a if a != a else b
        return self._better(a, b)

    @staticmethod
    def _better(a: Any, b: Any) -> Any:
        return min(a, b)


@dataclass(frozen=True)
class Max(Min):
    """The largest value; None is the identity, and a NaN stays, whatever comes before or after it."""

    @staticmethod
    def _better(a: Any, b: Any) -> Any:
        return max(a, b)


@dataclass(frozen=True)
class Mean:
    """The mean by (sum, count): lift a record to `(value, 1)`. The sum is kept exactly."""

    commutative = True
    associative = True

    def empty(self) -> tuple[Any, int]:
        return (0, 0)

    def combine(self, a: tuple[Any, int], b: tuple[Any, int]) -> tuple[Any, int]:
        return (self._exact(a[0]) + self._exact(b[0]), a[1] + b[1])

    def finish(self, total: tuple[Any, int]) -> float | None:
        return float(Fraction(total[0]) / total[1]) if total[1] else None

    @staticmethod
    def _exact(value: Any) -> Any:
        if isinstance(value, (int, Fraction)) or not hasattr(value, "as_integer_ratio"):
            return value
        return Fraction(*value.as_integer_ratio())


@dataclass(frozen=True)
class SetUnion:
    """The union of sets: lift a record to a set (or any iterable) of hashable values."""

    commutative = True
    associative = True

    def empty(self) -> frozenset[Any]:
        return frozenset()

    def combine(self, a: Iterable[Any], b: Iterable[Any]) -> frozenset[Any]:
        return frozenset(a).union(b)

    def fold(self, values: Iterable[Iterable[Any]]) -> frozenset[Any]:
        union: set[Any] = set()
        for value in values:
            union.update(value)
        return frozenset(union)


@dataclass(frozen=True)
class Counter(Generic[K]):
    """Counts by key: lift a record to a mapping of counts, such as `{word: 1}`."""

    commutative = True
    associative = True

    def empty(self) -> dict[K, int]:
        return {}

    def combine(self, a: Mapping[K, int], b: Mapping[K, int]) -> dict[K, int]:
        return self.fold((a, b))

    def fold(self, values: Iterable[Mapping[K, int]]) -> dict[K, int]:
        total: collections.defaultdict[K, int] = collections.defaultdict(int)
        for value in values:
            for key, count in value.items():
                total[key] += count
        return dict(total)


@dataclass(frozen=True)
class TopK:
    """The k largest values, largest first: lift a record to a list of comparable values.

    Values that compare equal must be equal, or chance decides which of them is kept. A NaN counts
    as the largest of all.

    Args:
        k: How many to keep, at least 1.
    """

    k: int = 10
    commutative = True
    associative = True

    def empty(self) -> list[Any]:
        return []

    def combine(self, a: Iterable[Any], b: Iterable[Any]) -> list[Any]:
        return heapq.nlargest(self.k, [*a, *b], key=_nan_last)


def _nan_last(value: Any) -> tuple[bool, Any]:
    return (value != value, value)


@dataclass(frozen=True)
class Product:
    """Several monoids side by side: lift a record to a tuple with one value for each."""

    parts: tuple[Monoid[Any], ...] = field(default=())

    def __init__(self, *parts: Monoid[Any]) -> None:
        object.__setattr__(self, "parts", parts)

    @property
    def commutative(self) -> bool:
        return all(part.commutative is True for part in self.parts)

    @property
    def associative(self) -> bool:
        return all(getattr(part, "associative", True) is True for part in self.parts)

    @property
    def unit(self) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
        if not any(hasattr(part, "unit") for part in self.parts):
            raise AttributeError("no part makes totals of single values")
        return lambda value: self.unit_of(value, "")

    @property
    def unit_at(self) -> Callable[[tuple[Any, ...], str], tuple[Any, ...]]:
        if not any(hasattr(part, "unit_at") for part in self.parts):
            raise AttributeError("no part depends on the places of records")
        return self.unit_of

    def unit_of(self, value: tuple[Any, ...], place: str) -> tuple[Any, ...]:
        return tuple(_unit(part, x, place) for part, x in zip(self.parts, value, strict=True))

    def empty(self) -> tuple[Any, ...]:
        return tuple(part.empty() for part in self.parts)

    def combine(self, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(part.combine(x, y) for part, x, y in zip(self.parts, a, b, strict=True))

    def finish(self, total: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(finish(part, x) for part, x in zip(self.parts, total, strict=True))


def _unit(monoid: Any, value: Any, place: str) -> Any:
    if hasattr(monoid, "unit_at"):
        return monoid.unit_at(value, place)
    return monoid.unit(value) if hasattr(monoid, "unit") else value


_MODULUS = 1 << 256


@dataclass(frozen=True)
class Digest:
    """An order-free multiset hash: the count, and the sum modulo 2^256 of SHA-256 hashes.

    Lift a record to `digest_of(canonical_bytes)`. Equal digests mean equal records up to order
    and partitioning. A sum, not XOR: XOR would lose every pair of duplicates.

    Source: Clarke et al., "Incremental multiset hash functions" (ASIACRYPT 2003), MSet-Add-Hash.
    """

    commutative = True
    associative = True

    def empty(self) -> tuple[int, int]:
        return (0, 0)

    def combine(self, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        return (a[0] + b[0], (a[1] + b[1]) % _MODULUS)

    def finish(self, total: tuple[int, int]) -> str:
        return digest_text(total)


def digest_of(data: bytes) -> tuple[int, int]:
    """Lift one record's canonical bytes into the digest."""
    return (1, int.from_bytes(hashlib.sha256(data).digest(), "big"))


def digests_of(encoded: Iterable[bytes]) -> list[int]:
    """Lift the canonical bytes of many records: the second members of what `digest_of` gives."""
    hashes, empty = list[int](), hashlib.sha256()
    for data in encoded:
        state = empty.copy()  # quicker than a new one
        state.update(data)
        hashes.append(int.from_bytes(state.digest(), "big"))
    return hashes


def digest_text(total: tuple[int, int]) -> str:
    """Write a digest as text: the count, a hyphen and 64 hexadecimal digits.

    Example:
        >>> digest_text((0, 0))[:10]
        '0-00000000'
    """
    return f"{total[0]}-{total[1]:064x}"


def digest_total(text: str) -> tuple[int, int]:
    """Read a digest back from its text."""
    count, _, hexadecimal = text.partition("-")
    return (int(count), int(hexadecimal, 16))


BUILTIN_MONOIDS: Mapping[str, Monoid[Any]] = {
    "sum": Sum(),
    "exact_sum": ExactSum(),
    "count": Count(),
    "min": Min(),
    "max": Max(),
    "mean": Mean(),
    "set_union": SetUnion(),
    "counter": Counter(),
    "top_k": TopK(),
    "digest": Digest(),
}

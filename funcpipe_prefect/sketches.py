"""Sketches as monoids: answers about large inputs from small totals, the same for any partitioning.

An approximate answer that changes with the partitions would break the promise that every backend gives
the same. So each total here depends on nothing but the records (and their places, for `HeavyHitters`):
order, partitioning and the tree of merges change neither the total nor the answer, and no tolerance is
needed. What was found of the families in Apache DataSketches 5.2.0, by experiment and from its source:

- CPC, theta: the result of a union depends on the set of items only. CPC is 13 times smaller and is used.
- HLL: bytes and estimate depend on the order of items and merges.
- Count-min: linear, so exact under any merge. Used, with a sample that names the candidates.
- Frequent items: the same for the same sequence of calls, but not for another order or merge tree.
- KLL, REQ, classic quantiles: take random bits that cannot be seeded; two runs over the same data differ.
- t-digest: the same for the same sequence of calls only. All four of these bound the error in rank; the
  value may be off by any amount, so no tolerance could be declared for them. `Quantiles` is a histogram
  of adaptive width in its place, which bounds the error of the value.

Source: https://github.com/apache/datasketches-cpp/issues/361 on randomness, and Masson et al., "DDSketch"
(VLDB 2019) on rank and value errors.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import msgspec

from funcpipe_prefect.monoid import Monoid
from funcpipe_prefect.schema import canonical_encoder
from funcpipe_prefect.statistics import Drawn, Least, ReservoirSample, plain_number, require_whole

__all__ = ["SKETCHES", "DistinctCount", "HeavyHitters", "Quantiles", "datasketches_library"]

Hashes: TypeAlias = Sequence[int] | bytes
Counts: TypeAlias = Mapping[bytes, int] | bytes
Bins: TypeAlias = tuple[int, int | None, int | None, Mapping[int, int]]

_encode = canonical_encoder()
_decode = msgspec.msgpack.Decoder().decode


def datasketches_library() -> Any:
    """Import the DataSketches library, which is an extra.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    try:
        import datasketches
    except ModuleNotFoundError as error:
        if error.name not in ("datasketches", "_datasketches"):
            raise
        raise ModuleNotFoundError(
            'this sketch needs the DataSketches library: pip install "funcpipe-prefect[sketches]"',
            name=error.name,
        ) from error
    return datasketches


@dataclass(frozen=True)
class DistinctCount:
    """How many different values there are: lift a record to the value, anything with a canonical encoding.

    Values are the same if their canonical bytes are: 1 and 1.0 are two values. Up to `2**lg_k / 4` of
    them the total is a sorted list of 64-bit hashes and the answer exact; beyond it is a CPC sketch, whose
    standard error is about `0.56 / sqrt(2**lg_k)`: 0.9 % for the default.

    Source: Lang, "Back to the future: an even more nearly optimal cardinality estimation algorithm" (2017).

    Args:
        lg_k: Logarithm to base 2 of the number of rows, from 4 to 21. A sketch takes about `0.6 * 2**lg_k`
            bytes, a list up to about twice as many as there are rows.
    """

    lg_k: int = 12
    commutative = True
    associative = True
    needs = ("datasketches",)

    def __post_init__(self) -> None:
        require_whole(self, "lg_k", 4, 21)

    def empty(self) -> Hashes:
        """Give the total of no value."""
        return ()

    def unit(self, value: Any) -> Hashes:
        """Hash one value.

        Raises:
            TypeError: It has no canonical encoding.
        """
        return (int.from_bytes(hashlib.sha256(_encode(value)).digest()[:8], "big"),)

    def combine(self, a: Hashes, b: Hashes) -> Hashes:
        """Unite two sets."""
        return self.fold((a, b))

    def fold(self, values: Iterable[Hashes]) -> Hashes:
        """Unite sets.

        Raises:
            ModuleNotFoundError: The DataSketches library is not installed.
        """
        library = datasketches_library()
        most = 1 << (self.lg_k - 2)
        hashes: set[int] = set()
        union = sketch = None
        for total in values:
            if isinstance(total, bytes):
                union = library.cpc_union(self.lg_k) if union is None else union
                union.update(library.cpc_sketch.deserialize(total))
            elif sketch is not None:
                for item in total:
                    sketch.update(item)
            else:
                hashes.update(total)
                if len(hashes) > most:
                    sketch = self._sketch_of(hashes)
        if union is None and sketch is None:
            return tuple(sorted(hashes))
        union = library.cpc_union(self.lg_k) if union is None else union
        union.update(self._sketch_of(hashes) if sketch is None else sketch)
        united = union.get_result()  # even of one sketch: only a union forgets the order of updates
        return bytes(united.serialize())

    def _sketch_of(self, hashes: Iterable[int]) -> Any:
        sketch = datasketches_library().cpc_sketch(self.lg_k)
        for item in hashes:
            sketch.update(item)
        return sketch

    def finish(self, total: Hashes) -> int:
        """Give the count, exact or estimated."""
        if not isinstance(total, bytes):
            return len(total)
        return int(round(datasketches_library().cpc_sketch.deserialize(total).get_estimate()))


_FLOAT, _BITS = struct.Struct(">d"), struct.Struct(">q")
_SIGN = 1 << 63
_MANTISSA = 52


def _key_of(number: float) -> int:
    """Map floats to integers in their order; neighbours are neighbours."""
    bits: int = _BITS.unpack(_FLOAT.pack(number + 0.0))[0]  # -0.0 becomes 0.0
    return bits if bits >= 0 else ~(bits + _SIGN)


def _float_of(key: int) -> float:
    number: float = _FLOAT.unpack(_BITS.pack(key if key >= 0 else ~key))[0]
    return number if key >= 0 else -number


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of numbers: lift a record to a number.

    The total is a histogram of which a bin is all floats that agree in sign, exponent and the first bits of
    the mantissa. While there are at most `max_bins` different numbers, bins are single floats and answers
    exact; then as many last bits are dropped as needed. How many depends on the numbers alone, not on the
    order of merging. The quantile at rank q is the value at place `ceil(q * count)` in order, or the first;
    its relative error is at most the `relative_error` of the answer, for numbers of 1e-300 or more. With the
    default, latencies or lengths that span a factor of 1000 have 0.4 %. Integers beyond 2**53 are rounded.

    Source: Masson et al., "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
    guarantees" (VLDB 2019); collapsing all bins alike: Epicoco et al., "UDDSketch" (IEEE Access 2020);
    bins by bits: HdrHistogram.

    Args:
        max_bins: How many bins there are at most, at least 16.
        ranks: Which quantiles to give, from 0 (the smallest value) to 1 (the largest).

    Example:
        >>> monoid = Quantiles(ranks=(0.5, 1.0))
        >>> monoid.finish(monoid.fold(map(monoid.unit, [3, 1, 2])))["quantiles"]
        {'0.5': 2.0, '1.0': 3.0}
    """

    max_bins: int = 2048
    ranks: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
    commutative = True
    associative = True

    def __post_init__(self) -> None:
        require_whole(self, "max_bins", 16)
        ranks = tuple(self.ranks)
        if not ranks or not all(isinstance(rank, (int, float)) and 0 <= rank <= 1 for rank in ranks):
            raise ValueError(f"ranks of Quantiles must be numbers from 0 to 1: not {ranks!r}")
        object.__setattr__(self, "ranks", tuple(map(float, ranks)))

    def empty(self) -> Bins:
        """Give the total of no number: dropped bits, smallest, largest, bins; numbers as ordered integers."""
        return (0, None, None, {})

    def unit(self, value: Any) -> Bins:
        """Take one number.

        Raises:
            ValueError: It is NaN, infinite or too large for a float.
            TypeError: It is no number.
        """
        try:
            number = float(plain_number(value))
        except OverflowError as error:
            raise ValueError(f"{type(value).__name__} too large for a float") from error
        if number - number != 0:
            raise ValueError("infinity has no place in quantiles")
        key = _key_of(number)
        return (0, key, key, {key: 1})

    def combine(self, a: Bins, b: Bins) -> Bins:
        """Add two histograms."""
        return self.fold((a, b))

    def fold(self, values: Iterable[Bins]) -> Bins:
        """Add histograms, with bins as wide as the widest, or wider if there are too many."""
        most, bins = self.max_bins, dict[int, int]()
        dropped, low, high = 0, None, None
        for bits, least, largest, counts in values:
            if least is None or largest is None:
                continue
            if low is None or least < low:
                low = least
            if high is None or largest > high:
                high = largest
            if bits > dropped:
                bins, dropped = _shifted(bins, bits - dropped), bits
            if not bins:
                bins.update(counts)
                continue
            by, held = dropped - bits, bins.get
            for key, count in counts.items():
                key >>= by
                bins[key] = held(key, 0) + count
            while len(bins) > most:
                bins, dropped = _shifted(bins, 1), dropped + 1
        return (dropped, low, high, bins)

    def finish(self, total: Bins) -> dict[str, Any]:
        """Give the count, the extremes, the largest relative error of a quantile, and each quantile by its rank."""
        dropped, low, high, bins = total
        if low is None or high is None:
            nothing = dict.fromkeys(map(str, self.ranks))
            return {"count": 0, "min": None, "max": None, "relative_error": 0.0, "quantiles": nothing}
        keys = sorted(bins)
        ends = list(itertools.accumulate(bins[key] for key in keys))
        count, least, largest = ends[-1], _float_of(low), _float_of(high)
        found = {}
        for rank in self.ranks:
            place = max(1, math.ceil(Fraction(str(rank)) * count))
            value = _middle(keys[bisect.bisect_left(ends, place)], dropped)
            value = least if place == 1 else largest if place == count else value
            found[str(rank)] = min(max(value, least), largest)
        error = _relative_error(dropped)
        return {"count": count, "min": least, "max": largest, "relative_error": error, "quantiles": found}


def _shifted(bins: Mapping[int, int], bits: int) -> dict[int, int]:
    wider: dict[int, int] = {}
    held = wider.get
    for key, count in bins.items():
        key >>= bits
        wider[key] = held(key, 0) + count
    return wider


def _middle(place: int, dropped: int) -> float:
    """Give the number of a bin that is equally far, relatively, from both of its ends."""
    if place < 0:
        return 0.0 - _middle(~place, dropped)
    first = place << dropped
    low, high = _float_of(first), _float_of(min(first + (1 << dropped) - 1, _LARGEST))
    return low if low == high else low / (0.5 + 0.5 * (low / high))


_LARGEST = _key_of(1.7976931348623157e308)


def _relative_error(dropped: int) -> float:
    if dropped == 0:
        return 0.0
    if dropped <= _MANTISSA:
        return math.ldexp(1.0, dropped - _MANTISSA - 1)
    if dropped > _MANTISSA + 4:
        return 1.0  # the bin of 0 reaches beyond 1e-300
    ratio: float = 2.0 ** (1 << (dropped - _MANTISSA))  # bins of several octaves
    return (ratio - 1) / (ratio + 1) * (1 + 2e-15)  # and what rounding the middle adds


@dataclass(frozen=True)
class HeavyHitters:
    """The items that make up at least a given share of all: lift a record to its item.

    An item is anything with a canonical encoding. While there are no more than `10 / at_least` different
    ones they are counted, and the answer is exact. Beyond, a count-min sketch estimates any item's count,
    never below the truth, and the items that it is asked for are those of a sample of `20 / at_least`
    records. An item of the required share is missed with a probability of at most e**-20. An estimate is
    more than `at_least / 10` of all records too high with one of at most e**-7, so an item that is listed
    without the required share very likely has nine tenths of it. Both parts are the same for any
    partitioning: the sketch is a sum, the sample is drawn by the records' places.

    Source: Cormode and Muthukrishnan, "An improved data stream summary: the count-min sketch" (2005).

    Args:
        at_least: The share, from 0.0001 to 1. A total takes up to 1.5 kilobytes divided by it, and the sample.
        top: How many items to give at most, those with the largest estimates; 0: all of them.
    """

    at_least: float = 0.01
    top: int = 0
    commutative = True
    associative = True
    needs = ("datasketches",)

    def __post_init__(self) -> None:
        require_whole(self, "top", 0)
        share = self.at_least
        if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0.0001 <= share <= 1:
            raise ValueError(f"at_least of HeavyHitters must be a share from 0.0001 to 1: not {share!r}")
        object.__setattr__(self, "_draw", ReservoirSample(math.ceil(20 / share)))

    def empty(self) -> tuple[Counts, Sequence[Drawn]]:
        """Give the total of no item: counts by canonical bytes, or a sketch of them; and the sample."""
        return ({}, [])

    def unit_at(self, item: Any, place: str) -> tuple[Counts, Sequence[Drawn]]:
        """Count one item.

        Args:
            item: The item.
            place: A text that no other record has, the same for any partitioning.

        Raises:
            TypeError: It has no canonical encoding.
        """
        data = _encode(item)
        return ({data: 1}, self._sampler.unit_at(data, place))

    @property
    def _sampler(self) -> ReservoirSample:
        sampler: ReservoirSample = self.__dict__["_draw"]
        return sampler

    def combine(
        self, a: tuple[Counts, Sequence[Drawn]], b: tuple[Counts, Sequence[Drawn]]
    ) -> tuple[Counts, Sequence[Drawn]]:
        """Add the counts and keep the smallest of the sample's entries."""
        return self.fold((a, b))

    def fold(self, values: Iterable[tuple[Counts, Sequence[Drawn]]]) -> tuple[Counts, Sequence[Drawn]]:
        """Add counts, in a sketch once there are too many of them, and keep the smallest entries.

        Raises:
            ModuleNotFoundError: The DataSketches library is not installed.
        """
        library = datasketches_library()
        most, sample = math.ceil(10 / self.at_least), Least(self._sampler.k)
        counts: dict[bytes, int] = {}
        sketch = None
        for part, entries in values:
            sample.add(entries)
            if isinstance(part, bytes):
                other = library.count_min_sketch.deserialize(part)
                if sketch is None:
                    sketch = other
                else:
                    sketch.merge(other)
                continue
            if counts:
                for item, count in part.items():
                    counts[item] = counts.get(item, 0) + count
            else:
                counts.update(part)
            if len(counts) > most:
                sketch = self._sketch(library) if sketch is None else sketch
                _pour(counts, sketch)
        if sketch is None:
            return (counts, sample.entries())
        _pour(counts, sketch)
        return (bytes(sketch.serialize()), sample.entries())

    def _sketch(self, library: Any) -> Any:
        return library.count_min_sketch(7, math.ceil(math.e * 10 / self.at_least))

    def finish(self, total: tuple[Counts, Sequence[Drawn]]) -> list[list[Any]]:
        """List the items: `[item, estimate, lower bound, upper bound]`, the largest estimate first.

        The upper bound is certain, the lower one very likely. An item comes back as its encoding keeps it: a
        tuple or set as a list, a record as a dict, a decimal as text.
        """
        counts, sample = total
        rows = []
        if isinstance(counts, bytes):
            sketch = datasketches_library().count_min_sketch.deserialize(counts)
            records = int(sketch.total_weight)
            slack = math.ceil(records * self.at_least / 10)
            seen: dict[bytes, int] = {}
            for _, item in sample:
                seen[item] = seen.get(item, 0) + 1
            for item, least in seen.items():
                estimate = int(sketch.get_estimate(_text(item)))
                rows.append((item, estimate, max(least, estimate - slack)))
        else:
            records = sum(counts.values())
            rows = [(item, count, count) for item, count in counts.items()]
        required = Fraction(str(self.at_least)) * records
        listed = [
            [_readable(item), estimate, lower, estimate]
            for item, estimate, lower in sorted(rows, key=lambda row: (-row[1], row[0]))
            if estimate >= required
        ]
        listed.sort(key=lambda row: (-row[1], row[0] if isinstance(row[0], str) else ""))
        return listed[: self.top] if self.top else listed


def _pour(counts: dict[bytes, int], sketch: Any) -> None:
    for item, count in counts.items():
        sketch.update(_text(item), count)
    counts.clear()


def _text(item: bytes) -> str:
    return item.decode("latin-1")


def _readable(item: bytes) -> Any:
    return msgspec.to_builtins(_without_extensions(_decode(item)))


def _without_extensions(value: Any) -> Any:
    """Turn what MessagePack has no plain form for into text: wide integers, and mappings with other keys."""
    if isinstance(value, msgspec.msgpack.Ext):
        digits = bytes(value.data)
        return int(digits) if digits.lstrip(b"-").isdigit() and value.code == 1 else digits.hex()
    if isinstance(value, list):
        return list(map(_without_extensions, value))
    if isinstance(value, dict):
        return {key: _without_extensions(part) for key, part in value.items()}
    return value


SKETCHES: Mapping[str, Monoid[Any]] = {
    "distinct_count": DistinctCount(),
    "quantiles": Quantiles(),
    "heavy_hitters": HeavyHitters(),
}

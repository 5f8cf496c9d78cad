"""Statistics merge exactly: partitioning, order and merge tree change no total and no answer."""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
import random
import statistics
import tracemalloc
import typing
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funcpipe_prefect.fingerprint import fingerprint
from funcpipe_prefect.laws import check_monoid
from funcpipe_prefect.monoid import finish, fold
from funcpipe_prefect.schema import canonical_encoder
from funcpipe_prefect.statistics import (
    STATISTICS,
    ArgMax,
    ArgMin,
    Histogram,
    Moments,
    ReservoirSample,
    Variance,
)
from tests.totals import unit, units

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = FLOATS | st.integers() | st.fractions() | st.decimals(-100, 100, places=3)
PAIRS = st.tuples(
    st.integers(-3, 3) | st.floats(-3, 3), st.text(max_size=2) | st.integers(0, 9) | st.booleans()
)


class Case(NamedTuple):
    monoid: Any
    values: st.SearchStrategy[Any]


CASES = {
    "variance": Case(Variance(ddof=1), NUMBERS),
    "moments": Case(Moments(), NUMBERS),
    "arg_min": Case(ArgMin(), PAIRS),
    "arg_max": Case(ArgMax(), PAIRS),
    "reservoir_sample": Case(ReservoirSample(k=3), st.integers() | st.text(max_size=3)),
    "histogram": Case(Histogram(-2.0, 3.0, 7), NUMBERS),
}


def merged(monoid: Any, totals: Sequence[Any], chance: random.Random) -> Any:
    """Merge in a tree of any shape, by fold and by combine, with identities strewn in."""
    rest = [*totals, monoid.empty()]
    chance.shuffle(rest)
    while len(rest) > 1:
        size = chance.choice([2, 2, 3, 10])
        taken = [rest.pop(chance.randrange(len(rest))) for _ in range(min(size, len(rest)))]
        rest.append(monoid.combine(*taken) if len(taken) == 2 else fold(monoid, iter(taken)))
    return rest[0]


def test_each_statistic_is_under_test_and_ready_to_use() -> None:
    assert set(STATISTICS) == set(CASES)
    assert all(monoid.commutative is True for monoid in STATISTICS.values())
    assert not any(hasattr(monoid, "tolerance") for monoid in STATISTICS.values())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@given(data=st.data(), chance=st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_no_partitioning_order_or_tree_changes_total_or_answer(case: Case, data: Any, chance: Any) -> None:
    monoid = case.monoid
    values = data.draw(st.lists(case.values, max_size=25))
    totals = units(monoid, values)
    before = copy.deepcopy(totals)
    whole, other = fold(monoid, totals), merged(monoid, totals, chance)
    assert totals == before
    assert whole == other
    assert repr(finish(monoid, whole)) == repr(finish(monoid, other))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_statistic_keeps_the_laws(case: Case) -> None:
    drawn = st.builds(lambda value, place: unit(case.monoid, value, place), case.values, st.integers(0, 9))
    assert check_monoid(case.monoid, drawn, examples=40).broken == ()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_totals_and_monoids_pass_between_processes(case: Case) -> None:
    monoid = case.monoid
    values = [(3, "a"), (2.5, "b")] if "arg" in type(monoid).__name__.lower() else [1, 2, 2.5]
    total = fold(monoid, units(monoid, values))
    assert pickle.loads(pickle.dumps(total)) == total
    again = pickle.loads(pickle.dumps(monoid))
    assert again == monoid
    assert fold(again, units(again, values)) == total
    assert fingerprint(again) == fingerprint(monoid)


@pytest.mark.parametrize("monoid", STATISTICS.values(), ids=STATISTICS)
def test_parameters_are_plain_fields_that_replace_can_change(monoid: Any) -> None:
    hints = typing.get_type_hints(type(monoid))
    plain = {int, float, tuple[float, ...]}
    assert {hints[field.name] for field in fields(monoid)} <= plain
    assert replace(monoid) == monoid


def test_a_changed_parameter_changes_the_fingerprint() -> None:
    assert fingerprint(Histogram()) != fingerprint(replace(Histogram(), bins=11))
    assert fingerprint(ReservoirSample()) != fingerprint(replace(ReservoirSample(), seed=1))


EMPTY: dict[str, Any] = {
    "variance": None,
    "moments": {"count": 0, "mean": None, "variance": None, "stddev": None},
    "arg_min": None,
    "arg_max": None,
    "reservoir_sample": [],
    "histogram": {"edges": [n / 10 for n in range(11)], "counts": [0] * 10, "below": 0, "above": 0},
}


@pytest.mark.parametrize("name", STATISTICS)
def test_no_record_gives_the_identity_and_an_answer(name: str) -> None:
    monoid = STATISTICS[name]
    assert fold(monoid, []) == monoid.empty()
    assert finish(monoid, monoid.empty()) == EMPTY[name]


# Variance and moments


def exact_variance(values: Sequence[Any], ddof: int = 0) -> Fraction:
    numbers = [Fraction(value) for value in values]
    mean = sum(numbers, Fraction(0)) / len(numbers)
    return sum(((number - mean) ** 2 for number in numbers), Fraction(0)) / (len(numbers) - ddof)


def is_rounded_root(root: float, square: Fraction) -> bool:
    """Tell whether a float is as near to the root of a fraction as a float can be."""
    below, above = (Fraction(math.nextafter(root, to)) for to in (-math.inf, math.inf))
    low, high = (Fraction(root) + max(below, Fraction(0))) / 2, (Fraction(root) + above) / 2
    return low**2 <= square <= high**2


@given(st.lists(st.floats(-1e150, 1e150) | st.integers() | st.fractions(), min_size=2, max_size=20))
def test_moments_are_the_true_ones_rounded_once(values: list[Any]) -> None:
    found = finish(Moments(), fold(Moments(), units(Moments(), values)))
    variance = exact_variance(values)
    assert found["count"] == len(values)
    assert found["mean"] == float(sum(map(Fraction, values)) / len(values))
    assert found["variance"] == float(variance)
    assert is_rounded_root(found["stddev"], variance)
    sample = Variance(ddof=1)
    assert finish(sample, fold(sample, units(sample, values))) == float(exact_variance(values, 1))


def test_moments_agree_with_the_statistics_module() -> None:
    chance = random.Random(2)
    values = [chance.lognormvariate(0, 3) for _ in range(2000)]
    found = finish(Moments(), fold(Moments(), units(Moments(), values)))
    assert found["mean"] == statistics.mean(values)
    assert found["variance"] == pytest.approx(statistics.pvariance(values), rel=1e-15)
    assert found["stddev"] == pytest.approx(statistics.pstdev(values), rel=1e-15)
    assert finish(Variance(1), fold(Variance(1), units(Variance(1), values))) == statistics.variance(values)


def test_a_small_spread_far_from_zero_is_not_lost() -> None:
    """The textbook formula on floats gives 0 or less here."""
    values = [1e15 + 1, 1e15 + 2, 1e15 + 4]
    assert finish(Variance(1), fold(Variance(1), units(Variance(1), values))) == statistics.variance(
        [1, 2, 4]
    )


def test_numbers_of_all_kinds_count_exactly() -> None:
    values: list[Any] = [
        1,
        True,
        0.1,
        Decimal("0.1"),
        Fraction(1, 3),
        np.float32(0.1),
        np.int64(2**62),
        np.array(2.5),
    ]
    exact: list[Any] = [*values[:5], Fraction(float(values[5])), 2**62, 2.5]
    found = finish(Moments(), fold(Moments(), units(Moments(), values)))
    assert found["mean"] == float(sum(map(Fraction, exact)) / len(exact))
    assert found["variance"] == float(exact_variance(exact))


def test_the_total_of_integers_stays_one_of_integers() -> None:
    assert fold(Variance(), units(Variance(), [1, 2, 3])) == (3, 6, 14, 1)
    assert fold(Variance(), units(Variance(), [0.5, 0.25])) == (2, 3, 5, 4)


def test_too_few_values_have_no_variance() -> None:
    one = fold(Variance(), units(Variance(), [7]))
    assert finish(Variance(), one) == 0.0
    assert finish(Variance(ddof=1), one) is None
    assert finish(Variance(ddof=2), fold(Variance(), units(Variance(), [7, 8]))) is None
    assert finish(Moments(), one) == {"count": 1, "mean": 7.0, "variance": 0.0, "stddev": 0.0}


def test_a_variance_beyond_the_floats_is_infinite_and_fails_nothing() -> None:
    found = finish(Moments(), fold(Moments(), units(Moments(), [1e300, -1e300])))
    assert found == {"count": 2, "mean": 0.0, "variance": math.inf, "stddev": 1e300}
    assert finish(Moments(), fold(Moments(), units(Moments(), [-(10**400)])))["mean"] == -math.inf


NO_NUMBERS = [math.nan, math.inf, -math.inf, Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), np.float64("nan"), np.float32("inf")]  # fmt: skip


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_nan_and_infinity_are_the_record_s_fault(value: Any) -> None:
    for monoid in (Variance(), Moments()):
        with pytest.raises((ValueError, ArithmeticError)):
            monoid.unit(value)


@pytest.mark.parametrize("value", ["1", None, 1j, [1], np.array([1, 2])], ids=repr)
def test_what_is_no_number_is_the_record_s_fault(value: Any) -> None:
    for monoid in (Variance(), Moments(), Histogram()):
        with pytest.raises(TypeError, match="is no number"):
            monoid.unit(value)


# ArgMin and ArgMax


def test_the_pair_of_the_extreme_value_is_the_answer() -> None:
    pairs = [(3.5, "b"), (-1, "x"), (9, {"id": 4}), (2, None)]
    assert finish(ArgMin(), fold(ArgMin(), units(ArgMin(), pairs))) == (-1, "x")
    assert finish(ArgMax(), fold(ArgMax(), units(ArgMax(), pairs))) == (9, {"id": 4})
    texts = [("pear", 1), ("apple", 2), ("plum", 3)]
    assert fold(ArgMin(), units(ArgMin(), texts)) == ("apple", 2)
    assert fold(ArgMax(), units(ArgMax(), texts)) == ("plum", 3)


@pytest.mark.parametrize("monoid", [ArgMin(), ArgMax()], ids=repr)
def test_a_tie_goes_to_the_smallest_encoding_in_any_order(monoid: ArgMin) -> None:
    pairs = [(1, name) for name in ("c", "a", "aa", "b", 7, ("x", 1))]
    wanted = (1, min((name for _, name in pairs), key=canonical_encoder()))
    for seed in range(20):
        shuffled = random.Random(seed).sample(pairs, len(pairs))
        assert fold(monoid, units(monoid, shuffled)) == wanted
        assert merged(monoid, units(monoid, shuffled), random.Random(seed)) == wanted


@pytest.mark.parametrize("monoid", [ArgMin(), ArgMax()], ids=repr)
def test_equal_values_that_are_written_differently_do_not_depend_on_order(monoid: ArgMin) -> None:
    for one, other in ((1, 1.0), (True, 1), (0.0, -0.0), (Fraction(1, 2), 0.5)):
        answers = {
            repr(fold(monoid, order)) for order in ([(one, "a"), (other, "a")], [(other, "a"), (one, "a")])
        }
        assert len(answers) == 1


@pytest.mark.parametrize(
    "pair",
    [(math.nan, 1), (None, 1), ((1.0, math.nan), 1), (np.float64("nan"), 1), ({1}, 1), 3, "ab", (1, 2, 3)],
)
def test_a_pair_without_an_order_is_the_record_s_fault(pair: Any) -> None:
    for monoid in (ArgMin(), ArgMax()):
        with pytest.raises(ValueError, match="neither more nor less|lift to a pair"):
            monoid.unit(pair)


def test_what_cannot_be_compared_or_encoded_is_the_record_s_fault_too() -> None:
    """It would otherwise fail a merge, or not, depending on what it meets there."""
    pairs: list[Any] = [(1, object()), ({}, "a"), (1j, "a")]
    for pair in pairs:
        with pytest.raises(TypeError):
            ArgMin().unit(pair)


def test_numpy_s_narrow_floats_are_compared_exactly() -> None:
    """numpy.float32(0.1) equals 0.1 and is larger than numpy.float64(0.1)."""
    pairs = [(np.float32(0.1), "narrow"), (0.1, "wide")]
    assert fold(ArgMin(), units(ArgMin(), pairs)) == (0.1, "wide")
    assert fold(ArgMax(), units(ArgMax(), pairs)) == (float(np.float32(0.1)), "narrow")


# ReservoirSample


def test_a_sample_has_k_items_or_all_of_them() -> None:
    sample = ReservoirSample(k=5)
    assert sorted(finish(sample, fold(sample, units(sample, "abc")))) == ["a", "b", "c"]
    many = finish(sample, fold(sample, units(sample, range(1000))))
    assert len(many) == len(set(many)) == 5


def test_a_smaller_sample_is_the_beginning_of_a_larger_one() -> None:
    small, large = ReservoirSample(k=7), ReservoirSample(k=500)
    totals = units(small, range(3000))
    assert finish(small, fold(small, totals)) == finish(large, fold(large, totals))[:7]


def test_each_item_is_drawn_equally_often() -> None:
    """400 seeds draw 10 of 50: each item about 80 times, with a standard deviation of 8."""
    drawn = [0] * 50
    for seed in range(400):
        sample = ReservoirSample(k=10, seed=seed)
        for item in finish(sample, fold(sample, units(sample, range(50)))):
            drawn[item] += 1
    assert sum(drawn) == 4000
    assert all(80 - 5 * 8 < count < 80 + 5 * 8 for count in drawn)
    spread = sum((count - 80) ** 2 / 80 for count in drawn) / 0.8
    assert 22 < spread < 90  # chi-square of 49 degrees, beyond its 0.1 % and 99.9 % points


def test_a_large_sample_of_many_records_is_pruned_correctly() -> None:
    sample, chance = ReservoirSample(k=100), random.Random(3)
    totals = units(sample, range(20_000))
    wanted = sorted(entry for total in totals for entry in total)[:100]
    assert fold(sample, totals) == wanted
    parts = [fold(sample, totals[start::37]) for start in range(37)]
    assert merged(sample, parts, chance) == wanted
    rest = iter(totals)
    held = sample.empty()
    while chunk := [total for _, total in zip(range(31), rest, strict=False)]:
        held = fold(sample, [held, *chunk])
    assert held == wanted


def test_a_sample_of_many_records_takes_little_memory() -> None:
    sample = ReservoirSample(k=10)
    tracemalloc.start()
    try:
        fold(sample, (sample.unit_at(n, str(n)) for n in range(30_000)))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_priority_is_pinned_so_that_a_sample_stays_the_same() -> None:
    drawn = hashlib.sha256(b"7\0part-0:12").digest()[:8]
    assert ReservoirSample(seed=7).unit_at("x", "part-0:12") == [(int.from_bytes(drawn, "big"), "x")]


def test_equal_priorities_are_told_apart_by_what_was_drawn() -> None:
    sample = ReservoirSample(k=2)
    entries = [[(5, "c")], [(5, "a")], [(5, "b")], [(9, "d")]]
    for seed in range(10):
        shuffled = random.Random(seed).sample(entries, 4)
        assert merged(sample, shuffled, random.Random(seed)) == [(5, "a"), (5, "b")]
    one = ReservoirSample(k=1)
    assert fold(one, [[(5, "b")], [(5, "a")]]) == fold(one, [[(5, "a")], [(5, "b")]]) == [(5, "a")]


def test_seed_and_place_decide_and_any_text_is_a_place() -> None:
    def sampled(seed: int, prefix: str) -> Any:
        sample = ReservoirSample(k=5, seed=seed)
        return finish(sample, fold(sample, [sample.unit_at(n, f"{prefix}{n}") for n in range(500)]))

    assert sampled(0, "a:") == sampled(0, "a:")
    assert sampled(0, "a:") != sampled(1, "a:")
    assert sampled(0, "a:") != sampled(0, "b:")
    assert len(sampled(0, "\udcff:")) == 5


# Histogram


def counted(histogram: Histogram, values: Sequence[Any]) -> dict[str, Any]:
    answer: dict[str, Any] = finish(histogram, fold(histogram, units(histogram, values)))
    return answer


@given(
    st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=2, max_size=8, unique=True).map(sorted),
    st.lists(st.integers(-30, 30).map(lambda n: n / 4) | FLOATS),
)
def test_each_number_is_counted_in_its_bin(edges: list[float], values: list[float]) -> None:
    found = counted(Histogram(edges=tuple(edges)), values)
    last = edges[-1]
    bins = list(zip(edges, edges[1:], strict=False))
    assert found["counts"] == [sum(a <= value < b or value == b == last for value in values) for a, b in bins]
    assert found["below"] == sum(value < edges[0] for value in values)
    assert found["above"] == sum(value > last for value in values)
    assert found["below"] + found["above"] + sum(found["counts"]) == len(values)


def test_even_bins_are_what_numpy_counts() -> None:
    chance = random.Random(7)
    values = [chance.gauss(0, 2) for _ in range(5000)] + [-3.0, 3.0]
    counts, edges = np.histogram([value for value in values if -3 <= value <= 3], bins=25, range=(-3, 3))
    found = counted(Histogram(-3, 3, 25), values)
    assert found["counts"] == counts.tolist()
    assert found["edges"] == pytest.approx(edges.tolist())
    assert (found["edges"][0], found["edges"][-1]) == (-3.0, 3.0)
    assert min(found["below"], found["above"]) > 100


def test_a_total_is_as_small_as_what_was_counted() -> None:
    wide = Histogram(0, 1e6, 100_000)
    assert fold(wide, units(wide, [5, 5.5, -1, 1e6])) == {0: 2, -1: 1, 99_999: 1}


def test_given_edges_win_and_may_be_a_list() -> None:
    edges = Histogram(low=5, high=1, bins=0, edges=[0, 2, 3])  # type: ignore[arg-type]
    assert edges == Histogram(low=5, high=1, bins=0, edges=(0, 2, 3))
    assert counted(edges, [2, 3, math.inf, -math.inf]) == {
        "edges": [0.0, 2.0, 3.0], "counts": [0, 2], "below": 1, "above": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match="NaN"):
        edges.unit(math.nan)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no bins": (lambda: Histogram(bins=0), "bins of Histogram must be an integer, at least 1"),
    "half a bin": (lambda: Histogram(bins=2.5), "bins of Histogram"),  # type: ignore[arg-type]
    "low above high": (lambda: Histogram(low=2), "low of Histogram must be below high"),
    "no width": (lambda: Histogram(1, 1), "low of Histogram must be below high"),
    "infinite": (lambda: Histogram(high=math.inf), "must be finite"),
    "beyond floats": (lambda: Histogram(high=10**400), "must be finite"),
    "text": (lambda: Histogram(low="0"), "must be finite numbers"),  # type: ignore[arg-type]
    "too narrow": (lambda: Histogram(1.0, 1.0000000000000004, 10), "too close together"),
    "one edge": (lambda: Histogram(edges=(1.0,)), "two or more"),
    "NaN edge": (lambda: Histogram(edges=(0.0, math.nan)), "must be finite"),
    "descending edges": (lambda: Histogram(edges=(0.0, 2.0, 2.0)), "must be ascending"),
    "k": (lambda: ReservoirSample(k=0), "k of ReservoirSample must be an integer, at least 1: not 0"),
    "k is True": (lambda: ReservoirSample(k=True), "k of ReservoirSample"),
    "seed": (lambda: ReservoirSample(seed="a"), "seed of ReservoirSample"),  # type: ignore[arg-type]
    "ddof": (lambda: Variance(ddof=-1), "ddof of Variance must be an integer, at least 0: not -1"),
    "replaced": (lambda: replace(Histogram(), bins=-3), "bins of Histogram"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_parameter_that_makes_no_sense_is_refused(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        make()

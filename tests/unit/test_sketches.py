"""Sketches: the same total for any partitioning, and errors within their bounds."""

from __future__ import annotations

import collections
import copy
import math
import os
import pickle
import random
import subprocess
import sys
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

from funcpipe_prefect import load_pipeline
from funcpipe_prefect.errors import PipelineError
from funcpipe_prefect.fingerprint import fingerprint
from funcpipe_prefect.laws import check_monoid
from funcpipe_prefect.monoid import finish, fold
from funcpipe_prefect.schema import json_codec
from funcpipe_prefect.sketches import SKETCHES, DistinctCount, HeavyHitters, Quantiles
from tests.totals import unit, units

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


class Case(NamedTuple):
    monoid: Any
    values: st.SearchStrategy[Any]


CASES = {
    "distinct_count": Case(DistinctCount(lg_k=4), st.integers(0, 40)),  # exact up to 4 values
    "quantiles": Case(Quantiles(max_bins=16), FLOATS | st.integers(-(2**60), 2**60)),
    "heavy_hitters": Case(HeavyHitters(at_least=1.0), st.integers(0, 40).map(str)),  # exact up to 10
}
SIZES = (1, 5, 60, 64, 65, 200, 1024, 1025, 6000)


def merged(monoid: Any, totals: Sequence[Any], chance: random.Random) -> Any:
    """Merge shuffled parts of any size in a tree of any shape, with identities strewn in."""
    shuffled = chance.sample(totals, len(totals))
    cuts = sorted(int(len(totals) * chance.random() ** 2) for _ in range(chance.choice([0, 1, 6, 30])))
    rest = [fold(monoid, shuffled[a:b]) for a, b in zip([0, *cuts], [*cuts, len(totals)], strict=True)]
    rest.append(monoid.empty())
    while len(rest) > 1:
        taken = [
            rest.pop(chance.randrange(len(rest))) for _ in range(min(chance.choice([2, 2, 3]), len(rest)))
        ]
        rest.append(monoid.combine(*taken) if len(taken) == 2 else fold(monoid, iter(taken)))
    return rest[0]


def answer(monoid: Any, values: Sequence[Any]) -> Any:
    return finish(monoid, fold(monoid, units(monoid, values)))


def test_each_sketch_is_under_test_and_needs_no_tolerance() -> None:
    assert set(SKETCHES) == set(CASES)
    assert all(monoid.commutative is True for monoid in SKETCHES.values())
    assert not any(hasattr(monoid, "tolerance") for monoid in SKETCHES.values())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@given(data=st.data(), chance=st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_no_partitioning_order_or_tree_changes_a_small_total(case: Case, data: Any, chance: Any) -> None:
    monoid = case.monoid
    totals = units(monoid, data.draw(st.lists(case.values, max_size=50)))
    before = copy.deepcopy(totals)
    whole, other = fold(monoid, totals), merged(monoid, totals, chance)
    assert totals == before
    assert whole == other
    assert finish(monoid, whole) == finish(monoid, other)


def spread(size: int) -> list[float]:
    """Draw numbers of which some come often."""
    chance = random.Random(size)
    return [round(chance.gauss(0, 5), chance.choice([0, 1, 9])) for _ in range(size)]


@pytest.mark.parametrize(
    "monoid", [DistinctCount(lg_k=8), Quantiles(max_bins=100), HeavyHitters(0.1)], ids=repr
)
def test_no_partitioning_order_or_tree_changes_a_large_total(monoid: Any) -> None:
    """Sizes lie about where a total changes its form: at 64 distinct values, 100 bins and 100 items."""
    for size in SIZES:
        totals = units(monoid, spread(size))
        whole = fold(monoid, totals)
        kept = pickle.dumps(whole)
        for seed in range(6):
            other = merged(monoid, [*totals, whole], random.Random(seed)), fold(monoid, [*totals, whole])
            assert other[0] == other[1]
            assert merged(monoid, totals, random.Random(seed)) == whole
        assert pickle.dumps(whole) == kept


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_sketch_keeps_the_laws(case: Case) -> None:
    monoid = case.monoid
    drawn = st.lists(st.tuples(case.values, st.integers(0, 99)), max_size=30).map(
        lambda pairs: fold(monoid, [unit(monoid, value, place) for value, place in pairs])
    )
    assert check_monoid(monoid, drawn, examples=40).broken == ()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_totals_and_monoids_pass_between_processes(case: Case) -> None:
    again = pickle.loads(pickle.dumps(case.monoid))
    assert again == case.monoid
    assert fingerprint(again) == fingerprint(case.monoid)
    totals = [fold(case.monoid, units(case.monoid, range(start, start + 30))) for start in (0, 20)]
    back = [pickle.loads(pickle.dumps(total)) for total in totals]
    assert back == totals
    assert again.combine(*back) == case.monoid.combine(*totals)


@pytest.mark.parametrize("monoid", SKETCHES.values(), ids=SKETCHES)
def test_parameters_are_plain_fields_that_replace_can_change(monoid: Any) -> None:
    hints = typing.get_type_hints(type(monoid))
    plain = {int, float, tuple[float, ...]}
    assert {hints[field.name] for field in fields(monoid)} <= plain
    assert replace(monoid) == monoid


NO_QUANTILES = {"0.0": None, "0.25": None, "0.5": None, "0.75": None, "0.9": None, "0.99": None, "1.0": None}
EMPTY = {
    "distinct_count": 0,
    "quantiles": {"count": 0, "min": None, "max": None, "relative_error": 0.0, "quantiles": NO_QUANTILES},
    "heavy_hitters": [],
}


@pytest.mark.parametrize("name", SKETCHES)
def test_no_record_gives_the_identity_and_an_answer(name: str) -> None:
    monoid = SKETCHES[name]
    assert fold(monoid, []) == monoid.empty()
    assert finish(monoid, monoid.empty()) == EMPTY[name]


@pytest.mark.parametrize("monoid", SKETCHES.values(), ids=SKETCHES)
@pytest.mark.parametrize("size", [3, 30_000])
def test_answers_are_plain_json(monoid: Any, size: int) -> None:
    found = answer(monoid, [float(n % 40) if n % 2 else float(n) for n in range(size)])
    codec = json_codec(typing.Any)
    assert codec.decode(codec.encode(found)) == found


IN_ANOTHER_PROCESS = """
import hashlib, pickle
from funcpipe_prefect.sketches import DistinctCount, HeavyHitters, Quantiles
for monoid in (DistinctCount(8), Quantiles(64), HeavyHitters(0.1)):
    make = getattr(monoid, "unit_at", None) or (lambda value, place: monoid.unit(value))
    values = [float((n * n) % 997) for n in range(3000)]
    total = monoid.fold(make(value, str(n)) for n, value in enumerate(values))
    print(hashlib.sha256(pickle.dumps(total)).hexdigest(), monoid.finish(total))
"""


def test_totals_and_answers_are_the_same_in_any_process() -> None:
    outputs = set()
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        outputs.add(run.stdout)
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) == 3


WITHOUT_LIBRARY = """
import pickle, sys
sys.modules["datasketches"] = None
from funcpipe_prefect.fingerprint import fingerprint
from funcpipe_prefect.sketches import SKETCHES, Quantiles
print(fingerprint(*pickle.loads(pickle.dumps(list(SKETCHES.values())))))
monoid = Quantiles(ranks=(0.5,))
print(monoid.finish(monoid.fold(map(monoid.unit, range(9999))))["count"])
"""


def test_monoids_are_made_and_fingerprinted_without_the_library() -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT_LIBRARY], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [fingerprint(*SKETCHES.values()), "9999"]


@pytest.mark.parametrize("monoid", [DistinctCount(), HeavyHitters()], ids=repr)
def test_a_missing_library_is_told_at_the_first_merge(monoid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the data: few values would do without it, and many then fail late."""
    monkeypatch.setitem(sys.modules, "datasketches", None)
    one = unit(monoid, "a")
    with pytest.raises(ModuleNotFoundError, match=r'pip install "funcpipe-prefect\[sketches\]"'):
        monoid.combine(one, one)


@pytest.mark.parametrize("monoid", ["distinct_count", "heavy_hitters"])
def test_a_pipeline_is_refused_without_the_library(monoid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    combine = {"type": "Combine", "name": "known", "lift": "id_of", "monoid": monoid}
    mapping = {"name": "p", "imports": ["tests.registries.shapes"], "operators": [combine]}
    load_pipeline(mapping)
    monkeypatch.setitem(sys.modules, "datasketches", None)
    with pytest.raises(PipelineError, match=r"FP113 module is missing .*\.monoid\n.*without datasketches"):
        load_pipeline(mapping)


# DistinctCount


def test_few_values_are_counted_exactly() -> None:
    """The default's limit is 1024."""
    monoid = DistinctCount()
    values = [f"user {n}" for n in range(1024)] * 3
    assert answer(monoid, values) == 1024
    assert isinstance(fold(monoid, units(monoid, values)), tuple)
    assert isinstance(fold(monoid, units(monoid, [*values, "one more"])), bytes)


def test_values_are_the_same_if_their_encodings_are() -> None:
    monoid = DistinctCount()
    assert answer(monoid, [{"a": 1, "b": 2}, {"b": 2, "a": 1}, (1, 2), [1, 2], {2, 1}]) == 2
    assert answer(monoid, [1, 1.0, "1", b"1", None, True]) == 6
    assert answer(monoid, [np.int64(3), 3]) == 1
    with pytest.raises(TypeError):
        monoid.unit(object())


@pytest.mark.parametrize("size", [1500, 10_000, 120_000])
def test_many_values_are_counted_within_the_error(size: int) -> None:
    """The standard error is 0.9 %; over repeats of one stream it stays, as they are the same set."""
    monoid = DistinctCount()
    totals = units(monoid, range(size))
    whole = fold(monoid, totals)
    assert finish(monoid, whole) == pytest.approx(size, rel=0.03)
    assert fold(monoid, [whole, *totals[::7], whole]) == whole
    assert len(whole) < 2700


def test_the_standard_error_is_as_stated() -> None:
    monoid = DistinctCount(lg_k=10)
    stated = 0.56 / math.sqrt(2**10)
    errors = [answer(monoid, range(start, start + 3000)) / 3000 - 1 for start in range(10**6, 10**7, 300_000)]
    measured = math.sqrt(sum(error**2 for error in errors) / len(errors))
    assert len(errors) == 30
    assert 0.6 * stated < measured < 1.4 * stated


# Quantiles


def exact_quantile(ordered: Sequence[float], rank: float) -> float:
    return ordered[max(1, math.ceil(Fraction(str(rank)) * len(ordered))) - 1]


STREAMS: dict[str, Callable[[random.Random], float]] = {
    "normal": lambda chance: chance.gauss(0, 1),
    "latencies": lambda chance: chance.lognormvariate(3, 1.5),
    "two far heaps": lambda chance: chance.choice([0, 1000]) + chance.random() / 1000,
    "debts": lambda chance: -chance.paretovariate(0.5),
    "anything": lambda chance: chance.uniform(-1, 1) * 10.0 ** chance.randint(-300, 300),
}


@pytest.mark.parametrize("name", STREAMS)
def test_quantiles_of_many_numbers_are_within_the_stated_error(name: str) -> None:
    """A sketch that bounds the rank only gives anything from 0 to 1000 as the median of two far heaps."""
    chance = random.Random(name)
    values = [STREAMS[name](chance) for _ in range(100_000)]
    monoid = Quantiles(ranks=(0, 0.001, 0.01, 0.1, 0.25, 0.49, 0.5, 0.51, 0.75, 0.9, 0.99, 0.9999, 1))
    found = answer(monoid, values)
    ordered = sorted(values)
    error = found["relative_error"]
    assert 0 < error <= (1 if name == "anything" else 1 / 100)
    for rank, value in found["quantiles"].items():
        exact = exact_quantile(ordered, float(rank))
        assert abs(value - exact) <= error * abs(exact)
    assert (found["count"], found["min"], found["max"]) == (100_000, ordered[0], ordered[-1])
    assert (found["quantiles"]["0.0"], found["quantiles"]["1.0"]) == (ordered[0], ordered[-1])


@given(st.lists(FLOATS, min_size=1, max_size=60), st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_quantiles_of_few_numbers_are_exact(values: list[float], ranks: list[float]) -> None:
    found = answer(Quantiles(max_bins=60, ranks=tuple(ranks)), values)
    ordered = sorted(values)
    assert found["relative_error"] == 0.0
    assert found["quantiles"] == {str(rank): exact_quantile(ordered, rank) for rank in ranks}


@given(st.lists(FLOATS.filter(lambda x: x == 0 or abs(x) > 1e-300), min_size=17, max_size=120, unique=True))
def test_a_quantile_stays_within_the_error_of_few_bins(values: list[float]) -> None:
    found = answer(Quantiles(max_bins=16), values)
    ordered = sorted(values)
    assert list(found["quantiles"].values()) == sorted(found["quantiles"].values())
    for rank, value in found["quantiles"].items():
        exact = exact_quantile(ordered, float(rank))
        assert ordered[0] <= value <= ordered[-1]
        assert abs(Fraction(value) - Fraction(exact)) <= Fraction(found["relative_error"]) * abs(
            Fraction(exact)
        )


def test_bins_are_no_more_than_allowed_and_no_wider_than_needed() -> None:
    assert fold(Quantiles(max_bins=16), units(Quantiles(), range(16)))[0] == 0
    assert fold(Quantiles(max_bins=16), units(Quantiles(), range(17)))[0] > 0
    monoid = Quantiles(max_bins=50)
    for size in (50, 51, 500, 5000):
        dropped, _, _, bins = fold(monoid, units(monoid, spread(size)))
        assert len(bins) <= 50
        assert sum(bins.values()) == size
        if dropped:
            finer = {key >> (dropped - 1) for _, _, _, one in units(monoid, spread(size)) for key in one}
            assert len(finer) > 50


def test_numbers_of_all_kinds_and_both_zeros() -> None:
    monoid = Quantiles(ranks=(0.5,))
    values = [Decimal("0.5"), Fraction(1, 4), np.float32(0.25), np.int64(-7), True, 0.0, -0.0]
    found = answer(monoid, values)
    assert (found["min"], found["max"], found["quantiles"]) == (-7.0, 1.0, {"0.5": 0.25})
    assert monoid.unit(0.0) == monoid.unit(-0.0)
    extremes = [5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 0]
    assert answer(Quantiles(ranks=(0, 0.3, 0.5, 0.8, 1)), extremes)["quantiles"] == {
        str(rank): value for rank, value in zip((0.0, 0.3, 0.5, 0.8, 1.0), sorted(extremes), strict=True)
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, np.float32("nan")], ids=repr)
def test_what_has_no_place_among_floats_is_the_record_s_fault(value: Any) -> None:
    with pytest.raises(ValueError, match="NaN|infinity|too large"):
        Quantiles().unit(value)


@pytest.mark.parametrize("value", ["1", None, 1j], ids=repr)
def test_what_is_no_number_is_the_record_s_fault(value: Any) -> None:
    with pytest.raises(TypeError, match="is no number"):
        Quantiles().unit(value)


# HeavyHitters


def test_few_items_are_counted_exactly() -> None:
    words = ["a"] * 5000 + ["b"] * 3000 + ["d"] * 1500 + ["c"] * 1500 + ["rare"] * 10
    found = answer(HeavyHitters(at_least=0.1), words)
    assert found == [["a", 5000, 5000, 5000], ["b", 3000, 3000, 3000], ["c", 1500, 1500, 1500], ["d", 1500, 1500, 1500]]  # fmt: skip
    assert answer(HeavyHitters(at_least=0.1, top=3), words) == found[:3]


def test_the_share_counts_as_written() -> None:
    """In floats 0.07 * 100 is more than 7."""
    items = ["x"] * 7 + ["y"] * 93
    assert [row[0] for row in answer(HeavyHitters(at_least=0.07), items)] == ["y", "x"]
    assert answer(Quantiles(ranks=(0.07,)), range(1, 101))["quantiles"] == {"0.07": 7.0}


@pytest.mark.parametrize("exponent", [0.4, 0.8])
def test_heavy_items_among_many_are_found_with_their_bounds(exponent: float) -> None:
    chance = random.Random(exponent)
    items = [f"word {int(chance.paretovariate(exponent))}" for _ in range(100_000)]
    exact = collections.Counter(items)
    assert len(exact) > 1000
    monoid = HeavyHitters(at_least=0.01)
    total = fold(monoid, units(monoid, items))
    assert isinstance(total[0], bytes)
    found = finish(monoid, total)
    names = {row[0] for row in found}
    assert {item for item, count in exact.items() if count >= 1000} <= names
    assert len(found) >= 5
    assert all(exact[item] >= 900 for item in names)
    for item, estimate, lower, upper in found:
        assert lower <= exact[item] <= upper
        assert 0 <= estimate - exact[item] <= 100
    assert found == sorted(found, key=lambda row: (-row[1], row[0]))


def test_heavy_items_are_found_wherever_they_stand() -> None:
    """Sketches that throw out the least item now and then may lose what comes in two far places."""
    noise = [f"noise {n}" for n in range(20_000)]
    items = ["early"] * 300 + noise[:10_000] + ["late"] * 300 + noise[10_000:]
    for seed in range(3):
        shuffled = items if seed == 0 else random.Random(seed).sample(items, len(items))
        found = answer(HeavyHitters(at_least=0.01), shuffled)
        assert sorted(row[0] for row in found) == ["early", "late"]
        assert all(row[2] <= 300 <= row[3] <= 300 + 21 * 10 for row in found)


def test_items_come_back_readable() -> None:
    items = [("new", "york"), {"b": 1, "a": [None]}, 7, 2**70, -(2**70), "é", Decimal("1.5"), {2, 1}]
    found = answer(HeavyHitters(at_least=0.01), items)
    wanted = [["new", "york"], {"a": [None], "b": 1}, 7, 2**70, -(2**70), "é", "1.5", [1, 2]]
    assert sorted(map(repr, (row[0] for row in found))) == sorted(map(repr, wanted))
    with pytest.raises(TypeError):
        HeavyHitters().unit_at(object(), "file:1")


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "few rows": (
        lambda: DistinctCount(lg_k=3),
        "lg_k of DistinctCount must be an integer, from 4 to 21: not 3",
    ),
    "many rows": (lambda: DistinctCount(lg_k=22), "from 4 to 21"),
    "few bins": (lambda: Quantiles(max_bins=15), "max_bins of Quantiles must be an integer, at least 16"),
    "no ranks": (lambda: Quantiles(ranks=()), "ranks of Quantiles must be numbers from 0 to 1"),
    "percent": (lambda: Quantiles(ranks=(50,)), "ranks of Quantiles"),
    "NaN rank": (lambda: Quantiles(ranks=(math.nan,)), "ranks of Quantiles"),
    "no share": (
        lambda: HeavyHitters(at_least=0.0),
        "at_least of HeavyHitters must be a share from 0.0001 to 1",
    ),
    "too large a share": (lambda: HeavyHitters(at_least=1.5), "at_least of HeavyHitters"),
    "text": (lambda: HeavyHitters(at_least="1"), "at_least of HeavyHitters"),  # type: ignore[arg-type]
    "top": (lambda: replace(HeavyHitters(), top=-1), "top of HeavyHitters"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_parameter_that_makes_no_sense_is_refused(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        make()

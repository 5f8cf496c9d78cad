"""The laws of every built-in monoid: a merge in any order and grouping gives the same answer."""

from __future__ import annotations

import copy
import math
import random
import statistics
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funcpipe_prefect.monoid import (
    BUILTIN_MONOIDS,
    Count,
    Digest,
    ExactSum,
    Max,
    Mean,
    Min,
    Monoid,
    Product,
    Sum,
    TopK,
    digest_of,
    digest_text,
    digest_total,
    finish,
    fold,
)

INTEGERS = st.integers()
FLOATS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)
ANY_FLOATS = st.floats()


class Case(NamedTuple):
    monoid: Monoid[Any]
    values: st.SearchStrategy[Any]


CASES = {
    "sum": Case(Sum(), INTEGERS),
    "exact_sum": Case(ExactSum(), FLOATS),
    "count": Case(Count(), st.just(1)),
    "min": Case(Min(), ANY_FLOATS),
    "max": Case(Max(), ANY_FLOATS),
    "mean": Case(Mean(), st.tuples(FLOATS | INTEGERS, st.just(1))),
    "set_union": Case(BUILTIN_MONOIDS["set_union"], st.frozensets(INTEGERS | st.text())),
    "counter": Case(BUILTIN_MONOIDS["counter"], st.dictionaries(st.text(max_size=2), INTEGERS)),
    "top_k": Case(TopK(3), st.lists(ANY_FLOATS, max_size=4).map(lambda found: fold(TopK(3), [found]))),
    "digest": Case(Digest(), st.binary().map(digest_of)),
    "product": Case(
        Product(Sum(), Mean(), Max()), st.tuples(INTEGERS, st.tuples(FLOATS, st.just(1)), INTEGERS)
    ),
}


def test_every_built_in_monoid_is_under_the_laws() -> None:
    assert set(BUILTIN_MONOIDS) <= set(CASES)


def same(a: Any, b: Any) -> bool:
    """Equal, or both NaN, at any depth of lists and tuples."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (a != a and b != b)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@given(data=st.data())
def test_a_monoid_is_a_commutative_monoid(case: Case, data: st.DataObject) -> None:
    monoid, combine = case.monoid, case.monoid.combine
    a, b, c = (data.draw(case.values) for _ in range(3))
    assert monoid.commutative is True
    assert same(combine(monoid.empty(), a), a)
    assert same(combine(a, monoid.empty()), a)
    assert same(combine(combine(a, b), c), combine(a, combine(b, c)))
    assert same(combine(a, b), combine(b, a))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@given(data=st.data())
def test_no_partitioning_and_no_order_of_a_merge_changes_the_answer(case: Case, data: st.DataObject) -> None:
    monoid = case.monoid
    values = data.draw(st.lists(case.values, max_size=12))
    shuffled = data.draw(st.permutations(values))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    parts = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(values)], strict=True)]
    whole = finish(monoid, fold(monoid, values))
    assert same(finish(monoid, fold(monoid, [fold(monoid, part) for part in parts])), whole)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@given(data=st.data())
def test_a_merge_changes_neither_of_its_arguments(case: Case, data: st.DataObject) -> None:
    a, b = data.draw(case.values), data.draw(case.values)
    before = copy.deepcopy((a, b))
    total = case.monoid.combine(a, b)
    fold(case.monoid, [a, b, total])
    assert same((a, b), before)


def test_a_merge_of_floats_that_cancel_is_exact() -> None:
    """The plain sum of these depends on order: 1e100 swallows the ones."""
    values = [1e100, 1.0, -1e100, 1.0, 1e-300] * 3
    assert finish(ExactSum(), fold(ExactSum(), values)) == 6.0
    assert finish(Mean(), fold(Mean(), [(value, 1) for value in values])) == 6.0 / 15


@given(st.lists(FLOATS.filter(lambda x: abs(x) < 1e150), min_size=1))
def test_the_mean_is_the_rounded_true_mean(values: list[float]) -> None:
    expected = float(sum(map(Fraction, values)) / len(values))
    assert finish(Mean(), fold(Mean(), [(value, 1) for value in values])) == expected
    assert finish(ExactSum(), fold(ExactSum(), values)) == math.fsum(values)


def test_the_mean_of_narrow_floats_and_decimals_is_exact_too() -> None:
    numpy = pytest.importorskip("numpy")
    values = [numpy.float32(0.1), 0.1, 1]
    assert finish(Mean(), fold(Mean(), [(value, 1) for value in values])) == pytest.approx(0.4)
    narrow = [numpy.float32(value) for value in (1e8, 1, -1e8, 1)]
    assert finish(Mean(), fold(Mean(), [(value, 1) for value in narrow])) == 0.5


def test_the_mean_of_nothing_is_none() -> None:
    assert finish(Mean(), Mean().empty()) is None


def test_a_nan_is_not_lost_by_the_order_of_the_partitions() -> None:
    nan = float("nan")
    for monoid in (Min(), Max()):
        assert all(
            math.isnan(fold(monoid, order)) for order in ([1.0, nan, 2.0], [nan, 1.0, 2.0], [1.0, 2.0, nan])
        )
    assert [fold(TopK(2), [[3], [nan], [5]])[1], fold(TopK(2), [[nan], [5], [3]])[1]] == [5, 5]


def test_top_k_keeps_the_largest_in_order() -> None:
    numbers = random.Random(4).sample(range(1000), 200)
    assert fold(TopK(5), [[number] for number in numbers]) == [*sorted(numbers, reverse=True)[:5]]


def test_a_product_answers_each_question_side_by_side() -> None:
    product = Product(Count(), Mean(), Max())
    values = [2.0, 4.0, 9.0]
    assert finish(product, fold(product, [(1, (x, 1), x) for x in values])) == (
        3,
        statistics.mean(values),
        9.0,
    )
    assert product.commutative is True
    assert product.associative is True


def test_a_product_with_a_part_that_is_not_commutative_says_so() -> None:
    class Concat(Sum):
        commutative = False

    assert Product(Sum(), Concat()).commutative is False


LINES = st.lists(st.binary(max_size=8), max_size=20)


def digest(lines: list[bytes]) -> str:
    return digest_text(fold(Digest(), map(digest_of, lines)))


@given(LINES, st.randoms(use_true_random=False))
def test_a_digest_does_not_see_the_order(lines: list[bytes], chance: random.Random) -> None:
    shuffled = list(lines)
    chance.shuffle(shuffled)
    assert digest(lines) == digest(shuffled)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines, lines[0]],
        lambda lines: [*lines, lines[0], lines[0]],  # an XOR would not see a pair
        lambda lines: lines[1:],
        lambda lines: [lines[0] + b"x", *lines[1:]],
        lambda lines: [lines[0] + lines[1], *lines[2:]],
        lambda lines: [lines[1], lines[0][:-1], *lines[2:]],
    ],
)
def test_a_digest_sees_a_lost_doubled_or_changed_record(change: Callable[[list[bytes]], list[bytes]]) -> None:
    lines = [b"one", b"two", b"two", b"three"]
    assert digest(lines) != digest(change(lines))


@given(LINES)
def test_a_digest_survives_as_text(lines: list[bytes]) -> None:
    total = fold(Digest(), map(digest_of, lines))
    assert digest_total(digest_text(total)) == total
    assert digest_text(total).startswith(f"{len(lines)}-")

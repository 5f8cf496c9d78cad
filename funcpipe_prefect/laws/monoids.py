"""The laws of a commutative monoid, on lifted values and on totals of them.

Source: Lämmel, "Google's MapReduce programming model – revisited" (2008): a distributed fold
needs exactly these.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from funcpipe_prefect.laws.paste import paste, pasted_test
from funcpipe_prefect.laws.same import alike
from funcpipe_prefect.laws.search import Effort, Values, copied, search, settled, telling
from funcpipe_prefect.laws.verdicts import Law, Verdict
from funcpipe_prefect.monoid import Monoid, finish, fold

__all__ = ["MonoidSubject", "monoid_laws"]

_FLOATS = (
    "floats are rounded at each step: use exact_sum or mean, which keep fractions, or math.fsum over all "
    "values; or declare a tolerance: contract: {tolerance: 1.0e-9}, or tolerance = 1e-9 on the monoid"
)
_MEND = {
    "identity": "let empty() give the value that changes nothing, such as 0 for a sum and None for a maximum",
    "associativity": "keep what can be merged, such as (sum, count) for a mean, and derive the answer in finish()",
    "commutativity": "let the answer not depend on order: sort, count, or keep the value of the largest key",
    "arguments untouched": "copy before changing: combine gives a new value and empty() a new one each time",
    "fold": "let fold(values) give what combine gives, one value after the other, beginning with empty()",
}


@dataclass(frozen=True)
class MonoidSubject:
    """A monoid under test.

    Attributes:
        name: How verdicts call it.
        monoid: The monoid.
        values: What is merged: lifted records.
        tolerance: Relative difference that rounding may make.
        effort: How hard to look.
    """

    name: str
    monoid: Monoid[Any]
    values: Values
    tolerance: float = 0.0
    effort: Effort = Effort()

    def same(self, one: Any, other: Any) -> bool:
        """Tell whether two totals are the same, or, where there is a tolerance, their answers."""
        within = functools.partial(alike, rel=self.tolerance, abs_=self.tolerance)
        if within(one, other) or not self.tolerance:
            return within(one, other)
        return within(finish(self.monoid, one), finish(self.monoid, other))


_SAMPLES = 4

Operands = Sequence[Any]
Check = Callable[[MonoidSubject, Operands], str]


def monoid_laws(subject: MonoidSubject) -> Iterator[Law]:
    """State the laws of a commutative monoid."""
    checks: dict[str, tuple[int, Check]] = {
        "identity": (2, _identity),
        "associativity": (3, _associativity),
        "commutativity": (2, _commutativity),
        "arguments untouched": (2, _untouched),
    }
    if getattr(subject.monoid, "fold", None) is not None:
        checks["fold"] = (3, _fold)
    for name, (count, check) in checks.items():
        yield Law(name, subject.name, functools.partial(_verdict, subject, name, count, check))


def _identity(subject: MonoidSubject, values: Operands) -> str:
    """Check that the identity changes nothing that can be told by merging on."""
    combine, empty = subject.monoid.combine, subject.monoid.empty
    value, other = values
    for merged, way in (
        (combine(empty(), copied(value)), "combine(empty(), a)"),
        (combine(copied(value), empty()), "combine(a, empty())"),
    ):
        if subject.same(merged, value):
            continue
        is_form = all(
            subject.same(combine(copied(merged), copied(b)), combine(copied(value), copied(b)))
            for b in (value, other)
        )
        if not is_form:  # a list may become a set: another form of the same
            return f"{way} gives {merged!r}"
    return ""


def _associativity(subject: MonoidSubject, values: Operands) -> str:
    combine = subject.monoid.combine
    a, b, c = values
    left = combine(combine(copied(a), copied(b)), copied(c))
    right = combine(copied(a), combine(copied(b), copied(c)))
    if subject.same(left, right):
        return ""
    return f"combine(combine(a, b), c) gives {left!r}, combine(a, combine(b, c)) gives {right!r}"


def _commutativity(subject: MonoidSubject, values: Operands) -> str:
    a, b = values
    one = subject.monoid.combine(copied(a), copied(b))
    other = subject.monoid.combine(copied(b), copied(a))
    return "" if subject.same(one, other) else f"combine(a, b) gives {one!r}, combine(b, a) gives {other!r}"


def _untouched(subject: MonoidSubject, values: Operands) -> str:
    a, b = values
    before = copied((a, b))
    empty = subject.monoid.empty()
    fresh = copied(empty)
    subject.monoid.combine(empty, a)
    if not alike(fresh, empty) or not alike(fresh, subject.monoid.empty()):
        return f"combine(empty(), a) changes empty(), which is {subject.monoid.empty()!r} afterwards"
    total = subject.monoid.combine(a, b)
    kept = copied(total)
    subject.monoid.combine(total, b)
    if not alike(kept, total):
        return f"combine(total, b) changes total from {kept!r} to {total!r}"
    return "" if alike(before, (a, b)) else f"combine(a, b) changes them to {(a, b)!r}"


def _fold(subject: MonoidSubject, values: Operands) -> str:
    combine, own = subject.monoid.combine, fold(subject.monoid, copied(list(values)))
    one_by_one = functools.reduce(combine, copied(list(values)), subject.monoid.empty())
    nothing = fold(subject.monoid, [])
    if not subject.same(nothing, subject.monoid.empty()):
        return f"fold([]) gives {nothing!r}, empty() gives {subject.monoid.empty()!r}"
    if not subject.same(own, one_by_one):
        return f"fold([a, b, c]) gives {own!r}, combine one by one gives {one_by_one!r}"
    return ""


def _verdict(subject: MonoidSubject, law: str, count: int, check: Check) -> Verdict:
    found = search(_operands(subject, count), telling(functools.partial(check, subject)), subject.effort)
    verdict = settled(law, subject.name, found)
    if verdict is not None:
        return verdict
    mend = _FLOATS if _is_rounding(subject, found.example, check) else _MEND[law]
    names = "abc"[:count]
    pasted = {name: paste(value) for name, value in zip(names, found.example, strict=True)}
    shown = ", ".join(f"{name} = {one.expression}" for name, one in pasted.items())
    tolerance = f", tolerance={subject.tolerance!r}" if subject.tolerance else ""
    test = pasted_test(
        f"{subject.name} {law}", {"monoid": paste(subject.monoid), **pasted},
        [f"check_monoid(monoid, [{', '.join(names)}]{tolerance})"],
        ["from funcpipe_prefect.laws import check_monoid"],
    )  # fmt: skip
    return Verdict(law, subject.name, "broken", found.tried, shown, found.reason, mend, test)


def _operands(subject: MonoidSubject, count: int) -> Values:
    """Draw what combine meets: lifted values, and totals of a few of them; samples in all combinations."""

    def total(values: Operands) -> Any:
        try:
            return functools.reduce(subject.monoid.combine, copied(list(values)))
        except Exception:  # which the law itself will meet
            return values[0]

    drawn = subject.values.strategy
    operand = drawn | st.lists(drawn, min_size=2, max_size=3).map(total)
    samples = itertools.product(subject.values.samples[:_SAMPLES], repeat=count)
    return Values(st.tuples(*[operand] * count), tuple(samples))


def _is_rounding(subject: MonoidSubject, values: Operands, check: Check) -> bool:
    """Tell whether a small tolerance would make the law hold: floats, not logic, are what breaks it."""
    lenient = MonoidSubject(subject.name, subject.monoid, subject.values, 1e-6)
    try:
        return not check(lenient, copied(values))
    except Exception:
        return False

"""The search for a counter-example: Hypothesis draws and shrinks, the law says what is wrong."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, HypothesisException

from funcpipe_prefect.laws.paste import paste
from funcpipe_prefect.laws.shrink import shrink
from funcpipe_prefect.laws.strategies import strategy_for
from funcpipe_prefect.laws.verdicts import Verdict

__all__ = ["Effort", "Found", "Values", "copied", "drawn_from", "listed", "search", "settled", "telling"]

T = TypeVar("T")

RAISED = "it raised"
"""Begins the reason of a law whose check ended in an exception."""

_SHOWN = 60
"""Characters of source from which on a counter-example is worth making smaller."""


@dataclass(frozen=True)
class Effort:
    """How hard to look.

    Attributes:
        examples: How many examples to try of each law.
        budget_s: Seconds after which a law is taken as it is.
    """

    examples: int = 100
    budget_s: float = 5.0


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        tried: Examples tried.
        reason: What is wrong with `example`; empty when nothing is.
        example: The smallest counter-example.
        obstacle: Why nothing could be tried.
    """

    tried: int
    reason: str = ""
    example: Any = None
    obstacle: str = ""


class _Falsified(Exception):
    pass


@dataclass(frozen=True)
class Values:
    """Where examples come from.

    Attributes:
        strategy: Draws them.
        samples: Tried before what is drawn.
    """

    strategy: st.SearchStrategy[Any]
    samples: tuple[Any, ...] = ()


def drawn_from(values: Any) -> Values:
    """Tell where examples come from.

    Args:
        values: A Hypothesis strategy, a type, or samples.

    Raises:
        TypeError: No strategy can be made from the type.
    """
    if isinstance(values, Values):
        return values
    if isinstance(values, st.SearchStrategy):
        return Values(values)
    if isinstance(values, (list, tuple)):
        return Values(st.sampled_from(values) if values else st.nothing(), tuple(values))
    return Values(strategy_for(values))


def listed(values: Values, most: int) -> Values:
    """Draw lists of values, from one to `most` of them; the samples together come first."""
    together = (list(values.samples),) if values.samples else ()
    return Values(st.lists(values.strategy, min_size=1, max_size=most), together)


def settled(law: str, subject: str, found: Found) -> Verdict | None:
    """Give the verdict where no counter-example was found; None where there is one to tell of."""
    if found.obstacle:
        return Verdict(law, subject, "skipped", found.tried, reason=found.obstacle)
    return None if found.reason else Verdict(law, subject, examples=found.tried)


def telling(check: Callable[[T], str]) -> Callable[[T], str]:
    """Let a check whose subject raises say so, in place of ending the search."""

    def told(value: T) -> str:
        try:
            return check(value)
        except Exception as error:
            return f"{RAISED} {type(error).__name__}: {error}"

    return told


def copied(value: Any) -> Any:
    """Copy a value deeply; one that cannot be copied is given as it is."""
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


def search(values: Values, law: Callable[[Any], str], effort: Effort) -> Found:
    """Look for a value that breaks a law, and for the smallest such.

    Args:
        values: Where examples come from.
        law: Gets a copy of a value; says what is wrong, or nothing.
        effort: How hard to look.

    Returns:
        The smallest counter-example, if there is one.
    """
    due = time.monotonic() + effort.budget_s
    failing: list[tuple[Any, str]] = []
    tried = 0

    def holds(value: Any) -> bool:
        nonlocal tried
        tried += 1
        reason = law(copied(value))
        if reason:
            failing.append((value, reason))
        return not reason

    for value in values.samples[: effort.examples]:
        if time.monotonic() > due or not holds(value):
            break

    @settings(
        max_examples=effort.examples,
        database=None,
        deadline=None,
        derandomize=True,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(values.strategy)
    def falsify(value: Any) -> None:
        if time.monotonic() <= due and not holds(value):
            raise _Falsified

    obstacle = ""
    if not failing:
        try:
            falsify()
        except (_Falsified, Flaky):
            pass
        except HypothesisException as error:
            obstacle = "" if tried else f"no example could be drawn: {error}"
    if failing:
        return _smallest(failing, law, tried)
    return Found(tried, obstacle=obstacle if tried else obstacle or "there was no time for an example")


def _smallest(failing: Sequence[tuple[Any, str]], law: Callable[[Any], str], tried: int) -> Found:
    example, reason = min(reversed(failing), key=lambda pair: len(paste(pair[0]).expression))
    if len(paste(example).expression) > _SHOWN:

        def still_fails(value: Any) -> bool:
            said = law(copied(value))  # another failure than the one at hand would mislead
            return bool(said) and said.startswith(RAISED) == reason.startswith(RAISED)

        example = _shrunk(example, still_fails)
        reason = law(copied(example)) or reason
    return Found(tried, reason, example)


def _shrunk(example: Any, still_fails: Callable[[Any], bool]) -> Any:
    """Make an example smaller; a tuple is what a law takes, and keeps its length."""
    if type(example) is not tuple:
        return shrink(example, still_fails)
    for index in range(len(example)):

        def with_part(part: Any, index: int = index, whole: tuple[Any, ...] = example) -> tuple[Any, ...]:
            return (*whole[:index], part, *whole[index + 1 :])

        smaller = shrink(example[index], lambda part, put=with_part: still_fails(put(part)))  # type: ignore[misc]
        example = with_part(smaller)
    return example

"""Planted faults: each broken subject is caught with a small counter-example, each sound twin passes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect.laws import (
    LawBroken,
    LawReport,
    check_batch_invariant,
    check_monoid,
    check_pure,
    check_sink_idempotent,
)
from tests.registries.planted import BATCHES, FUNCTIONS, MONOIDS, SINKS, Planted

ROOT = Path(__file__).parents[2]
EXAMPLES = 50
SMALL = 200
"""Characters of Python source that a counter-example may have."""

Check = Callable[..., LawReport]
CHECKS: tuple[tuple[Check, tuple[Planted, ...]], ...] = (
    (check_monoid, MONOIDS),
    (check_pure, FUNCTIONS),
    (check_batch_invariant, BATCHES),
    (check_sink_idempotent, SINKS),
)
CASES = [
    pytest.param(check, one, id=f"{check.__name__}-{one.fault}") for check, group in CHECKS for one in group
]


def values_of(values: Any) -> Any:
    """A type is drawn from as it is; a function makes a strategy."""
    is_maker = callable(values) and not isinstance(values, type) and not hasattr(values, "__origin__")
    return values() if is_maker else values


def run_pasted_anew(source: str) -> None:
    """Run a printed test in a process of its own: a cache that is full already is written no more."""
    name = next(line for line in source.splitlines() if line.startswith("def ")).removeprefix("def ")
    run = subprocess.run(
        [sys.executable, "-c", f"{source}\n{name.partition('(')[0]}()"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "LawBroken: FP310" in run.stderr


def run_pasted(source: str) -> None:
    """Run a printed test as if it stood in a file of the user's."""
    space: dict[str, Any] = {}
    exec(compile(source, "<pasted>", "exec"), space)
    tests = [value for name, value in space.items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()


@pytest.mark.parametrize(("check", "planted"), CASES)
def test_a_planted_fault_is_caught_with_a_small_counter_example(check: Check, planted: Planted) -> None:
    with pytest.raises(LawBroken) as caught:
        check(planted.broken, values_of(planted.values), examples=EXAMPLES)
    broken = [verdict for verdict in caught.value.verdicts if verdict.law in planted.laws]
    assert broken, f"{[verdict.law for verdict in caught.value.verdicts]} in place of {planted.laws}"
    for verdict in broken:
        assert verdict.reason
        assert verdict.mend
        assert len(verdict.counter_example) <= SMALL
    if "globals untouched" in planted.laws:
        run_pasted_anew(broken[0].test)
        return
    with pytest.raises(LawBroken) as again:
        run_pasted(broken[0].test)
    assert broken[0].law in {verdict.law for verdict in again.value.verdicts}


@pytest.mark.parametrize(("check", "planted"), CASES)
def test_a_sound_twin_passes(check: Check, planted: Planted) -> None:
    values = planted.values if planted.sound_values is None else planted.sound_values
    report = check(planted.sound, values_of(values), examples=EXAMPLES)
    assert all(verdict.examples > 0 for verdict in report.verdicts), report.verdicts


def test_the_rates_in_the_readme_are_those_of_this_suite() -> None:
    count = len(CASES)
    assert count >= 40
    assert len({one.fault for _, group in CHECKS for one in group}) == count
    text = " ".join((ROOT / "README.md").read_text().split())
    assert re.search(rf"{count} of {count} planted faults", text)
    assert re.search(rf"0 of {count} sound twins", text)

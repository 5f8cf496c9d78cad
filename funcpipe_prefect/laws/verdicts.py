"""Verdicts: what came of checking a law on a subject."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from funcpipe_prefect.errors import FuncPipeError

__all__ = ["Law", "LawBroken", "LawReport", "Outcome", "Verdict", "require"]

Outcome: TypeAlias = Literal["holds", "broken", "skipped"]


@dataclass(frozen=True)
class Verdict:
    """What came of one law on one subject.

    Attributes:
        law: The law's name, such as `associativity`.
        subject: Whom it was checked on: an operator, a monoid, a sink, a record type.
        outcome: `skipped` says in `reason` why nothing could be checked.
        examples: How many examples were tried.
        counter_example: The smallest example found that breaks the law, as Python source.
        reason: What went wrong on it.
        mend: What to do about it.
        test: A whole test in Python that fails as long as the law is broken.
    """

    law: str
    subject: str
    outcome: Outcome = "holds"
    examples: int = 0
    counter_example: str = ""
    reason: str = ""
    mend: str = ""
    test: str = ""

    def __str__(self) -> str:
        lines = [f"{self.law} of {self.subject}: {self.outcome}"]
        lines += [f"  example: {self.counter_example}"] if self.counter_example else []
        lines += [f"  found:   {self.reason}"] if self.reason else []
        lines += [f"  mend:    {self.mend}"] if self.mend else []
        return "\n".join(lines)


@dataclass(frozen=True)
class Law:
    """A law on a subject that waits to be checked."""

    name: str
    subject: str
    check: Callable[[], Verdict]


@dataclass(frozen=True)
class LawReport:
    """The verdicts of a check.

    Attributes:
        verdicts: One for each law and subject.
        elapsed_s: Seconds.
        samples: Where the sample records came from.
    """

    verdicts: tuple[Verdict, ...]
    elapsed_s: float = 0.0
    samples: str = ""

    @property
    def broken(self) -> tuple[Verdict, ...]:
        """The verdicts of laws that do not hold."""
        return tuple(verdict for verdict in self.verdicts if verdict.outcome == "broken")

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values, as `funcpipe laws --json` prints it."""
        return {
            "status": "broken" if self.broken else "sound",
            "laws": [asdict(verdict) for verdict in self.verdicts],
            "samples": self.samples,
            "elapsed_s": self.elapsed_s,
        }


class LawBroken(FuncPipeError, AssertionError):
    """A law does not hold; `verdicts` has the counter-examples."""

    code = "FP310"

    def __init__(self, verdicts: Iterable[Verdict]) -> None:
        super().__init__(tuple(verdicts))
        self.verdicts: tuple[Verdict, ...] = self.args[0]

    def __str__(self) -> str:
        tests = [verdict.test for verdict in self.verdicts if verdict.test]
        shown = [f"{self.code} {verdict}" for verdict in self.verdicts]
        return "\n\n".join([*shown, *(["as tests:", *tests] if tests else [])])


def require(laws: Iterable[Law]) -> LawReport:
    """Check laws one after the other.

    Returns:
        Their verdicts, none of them broken.

    Raises:
        LawBroken: FP310, with every broken one.
    """
    report = LawReport(tuple(law.check() for law in laws))
    if report.broken:
        raise LawBroken(report.broken)
    return report

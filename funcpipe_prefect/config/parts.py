"""The parts of a backfill, dates or names, and the templates that they fill."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import TypeAlias

from funcpipe_prefect.config.places import problem_at
from funcpipe_prefect.errors import PipelineError, Place, Problem

__all__ = ["Part", "between", "filled", "listed"]

_MOST = 5000
_STEP = re.compile(r"([1-9]\d{0,4})([dw])")
_Value: TypeAlias = datetime.date | str


@dataclass(frozen=True)
class Part:
    """One part of the input: what `{date}` or `{part}` stands for.

    Attributes:
        word: `date` or `part`.
        value: A date, or a name.
    """

    word: str
    value: _Value

    def __str__(self) -> str:
        return self.value if isinstance(self.value, str) else self.value.isoformat()


def between(first: str, last: str, step: str = "1d") -> list[Part]:
    """List the dates from the first to the last, both included.

    Args:
        first: ISO date.
        last: ISO date.
        step: Days or weeks, such as `1d` or `2w`.

    Raises:
        PipelineError: FP123, each mistake with its option.

    Example:
        >>> [str(part) for part in between("2026-02-27", "2026-03-01")]
        ['2026-02-27', '2026-02-28', '2026-03-01']
    """
    problems: list[Problem] = []
    start, end = _date("--from", first, problems), _date("--to", last, problems)
    found = _STEP.fullmatch(step)
    if found is None:
        problems.append(_wrong("--step", step, "days or weeks, such as 1d or 2w", "write --step 1d"))
    if start and end and end < start:
        problems.append(_wrong("--to", last, f"{first} or a later date", "exchange --from and --to"))
    if problems or found is None or start is None or end is None:
        raise PipelineError(problems)
    days = int(found[1]) * (7 if found[2] == "w" else 1)
    count = (end - start).days // days + 1
    if count > _MOST:
        raise PipelineError([
            _wrong("--to", last, f"at most {_MOST} runs at once, not {count}", "take a shorter time or a longer step")
        ])  # fmt: skip
    return [Part("date", start + datetime.timedelta(days=days * index)) for index in range(count)]


def listed(names: Sequence[str]) -> list[Part]:
    """List named parts, each once, from values such as `a,b,c`.

    Raises:
        PipelineError: FP123, there is none.
    """
    words = [word.strip() for name in names for word in name.split(",")]
    found = list(dict.fromkeys(word for word in words if word))
    if not found or len(found) > _MOST:
        allowed = f"1 to {_MOST} names, such as a,b,c"
        raise PipelineError([_wrong("--part", ",".join(names) or "nothing", allowed, "name the parts")])
    return [Part("part", word) for word in found]


def filled(template: str, part: Part, option: str) -> str:
    """Put a part into a template.

    Args:
        template: Text with `{date}`, `{date:%Y/%m}` or `{part}`; other braces are doubled.
        part: The part.
        option: Where the template stands, for messages.

    Raises:
        PipelineError: FP123, the template is malformed or names something else.

    Example:
        >>> filled("data/{date:%Y/%m}/{date}.jsonl", Part("date", datetime.date(2026, 1, 31)), "--input")
        'data/2026/01/2026-01-31.jsonl'
    """
    try:
        names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
        if names <= {part.word}:
            text = template.format(**{part.word: part.value})
            if part.word == "part" and _leads_out(str(part.value)):
                raise PipelineError([problem_at(Place(option), "FP123", "wrong part", f'"{part.value}" in {template}',
                                                "a name, without .. and not from the root", "name the part otherwise")])  # fmt: skip
            return text
        found = ", ".join(f"{{{name}}}" for name in sorted(names - {part.word}))
    except ValueError as error:
        found = f"{template}: {error}"
    mend = f"write {{{part.word}}}, and double the braces that mean themselves: {{{{ }}}}"
    allowed = f"{{{part.word}}}" + (", also with a format: {date:%Y-%m-%d}" if part.word == "date" else "")
    raise PipelineError([problem_at(Place(option), "FP123", "wrong template", found, allowed, mend)])


def _leads_out(value: str) -> bool:
    """Tell whether a part, put into a path, would lead out of the folder that the template names."""
    steps = value.replace("\\", "/").split("/")
    return ".." in steps or steps[0] == "" or "://" in value


def _date(option: str, text: str, problems: list[Problem]) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        problems.append(_wrong(option, text, "a date such as 2026-01-31", "write year-month-day"))
        return None


def _wrong(option: str, found: str, allowed: str, mend: str) -> Problem:
    return problem_at(Place(option), "FP123", "wrong part", found, allowed, mend)

"""The parts of a backfill: a wrong date or template would fetch the wrong input."""

from __future__ import annotations

import datetime

import pytest

from funcpipe_prefect.config.parts import Part, between, filled, listed
from funcpipe_prefect.errors import PipelineError

DAY = Part("date", datetime.date(2026, 2, 3))


@pytest.mark.parametrize(
    ("first", "last", "step", "expected"),
    [
        ("2026-01-31", "2026-02-02", "1d", ["2026-01-31", "2026-02-01", "2026-02-02"]),
        ("2028-02-28", "2028-03-01", "1d", ["2028-02-28", "2028-02-29", "2028-03-01"]),
        ("2026-01-01", "2026-01-20", "1w", ["2026-01-01", "2026-01-08", "2026-01-15"]),
        ("2026-01-01", "2026-01-01", "30d", ["2026-01-01"]),
    ],
)
def test_dates_include_both_ends(first: str, last: str, step: str, expected: list[str]) -> None:
    assert [str(part) for part in between(first, last, step)] == expected


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(PipelineError) as caught:
        between("2026-02-30", "soon", "1h")
    assert [problem.place.file for problem in caught.value.problems] == ["--from", "--to", "--step"]


@pytest.mark.parametrize(("first", "last"), [("2026-01-02", "2026-01-01"), ("0001-01-01", "9999-12-31")])
def test_an_empty_or_endless_time_is_refused(first: str, last: str) -> None:
    with pytest.raises(PipelineError, match="FP123") as caught:
        between(first, last)
    assert caught.value.problems[0].place.file == "--to"


def test_each_name_is_one_part() -> None:
    assert [str(part) for part in listed(["b, a", "b,,c"])] == ["b", "a", "c"]
    with pytest.raises(PipelineError, match="FP123"):
        listed([","])


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("data/{date}.jsonl", "data/2026-02-03.jsonl"),
        ("{date:%Y}/{date:%m}/{date:%d}", "2026/02/03"),
        ("source={{path: {date}}}", "source={path: 2026-02-03}"),
        ("constant", "constant"),
    ],
)
def test_a_template_takes_a_date(template: str, expected: str) -> None:
    assert filled(template, DAY, "--input") == expected


@pytest.mark.parametrize(
    "template", ["{part}", "{}", "{0}", "{date.year}", "{date", "date}", "{date!x}", "{date[0]}"]
)
def test_a_wrong_template_is_a_located_problem(template: str) -> None:
    with pytest.raises(PipelineError, match="FP123 wrong template  --input"):
        filled(template, DAY, "--input")

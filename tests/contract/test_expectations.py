"""`expect:` records that are not what they should be are not published, on any backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import load_pipeline, run_local
from funcpipe_prefect.errors import ExpectationFailed, FuncPipeError, PipelineError
from tests.contract.test_backends import Run, content, run_on

PREFECT = pytest.mark.prefect
ON_BEAM = pytest.param("beam", marks=[PREFECT, pytest.mark.runners])


@pytest.fixture(params=["local", pytest.param("dask", marks=PREFECT), ON_BEAM])
def run(request: pytest.FixtureRequest) -> Run:
    return run_on(request.param, request)


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": n // 2, "user": f"u{n % 7}", "amount": n, "minute": 0.0, **more} for n in range(count)]


def spec(folder: Path, *expect: dict[str, Any], made: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    found = rows(100) if made is None else made
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return {
        "name": "gate",
        "imports": ["tests.registries.shapes"],
        "source": {"type": "jsonl", "path": str(folder / "in.jsonl"), "record": "Event", "splits": 5},
        "operators": [
            {"type": "Filter", "name": "keep", "func": "is_big", "params": {"least": 10}},
            {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
             "params": {"path": str(folder / "out")}},
        ],
        "expect": list(expect),
        "cache": {"storage": str(folder / "store")},
        "errors": {"path": str(folder / "letters")},
        "retries": {"delay_seconds": 0},
    }  # fmt: skip


ALL = [
    {"rows": {"min": 50, "max": 90}},
    {"field": "user", "null_rate": {"max": 0}},
    {"field": "user", "distinct": {"min": 7, "max": 7}},
    {"of": "write", "predicate": "is_big", "params": {"least": 55}, "pass_rate": {"min": 0.5, "max": 0.5}},
]


def test_what_is_measured_is_the_same_on_each_backend_and_for_any_splits(run: Run, tmp_path: Path) -> None:
    expected = [("rows", 90), ("null_rate(user)", 0), ("distinct(user)", 7), ("pass_rate(is_big)", 0.5)]
    for splits in (1, 5):
        report = run(spec(tmp_path, *ALL), **{"source.splits": splits})
        assert [(one["what"], one["found"], one["ok"]) for one in report.expectations] == [
            (what, found, True) for what, found in expected
        ]
    again = run(spec(tmp_path, *ALL))
    assert again.tasks_run == 0
    assert again.expectations == report.expectations


@pytest.mark.parametrize(
    ("expect", "told"),
    [
        ({"rows": {"min": 91}}, "rows of write: 90, expected at least 91"),
        ({"rows": {"min": 1, "max": 89}}, "rows of write: 90, expected at least 1 and at most 89"),
        ({"field": "user", "distinct": {"max": 3}}, r"distinct\(user\) of write: 7, expected at most 3"),
        ({"predicate": "is_big", "params": {"least": 99}, "pass_rate": {"min": 0.9}}, r"pass_rate\(is_big\)"),
    ],
    ids=["few", "many", "distinct", "predicate"],
)
def test_a_failing_gate_publishes_nothing_and_costs_no_work_twice(
    run: Run, tmp_path: Path, expect: dict[str, Any], told: str
) -> None:
    run(spec(tmp_path, *ALL))
    before = content(tmp_path / "out")
    changed = rows(100, minute=1.0)
    with pytest.raises((ExpectationFailed, FuncPipeError), match=told):
        run(spec(tmp_path, ALL[0], expect, made=changed))
    assert {
        path: data for path, data in content(tmp_path / "out").items() if "_staging" not in path
    } == before
    measured = dict(expect)
    for kind in ("rows", "distinct", "pass_rate"):
        if kind in measured:
            measured[kind] = {"min": 0}
    report = run(spec(tmp_path, ALL[0], measured, made=changed))
    assert report.tasks_run == 0, "what was written waits for a gate that lets it pass"
    assert content(tmp_path / "out") != before


def test_null_rates_are_shares_of_the_records(tmp_path: Path) -> None:
    made = [{**row, "user": None} if row["amount"] % 4 == 0 else row for row in rows(100)]
    mapping = spec(tmp_path, {"field": "user", "null_rate": {"max": 0.2}}, made=made)
    mapping["imports"] = ["tests.registries.words"]
    mapping["source"].pop("record")
    mapping["operators"] = mapping["operators"][1:]
    with pytest.raises(ExpectationFailed, match=r"null_rate\(user\) of write: 0.25, expected at most 0.2"):
        run_local(load_pipeline(mapping))
    assert not (tmp_path / "out" / "_manifest.json").exists()


def test_measures_that_are_lost_are_taken_again(tmp_path: Path) -> None:
    first = run_local(load_pipeline(spec(tmp_path, *ALL)))
    for path in (tmp_path / "store").rglob("*.json"):
        path.unlink()
    again = run_local(load_pipeline(spec(tmp_path, *ALL)))
    assert again.tasks_run == 5
    assert again.expectations == first.expectations


def test_an_empty_input_has_no_rows_and_no_rates(tmp_path: Path) -> None:
    report = run_local(load_pipeline(spec(tmp_path, *ALL[1:2], made=[])))
    assert [one["found"] for one in report.expectations] == [0]
    with pytest.raises(ExpectationFailed, match="rows of write: 0, expected at least 50"):
        run_local(load_pipeline(spec(tmp_path, ALL[0], made=[])))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no measure": ({"of": "write"}, r"FP104.*\$\.expect\[0\]"),
    "two measures": (
        {"rows": {"min": 1}, "field": "user", "distinct": {"min": 1}},
        r"FP104.*\$\.expect\[0\]",
    ),
    "no bounds": ({"rows": {}}, r"FP103.*\$\.expect\[0\]\.rows"),
    "swapped": ({"rows": {"min": 3, "max": 2}}, r"FP104.*\$\.expect\[0\]\.rows"),
    "no share": ({"field": "user", "null_rate": {"max": 3}}, r"FP104.*\$\.expect\[0\]\.null_rate\.max"),
    "no sink": (
        {"of": "wirte", "rows": {"min": 3}},
        r'FP124.*\$\.expect\[0\]\.of\n(.*\n)*.*did you mean "write"',
    ),
    "no field": (
        {"field": "usr", "null_rate": {"max": 0}},
        r'FP316.*\$\.expect\[0\]\.field\n(.*\n)*.*"user"',
    ),
    "field missing": ({"null_rate": {"max": 0}}, r"FP103.*\$\.expect\[0\]"),
    "no function": ({"predicate": "is_bigg", "pass_rate": {"min": 1}}, r"FP102.*\$\.expect\[0\]\.predicate"),
    "other records": (
        {"predicate": "loudest", "pass_rate": {"min": 1}},
        r"FP201.*\$\.expect\[0\]\.predicate",
    ),
    "stray key": ({"field": "user", "rows": {"min": 1}}, r"FP101.*\$\.expect\[0\]\.field"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_expectation_is_told_at_its_place(tmp_path: Path, name: str) -> None:
    expect, fault = WRONG[name]
    with pytest.raises(PipelineError, match=fault):
        load_pipeline(spec(tmp_path, expect))


def test_a_function_as_a_sink_can_hold_nothing_back(tmp_path: Path) -> None:
    mapping = spec(tmp_path, {"rows": {"min": 1}})
    mapping["imports"] = ["tests.registries.words"]
    mapping["source"].pop("record")
    mapping["operators"] = [
        {"type": "Sink", "name": "write", "func": "put_file", "contract": {"idempotent": True},
         "params": {"folder": str(tmp_path)}},
    ]  # fmt: skip
    with pytest.raises(PipelineError, match=r"FP317 nothing can be held back.*\$\.expect\[0\]"):
        load_pipeline(mapping)

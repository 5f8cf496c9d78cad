"""`granularity: stage` and `auto`: fewer task runs, and else what a task run for each split gives."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import BackendError, RunReport, load_pipeline, run_local
from funcpipe_prefect.backends import preview as previews
from funcpipe_prefect.orchestration import stage_engine
from tests.contract.test_backends import LINES, content, spec
from tests.contract.test_plan import branched, planned, task_runs_since

pytestmark = pytest.mark.prefect

Run = Callable[..., RunReport]


@pytest.fixture
def run(prefect_api: str, dask_address: str) -> Run:
    from funcpipe_prefect import run_pipeline

    def run(mapping: dict[str, Any], granularity: str = "stage", **more: Any) -> RunReport:
        given = {"resources.address": dask_address, "resources.granularity": granularity}
        report: RunReport = run_pipeline(mapping, backend="dask", overrides=given, **more)
        return report

    return run


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    rows = [json.dumps({"id": index, "text": text}) for index, text in enumerate(LINES)]
    rows[7] = "{not json"
    (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.parametrize("points", [[], ["words"], ["tidy", "words"]])
def test_output_letters_and_counts_are_those_of_one_core(run: Run, lines: Path, points: list[str]) -> None:
    mapping = spec(lines, materialization_points=points)
    report = run(mapping)
    there, letters = content(lines / "out"), content(lines / "letters")
    other = spec(lines, materialization_points=points, cache={"storage": str(lines / "other")})
    here = run_local(load_pipeline(other), refresh=True)
    assert (content(lines / "out"), content(lines / "letters")) == (there, letters)
    assert (report.digest, report.operators, report.tasks_run) == (
        here.digest,
        here.operators,
        here.tasks_run,
    )
    again = run(mapping)
    assert (again.tasks_run, again.tasks_cached) == (0, report.tasks_run)
    mapping["operators"][2]["max_batch_size"] = 3
    changed = run(mapping)
    assert changed.tasks_cached == 3 * len([point for point in points if point != "score"])


def test_branches_and_merges_too(run: Run, tmp_path: Path) -> None:
    rows = ({"id": number, "text": f"some words of line {number % 7}"} for number in range(300))
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run(branched(tmp_path))
    here = run_local(load_pipeline(branched(tmp_path)), refresh=True)
    assert (report.result, report.outputs, report.operators) == (here.result, here.outputs, here.operators)


SLOW = [pytest.param(*one, marks=pytest.mark.slow) for one in (("auto", 1000), ("partition", 5))]


@pytest.mark.parametrize(("granularity", "most"), [("stage", 1000), ("auto", 5), *SLOW])
def test_the_plan_knows_how_many_task_runs_there_are(
    run: Run, lines: Path, granularity: str, most: int, dask_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (stage_engine, previews):
        monkeypatch.setattr(module, "MOST_TASK_RUNS", most)
    mapping = spec(lines, name=f"g-{uuid.uuid4().hex[:8]}", materialization_points=["words"])
    given = {"resources.address": dask_address, "resources.granularity": granularity}
    said = planned(mapping, "dask", given)
    begun = time.time()
    report = run(mapping, granularity)
    by_stage = granularity == "stage" or (granularity == "auto" and most < 6)
    assert said["task_runs"] == task_runs_since(begun) == (3 if by_stage else 7)
    assert (said["tasks_to_run"], report.tasks_run) == (6, 6)


def test_what_may_pass_is_tried_again_for_its_split_alone(run: Run, lines: Path) -> None:
    mapping = spec(lines)
    flaky = {
        "type": "Map",
        "name": "flaky",
        "func": "flaky",
        "params": {"marks": str(lines / "marks"), "times": 2},
    }
    (lines / "marks").mkdir()
    (lines / "in.jsonl").write_text(
        "".join(json.dumps({"id": n, "text": "flaky" if n == 5 else "fine"}) + "\n" for n in range(60))
    )
    mapping["operators"].insert(1, flaky)
    report = run(mapping)
    assert (report.status, report.tasks_run, report.records_out) == ("completed", 3, 60)
    assert sorted(path.name for path in (lines / "marks").iterdir()) == ["5-0", "5-1"]


def test_a_split_that_fails_for_good_fails_the_run_and_keeps_the_others(run: Run, lines: Path) -> None:
    mapping = spec(lines, materialization_points=["tidy"])
    mapping["operators"][0]["error_policy"] = "fail_fast"
    with pytest.raises(Exception, match="tidy"):
        run(mapping)
    assert not (lines / "out" / "_manifest.json").exists()


def test_a_split_that_kills_its_worker_each_time_is_named(prefect_api: str, lines: Path) -> None:
    from funcpipe_prefect import run_pipeline

    mapping = spec(lines)
    (lines / "marks").mkdir()
    deadly = {
        "type": "Map",
        "name": "deadly",
        "func": "deadly",
        "params": {"marks": str(lines / "marks"), "always": True},
    }
    mapping["operators"].insert(0, deadly)
    mapping["resources"] = {"workers": 2, "granularity": "stage"}
    (lines / "in.jsonl").write_text(
        "".join(json.dumps({"id": n, "text": "kill" if n == 50 else "fine"}) + "\n" for n in range(60))
    )
    with pytest.raises(BackendError, match=r"deadly\+.*\[2\] on split .* was lost: its worker process died"):
        run_pipeline(mapping, backend="dask")


@pytest.mark.slow
def test_ten_thousand_splits_are_never_all_with_the_scheduler(
    run: Run, dask_address: str, tmp_path: Path
) -> None:
    import distributed

    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"id": n, "text": "a b"}) + "\n" for n in range(10_000))
    )
    mapping = spec(tmp_path)
    mapping["source"] = {"type": "jsonl", "path": str(tmp_path / "in.jsonl"), "splits": 10_000}
    mapping["operators"] = mapping["operators"][:3]
    held: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        with distributed.Client(dask_address, set_as_default=False) as client:
            while not ended.wait(0.2):
                held.append(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        report = run(mapping)
    finally:
        ended.set()
        thread.join()
    assert report.tasks_run == report.splits > 9_000
    assert 0 < max(held) < 200

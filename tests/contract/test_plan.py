"""`plan` says what `run` then does: the tasks, what is cached, the task runs of Prefect, and how much work it is."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import load_pipeline, run_local
from funcpipe_prefect.backends.preview import preview
from funcpipe_prefect.drawing import page, svg
from tests.contract.test_backends import Run, engine, run_on, spec

PREFECT = pytest.mark.prefect
ON_BEAM = pytest.param("beam", marks=[PREFECT, pytest.mark.runners])


@pytest.fixture(params=["local", pytest.param("dask", marks=PREFECT), ON_BEAM])
def backend(request: pytest.FixtureRequest) -> tuple[str, Run, dict[str, Any]]:
    name: str = request.param
    given = {} if name == "local" else engine(name, request)[1]
    return name, run_on(name, request), given


def lines(folder: Path, count: int, name: str = "in.jsonl") -> None:
    rows = ({"id": number, "text": f"some words of line {number}"} for number in range(count))
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def branched(folder: Path) -> dict[str, Any]:
    mapping = spec(folder, materialization_points=["tidy"])
    mapping["operators"] += [
        {"type": "Combine", "name": "count", "input": "words", "lift": "count_of", "monoid": "counter"},
        {"type": "Sink", "name": "again", "input": "tidy", "func": "jsonl", "contract": {"idempotent": True},
         "params": {"path": str(folder / "out2")}},
    ]  # fmt: skip
    return mapping


def planned(mapping: dict[str, Any], backend: str, given: dict[str, Any]) -> dict[str, Any]:
    return preview(load_pipeline(mapping, overrides=given), backend)


def task_runs_since(begun: float) -> int:
    """Count the task runs that began since then, when their number stays the same."""
    import datetime

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterStartTime

    since = datetime.datetime.fromtimestamp(begun, datetime.timezone.utc)
    wanted = TaskRunFilter(start_time=TaskRunFilterStartTime(after_=since))  # type: ignore[arg-type]
    known, end = -1, time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while True:
            count = len(client.read_task_runs(task_run_filter=wanted))
            if count == known or time.monotonic() > end:
                return count
            known = count
            time.sleep(1.5)


@pytest.mark.parametrize("shape", ["chain", "branches"])
def test_a_run_does_what_the_plan_said(
    backend: tuple[str, Run, dict[str, Any]], shape: str, tmp_path: Path
) -> None:
    name, run, given = backend
    lines(tmp_path, 300)
    mapping = spec(tmp_path, materialization_points=["words"]) if shape == "chain" else branched(tmp_path)
    changes = [
        lambda: None,
        lambda: None,
        lambda: lines(tmp_path, 301),
        lambda: mapping["operators"][2].update(max_batch_size=5),
        lambda: mapping["operators"][3]["params"].update(path=str(tmp_path / "elsewhere")),
    ]
    for change in changes:
        change()
        said = planned(mapping, name, given)
        begun = time.time()
        report = run(mapping)
        assert (said["tasks_to_run"], said["tasks_cached"]) == (report.tasks_run, report.tasks_cached)
        assert said["splits"] == report.splits
        assert said["publishes"] == (report.tasks_run > 0)
        if name != "local":
            assert said["task_runs"] == task_runs_since(begun)
    again = planned(mapping, name, given)
    assert (again["tasks_to_run"], again["task_runs"], again["publishes"]) == (0, 0, False)


def test_what_is_cached_is_shown_up_to_the_budget(
    prefect_api: str, dask_address: str, tmp_path: Path
) -> None:
    given = {"resources.address": dask_address, "resources.task_budget": 2}
    from funcpipe_prefect import run_pipeline

    lines(tmp_path, 100)
    mapping = spec(tmp_path, materialization_points=["words"])
    run_pipeline(mapping, backend="dask", overrides=given)
    mapping["operators"][3]["params"]["path"] = str(tmp_path / "elsewhere")
    said = planned(mapping, "dask", given)
    assert (said["tasks_to_run"], said["task_runs"]) == (3, 3 + 2 + 1)
    begun = time.time()
    run_pipeline(mapping, backend="dask", overrides=given)
    assert task_runs_since(begun) == 6


def test_what_is_expected_scales_with_the_input(tmp_path: Path) -> None:
    lines(tmp_path, 100)
    mapping = spec(
        tmp_path, source={"type": "jsonl", "path": str(tmp_path / "*.jsonl"), "split_size": "1KiB"}
    )
    assert planned(mapping, "local", {})["expected"] is None
    report = run_local(load_pipeline(mapping))
    words = {counts.name: counts.records_in for counts in report.operators}["score"]
    assert planned(mapping, "local", {})["expected"]["operators"]["score"]["records"] == 0, (
        "nothing is to run"
    )
    lines(tmp_path, 100, "more.jsonl")
    [stage] = planned(mapping, "local", {})["stages"]
    assert {name.partition("-")[0] for name in stage["splits_to_run"]} == {"more.jsonl"}
    assert len(stage["splits_to_run"]) == stage["to_run"]
    expected = planned(mapping, "local", {})["expected"]["operators"]
    assert expected["score"]["records"] == words
    assert words / 7 <= expected["score"]["calls"] < words
    assert expected["tidy"]["records"] == expected["tidy"]["calls"] == 100
    lines(tmp_path, 1000, "yet_more.jsonl")
    assert (
        10 * words < planned(mapping, "local", {})["expected"]["operators"]["score"]["records"] < 12 * words
    )


def test_what_operators_cost_is_measured(tmp_path: Path) -> None:
    lines(tmp_path, 200)
    mapping = spec(tmp_path)
    mapping["operators"].insert(
        1, {"type": "Map", "name": "slow", "func": "slowly", "params": {"seconds": 0.002}}
    )
    mapping["operators"][0]["error_policy"] = "collect"
    report = run_local(load_pipeline(mapping))
    costs = {cost.name: cost for cost in report.costs}
    assert list(costs) == ["source", "tidy", "slow", "words", "score", "write"]
    assert 0.4 <= costs["slow"].seconds < 2.0, "200 times two milliseconds, of which one in sixteen was timed"
    assert costs["slow"].records == 200
    assert costs["score"].batches == sum(-(-count // 7) for count in _scored_by_split(report))
    assert costs["source"].bytes == (tmp_path / "in.jsonl").stat().st_size
    out = sum(path.stat().st_size for path in (tmp_path / "out").glob("part-*"))
    assert costs["write"].bytes == out
    assert len(report.slowest) == 3
    assert report.slowest[0]["seconds"] >= report.slowest[1]["seconds"] > 0.1
    again = run_local(load_pipeline(mapping))
    assert (again.costs, again.slowest) == ((), ())


def _scored_by_split(report: Any) -> list[int]:
    manifest = json.loads(Path(report.output, "_manifest.json").read_text())
    return [
        next(one["passed"] + one["errors"] for one in part["counts"] if one["name"] == "score")
        for part in manifest["parts"]
    ]


def test_a_drawing_has_every_operator_and_stands_alone(tmp_path: Path) -> None:
    lines(tmp_path, 10)
    mapping = branched(tmp_path)
    shown = planned(mapping, "local", {}) | {"pipeline": 'a <b> & "c"'}
    root = ET.fromstring(svg(shown))
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for text in ("Map tidy", "FlatMap words", "BatchMap score", "Sink write", "Combine count", "Sink again"):
        assert text in texts
    boxes = root.findall(".//{http://www.w3.org/2000/svg}rect")
    assert len(boxes) == 1 + len(shown["stages"])
    assert not _overlap(boxes)
    html = page(shown)
    assert "a &lt;b&gt; &amp;" in html
    assert "<b>" not in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", ""), "it loads nothing"


def _overlap(boxes: list[Any]) -> bool:
    places = [[float(box.get(name)) for name in ("x", "y", "width", "height")] for box in boxes]
    return any(
        x < x2 + w2 and x2 < x + w and y < y2 + h2 and y2 < y + h
        for index, (x, y, w, h) in enumerate(places)
        for x2, y2, w2, h2 in places[index + 1 :]
    )

"""What the commit of a large run is told, by a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import load_pipeline
from funcpipe_prefect.ir import Commit, Part
from funcpipe_prefect.orchestration import handing
from funcpipe_prefect.plan import Plan, plan_run
from tests.contract.test_shapes import sink, spec


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    rows = [{"id": n, "user": f"u{n}", "amount": 1, "minute": 0} for n in range(50)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    distinct = {"type": "Distinct", "name": "unique", "key": "user_of", "partitions": 3}
    mapping: dict[str, Any] = spec(tmp_path, [distinct, sink(tmp_path)])
    mapping["source"]["splits"] = 7
    pipeline = load_pipeline(mapping)
    assert pipeline.source is not None
    return plan_run(pipeline, pipeline.source.list_splits())


def test_a_file_tells_what_parameters_tell(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {
        (stage.index, task): (Commit(f"split {task}", f"key {task}", Part(f"{task}.jsonl", 1, 2, "3"), "4"),)
        for stage, tasks in plan.ends()
        for task in tasks
    }
    with handing.handed(plan, entries) as told:
        assert isinstance(told, bytes)
        by_parameters = handing.taken(told)
    monkeypatch.setattr(handing, "_IN_PARAMETERS", 0)
    monkeypatch.setattr(handing, "_AT_ONCE", 2)
    with handing.handed(plan, entries) as told:
        assert isinstance(told, str)
        by_file = handing.taken(told)
        place = Path(told)
        assert place.is_file()
    assert not place.exists(), "it is gone with the task"
    for found, known in (by_parameters, by_file):
        assert (found.lanes, known) == (plan.lanes, entries)
        assert [stage.name for stage in found.stages] == [stage.name for stage in plan.stages]
    feeds = {id(task.feed) for task in by_file[0].lanes[1].tasks}
    assert len(by_file[0].lanes[1].tasks) == 3
    assert len(feeds) == 1, "what tasks share, they share still"

"""Secrets in a pipeline file: known by name, looked up where they are used, left out of every text."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from funcpipe_prefect import load_pipeline, run_local, secrets
from funcpipe_prefect.errors import FuncPipeError, PipelineError, SecretError
from funcpipe_prefect.plan import plan_run

CANARY = "canary-5f1d9c-sesame"


@pytest.fixture(autouse=True)
def _a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_values", {})
    monkeypatch.setenv("FUNCPIPE_SECRET_MY_TOKEN", CANARY)


def spec(folder: Path, fails: str = "", password: Any = None, **sink: Any) -> dict[str, Any]:
    (folder / "in.jsonl").write_text("".join(json.dumps({"id": n, "text": "x"}) + "\n" for n in range(9)))
    token = {"secret": "my-token"}
    return {
        "name": "confidential",
        "imports": ["tests.registries.confidential"],
        "source": {"type": "jsonl", "path": str(folder / "in.jsonl"), "record": "Item", "splits": 2},
        "operators": [
            {"type": "Map", "name": "sign", "func": "signed", "params": {"token": token, "fails": fails}},
            {"type": "Sink", "name": "write", "func": "GuardedSink", "contract": {"idempotent": True},
             "params": {"path": str(folder / "out"), "password": token if password is None else password, **sink}},
        ],
        "materialization_points": ["sign"],
        "cache": {"storage": str(folder / "cache")},
        "errors": {"path": str(folder / "letters")},
        "retries": {"transform": 0, "sink": 0, "delay_seconds": 0},
    }  # fmt: skip


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_functions_and_sinks_get_the_value_and_no_file_has_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        report = run_local(load_pipeline(spec(tmp_path)))
    assert report.records_out == 9
    assert f"x {len(CANARY)} ca".encode() in everything(tmp_path / "out")
    assert "signing with ***" in caplog.text
    assert CANARY not in caplog.text + str(report.to_dict())
    assert CANARY.encode() not in everything(tmp_path)
    assert run_local(load_pipeline(spec(tmp_path))).tasks_run == 0


def test_the_value_is_no_part_of_pipeline_job_or_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> list[Any]:
        pipeline = load_pipeline(spec(tmp_path))
        assert CANARY not in repr(pipeline)
        assert CANARY.encode() not in cloudpickle.dumps(pipeline)
        assert pipeline.source is not None
        return [
            task.keys
            for lane in plan_run(pipeline, pipeline.source.list_splits()).lanes
            for task in lane.tasks
        ]

    before = keys()
    run_local(load_pipeline(spec(tmp_path)))
    monkeypatch.setattr(secrets, "_values", {})
    monkeypatch.setenv("FUNCPIPE_SECRET_MY_TOKEN", "another")
    assert keys() == before


@pytest.mark.parametrize("changes", [{"fails": "record"}, {"fails": "task"}, {"fails": True}], ids=str)
def test_what_fails_does_not_tell_it(changes: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if changes == {"fails": True}:
        mapping = spec(tmp_path)
        mapping["operators"][1]["params"]["fails"] = True
    else:
        mapping = spec(tmp_path, **changes)
    try:
        report = run_local(load_pipeline(mapping))
    except Exception as error:
        import traceback

        told = "".join(traceback.format_exception(error)) + repr(error)
        assert changes != {"fails": "record"}
        assert "***" in told
    else:
        assert report.errors == 1
        told = str(report.to_dict())
        assert b"the service refused ***" in everything(tmp_path / "letters")
    assert CANARY not in told + caplog.text
    assert CANARY.encode() not in everything(tmp_path)


def test_a_pipeline_is_checked_without_the_value_and_its_absence_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = spec(tmp_path, password={"secret": "nowhere"})
    pipeline = load_pipeline(mapping)
    monkeypatch.setattr(secrets, "_BLOCKS", "tests.unit.no_blocks")
    with pytest.raises(FuncPipeError, match=r"the secret 'nowhere' cannot be looked up"):
        run_local(pipeline)
    monkeypatch.setattr(secrets, "_looked_up", _absent)
    with pytest.raises(SecretError, match="FP505 none"):
        run_local(pipeline)


def _absent(name: str) -> str:
    raise SecretError("none")


@pytest.mark.parametrize(
    "wrong", [{"secret": None}, {"secret": 3}, {"secret": "a b"}, {"secret": "x", "more": 1}], ids=str
)
def test_a_wrong_form_is_told_at_its_place(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"FP104 wrong value.*\$\.operators\[1\]\.params\.password"):
        load_pipeline(spec(tmp_path, password=wrong))


def test_a_secret_is_no_number(tmp_path: Path) -> None:
    mapping = spec(tmp_path)
    mapping["source"]["splits"] = {"secret": "my-token"}
    with pytest.raises(PipelineError, match=r"FP118.*\$\.source\.splits"):
        load_pipeline(mapping)


def test_a_database_is_reached_by_a_url_that_nobody_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNCPIPE_SECRET_DATABASE", f"sqlite:///{tmp_path}/sesame-store.db")
    mapping = spec(tmp_path)
    mapping["operators"][1] = {
        "type": "Sink", "name": "write", "func": "sql", "mode": "sync", "key": "id", "contract": {"idempotent": True},
        "params": {"url": {"secret": "database"}, "table": "items"},
    }  # fmt: skip
    pipeline = load_pipeline(mapping)
    report = run_local(pipeline)
    assert report.output == "<secret database>#items"
    assert len(list(pipeline.sinks[0].target.rows())) == 9  # type: ignore[attr-defined]
    assert "sesame-store" not in str(report.to_dict())

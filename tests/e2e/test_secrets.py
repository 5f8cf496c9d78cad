"""A canary in a Prefect Secret block: pipelines use it on each backend, and it turns up nowhere."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_secrets import everything, spec

pytestmark = pytest.mark.prefect


@pytest.fixture
def canary(prefect_api: str) -> str:
    from prefect.blocks.system import Secret

    value = f"canary-{uuid.uuid4().hex}"
    Secret(value=value).save("my-token", overwrite=True, _sync=True)
    return value


def told_by_server(name: str) -> str:
    """All that the API tells of the newest run: parameters, states, logs, artifacts."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        [run, *_] = [
            one
            for one in client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC)
            if one.name.startswith(name)
        ]
        time.sleep(3)  # logs and events come in their own time
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        tasks = client.read_task_runs(flow_run_filter=chosen)
        states = [
            *client.read_flow_run_states(run.id),
            *(state for one in tasks for state in client.read_task_run_states(one.id)),
        ]
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200)
        artifacts = client.request("POST", "/artifacts/filter", json={}).text
    assert len(states) > 2
    assert len(logs) > 2
    return "".join(map(repr, [run, run.parameters, *tasks, *states, *logs])) + artifacts


@pytest.mark.parametrize(
    "fails",
    [
        "",
        "record",
        "missing",
        pytest.param("task", marks=pytest.mark.slow),
        pytest.param("sink", marks=pytest.mark.slow),
    ],
)
def test_a_secret_block_is_used_and_turns_up_nowhere(
    fails: str, canary: str, tmp_path: Path, dask_address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from funcpipe_prefect import run_pipeline

    mapping: dict[str, Any] = spec(tmp_path, fails if fails in ("record", "task") else "")
    mapping["name"] = name = f"secret-{uuid.uuid4().hex[:8]}"
    if fails == "sink":
        mapping["operators"][1]["params"]["fails"] = True
    if fails == "missing":
        mapping["operators"][1]["params"]["password"] = {"secret": "not-there"}
    overrides = {"resources.address": dask_address}
    if fails in ("", "record"):
        report = run_pipeline(mapping, backend="dask", overrides=overrides)
        assert (report.records_out, report.errors) == ((8, 1) if fails == "record" else (9, 0))
        told = str(report.to_dict())
    else:
        with pytest.raises(Exception, match="'not-there'" if fails == "missing" else r"\*\*\*") as caught:
            run_pipeline(mapping, backend="dask", overrides=overrides)
        told = f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"
    printed = capfd.readouterr()
    whole = told + told_by_server(name) + printed.out + printed.err
    assert canary not in whole
    if fails in ("", "record"):
        assert "signing with ***" in whole
    assert canary.encode() not in everything(tmp_path)
    assert canary.encode() not in everything(Path(os.environ["PREFECT_HOME"])), "blocks are kept encrypted"


@pytest.mark.slow
def test_a_secret_block_is_used_on_beam(canary: str, tmp_path: Path) -> None:
    from funcpipe_prefect import run_pipeline

    mapping = spec(tmp_path, "record")
    mapping["name"] = name = f"secret-{uuid.uuid4().hex[:8]}"
    report = run_pipeline(mapping, backend="beam")
    assert (report.records_out, report.errors) == (8, 1)
    assert canary not in told_by_server(name) + str(report.to_dict())
    assert canary.encode() not in everything(tmp_path)

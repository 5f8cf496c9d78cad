"""A failed run, retried by the button that a user of the Prefect UI presses."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.contract.test_backends import content
from tests.faults.test_kills import spec

pytestmark = pytest.mark.prefect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SPLITS = 6


def settled(run_id: uuid.UUID, count: int, timeout_s: float = 120) -> Any:
    """Wait until a flow run has ended for the given time."""
    from prefect.client.orchestration import get_client

    end = time.monotonic() + timeout_s
    with get_client(sync_client=True) as client:
        while True:
            run = client.read_flow_run(run_id)
            if run.run_count == count and run.state.is_final():
                return run
            assert time.monotonic() < end, f"the flow run is {run.state!r} after {timeout_s} s"
            time.sleep(0.2)


def task_runs(run_id: uuid.UUID, flow_run_count: int, awaited: set[str]) -> dict[str, str]:
    """State names of the task runs of one attempt, by name; the server hears of each worker's in its own time."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        end = time.monotonic() + 30
        while True:
            runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
            mine = [run for run in runs if run.state and run.flow_run_run_count == flow_run_count]
            states = {run.name: run.state.name for run in mine}
            is_settled = all(run.state.is_final() or run.state.is_pending() for run in mine)
            if (is_settled and awaited <= states.keys()) or time.monotonic() > end:
                return states
            time.sleep(0.2)


def press_retry(url: str, pictures: Path) -> None:
    """Press Retry on a flow run's page, as a person would, and keep what was seen."""
    from playwright.sync_api import sync_playwright

    pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(url)
        page.get_by_role("button", name="Retry").first.wait_for()
        page.screenshot(path=pictures / "1-failed.png")
        page.get_by_role("button", name="Retry").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Retry").click()
        page.get_by_role("dialog").wait_for(state="hidden")
        page.screenshot(path=pictures / "2-retried.png")
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; .ci/run installs it")
def test_the_retry_button_runs_only_what_is_missing(
    work_pool: str, prefect_api: str, dask_address: str, tmp_path: Path
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.deployments.runner import EntrypointType

    from funcpipe_prefect import load_pipeline, run_local, run_pipeline

    lines = [{"id": index, "text": "needs it" if index == 30 else f"line {index}"} for index in range(60)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    there = tmp_path / "there"
    mapping = spec(
        tmp_path,
        materialization_points=["tidy"],
        resources={"address": dask_address},
        retries={"transform": 0, "sink": 0, "delay_seconds": 0},
    )
    mapping["operators"][0] = {
        "type": "Map", "name": "slow", "func": "needing", "params": {"file": str(there)}
    }  # fmt: skip
    path = tmp_path / "retry.yaml"
    path.write_text(yaml.safe_dump(mapping))

    deployment = run_pipeline.to_deployment(
        name=f"retry-{work_pool}", work_pool_name=work_pool, entrypoint_type=EntrypointType.MODULE_PATH,
        parameters={"pipeline": str(path), "backend": "dask"},
    )  # fmt: skip
    deployment_id = deployment.apply()
    with get_client(sync_client=True) as client:
        run_id = client.create_flow_run_from_deployment(deployment_id).id

    failed = settled(run_id, 1)
    assert failed.name.startswith("retry-"), "the deployed flow is ours, named by its pipeline"
    assert failed.state.type.value == "FAILED"
    assert "needs" in failed.state.message
    stages = {f"{stage}[{split}]" for stage in ("slow+tidy", "words+write") for split in range(SPLITS)}
    first = task_runs(run_id, 1, stages - {"words+write[2]"})
    assert [name for name, state in first.items() if state == "Failed"] == ["slow+tidy[2]"]
    assert not (tmp_path / "out" / "_manifest.json").exists()
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "_staging").iterdir()}
    assert len(parts) == SPLITS - 1

    there.touch()
    url = f"{prefect_api.removesuffix('/api')}/runs/flow-run/{run_id}"
    press_retry(url, ROOT / "tests" / "output" / "retry")

    assert settled(run_id, 2).state.type.value == "COMPLETED"
    second = task_runs(run_id, 2, {*stages, "commit"})
    assert {name for name, state in second.items() if state == "Completed"} == {
        "slow+tidy[2]", "words+write[2]", "commit",
    }  # fmt: skip
    assert {name for name, state in second.items() if state == "Cached"} == {
        f"{stage}[{split}]" for stage in ("slow+tidy", "words+write") for split in range(SPLITS) if split != 2
    }
    published = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    assert {path.name: time_ns for path, time_ns in parts.items()}.items() <= published.items(), (
        "what was written before is not written again"
    )
    run_local(load_pipeline(mapping, overrides={
        "operators.write.params.path": str(tmp_path / "ref"), "cache.storage": str(tmp_path / "other"),
    }))  # fmt: skip
    assert content(tmp_path / "out") == content(tmp_path / "ref")

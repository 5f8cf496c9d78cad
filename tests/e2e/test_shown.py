"""What the Prefect UI and the API tell of a run: progress, graph, summary, causes, tags, assets, events."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.contract.test_backends import LINES, spec

pytestmark = pytest.mark.prefect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PICTURES = Path(os.environ.get("FUNCPIPE_PICTURES", ROOT / "tests" / "output" / "shown"))


@pytest.fixture
def mapping(tmp_path: Path, dask_address: str) -> dict[str, Any]:
    return made(tmp_path, f"shown-{uuid.uuid4().hex[:8]}", dask_address)


def made(folder: Path, name: str, address: str) -> dict[str, Any]:
    rows = [json.dumps({"id": index, "text": text}) for index, text in enumerate(LINES)]
    rows[7] = "{not json"
    (folder / "in.jsonl").write_text("\n".join(rows))
    return spec(folder, name=name, materialization_points=["words"], resources={"address": address})


def run(mapping: dict[str, Any], **more: Any) -> tuple[Any, Any]:
    """Run a pipeline on Dask; give its report, None where it failed, and its flow run."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

    from funcpipe_prefect import run_pipeline

    state = run_pipeline(mapping, backend="dask", return_state=True, **more)
    with get_client(sync_client=True) as client:
        wanted = FlowRunFilter(name=FlowRunFilterName(like_=mapping["name"]))
        found = max(client.read_flow_runs(flow_run_filter=wanted), key=lambda one: one.created)
    return (state.result() if state.is_completed() else None), found


def artifacts(api: str, flow_run: Any) -> dict[str, Any]:
    wanted = {"artifacts": {"flow_run_id": {"any_": [str(flow_run.id)]}}}
    found = httpx.post(f"{api}/artifacts/filter", json=wanted).raise_for_status().json()
    return {one["key"]: one for one in found}


def events(api: str, prefix: str, count: int, resource: str) -> list[Any]:
    """Wait for events whose name begins so, about a resource."""
    wanted = {"filter": {"event": {"prefix": [prefix]}, "resource": {"id": [resource]}}, "limit": 50}
    end = time.monotonic() + 30
    while True:
        found = httpx.post(f"{api}/events/filter", json=wanted).raise_for_status().json()["events"]
        if len(found) >= count or time.monotonic() > end:
            return list(found)
        time.sleep(0.3)


def test_a_run_leaves_what_a_person_wants_to_know(mapping: dict[str, Any], prefect_api: str) -> None:
    report, flow_run = run(mapping)
    name = mapping["name"]
    found = artifacts(prefect_api, flow_run)
    assert {key.removeprefix(f"funcpipe-{name}-") for key in found} == {
        "tidy-words", "score-write", "graph", "summary", "errors", "dashboard",
    }  # fmt: skip
    progress = found[f"funcpipe-{name}-score-write"]
    assert (progress["type"], progress["data"]) == ("progress", 100.0)
    assert progress["description"].startswith(f"score+write: 3 of 3 splits; {len(LINES)} records read")
    summary = found[f"funcpipe-{name}-summary"]["data"]
    assert f"3 splits on dask: {report.tasks_run} tasks run, 0 cached" in summary
    for counts in report.operators:
        assert f"| {counts.name} | {counts.records_in:,} | {counts.records_out:,} |" in summary
    assert str(report.digest) in summary
    assert "## Slowest splits" in summary
    assert found[f"funcpipe-{name}-graph"]["data"].startswith("data:image/svg+xml;base64,")
    assert f"pipeline:{name}" in flow_run.tags
    assert {"stage:tidy+words", "stage:score+write"} <= set(flow_run.tags)
    _, again = run(mapping)
    assert "0 tasks run, 6 cached" in artifacts(prefect_api, again)[f"funcpipe-{name}-summary"]["data"]


def test_outputs_are_assets_and_others_hear_of_them(
    mapping: dict[str, Any], prefect_api: str, tmp_path: Path
) -> None:
    report, flow_run = run(mapping)
    about = f"funcpipe.pipeline.{mapping['name']}"
    told = events(prefect_api, "funcpipe.", 3, about)
    by_name = {(one["event"], one["payload"].get("stage")): one["payload"] for one in told}
    assert by_name["funcpipe.stage.completed", "tidy+words"] == {
        "stage": "tidy+words",
        "splits": 3,
        "cached": 0,
    }
    committed = by_name["funcpipe.sink.committed", None]
    assert (committed["records"], committed["digest"]) == (report.records_out, report.digest)
    assert {one["prefect.resource.id"] for event in told for one in event["related"]} >= {
        f"prefect.flow-run.{flow_run.id}"
    }
    [made] = events(prefect_api, "prefect.asset.materialization", 1, f"file://{tmp_path}/out")
    assert made["event"] == "prefect.asset.materialization.succeeded"
    assert made["payload"]["records"] == report.records_out
    assert made["payload"]["digest"] == report.digest
    assert made["payload"]["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").glob("part-*"))
    upstream = [
        one["prefect.resource.id"] for one in made["related"] if one["prefect.resource.role"] == "asset"
    ]
    assert upstream == [f"file://{tmp_path}/in.jsonl"]
    [stored] = events(
        prefect_api, "prefect.asset.materialization", 1,
        f"file://{tmp_path}/store/{mapping['name']}/tidy+words",
    )  # fmt: skip
    assert stored["payload"]["partitions"] == 3


def test_too_many_failed_records_are_told_to_automations(mapping: dict[str, Any], prefect_api: str) -> None:
    mapping["errors"]["max_error_rate"] = 0.01
    report, flow_run = run(mapping)
    assert report is None
    [told] = events(prefect_api, "funcpipe.errors", 1, f"funcpipe.pipeline.{mapping['name']}")
    assert told["event"] == "funcpipe.errors.threshold"
    assert "above errors.max_error_rate" in told["payload"]["message"]
    assert f"funcpipe-{mapping['name']}-graph" in artifacts(prefect_api, flow_run)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; .ci/run installs it")
def test_a_person_sees_it_in_the_prefect_ui(dask_address: str, prefect_api: str) -> None:
    from playwright.sync_api import sync_playwright

    folder = Path(tempfile.gettempdir(), "words")  # a short name, since the pictures are in the docs
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    mapping = made(folder, "words", dask_address)
    _, flow_run = run(mapping)
    shutil.rmtree(folder)
    found, name = artifacts(prefect_api, flow_run), mapping["name"]
    root = prefect_api.removesuffix("/api")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{root}/runs/flow-run/{flow_run.id}")
        page.get_by_text("tidy+words[0]").first.wait_for()
        page.screenshot(path=PICTURES / "flow-run.png")
        page.goto(f"{root}/artifacts/artifact/{found[f'funcpipe-{name}-summary']['id']}")
        page.get_by_role("heading", name="Slowest splits").wait_for()
        page.screenshot(path=PICTURES / "summary.png", full_page=True)
        page.goto(f"{root}/artifacts/artifact/{found[f'funcpipe-{name}-graph']['id']}")
        image = page.locator('img[src^="data:image/svg+xml"]').first
        image.wait_for()
        assert image.evaluate("image => image.complete && image.naturalWidth") > 400
        page.screenshot(path=PICTURES / "graph.png")
        page.goto(f"{root}/artifacts/artifact/{found[f'funcpipe-{name}-errors']['id']}")
        page.get_by_text("JSONDecodeError").or_(page.get_by_text("DecodeError")).first.wait_for()
        page.screenshot(path=PICTURES / "errors.png")
        browser.close()


@pytest.mark.slow
def test_the_shipped_automation_starts_what_comes_behind(
    mapping: dict[str, Any], prefect_api: str, tmp_path: Path
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
    from prefect.deployments.runner import EntrypointType

    from funcpipe_prefect import run_pipeline

    name = mapping["name"]
    behind = run_pipeline.to_deployment(
        name=f"behind-{name}",
        entrypoint_type=EntrypointType.MODULE_PATH,
        parameters={"pipeline": "behind.yaml"},
    )
    deployment_id: Any = behind.apply()
    text = (ROOT / "deployments" / "downstream.yaml").read_text()
    text = text.replace("00000000-0000-0000-0000-000000000000", str(deployment_id))
    (tmp_path / "downstream.yaml").write_text(text.replace("packages-rag", name))
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "automation", "create", "--from-file", "downstream.yaml"],
        env={**os.environ, "PREFECT_API_URL": prefect_api}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id]))
    with get_client(sync_client=True) as client:
        assert client.read_flow_runs(deployment_filter=wanted) == []
        run(mapping)
        end = time.monotonic() + 60
        while not (started := client.read_flow_runs(deployment_filter=wanted)) and time.monotonic() < end:
            time.sleep(0.5)
        for automation in client.read_automations_by_name("funcpipe-downstream"):
            client.delete_automation(automation.id)
    assert len(started) == 1

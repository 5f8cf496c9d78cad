"""What a user of Prefect sees: task runs, names, states, schedules, the form in the UI."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.test_backends import LINES, spec

pytestmark = pytest.mark.prefect


@pytest.fixture
def mapping(tmp_path: Path, dask_address: str) -> dict[str, Any]:
    rows = (json.dumps({"id": index, "text": text}) for index, text in enumerate(LINES))
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    return spec(
        tmp_path,
        name=f"see-{uuid.uuid4().hex[:8]}",
        materialization_points=["words"],
        resources={"address": dask_address},
    )


def latest(name: str) -> tuple[Any, dict[str, Any]]:
    """The newest flow run of a pipeline, and its task runs by name."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        runs = [
            run
            for run in client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC)
            if run.start_time and run.name.startswith(name)
        ]
        flow_run = max(runs, key=lambda run: run.start_time)
        end = time.monotonic() + 60  # the server takes in the events of task runs in its own time
        known: Any = None
        while True:
            task_runs = client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
            )
            states = {run.id: run.state for run in task_runs}
            settled = all(state and (state.is_final() or state.is_pending()) for state in states.values())
            if (states and settled and states.keys() == known) or time.monotonic() > end:
                return flow_run, {run.name: run for run in task_runs}
            known = states.keys()
            time.sleep(0.5)


def test_each_stage_and_split_is_a_task_run_with_a_name_that_explains_it(
    mapping: dict[str, Any], prefect_api: str
) -> None:
    from funcpipe_prefect import run_pipeline

    run_pipeline(mapping, backend="dask")
    flow_run, task_runs = latest(mapping["name"])
    assert flow_run.state.is_completed()
    stages = [f"{stage}[{split}]" for split in range(3) for stage in ("tidy+words", "score+write")]
    assert sorted(task_runs) == sorted([*stages, "commit"])


def test_a_changed_sink_takes_the_stored_partitions_as_cached(
    mapping: dict[str, Any], prefect_api: str, tmp_path: Path
) -> None:
    from funcpipe_prefect import run_pipeline

    run_pipeline(mapping, backend="dask")
    report = run_pipeline(mapping, backend="dask", output=str(tmp_path / "elsewhere"))
    _, task_runs = latest(mapping["name"])
    assert {name: run.state.name for name, run in task_runs.items() if name.startswith("tidy")} == {
        f"tidy+words[{split}]": "Cached" for split in range(3)
    }
    assert (report.tasks_cached, report.tasks_run) == (3, 3)
    refreshed = run_pipeline(mapping, backend="dask", refresh=True)
    assert (refreshed.tasks_cached, refreshed.tasks_run) == (0, 6)
    assert refreshed.digest == report.digest


def test_beyond_the_task_budget_cached_stage_runs_have_no_task_run(
    mapping: dict[str, Any], prefect_api: str, tmp_path: Path
) -> None:
    from funcpipe_prefect import run_pipeline

    first = run_pipeline(mapping, backend="dask")
    report = run_pipeline(
        mapping, backend="dask", refresh_from="write", overrides={"resources.task_budget": 1}
    )
    _, task_runs = latest(mapping["name"])
    states = {name: run.state.name for name, run in task_runs.items() if name.startswith("tidy")}
    assert states == {"tidy+words[0]": "Cached"}, "one of three, within the budget of one"
    assert (report.tasks_cached, report.tasks_run) == (3, 3)
    assert (report.digest, report.operators) == (first.digest, first.operators)


def test_a_stored_partition_that_vanished_is_computed_again(
    mapping: dict[str, Any], prefect_api: str, tmp_path: Path
) -> None:
    from funcpipe_prefect import run_pipeline

    first = run_pipeline(mapping, backend="dask")
    next((tmp_path / "store").rglob("*.fpp")).unlink()
    again = run_pipeline(mapping, backend="dask", output=str(tmp_path / "elsewhere"))
    assert (again.tasks_cached, again.digest) == (2, first.digest)
    assert len(again.warnings) == 1
    assert ".fpp is missing; tidy+words on " in again.warnings[0]


def test_a_failed_run_is_failed_in_prefect_with_one_line_that_says_why(
    mapping: dict[str, Any], prefect_api: str
) -> None:
    from funcpipe_prefect import run_pipeline
    from funcpipe_prefect.errors import RecordError

    mapping["operators"][0]["error_policy"] = "fail_fast"
    with pytest.raises(RecordError):
        run_pipeline(mapping, backend="dask")
    flow_run, task_runs = latest(mapping["name"])
    assert flow_run.state.type.value == "FAILED"
    assert "FP401 tidy: Err: a bad line" in flow_run.state.message
    assert "\n" not in flow_run.state.message
    assert not [run for run in task_runs.values() if not run.state.is_final() and not run.state.is_pending()]
    assert task_runs["tidy+words[0]"].run_count == 1, "a broken record is not retried"


def test_transient_failures_are_retried_by_prefect(
    mapping: dict[str, Any], prefect_api: str, tmp_path: Path
) -> None:
    from funcpipe_prefect import run_pipeline

    (tmp_path / "marks").mkdir()
    (tmp_path / "in.jsonl").write_text('{"id": 1, "text": "flaky"}\n')
    flaky = {
        "type": "Map",
        "name": "flaky",
        "func": "flaky",
        "params": {"marks": str(tmp_path / "marks"), "times": 2},
    }
    mapping |= {"operators": [flaky, mapping["operators"][-1]], "materialization_points": []}
    report = run_pipeline(mapping, backend="dask", overrides={"retries.sink": 2, "retries.jitter": 0.5})
    assert report.records_out == 1
    _, task_runs = latest(mapping["name"])
    assert task_runs["flaky+write[0]"].run_count == 3
    assert task_runs["flaky+write[0]"].empirical_policy.retry_jitter_factor == 0.5


def test_task_parameters_stay_small_whatever_python_hands_over(
    mapping: dict[str, Any], prefect_api: str
) -> None:
    """20,000 dataclasses as a task parameter would cost a minute; here they ride in files."""
    from funcpipe_prefect import load_pipeline, run_pipeline

    del mapping["source"]
    pipeline = load_pipeline(mapping)
    records = [{"id": index, "text": f"word {index}"} for index in range(20_000)]
    started = time.monotonic()
    report = run_pipeline(pipeline, backend="dask", input=records)
    assert report.records_in == 20_000
    assert time.monotonic() - started < 45
    flow_run, _ = latest(mapping["name"])
    assert flow_run.parameters["input"] == "<20000 records>"


def test_the_ui_draws_a_form_from_typed_parameters() -> None:
    from funcpipe_prefect import run_pipeline

    schema = run_pipeline.parameters.model_dump()
    assert set(schema["properties"]) == {
        "pipeline", "backend", "input", "output", "overrides", "refresh", "refresh_from", "retry_errors",
        "exclusive",
    }  # fmt: skip
    assert schema["required"] == ["pipeline"]
    assert schema["properties"]["refresh"]["type"] == "boolean"
    assert {option.get("type") for option in schema["properties"]["pipeline"]["anyOf"]} == {
        "string",
        "object",
    }


def test_a_user_flow_may_call_the_pipeline_as_a_subflow(mapping: dict[str, Any], prefect_api: str) -> None:
    from prefect import flow

    from funcpipe_prefect import run_pipeline

    @flow
    def nightly() -> int:
        return int(run_pipeline(mapping, backend="dask").records_out)

    assert nightly() > 0
    flow_run, _ = latest(mapping["name"])
    assert flow_run.parent_task_run_id is not None


def test_a_schedule_fires(prefect_api: str) -> None:
    """With SQLAlchemy 2.1 the scheduler fails and nothing is ever scheduled."""
    from datetime import timedelta

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.filters import FlowFilter, FlowFilterId
    from prefect.client.schemas.schedules import IntervalSchedule

    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("scheduled-probe")
        schedule = DeploymentScheduleCreate(
            schedule=IntervalSchedule(interval=timedelta(hours=1)), active=True
        )
        client.create_deployment(flow_id=flow_id, name="probe", schedules=[schedule])
        only = FlowFilter(id=FlowFilterId(any_=[flow_id]))
        end = time.monotonic() + 60
        while time.monotonic() < end:
            runs = client.read_flow_runs(flow_filter=only)
            if runs:
                break
            time.sleep(0.5)
    assert runs, "no flow run was scheduled within a minute"
    assert all(run.state.is_scheduled() for run in runs)


def test_a_run_without_the_dask_extra_says_which_extra_to_install() -> None:
    code = (
        "import importlib.util; real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'prefect_dask' else real(name, *rest)\n"
        "from funcpipe_prefect.orchestration.flow import check_backend\n"
        "try:\n    check_backend('dask')\nexcept Exception as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert 'pip install "funcpipe-prefect[dask]"' in done.stdout


def test_a_lost_task_run_that_prefect_never_heard_of_is_on_record(prefect_api: str) -> None:
    """A killed worker may take the very first event of a task run with it."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    from funcpipe_prefect.orchestration.tasks import record_task_run

    identity = uuid.uuid4()

    @flow
    def losing() -> None:
        record_task_run(identity, "clean+write[7]", Crashed(message="its worker process died"))

    losing()
    with get_client(sync_client=True) as client:
        task_run = client.read_task_run(identity)
    assert (task_run.name, task_run.state.type.value) == ("clean+write[7]", "CRASHED")
    assert task_run.flow_run_id is not None


def test_a_run_leaves_nothing_of_its_settings_in_the_workers(
    mapping: dict[str, Any], prefect_api: str, dask_address: str
) -> None:
    import distributed

    from funcpipe_prefect import run_pipeline

    def left_behind() -> tuple[bool, str | None]:
        from prefect.context import SyncClientContext
        from prefect.settings import PREFECT_API_URL

        return SyncClientContext.get() is None, PREFECT_API_URL.value()

    run_pipeline(mapping, backend="dask")
    with distributed.Client(dask_address, set_as_default=False) as client:
        workers = list(client.scheduler_info()["workers"])
        seen = [client.submit(left_behind, workers=[one], pure=False).result() for one in workers]
    assert seen == [(True, None)] * 2


def test_threads_of_one_worker_run_side_by_side(mapping: dict[str, Any], prefect_api: str) -> None:
    from funcpipe_prefect import run_pipeline

    expected = run_pipeline(mapping, backend="dask").digest
    threads = {"resources": {"workers": 1, "threads_per_worker": 3}, "source.splits": 9}
    report = run_pipeline(mapping, backend="dask", overrides=threads, refresh=True)
    assert (report.digest, report.tasks_run) == (expected, 18)


def test_a_run_from_python_sends_heartbeats_and_does_not_wait_for_their_thread(
    mapping: dict[str, Any], prefect_api: str
) -> None:
    from prefect.client.orchestration import get_client

    from funcpipe_prefect import run_pipeline

    begun = time.perf_counter()
    for _ in range(4):
        run_pipeline(mapping, backend="local")
    assert (time.perf_counter() - begun) / 4 < 0.95  # Prefect's own thread ends with a whole second
    with get_client(sync_client=True) as client:
        (run, *more) = [one for one in client.read_flow_runs() if one.name.startswith(mapping["name"])]
    assert len(more) == 3
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run.id}"]},
    }
    end = time.monotonic() + 30
    beats: list[Any] = []
    while not beats and time.monotonic() < end:
        answer = httpx.post(f"{prefect_api}/events/filter", json={"filter": wanted}).raise_for_status()
        beats = answer.json()["events"]
        time.sleep(0.2)
    (beat,) = beats  # every three minutes by default
    about = {one["prefect.resource.role"]: one["prefect.resource.id"] for one in beat["related"]}
    assert about["flow"] == f"prefect.flow.{run.flow_id}"

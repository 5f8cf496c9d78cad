"""A cancelled flow run: the work ends within seconds, and nothing is left of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import yaml

from tests.conftest import ROOT
from tests.faults.test_kills import spec, started, wait_for, write_input

pytestmark = pytest.mark.prefect


def slow_pipeline(folder: Path, name: str, **changes: Any) -> Path:
    """A pipeline that would take a minute; it materializes, writes, and has dead letters."""
    write_input(folder, 3000)
    mapping = spec(folder, name=name, materialization_points=["tidy"], **changes)
    mapping["operators"][0]["params"] = {"seconds": 0.04}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


def temporary_files(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*.tmp")]


def run_of(name: str) -> Any:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        newest = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC)
        return next(run for run in newest if run.name.startswith(name))


def cancel(run_id: UUID) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Cancelling())


def eventually(holds: Callable[[], bool], timeout_s: float, what: str) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def assert_ended(run_id: UUID) -> Any:
    """Wait for the end of a flow run and of all its task runs; give its state."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        eventually(
            lambda: client.read_flow_run(run_id).state.is_final(), 30, "the flow run does not come to an end"
        )
        only = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))

        def none_is_running() -> bool:
            runs = client.read_task_runs(flow_run_filter=only)
            return not any(run.state and run.state.is_running() for run in runs)

        eventually(none_is_running, 30, "a task run is Running for ever")
        return client.read_flow_run(run_id).state


def assert_it_is_over(run_id: UUID, folder: Path) -> None:
    assert assert_ended(run_id).is_cancelled()
    assert not temporary_files(folder), "temporary files are left"
    assert not (folder / "out" / "_manifest.json").exists()


@pytest.mark.parametrize("backend", ["local", "dask"])
def test_a_run_without_a_worker_ends_itself(tmp_path: Path, prefect_api: str, backend: str) -> None:
    path = slow_pipeline(tmp_path, f"alone-{backend}")
    code = (
        "from funcpipe_prefect import run_pipeline\n"
        f"if __name__ == '__main__': run_pipeline({str(path)!r}, backend={backend!r})"
    )
    script = tmp_path / "alone.py"
    script.write_text(code)
    process = subprocess.Popen(
        [sys.executable, str(script)], cwd=ROOT, env=environment(prefect_api),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: temporary_files(tmp_path), process)
    family = psutil.Process(process.pid).children(recursive=True)
    run = run_of(f"alone-{backend}")
    asked = time.monotonic()
    cancel(run.id)
    process.wait(30)
    assert time.monotonic() - asked < 15, "seconds, not minutes"
    assert process.returncode != 0
    assert not psutil.wait_procs(family, timeout=10)[1], "workers end with the run"
    assert_it_is_over(run.id, tmp_path)


def environment(prefect_api: str) -> dict[str, str]:
    return {**os.environ, "PREFECT_API_URL": prefect_api, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    ("how", "granularity"),
    [
        ("cancelled", "partition"),
        ("killed", "partition"),
        ("cancelled", "stage"),
        pytest.param("killed", "stage", marks=pytest.mark.slow),
    ],
)
def test_tasks_on_a_cluster_of_somebody_else_are_called_back(
    tmp_path: Path, prefect_api: str, dask_address: str, how: str, granularity: str
) -> None:
    import distributed

    name = f"away-{how}-{granularity}"
    path = slow_pipeline(tmp_path, name, resources={"address": dask_address, "granularity": granularity})
    process = started(tmp_path, "dask", path, PREFECT_API_URL=prefect_api)
    wait_for(lambda: temporary_files(tmp_path), process)
    run = run_of(name)
    cancel(run.id) if how == "cancelled" else process.kill()
    process.wait(30)

    def busy(dask_worker: Any) -> int:
        return len(dask_worker.state.executing)

    with distributed.Client(dask_address, set_as_default=False) as client:
        eventually(lambda: not any(client.run(busy).values()), 10, "a worker goes on for nobody")
    if how == "cancelled":
        assert_it_is_over(run.id, tmp_path)
    else:
        eventually(lambda: not temporary_files(tmp_path), 10, "temporary files are left")


@pytest.mark.parametrize("backend", ["dask", pytest.param("beam", marks=pytest.mark.slow)])
def test_a_run_under_a_worker_leaves_nothing(
    tmp_path: Path, prefect_api: str, work_pool: str, backend: str
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.deployments.runner import EntrypointType

    from funcpipe_prefect import run_pipeline

    path = slow_pipeline(tmp_path, "under")
    deployment = run_pipeline.to_deployment(
        name=f"cancel-{work_pool}", work_pool_name=work_pool, entrypoint_type=EntrypointType.MODULE_PATH,
        parameters={"pipeline": str(path), "backend": backend},
    )  # fmt: skip
    with get_client(sync_client=True) as client:
        run_id = client.create_flow_run_from_deployment(deployment.apply()).id
    eventually(lambda: bool(temporary_files(tmp_path)), 120, "the run does not begin to write")
    children = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
    worker = next(one for one in children if "worker" in one.cmdline() and work_pool in one.cmdline())
    family = worker.children(recursive=True)
    assert family
    cancel(run_id)
    assert not psutil.wait_procs(family, timeout=30)[1], "a process is left"
    assert_it_is_over(run_id, tmp_path)

"""Processes killed with SIGKILL, for real: the run, its workers; and what is left afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from funcpipe_prefect import load_pipeline, run_local
from funcpipe_prefect.errors import BackendError
from tests.conftest import ROOT

FUNCPIPE = str(Path(sys.executable).with_name("funcpipe"))


def spec(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "kills",
        "imports": ["tests.registries.words"],
        "source": {"type": "jsonl", "path": str(folder / "in.jsonl"), "splits": 6},
        "operators": [
            {"type": "Map", "name": "slow", "func": "slowly", "params": {"seconds": 0.005}},
            {"type": "Map", "name": "tidy", "func": "tidy"},
            {"type": "FlatMap", "name": "words", "func": "words"},
            {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
             "params": {"path": str(folder / "out")}},
        ],
        "cache": {"storage": str(folder / "store")},
        "errors": {"path": str(folder / "letters")},
        "retries": {"transform": 1, "sink": 1, "delay_seconds": 0},
        **changes,
    }  # fmt: skip


def write_input(folder: Path, count: int = 600) -> None:
    texts = ["one two three", "broken", "four", "a bad one"]
    rows = (json.dumps({"id": index, "text": texts[index % len(texts)]}) for index in range(count))
    (folder / "in.jsonl").write_text("\n".join(rows) + "\n")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def undisturbed(folder: Path, mapping: dict[str, Any]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    overrides = {
        "operators.write.params.path": str(folder / "ref"),
        "errors.path": str(folder / "ref_letters"),
        "cache.storage": str(folder / "ref_store"),
        "operators.slow.params.seconds": 0.005,
    }
    run_local(load_pipeline(mapping, overrides=overrides))
    return content(folder / "ref"), content(folder / "ref_letters")


def started(
    folder: Path, backend: str, path: Path | None = None, **environment: str
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [FUNCPIPE, "run", str(path or folder / "p.yaml"), "--backend", backend],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(happened: Any, process: subprocess.Popen[bytes], timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        assert process.poll() is None, "the run ended before it happened"
        time.sleep(0.01)


@pytest.mark.parametrize("parts", [2, *(pytest.param(parts, marks=pytest.mark.slow) for parts in (0, 5))])
def test_a_local_run_killed_while_writing_leaves_no_trace_after_the_next(tmp_path: Path, parts: int) -> None:
    write_input(tmp_path)
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(spec(tmp_path)))
    staging = tmp_path / "out" / "_staging"
    process = started(tmp_path, "local")
    wait_for(lambda: len(list(staging.glob("part-*"))) >= parts and any(staging.glob("*.tmp")), process)
    process.kill()
    process.wait()
    assert not (tmp_path / "out" / "_manifest.json").exists(), "nothing is visible before the commit"
    run_local(load_pipeline(tmp_path / "p.yaml"))
    assert (content(tmp_path / "out"), content(tmp_path / "letters")) == undisturbed(tmp_path, spec(tmp_path))


@pytest.mark.prefect
def test_a_dask_run_killed_while_writing_leaves_neither_trace_nor_process(tmp_path: Path) -> None:
    write_input(tmp_path)
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(spec(tmp_path)))
    staging = tmp_path / "out" / "_staging"
    process = started(tmp_path, "dask", PREFECT_HOME=str(tmp_path / "home"))
    wait_for(lambda: any(staging.glob("*.tmp")), process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3, "a server and two workers"
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, "server and workers end with the run"
    run_local(load_pipeline(tmp_path / "p.yaml"))
    assert (content(tmp_path / "out"), content(tmp_path / "letters")) == undisturbed(tmp_path, spec(tmp_path))


def deadly(folder: Path, **params: Any) -> dict[str, Any]:
    (folder / "marks").mkdir()
    operators = spec(folder)["operators"]
    operators[0] = {
        "type": "Map",
        "name": "slow",
        "func": "deadly",
        "params": {"marks": str(folder / "marks"), **params},
    }
    rows = [json.dumps({"id": index, "text": "kill" if index == 30 else "fine"}) for index in range(60)]
    (folder / "in.jsonl").write_text("\n".join(rows) + "\n")
    return spec(folder, operators=operators, resources={"workers": 2})


@pytest.mark.prefect
def test_a_worker_that_is_killed_changes_no_byte(tmp_path: Path, prefect_api: str) -> None:
    from funcpipe_prefect import run_pipeline

    mapping = deadly(tmp_path)
    report = run_pipeline(mapping, backend="dask")
    assert (tmp_path / "marks" / "killed-30").exists(), "a worker was killed"
    assert (report.status, report.records_out) == ("completed", 60)
    plain = spec(tmp_path, operators=[*mapping["operators"]])
    plain["operators"][0] = {"type": "Map", "name": "slow", "func": "slowly"}
    assert content(tmp_path / "out").keys() == undisturbed(tmp_path, plain)[0].keys()


@pytest.mark.prefect
def test_a_partition_that_kills_its_worker_every_time_fails_the_run_and_names_it(
    tmp_path: Path, prefect_api: str
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    from funcpipe_prefect import run_pipeline

    mapping = deadly(tmp_path, always=True)
    with pytest.raises(
        BackendError, match=r"slow\+tidy\+words\+write\[2\] on split .* was lost: its worker process died"
    ):
        run_pipeline(mapping, backend="dask")
    assert not (tmp_path / "out" / "_manifest.json").exists()
    with get_client(sync_client=True) as client:
        started_runs = [
            one for one in client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC) if one.start_time
        ]
        flow_run = max(started_runs, key=lambda one: one.start_time)
        assert flow_run.state.type.value == "FAILED"
        only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
        end = time.monotonic() + 90
        while True:  # the server takes in the events of task runs in its own time
            states = {one.name: one.state.type.value for one in client.read_task_runs(flow_run_filter=only)}
            if "RUNNING" not in states.values() or time.monotonic() > end:
                break
            time.sleep(0.2)
    assert states["slow+tidy+words+write[2]"] == "CRASHED"
    assert "RUNNING" not in states.values()


@pytest.mark.prefect
def test_a_partition_that_needs_more_memory_than_a_worker_has_fails_the_run_and_names_it(
    tmp_path: Path, prefect_api: str
) -> None:
    import dask

    from funcpipe_prefect import run_pipeline

    mapping = spec(tmp_path, resources={"workers": 1, "memory_limit": "640MiB"})
    mapping["operators"][0] = {"type": "Map", "name": "slow", "func": "hungry", "params": {"mebibytes": 2000}}
    rows = [json.dumps({"id": index, "text": "hungry" if index == 30 else "fine"}) for index in range(60)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        pytest.raises(
            BackendError, match=r"slow\+tidy\+words\+write\[2\] on split .* was lost: .* \(out of memory,"
        ),
    ):
        run_pipeline(mapping, backend="dask")
    assert not (tmp_path / "out" / "_manifest.json").exists()
    assert not list(tmp_path.rglob("*.tmp")), "the killed worker's temporary files are removed"


def test_ctrl_c_ends_a_local_run_without_output(tmp_path: Path) -> None:
    write_input(tmp_path)
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(spec(tmp_path)))
    process = started(tmp_path, "local")
    wait_for(lambda: any((tmp_path / "out" / "_staging").glob("*.tmp")), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert not (tmp_path / "out" / "_manifest.json").exists()
    assert not list((tmp_path / "out" / "_staging").glob("*.tmp")), "the part in hand is removed"

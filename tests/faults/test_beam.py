"""Beam processes, job services and flows killed for real: nothing is left, and a retry gives the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from funcpipe_prefect.errors import BackendError
from tests.conftest import IN_MEMORY, PROCESSES, ROOT, a_job_service, free_port, listening, portable
from tests.faults.test_cancellation import assert_it_is_over, cancel, eventually, run_of, temporary_files
from tests.faults.test_kills import FUNCPIPE, content, deadly, spec, started, wait_for, write_input
from tests.faults.test_seeded_kills import reference

pytestmark = [pytest.mark.prefect, pytest.mark.runners]

MODULES = {"guard": "beam.guard", "child": "beam.child", "worker": "sdk_worker_main"}


def slow(folder: Path, name: str, given: dict[str, Any], seconds: float = 0.004) -> dict[str, Any]:
    """A pipeline of two stages that takes some seconds, on Beam as given says."""
    write_input(folder, 600)
    mapping = spec(folder, name=name, materialization_points=["tidy"])
    mapping["operators"][0]["params"] = {"seconds": seconds}
    for path, value in given.items():
        section, _, key = path.partition(".")
        mapping.setdefault(section, {})[key] = value
    (folder / "p.yaml").write_text(yaml.safe_dump(mapping))
    return mapping


def family_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def members(process: subprocess.Popen[bytes], role: str) -> list[psutil.Process]:
    """The processes of a role: not the shells that start them, nor the guard whose arguments name the child."""
    found = []
    for one in family_of(process):
        try:
            words = one.cmdline()
        except psutil.Error:
            continue
        is_it = len(words) > 2 and words[1] == "-m" and words[2].endswith(MODULES[role])
        found += [one] if is_it else []
    return found


def assert_all_gone(family: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(family, timeout=20)
    left = [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not left, f"processes are left: {[one.cmdline() for one in left]}"


def assert_same_bytes(folder: Path, mapping: dict[str, Any]) -> None:
    assert (content(folder / "out"), content(folder / "letters")) == reference(folder, mapping)
    assert not temporary_files(folder)
    assert not list((folder / "store").glob("launches/*")), "what was handed over is tidied up"


def writes(folder: Path) -> bool:
    return bool(temporary_files(folder))


@pytest.mark.parametrize("role", ["worker", "child", "guard"])
def test_a_killed_beam_process_leaves_no_other_and_the_retried_task_gives_the_same_bytes(
    tmp_path: Path, prefect_api: str, role: str
) -> None:
    mapping = slow(tmp_path, f"killed-{role}", PROCESSES)
    process = started(tmp_path, "beam", PREFECT_API_URL=prefect_api)
    wait_for(lambda: writes(tmp_path) and members(process, role), process)
    family = family_of(process)
    members(process, role)[0].kill()
    assert process.wait(120) == 0, "the task is retried"
    assert_all_gone(family)
    assert_same_bytes(tmp_path, mapping)


def test_a_killed_flow_takes_all_processes_with_it_and_the_next_run_gives_the_same_bytes(
    tmp_path: Path, prefect_api: str
) -> None:
    mapping = slow(tmp_path, "killed-flow", PROCESSES)
    process = started(tmp_path, "beam", PREFECT_API_URL=prefect_api)
    wait_for(lambda: writes(tmp_path) and len(members(process, "worker")) == 2, process)
    family = family_of(process)
    assert len(family) >= 4, "guard, child and two SDK workers"
    process.kill()
    process.wait()
    assert_all_gone(family)
    assert not (tmp_path / "out" / "_manifest.json").exists()
    again = started(tmp_path, "beam", PREFECT_API_URL=prefect_api)
    assert again.wait(120) == 0
    for path in temporary_files(tmp_path):
        Path(path).unlink()  # those of the killed run; `cache prune` removes them after a day
    assert_same_bytes(tmp_path, mapping)


@pytest.fixture(params=["processes", "loopback", "external"])
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Where the SDK workers live: below the Beam process, inside it, or somewhere else."""
    if request.param == "processes":
        yield PROCESSES
        return
    with a_job_service(tmp_path) as (endpoint, _):
        if request.param == "loopback":
            yield portable(endpoint)
        else:
            with a_worker_pool(tmp_path) as pool:
                yield portable(endpoint, environment_type="EXTERNAL", environment_config=pool)


@contextmanager
def a_worker_pool(folder: Path) -> Iterator[str]:
    """SDK workers in a process of their own, as on another machine."""
    port = free_port()
    command = [sys.executable, "-m", "tests.faults.worker_pool", str(port)]
    with listening(command, port, folder / "pool.log"):
        yield f"localhost:{port}"


def test_a_cancelled_run_ends_job_and_processes_within_seconds(
    tmp_path: Path, prefect_api: str, runner: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    name = f"beam-{request.node.callspec.params['runner']}"
    slow(tmp_path, name, runner, seconds=0.1)
    script = tmp_path / "alone.py"
    script.write_text(
        "from funcpipe_prefect import run_pipeline\n"
        f"if __name__ == '__main__': run_pipeline({str(tmp_path / 'p.yaml')!r}, backend='beam')"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)], cwd=ROOT,
        env={**os.environ, "PREFECT_API_URL": prefect_api, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: writes(tmp_path), process)
    family = family_of(process)
    run = run_of("p-")
    cancel(run.id)
    process.wait(30)
    assert process.returncode != 0
    assert_all_gone(family)
    eventually(lambda: not temporary_files(tmp_path), 20, "a worker goes on for nobody")
    assert_it_is_over(run.id, tmp_path)
    if "beam.options" in runner:
        states = [state for _, state in jobs_at(runner["beam.options"]["job_endpoint"])]
        # Beam's own job service forgets the cancellation when workers elsewhere stop after it.
        assert states in (["CANCELLED"], ["FAILED"])


def jobs_at(endpoint: str) -> list[tuple[str, str]]:
    """Ask a job service in a process of its own: gRPC stays out of the tests' process."""
    code = (
        "import sys, grpc; from apache_beam.portability.api import beam_job_api_pb2 as pb, beam_job_api_pb2_grpc as g\n"
        f"service = g.JobServiceStub(grpc.insecure_channel({endpoint!r}))\n"
        "for job in service.GetJobs(pb.GetJobsRequest(), timeout=30).job_info:\n"
        "    print(job.job_id, pb.JobState.Enum.Name(job.state))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [(line.split()[0], line.split()[1]) for line in run.stdout.splitlines()]


@pytest.mark.parametrize("victim", ["child", "flow"])
def test_a_job_that_still_runs_is_found_again_and_not_launched_twice(
    tmp_path: Path, prefect_api: str, victim: str
) -> None:
    with a_job_service(tmp_path) as (endpoint, _), a_worker_pool(tmp_path) as pool:
        given = portable(endpoint, environment_type="EXTERNAL", environment_config=pool)
        mapping = slow(tmp_path, f"attach-{victim}", given, seconds=0.03)  # longer than a run takes to begin
        process = started(tmp_path, "beam", PREFECT_API_URL=prefect_api)
        wait_for(lambda: writes(tmp_path), process)
        before = jobs_at(endpoint)
        assert [state for _, state in before] == ["RUNNING"]
        family = family_of(process)
        if victim == "child":
            members(process, "child")[0].kill()
        else:
            process.kill()
            process.wait()
            assert_all_gone(family)
            process = started(tmp_path, "beam", PREFECT_API_URL=prefect_api)
        assert process.wait(120) == 0
        after = jobs_at(endpoint)
        assert [state for _, state in after] == ["DONE", "DONE"], "one job for each of two stages"
        assert before[0][0] in dict(after), "the first one is the one that was there"
        assert_all_gone(family)
        assert_same_bytes(tmp_path, mapping)


def test_a_job_service_that_dies_fails_the_run_and_a_new_one_finishes_it(
    tmp_path: Path, prefect_api: str
) -> None:
    with a_job_service(tmp_path) as (endpoint, service):
        mapping = slow(tmp_path, "service", portable(endpoint, job_server_timeout=5))
        mapping["retries"]["transform"] = 0
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(mapping))
        with (tmp_path / "said").open("wb") as said:
            process = subprocess.Popen(
                [FUNCPIPE, "run", str(tmp_path / "p.yaml"), "--backend", "beam"], cwd=ROOT, stdout=said, stderr=said,
                env={**os.environ, "PREFECT_API_URL": prefect_api, "COLUMNS": "1000"},
            )  # fmt: skip
        wait_for(lambda: writes(tmp_path), process)
        family = family_of(process)
        service.send_signal(signal.SIGKILL)
        assert process.wait(60) == 1
    words = (tmp_path / "said").read_text()
    assert "slow+tidy on PortableRunner" in words
    assert "Traceback" not in words
    assert_all_gone(family)
    assert not (tmp_path / "out" / "_manifest.json").exists()
    assert run_of("p-").state.type.value == "FAILED"
    with a_job_service(tmp_path) as (endpoint, _):
        mapping["beam"]["options"]["job_endpoint"] = endpoint
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(mapping))
        assert started(tmp_path, "beam", PREFECT_API_URL=prefect_api).wait(120) == 0
    assert_same_bytes(tmp_path, mapping)


@pytest.mark.parametrize("given", [IN_MEMORY, PROCESSES], ids=["in_memory", "processes"])
def test_a_record_that_kills_its_process_every_time_fails_the_run_and_says_where(
    tmp_path: Path, prefect_api: str, given: dict[str, Any]
) -> None:
    from funcpipe_prefect import run_pipeline

    mapping = deadly(tmp_path, always=True)
    mapping["resources"] = {}
    with pytest.raises(
        BackendError, match=r"slow\+tidy\+words\+write on DirectRunner: .*not done: in\.jsonl-"
    ):
        run_pipeline(mapping, backend="beam", overrides=given)
    assert not (tmp_path / "out" / "_manifest.json").exists()
    assert not temporary_files(tmp_path)
    assert not [
        one for one in psutil.Process().children(recursive=True) if "beam" in " ".join(one.cmdline()[1:3])
    ]

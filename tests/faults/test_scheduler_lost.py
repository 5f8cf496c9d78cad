"""The Dask scheduler of somebody else dies in the middle of a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, free_port
from tests.faults.test_cancellation import assert_ended, environment, run_of
from tests.faults.test_kills import spec, started, wait_for, write_input

pytestmark = pytest.mark.prefect


@pytest.fixture
def scheduler(tmp_path: Path, prefect_api: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and a worker, each a process of its own."""
    address = f"tcp://127.0.0.1:{free_port()}"
    commands = (
        ["scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard"],
        ["worker", address, "--no-dashboard", "--nworkers", "1", "--nthreads", "1", "--death-timeout", "20"],
    )
    with (tmp_path / "dask.log").open("wb") as output:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "dask", *command], cwd=ROOT, env=environment(prefect_api),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )
            for command in commands
        ]  # fmt: skip
        yield address, processes[0]
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def test_a_run_whose_scheduler_is_gone_fails_and_says_so(
    tmp_path: Path, prefect_api: str, scheduler: tuple[str, subprocess.Popen[bytes]]
) -> None:
    address, process = scheduler
    write_input(tmp_path, 3000)
    mapping = spec(tmp_path, name="orphaned", resources={"address": address})
    mapping["operators"][0]["params"] = {"seconds": 0.02}
    path = tmp_path / "orphaned.yaml"
    path.write_text(yaml.safe_dump(mapping))
    run = started(tmp_path, "dask", path, PREFECT_API_URL=prefect_api)
    wait_for(lambda: any((tmp_path / "out").rglob("*.tmp")), run)
    process.kill()
    assert run.wait(90) == 1
    state = assert_ended(run_of("orphaned").id)
    assert state.is_failed()
    assert "was lost" in state.message
    assert not (tmp_path / "out" / "_manifest.json").exists()

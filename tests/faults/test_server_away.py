"""The Prefect server goes away in the middle of a run and comes back."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import yaml

from tests.conftest import ROOT, free_port
from tests.faults.test_cancellation import environment
from tests.faults.test_kills import content, spec, undisturbed, wait_for, write_input
from tests.faults.test_seeded_kills import KILLS

pytestmark = pytest.mark.prefect

SEEDS = range(max(1, KILLS // 60))


class Server:
    """A Prefect server over a database of its own, that can be killed and started again."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.home / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)],
                env={**environment(self.url), "PREFECT_HOME": str(self.home)},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        wait_for(self._answers, self._process, 180)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def server(tmp_path: Path, server_url: str) -> Iterator[Server]:
    home = tmp_path / "home"
    home.mkdir()
    for file in Path(os.environ["PREFECT_HOME"]).glob("prefect.db*"):
        shutil.copy(file, home)  # an up-to-date schema, so that no migration runs
    server = Server(home)
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_survives_a_server_that_is_away(
    tmp_path: Path, server: Server, dask_address: str, seed: int
) -> None:
    """Its work even ends while the server is away."""
    when = random.Random(seed)
    away_s = 30 if seed == 0 else when.uniform(1, 30)
    write_input(tmp_path)
    mapping = spec(tmp_path, name="offline", resources={"address": dask_address})
    mapping["operators"][0]["params"] = {"seconds": 0.02}
    path = tmp_path / "offline.yaml"
    path.write_text(yaml.safe_dump(mapping))
    code = (
        "from funcpipe_prefect import run_pipeline\n"
        f"if __name__ == '__main__': run_pipeline({str(path)!r}, backend='dask')"
    )
    (tmp_path / "away.py").write_text(code)
    log = tmp_path / "run.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "away.py")], cwd=ROOT, env=environment(server.url),
            stdout=output, stderr=output,
        )  # fmt: skip
    staging = tmp_path / "out" / "_staging"
    wait_for(lambda: any(staging.glob("part-*")), process)
    time.sleep(when.uniform(0, 1))
    server.kill()
    gone = time.monotonic()
    wait_for(lambda: time.monotonic() > gone + away_s, process)
    server.start()
    assert process.wait(90) == 0, log.read_text()[-3000:]
    run_id, states = seen_by(server)
    assert set(states.values()) == {"COMPLETED"}, "each task run is seen to end"
    assert sorted(states) == sorted([*(f"slow+tidy+words+write[{split}]" for split in range(6)), "commit"])
    assert flow_state(server, run_id) == "COMPLETED"
    expected, _ = undisturbed(tmp_path, spec(tmp_path))
    assert content(tmp_path / "out").keys() == expected.keys()


def posted(server: Server, path: str, **body: Any) -> Any:
    return httpx.post(f"{server.url}/{path}", json=body, timeout=30).raise_for_status().json()


def seen_by(server: Server) -> tuple[UUID, dict[str, str]]:
    runs = posted(server, "flow_runs/filter")
    run = next(one for one in runs if one["name"].startswith("offline"))
    end = time.monotonic() + 30
    while True:
        tasks = posted(server, "task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}})
        states = {one["name"]: one["state_type"] for one in tasks}
        if set(states.values()) == {"COMPLETED"} and len(states) == 7 or time.monotonic() > end:
            return run["id"], states
        time.sleep(0.5)


def flow_state(server: Server, run_id: UUID) -> str:
    return str(httpx.get(f"{server.url}/flow_runs/{run_id}", timeout=30).json()["state_type"])

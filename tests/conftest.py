"""What all tests share: a Prefect server and a Dask cluster, each started once a session."""

from __future__ import annotations

import ast
import functools
import gc
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"

os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "error")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.pop("PREFECT_API_URL", None)


def _parse_without_collection(parse: Any) -> Any:
    """`ast.parse`, which these Pythons cannot enter twice (gh-106905): a `__del__` called while it works may.

    A finalizer that warns is reported with a traceback, and writing a traceback parses the source line.
    """

    @functools.wraps(parse)
    def parsed(*args: Any, **kwargs: Any) -> Any:
        collects = gc.isenabled()
        gc.disable()
        try:
            return parse(*args, **kwargs)
        finally:
            if collects:
                gc.enable()

    return parsed


if sys.version_info < (3, 12, 2):
    ast.parse = _parse_without_collection(ast.parse)


@pytest.fixture(scope="session", autouse=True)
def _own_homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep Prefect's database and the default cache of the tests out of the user's home."""
    folder = tmp_path_factory.mktemp("homes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(folder / "prefect"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield


@pytest.fixture
def shared_data() -> Path:
    """Real documents beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real documents is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def arxiv() -> Path:
    path = SHARED / "arxiv_sample.jsonl"
    if not path.is_file():
        pytest.skip("the sample of real abstracts is not beside this checkout")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ending(process: subprocess.Popen[Any]) -> Iterator[None]:
    """End a process with the block, by force if it does not end by itself."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def server_url(_own_homes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real `prefect server start` in a new PREFECT_HOME, its scheduler looking every second."""
    port = free_port()
    log = tmp_path_factory.mktemp("server") / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env={
                **os.environ,
                "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
                "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
                "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        with ending(server):
            url = f"http://127.0.0.1:{port}/api"
            end = time.monotonic() + 180
            while True:
                assert server.poll() is None, f"the Prefect server ended: {log.read_text()[-2000:]}"
                assert time.monotonic() < end, f"the Prefect server did not start: {log.read_text()[-2000:]}"
                try:
                    if httpx.get(f"{url}/health", timeout=5).is_success:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield url
            if "prefect" in sys.modules:
                from funcpipe_prefect.orchestration.server import flush_logs

                flush_logs()


@pytest.fixture
def prefect_api(server_url: str) -> Iterator[str]:
    """Run flows of this process against the session's server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server_url}):
        yield server_url


@pytest.fixture(scope="session")
def dask_address(server_url: str) -> Iterator[str]:
    """The scheduler of a local cluster of two worker processes."""
    import distributed

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


@contextmanager
def listening(command: list[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a service for the block, from when it listens at its port."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    with ending(process):
        end = time.monotonic() + 60
        while True:
            assert process.poll() is None, f"{command[0]} ended: {log.read_text()[-2000:]}"
            assert time.monotonic() < end, f"{command[0]} did not start: {log.read_text()[-2000:]}"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield process


@contextmanager
def a_job_service(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Beam's own portable job service in a process: its endpoint, and the process."""
    port = free_port()
    module = "apache_beam.runners.portability.local_job_service_main"
    command = [sys.executable, "-m", module, "--port", str(port)]
    with listening(command, port, folder / "job_service.log") as process:
        yield f"localhost:{port}", process


@pytest.fixture(scope="session")
def job_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a portable job service that serves the whole session."""
    with a_job_service(tmp_path_factory.mktemp("job_service")) as (endpoint, _):
        yield endpoint


IN_MEMORY = {"beam.options": {"direct_running_mode": "in_memory"}}
PROCESSES = {"resources.workers": 2}


def portable(endpoint: str, **options: Any) -> dict[str, Any]:
    """Run on a portable job service; the workers are in the Beam process unless options say otherwise."""
    given = {"job_endpoint": endpoint, "environment_type": "LOOPBACK", **options}
    return {"beam.runner": "PortableRunner", "beam.options": given}


BEAM_MODES = [
    pytest.param("beam", marks=pytest.mark.prefect),
    *(
        pytest.param(name, marks=[pytest.mark.prefect, pytest.mark.runners])
        for name in ("beam-processes", "beam-portable")
    ),
]
"""The Beam backend on Direct runners, in memory and by processes, and on a portable job service."""


def beam_overrides(mode: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a mode of the Beam backend overrides in a pipeline file."""
    if mode == "beam-portable":
        return portable(request.getfixturevalue("job_service"))
    return IN_MEMORY if mode == "beam" else PROCESSES


@pytest.fixture
def work_pool(prefect_api: str, tmp_path: Path) -> Iterator[str]:
    """A process work pool with a worker of its own."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    name = f"pool-{uuid.uuid4().hex[:8]}"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", name, "--type", "process"],
            cwd=ROOT,
            env={
                **os.environ,
                "PREFECT_API_URL": prefect_api,
                "PREFECT_WORKER_QUERY_SECONDS": "1",
                "PYTHONPATH": str(ROOT),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        with ending(worker):
            yield name


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server that runs for the session."""
    from tests.servers import postgres

    with postgres() as url:
        yield url

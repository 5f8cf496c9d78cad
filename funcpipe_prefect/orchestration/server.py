"""One Prefect server for a run that has none: the flow and all its workers share it."""

from __future__ import annotations

import functools
import inspect
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.utilities.asyncutils import run_coro_as_sync

from funcpipe_prefect.errors import BackendError
from funcpipe_prefect.running import die_with_parent

__all__ = ["flush_logs", "one_server"]

_START_TIMEOUT_S = 180
_STOP_TIMEOUT_S = 10


@contextmanager
def one_server(settings: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Use the configured server, or run one until the block ends.

    Args:
        settings: Further settings of Prefect for the block, by dotted name.

    Yields:
        The API's URL.

    Raises:
        BackendError: FP601, the server did not start.
    """
    configured = PREFECT_API_URL.value() or _of_parent_flow()
    if configured:
        with temporary_settings({PREFECT_API_URL: configured, **(settings or {})}):
            yield configured
        return
    with tempfile.TemporaryFile() as output:
        port = _free_port()
        server = _started(port, output.fileno())
        try:
            url = f"http://127.0.0.1:{port}/api"
            if not _is_healthy(server, url):
                output.seek(0)
                tail = output.read().decode(errors="replace").strip().splitlines()[-5:]
                raise BackendError("the Prefect server did not start: " + (" / ".join(tail) or "no output"))
            with temporary_settings({PREFECT_API_URL: url, **(settings or {})}):
                try:
                    yield url
                finally:
                    flush_logs()
        finally:
            _stop(server)


def _of_parent_flow() -> str | None:
    """Find the server of the flow that calls us, if there is one."""
    if FlowRunContext.get() is None:
        return None
    with get_client(sync_client=True) as client:
        return str(client.api_url)


def flush_logs() -> None:
    """Send what is still queued; otherwise it is tried again for a minute after the server is gone."""

    async def drain() -> None:
        for result in (APILogWorker.drain_all(), EventsWorker.drain_all()):
            if inspect.isawaitable(result):
                await result

    run_coro_as_sync(drain())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _started(port: int, output: int) -> subprocess.Popen[bytes]:
    factory = "prefect.server.api.server:create_app"
    return subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--factory", factory, "--host", "127.0.0.1",
         "--port", str(port), "--log-level", "error", "--lifespan", "on"],
        env={
            **os.environ,
            **get_current_settings().to_environment_variables(exclude_unset=True),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
            "DO_NOT_TRACK": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        preexec_fn=functools.partial(die_with_parent, signal.SIGTERM),  # no server is left by a killed run
    )  # fmt: skip


def _is_healthy(server: subprocess.Popen[bytes], url: str) -> bool:
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end and server.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5).is_success:
                return True
        except httpx.TransportError:
            time.sleep(0.1)
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()

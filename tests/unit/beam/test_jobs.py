"""Jobs found again at runners: over Flink's REST interface, by Dataflow's job names."""

from __future__ import annotations

import json
import sys
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from funcpipe_prefect.backends.beam.jobs import find_job, is_worker_elsewhere


class Flink(BaseHTTPRequestHandler):
    """A cluster with three jobs; each asked-for state is the next of `states`."""

    states: list[str] = []
    cancelled: list[str] = []

    def do_GET(self) -> None:  # noqa: N802
        if self.path == "/jobs/overview":
            rows = [("a", "mine", "FINISHED"), ("b", "other", "RUNNING"), ("c", "mine", "RUNNING")]
            answer: Any = {"jobs": [{"jid": jid, "name": name, "state": state} for jid, name, state in rows]}
        elif self.path == "/jobs/c":
            answer = {"state": self.states.pop(0)}
        else:
            answer = {"root-exception": "java.io.IOException: no more slots"}
        self._answer(answer)

    def do_PATCH(self) -> None:  # noqa: N802
        self.cancelled.append(self.path)
        self._answer({})

    def _answer(self, value: Any) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def flink() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Flink) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_job_on_a_flink_cluster_is_found_by_its_name_watched_and_cancelled(flink: str) -> None:
    options = PipelineOptions([f"--flink_master={flink}", "--environment_type=EXTERNAL"])
    assert is_worker_elsewhere("FlinkRunner", options)
    assert find_job("FlinkRunner", options, "unknown") is None
    job = find_job("FlinkRunner", options, "mine")
    assert job is not None
    assert job.job_id == "c", "the one that has not ended"
    Flink.states = ["RUNNING", "FINISHED"]
    assert job.wait() == "DONE"
    Flink.states = ["FAILED"]
    with pytest.raises(RuntimeError, match="no more slots"):
        job.wait()
    job.cancel()
    assert Flink.cancelled == ["/jobs/c?mode=cancel"]


@pytest.mark.parametrize(
    ("runner", "flags", "elsewhere"),
    [
        ("DirectRunner", [], False),
        ("PortableRunner", ["--job_endpoint=h:1", "--environment_type=LOOPBACK"], False),
        ("PortableRunner", ["--job_endpoint=h:1", "--environment_type=EXTERNAL"], True),
        ("PortableRunner", ["--job_endpoint=h:1"], True),
        ("PortableRunner", ["--job_endpoint=embed"], False),
        ("FlinkRunner", ["--flink_master=[local]"], False),
        ("FlinkRunner", ["--flink_master=h:8081", "--environment_type=loopback"], False),
        ("FlinkRunner", ["--flink_master=h:8081"], True),
        ("PrismRunner", [], False),
        ("DataflowRunner", [], True),
    ],
)
def test_only_a_job_whose_workers_live_elsewhere_is_taken_up(
    runner: str, flags: list[str], elsewhere: bool
) -> None:
    assert is_worker_elsewhere(runner, PipelineOptions(flags)) is elsewhere


def test_a_dataflow_job_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a client in place of Google's: a real service was not at hand."""
    import apache_beam.runners.dataflow.internal as internal

    class Client:
        def __init__(self, options: Any) -> None:
            self.project = options.project

        def job_id_for_name(self, name: str) -> str | None:
            return "2026-1" if (name, self.project) == ("mine", "p") else None

        def get_job(self, job_id: str) -> Any:
            return type("Job", (), {"id": job_id})()

    fake: Any = types.ModuleType(f"{internal.__name__}.apiclient")
    fake.DataflowApplicationClient = Client
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr(internal, "apiclient", fake, raising=False)
    options = PipelineOptions(["--project=p", "--region=r"])
    assert find_job("DataflowRunner", options, "unknown") is None
    job = find_job("DataflowRunner", options, "mine")
    assert job is not None
    assert job.job_id == "2026-1"

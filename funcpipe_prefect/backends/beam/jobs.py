"""Jobs at a runner: launched, found again by name, watched, cancelled."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

import apache_beam as beam
import grpc
import httpx
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
)
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc
from apache_beam.runners.portability import portable_runner
from apache_beam.runners.runner import PipelineResult, PipelineState

from funcpipe_prefect.backends.beam.counters import COUNTERS
from funcpipe_prefect.backends.beam.options import is_named

__all__ = ["Counters", "RunningJob", "find_job", "is_worker_elsewhere", "launched"]

Counters = Mapping[str, Mapping[str, int]]
"""By operator: in, out, dropped, errors."""

_JOB_NAME = "beam:option:job_name:v1"
_POLL_S = 1.0


class RunningJob(Protocol):
    """A job at a runner."""

    job_id: str

    def wait(self) -> str:
        """Wait for the job's end; give its state.

        Raises:
            Exception: The job failed, or the runner went away.
        """

    def cancel(self) -> None:
        """Have the runner cancel it."""

    def counters(self) -> Counters:
        """The counters that the runner committed."""


class _ResultJob:
    """A job behind Beam's own `PipelineResult`."""

    def __init__(self, result: PipelineResult, job_id: str) -> None:
        self._result, self.job_id = result, job_id

    def wait(self) -> str:
        self._result.wait_until_finish()
        return str(self._result.state)

    def cancel(self) -> None:
        if not PipelineState.is_terminal(self._result.state):
            self._result.cancel()

    def counters(self) -> Counters:
        found: dict[str, dict[str, int]] = {}
        metrics = self._result.metrics()
        for one in metrics.query()["counters"] if metrics is not None else ():
            name, value = one.key.metric.name, one.committed if one.committed is not None else one.attempted
            if name in COUNTERS:
                operator = found.setdefault(one.key.metric.namespace, {})
                operator[name] = operator.get(name, 0) + int(value or 0)
        return found


class _FlinkJob:
    """A job on a Flink cluster whose job server has gone, by Flink's REST interface.

    Source: Flink's REST API, `/jobs/overview`, `/jobs/:jobid`, `PATCH /jobs/:jobid?mode=cancel`.
    """

    def __init__(self, url: str, job_id: str) -> None:
        self._url, self.job_id = f"{url}/jobs/{job_id}", job_id

    def wait(self) -> str:
        while True:
            state = httpx.get(self._url, timeout=30).raise_for_status().json()["state"]
            if state == "FINISHED":
                return str(PipelineState.DONE)
            if state in ("FAILED", "CANCELED", "SUSPENDED"):
                raise RuntimeError(f"Flink reports job {self.job_id} as {state}: {self._cause()}")
            time.sleep(_POLL_S)

    def _cause(self) -> str:
        answer = httpx.get(f"{self._url}/exceptions", timeout=30)
        found = answer.json() if answer.is_success else {}
        return str(found.get("root-exception") or "no cause given")[-2000:]

    def cancel(self) -> None:
        httpx.patch(self._url, params={"mode": "cancel"}, timeout=10).raise_for_status()

    def counters(self) -> Counters:
        return {}  # Flink keeps them as opaque accumulators; the receipts have the numbers


def launched(pipeline: beam.Pipeline) -> RunningJob:
    """Run a pipeline; returns at once where the runner does."""
    result = pipeline.run()
    own: Any = getattr(result, "job_id", None)
    identity = own() if callable(own) else own or getattr(result, "_job_id", "")
    return _ResultJob(result, str(identity or ""))


def is_worker_elsewhere(runner: str, options: PipelineOptions) -> bool:
    """Tell whether a job's workers outlive the process that launched it, so that it can be found again."""
    if is_named(runner, "DataflowRunner"):
        return True
    portable = options.view_as(PortableOptions)
    kind = (portable.environment_type or "").upper()
    if is_named(runner, "FlinkRunner"):
        master = options.view_as(FlinkRunnerOptions).flink_master
        is_embedded = master in ("[local]", "[auto]") and not portable.job_endpoint
        return not is_embedded and kind != "LOOPBACK"
    if is_named(runner, "PortableRunner"):
        return kind != "LOOPBACK" and portable.job_endpoint != "embed"
    return bool(portable.job_endpoint) and kind not in ("LOOPBACK", "")


def find_job(runner: str, options: PipelineOptions, name: str, job_id: str = "") -> RunningJob | None:
    """Find a job that has not ended, wherever the runner can list its jobs.

    Args:
        runner: As written.
        options: The runner's.
        name: Of the job.
        job_id: What an attempt before this one has kept; serves where a job service tells no names.
    """
    endpoint = options.view_as(PortableOptions).job_endpoint
    if endpoint and endpoint != "embed":
        return _on_job_service(endpoint, name, job_id)
    if is_named(runner, "FlinkRunner"):
        master = options.view_as(FlinkRunnerOptions).flink_master
        return None if master in ("[local]", "[auto]") else _on_flink(master, name)
    if is_named(runner, "DataflowRunner"):
        return _on_dataflow(options, name)
    return None


def _on_job_service(endpoint: str, name: str, job_id: str) -> RunningJob | None:
    service = beam_job_api_pb2_grpc.JobServiceStub(grpc.insecure_channel(endpoint))
    for job in service.GetJobs(beam_job_api_pb2.GetJobsRequest(), timeout=60, wait_for_ready=True).job_info:
        given = dict(job.pipeline_options.items()).get(_JOB_NAME)
        is_it = given == name or (given is None and job.job_id == job_id)
        if is_it and job.state not in portable_runner.TERMINAL_STATES:
            states = service.GetStateStream(beam_job_api_pb2.GetJobStateRequest(job_id=job.job_id))
            messages = service.GetMessageStream(beam_job_api_pb2.JobMessagesRequest(job_id=job.job_id))
            result = portable_runner.PipelineResult(service, job.job_id, messages, states)
            return _ResultJob(result, job.job_id)
    return None


def _on_flink(master: str, name: str) -> RunningJob | None:
    url = (master if "://" in master else f"http://{master}").rstrip("/")
    for job in httpx.get(f"{url}/jobs/overview", timeout=30).raise_for_status().json()["jobs"]:
        if job["name"] == name and job["state"] not in ("FINISHED", "FAILED", "CANCELED"):
            return _FlinkJob(url, job["jid"])
    return None


def _on_dataflow(options: PipelineOptions, name: str) -> RunningJob | None:
    from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult, DataflowRunner
    from apache_beam.runners.dataflow.internal import apiclient

    client = apiclient.DataflowApplicationClient(options.view_as(GoogleCloudOptions))
    job_id = client.job_id_for_name(name)
    if not job_id:
        return None
    runner = DataflowRunner()
    runner.dataflow_client = client
    return _ResultJob(DataflowPipelineResult(client.get_job(job_id), runner, options), job_id)

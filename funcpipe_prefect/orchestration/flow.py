"""The flow: `run_pipeline`, for Python, deployments and the Prefect UI."""

from __future__ import annotations

import contextlib
import importlib.util
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from prefect import Flow
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, get_current_settings
from prefect.states import Cancelled
from pydantic import Field, WithJsonSchema

from funcpipe_prefect.backends.beam.options import check_options
from funcpipe_prefect.backends.local import LocalEngine
from funcpipe_prefect.backends.protocol import Progress, RunReport, execute
from funcpipe_prefect.builder import load_pipeline
from funcpipe_prefect.errors import BackendError, ErrorRateExceeded, RunCancelled
from funcpipe_prefect.ir import BeamSettings, Pipeline
from funcpipe_prefect.limits import LIMITER, limited_by
from funcpipe_prefect.orchestration.backfill import BACKFILL_TAG
from funcpipe_prefect.orchestration.blocks import stored_pipeline
from funcpipe_prefect.orchestration.cancelling import Cancellation, cancel_task_runs, watched
from funcpipe_prefect.orchestration.exclusive import one_writer
from funcpipe_prefect.orchestration.heartbeat import NO_HEARTBEATS, beating, heartbeats
from funcpipe_prefect.orchestration.limiting import make_limits, wait
from funcpipe_prefect.orchestration.lineage import tell
from funcpipe_prefect.orchestration.runners import dask_task_runner
from funcpipe_prefect.orchestration.server import one_server
from funcpipe_prefect.orchestration.settings import apply_settings
from funcpipe_prefect.orchestration.showing import (
    Showing,
    show_answer,
    show_causes,
    show_link,
    show_outputs,
    show_summary,
)
from funcpipe_prefect.running import CHILD_VARIABLES, run_by
from funcpipe_prefect.sources import IterableSource
from funcpipe_prefect.storage import filesystem

__all__ = ["LISTENER", "check_backend", "run_pipeline"]

LISTENER: ContextVar[Progress | None] = ContextVar("funcpipe_progress", default=None)
"""Receives the progress of a flow that runs in this process, for the command line."""

PipelineParam = Annotated[
    Any,
    WithJsonSchema({
        "anyOf": [{"type": "string", "title": "Path of a pipeline file, or func-pipeline/NAME of a block"}, {"type": "object", "title": "Pipeline"}],
    }),
    Field(description="A pipeline file's path, or a pipeline as a mapping."),
]  # fmt: skip


class PipelineFlow(Flow[Any, Any]):
    """A flow that brings its own Prefect server when called from Python with none configured."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the flow; one server serves it and its workers."""
        every_s = get_current_settings().flows.heartbeat_frequency
        with one_server(NO_HEARTBEATS), heartbeats(every_s):
            return super().__call__(*args, **kwargs)

    def serialize_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Show Python objects by name: the API keeps parameters as JSON."""
        return super().serialize_parameters(_shown(parameters))


def _shown(parameters: dict[str, Any]) -> dict[str, Any]:
    shown = dict(parameters)
    if isinstance(shown.get("pipeline"), Pipeline):
        shown["pipeline"] = shown["pipeline"].name
    if shown.get("input") is not None and not isinstance(shown["input"], str):
        shown["input"] = f"<{len(shown['input'])} records>"
    return shown


def _run_name() -> str:
    given = flow_run.get_name()
    if BACKFILL_TAG in flow_run.get_tags() and given:
        return given
    parameters = flow_run.get_parameters()
    pipeline = parameters.get("pipeline")
    name = getattr(pipeline, "name", None)
    if isinstance(pipeline, (str, Path)):
        name = Path(pipeline).stem
    elif isinstance(pipeline, dict):
        name = pipeline.get("name")
    identity = flow_run.get_id() or ""
    return f"{name or 'pipeline'}-{identity[:8]}"


def _named_flow(function: Callable[..., RunReport]) -> PipelineFlow:
    """Make the flow; it takes the function's name, by which deployments find it in this module."""
    return PipelineFlow(
        function, name="funcpipe", flow_run_name=_run_name, description="Runs a funcpipe pipeline."
    )


@_named_flow
def run_pipeline(
    pipeline: PipelineParam,
    backend: Annotated[
        Literal["local", "dask", "beam"] | None, Field(description="In place of the pipeline's own.")
    ] = None,
    input: Annotated[
        str | list[Any] | None, Field(description="Path, glob or URL in place of the source's; or records.")
    ] = None,
    output: Annotated[str | None, Field(description="Path or URL in place of the sink's.")] = None,
    overrides: Annotated[
        dict[str, Any] | None, Field(description='Values by key path, such as {"resources.workers": 4}.')
    ] = None,
    refresh: Annotated[bool, Field(description="Use nothing that was computed before.")] = False,
    refresh_from: Annotated[
        str | None,
        Field(description="Operator from whose stage on nothing is used that was computed before."),
    ] = None,
    retry_errors: Annotated[
        bool, Field(description="Compute again what left dead letters in an earlier run.")
    ] = False,
    exclusive: Annotated[
        bool, Field(description="Wait while another exclusive run writes to the same output.")
    ] = False,
) -> RunReport:
    """Run a pipeline.

    Args:
        pipeline: A pipeline file's path, `func-pipeline/NAME` of a block, the same as a mapping, or a
            built `Pipeline`.
        backend: `local`, `dask` or `beam`, in place of the pipeline's own.
        input: Path, glob or URL in place of the source's; or the records themselves.
        output: Path or URL in place of the sink's.
        overrides: Values by key path, such as `{"resources.workers": 4}`.
        refresh: Use nothing that was computed before.
        refresh_from: The operator from whose stage on nothing is used that was computed before.
        retry_errors: Compute again what left dead letters in an earlier run.
        exclusive: Wait while another exclusive run, of any deployment, writes to the same output.

    Returns:
        The run's report.

    Raises:
        PipelineError: The pipeline breaks its contracts; every problem is told.
        FuncPipeError: The run failed; nothing was published.
    """
    apply_settings()
    built = _built(pipeline, input, output, overrides)
    _lighten_context()
    backend = backend or built.backend
    logger = get_run_logger()
    check_backend(backend, built.beam)
    make_limits(built)
    showing = Showing(built, backend, _listener())
    try:
        with (
            beating(),
            watched() as cancellation,
            one_writer(built) if exclusive else contextlib.nullcontext(),
            showing.shown(),
        ):
            report = _executed(
                built, backend, cancellation, progress=showing, begun=showing.begun,
                refresh=refresh, refresh_from=refresh_from, retry_errors=retry_errors,
            )  # fmt: skip
    except RunCancelled as error:
        cancel_task_runs()
        return cast(RunReport, Cancelled(message=str(error)))
    except ErrorRateExceeded as error:
        tell(built, "errors.threshold", {"message": str(error)})
        raise
    for warning in report.warnings:
        logger.warning(warning)
    _shown_afterwards(built, report)
    logger.info(
        "%s: %d records in, %d out, %d dropped, %d dead letters; %d tasks run, %d cached; digest %s",
        built.name, report.records_in, report.records_out, report.dropped, report.errors,
        report.tasks_run, report.tasks_cached, report.digest,
    )  # fmt: skip
    return report


def _shown_afterwards(pipeline: Pipeline, report: RunReport) -> None:
    show_outputs(pipeline, report.outputs)
    show_summary(pipeline.name, report)
    if report.errors:
        show_causes(pipeline)
    if report.result is not None:
        show_answer(pipeline.name, report.result)


def _executed(
    pipeline: Pipeline,
    backend: str,
    cancellation: Cancellation,
    **options: Any,
) -> RunReport:
    with ExitStack() as afterwards:
        if backend == "local":
            with run_by("", cancellation.check), limited_by(wait):
                return execute(pipeline, LocalEngine(), afterwards=afterwards, **options)
        if backend == "beam":
            from funcpipe_prefect.orchestration.beam_engine import BeamEngine

            if url := PREFECT_API_URL.value():
                CHILD_VARIABLES.update({LIMITER: wait.__module__, "PREFECT_API_URL": url})
            with _shared(pipeline) as ready:
                return execute(ready, BeamEngine(cancellation), afterwards=afterwards, **options)
        from funcpipe_prefect.orchestration.stage_engine import StageEngine
        from funcpipe_prefect.orchestration.tasks import PrefectEngine

        with _shared(pipeline) as ready, dask_task_runner(ready.resources) as runner:
            granularity = ready.resources.granularity
            engine = (
                PrefectEngine(runner, cancellation)
                if granularity == "partition"
                else StageEngine(runner, cancellation, may_choose=granularity == "auto")
            )
            if link := runner.client.dashboard_link:
                show_link(pipeline.name, link, "Dask dashboard")
            try:
                report = execute(ready, engine, afterwards=afterwards, **options)
            except Exception:
                engine.catch_up()
                raise
            engine.catch_up()
            return report


def check_backend(backend: str, beam: BeamSettings = BeamSettings()) -> None:
    """Say so, before anything starts, when a backend cannot run here.

    Raises:
        BackendError: FP501.
        PipelineError: FP502 to FP504, Beam does not know its runner or an option.
    """
    if backend == "beam":
        check_options(beam)
    if backend == "dask" and importlib.util.find_spec("prefect_dask") is None:
        raise BackendError('the dask backend needs the extra dask: pip install "funcpipe-prefect[dask]"')


def _listener() -> Progress | None:
    """Read the variable here: Prefect pickles the flow's own function with all that it names."""
    return LISTENER.get()


def _lighten_context() -> None:
    """Keep records and objects out of what Prefect sends along with every task."""
    context = FlowRunContext.get()
    if context is not None and context.parameters is not None:
        context.parameters.update(_shown(context.parameters))


def _built(pipeline: Any, input: Any, output: str | None, overrides: dict[str, Any] | None) -> Pipeline:
    if isinstance(pipeline, str):
        pipeline = stored_pipeline(pipeline) or pipeline
    if not isinstance(pipeline, Pipeline):
        return load_pipeline(pipeline, overrides=overrides, input=input, output=output)
    if output is not None or overrides or isinstance(input, str):
        raise BackendError(
            "a built Pipeline takes records as input, and neither output nor overrides: "
            "give them to load_pipeline"
        )
    return pipeline if input is None else replace(pipeline, source=IterableSource.of(input))


@contextlib.contextmanager
def _shared(pipeline: Pipeline) -> Iterator[Pipeline]:
    """Let workers read records that only this process holds, by files for the time of the run."""
    if not isinstance(pipeline.source, IterableSource):
        yield pipeline
        return
    folder = f"{pipeline.storage.rstrip('/')}/spool/{uuid.uuid4().hex}"
    fs, root = filesystem(folder)
    fs.makedirs(root, exist_ok=True)
    try:
        yield replace(pipeline, source=pipeline.source.spooled(folder, pipeline.record_type))
    finally:
        fs.rm(root, recursive=True)

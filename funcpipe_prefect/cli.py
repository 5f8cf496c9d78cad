"""The command line: `funcpipe validate | run | plan | laws | backfill | schema | cache`.

Exit codes: 0 done, 1 the run failed, 2 the pipeline or the command line is wrong.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from funcpipe_prefect.cli_backfill import backfill
from funcpipe_prefect.cli_cache import cache
from funcpipe_prefect.cli_errors import errors
from funcpipe_prefect.cli_init import init
from funcpipe_prefect.cli_laws import check_quickly, laws
from funcpipe_prefect.cli_shown import show_plan, show_report, shown_progress
from funcpipe_prefect.errors import FuncPipeError, PipelineError, SinkError, SourceError

if TYPE_CHECKING:
    from funcpipe_prefect.backends.protocol import Progress, RunReport
    from funcpipe_prefect.ir import Pipeline

__all__ = ["app", "main"]

DONE, FAILED, WRONG = 0, 1, 2

_notes = Console(stderr=True, highlight=False)

app = App(
    name="funcpipe",
    help="Typed, law-checked data pipelines for Prefect.",
    version_flags=["--version"],
    console=_notes,
    suppress_keyboard_interrupt=False,
)
app.command(backfill)
app.command(cache)
app.command(errors)
app.command(init)
app.command(laws)

PipelineFile = Annotated[str, Parameter(help="A pipeline file.", name="pipeline")]
SetOption = Annotated[
    list[str] | None,
    Parameter(
        name="--set",
        help="key.path=value, read as YAML; may be given again.",
        negative=(),
        consume_multiple=False,
    ),
]
JsonOption = Annotated[
    bool, Parameter(name="--json", help="Print one JSON object as the last line.", negative=())
]
InputOption = Annotated[str | None, Parameter(help="Path, glob or URL in place of the source's.")]
OutputOption = Annotated[str | None, Parameter(help="Path or URL in place of the sink's.")]
BackendOption = Annotated[
    Literal["local", "dask", "beam"] | None, Parameter(help="In place of the pipeline's own.")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    here = str(Path.cwd())
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)  # as python -m does: registry modules of the project at hand
    try:
        code = app(list(arguments) if arguments is not None else None, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _notes.print(f"[bold red]FP122 command line[/]  {_plain(error)}", soft_wrap=True)
        code = WRONG
    except PipelineError as error:
        code = _refused(error)
    except KeyboardInterrupt:
        _notes.print("interrupted; nothing was published")
        code = 130
    sys.exit(code)


def _plain(error: CycloptsError) -> str:
    return " ".join(str(error).split())


def _refused(error: PipelineError) -> int:
    _notes.print(str(error), markup=False, soft_wrap=True)
    count = len(error.problems)
    _notes.print(f"\n{count} problem{'s' * (count != 1)}", style="bold red")
    return WRONG


@app.command
def validate(pipeline: PipelineFile, /, *, set_: SetOption = None) -> int:
    """Check a pipeline file: 0 valid, 2 not; every problem is located."""
    built = load(pipeline, _overrides(set_))
    from funcpipe_prefect.plan import cautions, lower

    if built.backend == "beam":
        check_beam(built)
    stages = lower(built)
    names = " → ".join(stage.name for stage in stages)
    _notes.print(f"{pipeline} is valid: {names}", markup=False, soft_wrap=True)
    for warning in cautions(stages):
        _notes.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    return DONE


@app.command
def schema() -> int:
    """Print the JSON Schema of the pipeline file."""
    from funcpipe_prefect.config import pipeline_schema

    print(json.dumps(pipeline_schema(), indent=2))
    return DONE


@app.command
def plan(
    pipeline: PipelineFile,
    /,
    *,
    input: InputOption = None,
    output: OutputOption = None,
    set_: SetOption = None,
    backend: BackendOption = None,
    svg: Annotated[str | None, Parameter(help="Write a drawing of the graph to this file.")] = None,
    html: Annotated[str | None, Parameter(help="Write plan and drawing as one page to this file.")] = None,
    json_: JsonOption = False,
) -> int:
    """Show what a run would do; nothing runs."""
    built = load(pipeline, _overrides(set_), input, output)
    from funcpipe_prefect import drawing
    from funcpipe_prefect.backends.preview import preview

    try:
        shown = preview(built, backend)
        for path, draw in ((svg, drawing.svg), (html, drawing.page)):
            if path is not None:
                Path(path).write_text(draw(shown), encoding="utf-8")
    except (SourceError, OSError) as error:
        return _failed(error, WRONG)
    if json_:
        print(json.dumps(shown))
    else:
        show_plan(_notes, shown)
    return DONE


@app.command
def run(
    pipeline: PipelineFile,
    /,
    *,
    backend: BackendOption = None,
    input: InputOption = None,
    output: OutputOption = None,
    set_: SetOption = None,
    refresh: Annotated[bool, Parameter(help="Use nothing that was computed before.", negative=())] = False,
    refresh_from: Annotated[
        str | None, Parameter(help="Operator from whose stage on nothing is used that was computed before.")
    ] = None,
    retry_errors: Annotated[
        bool, Parameter(help="Compute again what left dead letters in an earlier run.", negative=())
    ] = False,
    check: Annotated[
        bool, Parameter(help="Check the quick laws on a sample first; run only if they hold.", negative=())
    ] = False,
    json_: JsonOption = False,
) -> int:
    """Run a pipeline: 0 done, 1 failed, 2 the pipeline or the command line is wrong."""
    overrides = _overrides(set_)
    built = load(pipeline, overrides, input, output)
    chosen = backend or built.backend
    if refresh_from is not None:
        from funcpipe_prefect.plan import lower, stage_of

        stage_of(lower(built), refresh_from, f"--refresh-from {refresh_from}")
    again = {"refresh": refresh, "refresh_from": refresh_from, "retry_errors": retry_errors}
    try:
        if check:
            check_quickly(pipeline, overrides, built)
        with shown_progress(_notes, quiet=json_ or not _notes.is_terminal) as progress:
            if chosen == "local":
                report = _run_local(built, progress, **again)
            else:
                given = {"input": input, "output": output, "overrides": overrides or None}
                report = _run_flow(pipeline, built, chosen, progress, **again, **given)
    except PipelineError:
        raise
    except SourceError as error:
        return _failed(error, WRONG, chosen if json_ else None)
    except Exception as error:
        return _failed(error, FAILED, chosen if json_ else None)
    show_report(_notes, report)
    if json_:
        print(json.dumps(report.to_dict(), default=_jsonable))
    return DONE


@errors.command
def replay(
    pipeline: PipelineFile,
    /,
    *,
    backend: BackendOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> int:
    """Run the records again that failed, once what failed them is mended: `funcpipe run --retry-errors`.

    They go on from the operator that failed, through the rest of the pipeline; what comes through joins
    the output, and its dead letters are kept as solved.
    """
    from funcpipe_prefect.sinks.letters import DeadLetters, timestamp

    letters = DeadLetters(load(pipeline, _overrides(set_)).errors.path)
    try:
        before, started = sum(1 for _ in letters.read()), timestamp(time.time())
        code = run(pipeline, backend=backend, set_=set_, retry_errors=True, json_=json_)
        if code == DONE:
            left = sum(1 for _ in letters.read())
            solved = sum(one["solved"] >= started for one in letters.solved())
            _notes.print(f"{before:,} dead letters before; {solved:,} solved, {left:,} left")
    except SinkError as error:
        return _failed(error, FAILED, (backend or "local") if json_ else None)
    return code


def _run_local(pipeline: Pipeline, progress: Progress | None, **again: Any) -> RunReport:
    from funcpipe_prefect.backends.local import run_local

    return run_local(pipeline, progress=progress, **again)


def _run_flow(
    path: str, built: Pipeline, backend: str, progress: Progress | None, **parameters: Any
) -> RunReport:
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    with _early_cluster(built, backend):
        from funcpipe_prefect.orchestration.flow import LISTENER, check_backend, run_pipeline

        check_backend(backend, built.beam)
        LISTENER.set(progress)
        report: RunReport = run_pipeline(path, backend=backend, **parameters)
        return report


def _early_cluster(pipeline: Pipeline, backend: str) -> contextlib.AbstractContextManager[None]:
    """Let a Dask cluster start while this process imports Prefect."""
    if backend != "dask" or importlib.util.find_spec("distributed") is None:
        return contextlib.nullcontext()
    from funcpipe_prefect.backends.dask.early import starting_early

    return starting_early(pipeline.resources)


def load(
    path: str, overrides: dict[str, Any], input: str | None = None, output: str | None = None
) -> Pipeline:
    """Read and check a pipeline file."""
    from funcpipe_prefect.builder import load_pipeline

    return load_pipeline(path, overrides=overrides, input=input, output=output)


def check_beam(pipeline: Pipeline) -> None:
    """Check the Beam runner and its options where Beam is installed; elsewhere they are not known.

    Raises:
        PipelineError: FP502 to FP504.
    """
    from funcpipe_prefect.backends.beam.options import check_options, has_beam

    if has_beam():
        check_options(pipeline.beam)


def _overrides(settings: list[str] | None) -> dict[str, Any]:
    from funcpipe_prefect.config.overrides import read_overrides

    return read_overrides(settings or [])


def _failed(error: Exception, code: int, backend: str | None = None) -> int:
    text = str(error) if isinstance(error, FuncPipeError) else f"{type(error).__name__}: {error}"
    _notes.print("failed", style="bold red", end=" ")
    _notes.print(text, markup=False, soft_wrap=True)
    if backend is not None:
        from funcpipe_prefect.backends.protocol import RunReport

        print(json.dumps({**RunReport("failed", backend).to_dict(), "error": text}))
    return code


def _jsonable(value: Any) -> Any:
    """Write a Combine's answer as JSON: sets as sorted lists, other values as text."""
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    return value.tolist() if hasattr(value, "tolist") else str(value)

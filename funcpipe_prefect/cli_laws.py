"""The command line: `funcpipe laws`, and the quick laws before `funcpipe run --check`."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, validators
from rich.console import Console

from funcpipe_prefect.errors import FuncPipeError, PipelineError, SourceError

if TYPE_CHECKING:
    from funcpipe_prefect.ir import Pipeline
    from funcpipe_prefect.laws.verdicts import Law, LawReport, Verdict

__all__ = ["check_quickly", "laws"]

HOLD, BROKEN, WRONG = 0, 1, 2
_QUICK_EXAMPLES, _QUICK_BUDGET_S = 20, 1.0
_COLORS = {"holds": "green", "broken": "bold red", "skipped": "yellow"}

_notes = Console(stderr=True, highlight=False)


def laws(
    pipeline: Annotated[str, Parameter(help="A pipeline file.", name="pipeline")],
    /,
    *,
    samples: Annotated[
        str | None,
        Parameter(help="File of sample records; by default the first of the pipeline's own source."),
    ] = None,
    backend: Annotated[
        list[Literal["local", "dask", "beam"]] | None,
        Parameter(
            help="Backends to compare; may be given again. All by default.",
            negative=(),
            consume_multiple=False,
        ),
    ] = None,
    examples: Annotated[
        int, Parameter(help="How many examples of each law to try.", validator=validators.Number(gte=1))
    ] = 100,
    quick: Annotated[
        bool, Parameter(help="Only laws that need no other process and write nothing.", negative=())
    ] = False,
    set_: Annotated[
        list[str] | None,
        Parameter(
            name="--set",
            help="key.path=value, read as YAML; may be given again.",
            negative=(),
            consume_multiple=False,
        ),
    ] = None,
    json_: Annotated[
        bool, Parameter(name="--json", help="Print one JSON object as the last line.", negative=())
    ] = False,
) -> int:
    """Check the laws of a pipeline: 0 all hold, 1 one is broken, 2 the pipeline or the command line is wrong."""
    started = time.monotonic()
    try:
        _prepare()
        from funcpipe_prefect.config.overrides import read_overrides
        from funcpipe_prefect.laws.agreement import BACKENDS
        from funcpipe_prefect.laws.pipeline import laws_of, load, samples_of
        from funcpipe_prefect.laws.search import Effort
        from funcpipe_prefect.laws.verdicts import LawReport

        loaded = load(pipeline, overrides=read_overrides(set_ or []))
        found = samples_of(loaded, samples)
    except PipelineError:
        raise
    except FuncPipeError as error:
        _notes.print("failed", style="bold red", end=" ")
        _notes.print(str(error), markup=False, soft_wrap=True)
        return WRONG if isinstance(error, SourceError) else BROKEN
    listed = laws_of(loaded, found, effort=Effort(examples), backends=backend or BACKENDS, is_quick=quick)
    verdicts = _checked(listed, quiet=json_ or not _notes.is_terminal)
    report = LawReport(verdicts, round(time.monotonic() - started, 3), found.origin)
    _show(report)
    if json_:
        print(json.dumps({"pipeline": loaded.pipeline.name, **report.to_dict()}))
    return BROKEN if report.broken else HOLD


def check_quickly(path: str, overrides: dict[str, Any], pipeline: Pipeline) -> None:
    """Check the quick laws of a pipeline on some records of its source, before it runs.

    Args:
        path: The pipeline's file.
        overrides: Values by key path.
        pipeline: The same, built for this run's input.

    Raises:
        LawBroken: FP310, with each law that is broken.
        BackendError: FP501, Hypothesis is not installed.
    """
    _prepare()
    from funcpipe_prefect.laws.pipeline import laws_of, load, samples_of
    from funcpipe_prefect.laws.search import Effort
    from funcpipe_prefect.laws.verdicts import LawBroken

    loaded = replace(load(path, overrides=overrides), pipeline=pipeline)
    effort = Effort(_QUICK_EXAMPLES, _QUICK_BUDGET_S)
    verdicts = _checked(laws_of(loaded, samples_of(loaded, None), effort=effort, is_quick=True), quiet=True)
    broken = [verdict for verdict in verdicts if verdict.outcome == "broken"]
    if broken:
        raise LawBroken(broken)


def _prepare() -> None:
    """Keep what Hypothesis writes out of the working directory.

    Raises:
        BackendError: FP501, it is not installed.
    """
    from funcpipe_prefect.builder.build import default_storage
    from funcpipe_prefect.laws.needs import needs_hypothesis

    needs_hypothesis()
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", f"{default_storage()}/hypothesis")


def _checked(laws: Iterator[Law], *, quiet: bool) -> tuple[Verdict, ...]:
    verdicts = []
    with contextlib.nullcontext() if quiet else _notes.status("checking") as status:
        for law in laws:
            if status is not None:
                status.update(f"{law.name} of {law.subject}")
            verdicts.append(law.check())
    return tuple(verdicts)


def _show(report: LawReport) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("law", "subject", "verdict", "examples", "counter-example"):
        table.add_column(column, justify="right" if column == "examples" else "left", overflow="fold")
    for one in report.verdicts:
        example = one.counter_example or (one.reason if one.outcome != "holds" else "")
        table.add_row(
            one.law, one.subject, f"[{_COLORS[one.outcome]}]{one.outcome}[/]", f"{one.examples:,}",
            _shortened(example),
        )  # fmt: skip
    _notes.print(table)
    for one in report.broken:
        _notes.print()
        _notes.print(str(one), markup=False, soft_wrap=True)
        if one.test:
            _notes.print("  as a test:\n", markup=False)
            _notes.print(one.test, markup=False, soft_wrap=True)
    counts = {outcome: sum(one.outcome == outcome for one in report.verdicts) for outcome in _COLORS}
    _notes.print(
        f"\n{counts['holds']} laws hold, {counts['broken']} broken, {counts['skipped']} skipped; "
        f"samples: {report.samples}; {report.elapsed_s:.1f} s"
    )


def _shortened(text: str, most: int = 120) -> Any:
    from rich.text import Text

    return Text(text if len(text) <= most else f"{text[: most - 1]}…")

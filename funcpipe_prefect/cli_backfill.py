"""The command `funcpipe backfill`: options and templates in, one line for each part out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from funcpipe_prefect.errors import DeploymentError, PipelineError, Place, Problem

if TYPE_CHECKING:
    from funcpipe_prefect.config.parts import Part
    from funcpipe_prefect.orchestration.backfill import PartRun

__all__ = ["backfill"]

_notes = Console(stderr=True, highlight=False)

_TEMPLATE = "with {date}, {date:%Y/%m} or {part} in it"


def backfill(
    deployment: Annotated[str, Parameter(help="flow/deployment; the flow may be left out.")],
    /,
    *,
    set_: Annotated[
        list[str] | None,
        Parameter(name="--set", help=f"key.path=template, {_TEMPLATE}.", negative=(), consume_multiple=False),
    ] = None,
    input: Annotated[str | None, Parameter(help=f"Template of the input, {_TEMPLATE}.")] = None,
    output: Annotated[str | None, Parameter(help=f"Template of the output, {_TEMPLATE}.")] = None,
    from_: Annotated[str | None, Parameter(name="--from", help="First date.")] = None,
    to: Annotated[str | None, Parameter(help="Last date, included.")] = None,
    step: Annotated[str, Parameter(help="Days or weeks from one part to the next: 1d, 2w.")] = "1d",
    part: Annotated[
        list[str] | None,
        Parameter(help="Names in place of dates: a,b,c.", negative=(), consume_multiple=False),
    ] = None,
    retry_failed: Annotated[
        bool, Parameter(help="Schedule again what failed, crashed or was cancelled.", negative=())
    ] = False,
    dry_run: Annotated[bool, Parameter(help="Show what would be scheduled.", negative=())] = False,
    json_: Annotated[
        bool, Parameter(name="--json", help="Print one JSON object as the last line.", negative=())
    ] = False,
) -> int:
    """Schedule one run of a deployment for each date or part, skipping those done."""
    parts = _parts(from_, to, step, part)
    parameters = {str(one): _parameters(one, set_ or [], input, output) for one in parts}
    templates = [*(set_ or []), input or "", output or ""]
    _check_that_parts_differ(parts, templates, parameters)
    from funcpipe_prefect.orchestration.backfill import backfill as schedule

    try:
        runs = schedule(deployment, parameters, retry_failed=retry_failed, dry_run=dry_run)
    except DeploymentError as error:
        _notes.print(str(error), markup=False, soft_wrap=True)
        return 2
    _show(deployment, runs, dry_run=dry_run)
    _note_shared_output(parts[0].word, set_ or [], output)
    if json_:
        counts = Counter(run.action for run in runs)
        print(
            json.dumps({
                "deployment": deployment, "dry_run": dry_run, "scheduled": counts["scheduled"],
                "retried": counts["retried"], "skipped": counts["skipped"], "runs": [asdict(run) for run in runs],
            })
        )  # fmt: skip
    return 0


def _parts(first: str | None, last: str | None, step: str, names: list[str] | None) -> list[Part]:
    from funcpipe_prefect.config.parts import between, listed

    if names is not None and first is None and last is None:
        return listed(names)
    if names is None and first is not None and last is not None:
        return between(first, last, step)
    given = {"--from": first, "--to": last, "--part": names}
    raise PipelineError([
        Problem("FP123", "wrong part", Place("funcpipe backfill"),
                ", ".join(option for option, value in given.items() if value is not None) or "no part",
                "--from and --to, or --part", "for example --from 2026-01-01 --to 2026-01-31")
    ])  # fmt: skip


def _parameters(part: Part, settings: Sequence[str], input: str | None, output: str | None) -> dict[str, Any]:
    from funcpipe_prefect.config.overrides import read_overrides
    from funcpipe_prefect.config.parts import filled

    parameters: dict[str, Any] = {}
    if settings:
        parameters["overrides"] = read_overrides([filled(one, part, f"--set {one}") for one in settings])
    for name, template in (("input", input), ("output", output)):
        if template is not None:
            parameters[name] = filled(template, part, f"--{name}")
    return parameters


def _check_that_parts_differ(
    parts: Sequence[Part], templates: Sequence[str], parameters: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuse templates that give two runs the same parameters."""
    word = parts[0].word
    distinct = {json.dumps(one, sort_keys=True) for one in parameters.values()}
    if len(distinct) < len(parts) or not any(f"{{{word}" in template for template in templates):
        raise PipelineError([
            Problem("FP123", "wrong template", Place("funcpipe backfill"), "runs with equal parameters",
                    f"templates that tell all parts apart by {{{word}}}",
                    f"for example --set source.path=data/{{{word}}}.jsonl --output out/{{{word}}}")
        ])  # fmt: skip


def _note_shared_output(word: str, settings: Sequence[str], output: str | None) -> None:
    """Say so when nothing but the input differs from run to run."""
    places = [output or "", *(one for one in settings if one.startswith("operators."))]
    if not any(f"{{{word}" in place for place in places):
        _notes.print(
            "every run writes to the same output, and each replaces what the one before published, unless "
            f"the sink upserts; --output out/{{{word}}} keeps them apart", style="yellow", soft_wrap=True,
        )  # fmt: skip


def _show(deployment: str, runs: Sequence[PartRun], *, dry_run: bool) -> None:
    for run in runs:
        state = f" ({run.state})" if run.state else ""
        _notes.print(f"  {run.part}  {run.action}{state}  {run.flow_run}", markup=False, soft_wrap=True)
    counts = Counter(run.action for run in runs)
    line = ", ".join(f"{counts[action]} {action}" for action in ("scheduled", "retried", "skipped"))
    _notes.print(f"{deployment}: {line}" + (" (dry run)" if dry_run else ""), markup=False, soft_wrap=True)
    failed = sum(run.state in ("Failed", "Crashed", "Cancelled") for run in runs if run.action == "skipped")
    if failed:
        _notes.print(f"{failed} of them failed before; --retry-failed schedules them again", style="yellow")

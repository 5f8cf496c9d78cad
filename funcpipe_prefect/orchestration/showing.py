"""What the Prefect UI shows of a run: progress by stage, the graph, a summary, causes of dead letters, answers."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client

from funcpipe_prefect import drawing
from funcpipe_prefect.backends.preview import described
from funcpipe_prefect.backends.protocol import Progress, RunReport, StageDone
from funcpipe_prefect.ir import Pipeline
from funcpipe_prefect.orchestration.beside import beside
from funcpipe_prefect.orchestration.cancelling import flow_run_id
from funcpipe_prefect.orchestration.lineage import tell
from funcpipe_prefect.plan import Plan
from funcpipe_prefect.sinks.letters import DeadLetters, causes_of

__all__ = [
    "Showing",
    "artifact_key",
    "show_answer",
    "show_causes",
    "show_link",
    "show_outputs",
    "show_summary",
]

_LARGEST_ARTIFACT = 10_000
_MOST_LETTERS = 100_000
_EVERY_S, _LAST_S, _MOST_TAGS = 2.0, 10.0, 30
_logger = logging.getLogger(__name__)


def artifact_key(*names: str) -> str:
    """Make an artifact's key of a pipeline's name and what is shown of it."""
    return "-".join(
        ["funcpipe", *(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x" for name in names)]
    )


@dataclass
class _Row:
    event: StageDone
    cached: int = 0
    shown: StageDone | None = None
    artifact: UUID | None = None


@dataclass
class Showing:
    """Shows a run while it runs, from a thread of its own: a server that is slow or away holds up no work.

    Attributes:
        pipeline: That runs.
        backend: On which it runs.
        listener: Is told of progress, too.
    """

    pipeline: Pipeline
    backend: str
    listener: Progress | None = None
    _rows: dict[int, _Row] = field(default_factory=dict)
    _plan: Plan | None = None

    def begun(self, plan: Plan) -> None:
        """Take the plan; it is drawn soon."""
        self._plan = plan

    def __call__(self, event: StageDone) -> None:
        """Take progress."""
        if self.listener is not None:
            self.listener(event)
        row = self._rows.setdefault(event.index, _Row(event))
        row.event, row.cached = event, row.cached + event.cached
        if event.done == event.total:
            payload = {"stage": event.stage, "splits": event.total, "cached": row.cached}
            tell(self.pipeline, "stage.completed", payload)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show what happens inside."""
        with beside(self._follow, "funcpipe-showing", _LAST_S):
            yield

    def _follow(self, ended: threading.Event) -> None:
        is_over = False
        while not is_over:
            is_over = ended.wait(_EVERY_S)
            try:
                self._draw()
                for row in list(self._rows.values()):
                    self._show(row)
            except Exception as error:  # it is shown the next time, or not: the run goes on
                _logger.debug("progress was not shown: %s", error)

    def _draw(self) -> None:
        plan, self._plan = self._plan, None
        if plan is None:
            return
        name = self.pipeline.name
        image = base64.b64encode(drawing.svg(described(plan, self.backend)).encode()).decode()
        create_image_artifact(
            f"data:image/svg+xml;base64,{image}",
            key=artifact_key(name, "graph"),
            description=f"The stages of {name}",
        )
        _tag([f"pipeline:{name}", *(f"stage:{stage.name}" for stage in plan.stages[:_MOST_TAGS])])

    def _show(self, row: _Row) -> None:
        event = row.event
        if row.shown == event:
            return
        share = 100.0 * event.done / max(1, event.total)
        told = f"{event.stage}: {event.done:,} of {event.total:,} splits"
        told += f", {row.cached:,} cached" if row.cached else ""
        told += f"; {event.records:,} records read" + (
            f", {event.errors:,} dead letters" if event.errors else ""
        )
        if row.artifact is None:
            key = artifact_key(self.pipeline.name, event.stage)
            made: Any = create_progress_artifact(share, key=key, description=told)
            row.artifact = made
        else:
            update_progress_artifact(row.artifact, share, description=told)
        row.shown = event


def _tag(tags: list[str]) -> None:
    """Put tags on the flow run.

    Not on task runs: Prefect asks for a concurrency slot for each tag of a task run, and keeps a lease of
    it in a thread that it waits two seconds for.
    """
    identity = flow_run_id()
    if identity is None:
        return
    with get_client(sync_client=True) as client:
        known = client.read_flow_run(identity).tags
        client.update_flow_run(identity, tags=[*dict.fromkeys([*known, *tags])])


def show_link(name: str, link: str, text: str, of: str = "") -> None:
    """Keep a link: to a dashboard, or to the job of a stage."""
    key = artifact_key(name, of, "job") if of else artifact_key(name, "dashboard")
    create_link_artifact(link, link_text=text, key=key, description=text)


def show_causes(pipeline: Pipeline) -> None:
    """Keep what records failed of as a table, the most frequent cause first."""
    letters = itertools.islice(DeadLetters(pipeline.errors.path).read(), _MOST_LETTERS)
    causes, count = causes_of(letters, most=20)
    name = pipeline.name
    create_table_artifact(
        causes, key=artifact_key(name, "errors"),
        description=f"Why records of {name} failed ({count:,} looked at); dead letters: {pipeline.errors.path}",
    )  # fmt: skip


def show_answer(name: str, result: Any) -> None:
    """Keep what the Combines answered as an artifact of the flow run, as far as it is small."""
    try:
        text = json.dumps(result, default=repr, indent=1, ensure_ascii=False)
    except (TypeError, ValueError):  # keys that JSON does not know
        text = repr(result)
    if len(text) > _LARGEST_ARTIFACT:
        text = f"{text[:_LARGEST_ARTIFACT]}\n… {len(text) - _LARGEST_ARTIFACT} more characters"
    create_markdown_artifact(f"```json\n{text}\n```", key=artifact_key(name, "result"), description=f"What {name} answered")  # fmt: skip


def show_summary(name: str, report: RunReport) -> None:
    """Keep what a run did: counts that add up, cached against run, digests, time by operator, slowest splits."""
    create_markdown_artifact(
        _summary(name, report), key=artifact_key(name, "summary"), description=f"What {name} did"
    )


def _summary(name: str, report: RunReport) -> str:
    costs = {cost.name: cost for cost in report.costs}
    rows = [
        [
            counts.name, f"{counts.records_in:,}", f"{counts.records_out:,}", f"{counts.dropped:,}", f"{counts.errors:,}",
            f"{costs[counts.name].seconds:,.2f}" if counts.name in costs else "",
            f"{costs[counts.name].bytes:,}" if counts.name in costs and costs[counts.name].bytes else "",
        ]
        for counts in report.operators
    ]  # fmt: skip
    parts = [
        f"# {name}",
        f"{report.splits:,} splits on {report.backend}: {report.tasks_run:,} tasks run, {report.tasks_cached:,} "
        f"cached, in {report.elapsed_s:,.1f} s.",
        "## Operators",
        _table(["operator", "in", "out", "dropped", "dead letters", "seconds of all workers", "bytes"], rows),
    ]
    if report.outputs:
        outputs = [
            [
                key,
                str(one["output"]),
                str(one.get("version") or ""),
                f"{one['records_out']:,}",
                str(one["digest"]),
            ]
            for key, one in report.outputs.items()
        ]
        parts += ["## Outputs", _table(["sink", "output", "version", "records", "digest"], outputs)]
    elif report.digest:
        parts.append(f"Digest: {report.digest}")
    if report.slowest:
        slowest = [
            [one["stage"], one["split"], f"{one['seconds']:,.2f}", f"{one['records']:,}"]
            for one in report.slowest
        ]
        parts += ["## Slowest splits", _table(["stage", "split", "seconds", "records"], slowest)]
    if report.dead_letters:
        parts.append(f"{report.errors:,} dead letters: {report.dead_letters}")
    parts += [f"- warning: {warning}" for warning in report.warnings]
    return "\n\n".join(parts)


def _table(names: list[str], rows: list[list[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def show_outputs(pipeline: Pipeline, outputs: Mapping[str, Mapping[str, Any]]) -> None:
    """Tell that outputs were published."""
    for sink, one in outputs.items():
        payload = {
            "sink": sink,
            "output": one["output"],
            "records": one["records_out"],
            "digest": one["digest"],
            "version": one.get("version"),
        }
        tell(pipeline, "sink.committed", payload)

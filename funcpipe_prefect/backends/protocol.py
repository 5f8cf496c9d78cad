"""What a backend is, the run that drives any of them, and the report it ends with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeAlias

from funcpipe_prefect.backends.work import Job, Merged, finished, published_entries, sweep
from funcpipe_prefect.errors import ErrorRateExceeded, PipelineError, Place, Problem
from funcpipe_prefect.ir import Combine, Commit, OperatorCounts, Pipeline, RecordSource, Sink
from funcpipe_prefect.kernel import SOURCE
from funcpipe_prefect.monoid import Digest, digest_text, digest_total, fold
from funcpipe_prefect.plan import Plan, StageReceipt, cautions, lower, plan_run, stage_of
from funcpipe_prefect.running import new_token

__all__ = ["Engine", "Progress", "RunReport", "Schedule", "StageDone", "execute", "preview", "schedule"]


@dataclass(frozen=True)
class StageDone:
    """Progress: a stage has ended on a split, or (with index -1) the plan is made.

    Attributes:
        stage: Its name.
        done: Splits of this stage that have ended, cached ones included.
        total: Splits of this stage in this run.
        records: Source records read so far, over all splits.
        errors: Dead letters so far.
    """

    stage: str
    index: int
    done: int
    total: int
    records: int = 0
    errors: int = 0
    cached: bool = False


Progress: TypeAlias = Callable[[StageDone], None]


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes:
        status: `completed`, or `failed` in the report of a failed run.
        records_in: Records that the source gave, undecodable ones included.
        records_out: Records that the sink published; 1 for a Combine's answer.
        dropped: Records discarded under the policy `drop`, over all operators.
        errors: Dead letters, over all operators.
        tasks_run: Stage runs on a split that did work.
        tasks_cached: Stage runs whose result was there already.
        output: URL of the output.
        digest: Order-free multiset hash of the published records: count, hyphen, 64 digits.
        result: A Combine's answer.
        elapsed_s: Seconds.
        operators: Counts of each operator; `records_in == passed + dropped + errors` in each.
        dead_letters: URL of the dead letters, when there are any.
        warnings: What a careful user would want to know.
    """

    status: str
    backend: str
    records_in: int = 0
    records_out: int = 0
    dropped: int = 0
    errors: int = 0
    splits: int = 0
    tasks_run: int = 0
    tasks_cached: int = 0
    output: str | None = None
    digest: str | None = None
    result: Any = None
    elapsed_s: float = 0.0
    operators: tuple[OperatorCounts, ...] = ()
    dead_letters: str | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values, as `funcpipe run --json` prints it."""
        values = asdict(self)
        values["operators"] = [
            {"name": counts.name, "records_in": counts.records_in, **_without_name(counts)}
            for counts in self.operators
        ]
        return values


def _without_name(counts: OperatorCounts) -> dict[str, int]:
    return {key: value for key, value in asdict(counts).items() if key != "name"}


class Engine(Protocol):
    """A backend: it decides where the three kinds of work run, and retries them."""

    name: str

    def run_stages(
        self, job: Job, plan: Plan, notify: Callable[[int, StageReceipt], None]
    ) -> Sequence[StageReceipt]:
        """Run every stage on every pending split; return the last stage's receipts in split order.

        Args:
            job: What the tasks need to know.
            plan: Stages, splits and keys.
            notify: To be called with the stage's index when it has ended on a split.
        """

    def merge(self, job: Job, partials: Sequence[bytes]) -> Merged:
        """Merge a Combine's partial answers."""

    def commit(self, job: Job, entries: Sequence[Commit], plan: Plan) -> None:
        """Publish output and dead letters."""


def execute(
    pipeline: Pipeline,
    engine: Engine,
    *,
    afterwards: ExitStack,
    refresh: bool = False,
    refresh_from: str | None = None,
    progress: Progress | None = None,
    now: float | None = None,
) -> RunReport:
    """Run a pipeline on an engine: plan, stages, check, commit.

    Args:
        pipeline: A checked pipeline with a source.
        engine: The backend.
        afterwards: Closed by the caller when none of the run's processes works any more; a run that
            ended before its time then removes its temporary files.
        refresh: Use nothing that was computed before.
        refresh_from: The operator from whose stage on nothing is used that was computed before.
        progress: Called after each stage on each split.
        now: When the run begins, in seconds since 1970; the present by default.

    Raises:
        PipelineError: FP103, the pipeline has no source and no input was given; FP124, it has no
            such operator.
        ErrorRateExceeded: FP406, before anything is published.
        FuncPipeError: Whatever failed the run; nothing is published then.
    """
    started = time.monotonic()
    source = source_of(pipeline)
    now = time.time() if now is None else now
    first = _first_refreshed(pipeline, refresh, refresh_from)
    published = published_entries(pipeline, now) if first is None else {}
    plan = plan_run(pipeline, source.list_splits(), published=published)
    job = Job(pipeline, plan.stages, first, now, new_token())
    pending = [key for split in plan.pending for key in plan.keys[split]]
    afterwards.push(lambda kind, error, trace: sweep(job, pending) if kind else None)
    watch = _Watch(plan, progress)
    receipts = engine.run_stages(job, plan, watch.notify) if plan.pending else []
    fresh = dict(zip(plan.pending, receipts, strict=True))
    entries = [
        fresh[index].entry if index in fresh else plan.published[index] for index in range(len(plan.splits))
    ]
    report = _report(plan, entries, watch, engine.name)
    _check_error_rate(pipeline, report, receipts)
    if isinstance(pipeline.terminal, Combine):
        merged = engine.merge(job, [receipt.partial for receipt in receipts])
        report = replace(report, result=merged.result, digest=merged.digest or None, records_out=1)
    if not _is_published(pipeline, plan, entries):
        engine.commit(job, entries, plan)
    return replace(report, elapsed_s=round(time.monotonic() - started, 3))


def _first_refreshed(pipeline: Pipeline, refresh: bool, refresh_from: str | None) -> int | None:
    named = None if refresh_from is None else stage_of(lower(pipeline), refresh_from, "refresh_from")
    return 0 if refresh else named


def source_of(pipeline: Pipeline) -> RecordSource:
    """Give the source, or say that there is none.

    Raises:
        PipelineError: FP103.
    """
    if pipeline.source is None:
        raise PipelineError([
            Problem("FP103", "missing key", Place("<run>", path="$.source"), "no source and no input",
                    "source: in the file, --input URL, or records in Python", "add one of them")
        ])  # fmt: skip
    return pipeline.source


def _is_published(pipeline: Pipeline, plan: Plan, entries: Sequence[Commit]) -> bool:
    """Tell whether readers see just this already, so that nothing needs to be published."""
    if plan.pending or not isinstance(pipeline.terminal, Sink) or not entries:
        return False
    return list(pipeline.terminal.target.published()) == [entry.key for entry in entries]


def _report(plan: Plan, entries: Sequence[Commit], watch: _Watch, backend: str) -> RunReport:
    pipeline = plan.pipeline
    operators = _totals(entry.counts for entry in entries)
    terminal = pipeline.terminal
    errors = sum(counts.errors for counts in operators)
    last = operators[-1].records_out if operators else 0
    warnings = [*cautions(plan.stages), *dict.fromkeys(watch.warnings)]
    if terminal is None:
        warnings.append("the pipeline has no Sink or Combine: its records were counted and discarded")
    digests = [digest_total(entry.digest) for entry in entries if entry.digest]
    return RunReport(
        status="completed",
        backend=backend,
        records_in=next((counts.records_in for counts in operators if counts.name == SOURCE), 0),
        records_out=last,
        dropped=sum(counts.dropped for counts in operators),
        errors=errors,
        splits=len(plan.splits),
        tasks_run=watch.ran,
        tasks_cached=watch.cached + len(plan.published) * len(plan.stages),
        output=terminal.target.location if isinstance(terminal, Sink) else None,
        digest=digest_text(fold(Digest(), digests)),
        operators=operators,
        dead_letters=pipeline.errors.path if errors else None,
        warnings=tuple(warnings),
    )


def _totals(counts: Iterable[tuple[OperatorCounts, ...]]) -> tuple[OperatorCounts, ...]:
    total: dict[str, OperatorCounts] = {}
    for row in counts:
        for one in row:
            total[one.name] = total[one.name] + one if one.name in total else one
    return tuple(total.values())


def _check_error_rate(pipeline: Pipeline, report: RunReport, receipts: Sequence[StageReceipt]) -> None:
    allowed = pipeline.errors.max_error_rate
    rate = report.errors / report.records_in if report.records_in else 0.0
    if allowed < 1.0 and rate > allowed:  # a record may fail more than once behind a FlatMap
        first = next((receipt.first_error for receipt in receipts if receipt.first_error), "")
        raise ErrorRateExceeded(
            f"{report.errors} dead letters for {report.records_in} records ({rate:.2%}) are above "
            f"errors.max_error_rate ({allowed:.2%}); nothing was published. First: {first}"
        )


@dataclass
class _Watch:
    """Counts what ran and what was cached, and passes it on as progress."""

    plan: Plan
    progress: Progress | None
    ran: int = 0
    cached: int = 0
    records: int = 0
    errors: int = 0
    done: dict[int, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def notify(self, index: int, receipt: StageReceipt) -> None:
        self.ran += not receipt.cached
        self.cached += receipt.cached
        self.warnings += receipt.warnings
        self.done[index] = self.done.get(index, 0) + 1
        if index == 0:
            self.records += sum(counts.records_in for counts in receipt.entry.counts if counts.name == SOURCE)
        if index == len(self.plan.stages) - 1:
            self.errors += sum(counts.errors for counts in receipt.entry.counts)
        if self.progress is not None:
            self.progress(
                StageDone(
                    self.plan.stages[index].name, index, self.done[index], len(self.plan.pending),
                    self.records, self.errors, receipt.cached,
                )
            )  # fmt: skip


@dataclass(frozen=True)
class Schedule:
    """Which stage runs an engine submits, each named by the indices of its stage and split.

    Attributes:
        cached: Those whose result is there already.
        unsubmitted: The results of those among them that are not worth a task run of their own.
    """

    cached: frozenset[tuple[int, int]]
    unsubmitted: Mapping[tuple[int, int], StageReceipt]


def schedule(job: Job, plan: Plan) -> Schedule:
    """Find what is done already; up to `resources.task_budget` of it is still submitted, to be seen as Cached."""
    found = {
        (stage.index, split): receipt
        for split in plan.pending
        for stage in plan.stages
        if (receipt := finished(job, stage, plan.keys[split][stage.index])) is not None
    }
    beyond = list(found)[job.pipeline.resources.task_budget :]
    return Schedule(frozenset(found), {pair: replace(found[pair], cached=True) for pair in beyond})


def preview(pipeline: Pipeline) -> dict[str, Any]:
    """Say what a run would do: stages, splits, tasks to run and tasks whose result is there.

    Raises:
        PipelineError: FP103, the pipeline has no source.
        SourceError: FP409, the input is missing or unreadable.
    """
    source = source_of(pipeline)
    now = time.time()
    plan = plan_run(pipeline, source.list_splits(), published=published_entries(pipeline, now))
    job = Job(pipeline, plan.stages, now=now)
    stages: list[dict[str, Any]] = []
    for stage in plan.stages:
        done = sum(finished(job, stage, plan.keys[split][stage.index]) is not None for split in plan.pending)
        stages.append(
            {
                "name": stage.name,
                "kind": stage.kind,
                "to_run": len(plan.pending) - done,
                "cached": len(plan.published) + done,
            }
        )
    return {
        "stages": stages,
        "splits": len(plan.splits),
        "bytes": sum(split.size for split in plan.splits),
        "tasks_to_run": sum(stage["to_run"] for stage in stages),
        "tasks_cached": sum(stage["cached"] for stage in stages),
    }

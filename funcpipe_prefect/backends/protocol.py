"""What a backend is, the run that drives any of them, and the report it ends with."""

from __future__ import annotations

import collections
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar

from funcpipe_prefect.backends.history import remember
from funcpipe_prefect.backends.publishing import (
    is_published,
    measures_of,
    published_entries,
    sweep,
    with_letters,
)
from funcpipe_prefect.backends.work import Entries, Job, answer_of, finished, has_letters
from funcpipe_prefect.errors import (
    ErrorRateExceeded,
    ExpectationFailed,
    FuncPipeError,
    PipelineError,
    Place,
    Problem,
)
from funcpipe_prefect.expectations import Outcome, judged
from funcpipe_prefect.ir import (
    SOURCE,
    Combine,
    Commit,
    OperatorCost,
    OperatorCounts,
    Pipeline,
    RecordSource,
    Sink,
    summed,
)
from funcpipe_prefect.monoid import Digest, digest_text, digest_total, fold
from funcpipe_prefect.plan import Lane, Plan, Stage, StageReceipt, behind, cautions, plan_run, stage_of
from funcpipe_prefect.running import new_token

__all__ = [
    "MOST_TASK_RUNS",
    "Engine",
    "Progress",
    "Receipts",
    "RunReport",
    "Schedule",
    "StageDone",
    "execute",
    "planned",
    "schedule",
    "will_publish",
]


MOST_TASK_RUNS = 1000
"""With `granularity: auto` a lane with more stage runs than these has one task run for each stage."""

_SLOWEST = 5
Row = TypeVar("Row", OperatorCounts, OperatorCost)


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
        records_out: Records that the sinks published; without a sink, the number of answers.
        dropped: Records discarded under the policy `drop`, over all operators.
        errors: Dead letters, over all operators.
        tasks_run: Stage runs on a split that did work.
        tasks_cached: Stage runs whose result was there already.
        output: URL of the first sink's output.
        digest: Order-free multiset hash of the published records: count, hyphen, 64 digits.
        result: The Combine's answer; of several Combines, their answers by name.
        elapsed_s: Seconds.
        operators: Counts of each operator; `records_in == passed + dropped + errors` in each.
        dead_letters: URL of the dead letters, when there are any.
        warnings: What a careful user would want to know.
        outputs: Of each sink its location, records and digest, and its version where it has one, by name.
        expectations: What came of each expectation.
        costs: What each operator has cost in this run, over all workers.
        slowest: The stage runs that took longest: stage, split, seconds and records.
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
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    expectations: tuple[Mapping[str, Any], ...] = ()
    costs: tuple[OperatorCost, ...] = ()
    slowest: tuple[Mapping[str, Any], ...] = ()

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


Receipts: TypeAlias = dict[tuple[int, int], StageReceipt]
"""By the index of a stage, and of a task in the stage's lane."""


class Engine(Protocol):
    """A backend: it decides where the two kinds of work run, and retries them."""

    name: str

    def run_lane(
        self, job: Job, plan: Plan, lane: Lane, notify: Callable[[int, StageReceipt], None]
    ) -> Receipts:
        """Run the stages of a lane on each of its splits, as far as they are needed.

        Args:
            job: What the tasks need to know.
            plan: Stages, lanes and keys.
            lane: One of its lanes; those before it have run.
            notify: To be called with the stage's index when it has ended on a split.
        """

    def commit(self, job: Job, plan: Plan, entries: Entries) -> None:
        """Publish outputs and dead letters."""


def execute(
    pipeline: Pipeline,
    engine: Engine,
    *,
    afterwards: ExitStack,
    refresh: bool = False,
    refresh_from: str | None = None,
    retry_errors: bool = False,
    progress: Progress | None = None,
    begun: Callable[[Plan], None] | None = None,
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
        retry_errors: Compute again what left dead letters in an earlier run, and what is merged from it.
        progress: Called after each stage on each split.
        begun: Called with the plan, before anything runs.
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
    plan, job = planned(
        pipeline, source, now, refresh=refresh, refresh_from=refresh_from, retry_errors=retry_errors
    )
    if begun is not None:
        begun(plan)
    needed = plan.needed
    keys = [plan.task(*place).keys[place[0]] for place in needed]
    afterwards.push(lambda kind, error, trace: sweep(job, keys) if kind else None)
    watch = _Watch(plan, needed, progress)
    receipts: Receipts = {}
    for lane in plan.lanes:
        if any((stage, task) in needed for stage in lane.stages for task in range(len(lane.tasks))):
            receipts |= engine.run_lane(job, plan, lane, watch.notify)
    entries = {place: receipt.entries for place, receipt in receipts.items()}
    entries.update(plan.published)
    report = _report(plan, entries, watch, engine.name)
    _check_error_rate(pipeline, report, [receipts[place] for place in sorted(receipts)])
    report = _with_expectations(report, plan, entries, receipts)
    report = _with_answers(report, job, plan, receipts)
    if needed or not _is_published(plan, entries):
        engine.commit(job, plan, entries)
    report = _with_versions(report, pipeline)
    if report.tasks_run:
        remember(pipeline, plan.splits, report.operators, report.costs, now)
    return replace(report, elapsed_s=round(time.monotonic() - started, 3))


def planned(
    pipeline: Pipeline,
    source: RecordSource,
    now: float,
    *,
    refresh: bool,
    refresh_from: str | None,
    retry_errors: bool = False,
) -> tuple[Plan, Job]:
    """Plan a run, with what is published already, and with the answers that are kept already."""
    splits = source.list_splits()
    plan = plan_run(pipeline, splits)
    refreshed: frozenset[int] = frozenset()
    if refresh_from is not None:
        refreshed = behind(plan.stages, stage_of(plan.stages, refresh_from, "refresh_from"))
    if refresh:
        refreshed = frozenset(range(len(plan.stages)))
    known = dict(published_entries(pipeline, now))
    if retry_errors:
        failed = {key for key, entries in known.items() if has_letters(entries)}
        known = {key: entries for key, entries in known.items() if key not in failed}
        if failed:
            refreshed |= _merged(plan.stages)
    job = Job(pipeline, plan.stages, refreshed, now, new_token(), retry_errors)
    kept: dict[str, tuple[Commit, ...]] = {}
    for stage, tasks in plan.ends():
        if stage.kind == "answer":
            for task in tasks:
                receipt = finished(job, stage, plan.task(stage.index, task).keys[stage.index])
                if receipt is not None:
                    kept[receipt.entry.key] = receipt.entries
    known |= with_letters(pipeline, kept)
    done = {
        (stage.index, task): known[key]
        for stage, tasks in plan.ends()
        for task in tasks
        if stage.index not in refreshed and (key := plan.task(stage.index, task).keys[stage.index]) in known
    }
    return replace(plan, published=done), job


def _merged(stages: Sequence[Stage]) -> frozenset[int]:
    """Give the stages behind a grouping operator: records of any split may reach any of their tasks."""
    found: set[int] = set()
    for stage in stages:
        if stage.feeder is not None or stage.upstream in found:
            found.add(stage.index)
    return frozenset(found)


def _with_expectations(
    report: RunReport,
    plan: Plan,
    entries: Entries,
    receipts: Receipts,
) -> RunReport:
    """Hold what was measured against what is expected; publish nothing where that differs."""
    outcomes: list[Outcome] = []
    for stage, tasks in plan.ends():
        sink = stage.terminal
        if not isinstance(sink, Sink) or not sink.expectations:
            continue
        measured = {
            receipts[stage.index, task].entry.key: receipts[stage.index, task].measures
            for task in tasks
            if (stage.index, task) in receipts
        }
        published = _of_stage(entries, stage, tasks)
        keys = [entry.key for entry in published]
        measured |= measures_of(plan.pipeline, [key for key in keys if key not in measured])
        rows = _output(sink, published)["records_out"]
        outcomes += judged(sink, rows, [measured[key] for key in keys])
    failed = [str(one) for one in outcomes if not one.ok]
    if failed:
        raise ExpectationFailed("; ".join(failed) + "; nothing was published")
    return replace(report, expectations=tuple(one.to_dict() for one in outcomes)) if outcomes else report


def _with_answers(report: RunReport, job: Job, plan: Plan, receipts: Receipts) -> RunReport:
    """Read the answers of the Combines, and put them in the report."""
    answers: dict[str, Any] = {}
    digests: list[str] = []
    for stage, _ in plan.ends():
        if stage.kind == "answer":
            assert isinstance(stage.gathers, Combine)
            task = plan.task(stage.index, 0)
            receipt = receipts.get((stage.index, 0)) or finished(job, stage, task.keys[stage.index])
            answers[stage.gathers.name], digest = answer_of(job, stage, task, receipt)
            digests.append(digest)
    if not answers:
        return report
    result = next(iter(answers.values())) if len(answers) == 1 else answers
    if report.outputs:
        return replace(report, result=result)
    total = digest_text(fold(Digest(), map(digest_total, digests))) if all(digests) else None
    return replace(report, result=result, digest=total, records_out=len(answers))


def _with_versions(report: RunReport, pipeline: Pipeline) -> RunReport:
    """Tell of each output what it is called now; what cannot be asked is published all the same."""
    outputs = {name: dict(one) for name, one in report.outputs.items()}
    for sink in pipeline.sinks:
        tell = getattr(sink.target, "version", None)
        if tell is not None and sink.name in outputs:
            try:
                outputs[sink.name]["version"] = tell()
            except (OSError, FuncPipeError):
                outputs[sink.name]["version"] = None
    return replace(report, outputs=outputs)


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


def _of_stage(entries: Entries, stage: Stage, tasks: Iterable[int]) -> list[Commit]:
    """Give all entries of a stage, in the order of its tasks."""
    return [entry for task in tasks for entry in entries[stage.index, task]]


def will_publish(plan: Plan) -> bool:
    """Tell whether a run ends in a commit."""
    return bool(plan.needed) or not _is_published(plan, plan.published)


def _is_published(plan: Plan, entries: Entries) -> bool:
    """Tell whether readers see just this already, so that nothing needs to be published."""
    return all(
        is_published(stage.terminal, _of_stage(entries, stage, tasks))
        for stage, tasks in plan.ends()
        if isinstance(stage.terminal, Sink)
    )


def _report(plan: Plan, entries: Entries, watch: _Watch, backend: str) -> RunReport:
    pipeline = plan.pipeline
    ends = {stage.index: _of_stage(entries, stage, tasks) for stage, tasks in plan.ends()}
    operators = _in_order(pipeline, [summed(*(entry.counts for entry in found)) for found in ends.values()])
    errors = sum(counts.errors for counts in operators)
    warnings = [*cautions(plan.stages), *dict.fromkeys(watch.warnings)]
    counted = next((stage for stage, _ in plan.ends() if stage.kind == "count"), None)
    if counted is not None:
        warnings.append("the pipeline has no Sink or Combine: its records were counted and discarded")
    outputs = {
        stage.terminal.name: _output(stage.terminal, ends[stage.index])
        for stage, _ in plan.ends()
        if isinstance(stage.terminal, Sink)
    }
    digests = (digest_total(entry.digest) for found in ends.values() for entry in found if entry.digest)
    last = operators[-1].records_out if operators else 0
    return RunReport(
        status="completed",
        backend=backend,
        records_in=next((counts.records_in for counts in operators if counts.name == SOURCE), 0),
        records_out=sum(one["records_out"] for one in outputs.values()) if outputs else last,
        dropped=sum(counts.dropped for counts in operators),
        errors=errors,
        splits=len(plan.splits),
        tasks_run=watch.ran,
        tasks_cached=plan.size() - watch.ran,
        output=next((one["output"] for one in outputs.values()), None),
        digest=digest_text(fold(Digest(), digests)),
        operators=operators,
        costs=_in_order(pipeline, [watch.costs]),
        slowest=tuple(watch.slowest),
        dead_letters=pipeline.errors.path if errors else None,
        warnings=tuple(warnings),
        outputs=outputs,
    )


def _output(sink: Sink, entries: Sequence[Commit]) -> dict[str, Any]:
    digests = (digest_total(entry.digest) for entry in entries if entry.digest)
    counts = (one.records_out for entry in entries for one in entry.counts if one.name == sink.name)
    return {
        "output": sink.target.location,
        "records_out": sum(counts),
        "digest": digest_text(fold(Digest(), digests)),
    }


def _in_order(pipeline: Pipeline, rows: Iterable[tuple[Row, ...]]) -> tuple[Row, ...]:
    """Give the counts of each operator once: all ends that depend on one tell the same of it."""
    found: dict[str, Row] = {}
    for row in rows:
        for one in row:
            found.setdefault(one.name, one)
    names = [SOURCE, *(operator.name for operator in pipeline.operators)]
    places = {name: 2 * index for index, name in enumerate(names)}
    places |= {f"{name}.store": 2 * index + 1 for index, name in enumerate(names)}
    return tuple(sorted(found.values(), key=lambda one: places.get(one.name, len(names) * 2)))


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
    """Counts what ran, and passes it on as progress."""

    plan: Plan
    needed: frozenset[tuple[int, int]]
    progress: Progress | None
    ran: int = 0
    records: int = 0
    errors: int = 0
    done: dict[int, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    costs: tuple[OperatorCost, ...] = ()
    slowest: list[dict[str, Any]] = field(default_factory=list)

    @functools.cached_property
    def totals(self) -> collections.Counter[int]:
        """How many runs of each stage are needed."""
        return collections.Counter(stage for stage, _ in self.needed)

    def notify(self, index: int, receipt: StageReceipt) -> None:
        self.ran += not receipt.cached
        self.warnings += receipt.warnings
        if not receipt.cached:
            self._note_cost(receipt)
        self.done[index] = self.done.get(index, 0) + 1
        if index == 0:
            self.records += sum(counts.records_in for counts in receipt.entry.counts if counts.name == SOURCE)
        if self.plan.stages[index].kind in ("write", "answer", "count"):
            errors = sum(counts.errors for entry in receipt.entries for counts in entry.counts)
            self.errors = max(self.errors, errors)
        if self.progress is not None:
            self.progress(
                StageDone(
                    self.plan.stages[index].name, index, self.done[index], self.totals[index],
                    self.records, self.errors, receipt.cached,
                )
            )  # fmt: skip

    def _note_cost(self, receipt: StageReceipt) -> None:
        self.costs = summed(self.costs, receipt.costs)
        records = max((cost.records for cost in receipt.costs), default=0)
        self.slowest.append(
            {
                "stage": receipt.stage,
                "split": receipt.entry.split,
                "seconds": round(receipt.seconds, 3),
                "records": records,
            }
        )
        self.slowest.sort(key=lambda one: -one["seconds"])
        del self.slowest[_SLOWEST:]


@dataclass(frozen=True)
class Schedule:
    """Which stage runs of a lane an engine submits, each named by the indices of its stage and task.

    Attributes:
        needed: All of them, by task, then by stage.
        cached: Those whose result is there already.
        unsubmitted: The results of those among them that are not worth a task run of their own.
    """

    needed: tuple[tuple[int, int], ...]
    cached: frozenset[tuple[int, int]]
    unsubmitted: Mapping[tuple[int, int], StageReceipt]


def schedule(job: Job, plan: Plan, lane: Lane, budget: int) -> Schedule:
    """Find what is done already; up to `budget` of it is still submitted, to be seen as Cached."""
    all_needed = plan.needed
    needed = [
        (stage, task)
        for task in range(len(lane.tasks))
        for stage in lane.stages
        if (stage, task) in all_needed
    ]
    found = {
        (index, task): receipt
        for index, task in needed
        if (receipt := finished(job, plan.stages[index], lane.tasks[task].keys[index])) is not None
    }
    beyond = list(found)[budget:]
    left = {pair: replace(found[pair], cached=True) for pair in beyond}
    return Schedule(tuple(needed), frozenset(found), left)

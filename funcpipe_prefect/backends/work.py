"""What any backend runs: a stage on a split.

It runs wherever a backend puts it. What it takes and returns is small; records go from
source to kernel to sink or store inside one call.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import cloudpickle
import msgspec

from funcpipe_prefect import grouping
from funcpipe_prefect.backends.gathering import gathered, locate
from funcpipe_prefect.backends.meter import Meter
from funcpipe_prefect.backends.retried import Letters, Retry, retry_of
from funcpipe_prefect.errors import CorruptPartition, SinkError
from funcpipe_prefect.expectations import Measured
from funcpipe_prefect.ir import (
    SOURCE,
    Combine,
    CombineByKey,
    Commit,
    Distinct,
    ErrorPolicy,
    Located,
    OperatorCost,
    OperatorCounts,
    Part,
    Pipeline,
    Sink,
    Split,
    summed,
)
from funcpipe_prefect.kernel import Trace, decoded, located, resumed, run_chain
from funcpipe_prefect.monoid import digest_of, digest_text
from funcpipe_prefect.plan import Feed, Segment, Stage, StageReceipt, StoredPartition, Task
from funcpipe_prefect.result import ErrorInfo
from funcpipe_prefect.running import run_by, stoppable
from funcpipe_prefect.schema import canonical_encoder, store_codec
from funcpipe_prefect.secrets import redacting
from funcpipe_prefect.sinks import DeadLetters
from funcpipe_prefect.sinks.letters import letter_line
from funcpipe_prefect.store import PartitionStore

__all__ = [
    "Entries",
    "Job",
    "answer_of",
    "finished",
    "has_letters",
    "is_expired",
    "leaves_receipt",
    "loaded",
    "records_of",
    "run_stage",
]

Entries: TypeAlias = Mapping[tuple[int, int], tuple[Commit, ...]]
"""By stage and task: the entry of each part; a second and further ones are of records that failed at first."""

_LETTERS_IN_MEMORY = 1 << 20


@dataclass(frozen=True)
class Job:
    """What every task of a run needs to know; pickled once for the whole run.

    Attributes:
        refreshed: Indices of the stages that use nothing computed before.
        now: When the run began, in seconds since 1970: what is older than `cache.expires` then is
            not used, and what the run makes bears this time.
        token: Begins the names of the run's temporary files.
        retries_errors: What left dead letters in an earlier run is computed again.
    """

    pipeline: Pipeline
    stages: tuple[Stage, ...]
    refreshed: frozenset[int] = frozenset()
    now: float = field(default_factory=time.time)
    token: str = ""
    retries_errors: bool = False

    def is_refreshed(self, stage: Stage) -> bool:
        """Tell whether a stage is computed whatever is stored."""
        return stage.index in self.refreshed


@functools.lru_cache(maxsize=4)
def loaded(job: bytes) -> Job:
    """Unpickle a job once in a process, so that artifacts are built once in a process too."""
    found = cloudpickle.loads(job)
    assert isinstance(found, Job)
    return found


@redacting
def run_stage(
    job: Job,
    index: int,
    split: Split,
    keys: Sequence[str],
    upstream: StageReceipt | None = None,
    feed: Feed | None = None,
) -> StageReceipt:
    """Run one stage on one split.

    What was done under the same key is used in place of the work: a stored partition, a part that
    waits for its commit, a partial answer. A stored partition, or what another stage has handed over,
    that turns out to be missing or damaged is computed again here, with everything it needs.

    Args:
        job: The run.
        index: Which stage.
        split: Which split.
        keys: The split's stage keys.
        upstream: What the stage before returned; found or computed when absent.
        feed: Where the split's records come from, if not from the source.

    Returns:
        A receipt, small whatever the partition's size.

    Raises:
        RecordError, ContractError, TransientError, SinkError: As the kernel and the sink raise.
    """
    stage, task = job.stages[index], Task(split, tuple(keys), feed)
    key = keys[index]
    found, damage = _found(job, stage, key)
    if found is not None:
        return replace(found, cached=True)
    with _alone(job, stage, key) as has_waited:
        if has_waited:
            found = finished(job, stage, key)
            if found is not None:
                return replace(found, cached=True)
        if stage.upstream is not None and upstream is None:
            upstream = run_stage(job, stage.upstream, split, keys, feed=feed)
        return _computed(job, stage, task, upstream, damage)


@contextlib.contextmanager
def _alone(job: Job, stage: Stage, key: str) -> Iterator[bool]:
    """Keep other runs from computing the same under `isolation: serializable`; tell whether it may be done by now."""
    if job.pipeline.isolation == "none" or not leaves_receipt(stage):
        yield False
        return
    with PartitionStore(job.pipeline.storage).lock(key).held() as is_held:
        yield is_held


def _computed(job: Job, stage: Stage, task: Task, upstream: StageReceipt | None, damage: str) -> StageReceipt:
    store, split, key = PartitionStore(job.pipeline.storage), task.split, task.keys[stage.index]
    begun = time.perf_counter()
    warnings = [f"{damage}; {stage.name} on {split.name} was computed again"] if damage else []
    warnings += upstream.warnings if upstream is not None and not upstream.cached else ()
    with (
        run_by(job.token),
        tempfile.SpooledTemporaryFile(_LETTERS_IN_MEMORY) as buffer,
        contextlib.ExitStack() as stack,
    ):
        letters = Letters(buffer, stage)
        trace = _trace(job, task, letters.collect)
        handed: list[StageReceipt] = []
        retry = None
        if job.retries_errors and not job.is_refreshed(stage):
            retry = retry_of(job.stages, stage, task, upstream, store)
        if retry is not None:
            values = retry.values(stage, trace, letters)
        else:
            values, handed = _incoming(job, stage, task, upstream, warnings, trace, stack)
            values = run_chain(stage.operators, values, trace)
        done = _finish(job, stage, task, values, trace, retry)
        part = DeadLetters(job.pipeline.errors.path).stage(
            replace(split, name=f"{stage.name}-{split.name}"), letters.rewound(), letters.count
        )
        counts, parts, first = _before(stage, task, upstream, handed)
        if retry is not None:
            counts = retry.counts
        receipt = StageReceipt(
            entry=Commit(
                split=split.name,
                key=key,
                part=done.part,
                digest=done.digest,
                counts=summed(counts, trace.counts()),
                dead_letters=(*parts, part),
            ),
            stored=done.stored,
            exchange=done.exchange,
            first_error=str(trace.first) if trace.first else first,
            stage=stage.name,
            kind=stage.kind,
            pipeline=job.pipeline.name,
            made=job.now,
            measures=done.measures,
            failed=letters.store(store, key) if leaves_receipt(stage) else None,
            costs=_costs(stage, task, trace, done, time.perf_counter() - begun),
        )
        if retry is not None and done.delta is not None:
            receipt = retry.stored(receipt, done.delta, job.now)
        elif retry is not None:
            receipt = retry.written(store, receipt, job.token, job.now)
        if stage.kind in ("store", "answer") and letters.count:
            store.write_letters(key, letters.rewound())
        if leaves_receipt(stage):
            store.write_receipt(key, receipt)
    return replace(receipt, warnings=tuple(warnings))


def _trace(job: Job, task: Task, collect: Callable[[ErrorInfo, Any], None]) -> Trace:
    where = functools.partial(locate, job.pipeline.source, job.stages, task)
    return Trace(task.split.name, where, collect, functools.partial(where, is_for_people=False))


def _incoming(
    job: Job,
    stage: Stage,
    task: Task,
    upstream: StageReceipt | None,
    warnings: list[str],
    trace: Trace,
    stack: contextlib.ExitStack,
) -> tuple[Iterator[Any], list[StageReceipt]]:
    """Open what a stage reads; give its values, and the receipts of what was handed over to it."""
    if upstream is not None:
        return resumed(stoppable(_stored(job, stage, task, upstream, warnings)), trace), []
    if task.feed is not None:
        handed = [_handed_over(job, task.feed, one, warnings) for one in task.feed.tasks]
        again = functools.partial(_handed_over, job, task.feed, warnings=warnings)
        store = PartitionStore(job.pipeline.storage)
        return gathered(job.stages, stage, task, handed, store, again, trace), handed
    source = job.pipeline.source
    assert source is not None, "a run has a source"
    records = stack.enter_context(contextlib.closing(source.read(task.split, job.pipeline.record_type)))  # type: ignore[type-var]
    return decoded(stoppable(records), trace), []


@redacting
def records_of(job: Job, index: int, task: Task) -> tuple[list[Any], list[dict[str, Any]]]:
    """Run a stage that ends the pipeline on one split, for somebody else than its Sink.

    What stages in front of it store is used, or made, as in any run.

    Returns:
        The records that would reach the Sink, or the one answer; and the dead letters of the stage, as dicts.

    Raises:
        RecordError, ContractError, TransientError: As the kernel raises.
    """
    stage, letters = job.stages[index], list[dict[str, Any]]()
    if stage.kind == "answer":
        receipt = run_stage(job, index, task.split, task.keys, feed=task.feed)
        return [answer_of(job, stage, task, receipt)[0]], letters
    upstream = None
    if stage.upstream is not None:
        upstream = run_stage(job, stage.upstream, task.split, task.keys, feed=task.feed)
    trace = _trace(
        job, task, lambda info, record: letters.append(msgspec.json.decode(letter_line(info, record)))
    )
    with run_by(job.token), contextlib.ExitStack() as stack:
        values, _ = _incoming(job, stage, task, upstream, [], trace, stack)
        return list(run_chain(stage.operators, values, trace)), letters


def _costs(stage: Stage, task: Task, trace: Trace, done: _Done, seconds: float) -> tuple[OperatorCost, ...]:
    """Give what each operator has cost; what is not spent in a function counts for what the stage ends in."""
    last = stage.nodes[-1].name if stage.nodes else SOURCE
    end = (
        last
        if stage.kind in ("write", "group", "answer")
        else f"{last}.store"
        if stage.kind == "store"
        else "count"
    )
    costs = {cost.name: cost for cost in trace.costs()}
    rest = max(0.0, seconds - sum(cost.seconds for cost in costs.values()))
    size = (done.stored.size if done.stored else 0) + done.part.size
    size += sum(segment.size for segment in done.exchange or ())
    costs[end] = costs.get(end, OperatorCost(end)) + OperatorCost(end, seconds=rest, bytes=size)
    if SOURCE in costs and stage.upstream is None and task.feed is None:
        costs[SOURCE] += OperatorCost(SOURCE, bytes=task.split.size)
    return tuple(costs.values())


def _before(
    stage: Stage, task: Task, upstream: StageReceipt | None, handed: Sequence[StageReceipt]
) -> tuple[Iterable[OperatorCounts], tuple[Part, ...], str]:
    """Give counts, dead letters and first error of all that led here.

    What led to several splits at once, as to ranges of keys, counts for the first of them.
    """
    if upstream is not None:
        return upstream.entry.counts, upstream.entry.dead_letters, upstream.first_error
    if not handed or (task.split.start > 0 and not isinstance(stage.gathers, Combine)):
        return (), (), ""
    counts = [one for receipt in handed for one in receipt.entry.counts]
    parts = tuple(part for receipt in handed for part in receipt.entry.dead_letters if part.file)
    return counts, parts, next((one.first_error for one in handed if one.first_error), "")


def _handed_over(
    job: Job, feed: Feed, task: Task, warnings: list[str], *, is_damaged: bool = False
) -> StageReceipt:
    """Find what a stage has handed over on a split; work it out again if that is missing or damaged."""
    store, key = PartitionStore(job.pipeline.storage), task.keys[feed.stage]
    receipt = store.receipt(key)
    if receipt is not None and not is_damaged and not store.damage(key, receipt):
        return receipt
    if receipt is not None:
        stage = job.stages[feed.stage]
        warnings.append(
            f"what {stage.name} on {task.split.name} handed over was damaged; it was computed again"
        )
    store.forget(key)
    return run_stage(replace(job, refreshed=frozenset()), feed.stage, task.split, task.keys, feed=task.feed)


def leaves_receipt(stage: Stage) -> bool:
    """Tell whether a later run can see that a stage is done: not behind a plain function as a sink."""
    return not isinstance(stage.terminal, Sink) or stage.terminal.target.location is not None


def finished(job: Job, stage: Stage, key: str) -> StageReceipt | None:
    """Find what an earlier run did under a key, if this run may use it and all of it is there still."""
    return _found(job, stage, key)[0]


def _found(job: Job, stage: Stage, key: str) -> tuple[StageReceipt | None, str]:
    """Find what an earlier run did, or say what is wrong with it."""
    if job.is_refreshed(stage) or not leaves_receipt(stage):
        return None, ""
    pipeline, store = job.pipeline, PartitionStore(job.pipeline.storage)
    receipt = store.receipt(key)
    damage = store.damage(key, receipt)
    if receipt is None or damage or is_expired(pipeline, receipt, job.now):
        return None, damage
    if receipt.stored is not None and receipt.stored.codec == "pickle" != stage.codec:
        return None, f"the partition of {stage.name} calls itself a pickle, which nobody asked for"
    if job.retries_errors and job.now not in (receipt.made, receipt.retried) and has_letters(receipt.entries):
        return None, ""
    if stage.kind in ("store", "answer"):
        return (receipt if receipt.stored is not None else None), ""
    if stage.kind == "group" and receipt.exchange is None:
        return None, ""
    try:
        is_whole = all(
            map(DeadLetters(pipeline.errors.path).directory.has, receipt.entries[-1].dead_letters[-1:])
        ) and (
            not isinstance(stage.terminal, Sink)
            or all(stage.terminal.target.has(entry.part) for entry in receipt.entries)
        )
    except (OSError, SinkError):
        is_whole = False
    return (receipt if is_whole else None), ""


def has_letters(entries: Sequence[Commit]) -> bool:
    """Tell whether records that failed on the way to the parts of a task have not come through since."""
    return any(part.file for part in entries[-1].dead_letters)


def is_expired(pipeline: Pipeline, receipt: StageReceipt, now: float) -> bool:
    """Tell whether `cache.expires` has passed since a stage was run."""
    return pipeline.expires_s is not None and receipt.made + pipeline.expires_s <= now


def _stored(
    job: Job, stage: Stage, task: Task, upstream: StageReceipt, warnings: list[str]
) -> Iterator[Located]:
    assert stage.upstream is not None, "only a stage behind another one reads what that one stored"
    store, before = PartitionStore(job.pipeline.storage), job.stages[stage.upstream]
    try:
        assert upstream.stored is not None, "a stage before another one stores"
        return store.read(upstream.stored, before.out_type)
    except CorruptPartition as error:
        warnings.append(f"{error.args[0]}; {before.name} on {task.split.name} was computed again")
        store.forget(task.keys[before.index])
        again = run_stage(
            replace(job, refreshed=frozenset()), before.index, task.split, task.keys, feed=task.feed
        )
        assert again.stored is not None
        return store.read(again.stored, before.out_type)


@dataclass(frozen=True)
class _Done:
    part: Part = Part()
    stored: StoredPartition | None = None
    exchange: tuple[Segment, ...] | None = None
    digest: str = ""
    measures: Measured = ()
    delta: StoredPartition | None = None


def _finish(
    job: Job, stage: Stage, task: Task, values: Iterator[Any], trace: Trace, retry: Retry | None
) -> _Done:
    """Run the chain to its end: into the store, to another stage, a sink, or nowhere."""
    store, key, split = PartitionStore(job.pipeline.storage), task.keys[stage.index], task.split
    match stage.kind:
        case "group":
            return _Done(exchange=_grouped(stage, key, values, trace, store))
        case "store" | "answer":
            place = f"{key}.again" if retry is not None else key
            stored = store.write(
                place, located(values, trace), stage.out_type, _rejecting(stage, trace), stage.codec
            )
            if retry is not None:
                return _Done(stored=retry.merged(store, stage, key, stored), delta=stored)
            return _Done(stored=stored)
        case "write":
            sink = stage.terminal
            assert isinstance(sink, Sink)
            meter = Meter(trace, sink, sink.in_type, sink.name)
            if retry is not None:  # a further part
                split = replace(split, name=f"{split.name} again {job.token}")
            with contextlib.closing(meter.passing(values)) as records:  # type: ignore[type-var]
                part = sink.target.write(split, records, sink.in_type, meter.reject)
            return _Done(part=part, digest=meter.digest(), measures=meter.measures())
        case "count":
            meter = Meter(trace, None, stage.out_type, "count")
            for _ in meter.passing(values):
                pass
            return _Done(digest=meter.digest())


def _rejecting(stage: Stage, trace: Trace) -> Callable[[int, Any, Exception], None]:
    last = stage.operators[-1] if stage.operators else stage.gathers
    policy: ErrorPolicy = "collect" if last is None else last.error_policy
    name = SOURCE if last is None else last.name

    def reject(position: int, record: Any, error: Exception) -> None:
        trace.position = position
        trace.tally(name).records_out -= 1
        trace.fail(f"{name}.store", policy, record, error)

    return reject


def _grouped(
    stage: Stage, key: str, values: Iterator[Any], trace: Trace, store: PartitionStore
) -> tuple[Segment, ...]:
    """Hand the records over in groups."""
    operator, slots = stage.terminal, stage.slots
    with store.exchange(key, slots, lambda data: grouping.slot_of(grouping.order_of(data), slots)) as out:
        match operator:
            case Combine() if stage.gathers is operator:
                out.add_table(([b""], [grouping.merge_totals(operator, values, is_last=False)]))
            case Combine():
                out.add_table(([b""], [grouping.fold_records(operator, values, trace)]))
            case CombineByKey():
                grouping.partials_by_key(
                    operator, values, trace, lambda found: out.add_table((found.keys, found.totals))
                )
            case Distinct():
                encode = store_codec(operator.in_type).encode
                for row in grouping.candidates(operator, values, trace, encode):
                    out.add(*row, size=len(row[2]) + 100)
            case _:
                raise AssertionError(f"{stage.name} ends in no grouping operator")
        out.flush()
    return tuple(out.segments)


def answer_of(job: Job, stage: Stage, task: Task, receipt: StageReceipt | None) -> tuple[Any, str]:
    """Read the answer that a stage keeps; give it with its digest, empty where it has none."""
    store, again = PartitionStore(job.pipeline.storage), replace(job, refreshed=frozenset())
    try:
        if receipt is None or receipt.stored is None:
            raise CorruptPartition(f"the answer of {stage.name} is gone")
        ((_, result),) = store.read(receipt.stored, stage.out_type)
    except CorruptPartition:
        store.forget(task.keys[stage.index])
        stored = run_stage(again, stage.index, task.split, task.keys, feed=task.feed).stored
        assert stored is not None
        ((_, result),) = store.read(stored, stage.out_type)
    try:
        return result, digest_text(digest_of(canonical_encoder()(result)))
    except (TypeError, ValueError):
        return result, ""

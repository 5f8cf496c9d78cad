"""The three things that any backend runs: a stage on a split, a merge, a commit.

They run wherever a backend puts them. What they take and return is small; records go from
source to kernel to sink or store inside one call.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

import cloudpickle

from funcpipe_prefect.errors import CorruptPartition, SinkError
from funcpipe_prefect.ir import Combine, Commit, Located, Part, Pipeline, Sink, Split
from funcpipe_prefect.kernel import Trace, decoded, fold_records, located, merge_totals, resumed, run_chain
from funcpipe_prefect.monoid import digest_of, digest_text
from funcpipe_prefect.plan import Stage, StageReceipt, StoredPartition
from funcpipe_prefect.result import ErrorInfo
from funcpipe_prefect.running import run_by, stoppable
from funcpipe_prefect.schema import canonical_encoder
from funcpipe_prefect.sinks import DeadLetters
from funcpipe_prefect.sinks.letters import letter_line
from funcpipe_prefect.store import PartitionStore

__all__ = [
    "Job",
    "Merged",
    "commit_run",
    "finished",
    "leaves_receipt",
    "loaded",
    "merge_partials",
    "published_entries",
    "run_stage",
    "sweep",
]

_LETTERS_IN_MEMORY = 1 << 20


@dataclass(frozen=True)
class Job:
    """What every task of a run needs to know; pickled once for the whole run.

    Attributes:
        refresh_from: Index of the first stage that uses nothing computed before; None: all may.
        now: When the run began, in seconds since 1970: what is older than `cache.expires` then is
            not used, and what the run makes bears this time.
        token: Begins the names of the run's temporary files.
    """

    pipeline: Pipeline
    stages: tuple[Stage, ...]
    refresh_from: int | None = None
    now: float = field(default_factory=time.time)
    token: str = ""

    def is_refreshed(self, stage: Stage) -> bool:
        """Tell whether a stage is computed whatever is stored."""
        return self.refresh_from is not None and stage.index >= self.refresh_from


@functools.lru_cache(maxsize=4)
def loaded(job: bytes) -> Job:
    """Unpickle a job once in a process, so that artifacts are built once in a process too."""
    found = cloudpickle.loads(job)
    assert isinstance(found, Job)
    return found


@dataclass(frozen=True)
class Merged:
    """A Combine's answer and its digest."""

    result: Any
    digest: str


class _Meter:
    """Keeps count and digest of the records that pass, and takes refused ones back."""

    def __init__(self, trace: Trace, terminal: Sink | None, record_type: Any, name: str) -> None:
        self._trace, self._name = trace, name
        self._policy = terminal.error_policy if terminal else "collect"
        self._encode = canonical_encoder(record_type)
        self._count = self._sum = 0
        self._tally = trace.tally(name)

    def passing(self, records: Iterator[Located]) -> Iterator[Located]:
        encode, tally = self._encode, self._tally
        for item in records:
            try:
                data = encode(item[1])
            except Exception as error:
                self._trace.position = item[0]
                self._trace.fail(self._name, self._policy, item[1], error)
                continue
            self._count += 1
            self._sum += digest_of(data)[1]
            tally.passed += 1
            tally.records_out += 1
            yield item

    def reject(self, position: int, record: Any, error: Exception) -> None:
        self._count -= 1
        self._sum -= digest_of(self._encode(record))[1]
        self._tally.passed -= 1
        self._tally.records_out -= 1
        self._trace.position = position
        self._trace.fail(self._name, self._policy, record, error)

    def digest(self) -> str:
        return digest_text((self._count, self._sum % (1 << 256)))


class _Letters:
    """Buffers the dead letters of one stage and split, on disk beyond a mebibyte."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.count = file, 0

    def collect(self, info: ErrorInfo, record: Any) -> None:
        self.file.write(letter_line(info, record))
        self.count += 1

    def rewound(self) -> IO[bytes]:
        self.file.seek(0)
        return self.file


def run_stage(
    job: Job, index: int, split: Split, keys: Sequence[str], upstream: StageReceipt | None = None
) -> StageReceipt:
    """Run one stage on one split.

    What was done under the same key is used in place of the work: a stored partition, a part that
    waits for its commit, a partial answer. A stored partition that turns out to be missing or
    damaged is computed again here, with everything it needs.

    Args:
        job: The run.
        index: Which stage.
        split: Which split.
        keys: The split's stage keys.
        upstream: What the stage before returned; found or computed when absent.

    Returns:
        A receipt, small whatever the partition's size.

    Raises:
        RecordError, ContractError, TransientError, SinkError: As the kernel and the sink raise.
    """
    stage, key = job.stages[index], keys[index]
    found, damage = _found(job, stage, key)
    if found is not None:
        return replace(found, cached=True)
    with _alone(job, stage, key) as has_waited:
        if has_waited:
            found = finished(job, stage, key)
            if found is not None:
                return replace(found, cached=True)
        if index > 0 and upstream is None:
            upstream = run_stage(job, index - 1, split, keys)
        return _computed(job, stage, split, keys, upstream, damage)


@contextlib.contextmanager
def _alone(job: Job, stage: Stage, key: str) -> Iterator[bool]:
    """Keep other runs from computing the same under `isolation: serializable`; tell whether it may be done by now."""
    if job.pipeline.isolation == "none" or not leaves_receipt(stage):
        yield False
        return
    with PartitionStore(job.pipeline.storage).lock(key).held() as is_held:
        yield is_held


def _computed(
    job: Job, stage: Stage, split: Split, keys: Sequence[str], upstream: StageReceipt | None, damage: str
) -> StageReceipt:
    store, index = PartitionStore(job.pipeline.storage), stage.index
    warnings = [f"{damage}; {stage.name} on {split.name} was computed again"] if damage else []
    warnings += upstream.warnings if upstream is not None and not upstream.cached else ()
    source = job.pipeline.source
    assert source is not None, "a run has a source"
    with (
        run_by(job.token),
        tempfile.SpooledTemporaryFile(_LETTERS_IN_MEMORY) as buffer,
        contextlib.ExitStack() as stack,
    ):
        letters = _Letters(buffer)
        trace = Trace(split.name, lambda position: source.locate(split, position), letters.collect)
        if upstream is None:
            records = stack.enter_context(contextlib.closing(source.read(split, job.pipeline.record_type)))  # type: ignore[type-var]
            values = run_chain(stage.operators, decoded(stoppable(records), trace), trace)
        else:
            stored = stoppable(_stored(job, index, split, keys, upstream, warnings))
            values = run_chain(stage.operators, resumed(stored, trace), trace)
        done = _finish(stage, split, keys[index], values, trace, store)
        before = upstream.entry if upstream else Commit("", "", Part(), "")
        part = DeadLetters(job.pipeline.errors.path).stage(
            replace(split, name=f"{stage.name}-{split.name}"), letters.rewound(), letters.count
        )
        receipt = StageReceipt(
            entry=Commit(
                split=split.name,
                key=keys[index],
                part=done.part,
                digest=done.digest,
                counts=before.counts + trace.counts(),
                dead_letters=(*before.dead_letters, part),
            ),
            stored=done.stored,
            partial=done.partial,
            first_error=str(trace.first) if trace.first else (upstream.first_error if upstream else ""),
            stage=stage.name,
            kind=stage.kind,
            pipeline=job.pipeline.name,
            made=job.now,
        )
        if stage.kind == "store" and letters.count:
            store.write_letters(keys[index], letters.rewound())
        if leaves_receipt(stage):
            store.write_receipt(keys[index], receipt)
    return replace(receipt, warnings=tuple(warnings))


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
    if receipt is None or damage or _is_expired(pipeline, receipt, job.now):
        return None, damage
    if stage.kind == "store":
        return (receipt if receipt.stored is not None else None), ""
    try:
        is_whole = all(
            map(DeadLetters(pipeline.errors.path).directory.has, receipt.entry.dead_letters[-1:])
        ) and (not isinstance(stage.terminal, Sink) or stage.terminal.target.has(receipt.entry.part))
    except (OSError, SinkError):
        is_whole = False
    return (receipt if is_whole else None), ""


def _is_expired(pipeline: Pipeline, receipt: StageReceipt, now: float) -> bool:
    return pipeline.expires_s is not None and receipt.made + pipeline.expires_s <= now


def _stored(
    job: Job, index: int, split: Split, keys: Sequence[str], upstream: StageReceipt, warnings: list[str]
) -> Iterator[Located]:
    store, before = PartitionStore(job.pipeline.storage), job.stages[index - 1]
    try:
        assert upstream.stored is not None, "a stage before another one stores"
        return store.read(upstream.stored, before.out_type)
    except CorruptPartition as error:
        warnings.append(f"{error.args[0]}; {before.name} on {split.name} was computed again")
        store.forget(keys[index - 1])
        again = run_stage(replace(job, refresh_from=None), index - 1, split, keys)
        assert again.stored is not None
        return store.read(again.stored, before.out_type)


@dataclass(frozen=True)
class _Done:
    part: Part = Part()
    stored: StoredPartition | None = None
    partial: bytes = b""
    digest: str = ""


def _finish(
    stage: Stage, split: Split, key: str, values: Iterator[Any], trace: Trace, store: PartitionStore
) -> _Done:
    """Run the chain to its end: into the store, a merge, a sink, or nowhere."""
    terminal = stage.terminal
    if isinstance(terminal, Combine):
        partial = fold_records(terminal, values, trace)
        return _Done(partial=cloudpickle.dumps(partial))
    if stage.kind == "store":
        last = stage.operators[-1]

        def reject(position: int, record: Any, error: Exception) -> None:
            trace.position = position
            trace.tally(last.name).records_out -= 1
            trace.fail(f"{last.name}.store", last.error_policy, record, error)

        stored = store.write(key, located(values, trace), stage.out_type, reject, stage.codec)
        return _Done(stored=stored)
    if isinstance(terminal, Sink):
        meter = _Meter(trace, terminal, terminal.in_type, terminal.name)
        part = terminal.target.write(
            split, meter.passing(located(values, trace)), terminal.in_type, meter.reject
        )
        return _Done(part=part, digest=meter.digest())
    meter = _Meter(trace, None, stage.out_type, "count")
    for _ in meter.passing(located(values, trace)):
        pass
    return _Done(digest=meter.digest())


def merge_partials(job: Job, partials: Sequence[bytes]) -> Merged:
    """Merge the partial answers of all splits; no split gives the monoid's identity."""
    terminal = job.pipeline.terminal
    assert isinstance(terminal, Combine)
    result = merge_totals(terminal, map(cloudpickle.loads, partials))
    try:
        digest = digest_text(digest_of(canonical_encoder()(result)))
    except (TypeError, ValueError):
        digest = ""
    return Merged(result, digest)


def commit_run(
    job: Job, entries: Sequence[Commit], splits: Mapping[str, tuple[Split, Sequence[str]]]
) -> None:
    """Publish a run: its dead letters, then its output.

    Args:
        job: The run.
        entries: One for each split, in order.
        splits: Split and stage keys by split name, to find dead letters of cached stages.
    """
    letters = DeadLetters(job.pipeline.errors.path)
    store = PartitionStore(job.pipeline.storage)
    for entry in entries:
        split, keys = splits[entry.split]
        for stage, key, part in zip(job.stages, keys, entry.dead_letters, strict=False):
            if part.file and not letters.directory.has(part):
                try:
                    with store.open_letters(key) as lines:
                        letters.stage(replace(split, name=f"{stage.name}-{split.name}"), lines, part.records)
                except FileNotFoundError:  # lost since the run found it: work it out again
                    store.forget(key)
                    run_stage(job, stage.index, split, keys)
    letters.commit(entries)
    terminal = job.pipeline.terminal
    if isinstance(terminal, Sink):
        terminal.target.commit(entries)


def sweep(job: Job, keys: Iterable[str]) -> None:
    """Remove the temporary files that killed processes of a run have left.

    Args:
        job: The run.
        keys: The stage keys that they may have worked on.
    """
    PartitionStore(job.pipeline.storage).sweep(job.token, keys)
    DeadLetters(job.pipeline.errors.path).directory.sweep(job.token)
    if isinstance(job.pipeline.terminal, Sink):
        job.pipeline.terminal.target.sweep(job.token)


def published_entries(pipeline: Pipeline, now: float) -> Mapping[str, Commit]:
    """What the pipeline's sink has published, by stage key, with all its dead letters in place.

    Under `cache.expires` a part whose age at the time `now` is not known counts as expired.
    """
    terminal = pipeline.terminal
    if not isinstance(terminal, Sink):
        return {}
    published = terminal.target.published()
    if pipeline.expires_s is not None:
        store = PartitionStore(pipeline.storage)
        receipts = {key: store.receipt(key) for key in published}
        fresh = {key for key, one in receipts.items() if one and not _is_expired(pipeline, one, now)}
        published = {key: entry for key, entry in published.items() if key in fresh}
    if not any(part.file for entry in published.values() for part in entry.dead_letters):
        return published
    letters = DeadLetters(pipeline.errors.path)
    present = letters.present()
    return {key: entry for key, entry in published.items() if letters.holds(entry, present)}

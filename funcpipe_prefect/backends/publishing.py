"""Publishing a run, and what is published already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from funcpipe_prefect.backends.work import Entries, Job, has_letters, is_expired, run_stage
from funcpipe_prefect.expectations import Measured
from funcpipe_prefect.ir import Commit, Pipeline, Sink
from funcpipe_prefect.plan import Plan
from funcpipe_prefect.secrets import redacting
from funcpipe_prefect.sinks import DeadLetters
from funcpipe_prefect.store import PartitionStore

__all__ = ["commit_run", "is_published", "measures_of", "published_entries", "sweep", "with_letters"]


@redacting
def commit_run(job: Job, plan: Plan, entries: Entries) -> None:
    """Publish a run: its dead letters, then its outputs.

    Args:
        job: The run.
        plan: Its plan.
        entries: Of all ends, and of what stored a partition in this run.
    """
    letters = DeadLetters(job.pipeline.errors.path, job.pipeline.errors.keep_s)
    store = PartitionStore(job.pipeline.storage)
    for (index, number), of_task in sorted(entries.items()):
        stage, part = job.stages[index], of_task[-1].dead_letters[-1:]
        if stage.kind not in ("store", "answer") or not part or not part[0].file:
            continue
        if letters.directory.has(part[0]):
            continue
        task = plan.task(index, number)
        try:
            with store.open_letters(of_task[0].key) as lines:
                name = f"{stage.name}-{task.split.name}"
                letters.stage(replace(task.split, name=name), lines, part[0].records)
        except FileNotFoundError:  # lost since the run found it: work it out again
            store.forget(of_task[0].key)
            run_stage(job, index, task.split, task.keys, feed=task.feed)
    last = [entries[stage.index, task][-1] for stage, tasks in plan.ends() for task in tasks]
    letters.commit(last, job.token, job.now)
    for stage, tasks in plan.ends():
        if isinstance(stage.terminal, Sink):
            stage.terminal.target.commit([entry for task in tasks for entry in entries[stage.index, task]])


def is_published(sink: Sink, entries: Sequence[Commit]) -> bool:
    """Tell whether readers see just this already, so that nothing needs to be published."""
    return bool(entries) and list(sink.target.published()) == [entry.key for entry in entries]


def sweep(job: Job, keys: Iterable[str]) -> None:
    """Remove the temporary files that killed processes of a run have left.

    Args:
        job: The run.
        keys: The stage keys that they may have worked on.
    """
    PartitionStore(job.pipeline.storage).sweep(job.token, keys)
    DeadLetters(job.pipeline.errors.path).directory.sweep(job.token)
    for sink in job.pipeline.sinks:
        sink.target.sweep(job.token)


def published_entries(pipeline: Pipeline, now: float) -> Mapping[str, tuple[Commit, ...]]:
    """What the pipeline's sinks have published, by stage key, with all its dead letters in place.

    Under `cache.expires` a part whose age at the time `now` is not known counts as expired.
    """
    published: dict[str, tuple[Commit, ...]] = {}
    for sink in pipeline.sinks:
        found = sink.target.published()
        whole = _by_task(found)
        if sink.expectations:
            measured = measures_of(pipeline, found)
            whole = {
                key: entries
                for key, entries in whole.items()
                if all(len(measured[one.key]) == len(sink.expectations) for one in entries)
            }
        published |= whole
    if pipeline.expires_s is not None:
        store = PartitionStore(pipeline.storage)
        receipts = {key: store.receipt(key) for key in published}
        fresh = {key for key, one in receipts.items() if one and not is_expired(pipeline, one, now)}
        published = {key: entries for key, entries in published.items() if key in fresh}
    return with_letters(pipeline, published)


def _by_task(published: Mapping[str, Commit]) -> dict[str, tuple[Commit, ...]]:
    """Put to each entry those of what its task gave later: their keys begin with its own and a dot."""
    found: dict[str, tuple[Commit, ...]] = {
        key: (entry,) for key, entry in published.items() if "." not in key
    }
    for key, entry in published.items():
        first, dot, _ = key.partition(".")
        if dot and first in found:
            found[first] = (*found[first], entry)
    return found


def measures_of(pipeline: Pipeline, keys: Iterable[str]) -> dict[str, Measured]:
    """Find what was measured of partitions, by stage key; nothing where that is lost."""
    store = PartitionStore(pipeline.storage)
    return {key: receipt.measures if (receipt := store.receipt(key)) else () for key in keys}


def with_letters(
    pipeline: Pipeline, known: Mapping[str, tuple[Commit, ...]]
) -> Mapping[str, tuple[Commit, ...]]:
    """Give those entries whose dead letters are published."""
    if not any(map(has_letters, known.values())):
        return known
    letters = DeadLetters(pipeline.errors.path)
    present = letters.present()
    return {key: entries for key, entries in known.items() if letters.holds(entries[-1], present)}

"""Records that failed, run again by themselves: what came of all others stays as it is.

A stage keeps the records that it gave up, as they were when they reached the operator that failed,
beside its receipt. A run with `retry_errors` hands them to that operator again, with what the stage
before has made of its own; what comes through joins the stored partition, or is a further part of the sink.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

from funcpipe_prefect.errors import CorruptPartition
from funcpipe_prefect.ir import SOURCE, Commit, Located, OperatorCounts, Part, Sink, summed
from funcpipe_prefect.kernel import Trace, located, resumed, run_chain
from funcpipe_prefect.monoid import digest_total
from funcpipe_prefect.plan import Again, Stage, StageReceipt, StoredPartition, Task
from funcpipe_prefect.result import ErrorInfo
from funcpipe_prefect.schema import store_codec
from funcpipe_prefect.sinks.letters import letter_line
from funcpipe_prefect.store import PartitionStore

__all__ = ["GivenUp", "Letters", "Retry", "retry_of"]

_MOST_BYTES = 16 << 20
_position = operator.itemgetter(0)


@dataclass(frozen=True)
class GivenUp:
    """A record that failed.

    Attributes:
        operator: Where it failed.
        record: What reached the operator, without loss; None where it has no such form.
        line: Its dead letter.
    """

    operator: str
    record: bytes | None
    line: bytes


class Letters:
    """Takes the dead letters of one stage and split, and what is needed to run the records again.

    Args:
        file: Receives the letters, a line each.
        stage: The stage.
    """

    def __init__(self, file: IO[bytes], stage: Stage) -> None:
        self.file, self.count = file, 0
        self._types = _types_of(stage)
        self._kept: list[tuple[int, GivenUp]] | None = []
        self._size = 0

    def collect(self, info: ErrorInfo, record: Any) -> None:
        """Take a record that failed."""
        data: bytes | None = None
        if info.operator in self._types:
            try:
                data = store_codec(self._types[info.operator]).encode(record)
            except Exception:  # a record without a lossless form: its partition is computed again as a whole
                data = None
        self.keep(info.position, GivenUp(info.operator, data, letter_line(info, record)))

    def keep(self, position: int, one: GivenUp) -> None:
        """Take a record that stays failed."""
        self.file.write(one.line)
        self.count += 1
        self._size += len(one.line) + len(one.record or b"")
        if self._size > _MOST_BYTES:
            self._kept = None
        if self._kept is not None:
            self._kept.append((position, one))

    def rewound(self) -> IO[bytes]:
        """Give the file, at its start."""
        self.file.seek(0)
        return self.file

    def store(self, store: PartitionStore, key: str) -> StoredPartition | None:
        """Keep what is needed to run the records again, if that is possible and not too much."""
        if not self._kept:
            return None
        return store.write(f"{key}.failed", self._kept, GivenUp, _never)


def _never(position: int, record: Any, error: Exception) -> None:
    raise error


def _types_of(stage: Stage) -> dict[str, Any]:
    """The types of what reaches the operators of a stage from which a record can go on again."""
    ends = (stage.terminal,) if isinstance(stage.terminal, Sink) else ()
    return {one.name: one.in_type for one in (*stage.operators, *ends)}


@dataclass(frozen=True)
class Retry:
    """What a stage is to do on a split in place of all its work.

    Attributes:
        old: What it did before.
        failed: The records that failed in it, by operator, with positions.
        stay: Those that cannot come through: they did not decode, or have no lossless form.
        delta: What the stage before has made of records that had failed in it.
        counts: By how much that has changed the counts of the operators before.
        kept: Of a `store` stage: the partition as it is.
    """

    old: StageReceipt
    failed: dict[str, list[Located]]
    stay: Sequence[tuple[int, GivenUp]]
    delta: Iterator[Located]
    counts: tuple[OperatorCounts, ...]
    kept: Iterator[Located]

    def values(self, stage: Stage, trace: Trace, letters: Letters) -> Iterator[Any]:
        """Stream the records through the rest of the stage, each from the operator that it has reached."""
        for position, one in self.stay:
            letters.keep(position, one)
        values = resumed(self.delta, trace)
        for node in stage.operators:
            values = run_chain([node], self._joined(values, node.name, trace), trace)
        if isinstance(stage.terminal, Sink):
            values = self._joined(values, stage.terminal.name, trace)
        return values

    def _joined(self, values: Iterator[Any], name: str, trace: Trace) -> Iterator[Any]:
        rows = self.failed.get(name)
        if not rows:
            return values
        trace.tally(name).errors -= len(rows)
        return resumed(heapq.merge(located(values, trace), rows, key=_position), trace)

    def merged(self, store: PartitionStore, stage: Stage, key: str, new: StoredPartition) -> StoredPartition:
        """Store the partition anew, with the new records among the old ones."""
        both = heapq.merge(self.kept, store.read(new, stage.out_type), key=_position)
        return store.write(key, both, stage.out_type, _never, stage.codec)

    def stored(self, receipt: StageReceipt, new: StoredPartition, now: float) -> StageReceipt:
        """Give the receipt of a `store` stage, from one of the new records alone."""
        old = self.old.entry
        entry = replace(receipt.entry, counts=summed(old.counts, receipt.entry.counts))
        again = Again(old.dead_letters, new, receipt.entry.counts)
        return replace(receipt, entry=entry, again=again, made=self.old.made, retried=now)

    def written(self, store: PartitionStore, receipt: StageReceipt, token: str, now: float) -> StageReceipt:
        """Give the receipt of a `write` stage, from one of the new records alone."""
        new = replace(receipt.entry, key=f"{receipt.entry.key}.{token}")
        more = self.old.more
        if not _is_nothing(new) or new.dead_letters != self.old.entries[-1].dead_letters:
            more = (*more, new)
            store.write_receipt(new.key, replace(receipt, entry=new))
        return replace(
            self.old,
            more=more,
            retried=now,
            failed=receipt.failed,
            first_error=receipt.first_error,
            costs=receipt.costs,
        )


def _is_nothing(entry: Commit) -> bool:
    counted = any(one.passed or one.records_out or one.dropped or one.errors for one in entry.counts)
    return not entry.part.file and not counted and digest_total(entry.digest)[0] == 0


def retry_of(
    stages: Sequence[Stage], stage: Stage, task: Task, upstream: StageReceipt | None, store: PartitionStore
) -> Retry | None:
    """Say how a stage can do with the records that failed, or that it has to take them all.

    Args:
        stages: Of the plan.
        stage: One of them.
        task: The split.
        upstream: What the stage before has made, its own failed records included.
        store: Where both are kept.
    """
    key = task.keys[stage.index]
    old = store.receipt(key)
    if old is None or stage.kind not in ("store", "write") or stage.gathers is not None:
        return None
    *before, own = old.entries[-1].dead_letters
    if store.damage(key, old) or not _has_parts(stage, old) or (own.file and old.failed is None):
        return None
    types = _types_of(stage)
    failed: dict[str, list[Located]] = {}
    stay: list[tuple[int, GivenUp]] = []
    try:
        delta, counts = _delta(stages, stage, upstream, tuple(before), store)
        for position, one in store.read(old.failed, GivenUp) if old.failed is not None else ():
            if one.operator == SOURCE or one.operator.endswith(".store"):
                stay.append((position, one))
            else:
                record = store_codec(types[one.operator]).decode(one.record)
                failed.setdefault(one.operator, []).append((position, record))
        kept: Iterator[Located] = iter(())
        if stage.kind == "store":
            assert old.stored is not None
            kept = store.read(old.stored, stage.out_type)
    except (CorruptPartition, LookupError, TypeError, ValueError):
        return None
    for rows in failed.values():
        rows.sort(key=_position)
    return Retry(old, failed, stay, delta, counts, kept)


def _has_parts(stage: Stage, old: StageReceipt) -> bool:
    if not isinstance(stage.terminal, Sink):
        return True
    target = stage.terminal.target
    return target.location is not None and all(target.has(entry.part) for entry in old.entries)


def _delta(
    stages: Sequence[Stage],
    stage: Stage,
    upstream: StageReceipt | None,
    before: tuple[Part, ...],
    store: PartitionStore,
) -> tuple[Iterator[Located], tuple[OperatorCounts, ...]]:
    """Give what the stage before has made since this one last saw it.

    Raises:
        LookupError: That is not known.
    """
    if stage.upstream is None or (upstream is not None and upstream.entry.dead_letters == before):
        return iter(()), ()
    again = upstream.again if upstream is not None else None
    if again is None or again.base != before:
        raise LookupError
    return store.read(again.stored, stages[stage.upstream].out_type), again.counts

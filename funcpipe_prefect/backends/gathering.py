"""The beginning of a stage behind a grouping operator: what other tasks have handed over, merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from funcpipe_prefect import grouping
from funcpipe_prefect.errors import CorruptPartition, SourceError
from funcpipe_prefect.ir import Combine, CombineByKey, Distinct, Located, RecordSource
from funcpipe_prefect.kernel import Trace, resumed
from funcpipe_prefect.plan import Segment, Stage, StageReceipt, Task
from funcpipe_prefect.running import check, stoppable
from funcpipe_prefect.schema import store_codec
from funcpipe_prefect.store import PartitionStore

__all__ = ["gathered", "locate"]

_POSITION_BITS = 42
_MOST_SPLITS = 1 << (63 - _POSITION_BITS)

Again = Callable[..., StageReceipt]
"""Works out once more what a task has handed over."""


def gathered(
    stages: Sequence[Stage],
    stage: Stage,
    task: Task,
    receipts: Sequence[StageReceipt],
    store: PartitionStore,
    again: Again,
    trace: Trace,
) -> Iterator[Any]:
    """Give the values that a stage begins with: records, or the partial answers of a Combine.

    Args:
        stages: Of the plan.
        stage: One that gathers.
        task: Its split, and what feeds it.
        receipts: Of the tasks that feed it.
        store: Where they have handed over.
        again: Called as `again(task, is_damaged=True)` for one whose file turns out to be damaged.
        trace: Receives counts and positions.
    """
    operator, split = stage.gathers, task.split
    entries = _Entries(stages, task, receipts, store, again)
    keys = grouping.KeyRange.of(split.start, max(1, split.stop))
    match operator:
        case Combine():
            totals = (total for _, columns in entries.of(grouping.ALL_KEYS) for total in columns[1])
            if stage.kind == "group":
                return totals
            return _answered(operator, totals, trace)
        case CombineByKey():

            def partials(some: grouping.KeyRange) -> Iterator[grouping.Partials]:
                for _, columns in entries.of(some):
                    yield grouping.Partials(columns[0], columns[1])

            return resumed(stoppable(grouping.merged_by_key(operator, partials, keys, trace)), trace)
        case Distinct():
            decode = store_codec(operator.in_type).decode

            def candidates(some: grouping.KeyRange) -> Iterator[grouping.Candidates]:
                for base, columns in entries.of(some):
                    positions = [base + position for position in columns[1]] if base else columns[1]
                    yield grouping.Candidates(columns[0], positions, columns[2])

            found: Iterator[Located] = grouping.survivors(operator, candidates, keys, trace, decode)
            return resumed(stoppable(found), trace)
    raise AssertionError(f"{stage.name} gathers nothing")


def _answered(operator: Combine, totals: Iterator[Any], trace: Trace) -> Iterator[Any]:
    trace.position = 0
    yield grouping.answer(operator, totals, trace)


class _Entries:
    """The entries that tasks have handed over, in the order of these tasks."""

    def __init__(
        self,
        stages: Sequence[Stage],
        task: Task,
        receipts: Sequence[StageReceipt],
        store: PartitionStore,
        again: Again,
    ) -> None:
        assert task.feed is not None
        self._feeder, self._tasks = stages[task.feed.stage], task.feed.tasks
        self._receipts, self._store, self._again = list(receipts), store, again

    def of(self, keys: grouping.KeyRange) -> Iterator[tuple[int, list[list[Any]]]]:
        """Yield the columns of all segments that hold keys of a range, and what to add to positions."""
        for number in range(len(self._tasks)):
            check()
            base = self._base(number)
            for columns in self._of_task(number, keys):
                yield base, columns

    def _base(self, number: int) -> int:
        """Positions count from each split's own begin where the splits are the source's."""
        if self._tasks[number].feed is not None:
            return 0
        if number >= _MOST_SPLITS:
            raise SourceError(f"more than {_MOST_SPLITS} splits cannot be grouped: use a larger split_size")
        return number << _POSITION_BITS

    def _of_task(self, number: int, keys: grouping.KeyRange) -> Iterator[list[list[Any]]]:
        key, wanted = self._tasks[number].keys[self._feeder.index], self._segments(number, keys)
        read = 0
        try:
            for segment, columns in zip(wanted, self._store.exchanged(key, wanted), strict=True):
                yield self._inside(segment, columns, keys)
                read += 1
        except CorruptPartition:
            self._receipts[number] = self._again(self._tasks[number], is_damaged=True)
            rest = self._segments(number, keys)[read:]  # the same entries are in the same segments
            for segment, columns in zip(rest, self._store.exchanged(key, rest), strict=True):
                yield self._inside(segment, columns, keys)

    def _segments(self, number: int, keys: grouping.KeyRange) -> list[Segment]:
        slots = self._feeder.slots
        first, last = grouping.slot_of(keys.start, slots), grouping.slot_of(keys.stop - 1, slots)
        return [one for one in self._receipts[number].exchange or () if first <= one.slot <= last]

    def _inside(self, segment: Segment, columns: list[list[Any]], keys: grouping.KeyRange) -> list[list[Any]]:
        """Leave out the rows of other keys, where a slot is shared by two ranges."""
        slots = self._feeder.slots
        lowest = -(-(segment.slot << 32) // slots)
        behind = -(-((segment.slot + 1) << 32) // slots)
        return columns if keys.start <= lowest and behind <= keys.stop else _only(columns, keys)


def _only(columns: list[list[Any]], keys: grouping.KeyRange) -> list[list[Any]]:
    order_of, start, stop = grouping.order_of, keys.start, keys.stop
    inside = [start <= order_of(key) < stop for key in columns[0]]
    return [[value for value, is_in in zip(column, inside, strict=True) if is_in] for column in columns]


def locate(
    source: RecordSource | None,
    stages: Sequence[Stage],
    task: Task,
    position: int,
    *,
    is_for_people: bool = True,
) -> str:
    """Say where a record stems from.

    Args:
        source: Of the pipeline.
        stages: Of the plan.
        task: The split that the position is of, and what feeds it.
        position: As the kernel has it.
        is_for_people: Else a name that is the same for any partitioning.
    """
    feed = task.feed
    if feed is None:
        if is_for_people:
            assert source is not None
            return source.locate(task.split, position)
        members = task.split.members
        if members:
            return members[position]
        return f"{task.split.name if task.split.moves else task.split.location}#{position}"
    operator = stages[feed.stage].terminal
    if isinstance(operator, Distinct) and feed.tasks:
        number, rest = position >> _POSITION_BITS, position & ((1 << _POSITION_BITS) - 1)
        if feed.tasks[0].feed is not None:
            number, rest = 0, position
        return locate(source, stages, feed.tasks[number], rest, is_for_people=is_for_people)
    name = operator.name if operator is not None else task.split.name
    return f"{name}, key hash {position:08x}" if isinstance(operator, CombineByKey) else name

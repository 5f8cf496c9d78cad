"""Lowering: a pipeline and its splits become stages, lanes and keys.

Operators become five kinds of stage: run a chain and store its partition, write it to a sink, only
count it, hand it over in groups (the first half of Combine, CombineByKey and Distinct), or keep an
answer. A lane is a list of splits with the stages that run on each of them: the source's splits, and
behind every grouping operator the ranges of keys, or groups of partial answers, that its second half
works on. An operator that several others read ends a stage, as a materialization point does, so
every operator runs once.

A stage's key for a split hashes the stage's fingerprint with the keys before it, so keys form a
Merkle chain that begins at the split's identity. A split's name is part of it, since parts, dead
letters and manifests carry it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from typing_extensions import assert_never

from funcpipe_prefect import fingerprint as fp
from funcpipe_prefect.errors import PipelineError, Place, Problem, near_misses
from funcpipe_prefect.ir import (
    SOURCE,
    BatchMap,
    CodecName,
    Combine,
    CombineByKey,
    Commit,
    Distinct,
    Filter,
    FlatMap,
    Function,
    GroupOperator,
    Map,
    Operator,
    OperatorCost,
    OperatorCounts,
    Part,
    Pipeline,
    RecordOperator,
    Sink,
    Split,
)

__all__ = [
    "Feed",
    "Lane",
    "Plan",
    "Segment",
    "Stage",
    "StageKind",
    "StageReceipt",
    "StoredPartition",
    "Task",
    "behind",
    "cautions",
    "lower",
    "plan_run",
    "stage_of",
]

StageKind: TypeAlias = Literal["store", "group", "answer", "write", "count"]

_MOST_PARTITIONS, _SLOTS = 32, 64


@dataclass(frozen=True)
class Stage:
    """Consecutive operators fused into one task per split.

    Attributes:
        name: The operators' names joined by `+`; `x.merge` is the second half of `x`.
        kind: What happens to the records that come through: `store` them as a partition, `group`
            them, keep a Combine's `answer`, `write` them to a sink, or only `count` them.
        terminal: The sink, or the operator whose first half the stage ends in.
        out_type: The type of the records that come through.
        codec: How a `store` stage's partitions are written.
        lane: The lane that it runs in.
        upstream: The stage of the same lane whose stored partition it reads; None: it begins the lane.
        gathers: The operator whose second half it begins with.
        feeder: The stage whose entries that second half merges.
        slots: Of a `group` stage: in how many ranges of keys its entries are written.
    """

    index: int
    name: str
    kind: StageKind
    operators: tuple[RecordOperator, ...]
    terminal: GroupOperator | Sink | None
    out_type: Any
    fingerprint: str
    codec: CodecName = "msgpack"
    lane: int = 0
    upstream: int | None = None
    gathers: GroupOperator | None = None
    feeder: int | None = None
    slots: int = 1

    @property
    def nodes(self) -> tuple[Operator, ...]:
        """All operators that have a part in it."""
        first: tuple[Operator, ...] = () if self.gathers is None else (self.gathers,)
        return (*first, *self.operators, *(() if self.terminal is None else (self.terminal,)))


@dataclass(frozen=True, slots=True)
class StoredPartition:
    """A reference to a stored partition: what travels in place of its records."""

    key: str
    records: int
    size: int
    sha256: str
    codec: CodecName = "msgpack"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of an exchange file: entries whose keys are in one slot.

    Attributes:
        offset: First byte.
        size: Bytes in the file.
        raw: Bytes when decompressed.
        sha256: The first 32 hexadecimal digits.
    """

    slot: int
    offset: int
    size: int
    raw: int
    entries: int
    sha256: str


@dataclass(frozen=True)
class Again:
    """What a stage has made of the records that had failed before.

    Attributes:
        base: The dead letters on the way to the stage's partition, before.
        stored: The new records alone; the stage's partition holds them, too.
        counts: By how much the counts of the operators have changed.
    """

    base: tuple[Part, ...]
    stored: StoredPartition
    counts: tuple[OperatorCounts, ...]


@dataclass(frozen=True, slots=True)
class StageReceipt:
    """What a stage's task returns for one split: small, whatever the partition's size.

    Attributes:
        entry: Key, written part, digest, counts of every operator up to here, dead letters.
        stored: The stored partition of a `store` stage, the answer of an `answer` stage.
        exchange: What a `group` stage has handed over.
        cached: Nothing ran: the partition was in the store already.
        first_error: The first dead letter in words, for the message of a failed run.
        stage: The stage's name.
        kind: What the stage did with its records.
        pipeline: The name of the pipeline that it was made for.
        made: The start of the run that made it, in seconds since 1970.
        warnings: What was found damaged on the way.
        measures: What was measured of the records for the sink's expectations.
        more: What a sink was given later, of records that failed at first.
        failed: The records that failed here, as they are needed to run them again.
        again: What came of records that had failed, in the last run that ran them again.
        retried: The start of that run, in seconds since 1970.
        costs: What this stage's operators have cost; of the records run again alone, where there are such.
    """

    entry: Commit
    stored: StoredPartition | None = None
    exchange: tuple[Segment, ...] | None = None
    cached: bool = False
    first_error: str = ""
    stage: str = ""
    kind: StageKind = "store"
    pipeline: str = ""
    made: float = 0.0
    warnings: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    more: tuple[Commit, ...] = ()
    failed: StoredPartition | None = None
    again: Again | None = None
    retried: float = 0.0
    costs: tuple[OperatorCost, ...] = ()

    @property
    def seconds(self) -> float:
        """How long the stage has taken."""
        return sum(cost.seconds for cost in self.costs)

    @property
    def entries(self) -> tuple[Commit, ...]:
        """The entry, and those of what was given later."""
        return (self.entry, *self.more)


@dataclass(frozen=True, slots=True)
class Task:
    """A split of a lane.

    Attributes:
        keys: By the index of a stage; empty for stages of other lanes.
        feed: Where its records come from; None: from the source.
    """

    split: Split
    keys: tuple[str, ...]
    feed: Feed | None = None


@dataclass(frozen=True)
class Feed:
    """What a task gathers: the entries that a stage has handed over on other splits."""

    stage: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Lane:
    """Splits, and the stages that run on each of them, by index."""

    stages: tuple[int, ...]
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Plan:
    """What a run does: stages, splits, and the key of every pair of them.

    Attributes:
        published: What need not run, since its end is there already, with its entries: by the index
            of the stage, and of the task in its lane.
    """

    pipeline: Pipeline
    stages: tuple[Stage, ...]
    lanes: tuple[Lane, ...]
    published: Mapping[tuple[int, int], tuple[Commit, ...]] = field(default_factory=dict)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The source's splits."""
        return tuple(task.split for task in self.lanes[0].tasks)

    @property
    def keys(self) -> tuple[tuple[str, ...], ...]:
        """For each of the source's splits the keys of all stages."""
        return tuple(task.keys for task in self.lanes[0].tasks)

    @property
    def pending(self) -> tuple[int, ...]:
        """The source's splits on which something is to run."""
        return tuple(sorted({task for stage, task in self.needed if self.stages[stage].lane == 0}))

    def task(self, stage: int, task: int) -> Task:
        """A task by the index of a stage and its own in the stage's lane."""
        return self.lanes[self.stages[stage].lane].tasks[task]

    def ends(self) -> Iterator[tuple[Stage, range]]:
        """The stages that give something to the user, with the indices of their tasks."""
        for stage in self.stages:
            if stage.kind in ("write", "answer", "count"):
                yield stage, range(len(self.lanes[stage.lane].tasks))

    def size(self) -> int:
        """How many stage runs there are, whether or not they need to run."""
        return sum(len(lane.stages) * len(lane.tasks) for lane in self.lanes)

    @functools.cached_property
    def needed(self) -> frozenset[tuple[int, int]]:
        """Stage and task of everything that an end needs which is not there yet."""
        places = {
            task.keys[index]: (index, number)
            for lane in self.lanes[:-1]  # of the last one nothing is gathered
            for number, task in enumerate(lane.tasks)
            for index in lane.stages
        }
        waiting = [
            (stage.index, task)
            for stage, tasks in self.ends()
            for task in tasks
            if (stage.index, task) not in self.published
        ]
        found: set[tuple[int, int]] = set()
        while waiting:
            place = waiting.pop()
            if place in found or place in self.published:
                continue
            found.add(place)
            stage, task = self.stages[place[0]], self.task(*place)
            if stage.upstream is not None:
                waiting.append((stage.upstream, place[1]))
            elif task.feed is not None:
                waiting += [places[one.keys[task.feed.stage]] for one in task.feed.tasks]
        return frozenset(found)


def lower(pipeline: Pipeline, splits: int = 1) -> tuple[Stage, ...]:
    """Cut a pipeline into stages.

    Args:
        pipeline: A checked pipeline.
        splits: How many the source has; partial answers are merged in as many steps as that takes.
    """
    lowering = _Lowering(pipeline, splits)
    lowering.grow(SOURCE, _Point(0))
    return tuple(lowering.stages)


@dataclass(frozen=True)
class _Point:
    """How far a stage has grown."""

    lane: int
    chain: tuple[RecordOperator, ...] = ()
    upstream: int | None = None
    gathers: GroupOperator | None = None


@dataclass(frozen=True)
class _Shape:
    """A lane to be: how many splits, and from which stage and lane they are fed."""

    count: int
    operator: GroupOperator | None = None
    feeder: int = -1


class _Lowering:
    def __init__(self, pipeline: Pipeline, splits: int) -> None:
        self.pipeline = pipeline
        self.stages: list[Stage] = []
        self.shapes = [_Shape(splits)]
        self._types = {SOURCE: pipeline.record_type} | {
            op.name: op.out_type for op in pipeline.operators if not isinstance(op, Sink)
        }

    def grow(self, name: str, point: _Point) -> None:
        """Go on behind an operator, or the source, with all that reads it."""
        readers = self.pipeline.readers_of(name)
        is_stored = point.upstream is not None and not point.chain and point.gathers is None
        if not is_stored and (len(readers) > 1 or name in self.pipeline.materialization_points):
            point = _Point(point.lane, upstream=self._add("store", name, point, None))
        if not readers and not (is_stored and self.stages[point.upstream or 0].kind == "answer"):
            self._add("count", name, point, None)
        for reader in readers:
            match reader:
                case Sink():
                    self._add("write", name, point, reader)
                case Combine() | CombineByKey() | Distinct():
                    self._group(name, point, reader)
                case Map() | FlatMap() | BatchMap() | Filter():
                    chain = (*point.chain, reader)
                    self.grow(reader.name, _Point(point.lane, chain, point.upstream, point.gathers))
                case _:
                    assert_never(reader)

    def _group(self, name: str, point: _Point, operator: GroupOperator) -> None:
        index = self._add("group", name, point, operator)
        count = self.shapes[point.lane].count
        if not isinstance(operator, Combine):
            wanted = operator.partitions or max(1, min(_MOST_PARTITIONS, count))
            self.grow(operator.name, _Point(self._lane(wanted, operator, index), gathers=operator))
            return
        while count > operator.fan_in:
            count = -(-count // operator.fan_in)
            lane = self._lane(count, operator, index)
            index = self._add("group", operator.name, _Point(lane, gathers=operator), operator)
        lane = self._lane(1, operator, index)
        index = self._add("answer", operator.name, _Point(lane, gathers=operator), None)
        self.grow(operator.name, _Point(lane, upstream=index))

    def _lane(self, count: int, operator: GroupOperator, feeder: int) -> int:
        self.shapes.append(_Shape(count, operator, feeder))
        return len(self.shapes) - 1

    def _add(self, kind: StageKind, name: str, point: _Point, terminal: GroupOperator | Sink | None) -> int:
        is_level = point.gathers is not None and point.gathers is terminal
        own = () if terminal is None or is_level else (terminal,)
        operators: list[Operator] = [*point.chain, *own]
        names = [operator.name for operator in operators]
        if point.gathers is not None:
            names.insert(0, f"{point.gathers.name}.merge")
        codec: CodecName = "value" if kind == "answer" else "msgpack"
        if kind == "store":
            codec = self.pipeline.codecs.get(name, "msgpack")
        # Pickle gives back what the others refuse; they give back the same and need no key of their own.
        extra = ["pickle"] if codec == "pickle" else []
        slots = _slots(terminal) if kind == "group" else 1
        extra += [f"merge {point.gathers.name}"] if point.gathers is not None else []
        extra += [f"slots {slots}"] if kind == "group" else []
        self.stages.append(
            Stage(
                index=len(self.stages),
                name="+".join(names) or (SOURCE if kind == "store" else kind),
                kind=kind,
                operators=point.chain,
                terminal=terminal,
                out_type=self._types[name],
                fingerprint=fp.key_of(kind, *map(_operator_fingerprint, operators), *extra),
                codec=codec,
                lane=point.lane,
                upstream=point.upstream,
                gathers=point.gathers,
                feeder=self.shapes[point.lane].feeder if point.gathers is not None else None,
                slots=slots,
            )
        )
        return len(self.stages) - 1


def _slots(operator: GroupOperator | Sink | None) -> int:
    """Say in how many ranges entries are written: not as many as there are partitions, which may change."""
    if isinstance(operator, (CombineByKey, Distinct)):
        return max(_SLOTS, operator.partitions)
    return 1


def cautions(stages: Sequence[Stage]) -> list[str]:
    """Say what a careful user would want to know of how the stages are stored."""
    return [
        f"{stage.name} is stored by pickle: to read a partition runs whatever code is in its file, and fails "
        "once the classes that it names have moved; msgpack and arrow do neither"
        for stage in stages
        if stage.codec == "pickle"
    ]


def stage_of(stages: Sequence[Stage], operator: str, option: str) -> int:
    """Find the stage that holds an operator.

    Args:
        stages: Of a pipeline.
        operator: An operator's name.
        option: Where the name stands, for the message.

    Raises:
        PipelineError: FP124, there is no such operator.
    """
    holders: dict[str, int] = {}
    for stage in stages:
        for node in stage.nodes:
            holders.setdefault(node.name, stage.index)
    if operator not in holders:
        raise PipelineError([
            Problem("FP124", "unknown operator", Place(option), f'"{operator}"', ", ".join(holders),
                    near_misses(operator, holders))
        ])  # fmt: skip
    return holders[operator]


def behind(stages: Sequence[Stage], index: int) -> frozenset[int]:
    """Give a stage and all that take what it gives, directly or not, by index."""
    found = {index}
    for stage in stages:  # a stage comes behind those that it depends on
        if stage.upstream in found or stage.feeder in found:
            found.add(stage.index)
    return frozenset(found)


def _operator_fingerprint(operator: Operator) -> str:
    common = (type(operator).__name__, operator.name, operator.error_policy)
    transient = tuple(sorted(cls.__qualname__ for cls in operator.transient))
    match operator:
        case Map() | FlatMap() | Filter():
            own: tuple[Any, ...] = (operator.in_type, operator.out_type)
            code = _function_fingerprint(operator.func)
        case BatchMap():
            own = (operator.in_type, operator.out_type, operator.max_batch_size)
            code = _function_fingerprint(operator.func)
        case Combine():
            own = (operator.in_type, operator.monoid)
            code = _function_fingerprint(operator.lift)
        case CombineByKey():
            windowing = operator.windowing
            windows = (windowing.windows, _function_fingerprint(windowing.time)) if windowing else None
            own = (operator.in_type, operator.key_type, operator.monoid, windows)
            code = fp.key_of(_function_fingerprint(operator.key), _function_fingerprint(operator.lift))
        case Distinct():
            own = (operator.in_type, operator.key_type)
            code = _function_fingerprint(operator.key) if operator.key else ""
        case Sink():
            own = (operator.in_type, _measured(operator)) if operator.expectations else (operator.in_type,)
            code = fp.fingerprint(getattr(operator.target, "stands_for", operator.target))
        case _:
            assert_never(operator)
    return fp.key_of(fp.fingerprint(common, transient, own), code)


def _measured(sink: Sink) -> list[Any]:
    """Give what is measured of the records, without its bounds."""
    return [
        (one.kind, one.field, _function_fingerprint(one.func) if one.func else "")
        for one in sink.expectations
    ]


def _function_fingerprint(function: Function) -> str:
    code: Any = function.call if function.version is None else function.version
    artifacts = [
        (item.name, item.build if item.version is None else item.version) for item in function.artifacts
    ]
    return fp.fingerprint(function.name, code, dict(function.params), artifacts)


def plan_run(pipeline: Pipeline, splits: Sequence[Split]) -> Plan:
    """Work out stages, lanes and keys; touches no data.

    Args:
        pipeline: A checked pipeline.
        splits: The source's splits, in order.
    """
    lowering = _Lowering(pipeline, len(splits))
    lowering.grow(SOURCE, _Point(0))
    stages = tuple(lowering.stages)
    root = fp.key_of(
        SOURCE, f"{sys.version_info.major}.{sys.version_info.minor}", _source_fingerprint(pipeline)
    )
    lanes: list[Lane] = []
    for number, shape in enumerate(lowering.shapes):
        own = tuple(stage for stage in stages if stage.lane == number)
        if shape.operator is None:
            begun: list[tuple[Split, Feed | None, str]] = [
                (split, None, _key_of_split(root, split)) for split in splits
            ]
        else:
            feeders = lanes[stages[shape.feeder].lane].tasks
            begun = [*_fed(shape, shape.operator, feeders)]
        tasks = tuple(Task(split, _chain_keys(key, own, len(stages)), feed) for split, feed, key in begun)
        lanes.append(Lane(tuple(stage.index for stage in own), tasks))
    return Plan(pipeline, stages, tuple(lanes))


def _fed(
    shape: _Shape, operator: GroupOperator, feeders: Sequence[Task]
) -> Iterator[tuple[Split, Feed, str]]:
    """Give the splits of a lane behind a grouping operator: ranges of keys, or groups of partial answers."""
    whole = Feed(shape.feeder, tuple(feeders))
    for index in range(shape.count):
        feed = whole
        if isinstance(operator, Combine):
            size = operator.fan_in if shape.count > 1 else max(1, len(feeders))
            feed = Feed(shape.feeder, tuple(feeders[index * size : (index + 1) * size]))
        name = operator.name if shape.count == 1 else f"{operator.name}-{index:05d}-of-{shape.count:05d}"
        keys = (task.keys[shape.feeder] for task in feed.tasks)
        yield (
            Split(name, "", index, shape.count),
            feed,
            fp.key_of("gather", str(index), str(shape.count), *keys),
        )


def _source_fingerprint(pipeline: Pipeline) -> str:
    source = getattr(pipeline.source, "stands_for", pipeline.source)
    return fp.fingerprint(source, pipeline.record_type)


def _key_of_split(root: str, split: Split) -> str:
    place = () if split.moves else (str(split.start), str(split.stop))
    return fp.key_of(root, split.name, split.location, *place, split.identity)


def _chain_keys(key: str, stages: Sequence[Stage], count: int) -> tuple[str, ...]:
    keys = [""] * count
    for stage in stages:
        before = key if stage.upstream is None else keys[stage.upstream]
        keys[stage.index] = fp.key_of(stage.fingerprint, before)
    return tuple(keys)

"""Lowering: a pipeline and its splits become stages and keys.

Five operators become three kinds of stage: run a chain and store its partition, run a chain and
merge, run a chain and write. A stage's key for a split hashes the stage's fingerprint with the
key before it, so keys form a Merkle chain that begins at the split's identity. A split's name is
part of it, since parts, dead letters and manifests carry it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from typing_extensions import assert_never

from funcpipe_prefect import fingerprint as fp
from funcpipe_prefect.errors import PipelineError, Place, Problem, near_misses
from funcpipe_prefect.ir import (
    BatchMap,
    CodecName,
    Combine,
    Commit,
    FlatMap,
    Function,
    Map,
    Operator,
    Pipeline,
    RecordOperator,
    Sink,
    Split,
)

__all__ = [
    "Plan",
    "Stage",
    "StageKind",
    "StageReceipt",
    "StoredPartition",
    "cautions",
    "lower",
    "plan_run",
    "stage_of",
]

StageKind: TypeAlias = Literal["store", "merge", "write", "count"]


@dataclass(frozen=True)
class Stage:
    """Consecutive operators fused into one task per split.

    Attributes:
        name: The operators' names joined by `+`.
        kind: What happens to the records that come through: `store` them as a partition, `merge`
            them by a monoid, `write` them to a sink, or only `count` them.
        out_type: The type of those records.
        codec: How a `store` stage's partitions are written.
    """

    index: int
    name: str
    kind: StageKind
    operators: tuple[RecordOperator, ...]
    terminal: Combine | Sink | None
    out_type: Any
    fingerprint: str
    codec: CodecName = "msgpack"


@dataclass(frozen=True)
class StoredPartition:
    """A reference to a stored partition: what travels in place of its records."""

    key: str
    records: int
    size: int
    sha256: str
    codec: CodecName = "msgpack"


@dataclass(frozen=True)
class StageReceipt:
    """What a stage's task returns for one split: small, whatever the partition's size.

    Attributes:
        entry: Key, written part, digest, counts of every operator up to here, dead letters.
        stored: The stored partition of a `store` stage.
        partial: The pickled partial answer of a `merge` stage.
        cached: Nothing ran: the partition was in the store already.
        first_error: The first dead letter in words, for the message of a failed run.
        stage: The stage's name.
        kind: What the stage did with its records.
        pipeline: The name of the pipeline that it was made for.
        made: The start of the run that made it, in seconds since 1970.
        warnings: What was found damaged on the way.
    """

    entry: Commit
    stored: StoredPartition | None = None
    partial: bytes = b""
    cached: bool = False
    first_error: str = ""
    stage: str = ""
    kind: StageKind = "store"
    pipeline: str = ""
    made: float = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a run does: stages, splits, and the key of every pair of them.

    Attributes:
        keys: For each split the key of each stage.
        published: Splits whose final part readers see already, by index.
    """

    pipeline: Pipeline
    stages: tuple[Stage, ...]
    splits: tuple[Split, ...]
    keys: tuple[tuple[str, ...], ...]
    published: Mapping[int, Commit]

    @property
    def pending(self) -> tuple[int, ...]:
        """The splits that are not published yet, by index."""
        return tuple(index for index in range(len(self.splits)) if index not in self.published)

    @property
    def by_name(self) -> Mapping[str, tuple[Split, tuple[str, ...]]]:
        """Split and stage keys by split name."""
        return {split.name: (split, keys) for split, keys in zip(self.splits, self.keys, strict=True)}


def lower(pipeline: Pipeline) -> tuple[Stage, ...]:
    """Cut a pipeline into stages: one behind each materialization point, the last at the terminal."""
    stages: list[Stage] = []
    chain: list[RecordOperator] = []
    for operator in pipeline.record_operators:
        chain.append(operator)
        if operator.name in pipeline.materialization_points:
            stages.append(_stage(len(stages), "store", chain, None, pipeline))
            chain = []
    terminal = pipeline.terminal
    match terminal:
        case Sink():
            stages.append(_stage(len(stages), "write", chain, terminal, pipeline))
        case Combine():
            stages.append(_stage(len(stages), "merge", chain, terminal, pipeline))
        case None:
            stages.append(_stage(len(stages), "count", chain, None, pipeline))
        case _:
            assert_never(terminal)
    return tuple(stages)


def _stage(
    index: int,
    kind: StageKind,
    chain: Sequence[RecordOperator],
    terminal: Combine | Sink | None,
    pipeline: Pipeline,
) -> Stage:
    operators: list[Operator] = [*chain, *([terminal] if terminal else [])]
    out_type = chain[-1].out_type if chain else (terminal.in_type if terminal else pipeline.record_type)
    codec = pipeline.codecs.get(chain[-1].name, "msgpack") if kind == "store" else "msgpack"
    # Pickle gives back what the others refuse; they give back the same and need no key of their own.
    pickled = ("pickle",) if codec == "pickle" else ()
    return Stage(
        index=index,
        name="+".join(operator.name for operator in operators) or "count",
        kind=kind,
        operators=tuple(chain),
        terminal=terminal,
        out_type=out_type,
        fingerprint=fp.key_of(kind, *(_operator_fingerprint(operator) for operator in operators), *pickled),
        codec=codec,
    )


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
    holders = {
        node.name: stage.index
        for stage in stages
        for node in (*stage.operators, *([stage.terminal] if stage.terminal else []))
    }
    if operator not in holders:
        raise PipelineError([
            Problem("FP124", "unknown operator", Place(option), f'"{operator}"', ", ".join(holders),
                    near_misses(operator, holders))
        ])  # fmt: skip
    return holders[operator]


def _operator_fingerprint(operator: Operator) -> str:
    common = (type(operator).__name__, operator.name, operator.error_policy)
    transient = tuple(sorted(cls.__qualname__ for cls in operator.transient))
    match operator:
        case Map() | FlatMap():
            own: tuple[Any, ...] = (operator.in_type, operator.out_type)
            code = _function_fingerprint(operator.func)
        case BatchMap():
            own = (operator.in_type, operator.out_type, operator.max_batch_size)
            code = _function_fingerprint(operator.func)
        case Combine():
            own = (operator.in_type, operator.monoid)
            code = _function_fingerprint(operator.lift)
        case Sink():
            own = (operator.in_type,)
            code = fp.fingerprint(operator.target)
        case _:
            assert_never(operator)
    return fp.key_of(fp.fingerprint(common, transient, own), code)


def _function_fingerprint(function: Function) -> str:
    code: Any = function.call if function.version is None else function.version
    artifacts = [
        (item.name, item.build if item.version is None else item.version) for item in function.artifacts
    ]
    return fp.fingerprint(function.name, code, dict(function.params), artifacts)


def plan_run(
    pipeline: Pipeline,
    splits: Sequence[Split],
    *,
    published: Mapping[str, Commit] | None = None,
    refresh: bool = False,
) -> Plan:
    """Work out stages and keys; touches no data.

    Args:
        pipeline: A checked pipeline.
        splits: The source's splits, in order.
        published: What the sink has published, by stage key.
        refresh: Take nothing as published.
    """
    stages = lower(pipeline)
    root = fp.key_of(
        "source", f"{sys.version_info.major}.{sys.version_info.minor}", _source_fingerprint(pipeline)
    )
    keys = tuple(_chain_keys(root, split, stages) for split in splits)
    known = {} if refresh or published is None else published
    done = {index: known[chain[-1]] for index, chain in enumerate(keys) if chain[-1] in known}
    return Plan(pipeline, stages, tuple(splits), keys, done)


def _source_fingerprint(pipeline: Pipeline) -> str:
    source = getattr(pipeline.source, "stands_for", pipeline.source)
    return fp.fingerprint(source, pipeline.record_type)


def _chain_keys(root: str, split: Split, stages: Sequence[Stage]) -> tuple[str, ...]:
    key = fp.key_of(root, split.name, split.location, str(split.start), str(split.stop), split.identity)
    keys = []
    for stage in stages:
        key = fp.key_of(stage.fingerprint, key)
        keys.append(key)
    return tuple(keys)

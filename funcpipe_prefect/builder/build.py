"""Checks every contract and makes the pipeline; all violations are reported at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from funcpipe_prefect.builder.endpoints import build_sink, build_source, declared_record
from funcpipe_prefect.builder.gate import with_expectations
from funcpipe_prefect.builder.graph import FROM_SOURCE, build_order, check_ends, check_writers, inputs_of
from funcpipe_prefect.builder.groups import build_combine, build_combine_by_key, build_distinct
from funcpipe_prefect.builder.imports import gather_registry
from funcpipe_prefect.builder.operators import build_record_operator
from funcpipe_prefect.builder.scope import Scope
from funcpipe_prefect.builder.storing import check_isolation, choose_codecs
from funcpipe_prefect.builder.tags import codec_type, fits, show
from funcpipe_prefect.config import (
    BatchMapSpec,
    CombineByKeySpec,
    CombineSpec,
    Config,
    DistinctSpec,
    FilterSpec,
    FlatMapSpec,
    MapSpec,
    OperatorSpec,
    SinkSpec,
    load_config,
)
from funcpipe_prefect.config.places import KeyPath
from funcpipe_prefect.errors import near_misses
from funcpipe_prefect.ir import (
    SOURCE,
    BeamSettings,
    ErrorSettings,
    Operator,
    Pipeline,
    Resources,
    Retries,
    Sink,
)
from funcpipe_prefect.registry import Registry

__all__ = ["build_pipeline", "default_storage", "load_pipeline"]

_DATABASES = ("sqlite", "postgresql", "<secret ")
"""Beginnings of locations beside which no file can be put."""


def load_pipeline(
    path_or_mapping: str | Path | Mapping[str, Any],
    registry: Registry | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    input: str | Iterable[Any] | None = None,
    output: str | None = None,
) -> Pipeline:
    """Read a pipeline, check every contract and build it; nothing runs.

    Args:
        path_or_mapping: A pipeline file, or the same as a mapping.
        registry: Names beside those of the modules under `imports:`.
        overrides: Values by key path, such as `{"resources.workers": 4}`.
        input: A path or URL that replaces the source's, or the records themselves.
        output: A path or URL that replaces the sink's.

    Returns:
        The checked pipeline.

    Raises:
        PipelineError: Every problem of the file, each with place, cause and mend.
    """
    config = load_config(path_or_mapping, overrides)
    return build_pipeline(config, registry, input=input, output=output)


def build_pipeline(
    config: Config,
    registry: Registry | None = None,
    *,
    input: str | Iterable[Any] | None = None,
    output: str | None = None,
) -> Pipeline:
    """Make a pipeline from its config, or raise every problem at once.

    Raises:
        PipelineError: The config's problems and the builder's, in document order.
    """
    scope = Scope(config, gather_registry(config, registry), output)
    _check_names(config)
    inputs = inputs_of(config)
    order = build_order(config, inputs)
    check_ends(config, inputs)
    _check_materialization_points(config)
    _check_output(config, scope)
    built = with_expectations(scope, _operators(scope, inputs, order))
    check_writers(config, built)
    first = [built[index] for index in order if inputs[index] == FROM_SOURCE]
    source, record_type = build_source(scope, input, next((one for one in first if one is not None), None))
    _check_readers(scope, record_type, first[1:])
    storage = config.cache.storage or default_storage()
    check_isolation(scope, storage)
    codecs = choose_codecs(scope, built)
    config.raise_problems()
    operators = [operator for index in order if (operator := built[index]) is not None]
    name = config.name or _name_of(config)
    return Pipeline(
        name=name,
        operators=tuple(_encodable(operator) for operator in operators),
        errors=ErrorSettings(
            path=config.errors.path or _dead_letters_beside(operators, name),
            max_error_rate=config.errors.max_error_rate,
            keep_s=config.errors.keep,
        ),
        storage=storage,
        source=source,
        record_type=codec_type(record_type),
        backend=config.backend,  # type: ignore[arg-type]  # one of three words by the spec
        resources=_resources(config),
        beam=_beam(config),
        materialization_points=tuple(config.materialization_points),
        retries=_retries(config),
        expires_s=config.cache.expires,
        isolation=config.cache.isolation,
        codecs=codecs,
        inputs=_inputs(config, inputs, order),
    )


def _inputs(config: Config, inputs: Sequence[int | None], order: Sequence[int]) -> dict[str, str]:
    """Give what each operator reads, where that is not the one before it."""
    names = [spec.name or "" if spec else "" for spec in config.operators]
    read: dict[str, str] = {}
    for place, index in enumerate(order):
        found = inputs[index]
        before = order[place - 1] if place else FROM_SOURCE
        if found is not None and found != before:
            read[names[index]] = SOURCE if found == FROM_SOURCE else names[found]
    return read


def _check_readers(scope: Scope, record_type: Any, others: Sequence[Operator | None]) -> None:
    """Check that all that read the source take its records; of the first that is known already."""
    for operator in others:
        if operator is not None and not fits(record_type, operator.in_type):
            index = next(
                i for i, spec in enumerate(scope.config.operators) if spec and spec.name == operator.name
            )
            scope.config.problem(scope.function_key(("operators", index)), "FP201", "types do not chain",
                                 f"{operator.name} takes {show(operator.in_type)}",
                                 f"{show(record_type)}, which the source gives", "change one of them")  # fmt: skip


def default_storage() -> str:
    """Where partitions are kept when the file does not say: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(base) / "funcpipe")


def _operators(scope: Scope, inputs: Sequence[int | None], order: Sequence[int]) -> list[Operator | None]:
    """Build each operator and check that it takes what the one that it reads gives; None where it failed."""
    specs = scope.config.operators
    built: list[Operator | None] = [None] * len(specs)
    broken: set[int] = set()
    first = declared_record(scope)
    for index in order:
        spec, read = specs[index], inputs[index]
        operator = None
        count = len(scope.config.problems)
        if spec is not None:
            before = built[read] if read is not None and read != FROM_SOURCE else None
            produced: Any = getattr(before, "out_type", first if read == FROM_SOURCE else Any)
            scope.is_broken = read is None or read in broken
            path: KeyPath = ("operators", index)
            operator = _operator(scope, spec, path, produced)
            if before is not None and operator is not None and not fits(produced, operator.in_type):
                place = (*path, "in_type") if spec.in_type else scope.function_key(path)
                scope.config.problem(place, "FP201", "types do not chain", f"{spec.name} takes {show(operator.in_type)}",
                                     f"{show(produced)}, which {before.name} gives",
                                     "change the order, or the function's types")  # fmt: skip
        built[index] = operator
        if operator is None or len(scope.config.problems) > count:
            broken.add(index)
    return built


def _operator(scope: Scope, spec: OperatorSpec, path: KeyPath, produced: Any) -> Operator | None:
    match spec:
        case MapSpec() | FlatMapSpec() | BatchMapSpec() | FilterSpec():
            return build_record_operator(scope, spec, path, produced)
        case CombineSpec():
            return build_combine(scope, spec, path, produced)
        case CombineByKeySpec():
            return build_combine_by_key(scope, spec, path, produced)
        case DistinctSpec():
            return build_distinct(scope, spec, path, produced)
        case SinkSpec():
            return build_sink(scope, spec, path, produced)


def _check_names(config: Config) -> None:
    seen: dict[str, int] = {}
    for index, spec in enumerate(config.operators):
        if spec is None:
            continue
        if spec.name is None:
            config.missing(("operators", index), "name", "a name that is unique in the pipeline")
        elif spec.name == SOURCE:
            config.problem(("operators", index, "name"), "FP303", "reserved name", f'"{SOURCE}"',
                           "any other name; the source is called so", "rename it")  # fmt: skip
        elif spec.name in seen:
            config.problem(("operators", index, "name"), "FP303", "duplicate name", f'"{spec.name}"',
                           "unique names", f"rename it; operators[{seen[spec.name]}] has this name")  # fmt: skip
        else:
            seen[spec.name] = index


def _check_materialization_points(config: Config) -> None:
    """Check that each point names a record operator, once."""
    names = [spec.name for spec in config.operators if spec is not None and spec.name]
    terminals = [spec.name for spec in config.operators if isinstance(spec, SinkSpec)]
    allowed = list(dict.fromkeys(name for name in names if name not in terminals))
    points: Sequence[str] = config.materialization_points
    for index, point in enumerate(points):
        path = ("materialization_points", index)
        listed = ", ".join(allowed) or "no operator"
        if point in points[:index]:
            config.problem(path, "FP306", "materialization point twice", f'"{point}"', "each once",
                           "remove one of them")  # fmt: skip
        elif point in terminals:
            config.problem(path, "FP306", "materialization point is terminal", f'"{point}"', listed,
                           "remove it; nothing comes after a Sink")  # fmt: skip
        elif point not in allowed and None not in config.operators:
            config.problem(path, "FP306", "materialization point does not exist", f'"{point}"', listed,
                           near_misses(point, allowed) if allowed else "remove it")  # fmt: skip


def _check_output(config: Config, scope: Scope) -> None:
    """Check that what replaces the sink's path has one sink to go to."""
    specs = config.operators
    if scope.output is None or not specs or None in specs:
        return
    sinks = [(index, spec) for index, spec in enumerate(specs) if isinstance(spec, SinkSpec)]
    index, mend = len(specs) - 1, "leave --output out"
    if not sinks:
        last = specs[-1]
        assert last is not None
        reason = f"{last.name} is a {last.type}, and a Sink alone has an output"
    elif len(sinks) > 1:
        names = ", ".join(str(spec.name) for _, spec in sinks)
        reason, mend = f"one Sink; there are {names}", f"--set operators.{sinks[0][1].name}.params.path=…"
    else:
        index, sink = sinks[0]
        entry = scope.registry.get("sink", sink.func or "")
        if entry is None or not entry.is_function:
            return
        reason = f"{sink.func} is a function and takes no path"
    config.problem(("operators", index), "FP122", "output has no place", f"output {scope.output}", reason,
                   mend)  # fmt: skip


def _name_of(config: Config) -> str:
    file = config.marked.file
    return Path(file).stem if not file.startswith("<") else "pipeline"


def _dead_letters_beside(operators: Sequence[Operator], name: str) -> str:
    locations = [
        one.target.location
        for one in operators
        if isinstance(one, Sink) and one.target.location and not one.target.location.startswith(_DATABASES)
    ]
    return f"{locations[0].rstrip('/')}_dead_letters" if locations else f"dead_letters/{name}"


def _encodable(operator: Operator) -> Operator:
    """Take types that are known by name only as plain values, once the chain is checked."""
    in_type = codec_type(operator.in_type)
    if isinstance(operator, Sink):
        return replace(operator, in_type=in_type)
    return replace(operator, in_type=in_type, out_type=codec_type(operator.out_type))


def _resources(config: Config) -> Resources:
    asked = config.resources
    return Resources(
        workers=asked.workers,
        threads_per_worker=asked.threads_per_worker,
        memory_limit=asked.memory_limit or 0,
        address=asked.address,
        cluster_class=asked.cluster_class,
        cluster_kwargs=dict(asked.cluster_kwargs),
        granularity=asked.granularity,
        task_budget=asked.task_budget,
    )


def _beam(config: Config) -> BeamSettings:
    place = config.marked.place
    places = {name: place(("beam", "options", name)) for name in config.beam.options}
    return BeamSettings(
        runner=config.beam.runner,
        options=dict(config.beam.options),
        places={**places, "runner": place(("beam", "runner"))},
    )


def _retries(config: Config) -> Retries:
    delays = config.retries.delay_seconds
    return Retries(
        transform=config.retries.transform,
        sink=config.retries.sink,
        delay_seconds=tuple(delays) if isinstance(delays, list) else (delays,),
        jitter=config.retries.jitter,
    )

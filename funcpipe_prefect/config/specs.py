"""What a pipeline file may say, as pydantic models: keys, types, bounds.

Keys that an operator cannot do without are optional here and demanded by the builder, which
knows what to suggest; the JSON Schema lists them as required.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
)

__all__ = [
    "BatchMapSpec",
    "CombineByKeySpec",
    "CombineSpec",
    "DistinctSpec",
    "FilterSpec",
    "FlatMapSpec",
    "MapSpec",
    "OperatorSpec",
    "PipelineSpec",
    "SinkSpec",
    "WindowSpec",
    "duration_s",
    "pipeline_schema",
]


def _size(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("a size such as 16MiB is expected")
    size = _BYTE_SIZE.validate_python(value)
    if size <= 0:
        raise ValueError("a size above 0 is expected")
    return int(size)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("a finite number is expected")
    return value


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def duration_s(value: Any) -> float:
    """Read a duration such as 30m, 12h, 7d or 1h30m, or plain seconds.

    Raises:
        ValueError: It is none, or not above 0.

    Example:
        >>> duration_s("7d"), duration_s("1h30m"), duration_s(90)
        (604800.0, 5400.0, 90.0)
    """
    text = str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    if re.fullmatch(r"\d{1,12}(\.\d+)?", text):
        seconds = float(text)
    elif re.fullmatch(r"(\d{1,9}(\.\d+)?[smhdw])+", text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)([smhdw])", text))
    else:
        seconds = 0.0
    if seconds <= 0:
        raise ValueError("a duration such as 30m, 12h or 7d is expected")
    return seconds


def rate_per_s(value: Any) -> float:
    """Read a rate such as `10/s`, `600/m` or `5000/h` as calls a second."""
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) <= 0:
        raise ValueError("a rate such as 10/s, 600/m or 5000/h")
    return float(match[1]) / {"s": 1, "m": 60, "h": 3600}[match[2]]


_RATE = re.compile(r"(\d+(?:\.\d+)?)/([smh])")
_BYTE_SIZE: TypeAdapter[ByteSize] = TypeAdapter(ByteSize)
Size: TypeAlias = Annotated[int, BeforeValidator(_size, json_schema_input_type=int | str)]
Duration: TypeAlias = Annotated[float, BeforeValidator(duration_s, json_schema_input_type=float | str)]
Rate: TypeAlias = Annotated[float, BeforeValidator(rate_per_s, json_schema_input_type=str)]
Seconds: TypeAlias = Annotated[NonNegativeFloat, AfterValidator(_finite)]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.\-]*$", max_length=80)]


Limits: TypeAlias = Annotated[
    dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.\-]*$", max_length=80)], Rate],
    Field(
        description="Calls of the function by all runs together, by the name of the limit, such as 10/s or 600/m."
    ),
]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ContractSpec(_Spec):
    """What an operator promises."""

    idempotent: bool | None = None
    associative: bool | None = None
    commutative: bool | None = None
    tolerance: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="Relative difference that rounding may make between two ways of merging."
    )


class _OperatorSpec(_Spec):
    name: Name | None = Field(None, description="Unique in the pipeline.")
    error_policy: Literal["drop", "collect", "fail_fast"] = Field(
        "collect", description="What becomes of a record that fails."
    )
    in_type: str | None = Field(None, description="Record type, such as FPResult[RawDoc] or RawDoc.")
    input: str | None = Field(
        None, description="The operator whose records it takes, or source; by default the one before it."
    )
    params: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the function.")
    transient: list[str] = Field(
        default_factory=list, description="Exceptions that fail the task, to be retried, not the record."
    )


class MapSpec(_OperatorSpec):
    """One record in, one record out."""

    type: Literal["Map"]
    func: str | None = None
    out_type: str | None = None
    limits: Limits = Field(default_factory=dict)


class FlatMapSpec(_OperatorSpec):
    """One record in, any number out."""

    type: Literal["FlatMap"]
    func: str | None = None
    out_type: str | None = None
    limits: Limits = Field(default_factory=dict)


class BatchMapSpec(_OperatorSpec):
    """A list of records in, one result for each out."""

    type: Literal["BatchMap"]
    func: str | None = None
    out_type: str | None = None
    limits: Limits = Field(default_factory=dict)
    max_batch_size: PositiveInt = 64


class FilterSpec(_OperatorSpec):
    """One record in; it goes on where the function says True."""

    type: Literal["Filter"]
    func: str | None = None
    out_type: str | None = None
    limits: Limits = Field(default_factory=dict)


class _MergeSpec(_OperatorSpec):
    lift: str | None = None
    monoid: str | None = None
    monoid_params: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of the monoid, such as {k: 5}."
    )
    out_type: str | None = None
    contract: ContractSpec = ContractSpec()


class CombineSpec(_MergeSpec):
    """Lift every record, then merge by a commutative monoid: one answer."""

    type: Literal["Combine"]
    fan_in: Annotated[int, Field(ge=2)] = Field(16, description="How many partial answers one task merges.")


class WindowSpec(_Spec):
    """Windows of event time: fixed ones, or sliding ones where there is a period."""

    time: str | None = Field(None, description="Function that gives a record's event time.")
    size: Duration | None = Field(None, description="Such as 5m, 1h or 1d, or seconds.")
    period: Duration | None = Field(None, description="From one window's start to the next.")
    offset: Duration | None = Field(None, description="From midnight of 1 January 1970 to a window's start.")


Partitions: TypeAlias = Annotated[int, Field(ge=1, le=4096)]


class CombineByKeySpec(_MergeSpec):
    """Lift every record, then merge by a commutative monoid for each key."""

    type: Literal["CombineByKey"]
    key: str | None = None
    key_params: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the key function."
    )
    window: WindowSpec | None = None
    partitions: Partitions | None = Field(None, description="Into how many partitions the keys go.")


class DistinctSpec(_OperatorSpec):
    """Of all records with one key, the one with the smallest position."""

    type: Literal["Distinct"]
    key: str | None = Field(None, description="Function that gives a record's key; the record by default.")
    out_type: str | None = None
    partitions: Partitions | None = Field(None, description="Into how many partitions the keys go.")


class SinkSpec(_OperatorSpec):
    """Terminal: write every record, publish at once."""

    type: Literal["Sink"]
    func: str | None = None
    out_type: str | None = None
    contract: ContractSpec | None = None
    mode: Literal["replace", "upsert", "sync", "append"] | None = Field(
        None, description="What becomes of the rows that are there already; replace by default."
    )
    key: str | list[str] | None = Field(
        None, description="The field, or fields, by which rows are told apart."
    )


OPERATOR_SPECS: dict[str, type[_OperatorSpec]] = {
    "Map": MapSpec,
    "FlatMap": FlatMapSpec,
    "BatchMap": BatchMapSpec,
    "Filter": FilterSpec,
    "Distinct": DistinctSpec,
    "CombineByKey": CombineByKeySpec,
    "Combine": CombineSpec,
    "Sink": SinkSpec,
}
OperatorSpec: TypeAlias = (
    MapSpec
    | FlatMapSpec
    | BatchMapSpec
    | FilterSpec
    | DistinctSpec
    | CombineByKeySpec
    | CombineSpec
    | SinkSpec
)

REQUIRED: dict[str, tuple[str, ...]] = {
    "Map": ("type", "name", "func"),
    "FlatMap": ("type", "name", "func"),
    "BatchMap": ("type", "name", "func"),
    "Filter": ("type", "name", "func"),
    "Distinct": ("type", "name"),
    "CombineByKey": ("type", "name", "key", "monoid", "lift"),
    "Combine": ("type", "name", "monoid", "lift"),
    "Sink": ("type", "name", "func", "contract"),
}


class SourceSpec(BaseModel):
    """Where records come from; further keys are the source's own, such as split_size."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    type: str | None = Field(None, description="jsonl, csv, parquet, text or a registered source.")
    record: str | None = Field(None, description="Record type; the first operator's in_type by default.")


class ResourcesSpec(_Spec):
    """What the Dask cluster or the Beam runner gets."""

    block: str | None = Field(None, description="A Dask Cluster Config block of the Prefect server.")
    workers: PositiveInt = 2
    threads_per_worker: PositiveInt = 1
    memory_limit: Size | None = Field(None, description="For each worker, such as 2GiB.")
    address: str | None = Field(None, description="A running scheduler, such as tcp://host:8786.")
    cluster_class: str | None = Field(
        None, description="Import path, such as dask_kubernetes.operator.KubeCluster."
    )
    cluster_kwargs: dict[str, Any] = Field(default_factory=dict)
    granularity: Literal["auto", "partition", "stage"] = Field(
        "auto",
        description="A Prefect task run for each stage and split, or for each stage; auto: by how many there are.",
    )
    task_budget: NonNegativeInt = Field(
        500, description="How many cached stage runs still show as Cached task runs."
    )


OptionValue: TypeAlias = str | int | float | bool | list[str | int | float] | dict[str, Any]


class BeamSpec(_Spec):
    """Which Beam runner launches the stages, and its pipeline options."""

    block: str | None = Field(None, description="A Beam Runner Config block of the Prefect server.")
    runner: Annotated[str, Field(min_length=1)] = Field(
        "DirectRunner", description="DirectRunner, PortableRunner, FlinkRunner, …, or an import path."
    )
    options: dict[str, OptionValue] = Field(
        default_factory=dict, description="Beam pipeline options, such as {job_endpoint: localhost:8099}."
    )


class RetriesSpec(_Spec):
    """How often a failed task runs again."""

    transform: NonNegativeInt = 2
    sink: NonNegativeInt = 5
    delay_seconds: Seconds | Annotated[list[Seconds], Field(min_length=1, max_length=50)] = Field(
        default_factory=lambda: [1.0, 10.0, 60.0], description="Before each retry; the last one repeats."
    )
    jitter: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="Lengthens each delay by chance, by up to about this multiple of it."
    )


class ErrorsSpec(_Spec):
    """Where dead letters go, and how many a run bears."""

    path: str | None = None
    max_error_rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    keep: Duration = Field(
        30 * 86_400.0, description="How long solved dead letters are kept, such as 30d, or seconds."
    )


class CacheSpec(_Spec):
    """Where materialized partitions are kept."""

    block: str | None = Field(None, description="A Partition Storage block of the Prefect server.")
    storage: str | None = Field(None, description="Folder or fsspec URL.")
    expires: Duration | None = Field(
        None, description="Age such as 12h or 7d, or seconds, from which a partition is computed again."
    )
    isolation: Literal["none", "serializable"] = Field(
        "none", description="serializable: two runs that need one partition at once compute it once."
    )


class BoundsSpec(_Spec):
    """What a measure may be."""

    min: float | None = Field(None, description="The least.")
    max: float | None = Field(None, description="The most.")


class ExpectSpec(_Spec):
    """What is expected of the records of a sink before they are published: one measure, with bounds."""

    of: str | None = Field(None, description="The Sink; needed where there are several.")
    field: str | None = Field(None, description="The field that null_rate and distinct look at.")
    predicate: str | None = Field(
        None, description="The function that pass_rate calls; it says True or False."
    )
    params: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the predicate.")
    rows: BoundsSpec | None = Field(None, description="How many records are written.")
    null_rate: BoundsSpec | None = Field(None, description="The share of records whose field is null.")
    distinct: BoundsSpec | None = Field(
        None, description="How many values the field has, by a sketch beyond 1,024."
    )
    pass_rate: BoundsSpec | None = Field(None, description="The share of records that the predicate passes.")


class PipelineSpec(_Spec):
    """A pipeline file."""

    name: Name | None = None
    imports: list[str] = Field(default_factory=list, description="Modules that hold a registry.")
    source: SourceSpec | None = None
    operators: list[Annotated[OperatorSpec, Field(discriminator="type")]] = Field(min_length=1)
    backend: Literal["local", "dask", "beam"] = "local"
    resources: ResourcesSpec = ResourcesSpec()
    beam: BeamSpec = BeamSpec()
    materialization_points: list[str] = Field(default_factory=list)
    retries: RetriesSpec = RetriesSpec()
    errors: ErrorsSpec = ErrorsSpec()
    expect: list[ExpectSpec] = Field(
        default_factory=list, description="What must hold before anything is published."
    )
    cache: CacheSpec = CacheSpec()
    serialization: dict[str, Literal["msgpack", "arrow", "pickle"]] = Field(
        default_factory=dict, description="How partitions are stored, by record type, or by default."
    )


OPERATOR: TypeAdapter[OperatorSpec] = TypeAdapter(Annotated[OperatorSpec, Field(discriminator="type")])


def pipeline_schema() -> dict[str, Any]:
    """Give the JSON Schema of the pipeline file, for editors and validators."""
    schema = PipelineSpec.model_json_schema()
    for kind, required in REQUIRED.items():
        schema["$defs"][f"{kind}Spec"]["required"] = list(required)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "funcpipe pipeline",
    }

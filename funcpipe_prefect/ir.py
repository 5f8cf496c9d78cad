"""The intermediate representation: frozen nodes, the protocols of sources and sinks, the pipeline.

Nodes hold functions that were looked up and checked already; building one runs nothing. No
backend is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from funcpipe_prefect.errors import Place
from funcpipe_prefect.monoid import Monoid
from funcpipe_prefect.windows import FixedWindows, SlidingWindows

__all__ = [
    "SOURCE",
    "Artifact",
    "BackendName",
    "BatchMap",
    "BeamSettings",
    "CodecName",
    "Combine",
    "CombineByKey",
    "Commit",
    "Distinct",
    "ErrorPolicy",
    "Expectation",
    "ErrorSettings",
    "Filter",
    "FlatMap",
    "Function",
    "GroupOperator",
    "Isolation",
    "Limit",
    "Located",
    "Map",
    "Mode",
    "OperatorCounts",
    "Operator",
    "Part",
    "Pipeline",
    "RecordOperator",
    "RecordSink",
    "RecordSource",
    "Reject",
    "Resources",
    "Retries",
    "Sink",
    "Split",
    "Undecodable",
    "Windowing",
]

SOURCE = "source"
"""What the source is called among operators: in counts, dead letters and `input:`."""

ErrorPolicy: TypeAlias = Literal["drop", "collect", "fail_fast"]
BackendName: TypeAlias = Literal["local", "dask", "beam"]
CodecName: TypeAlias = Literal["msgpack", "arrow", "pickle", "value"]
Isolation: TypeAlias = Literal["none", "serializable"]


@dataclass(frozen=True)
class Artifact:
    """A read-only resource such as a model: built once in each process, never shipped."""

    name: str
    build: Callable[[], Any]
    version: str | None = None


@dataclass(frozen=True)
class Function:
    """A registered function with its parameters bound.

    Attributes:
        name: The name in the registry.
        call: The user's function.
        params: Keyword arguments from the pipeline file, by name, in name order.
        artifacts: Artifacts that the function takes by parameter name.
        version: A pinned version that stands for the function's code in stage keys.
        uses: Effects, such as `clock`, that its author vouches for before the laws.
    """

    name: str
    call: Callable[..., Any]
    params: tuple[tuple[str, Any], ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    version: str | None = None
    uses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limit:
    """How many calls of functions a second all runs together may make, under a name that they share."""

    name: str
    per_second: float


@dataclass(frozen=True)
class _RecordNode:
    name: str
    func: Function
    error_policy: ErrorPolicy = "collect"
    in_type: Any = Any
    out_type: Any = Any
    transient: tuple[type[BaseException], ...] = ()
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True)
class Map(_RecordNode):
    """One record in, one record out."""


@dataclass(frozen=True)
class FlatMap(_RecordNode):
    """One record in, any number out; a record whose function fails half-way gives none."""


@dataclass(frozen=True)
class BatchMap(_RecordNode):
    """A list of records in, exactly one result for each, in order."""

    max_batch_size: int = 64


@dataclass(frozen=True)
class Filter(_RecordNode):
    """One record in; it goes on where the function says True."""


@dataclass(frozen=True)
class Combine:
    """Every record lifted, then merged by a commutative monoid: one answer, the record of what comes behind.

    Attributes:
        out_type: The type of the answer.
        tolerance: Relative difference that rounding may make between two ways of merging.
        fan_in: How many partial answers one task merges.
    """

    name: str
    lift: Function
    monoid: Monoid[Any]
    error_policy: ErrorPolicy = "collect"
    in_type: Any = Any
    out_type: Any = Any
    transient: tuple[type[BaseException], ...] = ()
    tolerance: float = 0.0
    fan_in: int = 16


@dataclass(frozen=True)
class Windowing:
    """Which windows of event time a record belongs to.

    Attributes:
        time: Gives a record's event time: an aware datetime, or seconds since 1970.
        windows: Fixed or sliding windows.
    """

    time: Function
    windows: FixedWindows | SlidingWindows


@dataclass(frozen=True)
class CombineByKey:
    """Every record lifted, then merged by a commutative monoid for each key, and window.

    Attributes:
        key: Gives a record's key: any value that has an encoding.
        key_type: The type of the keys.
        out_type: `KeyValue`, or `WindowedValue` where there are windows.
        windowing: None: all time is one window.
        partitions: Into how many partitions the keys go; 0: as many as there are before, at most 32.
    """

    name: str
    key: Function
    lift: Function
    monoid: Monoid[Any]
    error_policy: ErrorPolicy = "collect"
    in_type: Any = Any
    key_type: Any = Any
    out_type: Any = Any
    transient: tuple[type[BaseException], ...] = ()
    tolerance: float = 0.0
    windowing: Windowing | None = None
    partitions: int = 0


@dataclass(frozen=True)
class Distinct:
    """Of all records with one key, the one with the smallest position goes on.

    Attributes:
        key: Gives a record's key; None: the record itself is its key.
        partitions: As in `CombineByKey`.
    """

    name: str
    key: Function | None = None
    error_policy: ErrorPolicy = "collect"
    in_type: Any = Any
    out_type: Any = Any
    key_type: Any = Any
    transient: tuple[type[BaseException], ...] = ()
    partitions: int = 0


@dataclass(frozen=True)
class Expectation:
    """What a run expects of the records of a sink; it publishes nothing else.

    Attributes:
        kind: What is measured: how many rows, the share of rows whose field is null, how many values a
            field has, the share of rows for which a function says True.
        field: The field.
        func: The function.
        low: The least that it may be.
        high: The most.
    """

    kind: Literal["rows", "null_rate", "distinct", "pass_rate"]
    field: str = ""
    func: Function | None = None
    low: float | None = None
    high: float | None = None

    @property
    def what(self) -> str:
        """Say what is measured."""
        of = self.field or (self.func.name if self.func else "")
        return f"{self.kind}({of})" if of else self.kind


@dataclass(frozen=True)
class Sink:
    """Terminal: every record written to `target`, then published at once.

    Attributes:
        expectations: What is expected of its records, before anything is published.
    """

    name: str
    target: RecordSink
    error_policy: ErrorPolicy = "collect"
    in_type: Any = Any
    transient: tuple[type[BaseException], ...] = ()
    expectations: tuple[Expectation, ...] = ()


Mode: TypeAlias = Literal["replace", "upsert", "sync", "append"]
"""What a sink does with the rows that are there: `replace` all by the new ones; `upsert`, leave those of
other keys; `sync`, the content of `replace` with only the changes written; `append` only rows of new keys."""

RecordOperator: TypeAlias = Map | FlatMap | BatchMap | Filter
GroupOperator: TypeAlias = Combine | CombineByKey | Distinct
Operator: TypeAlias = RecordOperator | GroupOperator | Sink


@dataclass(frozen=True, slots=True)
class Split:
    """A slice of the input: small, serialisable, never data.

    Attributes:
        name: For people and part names, such as `docs.jsonl-000016777216`; unique in a source.
        location: What `start` and `stop` count in: a URL, or a name the source knows.
        start: First byte, row group or index.
        stop: One past the last; -1 means to the end.
        identity: Changes when the data of this slice may have changed (size, time, ETag).
        size: Bytes, if known; for plans and progress.
        members: Names of the things in this slice, where it is not a range.
        moves: Name and identity stand for the data alone: where they stay, the data is the same, though
            `start` and `stop` may be others. Positions then count from `start`.
    """

    name: str
    location: str = ""
    start: int = 0
    stop: int = -1
    identity: str = ""
    size: int = 0
    members: tuple[str, ...] = ()
    moves: bool = False


@dataclass(frozen=True)
class Undecodable:
    """What a source yields in place of a record that it could not decode."""

    raw: bytes
    type: str
    message: str


Located: TypeAlias = tuple[int, Any]
"""A position (byte offset, row number or index) and the record that begins there."""

Reject: TypeAlias = Callable[[int, Any, Exception], None]
"""How a sink hands back a record that it cannot write: position, record, error."""


@runtime_checkable
class RecordSource(Protocol):
    """Where records come from. Implementations are small, immutable and picklable."""

    def list_splits(self) -> Sequence[Split]:
        """List the slices of the input, in a stable order; touches metadata only."""

    def read(self, split: Split, record_type: Any, /) -> Iterator[Located]:
        """Stream one split; a record that does not decode comes as `Undecodable`."""

    def locate(self, split: Split, position: int, /) -> str:
        """Say where a record is, for a person, such as `docs.jsonl:17 (byte 1234)`."""


@dataclass(frozen=True, slots=True)
class OperatorCounts:
    """How an operator's records went; `records_in == passed + dropped + errors` always holds."""

    name: str
    passed: int = 0
    records_out: int = 0
    dropped: int = 0
    errors: int = 0

    @property
    def records_in(self) -> int:
        """Records that reached the operator."""
        return self.passed + self.dropped + self.errors

    def __add__(self, other: OperatorCounts) -> OperatorCounts:
        return OperatorCounts(
            self.name,
            self.passed + other.passed,
            self.records_out + other.records_out,
            self.dropped + other.dropped,
            self.errors + other.errors,
        )


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """What an operator has cost; costs of partitions add up.

    Attributes:
        name: The operator's; `source` for reading, a sink's own for writing and all that is around it.
        seconds: Time in its function, as measured for a sample of the calls; of all workers together.
        records: That reached it.
        bytes: Of the input for `source`, of stored partitions and parts of a sink for what was in front
            of them or writes them.
        batches: Calls of a BatchMap's function.
    """

    name: str
    seconds: float = 0.0
    records: int = 0
    bytes: int = 0
    batches: int = 0

    def __add__(self, other: OperatorCost) -> OperatorCost:
        return OperatorCost(
            self.name,
            self.seconds + other.seconds,
            self.records + other.records,
            self.bytes + other.bytes,
            self.batches + other.batches,
        )


_Row = TypeVar("_Row", OperatorCounts, OperatorCost)


def summed(*rows: Iterable[_Row]) -> tuple[_Row, ...]:
    """Add counts or costs up by operator, in the order in which operators are met."""
    total: dict[str, _Row] = {}
    for row in rows:
        for one in row:
            total[one.name] = total[one.name] + one if one.name in total else one
    return tuple(total.values())


@dataclass(frozen=True, slots=True)
class Part:
    """A written file, not yet visible to readers: the receipt of a sink.

    Attributes:
        file: The part's name; empty when it has no record, and so no file.
        records: Records in it.
        size: Bytes.
        sha256: Hash of the file's bytes.
    """

    file: str = ""
    records: int = 0
    size: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """One split's entry in a manifest: the part, and all that a later run wants to know of it."""

    split: str
    key: str
    part: Part
    digest: str
    counts: tuple[OperatorCounts, ...] = ()
    dead_letters: tuple[Part, ...] = ()


@runtime_checkable
class RecordSink(Protocol):
    """Where records go. `write` is idempotent and invisible, `commit` publishes at once.

    Optional members: `modes`, the names of the modes that the class knows (`("replace",)` when
    absent); a class that knows others has the parameters `mode` and `key`, a tuple of field names;
    `check_type(record_type)`, which raises for records that it cannot write; and `rows()`, which gives
    the rows that readers see, as mappings, in no particular order; and `version()`, a text that names what
    is published now.
    """

    @property
    def location(self) -> str | None:
        """The URL of the output, if it has one."""

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject, /) -> Part:
        """Write one partition; the same records give the same bytes and the same part."""

    def has(self, part: Part, /) -> bool:
        """Tell whether a part that was written is there still, whole, staged or published."""

    def sweep(self, token: str, /) -> None:
        """Remove the temporary files of a run that ended before its time."""

    def published(self) -> Mapping[str, Commit]:
        """The entries that readers see now and whose parts are whole, by stage key."""

    def commit(self, entries: Sequence[Commit], /) -> None:
        """Make exactly these parts visible, atomically; doing it again changes nothing."""


@dataclass(frozen=True)
class Resources:
    """What a cluster gets. `address` names a running scheduler and excludes the rest.

    Attributes:
        workers: Worker processes.
        threads_per_worker: Threads in each.
        memory_limit: Bytes for each worker; 0 means the cluster's own default.
        address: Address of a running Dask scheduler.
        cluster_class: Import path of a Dask cluster class, such as `dask_kubernetes.operator.KubeCluster`.
        cluster_kwargs: Keyword arguments for it.
        granularity: `partition`: a Prefect task run for each stage and split; `stage`: one for each stage;
            `auto`: by how many there are.
        task_budget: How many cached stage runs still show as Cached task runs; more of them are
            not submitted.
    """

    workers: int = 2
    threads_per_worker: int = 1
    memory_limit: int = 0
    address: str | None = None
    cluster_class: str | None = None
    cluster_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    granularity: str = "auto"
    task_budget: int = 500


@dataclass(frozen=True)
class BeamSettings:
    """Which Beam runner launches the stages, and the pipeline options that it gets.

    Attributes:
        runner: A name that Beam knows, such as `PortableRunner`, or the import path of a runner class.
        options: Pipeline options by name, as they are written; they win over `resources:`.
        places: Where each option is written, for messages; the runner's own under `runner`.
    """

    runner: str = "DirectRunner"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    places: Mapping[str, Place] = field(default_factory=dict, hash=False, compare=False)


@dataclass(frozen=True)
class Retries:
    """How often a failed task runs again, and the seconds before each time.

    Attributes:
        jitter: Each delay is longer by chance, by up to about this multiple of it, so that tasks which
            failed together do not come back together.
    """

    transform: int = 2
    sink: int = 5
    delay_seconds: tuple[float, ...] = (1.0, 10.0, 60.0)
    jitter: float = 0.0


@dataclass(frozen=True)
class ErrorSettings:
    """Where dead letters go, and how many failed records a run bears.

    Attributes:
        path: URL of the folder of dead letters.
        max_error_rate: The largest share of failed records, from 0 to 1; a run above it fails
            before anything is published. 1 sets no limit.
        keep_s: Seconds for which solved dead letters are kept.
    """

    path: str
    max_error_rate: float = 1.0
    keep_s: float = 30 * 86_400.0


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline: immutable; building one ran nothing.

    Attributes:
        record_type: What the source decodes into: the first operator's `in_type`.
        materialization_points: Operators behind which partitions are stored and cached.
        storage: URL of the partition store.
        expires_s: Seconds after which a partition is computed again; None means never.
        isolation: `serializable`: two runs that need one partition at once compute it once.
        codecs: How partitions are stored, by materialization point; `msgpack` where it is silent.
        inputs: What an operator reads, by its name, where that is not the one before it.
    """

    name: str
    operators: tuple[Operator, ...]
    errors: ErrorSettings
    storage: str
    source: RecordSource | None = None
    record_type: Any = Any
    backend: BackendName = "local"
    resources: Resources = field(default_factory=Resources)
    beam: BeamSettings = field(default_factory=BeamSettings)
    materialization_points: tuple[str, ...] = ()
    retries: Retries = field(default_factory=Retries)
    expires_s: float | None = None
    isolation: Isolation = "none"
    codecs: Mapping[str, CodecName] = field(default_factory=dict, hash=False)
    inputs: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """The sinks, in the order of the file."""
        return tuple(op for op in self.operators if isinstance(op, Sink))

    @property
    def combines(self) -> tuple[Combine, ...]:
        """Those operators whose answer is a result of the run."""
        return tuple(op for op in self.operators if isinstance(op, Combine))

    @property
    def record_operators(self) -> tuple[RecordOperator, ...]:
        """The operators that turn single records into records."""
        return tuple(op for op in self.operators if isinstance(op, (Map, FlatMap, BatchMap, Filter)))

    def input_of(self, operator: Operator) -> str:
        """The name of what an operator reads: another operator, or `source`."""
        index = self.operators.index(operator)
        before = self.operators[index - 1].name if index else SOURCE
        return self.inputs.get(operator.name, before)

    def readers_of(self, name: str) -> tuple[Operator, ...]:
        """The operators that read what an operator, or the source, gives."""
        return tuple(op for op in self.operators if self.input_of(op) == name)

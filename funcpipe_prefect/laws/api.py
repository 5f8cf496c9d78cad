"""The checks as functions: each raises `LawBroken` with counter-examples, or returns its verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from funcpipe_prefect.ir import Mode, Pipeline, RecordSource
from funcpipe_prefect.laws.agreement import BACKENDS, agreement_laws
from funcpipe_prefect.laws.batches import batch_laws
from funcpipe_prefect.laws.chains import ChainSubject, chain_laws
from funcpipe_prefect.laws.conformance import StoreSubject, conformance_laws
from funcpipe_prefect.laws.monoids import MonoidSubject, monoid_laws
from funcpipe_prefect.laws.pipeline import Samples, laws_of, load, paths, samples_of
from funcpipe_prefect.laws.purity import purity_laws
from funcpipe_prefect.laws.roundtrip import round_trip_law
from funcpipe_prefect.laws.search import Effort, drawn_from, listed
from funcpipe_prefect.laws.sinks import SinkSubject, sink_laws
from funcpipe_prefect.laws.sources import SourceSubject, source_laws
from funcpipe_prefect.laws.strategies import strategy_for
from funcpipe_prefect.laws.subjects import Subject, first_type, function_of, name_of, subject_of
from funcpipe_prefect.laws.verdicts import LawBroken, LawReport, require
from funcpipe_prefect.monoid import Monoid
from funcpipe_prefect.registry import Effect, Registry

__all__ = [
    "check_backends_agree",
    "check_batch_invariant",
    "check_monoid",
    "check_partition_invariant",
    "check_pipeline",
    "check_pure",
    "check_round_trip",
    "check_sink",
    "check_sink_idempotent",
    "check_source",
]

_IN_BATCH, _IN_CHAIN = 6, 8
PipelineLike = str | Path | Mapping[str, Any] | Pipeline


def check_monoid(
    monoid: Monoid[Any], values: Any, *, tolerance: float | None = None, examples: int = 100
) -> LawReport:
    """Check that a monoid is associative and commutative, that its identity is one, and that it changes nothing.

    Args:
        monoid: The object, or its class.
        values: What it merges: a Hypothesis strategy, a type, or samples.
        tolerance: Relative (and, near zero, absolute) difference that rounding may make; by default
            the monoid's own `tolerance`, else 0.
        examples: How many examples of each law to try.

    Raises:
        LawBroken: FP310, with the smallest counter-examples.
        TypeError: It is no monoid.

    Example:
        >>> from funcpipe_prefect.monoid import Sum
        >>> check_monoid(Sum(), int).broken
        ()
    """
    subject = monoid() if isinstance(monoid, type) else monoid
    if not isinstance(subject, Monoid):
        raise TypeError(
            f"{name_of(subject)} is no monoid: it needs empty(), combine(a, b) and commutative = True"
        )
    allowed = float(getattr(subject, "tolerance", 0.0) if tolerance is None else tolerance)
    return require(
        monoid_laws(MonoidSubject(name_of(subject), subject, drawn_from(values), allowed, Effort(examples)))
    )


def check_pure(
    function: Callable[..., Any], records: Any = None, *, uses: tuple[Effect, ...] = (), examples: int = 100
) -> LawReport:
    """Check that a function gives the same for the same, here and in another process, and does nothing else.

    Args:
        function: Takes one argument.
        records: What it is called with: a Hypothesis strategy, a type, or samples; by default the
            type of its first parameter.
        uses: Effects that you vouch for.
        examples: How many examples of each law to try.

    Raises:
        LawBroken: FP310, with the smallest counter-examples.
        TypeError: The function does not say what it takes.
    """
    return require(purity_laws(subject_of(function, records, Effort(examples), uses=uses)))


def check_batch_invariant(
    function: Callable[..., Any], records: Any = None, *, examples: int = 100
) -> LawReport:
    """Check that a batch function gives each record what it would get alone, one result for each.

    And that it changes none of them: a batch that fails is run again in halves.

    Args:
        function: Takes a list of records.
        records: Single records: a strategy, a type, or samples; by default the element type of the
            list that it takes.
        examples: How many batches to try.

    Raises:
        LawBroken: FP310, with the smallest batch.
        TypeError: The function does not say what it takes.
    """
    made = function_of(function)
    values = drawn_from(first_type(made.call, is_batch=True) if records is None else records)
    subject = Subject(made.name, made, listed(values, _IN_BATCH), Effort(examples))
    untouched = (law for law in purity_laws(subject) if law.name == "input untouched")
    return require([*batch_laws(subject), *untouched])


def check_partition_invariant(
    pipeline: PipelineLike, records: Any = None, *, registry: Registry | None = None, examples: int = 100
) -> LawReport:
    """Check that no partitioning and no batch size changes what a pipeline's operators give, and that counts add up.

    Args:
        pipeline: A file, a mapping or a built pipeline; its source and sink are not touched.
        records: Source records: a strategy, a type, or samples; by default drawn from the type.
        registry: Names beside those under `imports:`.
        examples: How many lists of records to try.

    Raises:
        LawBroken: FP310, with the smallest list of records.
        PipelineError: Every problem of the pipeline.
    """
    loaded = load(pipeline, registry)
    built = loaded.pipeline
    own = loaded.strategies()
    values = drawn_from(strategy_for(built.record_type, own) if records is None else records)
    chained = listed(values, _IN_CHAIN)
    subjects = [
        ChainSubject(name, path, combine, chained, loaded.pasted, Effort(examples))
        for name, path, combine in paths(built)
    ]
    return require([law for subject in subjects for law in chain_laws(subject)])


def check_sink_idempotent(
    make: Callable[[str], Any],
    records: Any,
    *,
    record_type: Any = None,
    visible: Callable[[str], Any] | None = None,
    examples: int = 100,
) -> LawReport:
    """Check that whatever happens to a sink twice, or half, readers see what they would see after once.

    A partition written twice, a crash between write and commit, a commit twice, partitions in
    another order, an empty one, fewer than before. Each trial has a folder of its own.

    Args:
        make: Makes the sink from a folder below which it writes: a `RecordSink`, or a plain
            function of one record.
        records: A strategy, a type, or samples.
        record_type: Their type; by default that of `records`, or of the first sample.
        visible: Gives what readers see, from the folder; by default its files.
        examples: Four times the lists of records that are tried.

    Raises:
        LawBroken: FP310, with the smallest list of records.
        TypeError: What `make` gives is no sink.
    """
    tp = record_type
    if tp is None:
        is_samples = isinstance(records, (list, tuple)) and records
        tp = type(records[0]) if is_samples else records if isinstance(records, type) else Any
    values = drawn_from(records)
    name = name_of(make)
    return require(sink_laws(SinkSubject(name, make, values, tp, visible, None, Effort(examples))))


def check_sink(
    sink: Callable[..., Any],
    records: Any,
    *,
    key: str | tuple[str, ...],
    record_type: Any = None,
    modes: Sequence[Mode] | None = None,
    examples: int = 20,
) -> LawReport:
    """Check that a sink does in each of its modes what the mode says, through runs, retries and crashes.

    Args:
        sink: A `RecordSink` class with the parameters `path`, `mode` and `key`; or a function that makes
            one from a folder below which it may write, a mode, and the key as a tuple. The sink has `rows()`.
        records: A strategy, or a type with fields.
        key: The field, or fields, by which rows are told apart.
        record_type: The type of the records; by default `records`.
        modes: The modes to check; by default those that the class names.
        examples: How many pairs or triples of runs are tried for each law.

    Raises:
        LawBroken: FP310, with the smallest runs.

    Example:
        >>> check_sink(MySink, Row, key="id")  # doctest: +SKIP
    """
    named: Sequence[Mode] = getattr(sink, "modes", ("replace",))
    own = tuple(named if modes is None else modes)
    keys = (key,) if isinstance(key, str) else tuple(key)

    def make(folder: str, mode: Mode, fields: tuple[str, ...]) -> Any:
        if isinstance(sink, type):
            return sink(path=f"{folder}/table", mode=mode, key=fields)
        return sink(folder, mode, fields)

    subject = StoreSubject(
        name_of(sink), make, keys, drawn_from(records), record_type or records, own, Effort(examples)
    )
    return require(conformance_laws(subject))


def check_source(
    make: Callable[[int], RecordSource], *, record_type: Any = Any, splits: Sequence[int] = (1, 2, 3, 7)
) -> LawReport:
    """Check that a source gives each record once in any number of splits, and the same when read again.

    Args:
        make: Makes the source for a number of splits.
        record_type: What it decodes into.
        splits: The numbers to try.

    Raises:
        LawBroken: FP310.
    """
    name = type(make(1)).__name__
    return require(source_laws(SourceSubject(name, make, record_type, tuple(splits))))


def check_round_trip(record_type: Any, records: Any = None, *, examples: int = 100) -> LawReport:
    """Check that records of a type come back from the store and from another process as they were.

    Args:
        record_type: A dataclass, pydantic model, TypedDict or any other type.
        records: A strategy or samples; by default drawn from the type.
        examples: How many records to try.

    Raises:
        LawBroken: FP310, with the smallest record.
    """
    values = drawn_from(record_type if records is None else records)
    return require([round_trip_law(record_type, values, Effort(examples))])


def check_backends_agree(
    pipeline: PipelineLike,
    records: Iterable[Any] | str | Path | None = None,
    *,
    backends: Sequence[str] = BACKENDS,
    registry: Registry | None = None,
) -> LawReport:
    """Check that a pipeline gives on Dask and on Beam what it gives on one core, by counts, digest and bytes.

    Args:
        pipeline: A file, a mapping or a built pipeline; what it writes goes to a temporary folder.
        records: Source records, or a file of them; by default from the pipeline's own source.
        backends: Those to run; one that is not installed is skipped.
        registry: Names beside those under `imports:`.

    Raises:
        LawBroken: FP310.
        PipelineError: Every problem of the pipeline.
    """
    loaded = load(pipeline, registry)
    samples = samples_of(loaded, records)
    pasted = {"pipeline": loaded.pasted, "records": samples.pasted}
    return require(agreement_laws(loaded.pipeline, samples.records, backends, pasted))


def check_pipeline(
    pipeline: PipelineLike,
    samples: Iterable[Any] | str | Path | None = None,
    *,
    registry: Registry | None = None,
    backends: Sequence[str] = BACKENDS,
    examples: int = 100,
    quick: bool = False,
) -> LawReport:
    """Check every law of a pipeline.

    Args:
        pipeline: A file, a mapping or a built pipeline.
        samples: Records of its source, or a file of them; by default from its own source.
        registry: Names beside those under `imports:`.
        backends: Those to compare with one core.
        examples: How many examples of each law to try.
        quick: Only laws that need no other process and write nothing.

    Raises:
        LawBroken: FP310, with every law that is broken.
        PipelineError: Every problem of the pipeline.
        SourceError: FP409, the samples cannot be read.
    """
    started = time.monotonic()
    loaded = load(pipeline, registry)
    found: Samples = samples_of(loaded, samples)
    laws = laws_of(loaded, found, effort=Effort(examples), backends=backends, is_quick=quick)
    verdicts = tuple(law.check() for law in laws)
    report = LawReport(verdicts, round(time.monotonic() - started, 3), found.origin)
    if report.broken:
        raise LawBroken(report.broken)
    return report

"""All laws of a pipeline: which there are, and the sample records that they are tried on."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from typing_extensions import assert_never

from funcpipe_prefect.builder import load_pipeline
from funcpipe_prefect.builder.imports import gather_registry
from funcpipe_prefect.config import CombineByKeySpec, CombineSpec, SinkSpec, load_config
from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.grouping import (
    ALL_KEYS,
    Partials,
    fold_records,
    lifted,
    merge_totals,
    merged_by_key,
    partials_by_key,
)
from funcpipe_prefect.ir import (
    SOURCE,
    BatchMap,
    Combine,
    CombineByKey,
    Distinct,
    Filter,
    FlatMap,
    GroupOperator,
    Map,
    Operator,
    Pipeline,
    RecordOperator,
    RecordSource,
    Sink,
    Undecodable,
)
from funcpipe_prefect.kernel import Trace, resumed, run_chain
from funcpipe_prefect.laws.agreement import agreement_laws, has_folder
from funcpipe_prefect.laws.batches import batch_laws
from funcpipe_prefect.laws.chains import ChainSubject, chain_laws
from funcpipe_prefect.laws.ending import Ending, ending_of
from funcpipe_prefect.laws.laziness import laziness_law, watched_build
from funcpipe_prefect.laws.monoids import MonoidSubject, monoid_laws
from funcpipe_prefect.laws.paste import Pasted, paste
from funcpipe_prefect.laws.purity import purity_laws
from funcpipe_prefect.laws.roundtrip import round_trip_law
from funcpipe_prefect.laws.search import Effort, Values, copied, listed, search
from funcpipe_prefect.laws.sinks import SinkSubject, sink_laws
from funcpipe_prefect.laws.strategies import mixed
from funcpipe_prefect.laws.subjects import Subject
from funcpipe_prefect.laws.verdicts import Law, Verdict
from funcpipe_prefect.laws.watch import Event
from funcpipe_prefect.registry import Registry, SinkEntry
from funcpipe_prefect.schema import type_name
from funcpipe_prefect.sinks import FunctionSink
from funcpipe_prefect.sources import BUILTIN_SOURCES, source_type_of

__all__ = ["Loaded", "Samples", "laws_of", "load", "paths", "samples_of"]

_TRIED = 25
"""Sample records that each operator is tried on."""
_IN_BATCH = 6
_READ, _SPLITS = 20_000, 32
_RUN = 500
"""Sample records that backends are compared on."""
_DRAWN = 50
"""Records that they are compared on where there is no sample."""


@dataclass(frozen=True)
class Loaded:
    """A pipeline with what the laws need to know beside it.

    Attributes:
        pipeline: The built pipeline.
        registry: Every name that it may use.
        sinks: The entry in the registry of each sink, by the operator's name.
        monoids: The name of each monoid, by the operator's name.
        events: What happened outside while it was built.
        pasted: The pipeline as Python source.
    """

    pipeline: Pipeline
    registry: Registry = field(default_factory=Registry)
    sinks: Mapping[str, SinkEntry] = field(default_factory=dict)
    monoids: Mapping[str, str] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    pasted: Pasted = Pasted("pipeline")

    def strategies(self) -> Mapping[Any, st.SearchStrategy[Any]]:
        """The strategies that the user has registered, by type."""
        own = {}
        for entry in self.registry.of("strategy").values():
            is_made = isinstance(entry.make, st.SearchStrategy)
            own[entry.record] = entry.make if is_made else entry.make()
        return own


def load(
    pipeline: str | Path | Mapping[str, Any] | Pipeline,
    registry: Registry | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """Build a pipeline, watching that nothing else happens.

    Args:
        pipeline: A file, a mapping, or a pipeline that is built already.
        registry: Names beside those under `imports:`.
        overrides: Values by key path.

    Raises:
        PipelineError: Every problem of the file.
    """
    if isinstance(pipeline, Pipeline):
        return Loaded(pipeline, registry or Registry())
    built, events = watched_build(lambda: load_pipeline(pipeline, registry, overrides=overrides))
    config = load_config(pipeline, overrides)
    merged = gather_registry(config, registry)
    specs = [spec for spec in config.operators if spec is not None]
    sinks = {one.name or "": merged.get("sink", one.func or "") for one in specs if isinstance(one, SinkSpec)}
    monoids = {
        one.name or "": one.monoid or "" for one in specs if isinstance(one, (CombineSpec, CombineByKeySpec))
    }
    text = paste(str(pipeline) if isinstance(pipeline, Path) else pipeline)
    return Loaded(
        built,
        merged,
        sinks,
        monoids,
        events,
        Pasted(
            f"load_pipeline({text.expression})", text.imports | {"from funcpipe_prefect import load_pipeline"}
        ),
    )


@dataclass(frozen=True)
class Samples:
    """Sample records of a pipeline's source.

    Attributes:
        records: The records.
        origin: Where they come from, in words.
        pasted: The same as Python source.
    """

    records: tuple[Any, ...] = ()
    origin: str = "made from the record types"
    pasted: Pasted = Pasted("None")


def samples_of(loaded: Loaded, given: str | Path | Iterable[Any] | None) -> Samples:
    """Get the sample records.

    Args:
        loaded: The pipeline.
        given: A file that the pipeline's source could be, the records themselves, or None: then the
            pipeline's own source is read, if it can be.

    Raises:
        SourceError: FP409, the file is missing or unreadable, or holds no record.
        PipelineError: The file is nothing that the pipeline could read.
    """
    pipeline = loaded.pipeline
    if given is not None and not isinstance(given, (str, Path)):
        records = tuple(given)
        return Samples(records, f"{len(records)} records", paste(list(records)))
    if given is not None:
        source = source_like(loaded, str(given))
        records = _read(source, pipeline.record_type)
        if not records:
            raise SourceError(f"{given} holds no record of type {type_name(pipeline.record_type)}")
        return Samples(records, f"{len(records)} records of {given}", paste(str(given)))
    if pipeline.source is None:
        return Samples()
    try:
        records = _read(pipeline.source, pipeline.record_type)
    except Exception:  # the laws go without the input
        return Samples()
    return Samples(records, f"{len(records)} records of the source") if records else Samples()


def source_like(loaded: Loaded, url: str) -> RecordSource:
    """Give the source for a file of samples, which tells its format by its ending.

    Raises:
        SourceError: FP409, it cannot be read.
    """
    entry = BUILTIN_SOURCES[source_type_of(url)]
    source: RecordSource = entry.make(path=url)
    return source


def _read(source: RecordSource, record_type: Any) -> tuple[Any, ...]:
    """Read some ten thousand records, from splits that are spread over the input."""
    splits = _spread(source.list_splits(), _SPLITS)
    most = -(-_READ // max(1, len(splits)))
    found: list[Any] = []
    for split in splits:
        with closing(source.read(split, record_type)) as records:  # type: ignore[type-var]
            whole = (record for _, record in records if not isinstance(record, Undecodable))
            found += itertools.islice(whole, most)
    return tuple(found)


def _spread(records: Sequence[Any], most: int) -> tuple[Any, ...]:
    """Take some records, evenly from first to last."""
    step = max(1, len(records) // most)
    return tuple(records[::step][:most])


def laws_of(
    loaded: Loaded,
    samples: Samples = Samples(),
    *,
    effort: Effort = Effort(),
    backends: Sequence[str] = (),
    is_quick: bool = False,
) -> Iterator[Law]:
    """List the laws of a pipeline; none of them is checked yet.

    Args:
        loaded: The pipeline.
        samples: Records of its source.
        effort: How hard to look.
        backends: Those to compare with the local one.
        is_quick: Only what needs no other process and writes nothing.
    """
    pipeline, own = loaded.pipeline, loaded.strategies()
    yield laziness_law(pipeline, loaded.events)
    reaching = list(_spread(samples.records, _TRIED))
    chained = _values(pipeline.record_type, reaching, own)
    types: dict[str, tuple[Any, list[Any]]] = {}
    _note(types, pipeline.record_type, reaching)
    known: dict[str, list[Any]] = {SOURCE: reaching}
    for operator in pipeline.operators:
        reaching = known[pipeline.input_of(operator)]
        values = _values(_type_reaching(pipeline, operator), reaching, own)
        match operator:
            case BatchMap():
                batches = listed(values, _IN_BATCH)
                subject = Subject(operator.name, operator.func, batches, effort)
                yield from purity_laws(subject, is_quick=is_quick)
                yield from batch_laws(subject)
            case Map() | FlatMap() | Filter():
                subject = Subject(operator.name, operator.func, values, effort)
                yield from purity_laws(subject, is_quick=is_quick)
            case Combine():
                yield from _combine_laws(loaded, operator, values, effort, is_quick)
            case CombineByKey() | Distinct():
                yield from _group_laws(loaded, operator, values, effort, is_quick)
            case Sink():
                if not is_quick:
                    yield from _laws_of_sink(loaded, operator, values, effort)
                continue
            case _:
                assert_never(operator)
        known[operator.name] = _passed(operator, reaching)[:_TRIED]
        _note(types, operator.out_type, known[operator.name])
    for name, path, combine in paths(pipeline):
        yield from chain_laws(
            ChainSubject(name, path, combine, listed(chained, _IN_BATCH), loaded.pasted, effort)
        )
    for record_type, found in types.values():
        yield round_trip_law(record_type, _values(record_type, found, own), effort)
    if is_quick:
        return
    records = _spread(samples.records, _RUN) or _drawn(chained)
    pasted = {"pipeline": loaded.pasted, "records": samples.pasted}
    yield from agreement_laws(pipeline, records, backends, pasted)


_Path = tuple[str, tuple[RecordOperator | CombineByKey | Distinct, ...], Combine | None]


def paths(pipeline: Pipeline) -> Iterator[_Path]:
    """Give the paths from the source to each end that only one answer, or none, lies on."""
    by_name = {operator.name: operator for operator in pipeline.operators}
    ends = [
        one
        for one in pipeline.operators
        if isinstance(one, (Combine, Sink)) or not pipeline.readers_of(one.name)
    ]
    for end in ends:
        path: list[RecordOperator | CombineByKey | Distinct] = []
        at: Operator | None = end
        while at is not None and not (isinstance(at, Combine) and at is not end):
            if not isinstance(at, (Combine, Sink)):
                path.insert(0, at)
            at = by_name.get(pipeline.input_of(at))
        if at is None:
            name = pipeline.name if len(ends) == 1 else f"{pipeline.name}, to {end.name}"
            yield name, tuple(path), end if isinstance(end, Combine) else None


def _type_reaching(pipeline: Pipeline, operator: Operator) -> Any:
    is_first = pipeline.input_of(operator) == SOURCE
    return pipeline.record_type if is_first and pipeline.record_type is not Any else operator.in_type


def _values(record_type: Any, samples: Sequence[Any], own: Mapping[Any, Any]) -> Values:
    """Draw records of a type: the samples first, then new ones."""
    return Values(mixed(record_type, samples, own), tuple(samples))


def _drawn(values: Values) -> tuple[Any, ...]:
    """Draw records to run on where there are no samples."""
    found: list[Any] = []

    def keep(record: Any) -> str:
        found.append(record)
        return ""

    search(values, keep, Effort(_DRAWN))
    return tuple(found)


def _note(types: dict[str, tuple[Any, list[Any]]], record_type: Any, records: Sequence[Any]) -> None:
    types.setdefault(repr(record_type), (record_type, []))[1].extend(records)


def _passed(operator: RecordOperator | GroupOperator, records: Sequence[Any]) -> list[Any]:
    """Give what an operator makes of records; failed ones are left out."""
    trace = Trace("samples", str, lambda info, record: None)
    begun = resumed(enumerate(copied(list(records))), trace)
    softened = replace(operator, error_policy="collect")
    try:
        match softened:
            case Combine():
                return [merge_totals(softened, [fold_records(softened, begun, trace)])]
            case CombineByKey():
                found: list[Partials] = []

                def keep(some: Partials) -> int:
                    found.append(some)
                    return 1

                partials_by_key(softened, begun, trace, keep)
                merged = merged_by_key(softened, lambda keys: iter(found), ALL_KEYS, trace)
                return [record for _, record in merged]
            case Distinct():
                return list(records)
            case _:
                return list(run_chain([softened], begun, trace))
    except Exception:  # which its own laws will tell
        return []


def _group_laws(
    loaded: Loaded, operator: CombineByKey | Distinct, values: Values, effort: Effort, is_quick: bool
) -> Iterator[Law]:
    if operator.key is not None:
        yield from purity_laws(
            Subject(f"{operator.name}.key", operator.key, values, effort), is_quick=is_quick
        )
    if not isinstance(operator, CombineByKey):
        return
    yield from _combine_laws(loaded, operator, values, effort, is_quick)
    if operator.windowing is not None:
        time = Subject(f"{operator.name}.window.time", operator.windowing.time, values, effort)
        yield from purity_laws(time, is_quick=is_quick)


def _combine_laws(
    loaded: Loaded, combine: Combine | CombineByKey, values: Values, effort: Effort, is_quick: bool
) -> Iterator[Law]:
    yield from purity_laws(Subject(combine.name, combine.lift, values, effort), is_quick=is_quick)
    lift = lifted(combine, Trace("samples", str, lambda info, record: None))
    endings = [ending_of(lift, copied(record)) for record in values.samples]
    totals = values.strategy.map(lambda record: ending_of(lift, record)).filter(_has_value).map(_value_of)
    samples = tuple(ending.value for ending in endings if not ending.error)
    name = loaded.monoids.get(combine.name) or type(combine.monoid).__name__
    subject = MonoidSubject(name, combine.monoid, Values(totals, samples), combine.tolerance, effort)
    yield from monoid_laws(subject)


def _has_value(ending: Ending) -> bool:
    return not ending.error


def _value_of(ending: Ending) -> Any:
    return ending.value


def _laws_of_sink(loaded: Loaded, sink: Sink, values: Values, effort: Effort) -> Iterator[Law]:
    made = _trial_of(loaded, sink)
    if isinstance(made, str):
        yield Law(
            "sink idempotence",
            sink.name,
            lambda: Verdict("sink idempotence", sink.name, "skipped", reason=made),
        )
        return
    make, pasted = made
    entry = loaded.sinks.get(sink.name)
    visible = entry.visible if entry else None
    yield from sink_laws(SinkSubject(sink.name, make, values, sink.in_type, visible, pasted, effort))


def _trial_of(loaded: Loaded, sink: Sink) -> tuple[Callable[[str], Any], Pasted] | str:
    """Find how to make the sink in a place where nothing is lost, or say why it cannot be tried."""
    target: Any = sink.target
    entry = loaded.sinks.get(sink.name)
    trial = entry.trial if entry else None
    if trial is not None:
        return functools.partial(_made, target, trial), Pasted("make")
    if isinstance(target, FunctionSink):
        return (
            "a plain function may write anywhere: register it with trial=, a function from a folder to "
            "parameters that make it write below that folder"
        )
    if not has_folder(target):
        return "it has no path that could be another one: register it with trial="
    rest = {
        one.name: paste(getattr(target, one.name)) for one in dataclasses.fields(target) if one.name != "path"
    }
    words = "".join(f", {name}={word.expression}" for name, word in rest.items())
    cls = paste(type(target))
    imports = cls.imports.union({"import functools"}, *(word.imports for word in rest.values()))
    pasted = Pasted(f"functools.partial({cls.expression}{words})", imports)
    return lambda folder: dataclasses.replace(target, path=folder), pasted


def _made(target: Any, trial: Callable[[str], Mapping[str, Any]], folder: str) -> Any:
    params = trial(folder)
    if not isinstance(target, FunctionSink):
        return dataclasses.replace(target, **params)
    function = target.function
    bound = tuple(sorted({**dict(function.params), **params}.items()))
    return dataclasses.replace(target, function=dataclasses.replace(function, params=bound))

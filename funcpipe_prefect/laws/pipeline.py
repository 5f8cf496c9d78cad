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

from funcpipe_prefect.builder import load_pipeline
from funcpipe_prefect.builder.imports import gather_registry
from funcpipe_prefect.config import CombineSpec, SinkSpec, load_config
from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.ir import BatchMap, Combine, Pipeline, RecordSource, Sink, Undecodable
from funcpipe_prefect.kernel import Trace, bind, resumed, run_chain
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

__all__ = ["Loaded", "Samples", "laws_of", "load", "samples_of"]

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
        sink: Its sink's entry in the registry, and the parameters in the file.
        monoid: The name of its monoid.
        events: What happened outside while it was built.
        pasted: The pipeline as Python source.
    """

    pipeline: Pipeline
    registry: Registry = field(default_factory=Registry)
    sink: tuple[SinkEntry, Mapping[str, Any]] | None = None
    monoid: str = ""
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
    last = config.operators[-1]
    sink = merged.get("sink", last.func or "") if isinstance(last, SinkSpec) else None
    text = paste(str(pipeline) if isinstance(pipeline, Path) else pipeline)
    return Loaded(
        built,
        merged,
        (sink, last.params) if sink is not None and last is not None else None,
        (last.monoid or "") if isinstance(last, CombineSpec) else "",
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
    for operator in pipeline.record_operators:
        values = _values(_type_reaching(pipeline, operator), reaching, own)
        if isinstance(operator, BatchMap):
            batches = listed(values, _IN_BATCH)
            subject = Subject(operator.name, operator.func, batches, effort)
            yield from purity_laws(subject, is_quick=is_quick)
            yield from batch_laws(subject)
        else:
            yield from purity_laws(Subject(operator.name, operator.func, values, effort), is_quick=is_quick)
        reaching = _passed(operator, reaching)[:_TRIED]
        _note(types, operator.out_type, reaching)
    terminal = pipeline.terminal
    if isinstance(terminal, Combine):
        yield from _combine_laws(loaded, terminal, _values(terminal.in_type, reaching, own), effort, is_quick)
    combine = terminal if isinstance(terminal, Combine) else None
    yield from chain_laws(
        ChainSubject(
            pipeline.name,
            pipeline.record_operators,
            combine,
            listed(chained, _IN_BATCH),
            loaded.pasted,
            effort,
        )
    )
    for record_type, known in types.values():
        yield round_trip_law(record_type, _values(record_type, known, own), effort)
    if is_quick:
        return
    if isinstance(terminal, Sink):
        yield from _laws_of_sink(loaded, terminal, _values(terminal.in_type, reaching, own), effort)
    records = _spread(samples.records, _RUN) or _drawn(chained)
    pasted = {"pipeline": loaded.pasted, "records": samples.pasted}
    yield from agreement_laws(pipeline, records, backends, pasted)


def _type_reaching(pipeline: Pipeline, operator: Any) -> Any:
    is_first = operator is pipeline.record_operators[0]
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


def _passed(operator: Any, records: Sequence[Any]) -> list[Any]:
    """Give what an operator makes of records; failed ones are left out."""
    trace = Trace("samples", str, lambda info, record: None)
    values = run_chain(
        [replace(operator, error_policy="collect")], resumed(enumerate(copied(list(records))), trace), trace
    )
    try:
        return list(values)
    except Exception:  # which its own laws will tell
        return []


def _combine_laws(
    loaded: Loaded, combine: Combine, values: Values, effort: Effort, is_quick: bool
) -> Iterator[Law]:
    yield from purity_laws(Subject(combine.name, combine.lift, values, effort), is_quick=is_quick)
    lift = bind(combine.lift)
    endings = [ending_of(lift, copied(record)) for record in values.samples]
    lifted = values.strategy.map(lambda record: ending_of(lift, record)).filter(_has_value).map(_value_of)
    samples = tuple(ending.value for ending in endings if not ending.error)
    name = loaded.monoid or type(combine.monoid).__name__
    subject = MonoidSubject(name, combine.monoid, Values(lifted, samples), combine.tolerance, effort)
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
    visible = loaded.sink[0].visible if loaded.sink else None
    yield from sink_laws(SinkSubject(sink.name, make, values, sink.in_type, visible, pasted, effort))


def _trial_of(loaded: Loaded, sink: Sink) -> tuple[Callable[[str], Any], Pasted] | str:
    """Find how to make the sink in a place where nothing is lost, or say why it cannot be tried."""
    target: Any = sink.target
    trial = loaded.sink[0].trial if loaded.sink else None
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

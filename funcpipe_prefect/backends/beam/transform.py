"""A pipeline as a Beam transform, for those who compose their own Beam pipelines."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from funcpipe_prefect.backends.beam.options import MISSING
from funcpipe_prefect.errors import BackendError

try:
    import apache_beam as beam
except ModuleNotFoundError as error:
    raise BackendError(MISSING) from error

from apache_beam import typehints
from apache_beam.transforms.window import GlobalWindows

from funcpipe_prefect.backends.beam.coders import ValueCoder, Values, record_hint
from funcpipe_prefect.backends.beam.counters import count
from funcpipe_prefect.grouping import (
    Partials,
    candidates,
    lifted,
    merge_totals,
    partials_by_key,
    record_maker,
)
from funcpipe_prefect.ir import (
    SOURCE,
    BatchMap,
    Combine,
    CombineByKey,
    Distinct,
    Function,
    GroupOperator,
    Map,
    Pipeline,
    RecordOperator,
    Sink,
)
from funcpipe_prefect.kernel import Trace, bind, run_chain
from funcpipe_prefect.result import ErrorInfo
from funcpipe_prefect.schema import store_codec
from funcpipe_prefect.sinks.letters import letter_line

__all__ = ["MonoidCombineFn", "Outputs", "to_ptransform"]

_UNFOLDED = 4096
_LETTERS = "dead_letters"


class Outputs(NamedTuple):
    """What comes out of a pipeline.

    Attributes:
        results: What comes out at the pipeline's end, or at the first of its ends in the file: the records
            that would reach a Sink, or the one answer of a Combine.
        dead_letters: Failed records as dicts, like the lines of the dead-letter files.
        ends: What comes out at each end, by the name of the operator, where there are several.
    """

    results: beam.PCollection[Any]
    dead_letters: beam.PCollection[dict[str, Any]]
    ends: Mapping[str, beam.PCollection[Any]] = {}


def to_ptransform(pipeline: Pipeline) -> beam.PTransform[beam.PCollection[Any], Outputs]:
    """Compile a pipeline to a Beam transform; nothing runs.

    The transform takes a PCollection of the pipeline's record type and gives `results` and
    `dead_letters`. The source stays out, and so does a Sink: the records that would reach it are
    the results. A Combine gives one answer, for each window where the input is windowed. A record
    that fails under `fail_fast` fails the Beam pipeline. Each operator counts its records by Beam
    counters `in`, `out`, `dropped` and `errors` in a namespace of its name.

    Args:
        pipeline: A checked pipeline.

    Example:
        >>> to_ptransform(pipeline)  # doctest: +SKIP
        <_Compiled(PTransform) label=[words]>
    """
    return _Compiled(pipeline)


class _Compiled(beam.PTransform[beam.PCollection[Any], Outputs]):
    """A pipeline's operators, one behind the other."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(label=pipeline.name)
        self._pipeline = pipeline
        self.with_input_types(record_hint(pipeline.record_type))

    def expand(self, records: beam.PCollection[Any]) -> Outputs:
        """Apply the operators."""
        pipeline = self._pipeline
        made: dict[str, beam.PCollection[Any]] = {SOURCE: records}
        ends: dict[str, beam.PCollection[Any]] = {}
        letters = []
        for operator in pipeline.operators:
            taken = made[pipeline.input_of(operator)]
            if isinstance(operator, Sink):
                ends[operator.name] = taken
                continue
            made[operator.name], failed = _apply(operator, taken)
            letters.append(failed)
            if isinstance(operator, Combine) or not pipeline.readers_of(operator.name):
                ends[operator.name] = made[operator.name]
        if not letters:
            (name,) = list(ends)[:1]
            passing = Map(name, Function("", _itself), out_type=pipeline.record_type)
            ends[name], failed = _apply(passing, records)
            letters.append(failed)
        dead_letters = letters | "dead letters" >> beam.Flatten()
        dead_letters.element_type = Values()
        return Outputs(next(iter(ends.values())), dead_letters, ends if len(ends) > 1 else {})


def _itself(record: Any) -> Any:
    return record


class _Both(NamedTuple):
    results: beam.PCollection[Any]
    dead_letters: beam.PCollection[dict[str, Any]]


def _apply(operator: RecordOperator | GroupOperator, records: beam.PCollection[Any]) -> _Both:
    hint = record_hint(operator.out_type)
    both: _Both
    match operator:
        case BatchMap():
            both = records | operator.name >> _Batched(operator, hint)
            return both
        case Combine():
            both = records | operator.name >> _Combined(operator)
            return both
        case CombineByKey():
            both = records | operator.name >> _CombinedByKey(operator, hint)
            return both
        case Distinct():
            both = records | operator.name >> _Distinct(operator, hint)
            return both
    return _outputs(records, operator.name, _Elements(operator), hint)


def _outputs(values: beam.PCollection[Any], label: str, do_fn: beam.DoFn, hint: Any) -> _Both:
    par_do = beam.ParDo(do_fn).with_output_types(hint)
    both = values | label >> par_do.with_outputs(_LETTERS, main="results")
    both.dead_letters.element_type = Values()
    return _Both(both.results, both.dead_letters)


class _Batched(beam.PTransform[beam.PCollection[Any], _Both]):
    """A BatchMap: lists of records, then a call for each list."""

    def __init__(self, operator: BatchMap, hint: Any) -> None:
        super().__init__()
        self._operator = operator
        self._hint = hint

    def expand(self, records: beam.PCollection[Any]) -> _Both:
        """Apply both."""
        size = self._operator.max_batch_size
        batches = records | "batch" >> beam.BatchElements(min_batch_size=size, max_batch_size=size)
        return _outputs(batches, "call", _Batches(self._operator), self._hint)


class _Combined(beam.PTransform[beam.PCollection[Any], _Both]):
    """A Combine: every record lifted, then merged."""

    def __init__(self, operator: Combine) -> None:
        super().__init__()
        self._operator = operator

    def expand(self, records: beam.PCollection[Any]) -> _Both:
        """Apply both; only in the global window is there an answer without a record."""
        combine = self._operator
        _check_places(combine)
        totals, dead_letters = _outputs(records, "lift", _Lifted(combine), Values())
        merge = beam.CombineGlobally(MonoidCombineFn(combine))
        if totals.windowing.windowfn != GlobalWindows():
            merge = merge.without_defaults()
        answer = totals | "merge" >> merge
        answer.element_type = Values()
        return _Both(answer, dead_letters)


def _check_places(operator: Combine | CombineByKey) -> None:
    if hasattr(operator.monoid, "unit_at"):
        raise BackendError(
            f"{operator.name!r} depends on the places of records, and an element of a PCollection has none"
        )


class _CombinedByKey(beam.PTransform[beam.PCollection[Any], _Both]):
    """A CombineByKey: every record keyed and lifted, then merged for each key by `CombinePerKey`."""

    def __init__(self, operator: CombineByKey, hint: Any) -> None:
        super().__init__()
        self._operator, self._hint = operator, hint

    def expand(self, records: beam.PCollection[Any]) -> _Both:
        """Apply all three."""
        _check_places(self._operator)
        keyed, dead_letters = _outputs(records, "key", _Keyed(self._operator), _KEYED)
        answers = keyed | "merge" >> beam.CombinePerKey(MonoidCombineFn(self._operator))
        answers.element_type = _KEYED
        made = answers | "record" >> beam.ParDo(_Made(self._operator)).with_output_types(self._hint)
        return _Both(made, dead_letters)


class _Distinct(beam.PTransform[beam.PCollection[Any], _Both]):
    """A Distinct. Elements have no position: of those with one key the one with the smallest bytes goes on."""

    def __init__(self, operator: Distinct, hint: Any) -> None:
        super().__init__()
        self._operator, self._hint = operator, hint

    def expand(self, records: beam.PCollection[Any]) -> _Both:
        """Apply all three."""
        keyed, dead_letters = _outputs(records, "key", _Candidates(self._operator), _KEYED_BYTES)
        chosen = keyed | "choose" >> beam.CombinePerKey(min)
        chosen.element_type = _KEYED_BYTES
        made = chosen | "record" >> beam.ParDo(_Made(self._operator)).with_output_types(self._hint)
        return _Both(made, dead_letters)


_KEYED = typehints.Tuple[bytes, Values()]
_KEYED_BYTES = typehints.Tuple[bytes, bytes]


D = TypeVar("D", bound="_Chain")


class _Chain(beam.DoFn):
    """Runs one operator by the kernel; a bundle is a partition without positions."""

    def __init__(self, operator: RecordOperator) -> None:
        self._operator = operator

    def setup(self) -> None:
        """Bind the function once, since each element is a chain of its own."""
        self._chain = (replace(self._operator, func=_bound(self._operator.func)),)

    def start_bundle(self) -> None:
        """Begin to count."""
        self._letters: list[beam.pvalue.TaggedOutput] = []
        self._trace = Trace("", _locate, self._collect)

    def _collect(self, info: ErrorInfo, record: Any) -> None:
        letter = json.loads(letter_line(info, record))
        self._letters.append(beam.pvalue.TaggedOutput(_LETTERS, letter))

    def _run(self, values: Iterator[Any]) -> list[Any]:
        return self._with_letters(list(run_chain(self._chain, values, self._trace)))

    def _with_letters(self, results: list[Any]) -> list[Any]:
        if self._letters:
            results += self._letters
            self._letters.clear()
        return results

    def finish_bundle(self) -> None:
        """Hand the bundle's counts to Beam."""
        count(self._trace.counts())


def _locate(position: int) -> str:
    return "an element of a PCollection"


class _Elements(_Chain):
    """A Map or a FlatMap, element by element."""

    def process(self, element: Any) -> Any:
        """Run the operator on one record."""
        return self._run(iter((element,)))


class _Lifted(_Elements):
    """The lift of a Combine, element by element: totals."""

    def __init__(self, operator: Combine) -> None:
        self._group = operator

    def setup(self) -> None:
        """Bind the function once."""
        combine = self._group
        func = Function(combine.lift.name, lifted(combine, Trace("", _locate, self._collect)))
        self._chain = (
            Map(combine.name, func, combine.error_policy, combine.in_type, transient=combine.transient),
        )


class _Batches(_Chain):
    """A BatchMap, batch by batch."""

    def process(self, element: Any) -> Any:
        """Run the operator on one batch."""
        return self._run(iter(element))


class _Keyed(_Chain):
    """The first half of a CombineByKey, element by element."""

    def __init__(self, operator: CombineByKey) -> None:
        self._group = operator

    def setup(self) -> None:
        """Bind the functions once."""
        self._bound = replace(self._group, key=_bound(self._group.key), lift=_bound(self._group.lift))

    def process(self, element: Any) -> Any:
        """Key and lift one record."""
        found: list[Any] = []

        def keep(partials: Partials) -> int:
            found.extend(zip(partials.keys, partials.totals, strict=True))
            return 1

        partials_by_key(self._bound, iter((element,)), self._trace, keep)
        return self._with_letters(found)


class _Candidates(_Chain):
    """The first half of a Distinct, element by element."""

    def __init__(self, operator: Distinct) -> None:
        self._group = operator

    def setup(self) -> None:
        """Bind the function once."""
        key = self._group.key
        self._bound = replace(self._group, key=None if key is None else _bound(key))
        self._encode = store_codec(self._group.in_type).encode

    def process(self, element: Any) -> Any:
        """Key one record."""
        found = candidates(self._bound, iter((element,)), self._trace, self._encode)
        return self._with_letters([(key, record) for key, _, record in found])


class _Made(beam.DoFn):
    """The second half of a keyed operator, behind the merge: the records."""

    def __init__(self, operator: CombineByKey | Distinct) -> None:
        self._operator = operator

    def setup(self) -> None:
        """Make what cannot be shipped."""
        if isinstance(self._operator, CombineByKey):
            self._make = record_maker(self._operator)
        else:
            decode = store_codec(self._operator.in_type).decode
            self._make = lambda key, record: decode(record)

    def process(self, element: Any) -> Any:
        """Give one record."""
        yield self._make(*element)


def _bound(function: Function) -> Function:
    return replace(function, call=bind(function), params=(), artifacts=())


class MonoidCombineFn(beam.CombineFn):
    """A Combine's monoid over lifted values.

    An accumulator is a list of values that are still to be merged: many at once take a monoid's
    own `fold` one pass, where one by one each would copy the whole partial answer.
    """

    def __init__(self, operator: Combine | CombineByKey) -> None:
        self._operator = operator
        self.with_input_types(Values()).with_output_types(Values())

    def create_accumulator(self) -> list[Any]:
        """Begin with nothing to merge."""
        return []

    def add_input(self, mutable_accumulator: list[Any], element: Any) -> list[Any]:
        """Add one lifted value."""
        mutable_accumulator.append(element)
        return (
            mutable_accumulator if len(mutable_accumulator) < _UNFOLDED else self._fold(mutable_accumulator)
        )

    def add_inputs(self, mutable_accumulator: list[Any], elements: Iterable[Any]) -> list[Any]:
        """Add many lifted values at once."""
        return self._fold(itertools.chain(mutable_accumulator, elements))

    def merge_accumulators(self, accumulators: Iterable[list[Any]]) -> list[Any]:
        """Merge partial answers."""
        return self._fold(itertools.chain.from_iterable(accumulators))

    def compact(self, accumulator: list[Any]) -> list[Any]:
        """Merge what is there before it travels."""
        return self._fold(accumulator)

    def extract_output(self, accumulator: list[Any]) -> Any:
        """Derive the answer.

        Raises:
            ContractError: FP402, the monoid failed.
        """
        return merge_totals(self._operator, accumulator)

    def get_accumulator_coder(self) -> ValueCoder:
        """Give the coder of partial answers, which may be any object."""
        return ValueCoder()

    def _fold(self, values: Iterable[Any]) -> list[Any]:
        return [merge_totals(self._operator, values, is_last=False)]

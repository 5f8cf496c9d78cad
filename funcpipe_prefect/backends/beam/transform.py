"""A pipeline as a Beam transform, for those who compose their own Beam pipelines."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from funcpipe_prefect.backends.beam.options import MISSING
from funcpipe_prefect.errors import BackendError

try:
    import apache_beam as beam
except ModuleNotFoundError as error:
    raise BackendError(MISSING) from error

from apache_beam.transforms.window import GlobalWindows

from funcpipe_prefect.backends.beam.coders import ValueCoder, Values, record_hint
from funcpipe_prefect.backends.beam.counters import count
from funcpipe_prefect.ir import BatchMap, Combine, Function, Map, Pipeline, RecordOperator
from funcpipe_prefect.kernel import Trace, bind, merge_totals, run_chain
from funcpipe_prefect.result import ErrorInfo
from funcpipe_prefect.sinks.letters import letter_line

__all__ = ["MonoidCombineFn", "Outputs", "to_ptransform"]

_UNFOLDED = 4096
_LETTERS = "dead_letters"


class Outputs(NamedTuple):
    """What comes out of a pipeline.

    Attributes:
        results: The records behind the last operator, or the one answer of a Combine.
        dead_letters: Failed records as dicts, like the lines of the dead-letter files.
    """

    results: beam.PCollection[Any]
    dead_letters: beam.PCollection[dict[str, Any]]


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
        terminal = self._pipeline.terminal
        letters = []
        for operator in self._pipeline.record_operators:
            records, failed = _apply(operator, records)
            letters.append(failed)
        if isinstance(terminal, Combine):
            records, failed = records | terminal.name >> _Combined(terminal)
            letters.append(failed)
        elif terminal is not None and not letters:
            passing = Map(terminal.name, Function("", _itself), out_type=terminal.in_type)
            records, failed = _apply(passing, records)
            letters.append(failed)
        dead_letters = letters | "dead letters" >> beam.Flatten()
        dead_letters.element_type = Values()
        return Outputs(records, dead_letters)


def _itself(record: Any) -> Any:
    return record


def _apply(operator: RecordOperator, records: beam.PCollection[Any]) -> Outputs:
    hint = record_hint(operator.out_type)
    if isinstance(operator, BatchMap):
        both: Outputs = records | operator.name >> _Batched(operator, hint)
        return both
    return _outputs(records, operator.name, _Elements(operator), hint)


def _outputs(values: beam.PCollection[Any], label: str, do_fn: beam.DoFn, hint: Any) -> Outputs:
    par_do = beam.ParDo(do_fn).with_output_types(hint)
    both = values | label >> par_do.with_outputs(_LETTERS, main="results")
    both.dead_letters.element_type = Values()
    return Outputs(both.results, both.dead_letters)


class _Batched(beam.PTransform[beam.PCollection[Any], Outputs]):
    """A BatchMap: lists of records, then a call for each list."""

    def __init__(self, operator: BatchMap, hint: Any) -> None:
        super().__init__()
        self._operator = operator
        self._hint = hint

    def expand(self, records: beam.PCollection[Any]) -> Outputs:
        """Apply both."""
        size = self._operator.max_batch_size
        batches = records | "batch" >> beam.BatchElements(min_batch_size=size, max_batch_size=size)
        return _outputs(batches, "call", _Batches(self._operator), self._hint)


class _Combined(beam.PTransform[beam.PCollection[Any], Outputs]):
    """A Combine: every record lifted, then merged."""

    def __init__(self, operator: Combine) -> None:
        super().__init__()
        self._operator = operator

    def expand(self, records: beam.PCollection[Any]) -> Outputs:
        """Apply both; only in the global window is there an answer without a record."""
        combine = self._operator
        lift = Map(
            combine.name, combine.lift, combine.error_policy, combine.in_type, transient=combine.transient
        )
        lifted, dead_letters = _outputs(records, "lift", _Elements(lift), Values())
        merge = beam.CombineGlobally(MonoidCombineFn(combine))
        if lifted.windowing.windowfn != GlobalWindows():
            merge = merge.without_defaults()
        answer = lifted | "merge" >> merge
        answer.element_type = Values()
        return Outputs(answer, dead_letters)


D = TypeVar("D", bound="_Chain")


class _Chain(beam.DoFn):
    """Runs one operator by the kernel; a bundle is a partition without positions."""

    def __init__(self, operator: RecordOperator) -> None:
        self._operator = operator

    def setup(self) -> None:
        """Bind the function once, since each element is a chain of its own."""
        function = self._operator.func
        bound = replace(function, call=bind(function), params=(), artifacts=())
        self._chain = (replace(self._operator, func=bound),)

    def start_bundle(self) -> None:
        """Begin to count."""
        self._letters: list[beam.pvalue.TaggedOutput] = []
        self._trace = Trace("", _locate, self._collect)

    def _collect(self, info: ErrorInfo, record: Any) -> None:
        letter = json.loads(letter_line(info, record))
        self._letters.append(beam.pvalue.TaggedOutput(_LETTERS, letter))

    def _run(self, values: Iterator[Any]) -> list[Any]:
        results = list(run_chain(self._chain, values, self._trace))
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


class _Batches(_Chain):
    """A BatchMap, batch by batch."""

    def process(self, element: Any) -> Any:
        """Run the operator on one batch."""
        return self._run(iter(element))


class MonoidCombineFn(beam.CombineFn):
    """A Combine's monoid over lifted values.

    An accumulator is a list of values that are still to be merged: many at once take a monoid's
    own `fold` one pass, where one by one each would copy the whole partial answer.
    """

    def __init__(self, operator: Combine) -> None:
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

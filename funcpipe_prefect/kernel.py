"""The kernel: what every operator and error policy means, once, for all backends.

A chain of operators over one partition is a chain of generators. Values travel bare; a failed
record leaves by the `Trace`, with its position. Memory is bounded by a batch, not a partition.
"""

from __future__ import annotations

import concurrent.futures
import functools
import re
import reprlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from typing_extensions import assert_never

from funcpipe_prefect.errors import ContractError, FuncPipeError, RecordError, SourceError, TransientError
from funcpipe_prefect.ir import (
    SOURCE,
    Artifact,
    BatchMap,
    ErrorPolicy,
    Filter,
    FlatMap,
    Function,
    GroupOperator,
    Located,
    Map,
    OperatorCost,
    OperatorCounts,
    RecordOperator,
    Sink,
    Undecodable,
)
from funcpipe_prefect.limits import keeping
from funcpipe_prefect.result import Err, ErrorInfo, Ok
from funcpipe_prefect.schema import is_model
from funcpipe_prefect.secrets import has_secret, redacted, revealed

__all__ = [
    "Batch",
    "Batches",
    "LocatedLists",
    "Trace",
    "bind",
    "calling",
    "decoded",
    "infrastructure",
    "located",
    "outside",
    "resumed",
    "run_chain",
]

INFRASTRUCTURE = (TransientError, ConnectionError, TimeoutError, concurrent.futures.TimeoutError, MemoryError)

_preview = reprlib.Repr()
_preview.maxstring = _preview.maxother = 200
_preview.maxlevel = 4


@functools.cache
def _built(artifact: Artifact) -> Any:
    return artifact.build()


def bind(function: Function) -> Callable[..., Any]:
    """Give the user's function with its parameters and artifacts in place.

    Each artifact is built at the first use in a process and kept for its life.
    """
    params = revealed(dict(function.params)) if has_secret(dict(function.params)) else dict(function.params)
    keywords = params | {item.name: _built(item) for item in function.artifacts}
    return functools.partial(function.call, **keywords) if keywords else function.call


_clock = time.perf_counter
_EACH, _MASK = 32, 15


class _Tally:
    __slots__ = ("batches", "dropped", "errors", "passed", "records_out", "seconds")

    def __init__(self) -> None:
        self.passed = self.records_out = self.dropped = self.errors = self.batches = 0
        self.seconds = 0.0

    def took(self, calls: int, first: float, some: float) -> None:
        """Add the time of calls, of which the first `_EACH` were timed, and of the others one in `_MASK + 1`."""
        timed = max(0, calls // (_MASK + 1) - _EACH // (_MASK + 1))
        self.seconds += first + (some * (calls - _EACH) / timed if timed else 0.0)


class Trace:
    """The side channel of one partition: positions, counts and failed records.

    Args:
        split: The split's name.
        locate: Turns a position into words for a person.
        collect: Receives each dead letter and the record (`Undecodable` from the source).
        place: Turns a position into a text that is the same for any partitioning.
    """

    def __init__(
        self,
        split: str,
        locate: Callable[[int], str],
        collect: Callable[[ErrorInfo, Any], None],
        place: Callable[[int], str] = str,
    ) -> None:
        self.position = 0
        self._place, self._placed = place, (-1, 0)
        self.first: ErrorInfo | None = None
        self._split = split
        self.locate = locate
        self._collect = collect
        self._tallies: dict[str, _Tally] = {}

    def where(self) -> str:
        """The current position in words; the bare number when the source cannot be asked any more."""
        try:
            return self.locate(self.position)
        except Exception:
            return f"{self._split}, position {self.position}"

    def place(self) -> str:
        """Name the record at hand: another name for each that stems from the current position."""
        position, count = self._placed
        self._placed = (self.position, count + 1 if position == self.position else 0)
        return f"{self._place(self.position)}/{self._placed[1]}"

    def tally(self, operator: str) -> _Tally:
        """The mutable counts of an operator."""
        return self._tallies.setdefault(operator, _Tally())

    def counts(self) -> tuple[OperatorCounts, ...]:
        """The counts of every operator that has seen this partition, in order."""
        return tuple(
            OperatorCounts(name, t.passed, t.records_out, t.dropped, t.errors)
            for name, t in self._tallies.items()
        )

    def costs(self) -> tuple[OperatorCost, ...]:
        """What every operator has cost on this partition, in order."""
        return tuple(
            OperatorCost(name, t.seconds, t.passed + t.dropped + t.errors, batches=t.batches)
            for name, t in self._tallies.items()
        )

    def fail(self, operator: str, policy: ErrorPolicy, record: Any, reason: Any) -> None:
        """Treat one failed record as its operator's policy says.

        Raises:
            RecordError: The policy is `fail_fast`.
        """
        tally = self.tally(operator)
        if policy == "drop":
            tally.dropped += 1
            return
        tally.errors += 1
        info = self._describe(operator, record, reason)
        self.first = self.first or info
        if policy == "fail_fast":
            raise RecordError(str(info))
        self._collect(info, record)

    def _describe(self, operator: str, record: Any, reason: Any) -> ErrorInfo:
        if isinstance(reason, ErrorInfo):
            kind, message = reason.type, reason.message
        elif isinstance(record, Undecodable):
            kind, message = record.type, record.message
        elif isinstance(reason, BaseException):
            kind, message = type(reason).__name__, _text_of(reason)
        else:
            kind, message = "Err", _text_of(reason)
        shown = record.raw if isinstance(record, Undecodable) else record
        try:
            preview = _preview.repr(shown)[:200]
        except Exception:
            preview = f"<{type(shown).__name__}>"
        return ErrorInfo(
            operator=operator,
            type=kind,
            message=_printable(message[:2000]),
            split=self._split,
            position=self.position,
            location=self.where(),
            preview=_printable(preview),
        )


def _text_of(reason: Any) -> str:
    try:
        return str(reason)
    except Exception as error:
        return f"<its text raises {type(error).__name__}>"


_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


def _printable(text: str) -> str:
    """Make a text that any file takes and that is the same in every run: without addresses and secrets."""
    return _ADDRESS.sub("", redacted(text)).encode("utf-8", "backslashreplace").decode()


def run_chain(operators: Iterable[RecordOperator], values: Iterator[Any], trace: Trace) -> Iterator[Any]:
    """Stream one partition through record operators.

    Args:
        operators: Applied in order.
        values: The partition, from `decoded` or `resumed`.
        trace: Receives counts and failures.

    Yields:
        The records that come through, bare; `trace.position` is then the position of the
        source record that each one stems from.

    Raises:
        RecordError: FP401, a record failed under `fail_fast`.
        ContractError: FP402, a function broke its contract.
        TransientError: FP400, infrastructure failed.
    """
    for operator in operators:
        trace.tally(operator.name)
        match operator:
            case Map():
                values = calling(operator, keeping(operator.limits, bind(operator.func)), values, trace)
            case Filter():
                values = _filter(operator, values, trace)
            case FlatMap():
                values = _Expanded(_flat_map(operator, values, trace))
            case BatchMap():
                values = Batches(_batch_map(operator, values, trace), trace)
            case _:
                assert_never(operator)
    return values


def located(values: Iterable[Any], trace: Trace) -> Iterator[Located]:
    """Pair each value with the position of the record that it stems from."""
    for value in values:
        position = trace.position
        yield position, value
        trace.position = position  # a sink that refused an earlier record has moved it


def decoded(records: Iterable[Located], trace: Trace) -> Iterator[Any]:
    """Begin a chain at the source: what did not decode is a dead letter, the rest goes on bare."""
    return _decoded(records, trace, trace.tally(SOURCE))


def _decoded(records: Iterable[Located], trace: Trace, tally: _Tally) -> Iterator[Any]:
    passed = 0
    try:
        for trace.position, record in _timed(records, tally):
            if record.__class__ is Undecodable:
                trace.fail(SOURCE, "collect", record, record)
            else:
                passed += 1
                yield record
    except OSError as error:
        raise SourceError(
            f"reading behind {trace.where()} failed: {type(error).__name__}: {error}"
        ) from error
    finally:
        tally.passed += passed
        tally.records_out += passed


def _timed(records: Iterable[Located], tally: _Tally) -> Iterator[Located]:
    source, number, first, some = iter(records), 0, 0.0, 0.0
    try:
        while True:
            number += 1
            if number <= _EACH:
                begun = _clock()
                item = next(source, None)
                first += _clock() - begun
            elif number & _MASK:
                item = next(source, None)
            else:
                begun = _clock()
                item = next(source, None)
                some += _clock() - begun
            if item is None:
                return
            yield item
    finally:
        tally.took(number, first, some)


def resumed(records: Iterable[Located], trace: Trace) -> Iterator[Any]:
    """Begin a chain at a stored partition, whose records were counted when it was made."""
    for trace.position, record in records:
        yield record


def infrastructure(operator: RecordOperator | GroupOperator | Sink) -> tuple[type[BaseException], ...]:
    """The exceptions that are never the record's fault."""
    return (*INFRASTRUCTURE, ContractError, *operator.transient)


def outside(place: str, error: BaseException) -> Exception:
    """Name the place of an error that is not the record's fault."""
    if not isinstance(error, FuncPipeError):
        return TransientError(f"{place}: {type(error).__name__}: {error}")
    if isinstance(error, TransientError):
        return TransientError(f"{place}: {str(error).removeprefix(f'{error.code} ')}")
    return error


def _at(operator: str, trace: Trace) -> str:
    return f"{operator!r} at {trace.where()}"


def calling(
    operator: RecordOperator | GroupOperator,
    call: Callable[[Any], Any],
    values: Iterator[Any],
    trace: Trace,
    *,
    counts_out: bool = True,
) -> Iterator[Any]:
    """Yield what a function gives for each value; a failed one is treated as the operator's policy says.

    Args:
        operator: Whose function it is.
        call: The function, bound.
        values: The partition.
        trace: Receives counts and failures.
        counts_out: Count what is yielded as records out of the operator.
    """
    name, policy, others = operator.name, operator.error_policy, infrastructure(operator)
    tally = trace.tally(name)
    passed = number = 0
    first = some = 0.0
    try:
        for value in values:
            number += 1
            try:
                if number <= _EACH:
                    begun = _clock()
                    result = call(value)
                    first += _clock() - begun
                elif number & _MASK:
                    result = call(value)
                else:
                    begun = _clock()
                    result = call(value)
                    some += _clock() - begun
            except others as error:
                raise outside(_at(name, trace), error) from error
            except Exception as error:
                trace.fail(name, policy, value, error)
                continue
            kind = result.__class__
            if kind is Err:
                trace.fail(name, policy, value, result.error)
                continue
            passed += 1
            yield result.value if kind is Ok else result
    finally:
        tally.took(number, first, some)
        tally.passed += passed
        if counts_out:
            tally.records_out += passed


def _filter(operator: Filter, values: Iterator[Any], trace: Trace) -> Iterator[Any]:
    predicate = keeping(operator.limits, bind(operator.func))
    kept = 0

    def judged(value: Any) -> tuple[Any, Any] | Err[Any]:
        verdict = predicate(value)
        if verdict.__class__ is Ok:
            verdict = verdict.value
        if verdict.__class__ is Err:
            return verdict
        if verdict.__class__ is not bool:
            verdict = _plain_bool(verdict)
        return value, verdict

    try:
        for value, is_kept in calling(operator, judged, values, trace, counts_out=False):
            if is_kept:
                kept += 1
                yield value
    finally:
        trace.tally(operator.name).records_out += kept


def _plain_bool(verdict: Any) -> bool:
    plain = verdict.tolist() if hasattr(verdict, "tolist") else verdict  # numpy's own bool
    if plain is True or plain is False:
        return plain
    raise TypeError(f"a Filter function returns True or False, not {type(verdict).__name__}")


class _Expanded(Iterator[Any]):
    """What a `FlatMap` gives: one by one, or as the list that came of each record."""

    def __init__(self, lists: Iterator[list[Any]]) -> None:
        self.lists = lists
        self._each = chain.from_iterable(lists)

    def __iter__(self) -> Iterator[Any]:
        return self._each

    def __next__(self) -> Any:
        return next(self._each)


def _flat_map(operator: FlatMap, values: Iterator[Any], trace: Trace) -> Iterator[list[Any]]:
    call, records_out = keeping(operator.limits, bind(operator.func)), 0
    try:
        for results in calling(
            operator, lambda value: _expanded(call(value)), values, trace, counts_out=False
        ):
            records_out += len(results)
            yield results
    finally:
        trace.tally(operator.name).records_out += records_out


_RESULTS = frozenset((Ok, Err))
_SINGLE = (str, bytes, bytearray, Mapping)


def _expanded(result: Any) -> Any:
    """Give a FlatMap's whole result as a list, or the `Err` that fails the record.

    The list is complete before its first record goes on, so a record never half-succeeds.
    """
    if result.__class__ is Ok:
        result = result.value
    if result.__class__ is Err:
        return result
    if result.__class__ is list:
        results = result
    elif isinstance(result, _SINGLE) or hasattr(result, "_fields") or is_model(type(result)):
        raise TypeError(f"a FlatMap function returns an iterable of records, not one {type(result).__name__}")
    else:
        results = list(result)
    if _RESULTS.isdisjoint(map(type, results)):
        return results
    for index, item in enumerate(results):
        kind = item.__class__
        if kind is Err:
            return item
        if kind is Ok:
            rest = [one.value if one.__class__ is Ok else one for one in results[index:]]
            failed = next((one for one in rest if one.__class__ is Err), None)
            return failed if failed is not None else results[:index] + rest
    return results


Batch = tuple[list[int], list[Any]]
"""Positions, and what came of the records there."""


class Batches(Iterator[Any]):
    """What a chain gives that ends in a `BatchMap`: one by one, or as the lists that are there anyhow."""

    def __init__(self, batches: Iterator[Batch], trace: Trace) -> None:
        self.lists = batches
        self._each = _each(batches, trace)

    def __iter__(self) -> Iterator[Any]:
        return self._each

    def __next__(self) -> Any:
        return next(self._each)


class LocatedLists(Iterator[Located]):
    """Records with their positions: one by one, or list by list; whoever reads them takes one of the two.

    Args:
        each: Gives them one by one.
        lists: Gives the same as lists.
    """

    def __init__(self, each: Generator[Located, None, None], lists: Generator[Batch, None, None]) -> None:
        self.lists = lists
        self._each = each

    def __iter__(self) -> Iterator[Located]:
        return self._each

    def __next__(self) -> Located:
        return next(self._each)

    def close(self) -> None:
        """End both."""
        self._each.close()
        self.lists.close()


def _each(batches: Iterator[Batch], trace: Trace) -> Iterator[Any]:
    for positions, results in batches:
        last = trace.position
        for trace.position, result in zip(positions, results, strict=True):
            yield result
        trace.position = last


def _batch_map(operator: BatchMap, values: Iterator[Any], trace: Trace) -> Iterator[Batch]:
    call = keeping(operator.limits, bind(operator.func))
    batch: list[Any] = []
    positions: list[int] = []
    most = operator.max_batch_size
    trace.tally(operator.name)
    lists = values.lists if isinstance(values, _Expanded) else ([value] for value in values)
    for some in lists:
        batch += some
        positions += [trace.position] * len(some)
        if len(batch) >= most:
            whole = len(batch) - len(batch) % most
            for start in range(0, whole, most):
                stop = start + most
                yield _one_batch(operator, call, batch[start:stop], positions[start:stop], trace)
            batch, positions = batch[whole:], positions[whole:]
    if batch:
        yield _one_batch(operator, call, batch, positions, trace)


def _one_batch(
    operator: BatchMap, call: Callable[..., Any], batch: list[Any], positions: list[int], trace: Trace
) -> Batch:
    tally = trace.tally(operator.name)
    begun = _clock()
    try:
        results = _batch_results(operator, call, batch, trace)
    finally:
        tally.seconds += _clock() - begun
        tally.batches += 1
    if not _RESULTS.isdisjoint(map(type, results)):
        positions, results = _unwrapped(operator, batch, positions, results, trace)
    tally.passed += len(results)
    tally.records_out += len(results)
    return positions, results


def _unwrapped(
    operator: BatchMap, batch: list[Any], positions: list[int], results: list[Any], trace: Trace
) -> Batch:
    last = trace.position
    kept: Batch = ([], [])
    for value, position, result in zip(batch, positions, results, strict=True):
        kind = result.__class__
        if kind is Err:
            trace.position = position
            trace.fail(operator.name, operator.error_policy, value, result.error)
        else:
            kept[0].append(position)
            kept[1].append(result.value if kind is Ok else result)
    trace.position = last
    return kept


def _batch_results(operator: BatchMap, call: Callable[..., Any], batch: list[Any], trace: Trace) -> list[Any]:
    """Run one batch; when it raises, halve it until each failing record stands alone.

    A batch function equals itself element by element, so this gives every healthy neighbour of a
    failing record the result that it would have had in any other batch.
    """
    try:
        results = call(list(batch))
        if results.__class__ is Ok:
            results = results.value
        if results.__class__ is not list and results.__class__ is not Err:
            results = _as_list(operator, results)
    except infrastructure(operator) as error:
        raise outside(_at(operator.name, trace), error) from error
    except Exception as error:
        if len(batch) == 1:
            return [Err(error)]
        half = len(batch) // 2
        return [
            *_batch_results(operator, call, batch[:half], trace),
            *_batch_results(operator, call, batch[half:], trace),
        ]
    if results.__class__ is Err:
        return [results] * len(batch) if len(batch) == 1 else _singly(operator, call, batch, trace)
    if len(results) != len(batch):
        raise ContractError(
            f"{operator.name!r} ({operator.func.name}) returned {len(results)} results for a batch of "
            f"{len(batch)}; a BatchMap returns exactly one result for each input, in order"
        )
    return list(results)


def _singly(operator: BatchMap, call: Callable[..., Any], batch: list[Any], trace: Trace) -> list[Any]:
    return [result for one in batch for result in _batch_results(operator, call, [one], trace)]


def _as_list(operator: BatchMap, results: Any) -> list[Any]:
    if isinstance(results, (str, bytes, dict, set, frozenset)) or not hasattr(results, "__iter__"):
        raise ContractError(
            f"{operator.name!r} ({operator.func.name}) returned a {type(results).__name__}; "
            "a BatchMap returns a list with one result for each input, in order"
        )
    return list(results)

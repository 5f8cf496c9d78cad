"""A chain of operators: no partitioning and no batch size changes what comes out, and counts add up."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hypothesis import strategies as st

from funcpipe_prefect.grouping import (
    Candidates,
    KeyRange,
    Partials,
    candidates,
    fold_records,
    merge_totals,
    merged_by_key,
    order_of,
    partials_by_key,
    survivors,
)
from funcpipe_prefect.ir import (
    BatchMap,
    Combine,
    CombineByKey,
    Distinct,
    ErrorPolicy,
    OperatorCounts,
    RecordOperator,
)
from funcpipe_prefect.kernel import Trace, decoded, located, resumed, run_chain
from funcpipe_prefect.laws.paste import Pasted, paste, pasted_test
from funcpipe_prefect.laws.same import alike, same_records
from funcpipe_prefect.laws.search import Effort, Values, copied, search, settled, telling
from funcpipe_prefect.laws.verdicts import Law, Verdict
from funcpipe_prefect.result import ErrorInfo
from funcpipe_prefect.schema import store_codec

__all__ = ["ChainSubject", "chain_laws"]

T = TypeVar("T")

_LARGEST = 8


@dataclass(frozen=True)
class ChainSubject:
    """The operators of a pipeline under test.

    Attributes:
        name: How verdicts call it.
        operators: One path through it, from the source on.
        combine: Where the path ends, if that is a Combine.
        values: Lists of source records.
        pasted: The pipeline as Python source.
        effort: How hard to look.
    """

    name: str
    operators: tuple[RecordOperator | CombineByKey | Distinct, ...]
    combine: Combine | None
    values: Values
    pasted: Pasted
    effort: Effort = Effort()


@dataclass(frozen=True)
class _Answer:
    records: tuple[tuple[int, Any], ...]
    letters: tuple[tuple[int, str, str], ...]
    counts: tuple[OperatorCounts, ...]
    total: Any = None


Cut = tuple[Sequence[Any], list[int], int]
"""Records, where they are cut into partitions, and the size of batches."""


def chain_laws(subject: ChainSubject) -> Iterator[Law]:
    """State the laws of a chain of operators."""
    checks: dict[str, Callable[[ChainSubject, Cut], str]] = {
        "partition invariance": _invariance,
        "error accounting": _accounting,
    }
    for name, check in checks.items():
        yield Law(name, subject.name, functools.partial(_verdict, subject, name, check))


def _invariance(subject: ChainSubject, cut: Cut) -> str:
    records, places, batch = cut
    whole = _run(subject, [records], None)
    borders = sorted({min(abs(place), len(records)) for place in places})
    parts = [records[a:b] for a, b in zip([0, *borders], [*borders, len(records)], strict=True)]
    other = _run(subject, parts, batch)
    way = f"{len(parts)} partitions and batches of {batch}"
    if subject.combine is not None:
        tolerance = subject.combine.tolerance
        if not alike(whole.total, other.total, rel=tolerance, abs_=tolerance):
            return f"one partition gives {whole.total!r}, {way} give {other.total!r}"
    if whole.letters != other.letters:
        return f"one partition fails {list(whole.letters)}, {way} fail {list(other.letters)}"
    if len(whole.records) != len(other.records):
        return f"one partition gives {len(whole.records)} records, {way} give {len(other.records)}"
    for (position, one), (_, two) in zip(whole.records, other.records, strict=True):
        if not same_records(one, two):
            return f"record {position} gives {one!r} in one partition, and {two!r} with {way}"
    return ""


def _accounting(subject: ChainSubject, cut: Cut) -> str:
    answer = _run(subject, [cut[0]], cut[2])
    flowing = len(cut[0])
    for counts in answer.counts:
        if counts.records_in != flowing:
            return f"{counts.name} counts {counts.records_in} records in, and {flowing} reached it"
        flowing = counts.records_out
    letters = sum(counts.errors for counts in answer.counts)
    if letters != len(answer.letters):
        return f"{letters} dead letters are counted, and {len(answer.letters)} were made"
    if subject.combine is None and flowing != len(answer.records):
        return f"{flowing} records out are counted, and {len(answer.records)} came out"
    return ""


def _run(subject: ChainSubject, parts: Sequence[Sequence[Any]], batch: int | None) -> _Answer:
    """Run records through the kernel, one partition after the other."""
    run = _Run(batch)
    begins = itertools.accumulate((len(part) for part in parts), initial=0)
    located_parts: list[list[tuple[int, Any]]] = [
        list(enumerate(copied(list(part)), begin)) for begin, part in zip(begins, parts, strict=False)
    ]
    chain: list[RecordOperator] = []
    first = True
    for operator in subject.operators:
        if isinstance(operator, (CombineByKey, Distinct)):
            located_parts = run.grouped(chain, operator, located_parts, is_source=first)
            chain, first = [], False
        else:
            chain.append(operator)
    return run.ended(chain, subject.combine, located_parts, is_source=first)


class _Run:
    """Counts, dead letters and what comes out, while records go through operators."""

    def __init__(self, batch: int | None) -> None:
        self._batch = batch
        self._letters: list[tuple[int, str, str]] = []
        self._counts: dict[str, OperatorCounts] = {}

    def _collect(self, info: ErrorInfo, record: Any) -> None:
        self._letters.append((info.position, info.operator, f"{info.type}: {info.message}"))

    def _chained(
        self, chain: Sequence[RecordOperator], part: Sequence[tuple[int, Any]], *, is_source: bool
    ) -> tuple[Trace, Iterator[Any]]:
        trace = Trace("samples", str, self._collect)
        begin = decoded if is_source else resumed
        return trace, run_chain([_softened(one, self._batch) for one in chain], begin(part, trace), trace)

    def _count(self, trace: Trace) -> None:
        for one in trace.counts():
            known = self._counts.get(one.name)
            self._counts[one.name] = one if known is None else known + one

    def grouped(
        self,
        chain: Sequence[RecordOperator],
        operator: CombineByKey | Distinct,
        parts: Sequence[Sequence[tuple[int, Any]]],
        *,
        is_source: bool,
    ) -> list[list[tuple[int, Any]]]:
        """Group what comes through a chain, in as many ranges of keys as there are partitions."""
        operator = replace(operator, error_policy=_soft(operator.error_policy))
        partials: list[Partials] = []
        found: list[Candidates] = []

        def keep(some: Partials) -> int:
            partials.append(some)
            return 1

        for part in parts:
            trace, values = self._chained(chain, part, is_source=is_source)
            if isinstance(operator, CombineByKey):
                partials_by_key(operator, values, trace, keep)
            else:
                rows = [*candidates(operator, values, trace, store_codec(operator.in_type).encode)]
                found.append(
                    Candidates(*map(list, zip(*rows, strict=True))) if rows else Candidates([], [], [])
                )
            self._count(trace)
        ranges = [KeyRange.of(index, len(parts)) for index in range(len(parts))]
        made: list[list[tuple[int, Any]]] = []
        for keys in ranges:
            trace = Trace("samples", str, self._collect)
            if isinstance(operator, CombineByKey):
                mine = [_within(some, keys) for some in partials]
                made.append(list(merged_by_key(operator, _whatever_keys(mine), keys, trace)))
            else:
                decode = store_codec(operator.in_type).decode
                made.append(list(survivors(operator, _whatever_keys(found), keys, trace, decode)))
            self._count(trace)
        return made

    def ended(
        self,
        chain: Sequence[RecordOperator],
        combine: Combine | None,
        parts: Sequence[Sequence[tuple[int, Any]]],
        *,
        is_source: bool,
    ) -> _Answer:
        """Run the last chain to its end."""
        combine = replace(combine, error_policy=_soft(combine.error_policy)) if combine else None
        records: list[tuple[int, Any]] = []
        totals = []
        for part in parts:
            trace, values = self._chained(chain, part, is_source=is_source)
            if combine is not None:
                totals.append(fold_records(combine, values, trace))
            else:
                records += located(values, trace)
            self._count(trace)
        total = merge_totals(combine, totals) if combine is not None else None
        if not is_source:  # in the order of keys, whatever the partitions
            records.sort(key=lambda item: item[0])
        return _Answer(tuple(records), tuple(sorted(self._letters)), tuple(self._counts.values()), total)


def _within(partials: Partials, keys: KeyRange) -> Partials:
    rows = [
        (key, total)
        for key, total in zip(partials.keys, partials.totals, strict=True)
        if keys.start <= order_of(key) < keys.stop
    ]
    return Partials([key for key, _ in rows], [total for _, total in rows])


def _soft(policy: ErrorPolicy) -> ErrorPolicy:
    return "collect" if policy == "fail_fast" else policy


def _softened(operator: RecordOperator, batch: int | None) -> RecordOperator:
    """Let failed records go to the dead letters, and batches have another size."""
    operator = replace(operator, error_policy=_soft(operator.error_policy))
    if isinstance(operator, BatchMap) and batch is not None:
        return replace(operator, max_batch_size=max(1, batch))
    return operator


def _verdict(subject: ChainSubject, law: str, check: Callable[[ChainSubject, Cut], str]) -> Verdict:
    cuts = st.tuples(
        subject.values.strategy, st.lists(st.integers(0, _LARGEST), max_size=3), st.integers(1, _LARGEST)
    )
    samples = tuple(
        (records, places, batch)
        for records in subject.values.samples
        for places, batch in (([], 1), ([len(records) // 3, len(records) // 2], 7), ([1, 2, 3, 5], 3))
    )
    found = search(Values(cuts, samples), telling(functools.partial(check, subject)), subject.effort)
    verdict = settled(law, subject.name, found)
    if verdict is not None:
        return verdict
    records = paste(list(found.example[0]))
    test = pasted_test(
        f"{subject.name} {law}", {"pipeline": subject.pasted, "records": records},
        ["check_partition_invariant(pipeline, records)"],
        ["from funcpipe_prefect.laws import check_partition_invariant"],
    )  # fmt: skip
    shown = f"{records.expression}, cut at {found.example[1]}, batches of {found.example[2]}"
    mend = "mend the operator whose own laws are broken; the chain adds nothing to them"
    return Verdict(law, subject.name, "broken", found.tried, shown, found.reason, mend, test)


def _whatever_keys(found: list[T]) -> Callable[[KeyRange], Iterator[T]]:
    return lambda keys: iter(found)

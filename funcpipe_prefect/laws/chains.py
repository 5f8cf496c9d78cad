"""A chain of operators: no partitioning and no batch size changes what comes out, and counts add up."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from funcpipe_prefect.ir import BatchMap, Combine, OperatorCounts, RecordOperator
from funcpipe_prefect.kernel import SOURCE, Trace, decoded, fold_records, located, merge_totals, run_chain
from funcpipe_prefect.laws.paste import Pasted, paste, pasted_test
from funcpipe_prefect.laws.same import alike, same_records
from funcpipe_prefect.laws.search import Effort, Values, copied, search, settled, telling
from funcpipe_prefect.laws.verdicts import Law, Verdict
from funcpipe_prefect.result import ErrorInfo

__all__ = ["ChainSubject", "chain_laws"]

_LARGEST = 8


@dataclass(frozen=True)
class ChainSubject:
    """The operators of a pipeline under test.

    Attributes:
        name: How verdicts call it.
        operators: Its record operators.
        combine: Its terminal, if that is a Combine.
        values: Lists of source records.
        pasted: The pipeline as Python source.
        effort: How hard to look.
    """

    name: str
    operators: tuple[RecordOperator, ...]
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
    operators = [_softened(operator, batch) for operator in subject.operators]
    combine = replace(subject.combine, error_policy="collect") if subject.combine else None
    records: list[tuple[int, Any]] = []
    letters: list[tuple[int, str, str]] = []
    counts: dict[str, OperatorCounts] = {}
    totals = []
    begin = 0

    def collect(info: ErrorInfo, record: Any) -> None:
        letters.append((info.position, info.operator, f"{info.type}: {info.message}"))

    for part in parts:
        trace = Trace("samples", str, collect)
        values = run_chain(operators, decoded(enumerate(copied(list(part)), begin), trace), trace)
        if combine is not None:
            totals.append(fold_records(combine, values, trace))
        else:
            records += located(values, trace)
        for one in trace.counts():
            counts[one.name] = counts[one.name] + one if one.name in counts else one
        begin += len(part)
    total = merge_totals(combine, totals) if combine is not None else None
    in_order = [SOURCE, *(operator.name for operator in operators), *([combine.name] if combine else [])]
    listed = tuple(counts[name] for name in in_order if name in counts)
    return _Answer(tuple(records), tuple(sorted(letters)), listed, total)


def _softened(operator: RecordOperator, batch: int | None) -> RecordOperator:
    """Let failed records go to the dead letters, and batches have another size."""
    policy = "collect" if operator.error_policy == "fail_fast" else operator.error_policy
    operator = replace(operator, error_policy=policy)
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

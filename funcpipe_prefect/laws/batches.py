"""A batch function equals itself element by element, under any batching, and keeps the length."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from funcpipe_prefect.errors import ContractError
from funcpipe_prefect.ir import BatchMap
from funcpipe_prefect.kernel import Trace, located, resumed, run_chain
from funcpipe_prefect.laws.ending import Ending
from funcpipe_prefect.laws.paste import paste, pasted_test
from funcpipe_prefect.laws.search import copied, search, settled, telling
from funcpipe_prefect.laws.subjects import Subject
from funcpipe_prefect.laws.verdicts import Law, Verdict

__all__ = ["batch_laws"]

_MEND = {
    "batch length": "return one result for each input, in order, and an Err for one that is to go",
    "batch invariance": "let each result depend on its own input alone: no mean, maximum, index or "
    "neighbour of the batch",
}


def batch_laws(subject: Subject) -> Iterator[Law]:
    """State the laws of a batch function, whose values are lists of records."""
    checks = {"batch length": _length, "batch invariance": _invariance}
    for name, check in checks.items():
        yield Law(name, subject.name, functools.partial(_verdict, subject, name, check))


def _length(subject: Subject, records: Sequence[Any]) -> str:
    for size in _sizes(len(records)):
        try:
            _results(subject, records, size)
        except ContractError as error:
            return str(error.args[0])
    return ""


def _invariance(subject: Subject, records: Sequence[Any]) -> str:
    try:
        alone = _results(subject, records, 1)
        for size in _sizes(len(records))[1:]:
            together = _results(subject, records, size)
            for position, ending in alone.items():
                if not ending.agrees(together[position]):
                    return (
                        f"record {position} alone gives {ending}, in batches of {size} it gives "
                        f"{together[position]}"
                    )
    except ContractError:  # which the other law tells
        return ""
    return ""


def _sizes(count: int) -> list[int]:
    return sorted({1, min(2, count), count})


def _results(subject: Subject, records: Sequence[Any], size: int) -> Mapping[int, Ending]:
    """Run records through the kernel in batches of one size; give what became of each."""
    endings: dict[int, Ending] = {}
    trace = Trace("records", str, lambda info, _: endings.update({info.position: Ending(error=_of(info))}))
    operator = BatchMap(subject.name, subject.function, max_batch_size=size)
    values = resumed(list(enumerate(copied(list(records)))), trace)
    for position, value in located(run_chain([operator], values, trace), trace):
        endings[position] = Ending(value)
    return endings


def _of(info: Any) -> str:
    return f"{info.type}: {info.message}"


def _verdict(subject: Subject, law: str, check: Callable[[Subject, Sequence[Any]], str]) -> Verdict:
    found = search(subject.values, telling(functools.partial(check, subject)), subject.effort)
    verdict = settled(law, subject.name, found)
    if verdict is not None:
        return verdict
    records = paste(found.example)
    test = pasted_test(
        f"{subject.name} {law}", {"function": subject.pasted, "records": records},
        ["check_batch_invariant(function, records)"],
        ["from funcpipe_prefect.laws import check_batch_invariant"],
    )  # fmt: skip
    shown = f"{subject.name}({records.expression})"
    return Verdict(law, subject.name, "broken", found.tried, shown, found.reason, _MEND[law], test)

"""A source gives each record once, in any number of splits, and the same each time it is read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from funcpipe_prefect.ir import RecordSource, Undecodable
from funcpipe_prefect.laws.same import same_records
from funcpipe_prefect.laws.verdicts import Law, Verdict

__all__ = ["SourceSubject", "source_laws"]


@dataclass(frozen=True)
class SourceSubject:
    """A source under test.

    Attributes:
        name: How verdicts call it.
        make: Makes it, for a number of splits.
        record_type: What it decodes into.
        splits: The numbers to try.
    """

    name: str
    make: Callable[[int], RecordSource]
    record_type: Any = Any
    splits: tuple[int, ...] = (1, 2, 3, 7)


def source_laws(subject: SourceSubject) -> Iterator[Law]:
    """State the laws of a source."""
    checks: dict[str, tuple[Callable[[SourceSubject, int], str], str]] = {
        "splits cover the input": (
            _covering,
            "let each record belong to one split: the one in which it begins",
        ),
        "listed alike": (
            _listed,
            "give splits in an order that does not depend on the file system or on chance",
        ),
        "read alike": (_read_twice, "open the input anew in each read, and keep no place in it"),
        "located": (_located, "let locate() name each position of a split"),
    }
    for name, (check, mend) in checks.items():
        yield Law(name, subject.name, functools.partial(_verdict, subject, name, check, mend))


def _records(source: RecordSource, record_type: Any) -> list[Any]:
    return [
        record.raw if isinstance(record, Undecodable) else record
        for split in source.list_splits()
        for _, record in source.read(split, record_type)
    ]


def _covering(subject: SourceSubject, splits: int) -> str:
    whole = _records(subject.make(1), subject.record_type)
    cut = _records(subject.make(splits), subject.record_type)
    if len(whole) != len(cut):
        return f"{len(whole)} records in one split, {len(cut)} in {splits}"
    for index, (one, other) in enumerate(zip(whole, cut, strict=True)):
        if not same_records(one, other):
            return f"record {index} is {one!r} in one split, {other!r} in {splits}"
    return ""


def _listed(subject: SourceSubject, splits: int) -> str:
    first, again = subject.make(splits).list_splits(), subject.make(splits).list_splits()
    if list(first) != list(again):
        return f"{[split.name for split in first]}, then {[split.name for split in again]}"
    names = [split.name for split in first]
    return "" if len(set(names)) == len(names) else f"names are not unique: {names}"


def _read_twice(subject: SourceSubject, splits: int) -> str:
    source = subject.make(splits)
    for split in source.list_splits():
        first: Sequence[Any] = list(source.read(split, subject.record_type))
        again: Sequence[Any] = list(source.read(split, subject.record_type))
        if [place for place, _ in first] != [place for place, _ in again]:
            return f"{split.name} has other positions when it is read again"
        if not all(same_records(one, other) for (_, one), (_, other) in zip(first, again, strict=True)):
            return f"{split.name} gives other records when it is read again"
    return ""


def _located(subject: SourceSubject, splits: int) -> str:
    source = subject.make(splits)
    for split in source.list_splits():
        for position, _ in source.read(split, subject.record_type):
            try:
                place = source.locate(split, position)
            except Exception as error:
                return f"position {position} of {split.name}: {type(error).__name__}: {error}"
            if not place:
                return f"position {position} of {split.name} has no place"
    return ""


def _verdict(
    subject: SourceSubject, law: str, check: Callable[[SourceSubject, int], str], mend: str
) -> Verdict:
    for tried, splits in enumerate(subject.splits, 1):
        try:
            reason = check(subject, splits)
        except Exception as error:
            reason = f"it raised {type(error).__name__}: {error}"
        if reason:
            return Verdict(law, subject.name, "broken", tried, f"splits = {splits}", reason, mend)
    return Verdict(law, subject.name, examples=len(subject.splits))

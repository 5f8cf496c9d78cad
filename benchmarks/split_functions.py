"""The registry of the benchmark `split_cost`."""

from __future__ import annotations

from dataclasses import dataclass

from funcpipe_prefect import Registry
from funcpipe_prefect.examples.rag import RawDoc

registry = Registry()


@dataclass(frozen=True)
class Line:
    id: str
    text: str


@dataclass(frozen=True)
class Counted:
    id: str
    words: int


@registry.func
def count_words(line: Line) -> Counted:
    return Counted(line.id, len(line.text.split()))


@registry.func
def id_of(doc: RawDoc) -> str:
    return doc.doc_id


@registry.lift
def length_of(doc: RawDoc) -> int:
    return len(doc.text)

"""A registry beside the RAG example's: what costs less than an embedding."""

from __future__ import annotations

from dataclasses import dataclass

from funcpipe_prefect import Registry
from funcpipe_prefect.examples.rag import Chunk

registry = Registry()


@dataclass(frozen=True)
class Summed:
    doc_id: str
    index: int
    text: str
    words: int


@registry.func
def sum_up(batch: list[Chunk]) -> list[Summed]:
    return [Summed(one.doc_id, one.index, one.text, len(one.text.split())) for one in batch]

"""Functions, lifts, monoids and sinks for the golden pipelines; some of them break a contract."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from funcpipe_prefect import Registry

if TYPE_CHECKING:
    from decimal import Decimal

registry = Registry()


@dataclass(frozen=True)
class RawDoc:
    doc_id: str
    text: str


@dataclass(frozen=True)
class CleanDoc:
    doc_id: str
    text: str


@dataclass(frozen=True)
class Chunk:
    doc_id: str
    number: int
    text: str


@dataclass(frozen=True)
class EmbeddedChunk:
    doc_id: str
    number: int
    vector: list[float]


@registry.func
def clean_doc(doc: RawDoc) -> CleanDoc:
    return CleanDoc(doc.doc_id, " ".join(doc.text.split()))


@registry.func
def chunk_doc(doc: CleanDoc, *, size: int = 512, overlap: int = 64) -> list[Chunk]:
    step = size - overlap
    return [
        Chunk(doc.doc_id, start // step, doc.text[start : start + size])
        for start in range(0, len(doc.text), step)
    ]


@registry.func
def embed_batch(chunks: list[Chunk]) -> list[EmbeddedChunk]:
    return [EmbeddedChunk(chunk.doc_id, chunk.number, [float(len(chunk.text))]) for chunk in chunks]


@registry.func
def embed_one(chunk: Chunk) -> EmbeddedChunk:
    return embed_batch([chunk])[0]


@registry.func
def count_words(doc: CleanDoc) -> int:
    return len(doc.text.split())


@registry.func
def translate(doc: RawDoc, *, language: str) -> RawDoc:
    return doc


@registry.func
async def fetch(doc: RawDoc) -> RawDoc:
    return doc


@registry.func
def priced(doc: RawDoc) -> Decimal:
    raise NotImplementedError


@registry.func
def forever() -> RawDoc:
    raise NotImplementedError


@registry.func
def anything(doc: RawDoc) -> Any:
    return doc


@registry.lift
def one(chunk: Chunk) -> int:
    return 1


class Concat:
    commutative = False

    def empty(self) -> str:
        return ""

    def combine(self, a: str, b: str) -> str:
        return a + b


class Average:
    commutative = True
    associative = False

    def empty(self) -> float:
        return 0.0

    def combine(self, a: float, b: float) -> float:
        return (a + b) / 2


class Largest:
    """Has no identity, so it is no monoid."""

    commutative = True

    def combine(self, a: int, b: int) -> int:
        return max(a, b)


registry.monoid("concat", Concat())
registry.monoid("average", Average())
registry.monoid("largest", Largest())  # type: ignore[arg-type]


@registry.sink(idempotent=True)
def write_chunk(chunk: EmbeddedChunk) -> None: ...


@registry.sink
def append_chunk(chunk: EmbeddedChunk) -> None: ...


@registry.source
class Numbers:
    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError("count must be at least 1")

    def list_splits(self) -> list[Any]:
        return []

    def read(self, split: Any, record_type: Any) -> Iterable[Any]:
        return []

    def locate(self, split: Any, position: int) -> str:
        return ""

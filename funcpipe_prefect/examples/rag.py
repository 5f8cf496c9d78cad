"""RAG ingestion: documents → clean → chunk → embed, and a search over what was stored.

The embedder is `wordllama`, whose 256-dimensional model ships inside its package; without the
`rag` extra a hashing embedder serves, which knows words but no meanings.
"""

from __future__ import annotations

import hashlib
import html
import importlib.util
import logging
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from funcpipe_prefect import Err, Ok, Registry, Result

__all__ = [
    "Chunk",
    "CleanDoc",
    "EmbeddedChunk",
    "RawDoc",
    "chunk_doc",
    "clean_doc",
    "embed_batch",
    "embedder",
    "registry",
]

registry = Registry()

_TAG = re.compile(r"<[A-Za-z/!][^<>]{0,200}>")
_SPACE = re.compile(r"\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")
_SHORTEST = 20


@dataclass(frozen=True)
class RawDoc:
    """A document as it comes. Texts come as `text`, arXiv records as `abstract`."""

    doc_id: str
    title: str = ""
    text: str = ""
    abstract: str = ""


@dataclass(frozen=True)
class CleanDoc:
    """A document in plain text, one space between words."""

    doc_id: str
    title: str
    text: str


@dataclass(frozen=True)
class Chunk:
    """A passage: `index` counts from 0 in its document."""

    doc_id: str
    index: int
    title: str
    text: str


@dataclass(frozen=True)
class EmbeddedChunk:
    """A passage and its vector, of length 1."""

    doc_id: str
    index: int
    title: str
    text: str
    vector: list[float]


class Embedder(Protocol):
    """Turns texts into vectors, the same for a text in any batch."""

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Give one vector of length 1 for each text."""


@registry.func
def clean_doc(doc: RawDoc) -> Result[CleanDoc, str]:
    """Strip markup, control characters and broken spacing; refuse what has no text left."""
    text = _plain(doc.text or doc.abstract)
    if len(text) < _SHORTEST:
        return Err(f"only {len(text)} characters of text")
    return Ok(CleanDoc(doc.doc_id, _plain(doc.title), text))


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFC", html.unescape(_TAG.sub(" ", text)))
    text = "".join(char if char.isprintable() else " " for char in text)
    return _SPACE.sub(" ", text).strip()


@registry.func
def chunk_doc(doc: CleanDoc, *, size: int = 512, overlap: int = 64) -> list[Chunk]:
    """Cut a document into passages at sentence ends, or at spaces where a sentence is long.

    Args:
        doc: The document.
        size: Largest length of a passage, in characters.
        overlap: Characters that a passage repeats of the one before, at most.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap {overlap} is not between 0 and size {size}")
    return [
        Chunk(doc.doc_id, index, doc.title, text)
        for index, text in enumerate(_passages(doc.text, size, overlap))
    ]


def _passages(text: str, size: int, overlap: int) -> list[str]:
    passages = []
    start = 0
    while start < len(text):
        stop = _border(text, start, min(start + size, len(text)))
        passages.append(text[start:stop].strip())
        if stop >= len(text):
            break
        again = text.find(" ", max(stop - overlap, start + 1), stop)
        start = again + 1 if overlap and again >= 0 else stop
    return [passage for passage in passages if passage]


def _border(text: str, start: int, stop: int) -> int:
    if stop == len(text):
        return stop
    half = start + (stop - start) // 2
    ends = [match.end() for match in _SENTENCE_END.finditer(text, half, stop)]
    if ends:
        return ends[-1]
    space = text.rfind(" ", half, stop)
    return space + 1 if space > 0 else stop


class HashEmbedder:
    """Words hashed into 256 dimensions: finds shared words, not shared meaning."""

    dimensions = 256

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Give one vector of length 1 for each text."""
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> list[float]:
        vector = [0.0] * self.dimensions
        for word in re.findall(r"\w+", text.lower()):
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=4).digest()
            vector[int.from_bytes(digest[:2], "big") % self.dimensions] += 1.0 if digest[2] & 1 else -1.0
        length = math.sqrt(sum(value * value for value in vector)) or 1.0
        return [value / length for value in vector]


class WordLlamaEmbedder:
    """The static word embeddings of wordllama, mean-pooled; the model comes with the package."""

    dimensions = 256

    def __init__(self) -> None:
        import wordllama

        # Its import makes the process log at INFO, each HTTP request of Prefect's client included.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        folder = Path(wordllama.__file__).parent
        self._model: Any = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Give one vector of length 1 for each text; a text without words gives zeros."""
        import numpy

        vectors = self._model.embed(list(texts), norm=False)
        lengths = numpy.linalg.norm(vectors, axis=1, keepdims=True)
        lengths[lengths == 0] = 1.0
        unit: list[list[float]] = (numpy.nan_to_num(vectors) / numpy.nan_to_num(lengths, nan=1.0)).tolist()
        return unit


def has_model() -> bool:
    """Tell whether the real embedder is installed (extra `rag`)."""
    return importlib.util.find_spec("wordllama") is not None


@registry.artifact
def embedder() -> Embedder:
    """The embedding model, built once in each process that needs it."""
    return WordLlamaEmbedder() if has_model() else HashEmbedder()


@registry.artifact
def hash_embedder() -> Embedder:
    """The embedder that needs no model."""
    return HashEmbedder()


@registry.func
def embed_batch(batch: list[Chunk], *, embedder: Embedder) -> list[EmbeddedChunk]:
    """Embed passages together with their titles."""
    return _embedded(batch, embedder)


@registry.func
def hash_batch(batch: list[Chunk], *, hash_embedder: Embedder) -> list[EmbeddedChunk]:
    """Embed passages without a model."""
    return _embedded(batch, hash_embedder)


def _embedded(batch: list[Chunk], model: Embedder) -> list[EmbeddedChunk]:
    vectors = model.embed([f"{chunk.title}. {chunk.text}" for chunk in batch])
    return [
        EmbeddedChunk(chunk.doc_id, chunk.index, chunk.title, chunk.text, vector)
        for chunk, vector in zip(batch, vectors, strict=True)
    ]


@registry.lift
def count_words(chunk: Chunk) -> int:
    """How many words a passage has."""
    return len(chunk.text.split())

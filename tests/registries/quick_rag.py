"""The functions of the example with the embedder that needs no model, for tests that run it often."""

from __future__ import annotations

from funcpipe_prefect import Registry
from funcpipe_prefect.examples.rag import (
    Chunk,
    EmbeddedChunk,
    Embedder,
    HashEmbedder,
    RawDoc,
    chunk_doc,
    clean_doc,
)

__all__ = ["RawDoc", "registry"]

registry = Registry()
registry.func(clean_doc)
registry.func(chunk_doc)


@registry.artifact
def embedder() -> Embedder:
    """Hash words."""
    return HashEmbedder()


@registry.func
def embed_batch(batch: list[Chunk], *, embedder: Embedder) -> list[EmbeddedChunk]:
    """Embed passages."""
    vectors = embedder.embed([chunk.text for chunk in batch])
    return [
        EmbeddedChunk(chunk.doc_id, chunk.index, chunk.title, chunk.text, vector)
        for chunk, vector in zip(batch, vectors, strict=True)
    ]

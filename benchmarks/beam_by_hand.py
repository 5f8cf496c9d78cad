"""The work of the RAG example as a Beam user writes it: records are elements, each step a transform."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import msgspec

from benchmarks.contenders.work import BATCH, OVERLAP, SIZE, cleaned, decoded, sha_batch
from funcpipe_prefect.examples import rag


class HashBatch(beam.DoFn):
    """Batches of chunks to embedded chunks; the model is built once for each worker."""

    def setup(self) -> None:
        self._model = rag.hash_embedder()

    def process(self, batch: list[rag.Chunk]) -> list[rag.EmbeddedChunk]:
        return rag.hash_batch(batch, hash_embedder=self._model)


class ShaBatch(beam.DoFn):
    """The same without a model."""

    def process(self, batch: list[rag.Chunk]) -> list[rag.EmbeddedChunk]:
        return sha_batch(batch)


EMBED = {"hash_batch": HashBatch, "sha_batch": ShaBatch}


class Decode(beam.DoFn):
    """Lines to documents, by the standard library's `json` or by msgspec."""

    def __init__(self, codec: str) -> None:
        self._codec = codec

    def setup(self) -> None:
        by_msgspec = msgspec.json.Decoder(rag.RawDoc).decode
        self._decode: Callable[[str], rag.RawDoc] = by_msgspec if self._codec == "msgspec" else decoded

    def process(self, line: str) -> Iterator[rag.RawDoc]:
        yield self._decode(line)


class Encode(beam.DoFn):
    """Embedded chunks to lines, by the standard library's `json` or by msgspec."""

    def __init__(self, codec: str) -> None:
        self._codec = codec

    def setup(self) -> None:
        encode = msgspec.json.Encoder().encode
        self._encode: Callable[[Any], str] = (
            (lambda chunk: encode(chunk).decode())
            if self._codec == "msgspec"
            else lambda chunk: json.dumps(vars(chunk))
        )

    def process(self, chunk: rag.EmbeddedChunk) -> Iterator[str]:
        yield self._encode(chunk)


class Work(beam.PTransform[Any, Any]):
    """Documents to embedded chunks.

    Args:
        embed: Name of the function that embeds.
    """

    def __init__(self, embed: str) -> None:
        super().__init__()
        self._embed = embed

    def expand(self, documents: Any) -> Any:
        return (
            documents
            | "clean" >> beam.FlatMap(cleaned)
            | "chunk" >> beam.FlatMap(rag.chunk_doc, size=SIZE, overlap=OVERLAP)
            | "batch" >> beam.BatchElements(min_batch_size=BATCH, max_batch_size=BATCH)
            | "embed" >> beam.ParDo(EMBED[self._embed]())
        )


def read(pipeline: beam.Pipeline, documents: Path, codec: str) -> Any:
    """Read the documents."""
    lines = pipeline | "read" >> beam.io.ReadFromText(str(documents))
    return lines | "decode" >> beam.ParDo(Decode(codec)).with_output_types(rag.RawDoc)


def write(chunks: Any, folder: Path, codec: str) -> None:
    """Write the chunks."""
    lines = chunks | "encode" >> beam.ParDo(Encode(codec)).with_output_types(str)
    _ = lines | "write" >> beam.io.WriteToText(str(folder / "part"), file_name_suffix=".jsonl")

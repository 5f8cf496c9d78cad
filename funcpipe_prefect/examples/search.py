"""Asking a question of what the ingestion stored: exact cosine search over Parquet parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import pyarrow.dataset

from funcpipe_prefect.examples.rag import Embedder, embedder
from funcpipe_prefect.sinks.directory import Directory

__all__ = ["Passage", "search"]


@dataclass(frozen=True)
class Passage:
    """A passage that answers, and its cosine similarity to the question, from -1 to 1."""

    score: float
    doc_id: str
    title: str
    text: str


def search(path: str, question: str, *, k: int = 5, model: Embedder | None = None) -> list[Passage]:
    """Find the k passages nearest in meaning, each text once.

    Args:
        path: Output folder of the ingestion.
        question: Any text.
        k: How many passages.
        model: The embedder that the ingestion used.

    Returns:
        The passages, best first; none when nothing is stored.
    """
    parts = [
        f"{path.rstrip('/')}/{entry.part.file}" for entry in Directory(path, ".parquet").manifest().parts
    ]
    parts = [part for part in parts if part.endswith(".parquet")]
    if not parts:
        return []
    asked = numpy.asarray((model or embedder()).embed([question])[0], dtype=numpy.float32)
    best: list[Passage] = []
    columns = ["doc_id", "title", "text", "vector"]
    for batch in pyarrow.dataset.dataset(parts, format="parquet").to_batches(columns=columns):
        if batch.num_rows == 0:
            continue
        column: pyarrow.ListArray = batch.column("vector")  # type: ignore[type-arg, assignment]
        flat = column.flatten().to_numpy(zero_copy_only=False)
        scores = flat.reshape(batch.num_rows, -1).astype(numpy.float32) @ asked
        for row in numpy.argsort(-scores)[: 4 * k]:
            values = batch.slice(int(row), 1).to_pylist()[0]
            best.append(Passage(float(scores[row]), values["doc_id"], values["title"], values["text"]))
    ranked = sorted(best, key=lambda item: (-item.score, item.doc_id))
    distinct: dict[str, Passage] = {}
    for passage in ranked:
        distinct.setdefault(passage.text, passage)
    return list(distinct.values())[:k]

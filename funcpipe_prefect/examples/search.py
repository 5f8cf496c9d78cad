"""Asking a question of what the ingestion stored: in a Lance dataset, or in Parquet parts without an index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import pyarrow.dataset

from funcpipe_prefect.examples.rag import Embedder, embedder
from funcpipe_prefect.sinks.directory import Directory
from funcpipe_prefect.sinks.lance import lance_library
from funcpipe_prefect.storage import filesystem

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
        path: Output of the ingestion: a Lance dataset, or a folder of Parquet parts.
        question: Any text.
        k: How many passages.
        model: The embedder that the ingestion used.

    Returns:
        The passages, best first; none when nothing is stored.
    """
    asked = numpy.asarray((model or embedder()).embed([question])[0], dtype=numpy.float32)
    fs, root = filesystem(path)
    if fs.exists(f"{root.rstrip('/')}/_versions"):
        found = _nearest(path, asked, 8 * k)
    else:
        found = _compared(path, asked, 4 * k)
    distinct: dict[str, Passage] = {}
    for passage in sorted(found, key=lambda item: (-item.score, item.doc_id)):
        distinct.setdefault(passage.text, passage)
    return list(distinct.values())[:k]


def _nearest(path: str, asked: Any, count: int) -> list[Passage]:
    """Let Lance search, by its index where there is one."""
    nearest = {"column": "vector", "q": asked, "k": count, "metric": "cosine", "nprobes": 20}
    columns = ["doc_id", "title", "text", "_distance"]
    rows = lance_library().dataset(path).to_table(columns=columns, nearest=nearest).to_pylist()
    return [Passage(1 - row["_distance"], row["doc_id"], row["title"], row["text"]) for row in rows]


def _compared(path: str, asked: Any, count: int) -> list[Passage]:
    """Compare the question with every passage of a folder of Parquet parts."""
    parts = [
        f"{path.rstrip('/')}/{entry.part.file}" for entry in Directory(path, ".parquet").manifest().parts
    ]
    parts = [part for part in parts if part.endswith(".parquet")]
    if not parts:
        return []
    best: list[Passage] = []
    columns = ["doc_id", "title", "text", "vector"]
    for batch in pyarrow.dataset.dataset(parts, format="parquet").to_batches(columns=columns):
        if batch.num_rows == 0:
            continue
        column: pyarrow.ListArray = batch.column("vector")  # type: ignore[type-arg, assignment]
        flat = column.flatten().to_numpy(zero_copy_only=False)
        scores = flat.reshape(batch.num_rows, -1).astype(numpy.float32) @ asked
        for row in numpy.argsort(-scores)[:count]:
            values = batch.slice(int(row), 1).to_pylist()[0]
            best.append(Passage(float(scores[row]), values["doc_id"], values["title"], values["text"]))
    return best

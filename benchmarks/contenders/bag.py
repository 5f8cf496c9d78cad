"""As a user of Dask Bag writes it: a collection of records, a transform for each step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import rag_run
from benchmarks.contenders import work
from funcpipe_prefect.examples import rag


def embedded(chunks: Iterable[rag.Chunk]) -> list[rag.EmbeddedChunk]:
    """Embed a partition, batch by batch."""
    every, found = list(chunks), []
    for start in range(0, len(every), work.BATCH):
        found += work.sha_batch(every[start : start + work.BATCH])
    return found


def encode(chunk: rag.EmbeddedChunk) -> str:
    """Write one line."""
    return json.dumps(vars(chunk))


@contextmanager
def bag() -> Iterator[work.Work]:
    """Run the bag on a cluster that is there already."""
    import dask.bag

    with rag_run.warm_dask():

        def run(documents: Path, folder: Path) -> None:
            lines: Any = dask.bag.read_text(str(documents), blocksize=work.SPLIT_BYTES)
            chunks = (
                lines.map(work.decoded)
                .map(work.cleaned)
                .flatten()
                .map(rag.chunk_doc, size=work.SIZE, overlap=work.OVERLAP)
                .flatten()
                .map_partitions(embedded)
            )
            chunks.map(encode).to_textfiles(str(folder / "*.jsonl"))

        yield run

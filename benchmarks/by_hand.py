"""The work of the RAG example as a careful person writes it without a framework."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from funcpipe_prefect import Err
from funcpipe_prefect.examples import rag

BATCH = 128
ROWS = 2048
Located = tuple[int, Any]
Letters = list[tuple[int, str, Any]]
Embed = Callable[[list[rag.Chunk]], list[rag.EmbeddedChunk]]

SCHEMA = pa.schema(
    {
        "doc_id": pa.string(),
        "index": pa.int64(),
        "title": pa.string(),
        "text": pa.string(),
        "vector": pa.list_(pa.float32()),
    }
)


def embedded(records: Iterable[Located], embed: Embed, letters: Letters) -> Iterator[list[rag.EmbeddedChunk]]:
    """Clean, chunk and embed in one nested loop; give the chunks batch by batch.

    Args:
        records: Positions and documents.
        embed: Embeds one batch.
        letters: Receives position, step and error of what failed.
    """
    batch: list[rag.Chunk] = []
    positions: list[int] = []
    for position, doc in records:
        try:
            clean = rag.clean_doc(doc)
        except Exception as error:
            letters.append((position, "clean", error))
            continue
        if isinstance(clean, Err):
            letters.append((position, "clean", clean.error))
            continue
        try:
            chunks = rag.chunk_doc(clean.value, size=512, overlap=64)
        except Exception as error:
            letters.append((position, "chunk", error))
            continue
        for chunk in chunks:
            batch.append(chunk)
            positions.append(position)
            if len(batch) == BATCH:
                yield one_batch(batch, positions, embed, letters)
                batch, positions = [], []
    if batch:
        yield one_batch(batch, positions, embed, letters)


def one_batch(batch: list[Any], positions: list[int], embed: Callable[..., Any], letters: Letters) -> Any:
    """Embed a batch; when it fails, one record at a time."""
    try:
        return embed(batch)
    except Exception:
        results = []
        for position, one in zip(positions, batch, strict=True):
            try:
                results.extend(embed([one]))
            except Exception as error:
                letters.append((position, "embed", error))
        return results


@functools.cache
def model() -> Any:
    """Build the embedder once in a process."""
    return rag.embedder()


def read_range(path: str, start: int, stop: int, letters: Letters) -> Iterator[Located]:
    """Decode the lines that begin inside a byte range."""
    decode = msgspec.json.Decoder(rag.RawDoc).decode
    with open(path, "rb") as file:
        position = start
        if start:
            file.seek(start - 1)
            position += len(file.readline()) - 1
        while position < stop and (line := file.readline()):
            try:
                yield position, decode(line)
            except msgspec.MsgspecError as error:
                letters.append((position, "source", error))
            position += len(line)


def split_to_parquet(split: tuple[str, int, int], folder: str) -> tuple[int, Letters]:
    """Take one byte range through to a Parquet part of its own; give its records and failures."""
    path, start, stop = split
    letters: Letters = []
    embed = functools.partial(rag.embed_batch, embedder=model())
    part = Path(folder) / f"part-{start:012d}.parquet"
    with part.with_suffix(".tmp").open("wb") as file:
        count = _write(file, embedded(read_range(path, start, stop, letters), embed, letters))
    part.with_suffix(".tmp").rename(part)
    return count, letters


def _write(file: IO[bytes], batches: Iterator[list[rag.EmbeddedChunk]]) -> int:
    count = 0
    rows: list[rag.EmbeddedChunk] = []
    with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for batch in batches:
            rows += batch
            if len(rows) >= ROWS:
                writer.write_table(_table(rows))
                count += len(rows)
                rows = []
        if rows:
            writer.write_table(_table(rows))
            count += len(rows)
    return count


def _table(rows: list[rag.EmbeddedChunk]) -> pa.Table:
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)

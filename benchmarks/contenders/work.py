"""What all ways share: the functions, the splits, and what a record is."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from funcpipe_prefect import Err, Registry
from funcpipe_prefect.examples import rag
from funcpipe_prefect.monoid import Digest, digest_of, digest_text, fold
from funcpipe_prefect.schema import canonical_encoder, json_codec

BATCH, SIZE, OVERLAP = 128, 512, 64
SPLIT_BYTES, WORKERS = 16 << 20, 2

Work = Callable[[Path, Path], object]
"""Takes the file of documents and an empty folder for what comes out."""

registry = Registry()


@registry.func
def sha_batch(batch: list[rag.Chunk]) -> list[rag.EmbeddedChunk]:
    """Embed passages at next to no cost: the 32 bytes of a hash."""
    return [rag.EmbeddedChunk(c.doc_id, c.index, c.title, c.text, sha_vector(c.text)) for c in batch]


def sha_vector(text: str) -> list[float]:
    """Give 32 numbers between 0 and 1."""
    return [byte / 255 for byte in hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()]


def decoded(line: str) -> rag.RawDoc:
    """Read one line, by the standard library."""
    fields = json.loads(line)
    return rag.RawDoc(fields["doc_id"], fields["title"], abstract=fields["abstract"])


def cleaned(doc: rag.RawDoc) -> list[rag.CleanDoc]:
    """Clean one document; one without text gives nothing."""
    clean = rag.clean_doc(doc)
    return [] if isinstance(clean, Err) else [clean.value]


def passages(doc: rag.RawDoc) -> list[rag.Chunk]:
    """Clean and chunk one document; one without text gives nothing."""
    return [chunk for one in cleaned(doc) for chunk in rag.chunk_doc(one, size=SIZE, overlap=OVERLAP)]


def ranges(documents: Path) -> list[tuple[str, int, int]]:
    """Cut a file into the byte ranges of our default."""
    size = documents.stat().st_size
    borders = [*range(0, size, SPLIT_BYTES), size]
    return [(str(documents), start, stop) for start, stop in zip(borders, borders[1:], strict=False)]


def digest(folder: Path) -> str:
    """Read what a way wrote, as JSON Lines or Parquet; give count and digest of the records, in any order."""
    with multiprocessing.get_context("spawn").Pool(WORKERS) as processes:
        return digest_text(fold(Digest(), processes.imap_unordered(_digest, written(folder))))


def _digest(path: Path) -> tuple[int, int]:
    return fold(Digest(), map(digest_of, _encoded(path)))


def written(folder: Path) -> list[Path]:
    """Find the files of records."""
    found = [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.stat().st_size
        and not any(part[0] in "._" for part in path.relative_to(folder).parts)
    ]
    return sorted(found)


def _encoded(path: Path) -> Iterator[bytes]:
    encode = canonical_encoder(rag.EmbeddedChunk)
    return (encode(one) for one in _records(path))


def _records(path: Path) -> Iterator[Any]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from (rag.EmbeddedChunk(**row) for row in batch.to_pylist())
        return
    decode = json_codec(rag.EmbeddedChunk).decode
    with path.open("rb") as file:
        yield from map(decode, file)

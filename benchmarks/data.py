"""The input: real abstracts where they are at hand, else synthetic ones of like length."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

SAMPLE = Path(__file__).parents[1].parent / "shared" / "data" / "arxiv_sample.jsonl"
DOCUMENTS = 19_640
_WORDS = 4_000
_MEAN, _SPREAD, _SHORTEST, _LONGEST = 1_070, 420, 120, 1_900  # characters of an abstract


def origin() -> str:
    """Say which input the figures are of."""
    return "arxiv_sample" if SAMPLE.exists() else "synthetic"


def documents(copies: int = 1) -> Iterator[dict[str, str]]:
    """Give the sample `copies` times, each time under new ids."""
    for copy in range(copies):
        for record in _sample():
            yield {**record, "doc_id": f"{copy}-{record['doc_id']}"}


def write_documents(path: Path, copies: int = 1) -> int:
    """Write the documents as JSON Lines; give their number."""
    with path.open("w", encoding="utf-8") as file:
        return sum(1 for record in documents(copies) if file.write(json.dumps(record) + "\n"))


def head(count: int) -> list[dict[str, str]]:
    """Give the first documents."""
    return list(itertools.islice(documents(), count))


def _sample() -> Iterator[dict[str, str]]:
    if not SAMPLE.exists():
        yield from _synthetic()
        return
    with SAMPLE.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _synthetic() -> Iterator[dict[str, str]]:
    chance = random.Random(7)
    words = ["".join(chance.choices("aeinorstlcdmup", k=chance.randint(2, 11))) for _ in range(_WORDS)]
    for number in range(DOCUMENTS):
        length = min(_LONGEST, max(_SHORTEST, int(chance.gauss(_MEAN, _SPREAD))))
        text = ""
        while len(text) < length:
            text += " ".join(chance.choices(words, k=chance.randint(8, 30))).capitalize() + ". "
        yield {
            "doc_id": f"synthetic-{number:05d}",
            "title": " ".join(chance.choices(words, k=9)).capitalize(),
            "abstract": text.strip(),
        }

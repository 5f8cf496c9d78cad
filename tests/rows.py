"""Rows for tests of sinks that keep tables, written without a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from funcpipe_prefect.ir import Commit, RecordSink, Split

__all__ = ["ROWS", "TEXT", "Row", "ids", "rows_of", "write"]


@dataclass(frozen=True)
class Row:
    """A row with a key of one or two fields."""

    id: int
    part: str
    text: str
    weight: float | None = None


def write(sink: RecordSink, name: str, rows: list[Any], tp: Any = Row) -> Commit:
    """Write rows as a part that takes them all; its key changes with them."""
    rejected: list[Exception] = []
    part = sink.write(Split(name), iter(enumerate(rows)), tp, lambda *all: rejected.append(all[2]))
    assert not rejected, rejected
    return Commit(name, f"{name}-{part.sha256}", part, "")


def ids(sink: Any) -> list[Any]:
    """Give the ids that readers see."""
    return sorted(row["id"] for row in sink.rows())


TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=5)


def rows_of(text: st.SearchStrategy[str]) -> st.SearchStrategy[Row]:
    """Draw rows with such texts."""
    return st.builds(
        Row, st.integers(-(2**63), 2**63 - 1), text, text, st.none() | st.floats(allow_nan=False)
    )


ROWS = rows_of(TEXT)

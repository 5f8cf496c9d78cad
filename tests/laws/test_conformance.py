"""The conformance suite of sinks passes a sink that keeps its word, and tells which law a broken one breaks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from funcpipe_prefect.columns import arrow_schema, row_maker
from funcpipe_prefect.errors import SinkError
from funcpipe_prefect.ir import Commit, Located, Mode, Part, Reject, Split
from funcpipe_prefect.laws import LawBroken, check_sink
from funcpipe_prefect.sinks.staging import Staging, is_kept, is_same


@dataclass(frozen=True)
class Row:
    id: int
    part: str
    text: str


@dataclass(frozen=True)
class ShelfSink:
    """A store of one JSON file: rows by key, each with the part that it came with."""

    path: str
    mode: Mode = "replace"
    key: tuple[str, ...] = ()
    modes = ("replace", "upsert", "sync", "append")
    idempotent = True

    @property
    def staging(self) -> Staging:
        return Staging(f"{self.path}/_funcpipe")

    @property
    def location(self) -> str:
        return self.path

    @property
    def file(self) -> Path:
        return Path(self.path, "rows.json")

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        schema: pa.Schema = arrow_schema(record_type)
        return self.staging.stage(split, records, schema, row_maker(record_type), reject)

    def has(self, part: Part) -> bool:
        return self.staging.has(part) or part in [one.part for one in self.published().values()]

    def sweep(self, token: str) -> None:
        self.staging.sweep(token)

    def published(self) -> Mapping[str, Commit]:
        return self.staging.published(self.mode)

    def read(self) -> dict[str, list[Any]]:
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def rows(self) -> Iterator[dict[str, Any]]:
        for _, row in self.read().values():
            yield row

    def commit(self, entries: Sequence[Commit]) -> None:
        published = self.published()
        if is_same(entries, published):
            return
        held, labels = self.read(), {entry.part.file for entry in entries}
        new: dict[str, list[Any]] = {}
        for entry in entries:
            if not is_kept(entry, published):
                for batch in self.staging.batches(entry.part):
                    for row in batch.to_pylist():
                        key = json.dumps([row[name] for name in self.key])
                        if key in new:
                            raise SinkError(f"two rows have the key {key}")
                        new[key] = [entry.part.file, row]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.merged(held, new, labels)))
        self.staging.take(entries, self.mode)

    def merged(self, held: Any, new: Any, labels: set[str]) -> Any:
        match self.mode:
            case "upsert":
                return {**held, **new}
            case "append":
                return {**new, **held}
            case _:
                return {**{key: row for key, row in held.items() if row[0] in labels}, **new}


class Forgetful(ShelfSink):
    """Drops what was published before."""

    def merged(self, held: Any, new: Any, labels: set[str]) -> Any:
        return new


class Hoarder(ShelfSink):
    """Never removes a row."""

    def merged(self, held: Any, new: Any, labels: set[str]) -> Any:
        return {**held, **new}


class Hasty(ShelfSink):
    """Publishes as it writes."""

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        part = super().write(split, records, record_type, reject)
        rows = [row for batch in self.staging.batches(part) for row in batch.to_pylist()]
        held = self.read()
        held.update({json.dumps([row[name] for name in self.key]): ["", row] for row in rows})
        self.file.write_text(json.dumps(held))
        return part


class Once(ShelfSink):
    """Cannot commit the same twice."""

    def commit(self, entries: Sequence[Commit]) -> None:
        self.staging.take([], "")
        super().commit(entries)


@pytest.mark.slow
def test_a_sink_that_does_what_its_modes_say_passes() -> None:
    report = check_sink(ShelfSink, Row, key="id")
    assert report.broken == ()
    assert len(report.verdicts) == 4 * 8 - 1
    assert check_sink(ShelfSink, Row, key=("part", "id"), modes=["upsert"], examples=5).broken == ()


@pytest.mark.parametrize(
    ("sink", "law"),
    [
        (Forgetful, r"content of Forgetful \(upsert\)|content.*\(upsert\)"),
        pytest.param(Hoarder, r"content.*\(sync\)", marks=pytest.mark.slow),
        pytest.param(Hasty, r"invisible before commit", marks=pytest.mark.slow),
        (Once, r"cut off commit|written twice|content"),
    ],
)
def test_a_sink_that_does_not_is_told_which_law_it_breaks(sink: Callable[..., Any], law: str) -> None:
    with pytest.raises(LawBroken, match=law):
        check_sink(sink, Row, key="id", examples=10)

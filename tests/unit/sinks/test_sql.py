"""The SQL sink on SQLite and on a PostgreSQL server: modes, crashes, readers, hostile values."""

from __future__ import annotations

import datetime
import itertools
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import strategies as st

from funcpipe_prefect import load_pipeline, run_local
from funcpipe_prefect.errors import PipelineError, SinkError
from funcpipe_prefect.ir import Commit, Mode, Split
from funcpipe_prefect.laws import check_sink
from funcpipe_prefect.sinks import SqlSink
from tests.rows import Row, ids, rows_of, write

DATABASES = ["sqlite", "postgres"]
_numbers = itertools.count()


@dataclass(frozen=True)
class Rich:
    id: str
    when: datetime.datetime
    day: datetime.date
    price: Decimal
    raw: bytes
    tags: list[str]
    counts: dict[str, int]
    is_it: bool
    vector: list[float]


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def table() -> str:
    return f"items {next(_numbers)}"


TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=5)


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def test_it_does_what_its_modes_say(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/x.db" if database == "sqlite" else request.getfixturevalue("postgres_url")
    rows = rows_of(TEXT)

    def make(folder: str, mode: Mode, key: tuple[str, ...]) -> SqlSink:
        path = f"sqlite:///{folder}.db" if url.startswith("sqlite") else url
        return SqlSink(path, f"laws {folder}"[-40:], mode=mode, key=key)

    report = check_sink(
        make, rows, key="id", record_type=Row, modes=["replace", "upsert", "sync", "append"], examples=2
    )
    assert report.broken == ()
    assert (
        check_sink(make, rows, key=("id", "part"), record_type=Row, modes=["sync"], examples=2).broken == ()
    )


def test_values_of_each_type_come_back(url: str, table: str) -> None:
    rich = Rich(
        "ü", datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.timezone.utc), datetime.date(2026, 1, 2),
        Decimal("1.50"), b"\0\xff", ["a", "'; drop table x; --"], {"b": 1}, True, [0.1, 0.25],
    )  # fmt: skip
    sink = SqlSink(url, table, key=("id",))
    sink.commit([write(sink, "a", [rich], Rich)])
    [row] = sink.rows()
    assert (row["id"], row["day"], row["raw"], row["tags"]) == ("ü", rich.day, rich.raw, rich.tags)
    assert (row["counts"], row["is_it"], row["vector"]) == (rich.counts, True, rich.vector)
    assert Decimal(row["price"]) == rich.price
    assert row["when"].replace(tzinfo=datetime.timezone.utc) == rich.when


HOSTILE: dict[str, Any] = {
    "a null key": Row(None, "", ""),  # type: ignore[arg-type]
    "too large an integer": Row(2**63, "", ""),
    "half a surrogate pair": Row(1, "", "\ud800"),
    "another type": Row("one", "", ""),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_row_that_the_table_cannot_hold_is_rejected_alone(url: str, table: str, name: str) -> None:
    rejected = []
    sink = SqlSink(url, table, mode="upsert", key=("id",))
    records = [Row(7, "", "good"), HOSTILE[name], Row(8, "", "good")]
    part = sink.write(Split("a"), iter(enumerate(records)), Row, lambda at, *_: rejected.append(at))
    assert rejected == [1]
    sink.commit([Commit("a", "k", part, "")])
    assert ids(sink) == [7, 8]


@pytest.mark.parametrize(
    ("database", "row"), [("postgres", Row(1, "", "a\0b")), ("sqlite", Row(1, "", "", float("nan")))]
)
def test_what_a_database_would_change_silently_is_rejected(
    database: str, row: Row, tmp_path: Path, table: str, request: pytest.FixtureRequest
) -> None:
    place = f"sqlite:///{tmp_path}/x.db" if database == "sqlite" else request.getfixturevalue("postgres_url")
    rejected = []
    sink = SqlSink(place, table, key=("id",))
    sink.write(Split("a"), iter([(0, row)]), Row, lambda at, *_: rejected.append(at))
    assert rejected == [0]


def test_rows_that_others_keep_in_the_table_outlive_an_upsert_and_an_append(url: str, table: str) -> None:
    for mode, expected in (("upsert", "new"), ("append", "theirs")):
        name = f"{table} {mode}"
        first = SqlSink(url, name, mode="upsert", key=("id",))
        first.commit([write(first, "a", [Row(1, "", "theirs"), Row(2, "", "theirs")])])
        sink = SqlSink(url, name, mode=mode, key=("id",))  # type: ignore[arg-type]
        sink.commit([write(sink, "b", [Row(2, "", "new"), Row(3, "", "new")])])
        assert {row["id"]: row["text"] for row in sink.rows()} == {1: "theirs", 2: expected, 3: "new"}


def test_an_empty_run_makes_an_empty_table(url: str, table: str) -> None:
    sink = SqlSink(url, table, mode="sync", key=("id",))
    sink.commit([write(sink, "a", [])])
    with sa.create_engine(url).connect() as connection:
        assert connection.execute(sa.text(f'SELECT id, part, text FROM "{table}"')).all() == []
    assert len(sink.published()) == 1
    sink.commit([write(sink, "a", [Row(1, "", "x")])])
    assert ids(sink) == [1]


def test_a_table_that_somebody_else_changed_is_written_anew(url: str, table: str) -> None:
    sink = SqlSink(url, table, mode="sync", key=("id",))
    sink.commit([write(sink, "a", [Row(1, "", "x"), Row(2, "", "x")])])
    assert len(sink.published()) == 1
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(f'DELETE FROM "{table}" WHERE id = 1'))
    assert sink.published() == {}
    sink.commit([write(sink, "a", [Row(1, "", "x"), Row(2, "", "x")])])
    assert ids(sink) == [1, 2]


def test_a_table_with_other_columns_or_without_the_key_is_refused(url: str, table: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(f'CREATE TABLE "{table}" (id bigint primary key, other text)'))
        connection.execute(
            sa.text(f'CREATE TABLE "{table}2" (id bigint, part text, text text, weight float)')
        )
    for name, fault in (
        (table, "has no column part, text, weight"),
        (f"{table}2", "unique constraint on id"),
    ):
        sink = SqlSink(url, name, mode="upsert", key=("id",))
        entry = write(sink, "a", [Row(1, "", "x")])
        with pytest.raises(SinkError, match=fault):
            sink.commit([entry])
        assert ids(sink) == []


def test_a_commit_that_fails_half_way_changes_nothing(
    url: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from funcpipe_prefect.sinks.sql_tables import Tables

    sink = SqlSink(url, table, mode="sync", key=("id",))
    sink.commit([write(sink, "a", [Row(1, "", "x")])])
    entry = write(sink, "a", [Row(2, "", "y")])
    with monkeypatch.context() as patch:
        patch.setattr(Tables, "take", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sink.commit([entry])
    assert ids(sink) == [1]
    sink.commit([entry])
    assert ids(sink) == [2]


def test_a_password_is_in_no_text(tmp_path: Path) -> None:
    sink = SqlSink("postgresql+psycopg://me:sesame@127.0.0.1:1/none", "t", key=("id",))
    assert "sesame" not in sink.location + repr(sink)
    with pytest.raises(SinkError) as caught:
        sink.published()
    assert "sesame" not in f"{caught.value}{caught.value.__context__!r}{caught.value.__cause__!r}"
    assert "127.0.0.1" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"params": {"url": "nonsense", "table": "t"}}, "the url is none of SQLAlchemy's"),
        ({"params": {"url": "mysql://h/d", "table": "t"}}, "there are postgresql and sqlite"),
        ({"key": None, "mode": None}, "a table needs a key"),
        ({"params": {"url": "sqlite:///x.db", "table": " "}}, "a table needs a name"),
    ],
    ids=["no url", "mysql", "no key", "no name"],
)
def test_a_wrong_place_is_told_with_its_line(changes: dict[str, Any], fault: str, tmp_path: Path) -> None:
    mapping = spec(tmp_path, "sqlite:///x.db", "t", "upsert")
    mapping["operators"][0] = {
        key: value for key, value in {**mapping["operators"][0], **changes}.items() if value is not None
    }
    with pytest.raises(PipelineError, match=fault):
        load_pipeline(mapping)


def spec(folder: Path, url: str, table: str, mode: str) -> dict[str, Any]:
    return {
        "name": "items",
        "imports": ["tests.registries.items"],
        "source": {"type": "jsonl", "path": str(folder / "in.jsonl"), "record": "Item", "splits": 4},
        "operators": [{
            "type": "Sink", "name": "write", "func": "sql", "mode": mode, "key": "id",
            "contract": {"idempotent": True}, "params": {"url": url, "table": table},
        }],
        "cache": {"storage": str(folder / "cache")},
        "errors": {"path": str(folder / "letters")},
    }  # fmt: skip


def test_a_pipeline_writes_once_and_then_finds_it_done(url: str, table: str, tmp_path: Path) -> None:
    rows = [{"id": n, "text": "x", "weight": n / 7} for n in range(400)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapping = spec(tmp_path, url, table, "sync")
    report = run_local(load_pipeline(mapping))
    assert (report.records_out, report.tasks_run) == (400, 4)
    assert report.output == load_pipeline(mapping).sinks[0].target.location
    assert sorted(SqlSink(url, table, key=("id",)).rows(), key=lambda row: row["id"]) == rows
    again = run_local(load_pipeline(mapping))
    assert (again.tasks_run, again.digest) == (0, report.digest)


def test_a_sink_and_its_place_cross_processes() -> None:
    sink = SqlSink("sqlite:///x.db", "t", key=("id",))
    assert pickle.loads(pickle.dumps(sink)) == sink


@pytest.fixture(autouse=True)
def _engines_end() -> Iterator[None]:
    yield
    import gc

    gc.collect()

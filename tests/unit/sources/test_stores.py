"""Sources that are stores: each row once, the same split for what has not changed, a version that stays."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from funcpipe_prefect import load_pipeline, run_local
from funcpipe_prefect.errors import PipelineError, SourceError
from funcpipe_prefect.ir import RecordSource, Undecodable
from funcpipe_prefect.laws import check_source
from funcpipe_prefect.sources import DeltaSource, HfFolderSource, LanceSource, SqlSource


@dataclass(frozen=True)
class Item:
    id: int
    text: str
    weight: float


def rows(start: int, stop: int, text: str = "x") -> list[dict[str, Any]]:
    return [{"id": n, "text": text, "weight": n / 7} for n in range(start, stop)]


class Lance:
    def __init__(self, folder: Path) -> None:
        self.lance = pytest.importorskip("lance", reason="the extra lance is not installed")
        self.path = str(folder / "t.lance")
        for start in range(0, 90, 30):
            self.lance.write_dataset(pa.Table.from_pylist(rows(start, start + 30)), self.path, mode="append")

    def source(self, **more: Any) -> LanceSource:
        return LanceSource(self.path, **more)

    def add(self) -> None:
        self.lance.write_dataset(pa.Table.from_pylist(rows(90, 100)), self.path, mode="append")

    def change(self) -> None:
        self.lance.dataset(self.path).delete("id = 31")


class Delta:
    def __init__(self, folder: Path) -> None:
        self.delta = pytest.importorskip("deltalake", reason="the extra delta is not installed")
        self.path = str(folder / "t")
        for start in range(0, 90, 30):
            self.delta.write_deltalake(
                self.path, pa.Table.from_pylist(rows(start, start + 30)), mode="append"
            )

    def source(self, **more: Any) -> DeltaSource:
        return DeltaSource(self.path, **more)

    def add(self) -> None:
        self.delta.write_deltalake(self.path, pa.Table.from_pylist(rows(90, 100)), mode="append")

    def change(self) -> None:
        self.delta.DeltaTable(self.path).delete("id = 31")


class Sql:
    def __init__(self, url: str) -> None:
        self.url, self.engine = url, sa.create_engine(url)
        with self.engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE IF EXISTS items"))
            connection.execute(sa.text("CREATE TABLE items (id bigint primary key, text text, weight float)"))
        self.insert(rows(0, 90))

    def insert(self, found: list[dict[str, Any]]) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO items VALUES (:id, :text, :weight)"), found)

    def source(self, **more: Any) -> SqlSource:
        return SqlSource(self.url, "id", **{"table": "items", "rows_per_split": 10, **more})

    def add(self) -> None:
        self.insert(rows(90, 100))

    def change(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM items WHERE id = 31"))


KINDS = ["lance", "delta", "sqlite", "postgres"]


@pytest.fixture(params=KINDS)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "lance":
        return Lance(tmp_path)
    if request.param == "delta":
        return Delta(tmp_path)
    return Sql(f"sqlite:///{tmp_path}/x.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url"))  # fmt: skip


def records(source: RecordSource, record_type: Any = Item) -> list[Any]:
    return [record for split in source.list_splits() for _, record in source.read(split, record_type)]


def test_it_keeps_the_laws_of_a_source(kept: Any) -> None:
    assert check_source(lambda splits: kept.source(), record_type=Item).broken == ()
    found = sorted(records(kept.source()), key=lambda item: item.id)
    assert found == [Item(**row) for row in rows(0, 90)]
    assert len(kept.source().list_splits()) >= 3
    assert pickle.loads(pickle.dumps(kept.source())) == kept.source()


def test_what_has_not_changed_is_the_same_split_afterwards(kept: Any) -> None:
    def known() -> set[tuple[str, str]]:
        return {(split.name, split.identity) for split in kept.source().list_splits()}

    before = known()
    kept.add()
    added = known()
    assert 1 <= len(added - before) <= 3
    assert len(before & added) >= 2
    kept.change()
    assert 1 <= len(known() - added) <= 2
    assert len(added & known()) >= 2


def test_an_unknown_column_is_told(kept: Any) -> None:
    more = {"split_by": "nope"} if isinstance(kept, Sql) else {"columns": ("nope",)}
    if isinstance(kept, Sql):
        source: RecordSource = SqlSource(kept.url, "nope", table="items")
    else:
        source = kept.source(**more)
    with pytest.raises(SourceError, match=r"has no column nope; it has id, text, weight"):
        source.list_splits()


def test_a_row_of_another_type_is_undecodable_alone(kept: Any) -> None:
    @dataclass(frozen=True)
    class Wrong:
        id: int
        text: int

    found = records(kept.source(), Wrong)
    assert len(found) == 90
    assert all(isinstance(one, Undecodable) for one in found)


@pytest.mark.parametrize("kind", ["lance", "delta"])
def test_a_planned_run_reads_the_version_that_was_there(kind: str, tmp_path: Path) -> None:
    kept = Lance(tmp_path) if kind == "lance" else Delta(tmp_path)
    source = kept.source()
    splits = source.list_splits()
    kept.change()
    assert sum(1 for split in splits for _ in source.read(split, Item)) == 90
    first = kept.source(version=1 if kind == "lance" else 0)
    assert len(records(first)) == 30


@pytest.mark.parametrize("kind", ["lance", "delta"])
def test_what_is_no_store_is_told(kind: str, tmp_path: Path) -> None:
    source: Any = LanceSource(str(tmp_path)) if kind == "lance" else DeltaSource(str(tmp_path))
    with pytest.raises(SourceError, match="is no readable"):
        source.list_splits()


def test_a_pipeline_reads_and_finds_it_done(kept: Any, tmp_path: Path) -> None:
    places = {"path": kept.path} if not isinstance(kept, Sql) else {"url": kept.url, "table": "items", "split_by": "id", "rows_per_split": 10}  # fmt: skip
    kind = {"Lance": "lance", "Delta": "delta", "Sql": "sql"}[type(kept).__name__]
    mapping = {
        "name": "items",
        "imports": ["tests.registries.items"],
        "source": {"type": kind, "record": "Item", **places},
        "operators": [
            {"type": "Map", "name": "tidy", "func": "tidied"},
            {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
             "params": {"path": str(tmp_path / "out")}},
        ],
        "cache": {"storage": str(tmp_path / "cache")},
    }  # fmt: skip
    first = run_local(load_pipeline(mapping))
    assert first.records_out == 90
    assert run_local(load_pipeline(mapping)).tasks_run == 0
    kept.change()
    again = run_local(load_pipeline(mapping))
    assert again.records_out == 89
    assert 1 <= again.tasks_run <= 2


# SQL alone


def test_a_column_that_tells_of_changes_stands_for_the_rows(tmp_path: Path) -> None:
    kept = Sql(f"sqlite:///{tmp_path}/x.db")
    source = kept.source(changed_by="weight")
    before = [split.identity for split in source.list_splits()]
    with kept.engine.begin() as connection:
        connection.execute(sa.text("UPDATE items SET text = 'unseen' WHERE id = 3"))
    assert [split.identity for split in source.list_splits()] == before
    with kept.engine.begin() as connection:
        connection.execute(sa.text("UPDATE items SET weight = 99 WHERE id = 3"))
    assert sum(a != b.identity for a, b in zip(before, source.list_splits(), strict=True)) == 1


def test_a_query_is_read_like_a_table(tmp_path: Path) -> None:
    kept = Sql(f"sqlite:///{tmp_path}/x.db")
    source = SqlSource(
        kept.url, "id", query="SELECT id, text, weight FROM items WHERE id < 20", rows_per_split=5
    )
    assert [item.id for item in records(source)] == list(range(20))


@pytest.mark.parametrize(
    ("value", "fault"),
    [("NULL", "is None, and neither"), ("1.5", "is 1.5, and neither"), ("88", "88 comes twice")],
)
def test_keys_that_split_nothing_are_told(tmp_path: Path, value: str, fault: str) -> None:
    kept = Sql(f"sqlite:///{tmp_path}/x.db")
    with kept.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE loose AS SELECT * FROM items"))
        connection.execute(sa.text(f"INSERT INTO loose VALUES ({value}, 'x', 0)"))
    with pytest.raises(SourceError, match=fault):
        kept.source(table="loose").list_splits()


def test_an_empty_table_is_an_empty_input(tmp_path: Path) -> None:
    kept = Sql(f"sqlite:///{tmp_path}/x.db")
    with kept.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM items"))
    assert records(kept.source()) == []


def test_a_missing_table_and_a_missing_server_are_told_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no such table"):
        Sql(f"sqlite:///{tmp_path}/x.db").source(table="nope").list_splits()
    source = SqlSource("postgresql+psycopg://me:sesame@127.0.0.1:1/none", "id", table="t")
    with pytest.raises(SourceError) as caught:
        source.list_splits()
    assert "127.0.0.1" in str(caught.value)
    assert "sesame" not in str(caught.value) + repr(source) + source.shown


@pytest.mark.parametrize(
    "source",
    [{"url": "sqlite:///x.db", "split_by": "id"}, {"url": "no", "split_by": "id", "table": "t"}],
    ids=str,
)
def test_a_source_without_table_or_url_is_told_with_its_line(source: dict[str, Any]) -> None:
    mapping = {"name": "p", "source": {"type": "sql", **source}, "imports": ["tests.registries.items"],
               "operators": [{"type": "Map", "name": "tidy", "func": "tidied"}]}  # fmt: skip
    with pytest.raises(PipelineError, match=r"FP104.*\$\.source"):
        load_pipeline(mapping)


# A folder of the Hugging Face Hub

LAYOUTS: dict[str, list[str]] = {
    "shards": [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/test-0.parquet",
    ],
    "one file": ["train.jsonl", "test.jsonl"],
    "folders": ["train/a.csv", "train/b.csv", "test/c.csv"],
    "compressed": ["data/train.jsonl.gz"],
}


def put(path: Path, found: list[dict[str, Any]]) -> None:
    import gzip

    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in found).encode()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(found), path)
    elif path.suffix == ".csv":
        path.write_text(
            "id,text,weight\n" + "".join(f"{row['id']},{row['text']},{row['weight']}\n" for row in found)
        )
    else:
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_files_of_a_split_are_found_by_their_names(tmp_path: Path, layout: str) -> None:
    for number, name in enumerate(LAYOUTS[layout]):
        put(tmp_path / name, rows(number * 10, number * 10 + 10))
    source = HfFolderSource(str(tmp_path))
    assert {item.id // 10 for item in records(source)} == {
        number for number, name in enumerate(LAYOUTS[layout]) if "train" in name
    }
    assert check_source(lambda splits: source, record_type=Item).broken == ()
    assert pickle.loads(pickle.dumps(source)) == source
    with pytest.raises(SourceError, match="has no files of the split 'validation'"):
        HfFolderSource(str(tmp_path), split="validation").list_splits()


CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: "{path}"
- config_name: other
  data_files: "b/*.jsonl"
---
# A data set
"""


def test_the_card_says_where_the_files_are(tmp_path: Path) -> None:
    put(tmp_path / "a" / "x.jsonl", rows(0, 10))
    put(tmp_path / "b" / "x.jsonl", rows(10, 20))
    (tmp_path / "README.md").write_text(CARD.format(path="a/*.jsonl"))
    assert [item.id for item in records(HfFolderSource(str(tmp_path)))] == list(range(10))
    assert [item.id for item in records(HfFolderSource(str(tmp_path), config="other"))] == list(range(10, 20))
    with pytest.raises(SourceError, match="no configuration 'third'; it has default, other"):
        HfFolderSource(str(tmp_path), config="third").list_splits()


@pytest.mark.parametrize("path", ["../secret/*.jsonl", "/etc/*.jsonl", "s3://elsewhere/x.jsonl"])
def test_a_card_leads_nowhere_outside_of_its_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "README.md").write_text(CARD.format(path=path))
    with pytest.raises(SourceError, match="files outside of the folder"):
        HfFolderSource(str(tmp_path)).list_splits()

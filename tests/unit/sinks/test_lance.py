"""The Lance sink: modes, crashes between commit and note, vectors, the index, and what LanceDB finds."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import load_pipeline, run_local
from funcpipe_prefect.errors import PipelineError, SinkError
from funcpipe_prefect.ir import Commit, Split
from funcpipe_prefect.laws import check_sink
from funcpipe_prefect.sinks import LanceSink
from funcpipe_prefect.sinks.staging import Staging
from tests.rows import ROWS, Row, ids, write

lance = pytest.importorskip("lance", reason="the extra lance is not installed")


@dataclass(frozen=True)
class Vector:
    id: str
    vector: list[float]


def test_it_does_what_its_modes_say() -> None:
    assert check_sink(LanceSink, ROWS, key="id", record_type=Row, examples=4).broken == ()
    assert (
        check_sink(LanceSink, ROWS, key=("id", "part"), record_type=Row, modes=["sync"], examples=2).broken
        == ()
    )


def test_a_commit_is_one_version_and_the_same_again_is_none(tmp_path: Path) -> None:
    for mode in LanceSink.modes:
        sink = LanceSink(str(tmp_path / f"{mode}.lance"), mode=mode, key=("id",))  # type: ignore[arg-type]
        sink.commit([write(sink, "a", [Row(1, "", "x")])])
        before = lance.dataset(sink.path).version
        entries = [write(sink, "a", [Row(1, "", "y")]), write(sink, "b", [Row(2, "", "y")])]
        sink.commit(entries)
        sink.commit(entries)
        assert lance.dataset(sink.path).version == before + 1
        assert lance.dataset(sink.path, version=before).to_table()["text"].to_pylist() == ["x"], (
            "old readers go on"
        )


def test_fragments_of_parts_that_stay_are_not_written_again(tmp_path: Path) -> None:
    sink = LanceSink(str(tmp_path / "t.lance"), mode="sync", key=("id",))
    kept = write(sink, "a", [Row(1, "", "x")])
    sink.commit([kept, write(sink, "b", [Row(2, "", "x")])])
    [first, _] = [fragment.metadata.files[0].path for fragment in lance.dataset(sink.path).get_fragments()]
    sink.commit([kept, write(sink, "b", [Row(3, "", "y")])])
    now = [fragment.metadata.files[0].path for fragment in lance.dataset(sink.path).get_fragments()]
    assert first in now
    assert ids(sink) == [1, 3]


@pytest.mark.parametrize("mode", ["replace", "upsert", "sync", "append"])
def test_a_crash_between_the_version_and_the_note_is_made_good(
    mode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = LanceSink(str(tmp_path / "t.lance"), mode=mode, key=("id",))
    kept = write(sink, "a", [Row(1, "", "x")])
    sink.commit([kept])
    entries = [kept, write(sink, "b", [Row(2, "", "y")])]
    with monkeypatch.context() as patch:
        patch.setattr(Staging, "take", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sink.commit(entries)
    again = LanceSink(str(tmp_path / "t.lance"), mode=mode, key=("id",))
    assert kept.key in again.published()
    again.commit(entries)
    assert ids(again) == [1, 2]
    assert list(again.published()) == [entry.key for entry in entries]


def test_a_dataset_that_somebody_else_changed_is_written_anew(tmp_path: Path) -> None:
    sink = LanceSink(str(tmp_path / "t.lance"), mode="sync", key=("id",))
    entry = write(sink, "a", [Row(1, "", "x"), Row(2, "", "x")])
    sink.commit([entry])
    lance.dataset(sink.path).delete("id = 1")
    assert sink.published() == {}
    assert not sink.has(entry.part)
    sink.commit([write(sink, "a", [Row(1, "", "x"), Row(2, "", "x")])])
    assert ids(sink) == [1, 2]


def vectors(count: int, size: int = 8) -> list[Vector]:
    return [Vector(f"v{n}", [float((n * 7 + k * 3) % 11) for k in range(size)]) for n in range(count)]


def test_vectors_are_found_by_lancedb_with_and_without_an_index(tmp_path: Path) -> None:
    import lancedb

    for at in (10_000, 300):
        sink = LanceSink(
            str(tmp_path / f"t{at}.lance"), vector="vector", index_at=at, mode="sync", key=("id",)
        )
        few = write(sink, "a", [Vector("other", [9.0, *[0.0] * 7])], Vector)
        sink.commit([few, write(sink, "b", vectors(500), Vector)])
        table = lancedb.connect(tmp_path).open_table(f"t{at}")
        assert bool(table.list_indices()) == (at == 300)
        found = table.search([8.0, *[0.1] * 7]).limit(1).to_list()
        assert found[0]["id"] == "other"
        sink.commit([few, write(sink, "b", [*vectors(500), Vector("nearer", [8.0, *[0.1] * 7])], Vector)])
        table.checkout_latest()
        assert table.search([8.0, *[0.1] * 7]).limit(1).to_list()[0]["id"] == "nearer"
        assert table.count_rows() == 502


def test_vectors_of_another_length_are_told(tmp_path: Path) -> None:
    sink = LanceSink(str(tmp_path / "t.lance"), vector="vector", mode="sync", key=("id",))
    rejected = []
    rows = [Vector("a", [1.0, 2.0]), Vector("b", [1.0]), Vector("c", [3.0, 4.0])]
    part = sink.write(Split("a"), iter(enumerate(rows)), Vector, lambda at, *_: rejected.append(at))
    assert rejected == [1]
    entry = Commit("a", "a", part, "")
    with pytest.raises(SinkError, match=r"different length: vector is fixed_size_list<.*2.* and .*3"):
        sink.commit([entry, write(sink, "b", [Vector("d", [1.0, 2.0, 3.0])], Vector)])
    assert ids(sink) == []
    sink.commit([entry])
    with pytest.raises(SinkError, match="vectors of another length"):
        sink.commit([entry, write(sink, "b", [Vector("d", [1.0, 2.0, 3.0])], Vector)])
    assert ids(sink) == ["a", "c"]


def spec(folder: Path, **changes: Any) -> dict[str, Any]:
    sink = {
        "type": "Sink", "name": "write", "func": "lance", "mode": "sync", "key": "id",
        "contract": {"idempotent": True}, "params": {"path": str(folder / "t.lance")}, **changes,
    }  # fmt: skip
    return {
        "name": "items",
        "imports": ["tests.registries.items"],
        "source": {"type": "jsonl", "path": str(folder / "in.jsonl"), "record": "Item", "splits": 4},
        "operators": [sink],
        "cache": {"storage": str(folder / "cache")},
    }


def test_a_pipeline_writes_once_and_then_finds_it_done(tmp_path: Path) -> None:
    rows = [{"id": n, "text": "x", "weight": n / 7} for n in range(400)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run_local(load_pipeline(spec(tmp_path)))
    assert (report.records_out, report.tasks_run) == (400, 4)
    assert sorted(LanceSink(str(tmp_path / "t.lance")).rows(), key=lambda row: row["id"]) == rows
    again = run_local(load_pipeline(spec(tmp_path)))
    assert (again.tasks_run, again.digest) == (0, report.digest)


@pytest.mark.parametrize(
    ("vector", "fault"), [("vec", "has no field 'vec'"), ("text", "the vector 'text' is string, and no list")]
)
def test_a_field_that_is_no_vector_is_told_before_anything_runs(
    tmp_path: Path, vector: str, fault: str
) -> None:
    params = {"path": str(tmp_path / "t.lance"), "vector": vector}
    with pytest.raises(PipelineError, match=fault):
        load_pipeline({**spec(tmp_path, params=params)})


def test_a_folder_that_is_no_dataset_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.lance" / "_versions").mkdir(parents=True)
    with pytest.raises(SinkError, match="cannot be read as a Lance dataset"):
        LanceSink(str(tmp_path / "t.lance")).published()


def test_a_sink_crosses_processes(tmp_path: Path) -> None:
    sink = LanceSink(str(tmp_path), key=("id",))
    assert pickle.loads(pickle.dumps(sink)) == sink


def test_a_model_with_longer_vectors_replaces_the_dataset_as_a_whole(tmp_path: Path) -> None:
    sink = LanceSink(str(tmp_path / "t.lance"), vector="vector", mode="sync", key=("id",))
    sink.commit([write(sink, "a", [Vector("a", [1.0, 2.0])], Vector)])
    sink.commit([write(sink, "a", [Vector("a", [1.0, 2.0, 3.0])], Vector)])
    assert [row["vector"] for row in sink.rows()] == [[1.0, 2.0, 3.0]]
    upsert = LanceSink(sink.path, vector="vector", mode="upsert", key=("id",))
    with pytest.raises(SinkError, match="other columns: vector is"):
        write(upsert, "b", [Vector("b", [1.0])], Vector)

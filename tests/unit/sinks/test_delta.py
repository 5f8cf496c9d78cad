"""The Delta Lake sink: modes, one transaction a run, crashes between commit and note, foreign writers."""

from __future__ import annotations

import datetime
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import load_pipeline, run_local
from funcpipe_prefect.errors import PipelineError, SinkError
from funcpipe_prefect.laws import check_sink
from funcpipe_prefect.sinks import DeltaSink
from funcpipe_prefect.sinks.staging import Staging
from tests.rows import ROWS, Row, ids, write

deltalake = pytest.importorskip("deltalake", reason="the extra delta is not installed")
MODES: list[Any] = ["replace", "upsert", "sync", "append"]


@dataclass(frozen=True)
class Rich:
    id: str
    when: datetime.datetime
    tags: list[str]
    counts: dict[str, int]


@dataclass(frozen=True)
class Timed:
    id: int
    at: datetime.time


def test_it_does_what_its_modes_say() -> None:
    assert check_sink(DeltaSink, ROWS, key="id", record_type=Row, examples=3).broken == ()
    assert (
        check_sink(DeltaSink, ROWS, key=("id", "part"), record_type=Row, modes=["sync"], examples=2).broken
        == ()
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_run_is_one_transaction_and_the_same_again_is_none(mode: Any, tmp_path: Path) -> None:
    sink = DeltaSink(str(tmp_path / "t"), mode=mode, key=("id",))
    sink.commit([write(sink, "a", [Row(1, "", "x")])])
    before = deltalake.DeltaTable(sink.path)
    entries = [write(sink, "a", [Row(1, "", "y")]), write(sink, "b", [Row(2, "", "y")])]
    sink.commit(entries)
    sink.commit(entries)
    after = deltalake.DeltaTable(sink.path)
    assert after.version() == before.version() + 1
    assert after.transaction_version("funcpipe") == before.transaction_version("funcpipe") + 1
    assert before.to_pyarrow_table()["text"].to_pylist() == ["x"], "old readers go on"


@pytest.mark.parametrize("mode", MODES)
def test_a_crash_between_the_transaction_and_the_note_is_made_good(
    mode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = DeltaSink(str(tmp_path / "t"), mode=mode, key=("id",))
    kept = write(sink, "a", [Row(1, "", "x")])
    sink.commit([kept])
    entries = [kept, write(sink, "b", [Row(2, "", "y")])]
    with monkeypatch.context() as patch:
        patch.setattr(Staging, "take", lambda *_: 1 / 0)
        with pytest.raises(SinkError, match="ZeroDivisionError"):
            sink.commit(entries)
    version = deltalake.DeltaTable(sink.path).version()
    again = DeltaSink(sink.path, mode=mode, key=("id",))
    assert list(again.published()) == [entry.key for entry in entries]
    again.commit(entries)
    assert deltalake.DeltaTable(sink.path).version() == version
    assert not (tmp_path / "t" / "_funcpipe" / "_staging").exists()
    assert ids(again) == [1, 2]


def test_the_same_as_before_the_last_run_is_published_again(tmp_path: Path) -> None:
    sink = DeltaSink(str(tmp_path / "t"), mode="replace", key=("id",))
    for text in ("x", "y", "x"):
        sink.commit([write(sink, "a", [Row(1, "", text)])])
        assert [row["text"] for row in sink.rows()] == [text]


def test_files_of_parts_that_stay_are_not_written_again(tmp_path: Path) -> None:
    sink = DeltaSink(str(tmp_path / "t"), mode="sync", key=("id",))
    kept = write(sink, "a", [Row(1, "", "x")])
    sink.commit([kept, write(sink, "b", [Row(2, "", "x")])])
    before = set(deltalake.DeltaTable(sink.path).file_uris())
    sink.commit([kept, write(sink, "b", [Row(3, "", "y")])])
    assert len(before & set(deltalake.DeltaTable(sink.path).file_uris())) == 1
    sink.commit([kept])
    assert ids(sink) == [1]
    sink.commit([])
    assert ids(sink) == []


def test_a_table_that_somebody_else_changed_is_written_anew(tmp_path: Path) -> None:
    sink = DeltaSink(str(tmp_path / "t"), mode="sync", key=("id",))
    entry = write(sink, "a", [Row(1, "", "x"), Row(2, "", "x")])
    sink.commit([entry])
    deltalake.DeltaTable(sink.path).delete("id = 1")
    assert sink.published() == {}
    assert not sink.has(entry.part)
    sink.commit([write(sink, "a", [Row(1, "", "x"), Row(2, "", "x")])])
    assert ids(sink) == [1, 2]


def test_a_table_may_change_its_mode(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    for mode, expected in (("upsert", [1, 2]), ("sync", [3]), ("upsert", [3, 4]), ("append", [3, 4, 5])):
        sink = DeltaSink(path, mode=mode, key=("id",))  # type: ignore[arg-type]
        rows = [Row(1, "", ""), Row(2, "", "")] if expected == [1, 2] else [Row(expected[-1], "", "")]
        sink.commit([write(sink, "a", rows)])
        assert ids(sink) == expected


def test_values_of_each_type_come_back(tmp_path: Path) -> None:
    rich = Rich("ü", datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.timezone.utc), ["a", "b"], {"c": 1})
    for mode in MODES:
        sink = DeltaSink(str(tmp_path / mode), mode=mode, key=("id",))
        sink.commit([write(sink, "a", [rich], Rich)])
        sink.commit([write(sink, "a", [rich], Rich), write(sink, "b", [Rich("b", rich.when, [], {})], Rich)])
        [row] = [one for one in sink.rows() if one["id"] == "ü"]
        assert row == {"id": "ü", "when": rich.when, "tags": ["a", "b"], "counts": {"c": 1}}


def spec(folder: Path, record: str = "Item", **changes: Any) -> dict[str, Any]:
    sink = {
        "type": "Sink", "name": "write", "func": "delta", "mode": "sync", "key": "id",
        "contract": {"idempotent": True}, "params": {"path": str(folder / "t")}, **changes,
    }  # fmt: skip
    return {
        "name": "items",
        "imports": ["tests.registries.items"],
        "source": {"type": "jsonl", "path": str(folder / "in.jsonl"), "record": record, "splits": 4},
        "operators": [sink],
        "cache": {"storage": str(folder / "cache")},
    }


def test_a_pipeline_writes_once_and_then_finds_it_done(tmp_path: Path) -> None:
    rows = [{"id": n, "text": "x", "weight": n / 7} for n in range(400)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run_local(load_pipeline(spec(tmp_path)))
    assert (report.records_out, report.tasks_run) == (400, 4)
    assert sorted(DeltaSink(str(tmp_path / "t")).rows(), key=lambda row: row["id"]) == rows
    again = run_local(load_pipeline(spec(tmp_path)))
    assert (again.tasks_run, again.digest) == (0, report.digest)


def test_a_type_that_delta_lake_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="field 'at' has the type time64"):
        DeltaSink(str(tmp_path)).check_type(Timed)
    with pytest.raises(PipelineError, match="FP206"):
        load_pipeline(spec(tmp_path, record="dict"))


def test_a_folder_that_is_no_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "t" / "_delta_log").mkdir(parents=True)
    (tmp_path / "t" / "_delta_log" / "00000000000000000000.json").write_text("nonsense\n")
    with pytest.raises(SinkError, match=r"cannot look into .*t: "):
        DeltaSink(str(tmp_path / "t")).published()


def test_a_sink_crosses_processes(tmp_path: Path) -> None:
    sink = DeltaSink(str(tmp_path), key=("id",))
    assert pickle.loads(pickle.dumps(sink)) == sink

"""Records that failed are run again by themselves: no function sees another record a second time."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from funcpipe_prefect import load_pipeline, run_local
from funcpipe_prefect.cli import main
from funcpipe_prefect.errors import ExpectationFailed, FuncPipeError
from tests.contract.test_backends import Run, run_on
from tests.contract.test_store_crashes import in_a_child
from tests.stores import rows_seen, store

PREFECT = pytest.mark.prefect
ON_BEAM = pytest.param("beam", marks=[PREFECT, pytest.mark.runners])


@pytest.fixture(params=["local", pytest.param("dask", marks=PREFECT), ON_BEAM])
def run(request: pytest.FixtureRequest) -> Run:
    return run_on(request.param, request)


def _local(mapping: dict[str, Any], **again: Any) -> Any:
    return run_local(load_pipeline(mapping), **again)


def asking(folder: Path, name: str, refused: str, **more: Any) -> dict[str, Any]:
    (folder / f"{name}.refused").write_text(refused)
    (folder / f"{name}.calls").write_text("")
    return {"type": "Map", "name": name, "func": "asked", "params": {"folder": str(folder), "name": name}, **more}  # fmt: skip


def calls(folder: Path, name: str) -> list[int]:
    """Give the ids that a function has seen since this was asked last."""
    file = folder / f"{name}.calls"
    found = sorted(map(int, file.read_text().split()))
    file.write_text("")
    return found


def spec(folder: Path, operators: list[dict[str, Any]], points: list[str], **more: Any) -> dict[str, Any]:
    rows = [{"id": n, "text": "x", "weight": n / 7} for n in range(90)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "name": "items",
        "imports": ["tests.registries.items", "tests.registries.outside"],
        "source": {"type": "jsonl", "path": str(folder / "in.jsonl"), "record": "Item", "splits": 6},
        "operators": operators,
        "materialization_points": points,
        "cache": {"storage": str(folder / "cache")},
        "errors": {"path": str(folder / "letters")},
        "retries": {"delay_seconds": 0},
        **more,
    }


def sink(folder: Path, **more: Any) -> dict[str, Any]:
    return {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
            "params": {"path": str(folder / "out")}, **more}  # fmt: skip


def fresh(folder: Path, mapping: dict[str, Any]) -> Any:
    """Run the same where nothing was run before; give the report and the rows."""
    text = yaml.safe_dump(mapping)
    for name in ("out", "cache", "letters"):
        text = text.replace(f"{folder}/{name}", f"{folder}/fresh/{name}")
    again = yaml.safe_load(text)
    return _local(again), rows_seen(again)


@pytest.mark.parametrize("points", [[], ["a"], ["a", "b"], ["b"]], ids=["none", "a", "ab", "b"])
def test_no_function_sees_what_has_come_through(run: Run, tmp_path: Path, points: list[str]) -> None:
    operators = [asking(tmp_path, "a", "3 4 80"), asking(tmp_path, "b", "5 60"), sink(tmp_path)]
    mapping = spec(tmp_path, operators, points)
    assert (run(mapping).records_out, calls(tmp_path, "a"), len(calls(tmp_path, "b"))) == (
        85,
        [*range(90)],
        87,
    )
    (tmp_path / "a.refused").write_text("80")
    (tmp_path / "b.refused").write_text("4")
    report = run(mapping, retry_errors=True)
    assert calls(tmp_path, "a") == [3, 4, 80]
    assert calls(tmp_path, "b") == [3, 4, 5, 60]
    assert (report.records_in, report.records_out, report.errors) == (90, 88, 2)
    assert run(mapping).tasks_run == 0
    (tmp_path / "a.refused").write_text("")
    (tmp_path / "b.refused").write_text("")
    report = run(mapping, retry_errors=True)
    assert (calls(tmp_path, "a"), calls(tmp_path, "b")) == ([80], [4, 80])
    whole, rows = fresh(tmp_path, mapping)
    assert rows_seen(mapping) == rows
    assert (report.digest, report.operators, report.errors) == (whole.digest, whole.operators, 0)
    assert run(mapping).tasks_run == 0
    assert run(mapping, retry_errors=True).tasks_run == 0


def test_what_became_of_a_failed_record_may_be_several_or_none(tmp_path: Path) -> None:
    together = {"type": "BatchMap", "name": "b", "func": "asked_together", "max_batch_size": 7,
                "params": {"folder": str(tmp_path), "name": "b"}}  # fmt: skip
    asking(tmp_path, "b", "13 1014 50")
    operators = [
        asking(tmp_path, "a", "8 9 28"),
        {"type": "FlatMap", "name": "two", "func": "twice"},
        {"type": "Filter", "name": "small", "func": "is_small"},
        together,
        sink(tmp_path),
    ]
    mapping = spec(tmp_path, operators, ["two"])
    _local(mapping)
    (tmp_path / "a.refused").write_text("")
    (tmp_path / "b.refused").write_text("50")
    calls(tmp_path, "a"), calls(tmp_path, "b")
    first = _local(mapping, retry_errors=True)
    assert calls(tmp_path, "a") == [8, 9, 28]
    assert calls(tmp_path, "b") == [9, 13, 50, 1009, 1014]
    assert first.errors == 1
    (tmp_path / "b.refused").write_text("")
    report = _local(mapping, retry_errors=True)
    whole, rows = fresh(tmp_path, mapping)
    assert rows_seen(mapping) == rows
    assert (report.digest, report.operators) == (whole.digest, whole.operators)


def test_a_stage_behind_that_is_new_reads_all_that_came_through(tmp_path: Path) -> None:
    operators = [asking(tmp_path, "a", "3 80"), sink(tmp_path)]
    mapping = spec(tmp_path, operators, ["a"])
    _local(mapping)
    (tmp_path / "a.refused").write_text("")
    calls(tmp_path, "a")
    _local(mapping, retry_errors=True)
    mapping["operators"].insert(1, {"type": "Map", "name": "tidy", "func": "tidied"})
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(mapping))
    with pytest.raises(SystemExit):
        main(["cache", "prune", "--all", str(tmp_path / "p.yaml")])
    report = _local(mapping)
    assert calls(tmp_path, "a") == [3, 80]
    assert (report.records_out, report.errors) == (90, 0)
    stored = [row["id"] for row in map(json.loads, (tmp_path / "out").glob("*.jsonl").__next__().open())]
    assert stored == sorted(stored), "records are stored in the order of the input"


def test_two_sinks_of_one_stage_get_them_both(tmp_path: Path) -> None:
    second = sink(tmp_path, name="again", input="a", params={"path": str(tmp_path / "out2")})
    operators = [asking(tmp_path, "a", "3 80"), asking(tmp_path, "b", "5"), sink(tmp_path), second]
    mapping = spec(tmp_path, operators, [])
    _local(mapping)
    calls(tmp_path, "a"), calls(tmp_path, "b")
    for name in "ab":
        (tmp_path / f"{name}.refused").write_text("")
    report = _local(mapping, retry_errors=True)
    assert (calls(tmp_path, "a"), calls(tmp_path, "b")) == ([3, 80], [3, 5, 80])
    whole, rows = fresh(tmp_path, mapping)
    assert (report.outputs["write"]["digest"], report.outputs["again"]["digest"]) == (
        whole.outputs["write"]["digest"],
        whole.outputs["again"]["digest"],
    )
    assert rows_seen(mapping) == rows


STORES_AND_MODES = [("parquet", "replace")] + [
    pytest.param(name, mode, marks=() if mode in ("sync", "upsert") else pytest.mark.slow)
    for name in ("sqlite", "lance", "delta", "postgres")
    for mode in ("replace", "sync", "upsert", "append")
]


@pytest.mark.parametrize(("name", "mode"), STORES_AND_MODES)
def test_every_store_and_mode_gets_just_them(
    name: str, mode: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    operators = [asking(tmp_path, "a", "3 4 80"), store(name, request).operator(tmp_path, mode, ["id"])]
    mapping = spec(tmp_path, operators, [])
    _local(mapping)
    assert len(rows_seen(mapping)) == 87
    calls(tmp_path, "a")
    for refused, left in (("4", [3, 4, 80]), ("", [4])):
        (tmp_path / "a.refused").write_text(refused)
        _local(mapping, retry_errors=True)
        assert calls(tmp_path, "a") == left
    assert sorted(row["id"] for row in rows_seen(mapping)) == list(range(90))
    assert _local(mapping).tasks_run == 0
    _local(mapping, refresh=True)
    assert sorted(row["id"] for row in rows_seen(mapping)) == list(range(90))


def test_a_gate_measures_all_of_them(tmp_path: Path) -> None:
    operators = [asking(tmp_path, "a", "3 80"), sink(tmp_path)]
    mapping = spec(tmp_path, operators, [])
    mapping["expect"] = [{"rows": {"min": 1}}, {"distinct": {"max": 89}, "field": "id"}]
    assert _local(mapping).records_out == 88
    (tmp_path / "a.refused").write_text("80")
    calls(tmp_path, "a")
    report = _local(mapping, retry_errors=True)
    assert [one["found"] for one in report.expectations] == [89, 89]
    (tmp_path / "a.refused").write_text("")
    with pytest.raises(ExpectationFailed, match="90"):
        _local(mapping, retry_errors=True)
    assert len(rows_seen(mapping)) == 89
    mapping["expect"][1]["distinct"]["max"] = 90
    report = _local(mapping, retry_errors=True)
    assert [one["found"] for one in report.expectations] == [90, 90]
    assert calls(tmp_path, "a") == [3, 80, 80]
    assert len(rows_seen(mapping)) == 90


@pytest.mark.parametrize("lost", ["cache", "failed", "again"])
def test_without_what_was_kept_a_partition_is_computed_again(tmp_path: Path, lost: str) -> None:
    operators = [asking(tmp_path, "a", "3 80"), asking(tmp_path, "b", "80"), sink(tmp_path)]
    mapping = spec(tmp_path, operators, ["a"])
    _local(mapping)
    (tmp_path / "a.refused").write_text("80")
    calls(tmp_path, "b")
    if lost == "cache":
        shutil.rmtree(tmp_path / "cache")
    for file in (tmp_path / "cache").rglob(f"*.{lost}"):
        file.write_bytes(b"not what was written")
    _local(mapping, retry_errors=True)
    for file in (tmp_path / "cache").rglob(f"*.{lost}"):
        file.unlink()
    for name in "ab":
        (tmp_path / f"{name}.refused").write_text("")
    report = _local(mapping, retry_errors=True)
    whole, rows = fresh(tmp_path, mapping)
    assert rows_seen(mapping) == rows
    assert (report.digest, report.operators) == (whole.digest, whole.operators)


def test_a_run_that_ends_between_the_stages_loses_nothing(tmp_path: Path) -> None:
    operators = [
        asking(tmp_path, "a", "3 80"),
        asking(tmp_path, "b", "5"),
        sink(tmp_path, error_policy="fail_fast"),
    ]
    operators[1]["error_policy"] = "collect"
    mapping = spec(tmp_path, operators, ["a"])
    _local(mapping)
    (tmp_path / "a.refused").write_text("80")
    (tmp_path / "b.refused").unlink()
    with pytest.raises(FuncPipeError):
        _local({**mapping, "errors": {**mapping["errors"], "max_error_rate": 0.0}}, retry_errors=True)
    assert len(rows_seen(mapping)) == 87
    for name in "ab":
        (tmp_path / f"{name}.refused").write_text("")
    calls(tmp_path, "a"), calls(tmp_path, "b")
    report = _local(mapping, retry_errors=True)
    assert calls(tmp_path, "a") == [80]
    whole, rows = fresh(tmp_path, mapping)
    assert rows_seen(mapping) == rows
    assert (report.digest, report.operators) == (whole.digest, whole.operators)


@pytest.mark.parametrize(
    "name", ["jsonl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sqlite", "lance", "delta"))]
)
def test_a_replay_killed_again_and_again_ends_as_an_undisturbed_one(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [in_a_child.__module__, "funcpipe_prefect.sinks", "funcpipe_prefect.sources"]
    )
    end = sink(tmp_path) if name == "jsonl" else store(name, request).operator(tmp_path, "sync", ["id"])
    operators = [asking(tmp_path, "a", ""), asking(tmp_path, "b", ""), end]
    mapping = spec(tmp_path, operators, ["a"])
    chance, killed = random.Random(name), 0
    ids = chance.sample(range(90), 30)
    for start in range(0, 30, 10):
        (tmp_path / "a.refused").write_text(" ".join(map(str, ids[start : start + 6])))
        (tmp_path / "b.refused").write_text(" ".join(map(str, ids[start + 6 : start + 10])))
        assert _local(mapping, refresh=True).errors == 10
        (tmp_path / "a.refused").write_text(str(ids[start]))
        (tmp_path / "b.refused").write_text("")
        told = context.Queue()
        for _ in range(6):
            child = context.Process(
                target=in_a_child,
                args=(mapping, chance.randint(1, 1200), told, f"{os.sep}funcpipe_prefect{os.sep}"),
                kwargs={"retry_errors": True},
            )
            child.start()
            child.join()
            killed += child.exitcode == -signal.SIGKILL
            assert len(rows_seen(mapping)) in (80, 89), "a reader sees the old output or the new one"
        report = _local(mapping, retry_errors=True)
        assert (report.records_out, report.errors) == (89, 1)
        assert sorted(row["id"] for row in rows_seen(mapping)) == sorted({*range(90)} - {ids[start]})
        (tmp_path / "a.refused").write_text("")
        report = _local(mapping, retry_errors=True)
        assert (report.records_out, report.errors, len(rows_seen(mapping))) == (90, 0, 90)
        assert report.operators == _local(mapping).operators
    assert killed >= 5, "hardly any run died"

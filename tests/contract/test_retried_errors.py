"""Dead letters: looked at by cause, and run again once what failed them is mended."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from funcpipe_prefect.cli import main
from funcpipe_prefect.sinks import DeadLetters
from tests.contract.test_backends import Run, run_on
from tests.stores import rows_seen, store

PREFECT = pytest.mark.prefect
ON_BEAM = pytest.param("beam", marks=[PREFECT, pytest.mark.runners])


@pytest.fixture(params=["local", pytest.param("dask", marks=PREFECT), ON_BEAM])
def run(request: pytest.FixtureRequest) -> Run:
    return run_on(request.param, request)


def _local(mapping: dict[str, Any], retry_errors: bool = False) -> Any:
    from funcpipe_prefect import load_pipeline, run_local

    return run_local(load_pipeline(mapping), retry_errors=retry_errors)


def spec(folder: Path, *operators: dict[str, Any]) -> dict[str, Any]:
    if not (folder / "in.jsonl").exists():
        rows = [{"id": n, "text": "x", "weight": n / 7} for n in range(90)]
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "refused").write_text("3 4 80")
    return {
        "name": "items",
        "imports": ["tests.registries.items", "tests.registries.outside"],
        "source": {"type": "jsonl", "path": str(folder / "in.jsonl"), "record": "Item", "splits": 6},
        "operators": [
            {"type": "Map", "name": "tidy", "func": "tidied"},
            {"type": "Map", "name": "look", "func": "looked_up", "params": {"refused": str(folder / "refused")}},
            *operators,
        ],
        "materialization_points": ["tidy"],
        "cache": {"storage": str(folder / "cache")},
        "errors": {"path": str(folder / "letters")},
        "retries": {"delay_seconds": 0},
    }  # fmt: skip


def sink(folder: Path, **more: Any) -> dict[str, Any]:
    return {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
            "params": {"path": str(folder / "out")}, **more}  # fmt: skip


def test_records_that_failed_are_run_again_and_nothing_else(run: Run, tmp_path: Path) -> None:
    mapping = spec(tmp_path, sink(tmp_path))
    first = run(mapping)
    assert (first.records_out, first.errors) == (87, 3)
    assert run(mapping).tasks_run == 0, "without being asked, nothing is computed again"
    (tmp_path / "refused").write_text("80")
    again = run(mapping, retry_errors=True)
    assert (again.records_out, again.errors) == (89, 1)
    assert again.tasks_run == 2, "of two splits, behind what was stored"
    assert len(rows_seen(mapping)) == 89
    (tmp_path / "refused").write_text("")
    last = run(mapping, retry_errors=True)
    assert (last.records_out, last.errors, last.tasks_run) == (90, 0, 1)
    assert len(rows_seen(mapping)) == 90
    assert run(mapping, retry_errors=True).tasks_run == 0
    assert run(mapping).tasks_run == 0


def test_what_is_merged_from_them_is_merged_again(run: Run, tmp_path: Path) -> None:
    mapping = spec(
        tmp_path,
        {"type": "CombineByKey", "name": "count", "key": "key_of", "lift": "one", "monoid": "count"},
        sink(tmp_path),
    )
    run(mapping)
    assert sorted(row["value"] for row in rows_seen(mapping)) == [29, 29, 29]
    (tmp_path / "refused").write_text("")
    report = run(mapping, retry_errors=True)
    assert [row["value"] for row in rows_seen(mapping)] == [30, 30, 30]
    assert report.errors == 0


@pytest.mark.parametrize("name", ["sqlite", "lance", "delta"])
@pytest.mark.parametrize("mode", ["replace", "sync", "upsert", "append"])
def test_a_store_gets_them_once_beside_what_is_there(
    name: str, mode: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    mapping = spec(tmp_path, store(name, request).operator(tmp_path, mode, ["id"]))
    _local(mapping)
    assert len(rows_seen(mapping)) == 87
    (tmp_path / "refused").write_text("")
    report = _local(mapping, retry_errors=True)
    assert (report.tasks_run, report.errors) == (2, 0)
    assert [row["id"] for row in sorted(rows_seen(mapping), key=lambda row: row["id"])] == list(range(90))
    assert _local(mapping).tasks_run == 0
    assert len(rows_seen(mapping)) == 90


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    printed = capsys.readouterr()
    lines = printed.out.strip()
    code = ended.value.code
    assert isinstance(code, int)
    return code, json.loads(lines) if lines.startswith("{") else None, printed.err


def test_the_command_lists_causes_and_shows_a_letter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping = spec(tmp_path, sink(tmp_path))
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(mapping))
    assert command(capsys, "errors", "ls", str(file), "--json")[1]["count"] == 0
    _local(mapping)
    code, told, _ = command(capsys, "errors", "ls", str(file), "--json")
    assert code == 0
    [cause] = told["causes"]
    assert (cause["count"], cause["operator"], cause["type"]) == (3, "look", "LookupError")
    assert cause["message"] == "nothing is known of #"
    code, letter, _ = command(capsys, "errors", "show", str(file), cause["id"][:8])
    assert (code, letter["record"]["id"], letter["id"]) == (0, 3, cause["id"])
    assert "in.jsonl:4" in letter["location"]
    assert "LookupError" in command(capsys, "errors", "ls", str(file), "--operator", "look")[2]
    assert command(capsys, "errors", "ls", str(file), "--operator", "tidy", "--json")[1]["count"] == 0
    code, _, said = command(capsys, "errors", "show", str(file), "nope")
    assert code == 2
    assert "no dead letter has an id that begins so" in said
    (tmp_path / "refused").write_text("")
    assert command(capsys, "errors", "replay", str(file), "--json")[1]["errors"] == 0
    assert command(capsys, "errors", "ls", str(file), "--json")[1]["count"] == 0


def test_a_manifest_that_leads_out_of_its_folder_is_not_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping = spec(tmp_path, sink(tmp_path))
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(mapping))
    _local(mapping)
    manifest = tmp_path / "letters" / "_manifest.json"
    found = json.loads(manifest.read_text())
    found["parts"][0]["part"]["file"] = "../in.jsonl"
    manifest.write_text(json.dumps(found))
    code, _, said = command(capsys, "errors", "ls", str(tmp_path / "p.yaml"))
    assert code == 1
    assert "outside of its folder" in said


def test_what_came_through_is_kept_as_solved_for_a_while(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = spec(tmp_path, sink(tmp_path))
    mapping["errors"]["keep"] = "2d"
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(mapping))
    file = str(tmp_path / "p.yaml")
    _local(mapping)
    [cause] = command(capsys, "errors", "ls", file, "--json")[1]["causes"]
    (tmp_path / "refused").write_text("80")
    code, report, said = command(capsys, "errors", "replay", file, "--json")
    assert (code, report["errors"]) == (0, 1)
    assert "3 dead letters before; 2 solved, 1 left" in said
    assert command(capsys, "errors", "ls", file, "--json")[1]["count"] == 1
    [solved] = command(capsys, "errors", "ls", file, "--solved", "--json")[1]["causes"]
    assert (solved["count"], solved["id"], solved["type"]) == (2, cause["id"], "LookupError")
    letter = command(capsys, "errors", "show", file, cause["id"])[1]
    assert letter["record"]["id"] == 3
    solved_at = datetime.fromisoformat(letter["solved"])
    assert datetime.now(timezone.utc) - solved_at < timedelta(minutes=5)
    assert "0 solved, 1 left" in command(capsys, "errors", "replay", file)[2]
    (tmp_path / "refused").write_text("")
    later = time.time() + 3 * 86_400
    monkeypatch.setattr(time, "time", lambda: later)
    assert "1 solved, 0 left" in command(capsys, "errors", "replay", file)[2]
    assert command(capsys, "errors", "ls", file, "--solved", "--json")[1]["count"] == 1, (
        "the older ones have gone"
    )
    assert "1 solved dead letters" in command(capsys, "errors", "ls", file, "--solved")[2]


def test_a_record_that_left_the_input_leaves_the_letters(tmp_path: Path) -> None:
    mapping = spec(tmp_path, sink(tmp_path))
    _local(mapping)
    lines = (tmp_path / "in.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "in.jsonl").write_text("".join(lines[:3] + lines[4:]))
    letters = DeadLetters(str(tmp_path / "letters"))
    assert _local(mapping).errors == 2
    assert [one["record"]["id"] for one in letters.read()] == [4, 80]
    assert [one["record"]["id"] for one in letters.solved()] == [3]

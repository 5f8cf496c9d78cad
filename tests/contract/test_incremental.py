"""Incremental runs: after one change exactly the affected stages run, and the output is as if all had run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import RunReport, load_pipeline, run_local

Counts = tuple[int, int]


def spec(folder: Path, source: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "incremental",
        "imports": ["tests.registries.words"],
        "source": source,
        "operators": [
            {"type": "Map", "name": "tidy", "func": "tidy"},
            {"type": "FlatMap", "name": "words", "func": "words"},
            {"type": "BatchMap", "name": "score", "func": "score"},
            {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
             "params": {"path": str(folder / "out")}},
        ],
        "materialization_points": ["words"],
        "cache": {"storage": str(folder / "store")},
        "errors": {"path": str(folder / "letters")},
        **changes,
    }  # fmt: skip


def run(mapping: dict[str, Any]) -> RunReport:
    return run_local(load_pipeline(mapping))


def counts(mapping: dict[str, Any]) -> Counts:
    report = run(mapping)
    return report.tasks_run, report.tasks_cached


def written(folder: Path) -> list[str]:
    """The words that a reader of the committed output sees."""
    manifest = json.loads((folder / "out" / "_manifest.json").read_text())
    files = [entry["part"]["file"] for entry in manifest["parts"] if entry["part"]["file"]]
    assert {path.name for path in (folder / "out").glob("part-*")} == set(files)
    return sorted(
        json.loads(row)["word"] for name in files for row in (folder / "out" / name).read_text().splitlines()
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in ("out", "letters")
        for path in (folder / name).rglob("*")
        if path.is_file()
    }


def line(number: int, text: str) -> str:
    return json.dumps({"id": number, "text": text}) + "\n"


def folder_of(tmp_path: Path, count: int) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04d}.jsonl").write_text(line(number, f"word{number}"))
    return folder, {"type": "jsonl", "path": str(folder)}


def test_one_new_file_among_a_thousand_runs_one_partition(tmp_path: Path) -> None:
    folder, source = folder_of(tmp_path, 1000)
    assert counts(spec(tmp_path, source)) == (2000, 0)
    (folder / "0500a.jsonl").write_text(line(5000, "fresh"))
    assert counts(spec(tmp_path, source)) == (2, 2000)
    assert written(tmp_path) == sorted([*(f"word{number}" for number in range(1000)), "fresh"])


def test_a_file_that_vanished_disappears_from_the_output_and_nothing_runs(tmp_path: Path) -> None:
    folder, source = folder_of(tmp_path, 5)
    run(spec(tmp_path, source))
    (folder / "0002.jsonl").unlink()
    assert counts(spec(tmp_path, source)) == (0, 8)
    assert written(tmp_path) == ["word0", "word1", "word3", "word4"]


def test_a_file_that_is_renamed_keeps_the_output_whole(tmp_path: Path) -> None:
    folder, source = folder_of(tmp_path, 3)
    run(spec(tmp_path, source))
    (folder / "0001.jsonl").rename(folder / "0009.jsonl")
    assert counts(spec(tmp_path, source)) == (2, 4)
    assert written(tmp_path) == ["word0", "word1", "word2"]


def test_a_changed_file_runs_its_own_partition_only(tmp_path: Path) -> None:
    folder, source = folder_of(tmp_path, 32)
    run(spec(tmp_path, source))
    (folder / "0007.jsonl").write_text(line(7, "other7"))
    assert counts(spec(tmp_path, source)) == (2, 62)
    assert "other7" in written(tmp_path)
    assert "word7" not in written(tmp_path)


def test_files_that_were_touched_or_written_anew_run_nothing(tmp_path: Path) -> None:
    folder, source = folder_of(tmp_path, 5)
    run(spec(tmp_path, source))
    before = tree(tmp_path)
    for path in folder.iterdir():
        path.write_text(path.read_text())
        os.utime(path, (1, 1))
    assert counts(spec(tmp_path, source)) == (0, 10)
    assert tree(tmp_path) == before


def test_by_time_a_touched_file_runs_again(tmp_path: Path) -> None:
    folder, source = folder_of(tmp_path, 5)
    source["by_content"] = False
    run(spec(tmp_path, source))
    os.utime(folder / "0003.jsonl", (1, 1))
    assert counts(spec(tmp_path, source)) == (2, 8)


@pytest.mark.parametrize("end", ["\n", ""], ids=["a complete last line", "a last line without its end"])
def test_appending_runs_only_the_splits_behind_the_old_end(tmp_path: Path, end: str) -> None:
    path = tmp_path / "in.jsonl"
    rows = [line(number, f"word{number:04d}") for number in range(1000)]
    path.write_text("".join(rows).removesuffix("\n") + end)
    source = {"type": "jsonl", "path": str(path), "split_size": 4096}
    first = run(spec(tmp_path, source))
    assert first.splits == 8
    more = [line(number, f"word{number:04d}") for number in range(1000, 1200)]
    with path.open("a") as file:
        file.write(("" if end else "\n") + "".join(more))
    again = run(spec(tmp_path, source))
    assert again.splits == 10
    assert (again.tasks_run, again.tasks_cached) == (2 * 3, 2 * 7)  # the split of the old end and two new
    assert written(tmp_path) == [f"word{number:04d}" for number in range(1200)]


def test_an_appended_run_leaves_the_bytes_of_a_run_from_nothing(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    source = {"type": "jsonl", "path": str(path), "split_size": 512}
    rows = [line(number, ("bad line" if number % 7 == 0 else "fine") + " nowords" * (number % 11 == 0))
            for number in range(200)]  # fmt: skip
    for stop in (50, 51, 120, 200):
        path.write_text("".join(rows[:stop]))
        run(spec(tmp_path, source))
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    run(spec(fresh, source))
    assert tree(tmp_path) == tree(fresh) != {}


def test_with_default_settings_a_file_of_twenty_megabytes_keeps_its_first_split(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    row = line(1, "x" * 100_000)
    path.write_text(row * 200)
    source = {"type": "jsonl", "path": str(path)}
    assert counts(spec(tmp_path, source)) == (4, 0)
    with path.open("a") as file:
        file.write(row)
    assert counts(spec(tmp_path, source)) == (2, 2)


def test_the_same_files_asked_for_by_another_path_are_published_under_their_new_names(tmp_path: Path) -> None:
    _, source = folder_of(tmp_path, 2)
    run(spec(tmp_path, source))
    run(spec(tmp_path, {"type": "jsonl", "path": str(tmp_path / "**" / "000*.jsonl")}))
    assert written(tmp_path) == ["word0", "word1"]


def test_another_parameter_runs_its_stage_and_what_follows(tmp_path: Path) -> None:
    _, source = folder_of(tmp_path, 4)
    run(spec(tmp_path, source))
    later = spec(tmp_path, source)
    later["operators"][2]["max_batch_size"] = 3
    assert counts(later) == (4, 4)
    earlier = spec(tmp_path, source)
    earlier["operators"][1]["params"] = {"shortest": 2}
    assert counts(earlier) == (8, 0)

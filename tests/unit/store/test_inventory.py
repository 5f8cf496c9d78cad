"""`funcpipe cache ls` and `prune`: what is listed is what is there, and only what may go goes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from funcpipe_prefect.cli import main
from funcpipe_prefect.store import PartitionStore
from funcpipe_prefect.store.inventory import Inventory

Cli = Callable[..., Any]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text("".join(f'{{"id": {n}, "text": "some words"}}\n' for n in range(60)))
    write(tmp_path)
    return tmp_path


def write(folder: Path, **changes: Any) -> None:
    pipeline = {
        "name": "listed",
        "imports": ["tests.registries.words"],
        "source": {"type": "jsonl", "path": "in.jsonl", "splits": 3},
        "operators": [
            {"type": "Map", "name": "tidy", "func": "tidy"},
            {"type": "FlatMap", "name": "words", "func": "words"},
            {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True}, "params": {"path": "out"}},
        ],
        "materialization_points": ["tidy"],
        "serialization": {"default": "arrow"},
        "cache": {"storage": "store"},
        **changes,
    }  # fmt: skip
    (folder / "p.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*arguments: str, code: int = 0) -> Any:
        with pytest.raises(SystemExit) as exit_info:
            main(arguments)
        printed = capsys.readouterr()
        assert exit_info.value.code == code, printed.err
        assert "Traceback" not in printed.err
        return (
            json.loads(printed.out.splitlines()[-1]) if "--json" in arguments and code == 0 else printed.err
        )

    return run


def names(folder: Path) -> set[str]:
    found = (path for path in (folder / "store").rglob("*") if path.is_file())
    return {path.name for path in found if path.parent.name != "runs"}  # forecasts are kept there


def test_ls_lists_each_stored_result_with_what_it_is(project: Path, cli: Cli) -> None:
    assert cli("cache", "ls", "p.yaml", "--json")["partitions"] == []
    cli("run", "p.yaml")
    listed = cli("cache", "ls", "p.yaml", "--json")
    rows = listed["partitions"]
    assert {(row["stage"], row["kind"], row["codec"]) for row in rows} == {
        ("tidy", "store", "arrow"),
        ("words+write", "write", None),
    }
    assert len({row["split"] for row in rows}) == 3
    assert sum(row["records"] for row in rows if row["stage"] == "tidy") == 60
    assert sum(row["records"] for row in rows if row["stage"] == "words+write") == 120
    assert all(row["used"] is True and row["expired"] is False and 0 <= row["age_s"] < 300 for row in rows)
    assert listed["bytes"] == sum(
        path.stat().st_size for path in (project / "store" / "partitions").rglob("*") if path.is_file()
    )
    text = cli("cache", "ls", "p.yaml")
    assert "words+write" in text
    assert f"6 stored results, {listed['bytes']:,} bytes below store" in text
    by_storage = cli("cache", "ls", "--storage", "store", "--json")["partitions"]
    assert [{**row, "used": True, "age_s": 0} for row in by_storage] == [{**row, "age_s": 0} for row in rows]


def test_ls_tells_what_the_changed_pipeline_still_uses(project: Path, cli: Cli) -> None:
    cli("run", "p.yaml")
    cli("run", "p.yaml", "--set", "operators.words.params={shortest: 5}", "--output", "other")
    rows = cli("cache", "ls", "p.yaml", "--json")["partitions"]
    assert sorted((row["stage"], row["used"]) for row in rows) == [
        *[("tidy", True)] * 3,
        *[("words+write", False)] * 3,
        *[("words+write", True)] * 3,
    ]
    removed = cli("cache", "prune", "p.yaml", "--all", "--json")["removed"]
    assert {one["key"] for one in removed} == {row["key"] for row in rows if not row["used"]}
    assert {one["why"] for one in removed} == {"not used by the pipeline"}
    assert cli("plan", "p.yaml", "--json")["tasks_to_run"] == 0


def test_prune_removes_what_is_expired_and_a_dry_run_nothing(project: Path, cli: Cli) -> None:
    cli("run", "p.yaml")
    before = names(project)
    assert cli("cache", "prune", "p.yaml", "--older-than", "1h", "--json")["removed"] == []
    time.sleep(0.02)  # ages are what this is about
    dry = cli("cache", "prune", "p.yaml", "--older-than", "0.01s", "--dry-run", "--json")
    assert (len(dry["removed"]), names(project)) == (6, before)
    write(project, cache={"storage": "store", "expires": "0.01s"})
    text = cli("cache", "prune", "p.yaml")
    assert "removed (expired): 2 files" in text
    assert names(project) == set()
    assert cli("cache", "prune", "p.yaml", "--json") == {
        "storage": "store",
        "dry_run": False,
        "removed": [],
        "bytes": 0,
    }


def test_another_pipelines_partitions_stay(project: Path, cli: Cli) -> None:
    cli("run", "p.yaml")
    write(
        project,
        name="other",
        operators=[{"type": "Map", "name": "tidy", "func": "tidy", "error_policy": "drop"}],
    )
    assert cli("cache", "ls", "p.yaml", "--json")["partitions"] == []
    before = names(project)
    assert cli("cache", "prune", "p.yaml", "--all", "--json")["removed"] == []
    assert names(project) == before
    assert len(cli("cache", "prune", "--storage", "store", "--all", "--json")["removed"]) == 6
    assert names(project) == set()


def aged(path: Path, seconds: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_prune_removes_what_killed_runs_left_and_nothing_that_is_being_written(
    project: Path, cli: Cli
) -> None:
    folder = project / "store" / "partitions" / "ab"
    dead, busy, fresh = ("ab" + digit * 62 for digit in "123")
    old = 2 * 86400
    aged(folder / f"{dead}.fpp.0123.tmp", old)
    aged(folder / f"{dead}.fpp", old)
    aged(folder / f"{dead}.lock", old)
    aged(folder / f"{busy}.fpp.4567.tmp", old)
    aged(folder / f"{busy}.letters", old)
    aged(folder / f"{fresh}.fpp.89ab.tmp", 60)
    with PartitionStore(str(project / "store")).lock(busy).held():
        removed = cli("cache", "prune", "p.yaml", "--all", "--older-than", "1s", "--json")["removed"]
        assert {one["key"] for one in removed} == {dead}
        assert names(project) == {
            f"{busy}.fpp.4567.tmp",
            f"{busy}.letters",
            f"{busy}.lock",
            f"{fresh}.fpp.89ab.tmp",
        }
    cli("cache", "prune", "--storage", "store")
    assert names(project) == {f"{fresh}.fpp.89ab.tmp"}


def test_a_partition_that_is_locked_after_it_was_listed_stays(project: Path, cli: Cli) -> None:
    cli("run", "p.yaml")
    inventory = Inventory("store", time.time())
    removals = list(inventory.removals(None, unused=True))
    before = names(project)
    with PartitionStore("store").lock(removals[0].key).held():
        assert not inventory.remove(removals[0])
        assert names(project) == before | {f"{removals[0].key}.lock"}
    assert inventory.remove(removals[0])


def test_a_store_in_memory_is_listed_and_pruned(project: Path, cli: Cli) -> None:
    write(project, cache={"storage": "memory://inventory/store"})
    cli("run", "p.yaml")
    assert len(cli("cache", "ls", "--storage", "memory://inventory/store", "--json")["partitions"]) == 6
    assert (
        len(cli("cache", "prune", "--storage", "memory://inventory/store", "--all", "--json")["removed"]) == 6
    )
    assert cli("cache", "ls", "p.yaml", "--json")["partitions"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ls"], "neither of them"),
        (["prune", "p.yaml", "--storage", "store"], "both of them"),
        (["prune", "p.yaml", "--older-than", "soon"], 'found:   "soon"'),
        (["ls", "--storage", "nowhere://x"], "nowhere://x cannot be listed"),
        (["ls", "none.yaml"], "none.yaml"),
        (["ls", "p.yaml", "--input", "missing/*.jsonl"], "missing"),
    ],
)
def test_a_wrong_command_line_is_one_clear_problem(
    project: Path, cli: Cli, arguments: list[str], message: str
) -> None:
    assert message in cli("cache", *arguments, code=2)


def test_refresh_from_on_the_command_line(project: Path, cli: Cli) -> None:
    cli("run", "p.yaml")
    again = cli("run", "p.yaml", "--refresh-from", "words", "--json")
    assert (again["tasks_run"], again["tasks_cached"]) == (3, 3)
    message = cli("run", "p.yaml", "--refresh-from", "wrods", code=2)
    assert "FP124 unknown operator  --refresh-from wrods" in message
    assert 'did you mean "words"?' in message


def test_validate_warns_of_pickle(project: Path, cli: Cli) -> None:
    assert "warning" not in cli("validate", "p.yaml")
    write(project, serialization={"Line": "pickle"})
    assert "warning: tidy is stored by pickle" in cli("validate", "p.yaml")

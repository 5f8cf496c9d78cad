"""Each store gets from Dask and Beam what it gets from one core, once, in each mode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import load_pipeline, run_local
from tests.contract.test_backends import Run, run_on
from tests.stores import KEYED, Store, rows_seen, store

PREFECT = pytest.mark.prefect


@pytest.fixture(
    params=[pytest.param("dask", marks=PREFECT), pytest.param("beam", marks=[PREFECT, pytest.mark.runners])]
)
def run(request: pytest.FixtureRequest) -> Run:
    return run_on(request.param, request)


def spec(folder: Path, kept_in: Store, mode: str, place: str) -> dict[str, Any]:
    (folder / place).mkdir(exist_ok=True)
    return {
        "name": f"stores-{place}",
        "imports": ["tests.registries.items"],
        "source": {"type": "jsonl", "path": str(folder / "in.jsonl"), "record": "Item", "splits": 3},
        "operators": [
            {"type": "Map", "name": "tidy", "func": "tidied"},
            kept_in.operator(folder / place, mode, ["id"], f"s_{place}_{mode}"),
        ],
        "materialization_points": ["tidy"],
        "cache": {"storage": str(folder / place / "cache")},
        "errors": {"path": str(folder / place / "letters")},
        "retries": {"delay_seconds": 0},
    }


@pytest.mark.parametrize("name", KEYED)
def test_a_store_gets_the_same_from_each_backend(
    run: Run, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kept_in = store(name, request)
    for mode in ("sync", "upsert"):
        for start, text in ((0, "x"), (20, "y")):
            rows = [
                {"id": n, "text": "broken" if n == 33 else text, "weight": n / 7}
                for n in range(start, start + 60)
            ]
            (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            there = run(spec(tmp_path, kept_in, mode, "there"))
            here = run_local(load_pipeline(spec(tmp_path, kept_in, mode, "here")))
            assert (there.digest, there.operators) == (here.digest, here.operators)
            found = rows_seen(spec(tmp_path, kept_in, mode, "there"))
            assert found == rows_seen(spec(tmp_path, kept_in, mode, "here"))
            assert len(found) == (79 if mode == "upsert" and start else 59)
        assert run(spec(tmp_path, kept_in, mode, "there")).tasks_run == 0


@pytest.mark.parametrize("mode", ["replace", "sync", "upsert", "append"])
@pytest.mark.parametrize("name", KEYED)
def test_an_input_without_records_is_no_trouble(
    name: str, mode: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    mapping = spec(tmp_path, store(name, request), mode, f"empty{mode}")
    for count, expected in ((0, 0), (5, 5), (0, 0 if mode in ("replace", "sync") else 5), (5, 5)):
        rows = [{"id": n, "text": "x", "weight": 0.5} for n in range(count)]
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        report = run_local(load_pipeline(mapping))
        assert report.records_out == count
        assert len(rows_seen(mapping)) == expected


@pytest.mark.parametrize("name", ["jsonl", "parquet", "lance", "delta", "sqlite"])
def test_a_report_names_the_version_that_is_published(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    def run() -> Any:
        report = run_local(load_pipeline(mapping))
        return report.outputs["write"].get("version")

    rows = [{"id": number, "text": "x", "weight": 0.5} for number in range(20)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapping = {
        "name": "versions", "imports": ["tests.registries.items"],
        "source": {"type": "jsonl", "path": str(tmp_path / "in.jsonl"), "record": "Item"},
        "operators": [{"type": "Map", "name": "tidy", "func": "tidied"},
                      store(name, request).operator(tmp_path, "replace", ["id"])],
        "cache": {"storage": str(tmp_path / "cache")}, "errors": {"path": str(tmp_path / "letters")},
    }  # fmt: skip
    first = run()
    assert (first is None) == (name == "sqlite"), "a table of SQL has no versions"
    assert run() == first
    (tmp_path / "in.jsonl").write_text(json.dumps(rows[0]) + "\n")
    second = run()
    assert name == "sqlite" or second != first
    if name in ("lance", "delta"):
        assert int(second) > int(first)

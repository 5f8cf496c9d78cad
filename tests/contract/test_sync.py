"""`mode: sync`: documents that were edited, added, shortened or deleted leave the store as a fresh build has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import RunReport, load_pipeline, run_local
from tests.conftest import SHARED
from tests.stores import KEYED, Store, rows_seen, store

DOCUMENTS = 1500
SAMPLE = SHARED / "arxiv_sample.jsonl"


def documents(shared: Path | None) -> list[dict[str, Any]]:
    if shared is None:
        return [
            {"doc_id": f"d{n}", "title": f"On {n}", "abstract": f"We show {n} in many words. " * (n % 60 + 5)}
            for n in range(DOCUMENTS)
        ]
    with shared.open() as lines:
        return [json.loads(line) for line, _ in zip(lines, range(DOCUMENTS), strict=False)]


def changed(docs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Edit, shorten, add and delete."""
    after = [dict(doc) for doc in docs]
    text = "text" if docs[0].get("text") else "abstract"
    after[10][text] += " One more sentence."
    after[900][text] = after[900][text][:60]
    after.insert(700, {**docs[0], "doc_id": "new in the middle"})
    after.append({**docs[0], "doc_id": "new at the end"})
    del after[1200]
    return after


def mapping(folder: Path, kept_in: Store, place: str) -> dict[str, Any]:
    (folder / place).mkdir(exist_ok=True)
    return {
        "name": "sync",
        "imports": ["funcpipe_prefect.examples.rag"],
        "source": {"type": "jsonl", "path": str(folder / "docs.jsonl"), "record": "RawDoc",
                   "split_size": "48KiB", "cut": "content"},
        "operators": [
            {"type": "Map", "name": "clean", "func": "clean_doc"},
            {"type": "FlatMap", "name": "chunk", "func": "chunk_doc", "params": {"size": 300, "overlap": 30}},
            kept_in.operator(folder / place, "sync", ["doc_id", "index"], f"chunks_{place}"),
        ],
        "cache": {"storage": str(folder / place / "cache")},
        "errors": {"path": str(folder / place / "letters")},
    }  # fmt: skip


def written(path: Path, docs: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(doc) + "\n" for doc in docs))


def run(spec: dict[str, Any]) -> RunReport:
    return run_local(load_pipeline(spec))


@pytest.mark.parametrize("name", KEYED)
def test_a_changed_input_leaves_what_a_fresh_build_has_for_little_work(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kept_in = store(name, request)
    docs = documents(SAMPLE if SAMPLE.is_file() else None)
    spec = mapping(tmp_path, kept_in, "kept")
    written(tmp_path / "docs.jsonl", docs)
    first = run(spec)
    before = rows_seen(spec)
    assert len(before) == first.records_out > DOCUMENTS
    assert first.splits > 20

    written(tmp_path / "docs.jsonl", changed(docs))
    again = run(spec)
    fresh = mapping(tmp_path, kept_in, "fresh")
    whole = run(fresh)
    assert rows_seen(spec) == rows_seen(fresh) != before
    assert (again.digest, again.records_out) == (whole.digest, whole.records_out)
    touched = 5  # documents; a border that moves changes the piece behind it, too
    assert 0 < again.tasks_run <= 2 * touched + 1
    assert whole.tasks_run == whole.splits > 20

    assert run(spec).tasks_run == 0
    written(tmp_path / "docs.jsonl", docs)
    run(spec)
    assert rows_seen(spec) == before

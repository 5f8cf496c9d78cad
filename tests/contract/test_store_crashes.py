"""Processes that die at seeded places inside the sinks, in every mode: the retry gives what an undisturbed run gives.

A child process runs the pipeline and kills itself with SIGKILL at a call or return, chosen by the
seed, inside our sinks: before, between and behind what the store itself does. Meanwhile a reader
polls; it may see the old content or the new, and nothing else. `FUNCPIPE_CRASHES=1000 pytest
tests/contract/test_store_crashes.py` does it at length.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import load_pipeline, run_local
from tests.stores import STORES, Store, rows_seen, store

CRASHES = int(os.environ.get("FUNCPIPE_CRASHES", "200"))
QUICK = (("jsonl", "replace"), ("sqlite", "sync"))
CASES = [
    pytest.param(name, mode, marks=() if (name, mode) in QUICK else pytest.mark.slow)
    for name in STORES
    for mode in (("replace",) if name in ("jsonl", "parquet") else ("replace", "upsert", "sync", "append"))
]
CRASHES_OF_A_CASE = -(-CRASHES // len(CASES))
_SINKS = f"{os.sep}funcpipe_prefect{os.sep}sinks{os.sep}"


def in_a_child(mapping: dict[str, Any], at: int, told: Any, inside: str = _SINKS, **again: Any) -> None:
    """Run a pipeline; die at an event inside the sinks, or elsewhere, or tell how many there are."""
    seen = 0

    def watch(frame: Any, event: str, _: Any) -> None:
        nonlocal seen
        if inside in frame.f_code.co_filename:
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)

    pipeline = load_pipeline(mapping)
    sys.setprofile(watch)
    try:
        run_local(pipeline, **again)
    finally:
        sys.setprofile(None)
    told.put(seen)


@pytest.fixture(scope="module")
def children() -> Any:
    """A clean process to fork from, with the imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "funcpipe_prefect.sinks", "funcpipe_prefect.sources"])
    return context


def items(seed: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    chosen = sorted(chance.sample(range(120), 60))
    return [{"id": n, "text": f" {seed % 3} ", "weight": n / 3} if n % 20 else
            {"id": n, "text": "broken", "weight": 0.0} for n in chosen]  # fmt: skip


def spec(folder: Path, kept_in: Store, mode: str, place: str) -> dict[str, Any]:
    (folder / place).mkdir(exist_ok=True)
    return {
        "name": "crashes",
        "imports": ["tests.registries.items"],
        "source": {"type": "jsonl", "path": str(folder / "in.jsonl"), "record": "Item", "splits": 3},
        "operators": [
            {"type": "Map", "name": "tidy", "func": "tidied"},
            kept_in.operator(folder / place, mode, ["id"], f"t_{place}"),
        ],
        "cache": {"storage": str(folder / place / "cache")},
        "errors": {"path": str(folder / place / "letters")},
        "retries": {"delay_seconds": 0},
    }


def feed(folder: Path, seed: int) -> None:
    (folder / "in.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items(seed)))


@contextmanager
def polling(mapping: dict[str, Any]) -> Iterator[list[Any]]:
    """Read again and again while a block runs; gives what was seen, each content once."""
    seen: list[Any] = []
    faults: list[BaseException] = []
    is_over = threading.Event()

    def poll() -> None:
        while not is_over.is_set():
            try:
                rows = rows_seen(mapping)
            except BaseException as error:
                faults.append(error)
                return
            if rows not in seen:
                seen.append(rows)

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        yield seen
    finally:
        is_over.set()
        reader.join()
    assert not faults, faults


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_a_run_killed_inside_its_sink_again_and_again_ends_as_an_undisturbed_one(
    name: str, mode: str, tmp_path: Path, children: Any, request: pytest.FixtureRequest
) -> None:
    kept_in = store(name, request)
    mapping, other = (spec(tmp_path, kept_in, mode, place) for place in ("run", "ref"))
    for one in (mapping, other):
        feed(tmp_path, 0)
        run_local(load_pipeline(one))
    chance = random.Random(f"{name} {mode}")
    before = rows_seen(mapping)
    assert before == rows_seen(other) != []
    crashes, seed, events = 0, 0, 0
    while crashes < CRASHES_OF_A_CASE:
        seed += 1
        feed(tmp_path, seed)
        told = children.Queue()
        if not events:
            child = children.Process(target=in_a_child, args=(other, 0, told))
            child.start()
            events = told.get(timeout=60)
            child.join()
        else:
            run_local(load_pipeline(other))
        expected = rows_seen(other)
        with polling(mapping) as seen:
            for _ in range(min(4, CRASHES_OF_A_CASE - crashes)):
                child = children.Process(target=in_a_child, args=(mapping, chance.randint(1, events), told))
                child.start()
                child.join()
                crashes += child.exitcode == -signal.SIGKILL
            report = run_local(load_pipeline(mapping))
        assert report.status == "completed"
        assert rows_seen(mapping) == expected
        assert all(rows in (before, expected) for rows in seen), "a reader saw a mixture"
        before = expected
        assert seed < 20 * CRASHES_OF_A_CASE, "hardly any run dies"
    assert not list(tmp_path.rglob("*.tmp")), "temporary files are left"

"""The partition store: what was stored comes back, and what was damaged is computed again, never used."""

from __future__ import annotations

import hashlib
import io
import threading
from pathlib import Path
from typing import Any

import fsspec
import pytest

from funcpipe_prefect import Registry, load_pipeline, run_local
from funcpipe_prefect.backends.work import Job, run_stage
from funcpipe_prefect.errors import CorruptPartition, SinkError
from funcpipe_prefect.ir import Commit, OperatorCounts, Part
from funcpipe_prefect.plan import StageReceipt, plan_run
from funcpipe_prefect.store import PartitionStore

KEY = "ab" + "0" * 62


def never(position: int, record: Any, error: Exception) -> None:
    raise error


def stored(store: PartitionStore, records: list[Any], key: str = KEY, letters: bytes = b"") -> StageReceipt:
    reference = store.write(key, enumerate(records, 100), Any, never)
    part = Part("part-x", 1, len(letters), hashlib.sha256(letters).hexdigest()) if letters else Part()
    if letters:
        store.write_letters(key, io.BytesIO(letters))
    entry = Commit("s", key, Part(), "", (OperatorCounts("m", 3, 3),), (part,))
    receipt = StageReceipt(entry, reference)
    store.write_receipt(key, receipt)
    return receipt


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("records", [[], [None], [{"a": [1, b"x", 2.5]}] * 3000, ["x" * 1_000_000]], ids=len)
def test_records_come_back_with_their_positions(tmp_path: Path, records: list[Any]) -> None:
    store = PartitionStore(str(tmp_path))
    receipt = stored(store, records)
    assert store.lookup(KEY) == receipt
    assert receipt.stored is not None
    assert receipt.stored.records == len(records)
    assert list(store.read(receipt.stored, Any)) == list(enumerate(records, 100))
    assert files(tmp_path) == [f"{KEY}.fpp", f"{KEY}.json"]


def test_a_partition_in_memory_comes_back() -> None:
    store = PartitionStore("memory://store-test/cache")
    try:
        receipt = stored(store, [1, 2])
        assert receipt.stored is not None
        assert store.lookup(KEY) == receipt
        assert list(store.read(receipt.stored, Any)) == [(100, 1), (101, 2)]
    finally:
        fsspec.filesystem("memory").rm("/store-test", recursive=True)


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    changed = {
        "truncated": data[:-1],
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
        "emptied": b"",
        "grown": data + b"x",
    }
    path.unlink() if kind == "removed" else path.write_bytes(changed[kind])


DAMAGES = ["truncated", "flipped", "emptied", "grown", "removed"]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_partition_is_never_read(tmp_path: Path, kind: str) -> None:
    store = PartitionStore(str(tmp_path))
    receipt = stored(store, list(range(1000)))
    assert receipt.stored is not None
    damage(next(tmp_path.rglob("*.fpp")), kind)
    with pytest.raises(CorruptPartition, match=KEY):
        store.read(receipt.stored, Any)
    if kind != "flipped":
        assert store.lookup(KEY) is None


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_receipt_finds_nothing(tmp_path: Path, kind: str) -> None:
    store = PartitionStore(str(tmp_path))
    stored(store, [1])
    path = next(tmp_path.rglob("*.json"))
    damage(path, kind)
    if kind == "flipped":
        path.write_bytes(b"\xff\xfe{}")
    assert store.lookup(KEY) is None


def test_a_receipt_under_another_key_finds_nothing(tmp_path: Path) -> None:
    store = PartitionStore(str(tmp_path))
    stored(store, [1])
    other = KEY.replace("0", "1")
    for path in list(tmp_path.rglob("ab*.*")):
        path.with_name(path.name.replace(KEY, other)).write_bytes(path.read_bytes())
    assert store.lookup(other) is None


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_partition_whose_dead_letters_are_gone_is_computed_again(tmp_path: Path, kind: str) -> None:
    store = PartitionStore(str(tmp_path))
    stored(store, [1], letters=b'{"a": 1}\n')
    assert store.lookup(KEY) is not None
    damage(next(tmp_path.rglob("*.letters")), kind)
    assert store.lookup(KEY) is None


def test_a_partition_without_receipt_is_not_found(tmp_path: Path) -> None:
    store = PartitionStore(str(tmp_path))
    stored(store, [1])
    store.forget(KEY)
    store.forget(KEY)
    assert store.lookup(KEY) is None


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    store = PartitionStore(str(tmp_path))
    with pytest.raises(TypeError, match="tuple would come back as a list"):
        store.write(KEY, [(0, 1), (1, (1, 2))], Any, never)

    def breaking() -> Any:
        yield 0, 1
        raise RuntimeError("worker killed")

    with pytest.raises(RuntimeError, match="worker killed"):
        store.write(KEY, breaking(), Any, never)
    assert files(tmp_path) == []


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=f"cannot write .*{KEY}"):
        PartitionStore(str(tmp_path / "file")).write(KEY, [(0, 1)], Any, never)


def test_writers_of_one_key_at_the_same_time_leave_a_whole_partition(tmp_path: Path) -> None:
    store = PartitionStore(str(tmp_path))
    barrier = threading.Barrier(8)
    failures: list[BaseException] = []

    def write() -> None:
        try:
            barrier.wait()
            for _ in range(5):
                receipt = stored(store, list(range(2000)))
                assert receipt.stored is not None
                assert sum(1 for _ in store.read(receipt.stored, Any)) == 2000
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    [thread.start() for thread in threads]  # type: ignore[func-returns-value]
    [thread.join() for thread in threads]  # type: ignore[func-returns-value]
    assert failures == []
    assert store.lookup(KEY) is not None
    assert files(tmp_path) == [f"{KEY}.fpp", f"{KEY}.json"]


registry = Registry()


@registry.func
def halve(x: int) -> int:
    if x % 2:
        raise ValueError("odd")
    return x // 2


@registry.func
def twice(x: int) -> list[int]:
    return [x, x]


@pytest.fixture
def pipeline(tmp_path: Path) -> Any:
    return load_pipeline(
        {
            "name": "stored",
            "operators": [
                {"type": "Map", "name": "halve", "func": "halve"},
                {"type": "FlatMap", "name": "twice", "func": "twice"},
                {
                    "type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
                    "params": {"path": str(tmp_path / "out")},
                },
            ],
            "materialization_points": ["halve"],
            "cache": {"storage": str(tmp_path / "cache")},
            "errors": {"path": str(tmp_path / "letters")},
            "retries": {"delay_seconds": [0]},
        },
        registry,
    )  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("suffix", ["fpp", "letters", "json"])
def test_a_run_over_a_damaged_store_gives_the_same_output(
    tmp_path: Path, pipeline: Any, suffix: str, kind: str
) -> None:
    first = run_local(pipeline, range(1000))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for path in (tmp_path / "cache").rglob(f"*.{suffix}"):
        damage(path, kind)
    for folder in ("out", "letters"):
        for path in (tmp_path / folder).iterdir():
            path.unlink()
    again = run_local(pipeline, range(1000))
    assert (again.digest, again.errors, again.operators) == (first.digest, first.errors, first.operators)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_stage_recomputes_a_partition_that_was_damaged_after_it_was_found(
    tmp_path: Path, pipeline: Any, kind: str
) -> None:
    """The reference of the first stage is in hand, then its file is lost: the second stage must not fail."""
    from dataclasses import replace

    from funcpipe_prefect.sources import IterableSource

    pipeline = replace(pipeline, source=IterableSource.of(range(100)))
    plan = plan_run(pipeline, pipeline.source.list_splits())
    job, split, keys = Job(pipeline, plan.stages), plan.splits[0], plan.keys[0]
    upstream = run_stage(job, 0, split, keys)
    whole = run_stage(job, 1, split, keys, upstream)
    damage(next((tmp_path / "cache").rglob("*.fpp")), kind)
    assert run_stage(job, 1, split, keys, upstream).entry == whole.entry

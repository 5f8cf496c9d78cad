"""Output folders: readers see the old state or the new one, and the same run leaves the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from funcpipe_prefect.errors import SinkError
from funcpipe_prefect.ir import Commit, Split
from funcpipe_prefect.monoid import Digest, digest_of, digest_text, fold
from funcpipe_prefect.sinks import JsonlSink
from funcpipe_prefect.sources import JsonlSource


def never(position: int, record: Any, error: Exception) -> None:
    raise AssertionError(f"record {record!r} was refused: {error}")


def splits_of(records: list[Any], count: int) -> list[tuple[Split, list[Any]]]:
    step = max(1, -(-len(records) // count))
    return [
        (Split(f"in.jsonl-{start:012d}", "/in.jsonl", start), records[start : start + step])
        for start in range(0, max(1, len(records)), step)
    ]


def stage(sink: JsonlSink, records: list[Any], splits: int = 1) -> list[Commit]:
    entries = []
    for split, rows in splits_of(records, splits):
        part = sink.write(split, iter(list(enumerate(rows))), Any, never)
        total = fold(Digest(), [digest_of(json.dumps(row).encode()) for row in rows])
        entries.append(Commit(split.name, f"key-{splits}-{split.start}-{rows}", part, digest_text(total)))
    return entries


def publish(sink: JsonlSink, records: list[Any], splits: int = 1) -> list[Commit]:
    entries = stage(sink, records, splits)
    sink.commit(entries)
    return entries


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def visible(folder: Path | str) -> list[Any]:
    source = JsonlSource(str(folder))
    return [record for split in source.list_splits() for _, record in source.read(split, Any)]


def by_glob(folder: Path) -> list[Any]:
    return sorted(
        json.loads(line) for part in folder.glob("*.jsonl") for line in part.read_text().splitlines()
    )


def test_nothing_is_visible_before_the_commit_and_all_after_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sink = JsonlSink(str(out))
    entries = stage(sink, [1, 2, 3], 2)
    assert by_glob(out) == []
    assert sink.published() == {}
    sink.commit(entries)
    assert by_glob(out) == visible(out) == [1, 2, 3]
    assert list(sink.published()) == [entry.key for entry in entries]


def test_the_old_output_stays_until_the_new_one_is_committed(tmp_path: Path) -> None:
    sink = JsonlSink(str(tmp_path))
    publish(sink, [1, 2, 3], 2)
    entries = stage(sink, [7, 8], 1)
    assert by_glob(tmp_path) == visible(tmp_path) == [1, 2, 3]
    sink.commit(entries)
    assert by_glob(tmp_path) == visible(tmp_path) == [7, 8]


@pytest.mark.parametrize("splits", [1, 3, 9])
def test_a_rerun_with_another_split_count_leaves_no_stale_part(tmp_path: Path, splits: int) -> None:
    sink = JsonlSink(str(tmp_path / "out"))
    publish(sink, list(range(20)), 5)
    publish(sink, list(range(20)), splits)
    publish(JsonlSink(str(tmp_path / "fresh")), list(range(20)), splits)
    assert content(tmp_path / "out") == content(tmp_path / "fresh")
    assert by_glob(tmp_path / "out") == list(range(20))


def test_committing_twice_touches_no_file(tmp_path: Path) -> None:
    sink = JsonlSink(str(tmp_path))
    entries = publish(sink, [1, 2, 3], 2)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.iterdir()}
    sink.commit(entries)
    publish(sink, [1, 2, 3], 2)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.iterdir()} == before


def test_two_runs_leave_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        publish(JsonlSink(str(tmp_path / name)), [{"b": {2, 1}, "a": 0.1}] if name == "c" else [{"b": 1}], 1)
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.mark.parametrize("crash", ["staged", "torn", "half-published"])
def test_a_crash_at_any_point_is_made_good_by_the_next_run(tmp_path: Path, crash: str) -> None:
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    sink = JsonlSink(str(out))
    publish(sink, [1, 2], 2)
    entries = stage(sink, list(range(6)), 3)
    if crash == "torn":
        (out / "_staging" / "0123.tmp").write_bytes(b"half a li")
    if crash == "half-published":  # killed between moving the parts and renaming the manifest
        first = entries[0].part.file
        shutil.move(out / "_staging" / first, out / first)
        assert visible(out) == [1, 2]
    publish(sink, list(range(6)), 3)
    publish(JsonlSink(str(fresh)), list(range(6)), 3)
    assert content(out) == content(fresh)


def test_a_write_that_fails_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def breaking() -> Iterable[tuple[int, Any]]:
        yield 0, 1
        raise RuntimeError("worker killed")

    sink = JsonlSink(str(tmp_path))
    with pytest.raises(RuntimeError, match="worker killed"):
        sink.write(Split("s"), iter(breaking()), Any, never)
    assert content(tmp_path) == {}


def test_a_split_without_records_makes_no_part(tmp_path: Path) -> None:
    sink = JsonlSink(str(tmp_path))
    part = sink.write(Split("s"), iter([]), Any, never)
    assert (part.file, part.records) == ("", 0)
    sink.commit([Commit("s", "k", part, digest_text((0, 0)))])
    assert list(content(tmp_path)) == ["_manifest.json"]
    assert list(sink.published()) == ["k"]


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"[]", b'{"parts": 3}', b"\xff\xfe", b'{"parts": [{"split": 1}]}',
        b'{"format": "other/9", "records": 0}', b'{"records": 5}', b'{"digest": "x"}',
    ],
    ids=repr,
)  # fmt: skip
def test_a_damaged_manifest_is_an_error_not_an_empty_output(tmp_path: Path, damage: bytes) -> None:
    sink = JsonlSink(str(tmp_path))
    publish(sink, [1], 1)
    (tmp_path / "_manifest.json").write_bytes(damage)
    with pytest.raises(SinkError, match=r"_manifest\.json is damaged .*remove it to publish anew"):
        sink.published()


def test_a_manifest_whose_totals_do_not_fit_its_parts_is_not_trusted(tmp_path: Path) -> None:
    sink = JsonlSink(str(tmp_path))
    publish(sink, [1, 2], 2)
    path = tmp_path / "_manifest.json"
    path.write_text(path.read_text().replace('"records": 2', '"records": 3'))
    with pytest.raises(SinkError, match="totals"):
        sink.published()


@pytest.mark.parametrize("damage", ["removed", "truncated"])
def test_a_damaged_part_is_not_taken_as_published_and_is_replaced(tmp_path: Path, damage: str) -> None:
    sink = JsonlSink(str(tmp_path))
    entries = publish(sink, [1, 2], 2)
    before = content(tmp_path)
    broken = tmp_path / entries[0].part.file
    broken.unlink() if damage == "removed" else broken.write_bytes(b"")
    assert list(sink.published()) == [entries[1].key]
    publish(sink, [1, 2], 2)
    assert content(tmp_path) == before


def test_a_part_that_nobody_wrote_cannot_be_committed(tmp_path: Path) -> None:
    sink = JsonlSink(str(tmp_path))
    entries = stage(sink, [1], 1)
    shutil.rmtree(tmp_path / "_staging")
    with pytest.raises(SinkError, match="neither staged nor published"):
        sink.commit(entries)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url in (f"{tmp_path}/file/out", "nope://bucket/out"):
        with pytest.raises(SinkError, match="file/out|nope"):
            publish(JsonlSink(url), [1], 1)


def test_files_of_others_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    theirs = (
        "part-00000-8b5f0a4e-1c1e-4d5a-9a7e-3f6b1c2d4e5f-c000.snappy.parquet",
        "part-0.jsonl",
        "notes.txt",
        "x/part-1",
    )
    for name in theirs:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("theirs")
    sink = JsonlSink(str(tmp_path))
    publish(sink, [1], 1)
    publish(sink, [2], 1)
    assert all((tmp_path / name).read_text() == "theirs" for name in theirs)
    assert visible(tmp_path) == [2]


def test_splits_with_odd_or_equal_names_get_parts_of_their_own(tmp_path: Path) -> None:
    sink = JsonlSink(str(tmp_path))
    names = [
        ("a/b.jsonl", "/x"),
        ("a b.jsonl", "/x"),
        ("a-b.jsonl", "/x"),
        ("a/b.jsonl", "/y"),
        ("ä" * 300, "/x"),
        ("", "/x"),
    ]
    entries = []
    for index, (name, location) in enumerate(names):
        part = sink.write(Split(name, location), iter([(0, 7)]), Any, never)
        entries.append(Commit(f"{index}", f"{index}", part, ""))
    sink.commit(entries)
    assert visible(tmp_path) == [7] * len(names)


def test_an_output_in_memory_keeps_the_protocol() -> None:
    url = "memory://directory-test/out"
    sink = JsonlSink(url)
    try:
        entries = stage(sink, [1, 2, 3], 2)
        assert sink.published() == {}
        sink.commit(entries)
        sink.commit(entries)
        assert visible(url) == [1, 2, 3]
        publish(sink, [4], 1)
        assert visible(url) == [4]
        files = fsspec.filesystem("memory").find("/directory-test/out")
        assert len(files) == 2
    finally:
        fsspec.filesystem("memory").rm("/directory-test", recursive=True)


def test_a_record_without_a_json_form_is_refused_alone(tmp_path: Path) -> None:
    refused: list[tuple[int, Any]] = []
    sink = JsonlSink(str(tmp_path))
    rows = [
        (0, {"a": 1}),
        (1, {"a": "\ud800"}),
        (2, {"a": object()}),
        (3, {("t", 1): 1}),
        (4, {"a": float("nan")}),
    ]
    part = sink.write(
        Split("s"), iter(rows), Any, lambda place, record, error: refused.append((place, error))
    )
    assert [place for place, _ in refused] == [1, 2, 3]
    sink.commit([Commit("s", "k", part, "")])
    assert visible(tmp_path) == [{"a": 1}, {"a": None}]

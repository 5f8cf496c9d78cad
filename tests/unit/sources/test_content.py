"""Identity: splits whose data is the same keep their key, splits whose data changed never do."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from funcpipe_prefect import load_pipeline
from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.ir import Split
from funcpipe_prefect.sources import CsvSource, JsonlSource, ParquetSource, TextSource
from funcpipe_prefect.sources.content import identify_lines

TEXT = st.text(alphabet="ab\n", max_size=60).map(str.encode)


def jsonl(path: Path, size: int, **settings: Any) -> JsonlSource:
    return JsonlSource(str(path), split_size=size, **settings)


def reads(source: JsonlSource) -> dict[Split, list[tuple[str, Any]]]:
    return {
        split: [(source.locate(split, place), record) for place, record in source.read(split, Any)]
        for split in source.list_splits()
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(old=TEXT, new=TEXT, size=st.integers(1, 20))
@example(old=b"1\n2\n", new=b"1\n\n\n", size=2)
@example(old=b"1\n\n\n3\n", new=b"1\n22\n3\n", size=5)  # as long, but with other line numbers
def test_splits_of_one_identity_read_the_same_at_the_same_places(
    tmp_path: Path, old: bytes, new: bytes, size: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(old)
    before = reads(jsonl(path, size))
    path.write_bytes(new)
    after = reads(jsonl(path, size))
    for split in before.keys() & after.keys():
        assert before[split] == after[split]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(old=TEXT, more=TEXT, size=st.integers(1, 20))
def test_appending_keeps_every_split_whose_lines_were_complete(
    tmp_path: Path, old: bytes, more: bytes, size: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(old)
    before = jsonl(path, size).list_splits()
    path.write_bytes(old + more)
    after = jsonl(path, size).list_splits()
    complete = old.rfind(b"\n") + 1
    for split in before:
        if split.start >= 0 and split.stop == split.start + size and split.stop <= complete:
            assert split in after


def test_a_last_line_that_is_continued_runs_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n2\n345")
    one, two, three, *_ = jsonl(path, 2).list_splits()
    path.write_bytes(b"1\n2\n3456\n")
    after = jsonl(path, 2).list_splits()
    assert (one, two) == tuple(after[:2])
    assert three not in after


def test_a_file_that_ends_on_a_border_keeps_all_its_splits_when_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for lines in (1, 2, 3):
        path.write_bytes(b"123\n" * lines)
        before = jsonl(path, 4).list_splits()
        path.write_bytes(b"123\n" * (lines + 1))
        assert jsonl(path, 4).list_splits()[:lines] == before


def test_a_line_longer_than_many_splits_is_hashed_with_the_split_it_begins_in(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n" + b"x" * 300_000 + b"\n2\n")
    before = jsonl(path, 1000).list_splits()
    path.write_bytes(b"1\n" + b"x" * 299_999 + b"y\n2\n")
    after = jsonl(path, 1000).list_splits()
    assert [index for index, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [0]


@pytest.fixture(params=["jsonl", "jsonl.gz", "csv", "parquet", "text"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Callable[[str], Path], type]:
    kind: str = request.param
    path = tmp_path / f"a.{'txt' if kind == 'text' else kind}"

    def written(text: str) -> Path:
        if kind == "parquet":
            pq.write_table(pa.table({"word": [text]}), path)
        elif kind == "jsonl.gz":
            path.write_bytes(gzip.compress(f'"{text}"\n'.encode(), mtime=0))
        else:
            path.write_text(f'"{text}"\n')
        return path

    return written, {"csv": CsvSource, "parquet": ParquetSource, "text": TextSource}.get(kind, JsonlSource)


def test_touching_or_rewriting_equal_bytes_runs_nothing_by_content(
    write: tuple[Callable[[str], Path], type],
) -> None:
    written, source = write
    path = written("one")
    before = source(str(path), by_content=True).list_splits()
    by_time = source(str(path), by_content=False).list_splits()
    written("one")
    os.utime(path, (1, 1))
    assert source(str(path), by_content=True).list_splits() == before
    assert source(str(path), by_content=False).list_splits() != by_time
    written("two")
    os.utime(path, (1, 1))
    assert source(str(path), by_content=True).list_splits() != before


def test_json_lines_are_known_by_content_on_a_local_disk_and_by_time_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("1\n2\n")
    before = JsonlSource(str(path)).list_splits()
    os.utime(path, (1, 1))
    assert JsonlSource(str(path)).list_splits() == before == JsonlSource(f"file://{path}").list_splits()

    fs = fsspec.filesystem("memory")
    try:
        prints = []
        for _ in range(2):
            fs.pipe_file("/content-test/a.jsonl", b"1\n2\n")
            url = "memory://content-test/a.jsonl"
            prints.append((JsonlSource(url).list_splits(), JsonlSource(url, by_content=True).list_splits()))
        (auto, by_content), (auto_again, by_content_again) = prints
        assert auto != auto_again
        assert by_content == by_content_again
    finally:
        fs.rm("/content-test", recursive=True)


def test_a_new_text_among_many_changes_one_split(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number:03d}.txt").write_text(f"text {number}")
    before = set(TextSource(str(tmp_path), by_content=True).list_splits())
    (tmp_path / "100a.txt").write_text("new")
    after = set(TextSource(str(tmp_path), by_content=True).list_splits())
    assert len(after - before) <= 2  # its own split, which a border of its own may cut in two


def test_a_file_that_cannot_be_read_is_named_when_the_run_is_planned(tmp_path: Path) -> None:
    missing = Split("a", str(tmp_path / "a.jsonl"), 0, 10)
    with pytest.raises(SourceError, match=r"a\.jsonl cannot be read: FileNotFoundError"):
        identify_lines([missing])


def test_building_a_pipeline_opens_no_input(tmp_path: Path) -> None:
    """A named pipe blocks whoever opens it."""
    os.mkfifo(tmp_path / "in.jsonl")
    pipeline = load_pipeline(
        {
            "name": "lazy",
            "imports": ["tests.registries.words"],
            "source": {"type": "jsonl", "path": str(tmp_path / "in.jsonl"), "by_content": True},
            "operators": [{"type": "Map", "name": "tidy", "func": "tidy"}],
        }
    )
    assert pipeline.source is not None

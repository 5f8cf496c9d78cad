"""JSON Lines: every record once and in order, however the file is cut; every bad line located."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import json
import pickle
import random
import time
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ByteSize

from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.ir import Commit, Split, Undecodable
from funcpipe_prefect.sinks import JsonlSink
from funcpipe_prefect.sources import JsonlSource


@dataclasses.dataclass
class Doc:
    id: int
    text: str = ""


def read(source: JsonlSource, record_type: Any = Any) -> list[tuple[str, int, Any]]:
    return [
        (split.location, position, record)
        for split in source.list_splits()
        for position, record in source.read(split, record_type)
    ]


def records(source: JsonlSource, record_type: Any = Any) -> list[Any]:
    return [record for _, _, record in read(source, record_type)]


LINE = st.one_of(
    st.integers().map(lambda number: json.dumps(number).encode()),
    st.text(max_size=40).map(lambda text: json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")),
    st.text(max_size=3).map(lambda text: json.dumps({"long": text * 300}).encode()),
    st.sampled_from([b"", b"   ", b"{broken", b"\xff\xfe", b"\x00"]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    lines=st.lists(LINE, max_size=25),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    last=st.booleans(),
    bom=st.booleans(),
    splits=st.integers(1, 40),
)
def test_any_cut_of_a_file_gives_every_line_once_and_in_order(
    tmp_path: Path, lines: list[bytes], newline: bytes, last: bool, bom: bool, splits: int
) -> None:
    path = tmp_path / "docs.jsonl"
    data = (b"\xef\xbb\xbf" if bom else b"") + newline.join(lines) + (newline if last else b"")
    path.write_bytes(data)
    whole = read(JsonlSource(str(path), splits=1))
    assert read(JsonlSource(str(path), splits=splits)) == whole
    raw = [(line, record) for line, (_, _, record) in zip(filter(bytes.strip, lines), whole, strict=True)]
    for line, record in raw:
        try:
            assert record == json.loads(line)
        except ValueError:
            assert isinstance(record, Undecodable)
            assert record.raw == line
    source = JsonlSource(str(path), splits=splits)
    for split in source.list_splits():
        for position, _ in source.read(split, Any):
            number = 1 + data[:position].count(b"\n")
            assert source.locate(split, position) == f"{path}:{number} (byte {position})"


def test_lines_longer_than_a_split_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps("x" * size) + "\n" for size in (1, 5000, 2, 7000, 3)))
    for size in (1, 2, 3, 100, 4096):
        source = JsonlSource(str(path), split_size=size)  # type: ignore[arg-type]
        assert [len(record) for record in records(source)] == [1, 5000, 2, 7000, 3]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"{", "DecodeError"), (b'{"id": "x"}', "ValidationError"), (b'{"id": 1, "text": "\xe4"}', "Error"),
        (b"[" * 3000 + b"]" * 3000, "Error"), (b'{"id": 1, "text": "\\ud800"}', "DecodeError"),
        (b"\x00\x00", "DecodeError"), (b"{} {}", "Error"), (b"NaN", "DecodeError"), (b'{"text": "a"}', "ValidationError"),
    ],
)  # fmt: skip
def test_a_bad_line_is_a_dead_letter_with_its_bytes_and_its_place(
    tmp_path: Path, line: bytes, kind: str
) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b'{"id": 1}\r\n\r\n' + line + b'\n{"id": 2}\n')
    source = JsonlSource(str(path))
    (split,) = source.list_splits()
    (_, first), (position, bad), (_, last) = source.read(split, Doc)
    assert (first, last) == (Doc(1), Doc(2))
    assert isinstance(bad, Undecodable)
    assert bad.raw == line
    assert bad.type.endswith(kind)
    assert source.locate(split, position) == f"{path}:3 (byte 13)"


COMPRESSORS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_a_compressed_file_is_read_whole_with_all_its_members(tmp_path: Path, ending: str) -> None:
    lines = [json.dumps({"id": number}).encode() + b"\n" for number in range(5000)]
    path = tmp_path / f"docs.jsonl.{ending}"
    cut = b"".join(lines[:2500])[:-4], b"".join(lines[:2500])[-4:] + b"".join(lines[2500:])
    path.write_bytes(b"".join(map(COMPRESSORS[ending], cut)))
    source = JsonlSource(str(path), splits=8)
    assert len(source.list_splits()) == 1
    assert records(source, Doc) == [Doc(number) for number in range(5000)]
    (split,) = source.list_splits()
    assert source.locate(split, len(b"".join(lines[:4000]))).startswith(f"{path}:4001 ")


@pytest.mark.parametrize("ending", COMPRESSORS)
@pytest.mark.parametrize("keep", [-1, -9, -200, 7])
def test_a_cut_compressed_file_fails_the_run_and_is_named(tmp_path: Path, ending: str, keep: int) -> None:
    """An upload that broke off must not look like a shorter file."""
    data = b"".join(json.dumps({"id": number * 7919 % 10007}).encode() + b"\n" for number in range(3000))
    path = tmp_path / f"docs.jsonl.{ending}"
    path.write_bytes(COMPRESSORS[ending](data)[:keep])
    with pytest.raises(SourceError, match=rf"docs\.jsonl\.{ending} cannot be read"):
        read(JsonlSource(str(path)))


def test_a_file_that_only_claims_to_be_compressed_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_text('{"id": 1}\n')
    with pytest.raises(SourceError, match="Not a gzipped file"):
        read(JsonlSource(str(tmp_path)))


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}\n')
    source = JsonlSource(str(path))
    (split,) = source.list_splits()
    path.unlink()
    with pytest.raises(SourceError, match=r"a\.jsonl cannot be read: FileNotFoundError"):
        list(source.read(split, Any))


def test_a_folder_a_glob_and_a_url_name_the_same_files(tmp_path: Path) -> None:
    for name in (
        "b.jsonl",
        "a.jsonl",
        "sub/c.ndjson",
        "_hidden.jsonl",
        ".x.jsonl",
        "notes.txt",
        "sub/_s/d.jsonl",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(name) + "\n")
    assert records(JsonlSource(str(tmp_path))) == ["a.jsonl", "b.jsonl", "sub/c.ndjson"]
    assert records(JsonlSource(f"file://{tmp_path}")) == ["a.jsonl", "b.jsonl", "sub/c.ndjson"]
    assert records(JsonlSource(f"{tmp_path}/[ab].jsonl")) == ["a.jsonl", "b.jsonl"]
    assert records(JsonlSource(f"{tmp_path}/**/c.ndjson")) == ["sub/c.ndjson"]
    assert records(JsonlSource(f"{tmp_path}/b.jsonl")) == ["b.jsonl"]


def test_a_file_whose_name_looks_like_a_glob_is_found(tmp_path: Path) -> None:
    (tmp_path / "docs[1].jsonl").write_text("1\n")
    assert records(JsonlSource(str(tmp_path / "docs[1].jsonl"))) == [1]


def test_a_memory_url_is_read_like_a_file() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/jsonl-test/a.jsonl", b"1\n2\n3\n")
    try:
        for path in ("memory://jsonl-test", "memory://jsonl-test/*.jsonl", "memory://jsonl-test/a.jsonl"):
            assert records(JsonlSource(path, splits=3)) == [1, 2, 3]
    finally:
        fs.rm("/jsonl-test", recursive=True)


@pytest.mark.parametrize("path", ["nothing/*.jsonl", "nothing.jsonl", "nothing", "nope://x/a.jsonl", "empty"])
def test_an_input_that_is_not_there_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.csv").write_text("a\n1\n")
    whole = path if "://" in path else str(tmp_path / path)
    with pytest.raises(SourceError, match=r"nothing|nope|empty"):
        JsonlSource(whole).list_splits()


def test_an_empty_file_has_no_record(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf")
    (tmp_path / "c.jsonl").write_bytes(b"\n\r\n \n")
    assert records(JsonlSource(str(tmp_path))) == []


def test_a_field_of_each_line_can_hold_the_record(tmp_path: Path) -> None:
    path = tmp_path / "letters.jsonl"
    path.write_text('{"record": {"id": 1}, "n": 1}\n{"n": 2}\n{"record": 5}\n[1]\n')
    first, *rest = records(JsonlSource(str(path), field="record"), Doc)
    assert first == Doc(1)
    assert all(isinstance(record, Undecodable) for record in rest)
    assert rest[0].message == "the line has no field 'record'"


def test_our_own_output_is_read_as_its_manifest_says(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sink = JsonlSink(str(out))
    assert records_of_output(sink, out, [1, 2]) == [1, 2]
    (out / "part-stray.jsonl").write_text("99\n")
    (out / "_staging").mkdir()
    (out / "_staging" / "part-late.jsonl").write_text("98\n")
    assert records(JsonlSource(str(out))) == [1, 2]
    assert 98 not in records(JsonlSource(f"{out}/**/*.jsonl"))


def records_of_output(sink: JsonlSink, out: Path, rows: list[Any]) -> list[Any]:
    part = sink.write(Split("s", "here"), iter(list(enumerate(rows))), Any, lambda *_: None)
    sink.commit([Commit("s", "k", part, "")])
    return records(JsonlSource(str(out)))


def test_an_output_of_ours_without_any_record_is_an_empty_input(tmp_path: Path) -> None:
    assert records_of_output(JsonlSink(str(tmp_path / "out")), tmp_path / "out", []) == []


def test_an_output_of_another_format_is_not_read_as_json_lines(tmp_path: Path) -> None:
    from funcpipe_prefect.sources import ParquetSource

    records_of_output(JsonlSink(str(tmp_path / "out")), tmp_path / "out", [1])
    with pytest.raises(SourceError, match="no file"):
        ParquetSource(str(tmp_path / "out")).list_splits()


@pytest.mark.parametrize("text", ["{}", "[1]", "nonsense", '{"parts": [{}]}', '{"parts": null}'])
def test_a_manifest_that_is_not_ours_or_broken_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "_manifest.json").write_text(text)
    (tmp_path / "a.jsonl").write_text("1\n")
    with pytest.raises(SourceError, match=r"_manifest\.json"):
        JsonlSource(str(tmp_path)).list_splits()


def test_a_changed_file_changes_the_identity_of_its_own_splits_only(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("1\n2\n")
    (tmp_path / "b.jsonl").write_text("3\n")
    source = JsonlSource(str(tmp_path))
    before = source.list_splits()
    (tmp_path / "b.jsonl").write_text("3\n4\n")
    after = source.list_splits()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]


def test_a_source_and_its_splits_cross_processes() -> None:
    source = JsonlSource("docs/*.jsonl", splits=3)
    split = Split("a", "docs/a.jsonl", 0, 10)
    assert pickle.loads(pickle.dumps((source, split))) == (source, split)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_twenty_thousand_bad_lines_in_one_split_are_located_in_no_time(tmp_path: Path, ending: str) -> None:
    data = b"".join(b'{"id": %d, "text": "%s"\n' % (number, b"x" * 400) for number in range(20_000))
    path = tmp_path / f"bad.jsonl{ending}"
    path.write_bytes(gzip.compress(data, 1) if ending else data)
    source = JsonlSource(str(path))
    (split,) = source.list_splits()
    started = time.perf_counter()
    places = [source.locate(split, position) for position, _ in source.read(split, Doc)]
    assert time.perf_counter() - started < 3
    assert [int(place.rsplit(":", 1)[1].split()[0]) for place in places] == list(range(1, 20_001))


def test_a_place_before_the_last_one_is_found_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 299_999 + b"\n" + b"y" * 299_999 + b"\n" + b"z\n")
    source = JsonlSource(str(path))
    (split,) = source.list_splits()
    numbers = [source.locate(split, place).rsplit(":", 1)[1] for place in (600_000, 300_000, 0, 600_000)]
    assert [number.split()[0] for number in numbers] == ["3", "2", "1", "3"]


def numbered(count: int) -> list[bytes]:
    chance = random.Random(4)
    return [b'{"id": %d, "text": "%s"}\n' % (n, b"x" * chance.randrange(200)) for n in range(count)]


def cut_by_content(path: Path) -> JsonlSource:
    return JsonlSource(str(path), split_size=ByteSize(2000), cut="content")


def test_pieces_cut_by_content_hold_every_line_once_and_name_its_place(tmp_path: Path) -> None:
    lines = numbered(900)
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b"".join(lines) + b"broken")
    source = cut_by_content(path)
    splits = source.list_splits()
    found = [record for split in splits for _, record in source.read(split, Any)]
    assert [record["id"] for record in found[:-1]] == list(range(900))
    last = list(source.read(splits[-1], Any))[-1]
    assert source.locate(splits[-1], last[0]) == f"{path}:901 (byte {path.stat().st_size - 6})"
    sizes = [split.size for split in splits]
    assert max(sizes) <= 4 * 2000 + 300
    assert 1000 < sum(sizes) / len(sizes) < 3000
    assert len({split.name for split in splits}) == len(splits)
    assert [split.start for split in splits[1:]] == [split.stop for split in splits[:-1]]


@pytest.mark.parametrize("change", ["insert", "remove", "replace", "append"])
def test_a_change_anywhere_in_a_file_changes_the_pieces_around_it_alone(tmp_path: Path, change: str) -> None:
    lines = numbered(900)
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b"".join(lines))
    before = {(split.name, split.identity) for split in cut_by_content(path).list_splits()}
    at = 900 if change == "append" else 300
    lines[at : at + (change in ("remove", "replace"))] = [] if change == "remove" else [b'{"id": "new"}\n']
    path.write_bytes(b"".join(lines))
    after = {(split.name, split.identity) for split in cut_by_content(path).list_splits()}
    assert len(before) > 40
    assert 1 <= len(after - before) <= 3
    assert len(before - after) <= 3


def test_equal_pieces_of_a_file_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b'{"id": 1}\n' * 5000)
    splits = cut_by_content(path).list_splits()
    assert len(splits) > 5
    assert len({split.name for split in splits}) == len(splits)


def test_a_cut_by_content_takes_no_number_of_splits() -> None:
    with pytest.raises(ValueError, match="cut: content takes split_size"):
        JsonlSource("x.jsonl", splits=3, cut="content")

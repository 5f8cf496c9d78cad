"""Folders of text: every file is a record or a dead letter, and a new file disturbs one split."""

from __future__ import annotations

import codecs
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.ir import Undecodable
from funcpipe_prefect.sources import TextSource

MESSY = Path(__file__).parents[4] / "shared" / "data" / "messy"


@dataclasses.dataclass
class Doc:
    doc_id: str
    title: str
    text: str
    encoding: str


def read(source: TextSource, record_type: Any = Doc) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for split in source.list_splits():
        for position, record in source.read(split, record_type):
            place = source.locate(split, position)
            assert place not in found
            found[place] = record
    return found


BOMS = {
    "utf-8-sig": "utf-8-sig",
    "utf-16-le": "utf-16",
    "utf-16-be": "utf-16",
    "utf-32-le": "utf-32",
    "utf-32-be": "utf-32",
}


@pytest.mark.parametrize("encoding", BOMS)
def test_a_byte_order_mark_decides_the_encoding(tmp_path: Path, encoding: str) -> None:
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE, "utf-32-le": codecs.BOM_UTF32_LE,
            "utf-32-be": codecs.BOM_UTF32_BE}.get(encoding, b"")  # fmt: skip
    (tmp_path / "a.txt").write_bytes(mark + "Grüße, 世界".encode(encoding))
    (record,) = read(TextSource(str(tmp_path), encoding="latin-1")).values()
    assert (record.text, record.encoding) == ("Grüße, 世界", BOMS[encoding])


def test_a_record_takes_the_fields_that_it_declares(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "my.notes.md").write_text("hi\r\n", newline="")
    assert list(read(TextSource(str(tmp_path))).values()) == [
        Doc("sub/my.notes.md", "my.notes", "hi\r\n", "utf-8")
    ]
    assert list(read(TextSource(str(tmp_path)), str).values()) == ["hi\r\n"]


def test_an_empty_file_is_a_record_without_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    assert list(read(TextSource(str(tmp_path)), str).values()) == [""]


def test_bytes_outside_the_encoding_are_a_dead_letter_or_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (bad,) = read(TextSource(str(tmp_path))).values()
    assert isinstance(bad, Undecodable)
    assert (bad.raw, bad.type) == (b"caf\xe9", "UnicodeDecodeError")
    assert list(read(TextSource(str(tmp_path), undecodable="replace"), str).values()) == ["caf\ufffd"]
    assert list(read(TextSource(str(tmp_path), encoding="latin-1"), str).values()) == ["café"]


@pytest.mark.parametrize("encoding", ["no-such", "hex", "rot13"])
def test_an_encoding_that_is_none_is_refused_at_once(encoding: str) -> None:
    with pytest.raises(ValueError, match="encoding"):
        TextSource("docs", encoding=encoding)


def test_links_that_lead_in_circles_or_nowhere_do_not_hang_or_crash(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("a")
    (tmp_path / "sub" / "up").symlink_to("..")
    (tmp_path / "self.txt").symlink_to("self.txt")
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    (tmp_path / "b.txt").symlink_to("sub/a.txt")
    found = read(TextSource(str(tmp_path)), str)
    assert found == {f"{tmp_path}/b.txt": "a", f"{tmp_path}/sub/a.txt": "a"}


def test_a_name_with_odd_characters_is_read(tmp_path: Path) -> None:
    names = ["a b.txt", "ü [1].txt", "x*y?.txt", "#hash%20.txt", "new\nline.txt"]
    for name in names:
        (tmp_path / name).write_text(name)
    assert sorted(read(TextSource(str(tmp_path)), str).values()) == sorted(names)


def test_a_new_file_changes_one_split_and_recomputes_no_other(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:03d}.txt").write_text(str(number))
    source = TextSource(str(tmp_path), files_per_split=8)
    before = {split.identity for split in source.list_splits()}
    assert len(before) > 10
    (tmp_path / "150x.txt").write_text("new")
    after = {split.identity for split in source.list_splits()}
    assert len(before - after) == 1
    assert len(after - before) <= 2


def test_a_folder_that_moved_is_cut_at_the_same_files(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        for number in range(100):
            (tmp_path / place / f"{number}.txt").write_text("x")
    sizes = [
        [len(split.members) for split in TextSource(str(tmp_path / place), files_per_split=8).list_splits()]
        for place in ("one", "two")
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("splits", [1, 2, 7, 100])
def test_any_number_of_splits_reads_every_file_once(tmp_path: Path, splits: int) -> None:
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text(str(number))
    source = TextSource(str(tmp_path), splits=splits)
    assert sorted(read(source, str).values()) == sorted(map(str, range(20)))
    assert len({split.name for split in source.list_splits()}) == len(source.list_splits()) <= splits


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    source = TextSource(str(tmp_path))
    (split,) = source.list_splits()
    (tmp_path / "a.txt").unlink()
    with pytest.raises(SourceError, match=r"a\.txt cannot be read"):
        list(source.read(split, str))


@pytest.mark.skipif(not MESSY.is_dir(), reason="the folder of messy documents is not beside this checkout")
@pytest.mark.parametrize("splits", [None, 1, 7])
@pytest.mark.parametrize("undecodable", ["collect", "replace"])
def test_of_a_messy_folder_no_file_is_lost_and_none_crashes(splits: int | None, undecodable: Any) -> None:
    files = {str(path) for path in MESSY.rglob("*") if path.is_file()}
    found = read(TextSource(f"{MESSY}/**/*", splits=splits, undecodable=undecodable))
    assert set(found) == files
    assert all(isinstance(record, (Doc, Undecodable)) for record in found.values())
    bad = [path for path, record in found.items() if isinstance(record, Undecodable)]
    assert bool(bad) == (undecodable == "collect")
    for path, record in found.items():
        if isinstance(record, Undecodable):
            assert record.raw == Path(path).read_bytes()

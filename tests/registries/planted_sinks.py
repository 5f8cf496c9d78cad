"""Sinks with a planted fault: each overrides one method of a sound one, or is a plain function of one record.

A factory gets a folder and gives the sink. Readers see all that is below the folder, but for
folders whose names begin with `_` or a full stop.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from funcpipe_prefect.ir import Commit, Located, Part, Reject, Split
from funcpipe_prefect.running import temporary_name

Put = Callable[[Any], None]


@dataclass(frozen=True)
class Row:
    key: int
    text: str


def line_of(row: Row) -> bytes:
    return json.dumps(asdict(row)).encode() + b"\n"


def replace_file(path: Path, data: bytes, beside: str = "_staging") -> None:
    """Write a file under another name, out of sight, then rename it."""
    temporary = path.parent / beside / temporary_name()
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(data)
    temporary.replace(path)


class FolderSink:
    """Sound: one part a split, staged out of sight; a commit publishes the parts and a manifest."""

    idempotent = True
    suffix = ".jsonl"
    manifest = "_manifest.json"

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.staging = self.folder / "_staging"

    @property
    def location(self) -> str:
        return str(self.folder)

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        rows = [row for _, row in records]
        if not rows:
            return Part()
        name, data = self.part_name(split, len(rows)), self.encode(rows)
        self.stage(name, data)
        return Part(name, len(rows), len(data), hashlib.sha256(data).hexdigest())

    def part_name(self, split: Split, records: int) -> str:
        return f"part-{re.sub(r'[^A-Za-z0-9.]+', '-', split.name)}{self.suffix}"

    def encode(self, rows: Sequence[Row]) -> bytes:
        return b"".join(map(line_of, rows))

    def stage(self, name: str, data: bytes) -> None:
        self.staging.mkdir(parents=True, exist_ok=True)
        replace_file(self.staging / name, data, beside="")

    def places(self) -> tuple[Path, ...]:
        return (self.staging, self.folder)

    def has(self, part: Part) -> bool:
        files = [place / part.file for place in self.places()]
        return not part.file or any(file.is_file() and file.stat().st_size == part.size for file in files)

    def sweep(self, token: str) -> None:
        for path in self.staging.glob(f"{token}-*.tmp"):
            path.unlink()

    def published(self) -> Mapping[str, Commit]:
        try:
            entries = msgspec.json.decode((self.folder / self.manifest).read_bytes(), type=list[Commit])
        except FileNotFoundError:
            return {}
        return {entry.key: entry for entry in entries if self.has(entry.part)}

    def commit(self, entries: Sequence[Commit]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        named = [entry.part.file for entry in entries if entry.part.file]
        for name in named:
            self.publish(name)
        self.list_parts(sorted(entries, key=lambda entry: entry.split))
        self.remove_all_but(named)
        shutil.rmtree(self.staging, ignore_errors=True)

    def publish(self, name: str) -> None:
        staged, place = self.staging / name, self.folder / name
        if staged.exists():
            staged.replace(place)
        elif not place.exists():
            raise FileNotFoundError(f"{name} is neither staged nor published")

    def list_parts(self, entries: Sequence[Commit]) -> None:
        replace_file(self.folder / self.manifest, msgspec.json.format(msgspec.json.encode(entries)))

    def remove_all_but(self, named: Sequence[str]) -> None:
        for path in self.folder.glob("part-*"):
            if path.name not in named:
                path.unlink()


class NamesPartsByUuid(FolderSink):
    def part_name(self, split: Split, records: int) -> str:
        return f"part-{uuid.uuid4().hex}{self.suffix}"


class NamesPartsByArrival(FolderSink):
    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.arrived = 0

    def part_name(self, split: Split, records: int) -> str:
        self.arrived += 1
        return f"part-{self.arrived:05d}{self.suffix}"


class NamesPartsByStart(FolderSink):
    """A sound name too: the place of the split, which no other split of its source has."""

    def part_name(self, split: Split, records: int) -> str:
        place = hashlib.sha256(f"{split.location}\0{split.name}".encode()).hexdigest()
        return f"part-{split.start:012d}-{place[:12]}{self.suffix}"


class NamesPartsByTheirSize(FolderSink):
    """Two splits with as many records write one file."""

    def part_name(self, split: Split, records: int) -> str:
        return f"part-{records:05d}-records{self.suffix}"


class NamesPartsBySplitAndSize(FolderSink):
    def part_name(self, split: Split, records: int) -> str:
        return super().part_name(split, records).replace("part-", f"part-{records:05d}-records-", 1)


class WritesInPlainSight(FolderSink):
    def stage(self, name: str, data: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.folder / name, data)


class StagesInADottedFolder(FolderSink):
    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.staging = self.folder / ".unpublished"


class DescribesItselfOnWriting(FolderSink):
    """The parts wait for the commit, the schema does not."""

    def stage(self, name: str, data: bytes) -> None:
        super().stage(name, data)
        (self.folder / "schema.json").write_text('{"key": "int", "text": "str"}\n')


class DescribesItselfOnCommit(FolderSink):
    def list_parts(self, entries: Sequence[Commit]) -> None:
        replace_file(self.folder / "schema.json", b'{"key": "int", "text": "str"}\n')
        super().list_parts(entries)


class StampsItsRows(FolderSink):
    def encode(self, rows: Sequence[Row]) -> bytes:
        return b"".join(json.dumps({**asdict(row), "at": time.time_ns()}).encode() + b"\n" for row in rows)


class NumbersItsRows(FolderSink):
    def encode(self, rows: Sequence[Row]) -> bytes:
        lines = [json.dumps({**asdict(row), "line": line}) for line, row in enumerate(rows)]
        return "\n".join([*lines, ""]).encode()


class MarksTheHourOfSuccess(FolderSink):
    def list_parts(self, entries: Sequence[Commit]) -> None:
        super().list_parts(entries)
        replace_file(self.folder / "_SUCCESS", str(time.time_ns()).encode())


class MarksSuccess(FolderSink):
    def list_parts(self, entries: Sequence[Commit]) -> None:
        super().list_parts(entries)
        replace_file(self.folder / "_SUCCESS", b"")


class GzipsWithAName(FolderSink):
    """The header of a gzip file holds the name that it was written under, and the time."""

    suffix = ".jsonl.gz"

    def encode(self, rows: Sequence[Row]) -> bytes:
        packed = io.BytesIO()
        with gzip.GzipFile(temporary_name(), "wb", fileobj=packed) as file:
            file.write(super().encode(rows))
        return packed.getvalue()


class GzipsWithoutAName(FolderSink):
    suffix = ".jsonl.gz"

    def encode(self, rows: Sequence[Row]) -> bytes:
        return gzip.compress(super().encode(rows), mtime=0)


class ReplacesItsManifestOfLines(FolderSink):
    manifest = "_manifest.jsonl"

    def list_parts(self, entries: Sequence[Commit]) -> None:
        replace_file(
            self.folder / self.manifest, b"".join(msgspec.json.encode(one) + b"\n" for one in entries)
        )

    def published(self) -> Mapping[str, Commit]:
        path = self.folder / self.manifest
        lines = path.read_bytes().splitlines() if path.exists() else []
        entries = [msgspec.json.decode(line, type=Commit) for line in lines]
        return {entry.key: entry for entry in entries if self.has(entry.part)}


class AppendsToItsManifest(ReplacesItsManifestOfLines):
    def list_parts(self, entries: Sequence[Commit]) -> None:
        with open(self.folder / self.manifest, "ab") as file:
            file.writelines(msgspec.json.encode(entry) + b"\n" for entry in entries)


class KeepsStaleParts(FolderSink):
    def remove_all_but(self, named: Sequence[str]) -> None:
        pass


class MovesStagedPartsOnly(FolderSink):
    """Once published, a part is staged no more, and a second commit finds nothing to move."""

    def publish(self, name: str) -> None:
        (self.staging / name).replace(self.folder / name)


class CopiesWhatIsNotThere(FolderSink):
    """Keeps what it staged, in a folder out of sight, so that it can publish it any time."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.kept = self.folder / "_kept"

    def publish(self, name: str) -> None:
        self.kept.mkdir(exist_ok=True)
        if (self.staging / name).exists():
            (self.staging / name).replace(self.kept / name)
        replace_file(self.folder / name, (self.kept / name).read_bytes())


class EmptiesTheFolderFirst(FolderSink):
    """A second commit removes what the first one published, and has nothing to put in its place."""

    def commit(self, entries: Sequence[Commit]) -> None:
        self.remove_all_but(())
        super().commit(entries)

    def publish(self, name: str) -> None:
        if (self.staging / name).exists():
            (self.staging / name).replace(self.folder / name)


class MovesEmptyPartsToo(FolderSink):
    """An empty partition has no part, and the folder itself is not to be moved."""

    def commit(self, entries: Sequence[Commit]) -> None:
        for entry in entries:
            if not (self.folder / entry.part.file).is_file():
                (self.staging / entry.part.file).replace(self.folder / entry.part.file)
        super().commit(entries)


class LooksAtTheFirstRow(FolderSink):
    """A partition without a first row raises StopIteration."""

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        first = next(records)
        return super().write(split, iter([first, *records]), record_type, reject)


class LooksAtTheFirstRowIfAny(FolderSink):
    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        first = next(records, None)
        return super().write(split, iter([] if first is None else [first, *records]), record_type, reject)


class StartsStagedPartsAnew(FolderSink):
    mode = "wb"

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        path, count = self.staging / self.part_name(split, 0), 0
        self.staging.mkdir(parents=True, exist_ok=True)
        with open(path, self.mode) as file:
            for _, row in records:
                count += file.write(line_of(row)) > 0
        data = path.read_bytes()
        return Part(path.name, count, len(data), hashlib.sha256(data).hexdigest()) if count else Part()


class ResumesStagedParts(StartsStagedPartsAnew):
    """What an earlier attempt left is written on to, not over."""

    mode = "ab"


class PublishesAllThatIsStaged(FolderSink):
    """What a write that was broken off left in the staging folder is published too."""

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        self.staging.mkdir(parents=True, exist_ok=True)
        partial, rows = self.staging / f"part-{uuid.uuid4().hex}{self.suffix}", []
        with open(partial, "wb") as file:
            for position, row in records:
                file.write(line_of(row))
                rows.append((position, row))
        partial.unlink()
        return super().write(split, iter(rows), record_type, reject)

    def remove_all_but(self, named: Sequence[str]) -> None:
        super().remove_all_but(named)
        for path in self.staging.glob("part-*"):
            self.publish(path.name)


class PublishesAllThatIsNamed(PublishesAllThatIsStaged):
    def remove_all_but(self, named: Sequence[str]) -> None:
        FolderSink.remove_all_but(self, named)


class ForgetsRowsSeenBefore(FolderSink):
    """Drops repeats over all partitions that come its way, and so the whole of one that comes again."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.seen: set[Row] = set()

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        fresh = [(position, row) for position, row in records if row not in self.seen]
        self.seen.update(row for _, row in fresh)
        return super().write(split, iter(fresh), record_type, reject)


class ForgetsRepeatsWithinASplit(FolderSink):
    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        fresh = dict.fromkeys(row for _, row in records)
        return super().write(split, enumerate(fresh), record_type, reject)


class AddsToThePublishedPart(FolderSink):
    """Keeps what readers see already, and so doubles it on a second run."""

    def stage(self, name: str, data: bytes) -> None:
        old = self.folder / name
        super().stage(name, (old.read_bytes() if old.exists() else b"") + data)


class OneFile(FolderSink):
    """Sound: parts are kept out of sight, and a commit makes one file of them, in the order of splits."""

    whole = "all.jsonl"

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.parts = self.folder / "_parts"

    def places(self) -> tuple[Path, ...]:
        return (self.staging, self.parts)

    def commit(self, entries: Sequence[Commit]) -> None:
        self.parts.mkdir(parents=True, exist_ok=True)
        named = [entry.part.file for entry in sorted(entries, key=lambda entry: entry.split)]
        for name in filter(None, named):
            if (self.staging / name).exists():
                (self.staging / name).replace(self.parts / name)
        self.join([self.parts / name for name in named if name])
        self.list_parts(sorted(entries, key=lambda entry: entry.split))

    def join(self, parts: Sequence[Path]) -> None:
        replace_file(self.folder / self.whole, b"".join(path.read_bytes() for path in parts))


class AppendsPartsToOneFile(OneFile):
    def join(self, parts: Sequence[Path]) -> None:
        with open(self.folder / self.whole, "ab") as file:
            for path in parts:
                file.write(path.read_bytes())


class JoinsPartsByArrival(OneFile):
    """Keeps a log of what was staged, and joins by it."""

    def stage(self, name: str, data: bytes) -> None:
        super().stage(name, data)
        with open(self.staging / "arrivals.txt", "a") as log:
            log.write(f"{name}\n")

    def join(self, parts: Sequence[Path]) -> None:
        arrivals = (self.staging / "arrivals.txt").read_text().split() if parts else []
        super().join(sorted(parts, key=lambda path: arrivals.index(path.name)))


class JoinsAllKeptParts(OneFile):
    """Joins what lies there, and so parts of an earlier run with more splits."""

    def join(self, parts: Sequence[Path]) -> None:
        super().join(sorted(self.parts.iterdir()))


class JoinsNamedParts(OneFile):
    def join(self, parts: Sequence[Path]) -> None:
        super().join(sorted(parts))


def row_appender(folder: str) -> Put:
    def append_row(row: Row) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with open(Path(folder) / "rows.jsonl", "ab") as file:
            file.write(line_of(row))

    return append_row


def row_filer(folder: str) -> Put:
    def write_row(row: Row) -> None:
        name = hashlib.sha256(line_of(row)).hexdigest()[:24]
        replace_file(Path(folder) / f"row-{name}.json", line_of(row))

    return write_row


def row_counter(folder: str) -> Put:
    def count_row(row: Row) -> None:
        path = Path(folder) / "count.txt"
        count = int(path.read_text()) if path.exists() else 0
        replace_file(path, str(count + 1).encode())

    return count_row


def row_lister(folder: str) -> Put:
    def list_row(row: Row) -> None:
        path = Path(folder) / "listed.json"
        listed = set(json.loads(path.read_text())) if path.exists() else set()
        listed.add(hashlib.sha256(line_of(row)).hexdigest())
        replace_file(path, json.dumps(sorted(listed)).encode())

    return list_row


def key_overwriter(folder: str) -> Put:
    """Of two rows with one key, the one that comes last stays."""

    def overwrite_key(row: Row) -> None:
        replace_file(Path(folder) / f"key-{row.key}.json", line_of(row))

    return overwrite_key


def key_greatest(folder: str) -> Put:
    """Of two rows with one key, the one with the greatest text stays."""

    def keep_greatest(row: Row) -> None:
        path = Path(folder) / f"key-{row.key}.json"
        texts = [row.text, json.loads(path.read_text())["text"]] if path.exists() else [row.text]
        replace_file(path, line_of(Row(row.key, max(texts))))

    return keep_greatest


def line_adder(folder: str) -> Put:
    """Never doubles a line, but keeps lines in the order in which they came."""

    def add_line(row: Row) -> None:
        path = Path(folder) / "lines.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        replace_file(path, b"".join(dict.fromkeys([*lines, line_of(row)])))

    return add_line


def line_sorter(folder: str) -> Put:
    def insert_line(row: Row) -> None:
        path = Path(folder) / "lines.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        replace_file(path, b"".join(sorted({*lines, line_of(row)})))

    return insert_line

"""Rows that wait for their store: written by workers out of readers' sight, taken over at the commit.

    <folder>/_staging/part-….parquet    rows of one split, written, not yet taken over
    <folder>/_next.json                 what the store is about to take over
    <folder>/_taken.json                what the store has taken over last: the parts, and its state then

A store takes parts over in one transaction of its own, and `taken` is written after it. A commit
that is cut off between the two is done again, so a store must take the same parts twice without harm,
or tell by its own state whether it has done what `next` says.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from funcpipe_prefect.errors import SinkError
from funcpipe_prefect.ir import Commit, Located, Part, Reject, Split
from funcpipe_prefect.later import imported_later
from funcpipe_prefect.running import temporary_name
from funcpipe_prefect.sinks.directory import STAGING, Directory
from funcpipe_prefect.storage import filesystem, open_file

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
else:
    pa = imported_later("pyarrow")
    pc = imported_later("pyarrow.compute")
    pq = imported_later("pyarrow.parquet")

__all__ = ["Staging", "Taken", "is_kept", "is_same", "keyed_row", "refuse_twice", "table_of", "write_rows"]

_ROWS = 2048
_TAKEN, _NEXT = "_taken.json", "_next.json"


class Taken(msgspec.Struct, frozen=True):
    """What a store has taken over last.

    Attributes:
        state: What the store was like afterwards, in its own words, such as mode, key and version.
        parts: The entries of that commit.
    """

    state: str = ""
    parts: list[Commit] = []  # noqa: RUF012  (a Struct copies mutable defaults)


@dataclass(frozen=True)
class Staging:
    """A folder of staged Parquet files, at any fsspec URL.

    Attributes:
        url: The folder; nobody else writes there.
    """

    url: str

    @cached_property
    def _directory(self) -> Directory:
        return Directory(self.url, ".parquet")

    @cached_property
    def _place(self) -> tuple[Any, str]:
        fs, root = filesystem(self.url)
        return fs, root.rstrip("/")

    def stage(
        self,
        split: Split,
        records: Iterator[Located],
        schema: pa.Schema,
        row: Callable[[Any], dict[str, Any]],
        reject: Reject,
    ) -> Part:
        """Stage the rows of one split; the same rows give the same part.

        Args:
            split: The split.
            records: Its records, with positions.
            schema: The columns.
            row: Makes a row of a record, or raises.
            reject: Takes a record that makes no row, or one that does not fit the columns.
        """
        with self._directory.staged(split) as file:
            file.records = write_rows(file.raw, records, schema, row, reject)
        return file.part

    def has(self, part: Part) -> bool:
        """Tell whether a part is staged with its full size."""
        if not part.file:
            return True
        fs, root = self._place
        path = f"{root}/{STAGING}/{part.file}"
        return bool(fs.exists(path)) and fs.size(path) == part.size

    def exists(self, name: str) -> bool:
        """Tell whether a file of this name is staged, whatever its size."""
        fs, root = self._place
        return bool(fs.exists(f"{root}/{STAGING}/{name}"))

    def path_of(self, part: Part) -> str:
        """Give the URL of a staged part.

        Raises:
            SinkError: FP408, it is not staged.
        """
        if not self.has(part):
            raise SinkError(f"{part.file} is not staged below {self.url}: was another run here?")
        fs, root = self._place
        return str(fs.unstrip_protocol(f"{root}/{STAGING}/{part.file}"))

    def batches(self, part: Part) -> Iterator[pa.RecordBatch]:
        """Read the rows of a staged part; none where it is empty.

        Raises:
            SinkError: FP408, it is not staged.
        """
        if part.file:
            with open_file(self.path_of(part)) as file:
                yield from pq.ParquetFile(file).iter_batches()

    def schema(self, part: Part) -> pa.Schema:
        """Give the columns of a staged part.

        Raises:
            SinkError: FP408, it is not staged.
        """
        with open_file(self.path_of(part)) as file:
            return pq.read_schema(file)

    def keep(self, name: str, data: bytes) -> None:
        """Stage a file of any content under a name of its own; one that is staged already stays."""
        fs, root = self._place
        path = f"{root}/{STAGING}/{name}"
        try:
            if not fs.exists(path):
                self._put(path, data)
        except OSError as error:
            raise SinkError(f"cannot write to {self.url}: {error}") from error

    def content(self, part: Part) -> bytes:
        """Read what `keep` has staged.

        Raises:
            SinkError: FP408, it is not staged.
        """
        fs, root = self._place
        if not self.exists(part.file):
            raise SinkError(f"{part.file} is not staged below {self.url}: was another run here?")
        return bytes(fs.cat_file(f"{root}/{STAGING}/{part.file}"))

    def _put(self, path: str, data: bytes) -> None:
        fs, root = self._place
        temporary = f"{root}/{STAGING}/{temporary_name()}"
        fs.makedirs(f"{root}/{STAGING}", exist_ok=True)
        fs.pipe_file(temporary, data)
        fs.mv(temporary, path)

    def taken(self) -> Taken:
        """Read what the store has taken over last; nothing is there before the first commit.

        Raises:
            SinkError: FP408, the note is damaged.
        """
        return self._note(_TAKEN)

    def next(self) -> Taken:
        """Read what the store was about to take over when a commit was cut off.

        Raises:
            SinkError: FP408, the note is damaged.
        """
        return self._note(_NEXT)

    def _note(self, name: str) -> Taken:
        fs, root = self._place
        try:
            return msgspec.json.decode(fs.cat_file(f"{root}/{name}"), type=Taken)
        except FileNotFoundError:
            return Taken()
        except OSError as error:
            raise SinkError(f"{self.url}/{name} cannot be read: {error}") from error
        except ValueError as error:  # msgspec's errors are ValueErrors
            raise SinkError(f"{self.url}/{name} is damaged ({error}); remove it to publish anew") from error

    def published(self, state: str) -> Mapping[str, Commit]:
        """Give the entries taken over last, by stage key, if the store is in that state still."""
        taken = self.taken()
        return {entry.key: entry for entry in taken.parts} if taken.state == state else {}

    def propose(self, entries: Sequence[Commit], state: str) -> None:
        """Note what the store is about to take over."""
        self._write(_NEXT, entries, state)

    def take(self, entries: Sequence[Commit], state: str) -> None:
        """Note that the store has taken these entries over, and remove what is staged."""
        fs, root = self._place
        self._write(_TAKEN, entries, state)
        try:
            fs.rm(f"{root}/{STAGING}", recursive=True)
            if fs.exists(f"{root}/{_NEXT}"):
                fs.rm_file(f"{root}/{_NEXT}")
        except OSError as error:
            raise SinkError(f"cannot write to {self.url}: {error}") from error

    def _write(self, name: str, entries: Sequence[Commit], state: str) -> None:
        data = msgspec.json.format(msgspec.json.encode(Taken(state, list(entries))), indent=1) + b"\n"
        try:
            self._put(f"{self._place[1]}/{name}", data)
        except OSError as error:
            raise SinkError(f"cannot write to {self.url}: {error}") from error

    def sweep(self, token: str) -> None:
        """Remove the temporary files of a run whose processes have ended."""
        with suppress(OSError):
            self._directory.sweep(token)


def is_kept(entry: Commit, published: Mapping[str, Commit]) -> bool:
    """Tell whether just this part is published; a refreshed run may give another one under the same key."""
    known = published.get(entry.key)
    return known is not None and known.part == entry.part


def is_same(entries: Sequence[Commit], published: Mapping[str, Commit]) -> bool:
    """Tell whether just these parts are published, in this order."""
    return list(published) == [one.key for one in entries] and all(is_kept(one, published) for one in entries)


def write_rows(
    file: Any,
    records: Iterator[Located],
    schema: pa.Schema,
    row: Callable[[Any], dict[str, Any]],
    reject: Reject,
    compression: Literal["zstd", "snappy", "gzip", "none"] = "zstd",
) -> int:
    """Write records as a Parquet file; give how many fitted the columns."""
    count = 0
    with pq.ParquetWriter(file, schema, compression=compression) as writer:
        while batch := list(itertools.islice(records, _ROWS)):
            table = table_of(batch, row, schema, reject)
            writer.write_table(table)
            count += table.num_rows
    return count


def refuse_twice(keys: pa.Table, kept: Iterable[pa.RecordBatch], place: str) -> None:
    """Refuse rows of one key.

    Args:
        keys: The key columns of all new rows.
        kept: Those of the rows that stay; streamed.
        place: For the message.

    Raises:
        SinkError: FP408, with the key.
    """
    names = keys.column_names
    counted = keys.append_column("_count", pa.repeat(1, len(keys))).group_by(names)
    twice = counted.aggregate([("_count", "sum")]).filter(pc.field("_count_sum") > 1).select(names)
    for batch in kept:
        if len(twice):
            break
        twice = (
            pa.Table.from_batches([batch])
            .select(names)
            .cast(keys.schema)
            .join(keys, names, join_type="inner")
        )
    if len(twice):
        [row] = twice.slice(0, 1).to_pylist()
        key = ", ".join(f"{name}={value!r}" for name, value in row.items())
        raise SinkError(f"two rows of this run have the key {key} in {place}: put a Distinct before the Sink")


def table_of(
    batch: list[Located], row: Callable[[Any], dict[str, Any]], schema: pa.Schema, reject: Reject
) -> pa.Table:
    """Make a table of the records that fit; when one does not, halve until it stands alone."""
    try:
        return pa.Table.from_pylist([row(record) for _, record in batch], schema=schema)
    except Exception as error:
        if len(batch) == 1:
            reject(*batch[0], error)
            return schema.empty_table()
    half = len(batch) // 2
    return pa.concat_tables(table_of(part, row, schema, reject) for part in (batch[:half], batch[half:]))


def keyed_row(row: Callable[[Any], dict[str, Any]], key: Sequence[str]) -> Callable[[Any], dict[str, Any]]:
    """Let a row whose key is null raise."""

    def checked(record: Any) -> dict[str, Any]:
        found = row(record)
        for name in key:
            if found[name] is None:
                raise ValueError(f"the key field {name!r} is null")
        return found

    return checked if key else row

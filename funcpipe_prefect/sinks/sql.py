"""A table in PostgreSQL or SQLite, through SQLAlchemy.

Beside the table there are some of ours, whose names begin with `_funcpipe_` and end with a hash of its name:

    rows    rows that wait for their commit, each with the part that it is in
    parts   the parts that are staged as a whole
    named   which parts a commit adds and which it keeps, while it runs
    held    which part each row of the table came with, under `replace` and `sync`
    taken   what was published last

Rows of a part are staged in one transaction, and a commit is one over all tables.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from funcpipe_prefect.columns import arrow_schema, row_maker
from funcpipe_prefect.errors import SinkError
from funcpipe_prefect.fingerprint import LAYOUT
from funcpipe_prefect.ir import Commit, Located, Mode, Part, Reject, Split
from funcpipe_prefect.later import imported_later
from funcpipe_prefect.sinks.staging import is_kept, is_same, keyed_row, write_rows

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = imported_later("pyarrow")

__all__ = ["SqlSink"]

_ROWS = 2048
_SPOOLED_BYTES = 8 << 20


def _sql() -> Any:
    """Import what needs SQLAlchemy: only where a table is used, since it takes its time."""
    return importlib.import_module("funcpipe_prefect.sinks.sql_tables")


def _databases() -> Any:
    return importlib.import_module("funcpipe_prefect.databases")


@dataclass(frozen=True)
class SqlSink:
    """A table. It is made, with the columns of the record type, where it is not there.

    Lists, mappings and nested records are kept as JSON. Times are kept in UTC.

    Attributes:
        url: SQLAlchemy's URL of the database, such as `postgresql+psycopg://user@host/name`.
        table: The table's name.
        schema: The schema that it is in.
        mode: What becomes of the rows that are there.
        key: The fields by which rows are told apart: the primary key of a table that is made.
    """

    url: str = dataclasses.field(metadata=LAYOUT, repr=False)
    table: str = dataclasses.field(metadata=LAYOUT)
    schema: str | None = dataclasses.field(default=None, metadata=LAYOUT)
    mode: Mode = dataclasses.field(default="replace", metadata=LAYOUT)
    key: tuple[str, ...] = dataclasses.field(default=(), metadata=LAYOUT)
    modes = ("replace", "upsert", "sync", "append")
    idempotent = True

    def __post_init__(self) -> None:
        _databases().check_url(self.url)
        if not self.table.strip() or "\0" in self.table:
            raise ValueError("a table needs a name")
        if not self.key:
            raise ValueError("a table needs a key: beside params, with the fields that tell rows apart")

    @property
    def location(self) -> str:
        """The database's URL without its password, and the table."""
        name = f"{self.schema}.{self.table}" if self.schema else self.table
        return f"{_databases().without_password(self.url)}#{name}"

    def check_type(self, record_type: Any) -> None:
        """Refuse, before anything runs, a record type that has no columns.

        Raises:
            TypeError: A field has no column type, or the type has no fields.
        """
        _sql().columns_of(arrow_schema(record_type))

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        """Stage the rows of one split; one that has no form in the table is handed to `reject`."""
        schema = arrow_schema(record_type)
        row = _row_maker(record_type, schema, self.key, is_sqlite=_databases().is_sqlite(self.url))
        with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as file:
            count = write_rows(file, records, schema, row, reject)
            sha256, size = _hash(file)
            part = Part(f"{split.name[:80]}-{sha256[:24]}", count, size, sha256) if count else Part()
            with _sql().connected(self, "stage rows for") as own:
                own.make(schema)  # without rows, too: an empty run makes an empty table
                if count and not own.has(part):
                    own.stage(part, schema, file)
        return part

    def has(self, part: Part) -> bool:
        """Tell whether a part is staged or published."""
        if not part.file:
            return True
        with _sql().connected(self, "look into", is_reading=True) as own:
            return own.has(part) or any(entry.part == part for entry in own.published())

    def sweep(self, token: str) -> None:
        """Do nothing: rows are staged in one transaction, which ends with its process."""

    def published(self) -> Mapping[str, Commit]:
        """The entries that readers see, by stage key; none where somebody else has changed the rows since.

        Under `replace` and `sync` that is told by the number of rows.
        """
        with _sql().connected(self, "look into", is_reading=True) as own:
            return {entry.key: entry for entry in own.published()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give the rows that readers see."""
        with _sql().connected(self, "read", is_reading=True) as own:
            yield from own.rows()

    def commit(self, entries: Sequence[Commit]) -> None:
        """Publish these parts in one transaction; nothing is written when that is the published state.

        Raises:
            SinkError: FP408, a part is neither staged nor published, two rows have one key, or the table
                has other columns.
        """
        with _sql().connected(self, "publish") as own:
            own.lock()
            published = {entry.key: entry for entry in own.published()}
            if own.is_taken and is_same(entries, published):
                return
            new = [one.part for one in entries if one.part.file and not is_kept(one, published)]
            for part in new:
                if not own.has(part):
                    raise SinkError(
                        f"{part.file} is neither staged nor published for {self.location}: was another run here?"
                    )
            kept = [one.part for one in entries if one.part.file and is_kept(one, published)]
            own.make(None)
            own.publish(new, kept)
            own.take(entries)


def _row_maker(
    record_type: Any, schema: pa.Schema, key: Sequence[str], *, is_sqlite: bool
) -> Callable[[Any], dict[str, Any]]:
    """Make the function from a record to a row, which raises for one that the database would not keep as it is."""
    row = keyed_row(row_maker(record_type), key)
    nested = [field.name for field in schema if pa.types.is_nested(field.type)]

    def checked(record: Any) -> dict[str, Any]:
        found = row(record)
        for name, value in found.items():
            if isinstance(value, str):
                value.encode()
                if "\0" in value and not is_sqlite:
                    raise ValueError(f"{name!r} holds a NUL character, which PostgreSQL does not keep")
            elif isinstance(value, float) and is_sqlite and value != value:
                raise ValueError(f"{name!r} is NaN, which SQLite would keep as null")
        for name in nested:
            text = json.dumps(_sql().json_form(found[name]), allow_nan=False, ensure_ascii=False)
            text.encode()
            if "\\u0000" in text and not is_sqlite:
                raise ValueError(f"{name!r} holds a NUL character, which PostgreSQL does not keep")
        return found

    return checked


def _hash(file: Any) -> tuple[str, int]:
    file.seek(0)
    digest, size = hashlib.sha256(), 0
    while block := file.read(1 << 20):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size

"""A table or query in PostgreSQL or SQLite, through SQLAlchemy, split by ranges of a key."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import PositiveInt

from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.fingerprint import LAYOUT, key_of
from funcpipe_prefect.ir import Located, Split, Undecodable
from funcpipe_prefect.schema import canonical_encoder, coerce

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["SqlSource"]

_BATCH_ROWS = 1024


@dataclass(frozen=True)
class SqlSource:
    """One record a row, its fields the columns.

    Borders lie behind keys that are chosen by their hash, so they stay where rows come and go. A split is
    known by a hash of its rows, for which a plan reads the table once; with `changed_by` it reads that
    column and the key alone.

    Attributes:
        url: SQLAlchemy's URL of the database.
        table: The table; or give a query.
        query: A SELECT, in place of a table.
        schema: The schema that the table is in.
        split_by: The column that tells rows apart: whole numbers or text, unique, not null.
        rows_per_split: Rows in a split, on the average.
        changed_by: A column whose value changes with every change of the row, such as a version or a time.
    """

    url: str = dataclasses.field(metadata=LAYOUT, repr=False)
    split_by: str
    table: str | None = None
    query: str | None = None
    schema: str | None = None
    rows_per_split: PositiveInt = dataclasses.field(default=10_000, metadata=LAYOUT)
    changed_by: str | None = None

    def __post_init__(self) -> None:
        if (self.table is None) == (self.query is None):
            raise ValueError("give either a table or a query")
        from funcpipe_prefect.databases import check_url

        check_url(self.url)

    def list_splits(self) -> list[Split]:
        """Cut the keys into ranges, and read what tells whether their rows have changed.

        Raises:
            SourceError: FP409, the database or the table cannot be read, or keys are not unique.
        """
        import sqlalchemy as sa

        found: list[tuple[Any, Any, str, int]] = []
        encode, digest, count, lower, before = canonical_encoder(), hashlib.sha256(), 0, None, None
        with self._connected() as connection:
            rows = self._rows(connection)
            columns = [rows.c[self.split_by], rows.c[self.changed_by]] if self.changed_by else [*rows.c]
            statement = sa.select(*columns).order_by(rows.c[self.split_by])
            for row in connection.execution_options(yield_per=_BATCH_ROWS).execute(statement).mappings():
                key = row[self.split_by]
                if not isinstance(key, (int, str)) or isinstance(key, bool):
                    raise SourceError(
                        f"{self.shown}: {self.split_by} is {key!r}, and neither a whole number nor text"
                    )
                if count and key == before:
                    raise SourceError(f"{self.shown}: {self.split_by} is not unique: {key!r} comes twice")
                if count and zlib.crc32(str(before).encode()) * self.rows_per_split < 1 << 32:
                    found.append((lower, key, digest.hexdigest(), count))
                    digest, count, lower = hashlib.sha256(), 0, key
                digest.update(encode(_plain(row)))
                count, before = count + 1, key
        found.append((lower, None, digest.hexdigest(), count))
        return [self._split(*one) for one in found]

    def _split(self, lower: Any, upper: Any, sha256: str, count: int) -> Split:
        place = json.dumps([lower, upper])
        name = f"{self.table or 'query'}-{'first' if lower is None else str(lower)[:40]}"
        return Split(f"{name}-{key_of(place)[:8]}", f"{self.shown}|{place}", 0, count, sha256, moves=True)

    def read(self, split: Split, record_type: Any) -> Iterator[Located]:
        """Stream the rows of a range in the order of their keys; each position is a row's number in it.

        Raises:
            SourceError: FP409, the database or the table cannot be read.
        """
        import sqlalchemy as sa

        lower, upper = json.loads(split.location.removeprefix(f"{self.shown}|"))
        with self._connected() as connection:
            rows = self._rows(connection)
            key = rows.c[self.split_by]
            statement = sa.select(rows).order_by(key)
            if lower is not None:
                statement = statement.where(key >= lower)
            if upper is not None:
                statement = statement.where(key < upper)
            found = connection.execution_options(yield_per=_BATCH_ROWS).execute(statement).mappings()
            for position, row in enumerate(found):
                try:
                    record = coerce(_plain(row), record_type)
                except Exception as error:
                    raw = msgspec.json.encode(_plain(row), enc_hook=repr)
                    record = Undecodable(raw, type(error).__name__, str(error))
                yield position, record

    def locate(self, split: Split, position: int) -> str:
        """Give the range of keys and the row in it."""
        return f"{split.location.replace('|', ' keys ')} (row {position})"

    @property
    def shown(self) -> str:
        """The database's URL without its password, and the table."""
        from funcpipe_prefect.databases import without_password

        return f"{without_password(self.url)}#{self.table or 'query'}"

    def _rows(self, connection: sa.Connection) -> sa.FromClause:
        import sqlalchemy as sa

        if self.query is not None:
            names = list(connection.execute(sa.text(f"SELECT * FROM ({self.query}) AS q LIMIT 0")).keys())
            found: sa.FromClause = (
                sa.text(self.query).columns(*(sa.column(name) for name in names)).subquery()
            )
        else:
            found = sa.Table(self.table or "", sa.MetaData(), schema=self.schema, autoload_with=connection)
        for name in filter(None, (self.split_by, self.changed_by)):
            if name not in found.c:
                raise SourceError(f"{self.shown} has no column {name}; it has {', '.join(found.c.keys())}")
        return found

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        from sqlalchemy.exc import NoSuchTableError, SQLAlchemyError

        from funcpipe_prefect.databases import engine_of, reason_of

        try:
            with engine_of(self.url).connect().execution_options(isolation_level=self._level) as connection:
                yield connection
        except NoSuchTableError:
            raise SourceError(f"{self.shown}: there is no such table") from None
        except (SQLAlchemyError, ModuleNotFoundError) as error:
            raise SourceError(f"{self.shown} cannot be read: {reason_of(error, self.url)}") from None

    @property
    def _level(self) -> str:
        from funcpipe_prefect.databases import is_sqlite

        return "AUTOCOMMIT" if is_sqlite(self.url) else "REPEATABLE READ"


def _plain(row: Any) -> dict[str, Any]:
    return {str(name): value for name, value in row.items()}

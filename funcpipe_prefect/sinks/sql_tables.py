"""The tables of the SQL sink: its own and the one that readers see, on one connection."""

from __future__ import annotations

import contextlib
import decimal
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from funcpipe_prefect.databases import engine_of, reason_of
from funcpipe_prefect.errors import SinkError
from funcpipe_prefect.ir import Commit, Mode, Part
from funcpipe_prefect.later import imported_later

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
else:
    pa = imported_later("pyarrow")
    pq = imported_later("pyarrow.parquet")

__all__ = [
    "Tables",
    "columns_of",
    "connected",
    "json_form",
]

_ROWS = 2048
_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_PART = "_funcpipe_part"


class _Target(Protocol):
    @property
    def url(self) -> str: ...
    @property
    def table(self) -> str: ...
    @property
    def schema(self) -> str | None: ...
    @property
    def mode(self) -> Mode: ...
    @property
    def key(self) -> tuple[str, ...]: ...
    @property
    def location(self) -> str: ...


@contextlib.contextmanager
def connected(sink: _Target, doing: str, *, is_reading: bool = False) -> Iterator[Tables]:
    """Open a connection with a transaction, or one for reading; tell of faults without the password.

    Raises:
        SinkError: FP408.
    """
    try:
        engine = engine_of(sink.url)
        if is_reading:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                yield Tables(sink, connection)
        else:
            with engine.begin() as connection:
                yield Tables(sink, connection)
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        raise SinkError(f"cannot {doing} {sink.location}: {reason_of(error, sink.url)}") from None


class Tables:
    """The table and those of ours beside it, on one connection."""

    def __init__(self, sink: _Target, connection: sa.Connection) -> None:
        self._sink, self._connection = sink, connection
        self.is_sqlite = connection.dialect.name == "sqlite"
        digest = hashlib.sha256(f"{sink.schema or ''}.{sink.table}".encode()).hexdigest()[:16]
        self._name = f"_funcpipe_{{}}_{digest}".format
        self._meta = sa.MetaData(schema=sink.schema)
        self._parts = sa.Table(
            self._name("parts"), self._meta,
            sa.Column("part", sa.Text, primary_key=True), sa.Column("sha256", sa.Text),
        )  # fmt: skip
        self._named = sa.Table(
            self._name("named"), self._meta, sa.Column("part", sa.Text), sa.Column("is_new", sa.Boolean)
        )
        self._taken = sa.Table(
            self._name("taken"), self._meta,
            sa.Column("state", sa.Text), sa.Column("rows", sa.BigInteger), sa.Column("entries", sa.Text),
        )  # fmt: skip

    def lock(self) -> None:
        """Let no other run publish meanwhile; SQLite has one writer at a time anyway."""
        if not self.is_sqlite:
            number = int(hashlib.sha256(self._name("lock").encode()).hexdigest()[:15], 16)
            self._connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))

    def make(self, schema: pa.Schema | None) -> None:
        """Make our tables where they are not there; those with columns of the records if these are known."""
        self.lock()
        self._meta.create_all(self._connection)
        if schema is not None:
            known = self._reflected(self._name("rows"))
            wanted = [sa.Column(_PART, sa.Text, index=True), *columns_of(schema)]
            if known is not None and [one.name for one in known.columns] != [one.name for one in wanted]:
                known.drop(self._connection)  # staged by a pipeline with other records
                self._connection.execute(sa.delete(self._parts))
                known = None
            if known is None:
                sa.Table(self._name("rows"), sa.MetaData(), *wanted, schema=self._sink.schema).create(
                    self._connection
                )

    def _reflected(self, name: str) -> sa.Table | None:
        if not sa.inspect(self._connection).has_table(name, self._sink.schema):
            return None
        return sa.Table(name, sa.MetaData(), schema=self._sink.schema, autoload_with=self._connection)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give the rows that readers see."""
        table = self._reflected(self._sink.table)
        if table is not None:
            for found in self._connection.execute(sa.select(table)).mappings():
                yield dict(found)

    def has(self, part: Part) -> bool:
        """Tell whether a part is staged."""
        if self._reflected(self._parts.name) is None:
            return False
        found = sa.select(self._parts.c.sha256).where(self._parts.c.part == part.file)
        return bool(self._connection.execute(found).scalar() == part.sha256)

    def stage(self, part: Part, schema: pa.Schema, file: IO[bytes]) -> None:
        """Stage the rows of a part."""
        rows = sa.Table(
            self._name("rows"), sa.MetaData(), sa.Column(_PART, sa.Text), *columns_of(schema), schema=self._sink.schema
        )  # fmt: skip
        maps = [field.name for field in schema if pa.types.is_map(field.type)]
        file.seek(0)
        for batch in pq.ParquetFile(file).iter_batches(batch_size=_ROWS):
            values = batch.to_pylist(maps_as_pydicts="strict") if maps else batch.to_pylist()
            self._connection.execute(
                sa.insert(rows), [{_PART: part.file, **self._plain(one)} for one in values]
            )
        self._connection.execute(sa.insert(self._parts).values(part=part.file, sha256=part.sha256))

    def _plain(self, row: dict[str, Any]) -> dict[str, Any]:
        return {name: self._form(value) for name, value in row.items()}

    def _form(self, value: Any) -> Any:
        if isinstance(value, (list, dict)):
            return json_form(value)
        return str(value) if self.is_sqlite and isinstance(value, decimal.Decimal) else value

    @property
    def is_taken(self) -> bool:
        """Something was published, under this mode and key, and is there still."""
        return self._note() is not None

    def published(self) -> list[Commit]:
        """Give the entries that were published last and are there still."""
        found = self._note()
        return [] if found is None else list(msgspec.json.decode(found.entries, type=list[Commit]))

    def _note(self) -> Any:
        if self._reflected(self._taken.name) is None or self._reflected(self._sink.table) is None:
            return None
        found = self._connection.execute(sa.select(self._taken)).first()
        if found is None or found.state != self._state():
            return None
        return found if not self._is_whole or self._count() == found.rows else None

    def _state(self) -> str:
        return json.dumps([self._sink.mode, *self._sink.key])

    @property
    def _is_whole(self) -> bool:
        """What a run writes is all that the table holds."""
        return self._sink.mode in ("replace", "sync")

    def _count(self) -> int:
        if self._reflected(self._sink.table) is None:  # no run has had a row yet
            return 0
        target = sa.table(self._sink.table, schema=self._sink.schema)
        return int(self._connection.execute(sa.select(sa.func.count()).select_from(target)).scalar_one())

    def take(self, entries: Sequence[Commit]) -> None:
        """Note what is published now, and remove what was staged."""
        self._connection.execute(sa.delete(self._taken))
        note = {
            "state": self._state(),
            "rows": self._count(),
            "entries": msgspec.json.encode(list(entries)).decode(),
        }
        self._connection.execute(sa.insert(self._taken).values(**note))
        for table in (self._parts, self._named, self._reflected(self._name("rows"))):
            if table is not None:
                self._connection.execute(sa.delete(table))

    def publish(self, new: Sequence[Part], kept: Sequence[Part]) -> None:
        """Bring the table from what it holds to what the mode says."""
        named = [{"part": one.file, "is_new": is_new} for is_new, parts in ((True, new), (False, kept)) for one in parts]  # fmt: skip
        if named:
            self._connection.execute(sa.insert(self._named), named)
        rows = self._reflected(self._name("rows"))
        target = self._target(rows)
        if target is None:
            return
        held = sa.Table(
            self._name("held"), sa.MetaData(),
            *(sa.Column(name, target.c[name].type, primary_key=True) for name in self._sink.key),
            sa.Column(_PART, sa.Text, index=True), schema=self._sink.schema,
        )  # fmt: skip
        held.create(self._connection, checkfirst=True)
        is_new = sa.false() if rows is None else rows.c[_PART].in_(self._names(is_new=True))
        if rows is not None:
            self._refuse_twice(rows, held, is_new)
        if self._is_whole:
            self._forget(target, held, rows, is_new)
        if rows is not None and new:
            columns = [rows.c[column.name] for column in rows.columns if column.name != _PART]
            self._connection.execute(self._merging(target, sa.select(*columns).where(is_new)))
            if self._is_whole:
                moved = sa.select(*(rows.c[name] for name in self._sink.key), rows.c[_PART]).where(is_new)
                self._connection.execute(sa.insert(held).from_select([*self._sink.key, _PART], moved))

    def _names(self, *, is_new: bool) -> Any:
        return sa.select(self._named.c.part).where(self._named.c.is_new == is_new)

    def _target(self, rows: sa.Table | None) -> sa.Table | None:
        """Give the table; make it like the staged rows where it is not there."""
        found = self._reflected(self._sink.table)
        if rows is None:
            return found
        wanted = [column for column in rows.columns if column.name != _PART]
        if found is None:
            columns = [
                sa.Column(one.name, one.type, primary_key=one.name in self._sink.key, autoincrement=False)
                for one in wanted
            ]
            found = sa.Table(self._sink.table, sa.MetaData(), *columns, schema=self._sink.schema)
            found.create(self._connection)
            return found
        lacking = [one.name for one in wanted if one.name not in found.columns]
        if lacking:
            raise SinkError(f"{self._sink.location} has no column {', '.join(lacking)}; it has {', '.join(found.columns.keys())}")  # fmt: skip
        unique = [{one.name for one in found.primary_key.columns}]
        inspector = sa.inspect(self._connection)
        unique += [
            set(one["column_names"])
            for one in inspector.get_unique_constraints(found.name, self._sink.schema)
        ]
        unique += [set(map(str, one["column_names"])) for one in inspector.get_indexes(found.name, self._sink.schema) if one["unique"]]  # fmt: skip
        if set(self._sink.key) not in unique:
            raise SinkError(f"{self._sink.location} has neither primary key nor unique constraint on {', '.join(self._sink.key)}")  # fmt: skip
        return found

    def _refuse_twice(self, rows: sa.Table, held: sa.Table, is_new: Any) -> None:
        keys = [rows.c[name] for name in self._sink.key]
        twice = sa.select(*keys).where(is_new).group_by(*keys).having(sa.func.count() > 1).limit(1)
        found = self._connection.execute(twice).first()
        if found is None and self._is_whole:
            same = sa.and_(*(rows.c[name] == held.c[name] for name in self._sink.key))
            is_kept = held.c[_PART].in_(self._names(is_new=False))
            found = self._connection.execute(
                sa.select(*keys).join(held, same).where(is_new, is_kept).limit(1)
            ).first()
        if found is not None:
            key = ", ".join(f"{name}={value!r}" for name, value in zip(self._sink.key, found, strict=True))
            raise SinkError(f"two rows of this run have the key {key} in {self._sink.location}: put a Distinct before the Sink")  # fmt: skip

    def _forget(self, target: sa.Table, held: sa.Table, rows: sa.Table | None, is_new: Any) -> None:
        """Delete what neither a kept part holds nor a new one brings."""
        kept = held.c[_PART].in_(self._names(is_new=False))
        self._connection.execute(sa.delete(held).where(~kept))
        is_held = sa.exists().where(*(held.c[name] == target.c[name] for name in self._sink.key))
        gone = ~is_held
        if rows is not None:
            brought = sa.exists().where(*(rows.c[name] == target.c[name] for name in self._sink.key), is_new)
            gone = sa.and_(gone, ~brought)
        self._connection.execute(sa.delete(target).where(gone))

    def _merging(self, target: sa.Table, rows: Any) -> Any:
        """Insert rows; where their key is there already, bring it up to date or leave it."""
        insert = sqlite.insert if self.is_sqlite else postgresql.insert
        names = [column.name for column in rows.selected_columns]
        if self.is_sqlite:
            rows = rows.where(sa.true())  # else SQLite takes ON CONFLICT for a join's condition
        statement = insert(target).from_select(names, rows)
        others = [name for name in names if name not in self._sink.key]
        if self._sink.mode == "append" or not others:
            return statement.on_conflict_do_nothing(index_elements=list(self._sink.key))
        new = statement.excluded
        return statement.on_conflict_do_update(
            index_elements=list(self._sink.key),
            set_={name: new[name] for name in others},
            where=sa.or_(*(target.c[name].is_distinct_from(new[name]) for name in others)),
        )


def columns_of(schema: pa.Schema) -> list[sa.Column[Any]]:
    """Give the columns of a record type.

    Raises:
        TypeError: A field has no column type, or its name is taken.
    """
    if _PART in schema.names:
        raise TypeError(f"the field name {_PART} is taken")
    return [sa.Column(field.name, column_type(field.type)) for field in schema]


def column_type(found: pa.DataType) -> Any:
    """Give the column type of an Arrow type.

    Raises:
        TypeError: There is none.
    """
    types: list[tuple[Callable[[pa.DataType], bool], Any]] = [
        (pa.types.is_boolean, sa.Boolean()),
        (pa.types.is_integer, sa.BigInteger().with_variant(sa.Integer(), "sqlite")),
        (pa.types.is_floating, sa.Double()),
        (pa.types.is_string, sa.Text()),
        (pa.types.is_binary, sa.LargeBinary()),
        (pa.types.is_timestamp, sa.DateTime(timezone=True)),
        (pa.types.is_date, sa.Date()),
        (pa.types.is_time, sa.Time()),
        (pa.types.is_decimal, sa.Numeric(38, 18).with_variant(sa.Text(), "sqlite")),
        (pa.types.is_duration, sa.Interval()),
        (pa.types.is_nested, _JSON),
    ]
    for is_it, column in types:
        if is_it(found):
            return column
    raise TypeError(f"{found} has no column type")


def json_form(value: Any) -> Any:
    """Give a nested value as JSON has it: times, bytes and decimals as text."""
    if isinstance(value, Mapping):
        return {str(name): json_form(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_form(part) for part in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return msgspec.to_builtins(value)

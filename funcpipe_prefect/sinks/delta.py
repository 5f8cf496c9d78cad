"""A Delta Lake table, through delta-rs.

    out/items/_delta_log/                       versions; readers see the last
    out/items/funcpipe_part=…/*.parquet         rows of one part, under `replace` and `sync`
    out/items/_funcpipe/                        what waits for its commit, and what was published last

Under `replace` and `sync` the column `funcpipe_part` tells which part a row came with, and the table is
partitioned by it: a commit drops the files of parts that are gone and adds those of new ones. Under
`upsert` and `append` it is one merge by key. A run is one transaction, with a number of our own and a hash of
what it publishes, so that it is known again after a crash.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from funcpipe_prefect.columns import arrow_schema, row_maker
from funcpipe_prefect.errors import SinkError
from funcpipe_prefect.fingerprint import LAYOUT, key_of
from funcpipe_prefect.ir import Commit, Located, Mode, Part, Reject, Split
from funcpipe_prefect.later import imported_later
from funcpipe_prefect.sinks.staging import Staging, Taken, is_kept, is_same, keyed_row, refuse_twice

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = imported_later("pyarrow")
    pc = imported_later("pyarrow.compute")

__all__ = ["DeltaSink", "delta_library"]

_APPLICATION, _COLUMN = "funcpipe", "funcpipe_part"


def _no_column() -> tuple[Callable[[pa.DataType], bool], ...]:
    return (
        pa.types.is_time,
        pa.types.is_duration,
        pa.types.is_unsigned_integer,
    )


def delta_library() -> Any:
    """Import delta-rs, which is an extra.

    Raises:
        SinkError: FP408, it is not installed.
    """
    try:
        return importlib.import_module("deltalake")
    except ModuleNotFoundError as error:
        raise SinkError(
            f'Delta Lake is not installed ({error}): pip install "funcpipe-prefect[delta]"'
        ) from error


@dataclass(frozen=True)
class DeltaSink:
    """A Delta Lake table.

    Attributes:
        path: The table's folder or URL.
        storage_options: What delta-rs needs to know of a remote storage beside its environment.
        mode: What becomes of the rows that are there.
        key: The fields by which rows are told apart.
    """

    path: str = dataclasses.field(metadata=LAYOUT)
    storage_options: Mapping[str, str] = dataclasses.field(
        default_factory=dict, metadata=LAYOUT, hash=False, repr=False
    )
    mode: Mode = dataclasses.field(default="replace", metadata=LAYOUT)
    key: tuple[str, ...] = dataclasses.field(default=(), metadata=LAYOUT)
    modes = ("replace", "upsert", "sync", "append")
    idempotent = True

    @property
    def location(self) -> str:
        """The table's URL."""
        return self.path

    @property
    def _staging(self) -> Staging:
        return Staging(f"{self.path.rstrip('/')}/_funcpipe")

    def check_type(self, record_type: Any) -> None:
        """Refuse, before anything runs, a record type that has no columns in Delta Lake.

        Raises:
            TypeError: A field has no column type there, or the type has no fields.
        """
        for field in arrow_schema(record_type):
            if any(is_it(field.type) for is_it in _no_column()):
                raise TypeError(f"field {field.name!r} has the type {field.type}, which Delta Lake has not")
            if field.name == _COLUMN:
                raise TypeError(f"the field name {_COLUMN} is taken")

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        """Stage the rows of one split; one that does not fit the columns is handed to `reject`."""
        row = keyed_row(row_maker(record_type), self.key)
        return self._staging.stage(split, records, arrow_schema(record_type), row, reject)

    def has(self, part: Part) -> bool:
        """Tell whether a part is staged or published."""
        return self._staging.has(part) or any(entry.part == part for entry in self.published().values())

    def sweep(self, token: str) -> None:
        """Remove the temporary files of a run."""
        self._staging.sweep(token)

    def version(self) -> str:
        """Give the number of the version that readers see."""
        table = self._table()
        return "" if table is None else str(table.version())

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give the rows that readers see, without the column that is ours."""
        table = self._table()
        if table is not None:
            data = table.to_pyarrow_dataset()
            for batch in data.to_batches(columns=[name for name in data.schema.names if name != _COLUMN]):
                yield from batch.to_pylist(maps_as_pydicts="strict")

    def published(self) -> Mapping[str, Commit]:
        """The entries that readers see, by stage key; none where somebody else has changed the rows since."""
        with self._faults("look into"):
            return {entry.key: entry for entry in self._published(self._table()).parts}

    @property
    def _is_whole(self) -> bool:
        return self.mode in ("replace", "sync")

    def _table(self) -> Any:
        delta, options = delta_library(), dict(self.storage_options) or None
        with self._faults("look into"):
            return (
                delta.DeltaTable(self.path, storage_options=options)
                if delta.DeltaTable.is_deltatable(self.path, options)
                else None
            )

    def _published(self, table: Any) -> Taken:
        """Give the last note that tells the truth about the table."""
        if table is None:
            return Taken()
        for note in (self._staging.next(), self._staging.taken()):
            state = json.loads(note.state) if note.state else {}
            if state.get("mode") != self.mode or state.get("key") != list(self.key):
                continue
            if state.get("version") is None:
                is_true = table.history(1)[0].get(_APPLICATION) == state["run"]
            else:
                is_true = not self._is_whole or state["version"] == table.version()
            if is_true:
                return note
        return Taken()

    def commit(self, entries: Sequence[Commit]) -> None:
        """Publish these parts in one transaction; nothing is written when that is the published state.

        Raises:
            SinkError: FP408, a part is neither staged nor published, two rows have one key, or the table
                has other columns.
        """
        with self._faults("publish"):
            table = self._table()
            note = self._published(table)
            published = {entry.key: entry for entry in note.parts}
            if note.state and is_same(entries, published):
                if note == self._staging.next():  # done, but for the note
                    self._take(entries, json.loads(note.state)["run"])
                return
            new = [one.part for one in entries if one.part.file and not is_kept(one, published)]
            kept = [one.part for one in entries if one.part.file and is_kept(one, published)]
            self._refuse_twice(table, new, kept)
            number = 1 + ((table.transaction_version(_APPLICATION) or 0) if table is not None else 0)
            run = key_of(str(number), self.mode, *self.key, *(one.key for one in entries))
            self._staging.propose(entries, self._state(run, None))
            if self._is_whole:
                gone = [one.part for one in note.parts if one.part.file and one.part not in kept]
                self._exchange(table, new, gone, bool(kept), self._properties(number, run))
            elif new:
                self._merge(table, new, self._properties(number, run))
            self._take(entries, run)

    def _state(self, run: str, version: int | None) -> str:
        return json.dumps({"mode": self.mode, "key": self.key, "run": run, "version": version})

    def _take(self, entries: Sequence[Commit], run: str) -> None:
        table = self._table()
        self._staging.take(entries, self._state(run, -1 if table is None else table.version()))

    def _properties(self, number: int, run: str) -> Any:
        delta = delta_library()
        return delta.CommitProperties(
            custom_metadata={_APPLICATION: run},
            app_transactions=[delta.Transaction(_APPLICATION, number)],
            max_commit_retries=0,
        )

    def _exchange(
        self, table: Any, new: Sequence[Part], gone: Sequence[Part], has_kept: bool, properties: Any
    ) -> None:
        """Drop the rows of parts that are not named any more, or of all, and add those of new ones."""
        labels = ", ".join(f"'{part.file}'" for part in (*gone, *new))
        if not new:
            if table is not None and labels and has_kept:
                table.delete(f"{_COLUMN} IN ({labels})", commit_properties=properties)
            elif table is not None and not has_kept:
                table.delete(commit_properties=properties)
            return
        schema, batches = self._reader(new, is_labelled=True)
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        common: dict[str, Any] = {
            "partition_by": [_COLUMN],
            "storage_options": dict(self.storage_options) or None,
            "commit_properties": properties,
        }
        write = delta_library().write_deltalake
        if not has_kept:
            write(self.path, reader, mode="overwrite", schema_mode="overwrite", **common)
        else:
            write(self.path, reader, mode="overwrite", predicate=f"{_COLUMN} IN ({labels})", **common)

    def _merge(self, table: Any, new: Sequence[Part], properties: Any) -> None:
        """Merge rows by key."""
        is_labelled = table is not None and _COLUMN in [field.name for field in table.schema().fields]
        schema, batches = self._reader(new, is_labelled=is_labelled)
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        if table is None:
            delta_library().write_deltalake(
                self.path,
                reader,
                mode="error",
                storage_options=dict(self.storage_options) or None,
                commit_properties=properties,
            )
            return
        same = " AND ".join(f'old."{name}" = new."{name}"' for name in self.key)
        merge = table.merge(
            reader, same, source_alias="new", target_alias="old", commit_properties=properties
        ).when_not_matched_insert_all()
        if self.mode == "upsert":
            merge = merge.when_matched_update_all()
        merge.execute()

    def _reader(
        self, parts: Sequence[Part], *, is_labelled: bool
    ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        schema = self._staging.schema(parts[0])
        whole = schema.append(pa.field(_COLUMN, pa.string())) if is_labelled else schema

        def batches() -> Iterator[pa.RecordBatch]:
            for part in parts:
                for batch in self._staging.batches(part):
                    columns = [batch.column(name) for name in schema.names]
                    if is_labelled:
                        columns.append(pa.array([part.file] * len(batch), pa.string()))
                    yield pa.RecordBatch.from_arrays(columns, schema=whole)

        return whole, batches()

    def _refuse_twice(self, table: Any, new: Sequence[Part], kept: Sequence[Part]) -> None:
        """Refuse keys that two rows of the run have, in new parts or in a new and a kept one."""
        if not self.key or not new:
            return
        names = list(self.key)
        keys = pa.concat_tables(
            pa.Table.from_batches([batch]).select(names)
            for part in new
            for batch in self._staging.batches(part)
        )
        others: Iterator[pa.RecordBatch] = iter(())
        if self._is_whole and kept and table is not None:
            is_kept = pc.field(_COLUMN).isin([part.file for part in kept])
            others = table.to_pyarrow_dataset().to_batches(columns=names, filter=is_kept)
        refuse_twice(keys, others, self.path)

    @contextlib.contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        """Tell of faults of the library in one line.

        Raises:
            SinkError: FP408.
        """
        try:
            yield
        except SinkError:
            raise
        except Exception as error:
            raise SinkError(
                f"cannot {doing} {self.path}: {type(error).__name__}: {_reason(error)}"
            ) from error


def _reason(error: Exception) -> str:
    """Give in one line what the library tells as a tree, in colours, with a trace of its own behind it."""
    lines = str(error).partition("\nDebug source")[0].splitlines()
    steps = [re.sub(r"\x1b\[[0-9;]*m|↳", "", line).strip() for line in lines]
    return ": ".join(step for step in steps if step)[:500]

"""A Lance dataset, which LanceDB opens as a table: for vectors and what they stand for.

    out/chunks.lance/data/                 fragments; workers write them, unseen until a version names them
    out/chunks.lance/_versions/            versions; readers see the last
    out/chunks.lance/_funcpipe/            what waits for its commit, and what was published last

Each part is one or more fragments. Under `replace` and `sync` a commit is one version that drops the
fragments of parts that are gone and adds those of new ones: the other fragments, and what a vector index
knows of them, stay. Under `upsert` and `append` it is one merge by key.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from funcpipe_prefect.columns import arrow_schema, row_maker
from funcpipe_prefect.errors import SinkError
from funcpipe_prefect.fingerprint import LAYOUT, key_of
from funcpipe_prefect.ir import Commit, Located, Mode, Part, Reject, Split
from funcpipe_prefect.later import imported_later
from funcpipe_prefect.sinks.directory import slug
from funcpipe_prefect.sinks.staging import Staging, Taken, is_kept, is_same, keyed_row, refuse_twice, table_of
from funcpipe_prefect.storage import filesystem

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = imported_later("pyarrow")

__all__ = ["LanceSink", "lance_library"]

_ROWS = 1024


def lance_library() -> Any:
    """Import Lance, which is an extra.

    Raises:
        SinkError: FP408, it is not installed.
    """
    os.environ.setdefault("LANCE_LOG", "error")  # it warns of each dataset that is made
    try:
        return importlib.import_module("lance")
    except ModuleNotFoundError as error:
        raise SinkError(f'Lance is not installed ({error}): pip install "funcpipe-prefect[lance]"') from error


@dataclass(frozen=True)
class LanceSink:
    """A Lance dataset.

    Attributes:
        path: The dataset's folder or URL, such as `out/chunks.lance`.
        vector: The field that holds the vector. All rows have the same number of floats there; they are
            kept as float32.
        metric: Distance of vectors in the index.
        index: Kind of the index that is built over the vectors; none with `null`.
        index_at: Rows from which on an index is worth its building; below, a search looks at every row.
        keep_days: Versions older than these days are removed at a commit.
        mode: What becomes of the rows that are there.
        key: The fields by which rows are told apart.
    """

    path: str = dataclasses.field(metadata=LAYOUT)
    vector: str | None = None
    metric: Literal["cosine", "l2", "dot"] = dataclasses.field(default="cosine", metadata=LAYOUT)
    index: Literal["IVF_FLAT", "IVF_PQ", "IVF_HNSW_SQ"] | None = dataclasses.field(
        default="IVF_FLAT", metadata=LAYOUT
    )
    index_at: PositiveInt = dataclasses.field(default=10_000, metadata=LAYOUT)
    keep_days: PositiveInt = dataclasses.field(default=7, metadata=LAYOUT)
    mode: Mode = dataclasses.field(default="replace", metadata=LAYOUT)
    key: tuple[str, ...] = dataclasses.field(default=(), metadata=LAYOUT)
    modes = ("replace", "upsert", "sync", "append")
    idempotent = True

    @property
    def location(self) -> str:
        """The dataset's URL."""
        return self.path

    @property
    def _staging(self) -> Staging:
        return Staging(f"{self.path.rstrip('/')}/_funcpipe")

    def check_type(self, record_type: Any) -> None:
        """Refuse, before anything runs, a record type that has no columns, or no such vector.

        Raises:
            TypeError: A field has no column type, or the vector is no list of floats.
        """
        schema = arrow_schema(record_type)
        if self.vector is not None:
            if self.vector not in schema.names:
                raise TypeError(f"it has no field {self.vector!r}, which is named as the vector")
            found = schema.field(self.vector).type
            if not (pa.types.is_list(found) and pa.types.is_floating(found.value_type)):
                raise TypeError(f"the vector {self.vector!r} is {found}, and no list of floats")

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        """Write the rows of one split as fragments that no version names yet."""
        batches = _Batches(self, records, record_type, reject)
        if batches.first is None:
            return Part()
        lance, dataset = lance_library(), self._dataset()
        is_like = dataset is None or dataset.schema.equals(batches.schema)
        if not is_like and not self._is_whole:
            raise SinkError(f"{self.path} has other columns: {_told(dataset.schema, batches.schema)}")
        try:
            reader = pa.RecordBatchReader.from_batches(batches.schema, batches.passing())
            fragments = lance.fragment.write_fragments(
                reader, self.path, schema=batches.schema, mode="append" if is_like else "overwrite"
            )
        except (OSError, ValueError) as error:
            raise SinkError(f"cannot write to {self.path}: {error}") from error
        sha256 = batches.digest.hexdigest()
        name = f"part-{slug(split.name)}-{key_of(split.location, split.name)[:8]}-{sha256[:16]}.json"
        files = [fragment.to_json() for fragment in fragments]
        data = json.dumps({"fragments": files, "schema": _text_of(batches.schema)}).encode()
        size = batches.size
        part = Part(name, batches.rows, size, sha256)
        if self._is_staged(part):
            self._remove(files)
        else:
            self._staging.keep(name, data)
        return part

    def _is_staged(self, part: Part) -> bool:
        return self._staging.exists(part.file)

    def has(self, part: Part) -> bool:
        """Tell whether a part is staged or published."""
        if not part.file or self._is_staged(part):
            return True
        return any(entry.part == part for entry in self.published().values())

    def sweep(self, token: str) -> None:
        """Remove the temporary files of a run. Lance removes fragments without a version after a week."""
        self._staging.sweep(token)

    def version(self) -> str:
        """Give the number of the version that readers see."""
        dataset = self._dataset()
        return "" if dataset is None else str(dataset.version)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give the rows that readers see."""
        dataset = self._dataset()
        if dataset is not None:
            for batch in dataset.to_batches():
                yield from batch.to_pylist()

    def published(self) -> Mapping[str, Commit]:
        """The entries that readers see, by stage key; none where somebody else has changed the rows since."""
        return {entry.key: entry for entry in self._published(self._dataset()).parts}

    @property
    def _is_whole(self) -> bool:
        return self.mode in ("replace", "sync")

    def _published(self, dataset: Any) -> Taken:
        """Give the last note that tells the truth about the dataset."""
        if dataset is None:
            return Taken()
        notes = (self._staging.next(), self._staging.taken()) if self._is_whole else (self._staging.taken(),)
        present = {
            tuple(file.path for file in fragment.metadata.files): fragment.metadata.deletion_file is not None
            for fragment in dataset.get_fragments()
        }
        for note in notes:
            state = json.loads(note.state) if note.state else {}
            if state.get("mode") != self.mode or state.get("key") != list(self.key):
                continue
            named = {tuple(paths) for found in state["files"].values() for paths in found}
            if not self._is_whole or (named == set(present) and not any(present.values())):
                return note
        return Taken()

    def _dataset(self) -> Any:
        lance = lance_library()
        try:
            fs, root = filesystem(self.path)
            if not fs.exists(f"{root}/_versions"):
                return None
            return lance.dataset(self.path)
        except (OSError, ValueError) as error:
            raise SinkError(f"{self.path} cannot be read as a Lance dataset: {error}") from error

    def commit(self, entries: Sequence[Commit]) -> None:
        """Publish these parts as one version; nothing is written when that is the published state.

        Raises:
            SinkError: FP408, a part is neither staged nor published, two rows have one key, vectors have
                different lengths, or the dataset has other columns.
        """
        dataset = self._dataset()
        note = self._published(dataset)
        published = {entry.key: entry for entry in note.parts}
        if note.state and is_same(entries, published):
            return
        files: dict[str, list[list[str]]] = {}
        if note.state:
            known = json.loads(note.state)["files"]
            files = {
                one.part.file: known[one.part.file]
                for one in entries
                if is_kept(one, published) and one.part.file in known
            }
        new = [self._staged(one.part) for one in entries if one.part.file and not is_kept(one, published)]
        schema = _one_schema(self.path, [one.schema for one in new])
        self._refuse_twice(dataset, new, files)
        for one in new:
            files[one.name] = [[file["path"] for file in fragment["files"]] for fragment in one.fragments]
        state = json.dumps({"mode": self.mode, "key": self.key, "files": files if self._is_whole else {}})
        self._staging.propose(entries, state)
        try:
            if self._is_whole:
                dataset = self._exchanged(dataset, new, files, schema)
            elif new:
                dataset = self._merged(dataset, new, schema)
            if dataset is not None:
                self._index(dataset)
                dataset.cleanup_old_versions(datetime.timedelta(days=self.keep_days))
        except (OSError, ValueError, RuntimeError) as error:
            raise SinkError(f"cannot publish {self.path}: {error}") from error
        self._staging.take(entries, state)
        if dataset is not None:
            present = {file.path for fragment in dataset.get_fragments() for file in fragment.metadata.files}
            self._remove(
                [
                    fragment
                    for one in new
                    for fragment in one.fragments
                    if not any(file["path"] in present for file in fragment["files"])
                ]
            )

    def _staged(self, part: Part) -> _Staged:
        found = json.loads(self._staging.content(part))
        return _Staged(part.file, found["fragments"], _schema_of(found["schema"]))

    def _exchanged(
        self, dataset: Any, new: Sequence[_Staged], files: Mapping[str, Any], schema: pa.Schema | None
    ) -> Any:
        """Drop the fragments that are not named any more and add the new ones, in one version."""
        lance = lance_library()
        added = [
            lance.fragment.FragmentMetadata.from_json(json.dumps(fragment))
            for one in new
            for fragment in one.fragments
        ]
        if dataset is None:
            if schema is None:
                return None
            return lance.LanceDataset.commit(self.path, lance.LanceOperation.Overwrite(schema, added))
        named = {tuple(paths) for found in files.values() for paths in found}
        present = {
            tuple(file.path for file in fragment.metadata.files): fragment.fragment_id
            for fragment in dataset.get_fragments()
        }
        added = [one for one in added if tuple(file.path for file in one.files) not in present]
        gone = [number for paths, number in present.items() if paths not in named]
        if schema is not None and not dataset.schema.equals(schema):
            if len(gone) < len(present):
                raise SinkError(
                    f"{self.path} has other columns or vectors of another length: {_told(dataset.schema, schema)}"
                )
            operation = lance.LanceOperation.Overwrite(schema, added)
        elif not added and not gone:
            return dataset
        else:
            operation = lance.LanceOperation.Update(removed_fragment_ids=gone, new_fragments=added)
        return lance.LanceDataset.commit(self.path, operation, read_version=dataset.version)

    def _merged(self, dataset: Any, new: Sequence[_Staged], schema: pa.Schema | None) -> Any:
        """Merge rows by key, in one version."""
        assert schema is not None
        lance = lance_library()
        if dataset is None:
            added = [
                lance.fragment.FragmentMetadata.from_json(json.dumps(fragment))
                for one in new
                for fragment in one.fragments
            ]
            return lance.LanceDataset.commit(self.path, lance.LanceOperation.Overwrite(schema, added))
        if not dataset.schema.equals(schema):
            raise SinkError(
                f"{self.path} has other columns or vectors of another length: {_told(dataset.schema, schema)}"
            )
        merge = dataset.merge_insert(list(self.key)).when_not_matched_insert_all()
        if self.mode == "upsert":
            merge = merge.when_matched_update_all()
        reader = pa.RecordBatchReader.from_batches(schema, (b for one in new for b in self._read(one)))
        merge.execute(reader)
        return lance.dataset(self.path)

    def _read(self, staged: _Staged, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        reading = importlib.import_module("lance.file").LanceFileReader
        for fragment in staged.fragments:
            for file in fragment["files"]:
                reader = reading(f"{self.path.rstrip('/')}/data/{file['path']}", columns=columns)
                for batch in reader.read_all(batch_size=_ROWS).to_batches():
                    yield batch.cast(staged.schema) if columns is None else batch

    def _refuse_twice(self, dataset: Any, new: Sequence[_Staged], files: Mapping[str, Any]) -> None:
        """Refuse keys that two rows of the run have, in new parts or in a new and a kept one."""
        if not self.key or not new:
            return
        names = list(self.key)
        keys = pa.Table.from_batches([batch for one in new for batch in self._read(one, names)]).select(names)
        others: Iterator[pa.RecordBatch] = iter(())
        if self._is_whole and dataset is not None and files:
            kept = {path for found in files.values() for paths in found for path in paths}
            fragments = [
                fragment for fragment in dataset.get_fragments()
                if any(file.path in kept for file in fragment.metadata.files)
            ]  # fmt: skip
            others = dataset.scanner(columns=names, fragments=fragments).to_batches()
        refuse_twice(keys, others, self.path)

    def _remove(self, fragments: Sequence[Mapping[str, Any]]) -> None:
        fs, root = filesystem(self.path)
        for fragment in fragments:
            for file in fragment["files"]:
                path = f"{root}/data/{file['path']}"
                if fs.exists(path):
                    fs.rm_file(path)

    def _index(self, dataset: Any) -> None:
        """Build the index over the vectors, or let the one that is there know the new rows."""
        if self.vector is None or self.index is None:
            return
        if any(self.vector in found.field_names for found in dataset.describe_indices()):
            dataset.optimize.optimize_indices()
        elif (rows := dataset.count_rows()) >= self.index_at:
            more = (
                {"num_sub_vectors": _sub_vectors(dataset.schema, self.vector)} if "PQ" in self.index else {}
            )
            dataset.create_index(
                self.vector, self.index, metric=self.metric, num_partitions=max(1, rows // 4096), **more
            )


@dataclass(frozen=True)
class _Staged:
    name: str
    fragments: list[dict[str, Any]]
    schema: pa.Schema


class _Batches:
    """The rows of a split as batches, hashed as they pass; the first batch tells how long vectors are."""

    def __init__(self, sink: LanceSink, records: Iterator[Located], record_type: Any, reject: Reject) -> None:
        self._records, self._reject = records, reject
        self._row = keyed_row(row_maker(record_type), sink.key)
        self.digest, self.rows, self.size = hashlib.sha256(), 0, 0
        self.schema = arrow_schema(record_type)
        self.first: pa.Table | None = None
        while self.first is None and (batch := list(itertools.islice(records, _ROWS))):
            if sink.vector is not None:
                self.schema = _sized(arrow_schema(record_type), sink.vector, batch, self._row)
            table = table_of(batch, self._row, self.schema, reject)
            self.first = table if len(table) else None

    def passing(self) -> Iterator[pa.RecordBatch]:
        table = self.first
        while table is not None:
            for batch in table.combine_chunks().to_batches():
                if len(batch):
                    data = batch.serialize()
                    self.digest.update(data)
                    self.size += data.size
                    self.rows += len(batch)
                    yield batch
            rows = list(itertools.islice(self._records, _ROWS))
            table = table_of(rows, self._row, self.schema, self._reject) if rows else None


def _sized(schema: pa.Schema, vector: str, batch: Sequence[Located], row: Callable[[Any], Any]) -> pa.Schema:
    """Give the schema with vectors of the length that the first row with one has."""
    for _, record in batch:
        try:
            found = row(record)[vector]
        except Exception:
            continue
        if found:
            index = schema.get_field_index(vector)
            return schema.set(index, pa.field(vector, pa.list_(pa.float32(), len(found))))
    return schema


def _sub_vectors(schema: pa.Schema, vector: str) -> int:
    size = schema.field(vector).type.list_size
    return next(count for count in (size // 8, size // 4, size // 2, 1) if count and size % count == 0)


def _text_of(schema: pa.Schema) -> str:
    return schema.serialize().to_pybytes().hex()


def _schema_of(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text)))


def _one_schema(path: str, schemas: Sequence[pa.Schema]) -> pa.Schema | None:
    for other in schemas[1:]:
        if not other.equals(schemas[0]):
            raise SinkError(f"parts for {path} have vectors of different length: {_told(schemas[0], other)}")
    return schemas[0] if schemas else None


def _told(one: pa.Schema, other: pa.Schema) -> str:
    """Say where two schemas differ."""
    names = [*one.names, *(name for name in other.names if name not in one.names)]
    for name in names:
        types = [
            str(schema.field(name).type) if name in schema.names else "nothing" for schema in (one, other)
        ]
        if types[0] != types[1]:
            return f"{name} is {types[0]} and {types[1]}"
    return "the order of the columns"

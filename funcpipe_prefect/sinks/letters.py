"""Dead letters: failed records with error and position, as JSON Lines that can be read back."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import IO, Any, cast

import msgspec

from funcpipe_prefect.errors import SinkError
from funcpipe_prefect.ir import Commit, Part, Split, Undecodable
from funcpipe_prefect.result import ErrorInfo
from funcpipe_prefect.schema import encode_foreign, is_model, json_codec
from funcpipe_prefect.sinks.directory import Directory

__all__ = ["DeadLetters", "causes_of", "id_of", "letter_line", "timestamp"]

_NUMBERS = re.compile(r"\d+")
_MOST_CAUSES = 10_000


def letter_line(info: ErrorInfo, record: Any) -> bytes:
    """Write one dead letter as a line of JSON.

    The line has the fields of `ErrorInfo` and the whole record as `record`: a line that did not
    decode as text, or under `base64` when it is not UTF-8.
    """
    codec = json_codec()
    if isinstance(record, Undecodable):
        try:
            kept: Any = record.raw.decode()
        except UnicodeDecodeError:
            kept = {"base64": base64.b64encode(record.raw).decode()}
    elif is_model(model := cast(Any, type(record))):
        kept = msgspec.Raw(json_codec(model).encode(record))
    else:
        kept = record
    try:
        return codec.encode({**asdict(info), "record": kept}) + b"\n"
    except Exception:
        return json.dumps({**asdict(info), "record": _plain(kept)}, default=repr).encode() + b"\n"


def _plain(record: Any) -> Any:
    try:
        return msgspec.to_builtins(record, str_keys=True, enc_hook=encode_foreign)
    except Exception:
        return repr(record)


def id_of(letter: Mapping[str, Any]) -> str:
    """Give what a dead letter is called: the same for the same record and operator, wherever the record is."""
    text = json.dumps([letter.get("operator"), letter.get("record")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def causes_of(letters: Iterable[Mapping[str, Any]], most: int = 100) -> tuple[list[dict[str, Any]], int]:
    """Count dead letters by operator, error and message; give the most frequent causes, and how many there are."""
    causes: dict[tuple[str, str, str], dict[str, Any]] = {}
    count = 0
    for letter in letters:
        count += 1
        key = (
            str(letter.get("operator")),
            str(letter.get("type")),
            _NUMBERS.sub("#", str(letter.get("message")))[:120],
        )
        if key in causes:
            causes[key]["count"] += 1
        elif len(causes) < _MOST_CAUSES:
            where = str(letter.get("location"))
            causes[key] = {"operator": key[0], "type": key[1], "message": key[2], "count": 1, "location": where, "id": id_of(letter)}  # fmt: skip
    return sorted(causes.values(), key=lambda one: (-one["count"], one["operator"], one["message"]))[
        :most
    ], count


@dataclass(frozen=True)
class DeadLetters:
    """The folder of dead letters, published by the same write-then-commit protocol as an output.

    What is not a dead letter any more, since the record came through or left the input, is kept for a
    while in the folder `_solved` below it.

    Attributes:
        path: Folder or fsspec URL. It is not made before there is a dead letter.
        keep_s: Seconds for which solved ones are kept.
    """

    path: str
    keep_s: float = 30 * 86_400.0

    @cached_property
    def directory(self) -> Directory:
        """The folder."""
        return Directory(self.path, ".jsonl")

    @cached_property
    def _history(self) -> Directory:
        return Directory(f"{self.path.rstrip('/')}/_solved", ".jsonl")

    def stage(self, split: Split, lines: IO[bytes], count: int) -> Part:
        """Stage the dead letters of one stage and split, given as a file at its start."""
        if count == 0:
            return Part()
        with self.directory.staged(split) as file:
            shutil.copyfileobj(lines, file.raw)
            file.records = count
        return file.part

    def holds(self, entry: Commit, present: frozenset[str]) -> bool:
        """Tell whether the dead letters of an entry are among the published files."""
        return all(part.file in present for part in entry.dead_letters if part.file)

    def present(self) -> frozenset[str]:
        """The names of the published files that are whole."""
        return frozenset(entry.part.file for entry in self.directory.published().values())

    def read(self) -> Iterator[dict[str, Any]]:
        """Give the published dead letters, one after the other.

        Raises:
            SinkError: FP408, a file is missing or damaged.
        """
        yield from self._decoded(self.directory.lines())

    def solved(self) -> Iterator[dict[str, Any]]:
        """Give the solved ones, oldest first, with the time as `solved`, in ISO 8601.

        Raises:
            SinkError: FP408, a file is missing or damaged.
        """
        yield from self._decoded(self._history.lines())

    def _decoded(self, lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError as error:
                raise SinkError(f"{self.path} holds a line that is no dead letter: {error}") from error

    def commit(self, entries: Sequence[Commit], run: str = "", now: float | None = None) -> None:
        """Publish the dead letters that the entries name; leave an absent folder absent if none.

        Args:
            entries: Of all ends of a run.
            run: The run's token.
            now: The present, in seconds since 1970.
        """
        found: dict[str, Commit] = {}
        for entry in entries:
            for index, part in enumerate(entry.dead_letters):
                if part.file:  # of what several ends depend on, each of their entries tells
                    found.setdefault(part.file, Commit(entry.split, f"{entry.key}-{index}", part, ""))
        letters = list(found.values())
        before = self.directory.manifest().parts
        if letters or before:
            self._keep_solved(before, letters, run, time.time() if now is None else now)
            self.directory.commit(letters)

    def _keep_solved(self, before: Sequence[Commit], letters: Sequence[Commit], run: str, now: float) -> None:
        """Move what is in none of the new letters to the history, and let what is old enough leave it."""
        history = self._history.manifest().parts
        kept = [entry for entry in history if _time_of(entry) + self.keep_s > now]
        old, named = ({entry.part.file for entry in entries} for entries in (before, letters))
        gone = [entry for entry in before if entry.part.file not in named]
        if gone:
            new = [entry for entry in letters if entry.part.file not in old]
            left = {id_of(one) for one in self._decoded(self.directory.lines(new))}
            at = timestamp(now)
            solved = (one for one in self._decoded(self.directory.lines(gone)) if id_of(one) not in left)
            with self._history.staged(Split(at, self.path)) as file:
                for one in solved:
                    file.raw.write(msgspec.json.encode({"solved": at, **one}) + b"\n")
                    file.records += 1
            if file.part.file:
                kept = [entry for entry in kept if entry.key != f"{now}.{run}"]
                kept.append(Commit(at, f"{now}.{run}", file.part, ""))
        if kept != history:
            self._history.commit(kept)
        self._history.tidy()


def timestamp(seconds: float) -> str:
    """Write a time, given in seconds since 1970, in ISO 8601, in UTC to the millisecond."""
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat(timespec="milliseconds")


def _time_of(entry: Commit) -> float:
    return float(entry.key.rpartition(".")[0])

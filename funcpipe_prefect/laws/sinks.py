"""Idempotence of sinks: whatever is done twice, or is cut off and begun again, readers see the same."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from funcpipe_prefect.columns import row_maker
from funcpipe_prefect.fingerprint import key_of
from funcpipe_prefect.ir import Commit, Located, RecordSink, Split
from funcpipe_prefect.laws.paste import Pasted, paste, pasted_test
from funcpipe_prefect.laws.search import Effort, Values, listed, search, settled, telling
from funcpipe_prefect.laws.subjects import function_of
from funcpipe_prefect.laws.verdicts import Law, Verdict
from funcpipe_prefect.monoid import Digest, digest_of, digest_text, fold
from funcpipe_prefect.schema import canonical_encoder
from funcpipe_prefect.sinks import FunctionSink

__all__ = ["SinkSubject", "files_below", "sink_laws"]

Make: TypeAlias = Callable[[str], Any]
_LARGEST = 6
_MEND = {
    "invisible before commit": "write to a place that readers do not look at; let commit move it there",
    "written twice": "name a part by its split and its content, and replace it: never append, count or draw a name",
    "crash before commit": "begin a partition anew under a temporary name, and rename it when it is whole",
    "commit twice": "let commit replace the whole list of parts, and accept parts that are published already",
    "run again": "let a write leave alone what is published: the same records give the same part",
    "order of partitions": "let nothing depend on which partition is written first",
    "empty partition": "write nothing for no record, and let commit take a part without a file",
    "fewer splits": "let commit remove the parts that it does not name",
}


@dataclass(frozen=True)
class SinkSubject:
    """A sink under test.

    Attributes:
        name: How verdicts call it.
        make: Makes the sink, or a plain function of one record, that writes below a folder.
        values: The records.
        record_type: Their type.
        visible: Gives what readers see, from the folder; by default its files.
        pasted: `make` as Python source.
        effort: How hard to look.
    """

    name: str
    make: Make
    values: Values
    record_type: Any = Any
    visible: Callable[[str], Any] | None = None
    pasted: Pasted | None = None
    effort: Effort = Effort()


_encode_row = canonical_encoder()


class _Crash(Exception):
    pass


class _Trial:
    """One sink in a folder of its own, through the life of a run or two."""

    def __init__(self, subject: SinkSubject, folder: Path) -> None:
        self._subject, self.folder = subject, folder
        folder.mkdir()
        self.begin()

    def begin(self) -> None:
        """Make the sink anew, as another process does."""
        sink = self._subject.make(str(self.folder))
        if isinstance(sink, RecordSink):
            self.sink: Any = sink
        else:
            self.sink = FunctionSink(function_of(sink))

    def write(self, name: str, records: Sequence[Any], *, cut_off: bool = False) -> Commit:
        """Write a partition, or only its first half."""
        split = Split(name, "records", 0, len(records), key_of(name))
        encode = canonical_encoder(self._subject.record_type)
        kept = dict(enumerate(records))

        def flowing() -> Iterator[Located]:
            for position, record in enumerate(records):
                if cut_off and position >= len(records) // 2:
                    raise _Crash
                yield position, record
            if cut_off:
                raise _Crash

        part = self.sink.write(
            split, flowing(), self._subject.record_type, lambda position, *_: kept.pop(position)
        )
        digest = digest_text(fold(Digest(), (digest_of(encode(record)) for record in kept.values())))
        return Commit(name, key_of(name, digest), part, digest)

    def unique(self, records: Sequence[Any]) -> Sequence[Any]:
        """Give the first record of each key, where the sink tells rows apart by one."""
        key: tuple[str, ...] = getattr(self.sink, "key", ())
        if not key:
            return records
        first: dict[bytes, Any] = {}
        for record in records:
            row = row_maker(self._subject.record_type)(record)
            first.setdefault(_encode_row([row[name] for name in key]), record)
        return list(first.values())

    def crash(self, name: str, records: Sequence[Any]) -> None:
        """Write half a partition; the process dies of it."""
        try:
            self.write(name, records, cut_off=True)
        except _Crash:
            pass
        self.begin()

    def content(self, *, notes: bool = True) -> Any:
        """Give what readers see; `notes` are files such as a manifest, whose names begin with `_`."""
        if self._subject.visible is not None:
            return self._subject.visible(str(self.folder))
        if hasattr(self.sink, "rows"):
            return sorted(map(_encode_row, self.sink.rows()))
        return files_below(self.folder, notes=notes)


def files_below(folder: Path, *, notes: bool = True) -> Mapping[str, bytes]:
    """Read the files below a folder, without folders whose names begin with `_` or a dot.

    Args:
        folder: The folder.
        notes: Read files whose own names begin so, too.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        steps = path.relative_to(folder).parts
        is_hidden = any(step[0] in "._" for step in (steps[:-1] if notes else steps))
        if path.is_file() and not is_hidden:
            found["/".join(steps)] = path.read_bytes()
    return found


Scenario: TypeAlias = Callable[[_Trial, Sequence[Any], Sequence[Any]], None]


def _plain(trial: _Trial, first: Sequence[Any], second: Sequence[Any]) -> None:
    trial.sink.commit([trial.write("split-0", first), trial.write("split-1", second)])


def _written_twice(trial: _Trial, first: Sequence[Any], second: Sequence[Any]) -> None:
    trial.write("split-0", first)
    trial.begin()
    trial.sink.commit([trial.write("split-0", first), trial.write("split-1", second)])


def _crash_before_commit(trial: _Trial, first: Sequence[Any], second: Sequence[Any]) -> None:
    trial.write("split-0", first)
    trial.crash("split-1", second)
    _plain(trial, first, second)


def _commit_twice(trial: _Trial, first: Sequence[Any], second: Sequence[Any]) -> None:
    entries = [trial.write("split-0", first), trial.write("split-1", second)]
    trial.sink.commit(entries)
    trial.begin()
    trial.sink.commit(entries)


def _run_again(trial: _Trial, first: Sequence[Any], second: Sequence[Any]) -> None:
    _plain(trial, first, second)
    trial.begin()
    _plain(trial, first, second)


def _other_order(trial: _Trial, first: Sequence[Any], second: Sequence[Any]) -> None:
    later = trial.write("split-1", second)
    trial.sink.commit([trial.write("split-0", first), later])


def _with_empty(trial: _Trial, first: Sequence[Any], second: Sequence[Any]) -> None:
    entries = [trial.write("split-0", first), trial.write("split-1", second)]
    trial.sink.commit([*entries, trial.write("split-2", [])])


def _after_more_splits(trial: _Trial, first: Sequence[Any], second: Sequence[Any]) -> None:
    half = len(first) // 2
    parts = [first[:half], first[half:], second]
    trial.sink.commit([trial.write(f"other-{index}", part) for index, part in enumerate(parts)])
    trial.begin()
    _plain(trial, first, second)


_SCENARIOS: Mapping[str, Scenario] = {
    "written twice": _written_twice,
    "crash before commit": _crash_before_commit,
    "commit twice": _commit_twice,
    "run again": _run_again,
    "order of partitions": _other_order,
    "empty partition": _with_empty,
    "fewer splits": _after_more_splits,
}
_OF_COMMITS = ("invisible before commit", "commit twice")
"""Laws that say nothing about a plain function, which has no commit."""


def sink_laws(subject: SinkSubject) -> Iterator[Law]:
    """State the laws of an idempotent sink.

    Raises:
        TypeError: What `make` gives is no sink.
    """
    quarter = replace(subject.effort, examples=subject.effort.examples // 4 + 1)
    subject = replace(subject, effort=quarter)
    laws: dict[str, Callable[[Sequence[Any]], str]] = {
        "invisible before commit": functools.partial(_invisible, subject),
        **{name: functools.partial(_same_content, subject, name, one) for name, one in _SCENARIOS.items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        made = subject.make(folder)
    is_function = isinstance(made, FunctionSink) or not isinstance(made, RecordSink)
    if is_function and not callable(made) and not isinstance(made, FunctionSink):
        raise TypeError(f"make gives a {type(made).__name__}: neither a sink nor a function of one record")
    for name, holds in laws.items():
        if not (is_function and name in _OF_COMMITS):
            yield Law(name, subject.name, functools.partial(_verdict, subject, name, holds))


def _invisible(subject: SinkSubject, records: Sequence[Any]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        trial = _Trial(subject, Path(folder, "sink"))
        before = trial.content()
        trial.write("split-0", trial.unique(records))
        after = trial.content()
    return "" if before == after else f"before the commit readers see {_difference(before, after)}"


def _same_content(subject: SinkSubject, law: str, scenario: Scenario, records: Sequence[Any]) -> str:
    notes = law != "empty partition"  # a manifest may well name it
    with tempfile.TemporaryDirectory() as folder:
        usual = _Trial(subject, Path(folder, "usual"))
        records = usual.unique(records)
        half = (len(records) + 1) // 2
        first, second = records[:half], records[half:]
        _plain(usual, first, second)
        other = _Trial(subject, Path(folder, "other"))
        scenario(other, first, second)
        expected, content = usual.content(notes=notes), other.content(notes=notes)
    return "" if expected == content else _difference(expected, content)


def _difference(expected: Any, content: Any) -> str:
    if not (isinstance(expected, Mapping) and isinstance(content, Mapping)):
        return f"{content!r} in place of {expected!r}"
    told = [f"{name} is new" for name in content if name not in expected]
    told += [f"{name} is missing" for name in expected if name not in content]
    told += [
        f"{name} holds {content[name][:80]!r} in place of {expected[name][:80]!r}"
        for name in content
        if name in expected and content[name] != expected[name]
    ]
    return "; ".join(told[:3])


def _verdict(subject: SinkSubject, law: str, check: Callable[[Sequence[Any]], str]) -> Verdict:
    found = search(listed(subject.values, _LARGEST), telling(check), subject.effort)
    verdict = settled(law, subject.name, found)
    if verdict is not None:
        return verdict
    records = paste(found.example)
    test = pasted_test(
        f"{subject.name} {law}", {"make": subject.pasted or paste(subject.make), "records": records},
        ["check_sink_idempotent(make, records)"], ["from funcpipe_prefect.laws import check_sink_idempotent"],
    )  # fmt: skip
    return Verdict(
        law, subject.name, "broken", found.tried, records.expression, found.reason, _MEND[law], test
    )

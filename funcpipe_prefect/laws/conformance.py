"""What a sink that keeps rows must do in each of its modes, whatever store is behind it.

A model of the content, a mapping from key to row, is carried beside the sink through two or three
runs; after each commit the rows that readers see must be those of the model.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from funcpipe_prefect.columns import row_maker
from funcpipe_prefect.fingerprint import key_of
from funcpipe_prefect.ir import Commit, Located, Mode, Split
from funcpipe_prefect.laws.paste import paste
from funcpipe_prefect.laws.search import Effort, Values, search, settled, telling
from funcpipe_prefect.laws.verdicts import Law, Verdict
from funcpipe_prefect.monoid import Digest, digest_of, digest_text, fold
from funcpipe_prefect.schema import canonical_encoder, fields_of

__all__ = ["StoreSubject", "conformance_laws"]

_LARGEST = 5
_MEND = {
    "content": "replace gives the new rows alone; upsert keeps rows of other keys; sync gives the new rows alone; "
    "append adds only rows of new keys",
    "invisible before commit": "write to a place that readers do not look at",
    "old parts are kept": "what published() names must survive a commit that names it again, without a new write",
    "computed again": "take a part as published only where key and part are those that are published",
    "cut off commit": "let one transaction publish, and let a second commit of the same entries change nothing",
    "written twice": "name a staged part by its split and its content, and replace it",
    "cut off write": "begin a partition anew under a temporary name",
    "a key twice": "refuse two rows of one key in one run: which of them stays would depend on partitions",
}


@dataclass(frozen=True)
class StoreSubject:
    """A sink class under test.

    Attributes:
        name: How verdicts call it.
        make: Makes the sink from a folder, a mode and the key.
        key: The key's fields.
        values: Records.
        record_type: Their type.
        modes: The modes to check.
        effort: How hard to look.
    """

    name: str
    make: Callable[[str, Mode, tuple[str, ...]], Any]
    key: tuple[str, ...]
    values: Values
    record_type: Any
    modes: tuple[Mode, ...]
    effort: Effort = Effort()


Runs = Sequence[Sequence[Any]]
"""The records of each run."""


class _Cut(Exception):
    pass


class _Store:
    """One sink in a folder of its own, with the model of what it must hold."""

    def __init__(self, subject: StoreSubject, folder: str, mode: Mode) -> None:
        self._subject, self._folder, self.mode = subject, folder, mode
        self._encode = canonical_encoder(subject.record_type)
        self.model: dict[bytes, bytes] = {}
        self.begin()

    def begin(self) -> None:
        """Make the sink anew, as another process does."""
        self.sink = self._subject.make(self._folder, self.mode, self._subject.key)

    def rows(self) -> list[bytes]:
        """Give the rows that readers see, in an order of their own."""
        encode = canonical_encoder()
        names = list(fields_of(self._subject.record_type))
        return sorted(encode({name: row.get(name) for name in names}) for row in self.sink.rows())

    def entry(self, name: str, records: Sequence[Any], *, cut_off: bool = False) -> Commit:
        """Write a partition."""
        digest = self.digest(records)

        def flowing() -> Iterator[Located]:
            yield from enumerate(records)
            if cut_off:
                raise _Cut

        def reject(position: int, record: Any, error: Exception) -> None:
            raise error

        split = Split(name, "records", 0, len(records), digest)
        part = self.sink.write(split, flowing(), self._subject.record_type, reject)
        return Commit(name, key_of(name, digest), part, digest)

    def digest(self, records: Sequence[Any]) -> str:
        """Hash the records of a partition."""
        return digest_text(fold(Digest(), (digest_of(self._encode(record)) for record in records)))

    def entries(self, records: Sequence[Any], *, anew: bool = True) -> list[Commit]:
        """Write a run's two partitions; unless `anew`, only what is not published yet."""
        half = (len(records) + 1) // 2
        published = {} if anew else self.sink.published()
        found = []
        for name, part in (("split-0", records[:half]), ("split-1", records[half:])):
            key = key_of(name, self.digest(part))
            found.append(published[key] if key in published else self.entry(name, part))
        return found

    def expect(self, records: Sequence[Any]) -> list[bytes]:
        """Carry the model on by one run; give its rows."""
        encode, as_row = canonical_encoder(), row_maker(self._subject.record_type)
        new = {}
        for record in records:
            row = as_row(record)
            new[encode([row[name] for name in self._subject.key])] = encode(row)
        if self.mode in ("replace", "sync"):
            self.model = new
        elif self.mode == "upsert":
            self.model |= new
        else:
            self.model = new | self.model
        return sorted(self.model.values())


Check = Callable[[_Store, Runs], str]


def _told(store: _Store, expected: list[bytes], when: str) -> str:
    found = store.rows()
    return (
        ""
        if found == expected
        else f"{when} readers see {len(found)} rows that are not the {len(expected)} expected"
    )


def _content(store: _Store, runs: Runs) -> str:
    for number, records in enumerate(runs):
        store.sink.commit(store.entries(records))
        store.begin()
        wrong = _told(store, store.expect(records), f"after run {number + 1}")
        if wrong:
            return wrong
    return ""


def _kept(store: _Store, runs: Runs) -> str:
    for number, records in enumerate(runs):
        common = list(runs[0][: (len(runs[0]) + 1) // 2])  # the first partition is the same in each run
        keys = {_key(store, one) for one in common}
        rest = [one for one in records if _key(store, one) not in keys][: len(common)]
        together = [*common, *rest]
        store.begin()
        store.sink.commit(store.entries(together, anew=False))
        wrong = _told(
            store, store.expect(together), f"after run {number + 1}, of which a part was published before,"
        )
        if wrong:
            return wrong
        names = [entry.key for entry in store.entries(together, anew=False)]
        if set(store.sink.published()) != set(names):
            return "published() does not name what was committed"
    return ""


def _key(store: _Store, record: Any) -> bytes:
    row = row_maker(store._subject.record_type)(record)
    return canonical_encoder()([row[name] for name in store._subject.key])


def _computed_again(store: _Store, runs: Runs) -> str:
    """A refreshed run may give another part under the key of the one before."""
    for number, records in enumerate(runs):
        entry = store.entry("split-0", records)
        store.begin()
        store.sink.commit([Commit(entry.split, "the same key", entry.part, entry.digest)])
        wrong = _told(
            store, store.expect(records), f"after run {number + 1}, with another part under the same key,"
        )
        if wrong:
            return wrong
    return ""


def _invisible(store: _Store, runs: Runs) -> str:
    store.sink.commit(store.entries(runs[0]))
    expected = store.expect(runs[0])
    for records in runs[1:]:
        store.entries(records)
    return _told(store, expected, "before the commit")


def _commit_twice(store: _Store, runs: Runs) -> str:
    for records in runs:
        entries = store.entries(records)
        store.sink.commit(entries)
        store.begin()
        store.sink.commit(entries)
        wrong = _told(store, store.expect(records), "after a second commit of the same")
        if wrong:
            return wrong
    return ""


def _written_twice(store: _Store, runs: Runs) -> str:
    for records in runs:
        before = store.entries(records)
        store.begin()
        after = store.entries(records)
        if [one.part for one in before] != [one.part for one in after]:
            return "a second write of the same gives another part"
        if not all(store.sink.has(one.part) for one in after):
            return "has() does not know a part that was written"
        store.sink.commit(after)
        wrong = _told(store, store.expect(records), "after a second write")
        if wrong:
            return wrong
    return ""


def _cut_off(store: _Store, runs: Runs) -> str:
    for records in runs:
        try:
            store.entry("split-0", records, cut_off=True)
        except _Cut:
            pass
        store.begin()
        store.sink.commit(store.entries(records))
        wrong = _told(store, store.expect(records), "after a write that was cut off and begun again")
        if wrong:
            return wrong
    return ""


def _twice(store: _Store, runs: Runs) -> str:
    store.sink.commit(store.entries(runs[0]))
    expected = store.expect(runs[0])
    again = runs[-1][0]
    entries = [store.entry("new-0", runs[-1]), store.entry("new-1", [again])]
    try:
        store.sink.commit(entries)
    except Exception:
        store.begin()
        return _told(store, expected, "after a commit that was refused")
    return "two rows of one key in one run are taken"


_CHECKS: Mapping[str, Check] = {
    "content": _content,
    "invisible before commit": _invisible,
    "old parts are kept": _kept,
    "computed again": _computed_again,
    "cut off commit": _commit_twice,
    "written twice": _written_twice,
    "cut off write": _cut_off,
}


def conformance_laws(subject: StoreSubject) -> Iterator[Law]:
    """State what each mode must do."""
    for mode in subject.modes:
        checks = dict(_CHECKS)
        if mode != "replace":
            checks["a key twice"] = _twice
        for law, check in checks.items():
            yield Law(law, f"{subject.name} ({mode})", functools.partial(_verdict, subject, mode, law, check))


def _verdict(subject: StoreSubject, mode: Mode, law: str, check: Check) -> Verdict:
    def holds(runs: Runs) -> str:
        if not runs or not all(runs):
            return ""
        with tempfile.TemporaryDirectory() as folder:
            return check(_Store(subject, str(Path(folder, "store")), mode), runs)

    name = f"{subject.name} ({mode})"
    found = search(_runs(subject), telling(holds), subject.effort)
    verdict = settled(law, name, found)
    if verdict is not None:
        return verdict
    return Verdict(
        law, name, "broken", found.tried, paste(found.example).expression, found.reason, _MEND[law]
    )


def _runs(subject: StoreSubject) -> Values:
    """Draw two or three runs, of unique keys each; keys come again between runs."""
    as_row, encode = row_maker(subject.record_type), canonical_encoder()

    def key(record: Any) -> bytes:
        row = as_row(record)
        return encode([row[name] for name in subject.key])

    one = st.lists(subject.values.strategy, min_size=1, max_size=_LARGEST, unique_by=key)
    return Values(st.lists(one, min_size=2, max_size=3))

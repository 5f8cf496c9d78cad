"""What Combine, CombineByKey and Distinct mean, once, for all backends.

Each works in two steps. In a partition records become entries: partial answers by key, or the
first record of each key. Entries go to where their key belongs, and are merged there. A key is
compared by its canonical bytes; keys are ordered by a hash of them, so partitions of keys are
ranges, and what comes out does not depend on how many there are.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from funcpipe_prefect.errors import ContractError, FuncPipeError
from funcpipe_prefect.ir import Combine, CombineByKey, Distinct, Located
from funcpipe_prefect.kernel import Trace, bind, calling, infrastructure, outside
from funcpipe_prefect.keyed import KeyValue, WindowedValue
from funcpipe_prefect.monoid import Monoid, finish, fold
from funcpipe_prefect.result import Err, Ok
from funcpipe_prefect.schema import canonical_encoder, key_codec
from funcpipe_prefect.windows import bounds_of, micros_of

__all__ = [
    "ALL_KEYS",
    "Candidates",
    "KeyRange",
    "Partials",
    "answer",
    "candidates",
    "fold_records",
    "lifted",
    "merge_totals",
    "merged_by_key",
    "order_of",
    "slot_of",
    "partials_by_key",
    "record_maker",
    "survivors",
]

MOST_KEYS = 1 << 17
"""Keys that are held at once: about as many as the records of a split of the default size. Where entries of more
keys are merged, they are read range by range."""
MOST_PARTIALS = 1 << 17
_FIRST_PARTIALS, _TARGET_BYTES = 1 << 14, 8 << 20
_UNFOLDED = 32
_HASH_BITS = 32
_MIX = 0x9E3779B1
_WINDOW = struct.Struct(">qq")
_MISSING: Any = object()
_BOXES = (Ok, Err)


def order_of(key: bytes) -> int:
    """Give the place of a key among all keys: 32 bits that are spread evenly, the same in every process."""
    return (zlib.crc32(key) * _MIX) & 0xFFFFFFFF


def slot_of(order: int, slots: int) -> int:
    """Give the slot of a key by its order, where all keys are divided among so many slots."""
    return order * slots >> _HASH_BITS


@dataclass(frozen=True)
class KeyRange:
    """The keys whose order is at least `start` and below `stop`."""

    start: int = 0
    stop: int = 1 << _HASH_BITS

    @classmethod
    def of(cls, index: int, count: int) -> KeyRange:
        """Give one of `count` ranges that together hold all keys."""
        return cls((index << _HASH_BITS) // count, ((index + 1) << _HASH_BITS) // count)


ALL_KEYS = KeyRange()


def lifted(operator: Combine | CombineByKey, trace: Trace) -> Callable[[Any], Any]:
    """Make the function from a record to its total: the lift, then what the monoid makes of one value."""
    lift = bind(operator.lift)
    unit = getattr(operator.monoid, "unit", None)
    unit_at = getattr(operator.monoid, "unit_at", None)
    if unit is None and unit_at is None:
        return lift

    def total(record: Any) -> Any:
        value = lift(record)
        if value.__class__ is Err:
            return value
        if value.__class__ is Ok:
            value = value.value
        return unit_at(value, trace.place()) if unit_at is not None else unit(value)  # type: ignore[misc]

    return total


def fold_records(operator: Combine, values: Iterator[Any], trace: Trace) -> Any:
    """Lift every value and merge: the partial answer of one partition.

    Raises:
        ContractError: FP402, the monoid's `combine` failed.
    """
    totals = calling(operator, lifted(operator, trace), values, trace, counts_out=False)
    upstream: list[BaseException] = []

    def watched() -> Iterator[Any]:
        try:
            yield from totals
        except Exception as error:
            upstream.append(error)
            raise

    try:
        return fold(operator.monoid, watched())
    except Exception as error:
        if upstream:
            raise
        raise _of_monoid(operator, error, trace) from error


def merge_totals(operator: Combine | CombineByKey, totals: Iterable[Any], *, is_last: bool = True) -> Any:
    """Merge partial answers; none gives the identity's.

    Args:
        operator: The Combine.
        totals: Partial answers.
        is_last: Derive the answer from the total; else give the total, which merges on.

    Raises:
        ContractError: FP402, the monoid's `combine` or `finish` failed.
    """
    try:
        total = fold(operator.monoid, totals)
        return finish(operator.monoid, total) if is_last else total
    except Exception as error:
        raise _of_monoid(operator, error) from error


def answer(operator: Combine, totals: Iterable[Any], trace: Trace) -> Any:
    """Give a Combine's answer: the one record of what comes behind it."""
    value = merge_totals(operator, totals)
    trace.tally(operator.name).records_out += 1
    return value


def _of_monoid(operator: Combine | CombineByKey, error: Exception, trace: Trace | None = None) -> Exception:
    """Say what a monoid failed at: a record's total, or, without a trace, the answers of partitions."""
    if isinstance(error, FuncPipeError) and trace is None:
        return error  # of what was read, not of the monoid
    if isinstance(error, infrastructure(operator)):
        place = f"merging for {operator.name!r}" if trace is None else f"{operator.name!r} at {trace.where()}"
        return outside(place, error)
    what = "failed to combine" if trace else "failed to merge the answers of the partitions"
    where = f" (record at {trace.where()})" if trace else ""
    return ContractError(f"the monoid of {operator.name!r} {what}: {type(error).__name__}: {error}{where}")


@dataclass(frozen=True)
class Partials:
    """Partial answers by key: columns of equal length."""

    keys: list[bytes]
    totals: list[Any]


class _Table:
    """Totals by key. A monoid that folds many at once is given many at once."""

    def __init__(self, monoid: Monoid[Any]) -> None:
        self._folds = getattr(monoid, "fold", None) is not None
        self._monoid = monoid
        self.totals: dict[bytes, Any] = {}

    def adder(self) -> Callable[[bytes, Any], None]:
        """Make the function that adds a total to a key's."""
        totals, combine = self.totals, self._monoid.combine
        if self._folds:
            return self._append
        get = totals.get

        def add(key: bytes, total: Any) -> None:
            held = get(key, _MISSING)
            totals[key] = total if held is _MISSING else combine(held, total)

        return add

    def _append(self, key: bytes, total: Any) -> None:
        held = self.totals.setdefault(key, [])
        held.append(total)
        if len(held) >= _UNFOLDED:
            held[:] = [fold(self._monoid, held)]

    def total(self, key: bytes) -> Any:
        """Give the total of a key."""
        held = self.totals[key]
        return (held[0] if len(held) == 1 else fold(self._monoid, held)) if self._folds else held

    def partials(self) -> Partials:
        """Give all keys with their totals."""
        return Partials(list(self.totals), [self.total(key) for key in self.totals])


def partials_by_key(
    operator: CombineByKey, values: Iterator[Any], trace: Trace, keep: Callable[[Partials], int]
) -> None:
    """Merge the records of one partition by key, in tables of bounded size.

    Args:
        operator: The operator.
        values: The partition.
        trace: Receives counts and failures.
        keep: Takes the partial answers of a table; gives how many bytes they are when written.

    Raises:
        ContractError: FP402, the monoid's `combine` failed.
    """
    table = _Table(operator.monoid)
    add, most, known = table.adder(), _FIRST_PARTIALS, table.totals
    entry_of = _entering(operator, trace, known)
    for data, total in calling(operator, entry_of, values, trace, counts_out=False):
        try:
            if data.__class__ is bytes:
                add(data, total)
            else:
                for one in data:
                    add(one, total)
        except Exception as error:
            raise _of_monoid(operator, error, trace) from error
        if len(known) >= most:
            size = keep(_partials(operator, table, trace))
            most = min(MOST_PARTIALS, max(1024, _TARGET_BYTES * len(known) // max(1, size)))
            known.clear()
    if known:
        keep(_partials(operator, table, trace))


def _entering(operator: CombineByKey, trace: Trace, known: Container[bytes]) -> Callable[[Any], Any]:
    """Make the function from a record to its key's bytes, or those of several windows, and its total."""
    codec = key_codec(operator.key_type)
    encode, check = codec.encode, codec.check
    is_text = operator.key_type in (str, Any)  # text comes back from its bytes, whatever it is
    key_of, total_of, windows_of = bind(operator.key), lifted(operator, trace), _windows_of(operator)

    def entry(record: Any) -> Any:
        key = key_of(record)
        if isinstance(key, _BOXES):
            if isinstance(key, Err):
                return key
            key = key.value
        data = encode(key)
        total = total_of(record)
        if isinstance(total, _BOXES):
            if isinstance(total, Err):
                return total
            total = total.value
        if not (is_text and key.__class__ is str) and data not in known:
            check(key, data)
        return data, total

    if windows_of is None:
        return entry

    def windowed(record: Any) -> Any:
        windows, found = windows_of(record), entry(record)
        failed = next((one for one in (found, windows) if one.__class__ is Err), None)
        return failed or ([window + found[0] for window in windows], found[1])

    return windowed


def _partials(operator: CombineByKey, table: _Table, trace: Trace) -> Partials:
    try:
        return table.partials()
    except Exception as error:
        raise _of_monoid(operator, error, trace) from error


def _windows_of(operator: CombineByKey) -> Callable[[Any], Any] | None:
    """Make the function from a record to its windows as bytes; None where there are none."""
    if operator.windowing is None:
        return None
    time_of, assign = bind(operator.windowing.time), operator.windowing.windows.assign

    def windows(record: Any) -> Any:
        time = time_of(record)
        if time.__class__ is Err:
            return time
        found = assign(micros_of(time.value if time.__class__ is Ok else time))
        for window in found:
            bounds_of(window)  # such a time has no date: the record's fault, and found out here
        return [_WINDOW.pack(*window) for window in found]

    return windows


def merged_by_key(
    operator: CombineByKey, entries: Callable[[KeyRange], Iterator[Partials]], keys: KeyRange, trace: Trace
) -> Iterator[Located]:
    """Merge the partial answers of a range of keys, in the keys' order.

    Args:
        operator: The operator.
        entries: Gives the partial answers of a range of keys, perhaps among others.
        keys: The range that is merged.
        trace: Receives counts.

    Yields:
        The place of each key, and its record.

    Raises:
        ContractError: FP402, the monoid's `combine` or `finish` failed.
    """
    tally, record_of = trace.tally(operator.name), record_maker(operator)
    rest = keys
    while rest.start < rest.stop:
        table, stop = _merged(operator, entries(rest), rest, is_whole=rest == keys)
        for key in sorted(table.totals, key=lambda key: (order_of(key), key)):
            try:
                value = finish(operator.monoid, table.total(key))
            except Exception as error:
                raise _of_monoid(operator, error) from error
            tally.records_out += 1
            yield order_of(key), record_of(key, value)
        rest = _next(KeyRange(rest.start, stop), keys)


def _merged(
    operator: CombineByKey, entries: Iterator[Partials], keys: KeyRange, *, is_whole: bool
) -> tuple[_Table, int]:
    """Merge what there is of a range; where that is too much, of its beginning; tell where that stops."""
    table, stop = _Table(operator.monoid), keys.stop
    add, known = table.adder(), table.totals
    for partials in entries:
        rows: Iterable[tuple[bytes, Any]] = zip(partials.keys, partials.totals, strict=True)
        if not is_whole or stop < keys.stop:
            rows = [row for row in rows if keys.start <= order_of(row[0]) < stop]
        try:
            for key, total in rows:
                add(key, total)
        except Exception as error:
            raise _of_monoid(operator, error) from error
        if len(known) > MOST_KEYS:
            stop = _halved(known, keys.start, stop)
    return table, stop


def _next(done: KeyRange, keys: KeyRange) -> KeyRange:
    """Give the range behind one that has had few enough keys: as wide, for keys are spread evenly."""
    return KeyRange(done.stop, min(keys.stop, 2 * done.stop - done.start))


def _halved(known: dict[bytes, Any], start: int, stop: int) -> int:
    """Keep the keys of the lower half of a range, so that there are not too many; tell where it stops."""
    while len(known) > MOST_KEYS and stop - start > 1:
        stop = (start + stop) // 2
        for key in [key for key in known if order_of(key) >= stop]:
            del known[key]
    return stop


def record_maker(operator: CombineByKey) -> Callable[[bytes, Any], Any]:
    """Make the function from a key's bytes, as entries have them, and its answer to a record."""
    decode = key_codec(operator.key_type).decode
    if operator.windowing is None:
        return lambda key, value: KeyValue(decode(key), value)

    def windowed(key: bytes, value: Any) -> Any:
        start, end = bounds_of(_WINDOW.unpack_from(key))
        return WindowedValue(decode(key[_WINDOW.size :]), start, end, value)

    return windowed


@dataclass(frozen=True)
class Candidates:
    """First records of their keys in a partition: columns of equal length."""

    keys: list[bytes]
    positions: list[int]
    records: list[bytes]


_KEY_BYTES = 16


def _short(key: bytes) -> bytes:
    return key if len(key) <= _KEY_BYTES else hashlib.blake2b(key, digest_size=_KEY_BYTES).digest()


def candidates(
    operator: Distinct, values: Iterator[Any], trace: Trace, encode: Callable[[Any], bytes]
) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield the records of one partition that may survive: key, position, and the record as stored.

    Args:
        operator: The operator.
        values: The partition.
        trace: Receives counts and failures.
        encode: Writes a record without loss, or raises.
    """
    encode_key = key_codec(operator.key_type).encode if operator.key else canonical_encoder(operator.in_type)
    key_of = bind(operator.key) if operator.key else None
    least: dict[bytes, int] = {}

    def judged(record: Any) -> Any:
        key = key_of(record) if key_of is not None else record
        if key.__class__ is Err:
            return key
        data = _short(encode_key(key.value if key.__class__ is Ok else key))
        known = least.get(data)
        if known is not None and known <= trace.position:
            return None
        return data, encode(record)

    for found in calling(operator, judged, values, trace, counts_out=False):
        if found is not None:
            data, record = found
            if len(least) >= MOST_KEYS:
                least.clear()  # those that come again are told apart where entries are merged
            least[data] = trace.position
            yield data, trace.position, record


def survivors(
    operator: Distinct,
    entries: Callable[[KeyRange], Iterator[Candidates]],
    keys: KeyRange,
    trace: Trace,
    decode: Callable[[bytes], Any],
) -> Iterator[Located]:
    """Yield of each key in a range the record with the smallest position.

    Args:
        operator: The operator.
        entries: Gives the candidates of a range of keys, perhaps among others; positions are comparable
            between all of them.
        keys: The range whose records are wanted.
        trace: Receives counts.
        decode: Reads a record.

    Yields:
        Position and record.
    """
    tally = trace.tally(operator.name)
    rest = keys
    while rest.start < rest.stop:
        least, stop = _least(entries(rest), rest)
        done = KeyRange(rest.start, stop)
        for found in entries(done):
            for key, position, record in zip(found.keys, found.positions, found.records, strict=True):
                if least.get(key) == position:
                    del least[key]  # the first of those that stem from one source record
                    tally.records_out += 1
                    yield position, decode(record)
        rest = _next(done, keys)


def _least(entries: Iterator[Candidates], keys: KeyRange) -> tuple[dict[bytes, int], int]:
    """Find the smallest position of each key in a range, or in its beginning; tell where that stops."""
    least: dict[bytes, int] = {}
    stop = keys.stop
    for found in entries:
        for key, position in zip(found.keys, found.positions, strict=True):
            known = least.get(key)
            if known is None:
                if keys.start <= order_of(key) < stop:
                    least[key] = position
            elif position < known:
                least[key] = position
        if len(least) > MOST_KEYS:
            stop = _halved(least, keys.start, stop)
    return least, stop

"""One canonical encoding of records, under which equal records have equal bytes: what a digest hashes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter, countOf
from typing import Annotated, Any, NamedTuple, TypeAlias, get_args, get_origin

import msgspec

from funcpipe_prefect.schema.types import Approximate, field_names, hints_of, is_model, is_set, types_within
from funcpipe_prefect.schema.values import Walk, decode_foreign, difference, encode_foreign

__all__ = ["KeyCodec", "canonical_encoder", "canonical_list_encoder", "key_codec"]


_WIDE, _PAIRS = 1, 2  # MessagePack extension codes
_MANY_FLOATS = (
    500  # to be looked at together: memory that comes and goes by large pieces is given back each time
)
_FLOAT_MARK, _FLOAT_BYTES = b"\xcb", 9  # and how it writes a float


_ENCODABLE = (bytes, bytearray, memoryview)

Getter: TypeAlias = Callable[[Any], Any]


@functools.cache
def canonical_encoder(tp: Any = Any) -> Callable[[Any], bytes]:
    """Make the function that turns a record of this type into its canonical bytes.

    Two records that are equal field by field have equal bytes, whatever the order of a dict's
    keys or of a class's fields, and whether they are instances or plain mappings. An integer in a
    field declared as float counts as that float, as which the partition store gives it back.

    Args:
        tp: The record type; `Any` for plain values.

    Returns:
        A function from a record to bytes. It raises TypeError for values that have no
        encoding, and UnicodeEncodeError for text with lone surrogates.
    """
    encode = msgspec.msgpack.Encoder(order="sorted", enc_hook=encode_foreign).encode
    walk = _canonical_walk(encode)
    strip = _without_approximate(tp)

    def plain(record: Any) -> bytes:
        try:
            return encode(record)
        except (OverflowError, TypeError):
            return encode(walk(record))

    as_floats = _floats_declared(tp, plain)
    glance = _floats_at_a_glance(tp)

    def exact_fields(record: Any) -> bytes:
        record = as_floats(record)[0] if as_floats else record
        values = msgspec.to_builtins(record, enc_hook=encode_foreign, builtin_types=_ENCODABLE)
        return plain(strip(values))  # type: ignore[misc]

    if _has_sets_of_sets(tp):
        return lambda record: encode(walk(record))  # sets of sets have no order to sort by
    if strip is not None:
        return exact_fields
    if as_floats is None:
        return plain
    if glance is None:
        return lambda record: as_floats(record)[1]

    def at_a_glance(record: Any) -> bytes:
        return plain(record) if record.__class__ is tp and glance(record) else as_floats(record)[1]

    return at_a_glance


@functools.cache
def canonical_list_encoder(tp: Any) -> Callable[[list[Any]], Iterable[bytes] | None]:
    """Make the function that turns many records into their canonical bytes, with less work for each.

    Args:
        tp: The record type.

    Returns:
        A function from records to their bytes, the same as `canonical_encoder` gives, one after the other. It
        gives None, or raises meanwhile, where only that one can tell: a record with no plain encoding, of
        another class, or with integers for floats.
    """
    encode = msgspec.msgpack.Encoder(order="sorted", enc_hook=encode_foreign).encode
    getters = _fields_of_floats(tp) if float in types_within(tp) else ([], [])
    is_simple = (
        field_names(tp) is not None
        and not _has_sets_of_sets(tp)
        and _without_approximate(tp) is None
        and not any(map(is_model, types_within(tp)))
    )
    if getters is None or not is_simple:
        return lambda records: None
    single, many = getters

    def have_floats(records: list[Any]) -> bool:
        if countOf(map(type, records), tp) != len(records):
            return False
        for get in single:
            if not _are_floats(encode([*map(get, records)]), len(records)):
                return False
        for get in many:
            lists = [*map(get, records)]
            if countOf(map(type, lists), list) != len(lists):
                return False
            joined: list[Any] = []
            for number, one in enumerate(lists, 1):
                joined += one
                if len(joined) > _MANY_FLOATS or number == len(lists):
                    if not _are_floats(encode(joined), len(joined)):
                        return False
                    joined = []
        return True

    return lambda records: map(encode, records) if have_floats(records) else None


def _are_floats(data: bytes, count: int) -> bool:
    """Tell whether an array in MessagePack has so many elements, each of them a float.

    A float takes nine bytes, the first of them its mark. So does what else has nine, with other marks: where
    each ninth byte from the first element on is that mark, there is nothing but floats.
    """
    header = 1 if count < 1 << 4 else 3 if count < 1 << 16 else 5
    return len(data) == header + _FLOAT_BYTES * count and data[header::_FLOAT_BYTES] == _FLOAT_MARK * count


class KeyCodec(NamedTuple):
    """How the keys of one type are compared between processes: by their bytes."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]

    def check(self, key: Any, data: bytes) -> None:
        """Make sure that a key comes back from its bytes.

        Raises:
            TypeError: It would come back as something else, such as an undeclared tuple as a list.
        """
        try:
            back = self.decode(data)
            is_same = _is_of_one_type(key, back) and self.encode(back) == data
        except Exception as error:
            raise TypeError(f"the key {key!r} does not fit its declared type: {error}") from error
        if not is_same:
            raise TypeError(
                f"the key {key!r} would come back as {back!r}: annotate what the key function returns"
            )


def _is_of_one_type(key: Any, back: Any) -> bool:
    is_number = isinstance(key, int) and isinstance(back, float)
    return type(key) is type(back) or (is_number and not isinstance(key, bool))


@functools.cache
def key_codec(tp: Any = Any) -> KeyCodec:
    """Make the codec of keys: equal keys have equal bytes, in any process."""
    return KeyCodec(canonical_encoder(tp), msgspec.msgpack.Decoder(tp, dec_hook=decode_foreign).decode)


def _canonical_walk(encode: Callable[[Any], bytes]) -> Walk:
    def mapping(items: list[tuple[Any, Any]]) -> Any:
        if all(type(key) is str for key, _ in items):
            return dict(items)
        pairs = sorted(encode(walk(key)) + encode(value) for key, value in items)
        return msgspec.msgpack.Ext(_PAIRS, b"".join(pairs))

    def integer(value: int) -> Any:
        return msgspec.msgpack.Ext(_WIDE, str(int(value)).encode())

    walk = Walk(encode, mapping, integer)
    return walk


def _floats_declared(tp: Any, encode: Callable[[Any], bytes]) -> Callable[[Any], tuple[Any, bytes]] | None:
    """Make the function that puts floats where a record has integers in fields declared as float.

    Returns:
        A function from a record to that record and its encoding; None if no field is a float.
    """
    if float not in types_within(tp) or any(map(is_model, types_within(tp))):
        return None
    decode = msgspec.msgpack.Decoder(tp, dec_hook=decode_foreign).decode

    def as_floats(record: Any) -> tuple[Any, bytes]:
        data = encode(record)
        try:
            back = decode(data)
        except (ValueError, TypeError):
            return record, data
        again = encode(back)
        return (record, data) if again == data or difference(record, back) else (back, again)

    return as_floats


def _fields_of_floats(tp: Any) -> tuple[list[Getter], list[Getter]] | None:
    """Find the fields of a class that are floats, and those that are lists of floats.

    Returns:
        None for classes that have floats elsewhere as well.
    """
    if field_names(tp) is None:
        return None
    single: list[Getter] = []
    many: list[Getter] = []
    for name, hint in hints_of(tp).items():
        if hint is float:
            single.append(attrgetter(name))
        elif get_origin(hint) is list and get_args(hint) == (float,):
            many.append(attrgetter(name))
        elif float in types_within(hint):
            return None
    return single, many


def _floats_at_a_glance(tp: Any) -> Callable[[Any], bool] | None:
    """Make the function that tells quickly that a record has floats wherever its class declares them.

    Returns:
        None for classes whose floats are not all in fields of type `float` or `list[float]`.
    """
    getters = _fields_of_floats(tp)
    if getters is None:
        return None
    single, many = getters

    def are_floats(values: Any) -> bool:
        return values.__class__ is list and countOf(map(type, values), float) == len(values)

    def has_them(record: Any) -> bool:
        for get in many:  # a loop: a generator in all() would cost as much as the check
            if not are_floats(get(record)):
                return False
        return not single or all(get(record).__class__ is float for get in single)

    return has_them


def _has_sets_of_sets(tp: Any) -> bool:
    return any(is_set(part) and any(map(is_set, get_args(part))) for part in types_within(tp))


def _is_approximate(hint: Any) -> bool:
    return get_origin(hint) is Annotated and any(isinstance(mark, Approximate) for mark in get_args(hint)[1:])


@functools.cache
def _without_approximate(tp: Any) -> Callable[[Any], Any] | None:
    """Make the function that strips a type's approximate fields from plain values; None if it has none."""
    if not any(map(_is_approximate, types_within(tp))):
        return None
    origin, args = get_origin(tp), get_args(tp)
    if isinstance(tp, type) and origin is None:
        left_out = {name for name, hint in hints_of(tp).items() if _is_approximate(hint)}
        inner = {name: _inner(hint) for name, hint in hints_of(tp).items() if name not in left_out}
        keep: Callable[[Any], Any] = lambda value: value  # noqa: E731
        return lambda value: {
            name: inner.get(name, keep)(item) for name, item in value.items() if name not in left_out
        }
    if isinstance(origin, type) and issubclass(origin, Mapping):
        strip = _inner(args[1])
        return lambda value: {key: strip(item) for key, item in value.items()}
    if isinstance(origin, type):
        strip = _inner(args[0])
        return lambda value: [strip(item) for item in value]
    return _inner(next(arg for arg in args if _without_approximate(arg)))


def _inner(hint: Any) -> Callable[[Any], Any]:
    """Strip below a field, leaving alone what is not there (None in place of a nested record)."""

    def strip(value: Any) -> Any:
        found = _without_approximate(hint)  # looked up late: a type may hold itself
        return found(value) if found is not None and isinstance(value, (dict, list)) else value

    return strip

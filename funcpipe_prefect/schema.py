"""Record types: reading them from bytes, writing them to bytes, and one canonical encoding.

A record is a dataclass, a pydantic model, a TypedDict, a NamedTuple, a msgspec Struct or a
plain JSON-like value. msgspec does the work; pydantic models bring their own validation and
are recognised by their methods, so that pydantic itself is not imported here.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import math
import os
import zoneinfo
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

__all__ = [
    "Approximate",
    "JsonCodec",
    "StoreCodec",
    "canonical_encoder",
    "coerce",
    "difference",
    "encode_foreign",
    "fields_of",
    "from_mapping",
    "is_model",
    "json_codec",
    "store_codec",
    "type_name",
]


@dataclasses.dataclass(frozen=True)
class Approximate:
    """Marks a field whose value may differ within a tolerance from run to run.

    Written as `Annotated[float, Approximate(rel=1e-6)]`. Such a field stays out of the digest
    and is compared by tolerance instead.

    Attributes:
        rel: Relative tolerance, without unit.
        abs: Absolute tolerance, in the field's own unit.
    """

    rel: float = 1e-6
    abs: float = 0.0


def is_model(tp: Any) -> bool:
    """Tell whether a type is a pydantic model."""
    return isinstance(tp, type) and hasattr(tp, "model_validate") and hasattr(tp, "model_dump")


def type_name(tp: Any) -> str:
    """Name a type the way a pipeline file does: `RawDoc`, `list[str]`, `dict[str, int]`."""
    if tp is Any:
        return "Any"
    if tp is None or tp is type(None):
        return "None"
    if isinstance(tp, type) and get_origin(tp) is None:
        return tp.__name__
    return str(tp).replace("typing.", "")


def encode_foreign(value: Any) -> Any:
    """Turn what msgspec does not know into plain values (its `enc_hook`)."""
    if is_model(type(value)):
        return value.model_dump(mode="python")
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return value.tolist()
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "unicode_string"):  # pydantic's URLs
        return str(value)
    raise TypeError(f"{type(value).__name__} values cannot be encoded")


def _decode_foreign(tp: type, value: Any) -> Any:
    """Make what msgspec does not know from plain values (its `dec_hook`)."""
    if isinstance(value, tp):
        return value
    if is_model(tp):
        return tp.model_validate(value)  # type: ignore[attr-defined]
    if issubclass(tp, (os.PathLike, str, float)):
        return tp(value)  # type: ignore[call-arg]
    raise TypeError(f"{type_name(tp)} values cannot be decoded")


def types_within(tp: Any) -> Iterator[Any]:
    """Walk a type: itself, the arguments of generics and the fields of record classes, each once."""
    seen: set[int] = set()
    kept = [tp]  # an id is unique only while its object lives
    for one in kept:
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            kept.extend(get_args(one))
            if isinstance(one, type) and get_origin(one) is None:
                kept.extend(_hints(one).values())


def _hints(tp: Any) -> Mapping[str, Any]:
    try:
        return fields_of(tp)
    except (NameError, TypeError):
        return {}


_UNORDERED = (set, frozenset, AbstractSet)


def _names_sets(tp: Any) -> bool:
    """Tell whether a type declares sets, whose order differs from process to process."""
    return any(map(_is_set, types_within(tp)))


def _names_datetimes(tp: Any) -> bool:
    return datetime.datetime in types_within(tp)


def _is_set(tp: Any) -> bool:
    return tp in _UNORDERED or get_origin(tp) in _UNORDERED


_WIDE, _PAIRS = 1, 2  # MessagePack extension codes


@dataclasses.dataclass(frozen=True)
class _Walk:
    """Prepares, value by value, what a fast encoder refuses or would order by chance.

    Attributes:
        encode: Of the values within; the elements of a set are sorted by it.
        mapping: Makes what stands for a mapping from its prepared keys and values.
        integer: Makes what stands for an integer beyond 64 bits.
        keeps_offsets: Write a datetime with its offset from UTC, not as a moment alone.
    """

    encode: Callable[[Any], bytes]
    mapping: Callable[[list[tuple[Any, Any]]], Any] = dict
    integer: Callable[[int], Any] = int
    keeps_offsets: bool = False

    def __call__(self, value: Any) -> Any:
        if isinstance(value, enum.Enum):
            return self(value.value)
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            return self.integer(value)
        if isinstance(value, Mapping):
            return self.mapping([(key, self(item)) for key, item in value.items()])
        if isinstance(value, (list, tuple)):
            return [self(item) for item in value]
        if isinstance(value, _UNORDERED):
            return [msgspec.Raw(item) for item in sorted(self.encode(self(item)) for item in value)]
        if is_model(type(value)) or hasattr(value, "tolist"):
            return self(encode_foreign(value))
        if self.keeps_offsets and isinstance(value, datetime.datetime):
            return value.isoformat()
        names = _field_names(type(value))
        return value if names is None else {name: self(getattr(value, name)) for name in names}


def _canonical_walk(encode: Callable[[Any], bytes]) -> _Walk:
    def mapping(items: list[tuple[Any, Any]]) -> Any:
        if all(type(key) is str for key, _ in items):
            return dict(items)
        pairs = sorted(encode(walk(key)) + encode(value) for key, value in items)
        return msgspec.msgpack.Ext(_PAIRS, b"".join(pairs))

    def integer(value: int) -> Any:
        return msgspec.msgpack.Ext(_WIDE, str(int(value)).encode())

    walk = _Walk(encode, mapping, integer)
    return walk


def _field_names(cls: type) -> tuple[str, ...] | None:
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    names: tuple[str, ...] | None = getattr(cls, "__struct_fields__", None)
    return names


def _is_approximate(hint: Any) -> bool:
    return get_origin(hint) is Annotated and any(isinstance(mark, Approximate) for mark in get_args(hint)[1:])


@functools.cache
def _without_approximate(tp: Any) -> Callable[[Any], Any] | None:
    """Make the function that strips a type's approximate fields from plain values; None if it has none."""
    if not any(map(_is_approximate, types_within(tp))):
        return None
    origin, args = get_origin(tp), get_args(tp)
    if isinstance(tp, type) and origin is None:
        left_out = {name for name, hint in _hints(tp).items() if _is_approximate(hint)}
        inner = {name: _inner(hint) for name, hint in _hints(tp).items() if name not in left_out}
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


_ENCODABLE = (bytes, bytearray, memoryview)


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

    def exact_fields(record: Any) -> bytes:
        record = as_floats(record)[0] if as_floats else record
        values = msgspec.to_builtins(record, enc_hook=encode_foreign, builtin_types=_ENCODABLE)
        return plain(strip(values))  # type: ignore[misc]

    if any(_is_set(part) and any(map(_is_set, get_args(part))) for part in types_within(tp)):
        return lambda record: encode(walk(record))  # sets of sets have no order to sort by
    if strip is not None:
        return exact_fields
    return plain if as_floats is None else lambda record: as_floats(record)[1]


def _floats_declared(tp: Any, encode: Callable[[Any], bytes]) -> Callable[[Any], tuple[Any, bytes]] | None:
    """Make the function that puts floats where a record has integers in fields declared as float.

    Returns:
        A function from a record to that record and its encoding; None if no field is a float.
    """
    if float not in types_within(tp) or any(map(is_model, types_within(tp))):
        return None
    decode = msgspec.msgpack.Decoder(tp, dec_hook=_decode_foreign).decode

    def as_floats(record: Any) -> tuple[Any, bytes]:
        data = encode(record)
        try:
            back = decode(data)
        except (ValueError, TypeError):
            return record, data
        again = encode(back)
        return (record, data) if again == data or difference(record, back) else (back, again)

    return as_floats


def coerce(value: Any, tp: Any) -> Any:
    """Give a value as an instance of `tp`: as it is, or validated from a mapping.

    Raises:
        ValueError: The value does not fit the type (msgspec and pydantic errors both are).
    """
    if tp is Any or (isinstance(tp, type) and get_origin(tp) is None and _is_instance(value, tp)):
        return value
    return from_mapping(value, tp)


def from_mapping(value: Any, tp: Any, *, strict: bool = True) -> Any:
    """Validate plain values into an instance of `tp`.

    Args:
        value: A mapping of field names to values, or whatever else the type is made from.
        tp: The record type.
        strict: Refuse text in place of numbers and booleans.

    Raises:
        ValueError: The value does not fit the type.
    """
    if is_model(tp):
        return tp.model_validate(value)
    if isinstance(value, Mapping) and is_named_tuple(tp):
        value = _in_order(value, tp)
    return msgspec.convert(value, tp, strict=strict, dec_hook=_decode_foreign)


def is_named_tuple(tp: Any) -> bool:
    """Tell whether a type is a NamedTuple: msgspec reads one from a list, a file holds a mapping."""
    return isinstance(tp, type) and issubclass(tp, tuple) and hasattr(tp, "_field_defaults")


def _in_order(values: Mapping[str, Any], tp: Any) -> list[Any]:
    missing = [name for name in tp._fields if name not in values and name not in tp._field_defaults]
    if missing:
        raise ValueError(f"Object missing required field `{missing[0]}`")
    return [values.get(name, tp._field_defaults.get(name)) for name in tp._fields]


def _is_instance(value: Any, tp: type) -> bool:
    try:
        return isinstance(value, tp)
    except TypeError:  # TypedDict and friends
        return False


class JsonCodec(NamedTuple):
    """How one record type is read from and written to a line of JSON."""

    decode: Callable[[bytes | str], Any]
    encode: Callable[[Any], bytes]


@functools.cache
def json_codec(tp: Any = Any) -> JsonCodec:
    """Make the JSON codec of a record type.

    Args:
        tp: The record type; `Any` decodes to plain values.

    Returns:
        A codec whose `decode` raises ValueError on bad JSON or a misfit, and whose `encode`
        sorts the keys of dicts and the elements of sets, so that equal records give equal bytes.
        JSON has no form for NaN and the infinities: they become null.

    Raises:
        TypeError: msgspec cannot decode into this type.
    """
    if is_model(tp):
        return JsonCodec(
            tp.model_validate_json,
            _model_json if _names_sets(tp) or Any in types_within(tp) else _model_json_as_is,
        )
    fast = msgspec.json.Encoder(order="deterministic", enc_hook=encode_foreign).encode
    if is_named_tuple(tp):
        load = msgspec.json.Decoder().decode
        return JsonCodec(
            lambda line: from_mapping(load(line), tp),
            lambda record: fast(record._asdict() if isinstance(record, tp) else record),
        )

    walk = _Walk(fast, lambda items: {_json_key(key): item for key, item in items})

    def encode(record: Any) -> bytes:
        try:
            return fast(record)
        except TypeError:
            return fast(walk(record))

    return JsonCodec(msgspec.json.Decoder(tp, dec_hook=_decode_foreign).decode, encode)


def _model_json_as_is(record: Any) -> bytes:
    text: str = record.model_dump_json()
    return text.encode()


def _model_json(record: Any) -> bytes:
    return msgspec.json.encode(_sets_sorted(record.model_dump(mode="json"), record.model_dump()))


def _sets_sorted(plain: Any, original: Any) -> Any:
    """Sort the lists that stand for sets: pydantic gives them in the order of their hashes."""
    if isinstance(original, _UNORDERED) and isinstance(plain, list):
        return sorted(plain, key=msgspec.json.encode)
    if isinstance(original, (list, tuple)) and isinstance(plain, list) and len(plain) == len(original):
        return [_sets_sorted(*pair) for pair in zip(plain, original, strict=True)]
    if isinstance(original, dict) and isinstance(plain, dict) and len(plain) == len(original):
        pairs = zip(plain.items(), original.values(), strict=True)
        return {key: _sets_sorted(item, other) for (key, item), other in pairs}
    return plain


def _json_key(key: Any) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    text: str = next(iter(msgspec.json.decode(msgspec.json.encode({key: None}))))
    return text


class StoreCodec(NamedTuple):
    """How one record type is kept in the partition store, without loss."""

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]


@functools.cache
def store_codec(tp: Any = Any) -> StoreCodec:
    """Make the MessagePack codec of a record type.

    A record is read back at once and compared, so that one that would return as something else
    (an undeclared tuple as a list, None in a field that allows no None) is refused where it is
    written, not changed or found broken where it is read.

    Args:
        tp: The record type; `Any` when none was declared.

    Returns:
        A codec whose `encode` raises TypeError for a record that would not survive.
    """
    is_closed = not any(part in _OPEN for part in types_within(tp)) and not _names_datetimes(tp)
    # The order of a dict's keys is part of the record; the order of a set's elements is chance.
    encode = msgspec.msgpack.Encoder(enc_hook=encode_foreign).encode
    walks = _names_sets(tp) or _names_datetimes(tp)
    prepare = _Walk(encode, keeps_offsets=True) if walks else _as_it_is
    if is_model(tp):
        load = msgspec.msgpack.Decoder().decode
        return _checked(
            tp,
            lambda data: tp.model_validate(load(data)),
            lambda record: encode(prepare(record.model_dump(mode="python", by_alias=True, round_trip=True))),
            is_closed=False,
        )
    decode = msgspec.msgpack.Decoder(tp, dec_hook=_decode_foreign).decode
    if prepare is _as_it_is:
        return _checked(tp, decode, encode, is_closed=is_closed)
    return _checked(tp, decode, lambda record: encode(prepare(record)), is_closed=is_closed)


def _as_it_is(record: Any) -> Any:
    return record


_OPEN = (Any, object, dict, list, tuple, set, frozenset)


def _checked(
    tp: Any, decode: Callable[[bytes], Any], encode: Callable[[Any], bytes], *, is_closed: bool
) -> StoreCodec:
    def checked(record: Any) -> bytes:
        data = encode(record)
        try:
            back = decode(data)
        except Exception as error:
            raise TypeError(f"the record does not fit its declared type {type_name(tp)}: {error}") from error
        if is_closed and encode(back) == data:
            return data
        changed = difference(record, back)
        if changed:
            raise TypeError(f"{changed}: declare the operator's out_type or annotate its function")
        return data

    return StoreCodec(decode, checked)


_SCALARS = frozenset({bool, int, float, str, bytes, type(None)})


def difference(record: Any, back: Any) -> str:
    """Say where a record that was written and read differs from what it was; empty if nowhere."""
    if type(back) is float and isinstance(record, (int, float)):
        return "" if back == record or math.isnan(record) else f"{record!r} would come back as {back!r}"
    if type(back) is not type(record):
        return f"a {type(record).__name__} would come back as a {type(back).__name__}"
    if isinstance(record, dict):
        if list(record) != list(back):
            return "a dict would come back with other keys"
        return next(filter(None, (difference(record[key], back[key]) for key in record)), "")
    if isinstance(record, (list, tuple)):
        kinds = list(map(type, record))
        if kinds == list(map(type, back)) and _SCALARS.issuperset(kinds) and record == back:
            return ""
        if len(record) != len(back):
            return f"a {type(record).__name__} would come back with another length"
        return next(filter(None, map(difference, record, back)), "")
    names = tuple(vars(record)) if is_model(type(record)) else _field_names(type(record))
    if names is not None:
        pairs = ((getattr(record, name), getattr(back, name)) for name in names)
        return next(filter(None, (difference(*pair) for pair in pairs)), "")
    if isinstance(record, datetime.datetime) and record.utcoffset() != back.utcoffset():
        return f"{record!r} would come back as {back!r}"
    if isinstance(getattr(record, "tzinfo", None), zoneinfo.ZoneInfo) and record.tzinfo.key != "UTC":
        return f"the time zone {record.tzinfo.key} would come back as a fixed offset, so use one or UTC"
    return "" if record == back else f"{record!r} would come back as {back!r}"


def fields_of(tp: Any) -> Mapping[str, Any]:
    """Give the fields of a record class with their types, Annotated marks included.

    Raises:
        TypeError: The type has no named fields.
    """
    if tp is Any or not (is_model(tp) or dataclasses.is_dataclass(tp) or hasattr(tp, "__annotations__")):
        raise TypeError(f"{type_name(tp)} has no named fields")
    hints = get_type_hints(tp, include_extras=True)
    names = tuple(tp.model_fields) if is_model(tp) else _field_names(tp)
    if names is not None:
        return {name: hints[name] for name in names if name in hints}
    return {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}

"""Codecs: a record as a line of JSON, and as MessagePack that loses nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from funcpipe_prefect.schema.types import (
    UNORDERED,
    is_model,
    is_named_tuple,
    names_datetimes,
    names_sets,
    type_name,
    types_within,
)
from funcpipe_prefect.schema.values import Walk, decode_foreign, difference, encode_foreign, from_mapping

__all__ = ["JsonCodec", "StoreCodec", "json_codec", "store_codec"]


class JsonCodec(NamedTuple):
    """How one record type is read from and written to a line of JSON.

    Attributes:
        decode: Reads a line.
        encode: Writes a record.
        encode_lines: Writes many, each followed by a newline; raises where `encode` may know a way. None for types
            that go through it one by one.
    """

    decode: Callable[[bytes | str], Any]
    encode: Callable[[Any], bytes]
    encode_lines: Callable[[Iterable[Any]], bytes] | None = None


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
            _model_json if names_sets(tp) or Any in types_within(tp) else _model_json_as_is,
        )
    encoder = msgspec.json.Encoder(order="deterministic", enc_hook=encode_foreign)
    fast = encoder.encode
    if is_named_tuple(tp):
        load = msgspec.json.Decoder().decode
        return JsonCodec(
            lambda line: from_mapping(load(line), tp),
            lambda record: fast(record._asdict() if isinstance(record, tp) else record),
        )

    walk = Walk(fast, lambda items: {_json_key(key): item for key, item in items})

    def encode(record: Any) -> bytes:
        try:
            return fast(record)
        except TypeError:
            return fast(walk(record))

    return JsonCodec(msgspec.json.Decoder(tp, dec_hook=decode_foreign).decode, encode, encoder.encode_lines)


def _model_json_as_is(record: Any) -> bytes:
    text: str = record.model_dump_json()
    return text.encode()


def _model_json(record: Any) -> bytes:
    return msgspec.json.encode(_sets_sorted(record.model_dump(mode="json"), record.model_dump()))


def _sets_sorted(plain: Any, original: Any) -> Any:
    """Sort the lists that stand for sets: pydantic gives them in the order of their hashes."""
    if isinstance(original, UNORDERED) and isinstance(plain, list):
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
    is_closed = not any(part in _OPEN for part in types_within(tp)) and not names_datetimes(tp)
    # The order of a dict's keys is part of the record; the order of a set's elements is chance.
    encode = msgspec.msgpack.Encoder(enc_hook=encode_foreign).encode
    walks = names_sets(tp) or names_datetimes(tp)
    prepare = Walk(encode, keeps_offsets=True) if walks else _as_it_is
    if is_model(tp):
        load = msgspec.msgpack.Decoder().decode
        return _checked(
            tp,
            lambda data: tp.model_validate(load(data)),
            lambda record: encode(prepare(record.model_dump(mode="python", by_alias=True, round_trip=True))),
            is_closed=False,
        )
    decode = msgspec.msgpack.Decoder(tp, dec_hook=decode_foreign).decode
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

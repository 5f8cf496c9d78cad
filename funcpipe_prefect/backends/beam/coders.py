"""How records travel between Beam's workers: by the partition store's lossless encoding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TypeVar, get_origin

import msgspec
from apache_beam import coders
from apache_beam.typehints import typehints
from typing_extensions import is_typeddict

from funcpipe_prefect.schema import is_model, is_named_tuple, store_codec, type_name, types_within
from funcpipe_prefect.schema.values import Walk
from funcpipe_prefect.store import decode_value, encode_value

__all__ = ["RecordCoder", "Records", "ValueCoder", "Values", "record_hint"]

_SIZE_UNKNOWN = 64
_MAPPINGS = (dict, Mapping, MutableMapping)
_UNORDERED = (Any, object, float, list, tuple, set, frozenset, *_MAPPINGS)


class Records(typehints.AnyTypeConstraint):
    """The type hint of records whose type Beam would encode by pickle, or with loss."""

    def __init__(self, record_type: Any) -> None:
        self.record_type = record_type

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Records) and self.record_type == other.record_type

    def __hash__(self) -> int:
        return hash((Records, self.record_type))

    def __repr__(self) -> str:
        return f"Records[{type_name(self.record_type)}]"


class Values(typehints.AnyTypeConstraint):
    """The type hint of partial answers, answers and dead letters, which may be any object."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Values)

    def __hash__(self) -> int:
        return hash(Values)

    def __repr__(self) -> str:
        return "Values"


class RecordCoder(coders.Coder):
    """Encodes the records of one type as the partition store does: without loss, or not at all.

    Args:
        record_type: The type of the records.
        ordered: Sort the keys of mappings and take integers in float fields as floats, so that
            equal records have equal bytes and can be keys.
    """

    def __init__(self, record_type: Any = Any, *, ordered: bool = False) -> None:
        self.record_type = record_type
        self.ordered = ordered

    def encode(self, value: Any) -> bytes:
        """Encode one record.

        Raises:
            TypeError: The record would come back as something else.
        """
        codec = store_codec(self.record_type)
        data = codec.encode(value)
        return _with_sorted_keys(codec.encode(codec.decode(data))) if self.ordered else data

    def decode(self, encoded: bytes) -> Any:
        """Decode one record."""
        return store_codec(self.record_type).decode(encoded)

    def estimate_size(self, value: Any) -> int:
        """Give the bytes of a record, for Beam's statistics.

        Beam asks for a sample of records that never leave their process; one that could not
        leave it must not fail for that.
        """
        try:
            return len(self.encode(value))
        except Exception:
            return _SIZE_UNKNOWN

    def is_deterministic(self) -> bool:
        """Tell whether equal records have equal bytes."""
        return self.ordered or not any(map(_is_unordered, types_within(self.record_type)))

    def as_deterministic_coder(self, step_label: str, error_message: str | None = None) -> RecordCoder:
        """Give the coder for records that are keys.

        Raises:
            ValueError: Records of this type cannot be encoded.
        """
        try:
            store_codec(self.record_type)
        except TypeError as error:
            raise ValueError(error_message or f"{self!r} cannot encode the keys of {step_label!r}") from error
        return self if self.is_deterministic() else RecordCoder(self.record_type, ordered=True)

    def to_type_hint(self) -> Any:
        """Give the type hint by which Beam's registry finds this coder."""
        return record_hint(self.record_type)

    @classmethod
    def from_type_hint(cls, typehint: Any, registry: object) -> RecordCoder:
        """Make the coder of a type hint: a record class or `Records`."""
        return cls(typehint.record_type if isinstance(typehint, Records) else typehint)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RecordCoder)
            and self.record_type == other.record_type
            and self.ordered == other.ordered
        )

    def __hash__(self) -> int:
        return hash((RecordCoder, self.record_type, self.ordered))

    def __repr__(self) -> str:
        return f"RecordCoder[{type_name(self.record_type)}]"


class ValueCoder(coders.Coder):
    """Encodes any object: without loss as MessagePack where that is possible, else by pickle."""

    def encode(self, value: Any) -> bytes:
        """Encode one value behind a byte that tells how."""
        return encode_value(value)

    def decode(self, encoded: bytes) -> Any:
        """Decode one value."""
        return decode_value(encoded)

    def to_type_hint(self) -> Any:
        """Give the type hint by which Beam's registry finds this coder."""
        return Values()


T = TypeVar("T", bound=type)


def record_hint(record_type: Any) -> Any:
    """Give the type hint of a PCollection of records, known to Beam's coder registry.

    A record class is its own hint, so that Beam checks what is applied behind; a coder that the
    user registered for it stays. Beam's registry cannot tell the classes of `__main__` apart.
    Bytes keep Beam's coder; that of `str` fails on a sample of records that never leave their
    process when one has a lone surrogate, that of `int` on more than 64 bits.
    """
    if record_type is bytes:
        return bytes
    if not _is_record_class(record_type):
        return Records(record_type)
    registry = coders.registry
    if registry._normalize_typehint_type(record_type) not in registry._coders:
        if record_type.__module__ == "__main__":
            return Records(record_type)
        registry.register_coder(record_type, RecordCoder)
    return record_type


def _is_record_class(tp: Any) -> bool:
    return (
        isinstance(tp, type)
        and get_origin(tp) is None
        and (
            dataclasses.is_dataclass(tp)
            or is_model(tp)
            or is_named_tuple(tp)
            or hasattr(tp, "__struct_fields__")
        )
    )


def _is_unordered(tp: Any) -> bool:
    """Tell whether equal values of a type may differ in their bytes: by the order of keys, or 1 and 1.0."""
    return tp in _UNORDERED or get_origin(tp) in _MAPPINGS or isinstance(tp, TypeVar) or is_typeddict(tp)


_encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
_sorted_keys = Walk(_encode, lambda items: dict(sorted(items, key=lambda item: _encode(item[0]))))


def _with_sorted_keys(data: bytes) -> bytes:
    return _encode(_sorted_keys(msgspec.msgpack.decode(data)))


coders.registry.register_coder(Records, RecordCoder)
coders.registry.register_coder(Values, ValueCoder)

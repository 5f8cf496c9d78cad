"""Record types: reading them from bytes, writing them to bytes, and one canonical encoding.

A record is a dataclass, a pydantic model, a TypedDict, a NamedTuple, a msgspec Struct or a
plain JSON-like value. msgspec does the work; pydantic models bring their own validation and
are recognised by their methods, so that pydantic itself is not imported here.
"""

from __future__ import annotations

from funcpipe_prefect.schema.canonical import (
    KeyCodec,
    canonical_encoder,
    canonical_list_encoder,
    key_codec,
)
from funcpipe_prefect.schema.codecs import JsonCodec, StoreCodec, json_codec, store_codec
from funcpipe_prefect.schema.types import (
    Approximate,
    fields_of,
    is_model,
    is_named_tuple,
    type_name,
    types_within,
)
from funcpipe_prefect.schema.values import coerce, difference, encode_foreign, from_mapping

__all__ = [
    "Approximate",
    "JsonCodec",
    "KeyCodec",
    "StoreCodec",
    "canonical_encoder",
    "canonical_list_encoder",
    "coerce",
    "difference",
    "encode_foreign",
    "fields_of",
    "from_mapping",
    "is_model",
    "is_named_tuple",
    "json_codec",
    "key_codec",
    "store_codec",
    "type_name",
    "types_within",
]

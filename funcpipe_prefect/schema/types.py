"""Record types: their kinds, names and fields, and what stands inside of them."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

__all__ = [
    "Approximate",
    "UNORDERED",
    "field_names",
    "fields_of",
    "hints_of",
    "is_model",
    "is_named_tuple",
    "is_set",
    "names_datetimes",
    "names_sets",
    "type_name",
    "types_within",
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


def is_named_tuple(tp: Any) -> bool:
    """Tell whether a type is a NamedTuple: msgspec reads one from a list, a file holds a mapping."""
    return isinstance(tp, type) and issubclass(tp, tuple) and hasattr(tp, "_field_defaults")


def type_name(tp: Any) -> str:
    """Name a type the way a pipeline file does: `RawDoc`, `list[str]`, `dict[str, int]`."""
    if tp is Any:
        return "Any"
    if tp is None or tp is type(None):
        return "None"
    if isinstance(tp, type) and get_origin(tp) is None:
        return tp.__name__
    return str(tp).replace("typing.", "")


def fields_of(tp: Any) -> Mapping[str, Any]:
    """Give the fields of a record class with their types, Annotated marks included.

    Raises:
        TypeError: The type has no named fields.
    """
    origin, args = get_origin(tp), get_args(tp)
    if isinstance(origin, type) and dataclasses.is_dataclass(origin):
        bound = dict(zip(getattr(origin, "__parameters__", ()), args, strict=False))
        return {name: bound.get(hint, hint) for name, hint in fields_of(origin).items()}
    if tp is Any or not (is_model(tp) or dataclasses.is_dataclass(tp) or hasattr(tp, "__annotations__")):
        raise TypeError(f"{type_name(tp)} has no named fields")
    hints = get_type_hints(tp, include_extras=True)
    names = tuple(tp.model_fields) if is_model(tp) else field_names(tp)
    if names is not None:
        return {name: hints[name] for name in names if name in hints}
    return {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}


def field_names(cls: type) -> tuple[str, ...] | None:
    """Give the fields of a dataclass or Struct, in order; None for other classes."""
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    names: tuple[str, ...] | None = getattr(cls, "__struct_fields__", None)
    return names


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
                kept.extend(hints_of(one).values())


def hints_of(tp: Any) -> Mapping[str, Any]:
    """Give the fields of a class with their types; nothing for one that has none, or whose types are unknown."""
    try:
        return fields_of(tp)
    except (NameError, TypeError):
        return {}


UNORDERED = (set, frozenset, AbstractSet)


def is_set(tp: Any) -> bool:
    """Tell whether a type is a set of whatever kind."""
    return tp in UNORDERED or get_origin(tp) in UNORDERED


def names_sets(tp: Any) -> bool:
    """Tell whether a type declares sets, whose order differs from process to process."""
    return any(map(is_set, types_within(tp)))


def names_datetimes(tp: Any) -> bool:
    """Tell whether a type declares datetimes, which may bear an offset."""
    return datetime.datetime in types_within(tp)

"""What counts of a class of the user's, and of an instance of it."""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
from typing import Any

__all__ = ["class_parts", "state_of"]


def class_parts(cls: type) -> list[Any]:
    """Gather what a class is made of: metaclass, bases, types of fields, their settings, attributes.

    Args:
        cls: A dataclass, pydantic model, TypedDict, msgspec Struct, enum or any other class.

    Returns:
        Values, classes and functions, in an order that does not depend on the source's layout.
    """
    parts: list[Any] = [] if type(cls) is type else [type(cls)]
    parts += [cls.__bases__, _annotations(cls), str(getattr(cls, "__total__", ""))]
    return [*parts, _fields(cls), _attributes(cls)]


def _attributes(cls: type) -> list[tuple[str, Any]]:
    is_enum = isinstance(cls, enum.EnumMeta)
    attributes = []
    for name, value in sorted(vars(cls).items()):
        if isinstance(value, types.FunctionType):
            is_own = value.__code__.co_filename != "<string>"  # or a dataclass made it
        else:
            is_own = not name.startswith("__") and not name.startswith("_abc_")
            is_own = is_own and not (is_enum and name.startswith("_"))
        if is_own:
            is_slot = isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType))
            attributes.append((name, None if is_slot else value))
    return attributes


def _fields(cls: Any) -> list[Any]:
    if dataclasses.is_dataclass(cls):
        switches = str(getattr(cls, "__dataclass_params__", ""))
        return [switches, *map(_field_parts, dataclasses.fields(cls))]
    if hasattr(cls, "__pydantic_decorators__"):
        return _model_parts(cls)
    if isinstance(cls, enum.EnumMeta):
        return [(name, cls.__members__[name].value) for name in cls.__members__]
    if hasattr(cls, "__struct_fields__"):
        config = cls.__struct_config__
        settings = [getattr(config, name) for name in dir(config) if not name.startswith("_")]
        return [cls.__struct_fields__, cls.__struct_defaults__, cls.__struct_encode_fields__, settings]
    return []


def _field_parts(field: dataclasses.Field[Any]) -> tuple[Any, ...]:
    switches = (field.init, field.repr, field.compare, field.hash, field.kw_only)
    return (field.name, switches, field.default, field.default_factory, field.metadata)


def _model_parts(cls: Any) -> list[Any]:
    """Gather the fields of a pydantic model, and what its validators and serializers are for."""
    fields = [
        (name, info.alias, info.default, info.default_factory, info.metadata)
        for name, info in sorted(cls.model_fields.items())
    ]
    decorators = [
        (kind.name, {name: decorator.info for name, decorator in found.items()})
        for kind in dataclasses.fields(cls.__pydantic_decorators__)
        if isinstance(found := getattr(cls.__pydantic_decorators__, kind.name), dict)
    ]
    return [*fields, *decorators]


def _annotations(cls: type) -> list[tuple[str, Any]]:
    own = vars(cls).get("__annotations__", {})
    if not isinstance(own, dict):  # a class written in C
        return []
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception:
        hints = {}
    return [(name, hints.get(name, hint)) for name, hint in sorted(own.items())]


def state_of(item: Any) -> dict[str, Any]:
    """Gather the attributes of an instance, without those that are cached properties, computed or not."""
    cls = type(item)
    slots = [name for base in cls.__mro__ for name in _slots_of(base) if hasattr(item, name)]
    state = {**getattr(item, "__dict__", {}), **{name: getattr(item, name) for name in slots}}
    return {
        name: value
        for name, value in state.items()
        if not isinstance(getattr(cls, name, None), functools.cached_property)
    }


def _slots_of(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__") and name[:2] != "__")

"""`params:` against a signature: names, types, what is missing, and which artifacts are injected."""

from __future__ import annotations

import functools
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from funcpipe_prefect.builder.tags import show
from funcpipe_prefect.config import Config
from funcpipe_prefect.config.places import KeyPath
from funcpipe_prefect.config.wording import shown
from funcpipe_prefect.errors import near_misses
from funcpipe_prefect.ir import Artifact

__all__ = ["bind_params", "hints_of"]


_PLAIN = {"int_type": "a whole number", "float_type": "a number", "bool_type": "true or false"}


def hints_of(call: Callable[..., Any]) -> dict[str, Any]:
    """Give the annotations of a function or of a class's constructor; empty for built-in code.

    A class returns itself, and a partial function has the annotations of the whole one.

    Raises:
        NameError: An annotation names something that is not there.
    """
    target: Any = call
    while isinstance(target, functools.partial):
        target = target.func
    if isinstance(target, type):
        return {**_hints(vars(target).get("__init__", target)), "return": target}
    if not hasattr(target, "__annotations__") and not inspect.isbuiltin(target):
        target = type(target).__call__
    return _hints(target)


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target, include_extras=True)
    except TypeError:
        return {}


def bind_params(
    config: Config,
    path: KeyPath,
    name: str,
    call: Callable[..., Any],
    params: Mapping[str, Any],
    *,
    artifacts: Mapping[str, Artifact],
    skip: int = 1,
) -> tuple[tuple[tuple[str, Any], ...], tuple[Artifact, ...]]:
    """Check parameters against a signature.

    Args:
        config: Receives the problems.
        path: Where the parameters stand in the file.
        name: The function's name, for messages.
        call: The function or class.
        params: Values from the file.
        artifacts: What can be injected, by parameter name.
        skip: How many leading parameters the pipeline itself fills.

    Returns:
        The parameters as converted to the annotated types, in name order, and the artifacts.
    """
    try:
        signature = inspect.signature(call)
        hints = hints_of(call)
    except Exception:  # built-in code, or annotations that are reported where they are used
        return tuple(sorted(params.items())), ()
    takes = [
        parameter
        for parameter in list(signature.parameters.values())[skip:]
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    allowed = {parameter.name: parameter for parameter in takes}
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    bound = {}
    for key, value in params.items():
        if key in allowed or is_open:
            bound[key] = _converted(config, (*path, key), name, value, hints.get(key, Any))
        else:
            config.problem((*path, key), "FP117", "unknown parameter", f'"{key}" of {name}',
                           ", ".join(allowed) or "no parameters", near_misses(key, allowed) if allowed else "remove it")  # fmt: skip
    injected = tuple(artifacts[key] for key in allowed if key in artifacts and key not in params)
    _check_missing(config, path, name, hints, allowed, {*params, *(artifact.name for artifact in injected)})
    return tuple(sorted(bound.items())), injected


def _check_missing(
    config: Config,
    path: KeyPath,
    name: str,
    hints: Mapping[str, Any],
    allowed: Mapping[str, inspect.Parameter],
    ready: set[str],
) -> None:
    for key, parameter in allowed.items():
        if parameter.default is parameter.empty and key not in ready:
            below = f"params: {{{key}: …}}" if path[-1] == "params" else f"{key}:"
            config.problem(path, "FP119", "missing parameter", f"no {key} for {name}",
                           f"{key}: {_wanted(hints.get(key, Any))}", f"add {below}")  # fmt: skip


def _converted(config: Config, path: KeyPath, name: str, value: Any, hint: Any) -> Any:
    if hint is Any:
        return value
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
    except Exception:  # a type that pydantic has no schema for is the function's own affair
        return value
    try:
        return adapter.validate_json(json.dumps(value), strict=not _is_size(hint))
    except ValidationError as error:
        config.problem(path, "FP118", "wrong parameter type", f"{shown(value)} for {path[-1]} of {name}",
                       _wanted(hint), _reason(error, hint))  # fmt: skip
    except (TypeError, ValueError) as error:  # a value from Python that no file could hold
        config.problem(path, "FP118", "wrong parameter type", f"{type(value).__name__} for {path[-1]} of {name}",
                       "plain values", str(error))  # fmt: skip
    return value


def _reason(error: ValidationError, hint: Any) -> str:
    first = error.errors()[0]
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
    if _is_size(hint):
        return "write a number of bytes, or a number with a unit"
    value = first.get("input")
    if first["type"] == "literal_error":
        return near_misses(str(value), [str(choice) for choice in _choices(hint)])
    if first["type"] in _PLAIN:
        is_quoted = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d+)?|true|false", value)
        return f"write it without quotes: {value}" if is_quoted else f"write {_PLAIN[first['type']]}"
    if first["type"] == "string_type" and isinstance(value, (bool, int, float)):
        return f'put it in quotes: "{shown(value)}"'
    words = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if where and where[0] == "[" or where.count(".") > 1:
        return f"at {where}: {words}"
    return f"write {words}" if words.startswith(("a ", "an ")) else f"it must be {words}"


def _choices(hint: Any) -> list[Any]:
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return [choice for part in typing.get_args(hint) for choice in _choices(part)]


def _wanted(hint: Any) -> str:
    if _is_size(hint):
        return "a size such as 16MiB"
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _wanted(args[0])
    if origin is typing.Literal:
        return ", ".join(str(choice) for choice in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_wanted(part) for part in args)
    return "nothing" if hint is type(None) else show(hint)


def _is_size(hint: Any) -> bool:
    return getattr(hint, "__name__", "") == "ByteSize"

"""Whether a function can leave this process and still mean the same: what can be told without calling it."""

from __future__ import annotations

import array
import collections
import dis
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle

from funcpipe_prefect.config import Config
from funcpipe_prefect.config.places import KeyPath
from funcpipe_prefect.fingerprint.origin import is_users
from funcpipe_prefect.fingerprint.reach import closed_over

__all__ = ["check_shippable"]

_MUTABLE = (list, dict, set, bytearray, array.array, collections.deque)


def check_shippable(config: Config, path: KeyPath, name: str, call: Any) -> None:
    """Refuse a closure over what may change, and what cannot be pickled.

    Each worker gets a copy of what a closure holds: it would change there alone, and in another
    way in each of them.

    Args:
        config: Receives the problems.
        path: Where the name stands.
        name: The registered name.
        call: The function, or a monoid, or a sink's function.
    """
    for function in _own_functions(call):
        for variable, value in closed_over(function):
            if isinstance(value, _MUTABLE):
                config.problem(path, "FP308", "closure over a mutable",
                               f"{name} closes over {variable}, a {type(value).__name__}",
                               "a function whose closure holds constants: each worker changes a copy of its own",
                               "hand it in as params:, or freeze it: a tuple, a frozenset, types.MappingProxyType")  # fmt: skip
        for variable in _rebound(function):
            config.problem(path, "FP308", "closure over a mutable", f"{name} assigns to {variable} of the function around it",
                           "a function whose closure holds constants: each worker changes a copy of its own",
                           "return the value, or keep it in the record")  # fmt: skip
    if not _is_nested(call):
        return
    try:
        cloudpickle.dumps(call)
    except Exception as error:
        config.problem(path, "FP309", "function cannot be shipped", f"{name}: {type(error).__name__}: {error}",
                       "a function at the top level of a module, or one whose closure can be pickled",
                       "move it to the top level; make locks, files and clients as an artifact")  # fmt: skip


def _own_functions(call: Any) -> Iterator[types.FunctionType]:
    """Give the user's functions that a callable stands for: partials, methods and decorators opened."""
    waiting: list[Any] = [call]
    seen: set[int] = set()
    for item in waiting:
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, functools.partial):
            waiting.append(item.func)
        elif isinstance(item, types.MethodType):
            waiting.append(item.__func__)
        elif isinstance(item, types.FunctionType):
            waiting += [value for _, value in closed_over(item) if callable(value)]
            waiting.append(getattr(item, "__wrapped__", None))
            if is_users(item.__globals__.get("__name__")):
                yield item


def _rebound(function: types.FunctionType) -> list[str]:
    code = function.__code__
    written = {
        step.argval for step in dis.get_instructions(code) if step.opname in ("STORE_DEREF", "DELETE_DEREF")
    }
    return [variable for variable in code.co_freevars if variable in written]


def _is_nested(call: Callable[..., Any]) -> bool:
    """Tell whether a callable is pickled by what it is, not by a name that a worker could import."""
    while isinstance(call, functools.partial):
        call = call.func
    cls: Any = call if isinstance(call, (types.FunctionType, types.MethodType, type)) else type(call)
    return "<" in getattr(cls, "__qualname__", "")

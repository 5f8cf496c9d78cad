"""What a function's code reaches: globals, attributes of modules, modules that it imports."""

from __future__ import annotations

import dis
import types
from collections.abc import Iterator, Mapping
from typing import Any

from funcpipe_prefect.fingerprint.origin import is_users, is_users_root, known_module, spec_of

__all__ = ["closed_over", "globals_reached", "imports_of", "module_code"]

_IMPORTERS = frozenset({"import_module", "__import__"})
_OF_MODULES = frozenset(
    {"__name__", "__file__", "__doc__", "__package__", "__spec__", "__loader__", "__builtins__", "__path__"}
)
"""What Python sets in every module; `__file__` differs from machine to machine."""


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _codes(const)


def globals_reached(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals that a function's code names, and the attributes it takes of user modules.

    Yields:
        Path and value, such as `helpers.clean` and the function. A user's module itself comes
        where the code does more with it than to take attributes.
    """
    scope = function.__globals__
    names = sorted({name for code in _codes(function.__code__) for name in code.co_names})
    for name in names:
        if name in scope and name not in _OF_MODULES and not _is_users_module(scope[name]):
            yield name, scope[name]
    paths = {path: value for code in _codes(function.__code__) for path, value in _paths(code, scope)}
    yield from sorted(paths.items(), key=lambda item: item[0])


def closed_over(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The variables of a function's closure, with their values; those not assigned yet are left out."""
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield variable, cell.cell_contents
        except ValueError:
            continue


def _paths(code: types.CodeType, scope: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    for index, step in enumerate(steps):
        if step.opname not in ("LOAD_GLOBAL", "LOAD_NAME") or not _is_users_module(scope.get(step.argval)):
            continue
        path, value = step.argval, scope[step.argval]
        for following in steps[index + 1 :]:
            is_taken = following.opname in ("LOAD_ATTR", "LOAD_METHOD") and _is_users_module(value)
            if not is_taken or following.argval not in vars(value):
                break
            path, value = f"{path}.{following.argval}", vars(value)[following.argval]
        yield path, value


def _is_users_module(value: Any) -> bool:
    return isinstance(value, types.ModuleType) and is_users(value.__name__)


def imports_of(code: types.CodeType, package: str | None) -> list[str]:
    """The modules that a function imports while it runs, by absolute name, submodules included."""
    found: set[str] = set()
    for part in _codes(code):
        if not _IMPORTERS.isdisjoint(part.co_names):
            found.update(const for const in part.co_consts if isinstance(const, str) and is_users_root(const))
        base = ""
        recent: list[Any] = []
        for step in dis.get_instructions(part):
            if step.opname in ("LOAD_CONST", "LOAD_SMALL_INT"):
                recent = [*recent[-1:], step.argval]
            elif step.opname == "IMPORT_NAME":
                level = recent[0] if recent and isinstance(recent[0], int) else 0
                base = _absolute(step.argval, level, package)
                found.add(base)
            elif step.opname == "IMPORT_FROM":
                found.add(f"{base}.{step.argval}")
    return sorted({known for name in found if (known := known_module(name))})


def _absolute(name: str, level: int, package: str | None) -> str:
    if not level:
        return name
    base = (package or "").rsplit(".", level - 1)[0]
    return f"{base}.{name}" if name else base


def module_code(name: str) -> tuple[types.CodeType | None, str]:
    """Compile a module without running it; give its code, if it has any, and its package."""
    spec = spec_of(name)
    try:
        code = spec.loader.get_code(name)
    except Exception:
        code = None
    return code, getattr(spec, "parent", "") or ""

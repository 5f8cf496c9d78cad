"""Whose code a module is: the user's own, or a distribution's with its version."""

from __future__ import annotations

import functools
import importlib.metadata
import sys
import sysconfig
from collections.abc import Mapping
from typing import Any

__all__ = ["is_users", "is_users_root", "known_module", "spec_of", "version_of"]

_OWN = "funcpipe_prefect"


def known_module(name: str) -> str:
    """Give a user's module as it is, a library by its top name, and nothing for what is no module."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or not is_users_root(top):
        return top
    return name if spec_of(name) is not None else ""


@functools.cache
def spec_of(name: str) -> Any:
    """Find a module without running it: neither it nor the packages that hold it."""
    place: Any = None
    spec: Any = None
    path = ""
    for step in name.split("."):
        path = f"{path}.{step}" if path else step
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(path, place) if find is not None else None
            if spec is not None:
                break
        if spec is None:
            return None
        place = spec.submodule_search_locations
        if place is None and path != name:
            return None
    return spec


def is_users_root(name: str) -> bool:
    """Tell whether the top of a dotted name is a package of the user's that could be imported."""
    top = name.partition(".")[0]
    spec = spec_of(top) if top.isidentifier() else None
    place = _place_of(spec)
    return place is not None and not _is_library(place)


@functools.cache
def _library_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _is_library(file: str) -> bool:
    parts = file.replace("\\", "/").split("/")
    return file.startswith(_library_roots()) or "site-packages" in parts or "dist-packages" in parts


def is_users(module: Any) -> bool:
    """Tell whether a module is the user's own: neither standard library nor an installed distribution.

    Args:
        module: A `__module__`, which for classes written in C may be no name at all.
    """
    if module is None or module == "__main__":
        return True
    return isinstance(module, str) and _is_own(module)


@functools.cache
def _is_own(module: str) -> bool:
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == "builtins":
        return False
    if top == _OWN:
        return module.startswith(f"{_OWN}.examples")
    loaded = sys.modules.get(module)
    place = _place_of(spec_of(module) if loaded is None else loaded)
    return place is None or not _is_library(place)


def _place_of(module: Any) -> str | None:
    """Give the file of a module or spec; for a namespace package its first folder."""
    file = getattr(module, "__file__", None) or getattr(module, "origin", None)
    folders = getattr(module, "__path__", None) or getattr(module, "submodule_search_locations", None)
    return file or next(iter(folders or ()), None)


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@functools.cache
def version_of(module: str) -> str:
    """The version that stands for a module's code."""
    top = module.partition(".")[0]
    if is_users(module):
        return "user"
    names = _distributions().get(top)
    if not names:
        return f"python-{sys.version_info.major}.{sys.version_info.minor}"
    return ",".join(sorted({f"{name}-{importlib.metadata.version(name)}" for name in names}))

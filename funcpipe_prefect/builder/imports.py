"""Registry modules: which are admitted, importing them, merging what they hold."""

from __future__ import annotations

import fnmatch
import importlib
import os
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from funcpipe_prefect.config import Config, SinkSpec
from funcpipe_prefect.monoid import BUILTIN_MONOIDS
from funcpipe_prefect.registry import Kind, Registry, SinkEntry, SourceEntry, same_entry
from funcpipe_prefect.sinks import BUILTIN_SINKS
from funcpipe_prefect.sketches import SKETCHES
from funcpipe_prefect.sources import BUILTIN_SOURCES
from funcpipe_prefect.statistics import STATISTICS

__all__ = ["ALLOWED_IMPORTS", "MODULE", "gather_registry", "is_admitted"]

ALLOWED_IMPORTS = "PREFECT_INTEGRATIONS_FUNCPIPE_ALLOWED_IMPORTS"
"""Environment variable: comma-separated patterns of modules that `imports:` may name; all by default."""

MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
"""A dotted module name."""


def gather_registry(config: Config, given: Registry | None) -> Registry:
    """Merge built-in entries, the modules under `imports:` and the registry given in Python."""
    merged = Registry()
    merged.entries["monoid"] = {**BUILTIN_MONOIDS, **STATISTICS, **SKETCHES}
    merged.entries["sink"] = dict(BUILTIN_SINKS)
    merged.entries["source"] = dict(BUILTIN_SOURCES)
    home: dict[tuple[str, str], str] = {}
    for index, module in enumerate(config.imports):
        found = _registry_of(config, index, module)
        if found is not None:
            _merge(config, ("imports", index), merged, found, module, home)
    if given is not None:
        _merge(config, (), merged, given, "the registry given in Python", home)
    _add_installed(config, merged)
    return merged


GROUPS: Mapping[Kind, str] = {"sink": "funcpipe_prefect.sinks", "source": "funcpipe_prefect.sources"}
"""Groups of entry points by which installed packages bring sinks and sources."""


def _add_installed(config: Config, merged: Registry) -> None:
    """Add what installed packages offer under names that the file uses and no registry has."""
    used: list[tuple[Kind, str, tuple[Any, ...]]] = [
        ("sink", spec.func, ("operators", index, "func"))
        for index, spec in enumerate(config.operators)
        if isinstance(spec, SinkSpec) and spec.func
    ]
    if config.source is not None and config.source.type:
        used.append(("source", config.source.type, ("source", "type")))
    for kind, name, path in used:
        if merged.get(kind, name) is None:
            found = {point.value: point for point in entry_points(group=GROUPS[kind], name=name)}
            if len(found) > 1:
                config.problem(path, "FP116", "ambiguous name", f"{kind} {name} in {' and in '.join(sorted(found))}",
                               "each name once", "uninstall one of the packages")  # fmt: skip
            for point in [*found.values()][:1]:
                _add_point(config, path, merged, kind, point)


def _add_point(
    config: Config, path: tuple[Any, ...], merged: Registry, kind: Kind, point: EntryPoint
) -> None:
    if not is_admitted(point.module):
        config.problem(path, "FP114", "module is not admitted", f'"{point.module}", which brings the {kind} {point.name}',
                       ", ".join(_patterns()) or "no module", f"add it to {ALLOWED_IMPORTS}")  # fmt: skip
        return
    try:
        loaded = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        config.problem(path, "FP113", "module fails on import", f"{point.value}: {type(error).__name__}: {error}{_origin(error)}",
                       "a package that imports cleanly", "import it in Python to see where it fails")  # fmt: skip
        return
    if kind == "sink" and isinstance(loaded, type):
        loaded = SinkEntry(loaded, bool(getattr(loaded, "idempotent", False)), is_function=False)
    elif kind == "source" and isinstance(loaded, type):
        loaded = SourceEntry(loaded)
    if not isinstance(loaded, SinkEntry if kind == "sink" else SourceEntry):
        config.problem(path, "FP113", f"not a {kind}", f"{point.value}: a {type(loaded).__name__}",
                       f"a class with the methods of a {kind}", "tell the package's authors")  # fmt: skip
        return
    merged.entries[kind][point.name] = loaded


def is_admitted(module: str) -> bool:
    """Tell whether the allow-list admits a module; a pattern admits what is below it, too."""
    return any(fnmatch.fnmatchcase(module, item) or module.startswith(f"{item}.") for item in _patterns())


def _patterns() -> list[str]:
    return [item.strip() for item in os.environ.get(ALLOWED_IMPORTS, "*").split(",") if item.strip()]


def _merge(
    config: Config,
    path: tuple[Any, ...],
    merged: Registry,
    found: Registry,
    origin: str,
    home: dict[tuple[str, str], str],
) -> None:
    for kind, entries in found.entries.items():
        for name, entry in entries.items():
            earlier = home.get((kind, name))
            if earlier and not same_entry(merged.entries[kind][name], entry):
                config.problem(path, "FP116", "ambiguous name", f"{kind} {name} in {earlier} and in {origin}",
                               "each name once", "rename one of them")  # fmt: skip
                continue
            merged.entries.setdefault(kind, {})[name] = entry
            home[kind, name] = origin


def _registry_of(config: Config, index: int, module: str) -> Registry | None:
    path = ("imports", index)
    if not MODULE.fullmatch(module):
        config.problem(path, "FP113", "not a module", f'"{module}"', "a dotted module name, never a file path",
                       "install the module or put its folder on PYTHONPATH, and name it as in an import")  # fmt: skip
        return None
    if not is_admitted(module):
        config.problem(path, "FP114", "module is not admitted", f'"{module}"', ", ".join(_patterns()) or "no module",
                       f"add it to {ALLOWED_IMPORTS}")  # fmt: skip
        return None
    try:
        loaded = importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or module
        config.problem(path, "FP113", "module is missing", f"{module}: no module named {missing}",
                       "an importable module", f"install {missing}, or put its folder on PYTHONPATH")  # fmt: skip
        return None
    except BaseException as error:
        config.problem(path, "FP113", "module fails on import", f"{module}: {type(error).__name__}: {error}{_origin(error)}",
                       "a module that imports cleanly", "import it in Python to see where it fails")  # fmt: skip
        return None
    registry = _attribute(loaded)
    if not isinstance(registry, Registry):
        config.problem(path, "FP115", "module holds no registry", f"{module} without a module-level registry",
                       "registry = Registry()", "define it at the top level of the module")  # fmt: skip
        return None
    return registry


def _attribute(module: Any) -> Any:
    try:
        return getattr(module, "registry", None)
    except Exception:  # a module may define __getattr__
        return None


def _origin(error: BaseException) -> str:
    """Say where an import failed; a syntax error says so itself."""
    trace = error.__traceback__
    if trace is None or isinstance(error, SyntaxError):
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"

"""What every part of the builder needs: the config that takes problems, the registry, known types."""

from __future__ import annotations

import builtins
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from funcpipe_prefect.builder.imports import MODULE, is_admitted
from funcpipe_prefect.builder.params import bind_params, hints_of
from funcpipe_prefect.builder.shipping import check_shippable
from funcpipe_prefect.builder.tags import TagError, parse_tag, record_types
from funcpipe_prefect.config import CombineByKeySpec, CombineSpec, Config, DistinctSpec
from funcpipe_prefect.config.places import KeyPath
from funcpipe_prefect.errors import near_misses
from funcpipe_prefect.ir import Function
from funcpipe_prefect.keyed import KeyValue, WindowedValue
from funcpipe_prefect.registry import Kind, Registry

__all__ = ["Scope"]

_BUILTIN_EXCEPTIONS = [
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)
]
_WORDS: Mapping[str, str] = {"func": "function"}


@dataclass
class Scope:
    """One run of the builder.

    Attributes:
        config: The file's sections; receives the problems.
        registry: Every name that the file may use.
        output: What replaces the sink's path.
        known: Record types by name.
        is_broken: The operator before has a problem, so that what it gives is not known.
    """

    config: Config
    registry: Registry
    output: str | None = None
    known: dict[str, Any] = field(default_factory=dict)
    is_broken: bool = False
    _focus: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        calls = [entry.call for kind in ("func", "lift") for entry in self.registry.of(kind).values()]
        makes = [entry.make for entry in self.registry.of("sink").values() if entry.is_function]
        own = {cls.__name__: cls for cls in (KeyValue, WindowedValue)}
        self.known = {**own, **record_types(iter([*calls, *makes])), **self.registry.of("record")}
        for entry in self.registry.of("source").values():
            if isinstance(entry.record, type):
                self.known.setdefault(entry.record.__name__, entry.record)
        self._imports_failed = any(
            problem.place.path.startswith("$.imports") for problem in self.config.problems
        )

    def look_up(self, path: KeyPath, kind: Kind, name: str | None, key: str) -> Any:
        """Find a registry entry; None, with a problem, when there is none."""
        names = self.registry.names(kind)
        word = _WORDS.get(kind, kind)
        if name is None:
            self.config.missing(path, key, ", ".join(names) or f"the name of a registered {word}")
            return None
        entry = self.registry.get(kind, name)
        if entry is None:
            mend = self._mend_name(kind, name, names)
            if not self._imports_failed or mend.startswith("did you mean"):
                self.config.problem((*path, key), "FP102", f"unknown {word}", f'"{name}"',
                                    ", ".join(names) or f"no {word} is registered", mend)  # fmt: skip
        return entry

    def _mend_name(self, kind: Kind, name: str, names: tuple[str, ...]) -> str:
        mend = near_misses(name, names)
        if mend.startswith("did you mean"):
            return mend
        others: list[Kind] = [other for other, entries in self.registry.entries.items() if name in entries]
        if others:
            word = _WORDS.get(others[0], others[0])
            return f"{name} is registered as a {word}; register it with registry.{kind}, too"
        if names:
            return "use one of these, or add the module that registers it to imports:"
        return "add the module that registers it to imports:"

    def tag(self, text: str | None, path: KeyPath, key: str, *, opaque: bool) -> Any:
        """Read a type tag; Any, with a problem if it is unreadable, when it tells nothing."""
        if text is None:
            return Any
        try:
            return parse_tag(text, self.known, opaque=opaque)
        except TagError as error:
            mend = near_misses(error.name, [*self.known, "FPResult"]) if error.name else ""
            if not mend.startswith("did you mean"):
                mend = "write a name, or FPResult[Name]"
            self.config.problem((*path, key), "FP203", "unreadable type", f'"{text}": {error}',
                                ", ".join(sorted(self.known)) or "a built-in type", mend)  # fmt: skip
            return Any

    def hints(self, path: KeyPath, call: Callable[..., Any]) -> dict[str, Any]:
        """Give a function's annotations; none, with a problem, when they cannot be resolved."""
        try:
            return hints_of(call)
        except Exception as error:
            self.config.problem(self.function_key(path), "FP204", "annotations cannot be resolved",
                                f"{getattr(call, '__name__', call)}: {error}",
                                "annotations whose names exist at run time",
                                "import the type outside of if TYPE_CHECKING")  # fmt: skip
            return {}

    def function_key(self, path: KeyPath) -> KeyPath:
        """Give the path of the key that names an operator's function."""
        if self._focus:
            return (*path[:2], *self._focus)
        spec = self.config.operators[int(path[1])]
        if isinstance(spec, DistinctSpec):
            return (*path, "key")
        return (*path, "lift" if isinstance(spec, (CombineSpec, CombineByKeySpec)) else "func")

    @contextmanager
    def focused(self, *keys: str) -> Iterator[None]:
        """Let problems of a function stand at these keys: an operator may have several functions."""
        self._focus = keys
        try:
            yield
        finally:
            self._focus = ()

    def function(
        self,
        spec: Any,
        path: KeyPath,
        kind: Kind,
        name: str | None,
        *,
        key: str | None = None,
        params: str = "params",
    ) -> Function | None:
        """Find a function or lift and bind its parameters.

        Args:
            spec: The operator in the file.
            path: Where the key stands that names the function.
            kind: What it is registered as.
            name: Its name.
            key: The key that names it; the kind's own by default.
            params: The key that holds its parameters; empty: it has none.
        """
        entry = self.look_up(path, kind, name, key or kind)
        if entry is None:
            return None
        function = self.bound(spec, path, entry.call, name or "", entry.version, params=params)
        return None if function is None else replace(function, uses=entry.uses)

    def bound(
        self,
        spec: Any,
        path: KeyPath,
        call: Callable[..., Any],
        name: str,
        version: str | None = None,
        *,
        params: str = "params",
    ) -> Function | None:
        """Bind a function's parameters and artifacts; None, with a problem, when it is async."""
        if inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
            self.config.problem(self.function_key(path), "FP205", "function is async", f"async def {name}",
                                "a plain function", "run the coroutine inside the function, with asyncio.run")  # fmt: skip
            return None
        check_shippable(self.config, self.function_key(path), name, call)
        artifacts = self.registry.of("artifact")
        given = getattr(spec, params) if params else {}
        place = (*path, params) if params else path
        bound, used = bind_params(self.config, place, name, call, given, artifacts=artifacts)
        for artifact in used:
            check_shippable(
                self.config, self.function_key(path), f"the artifact {artifact.name}", artifact.build
            )
        return Function(name, call, bound, used, version)

    def made(
        self, path: KeyPath, name: str, make: Callable[..., Any], params: Mapping[str, Any]
    ) -> Any:  # fmt: skip
        """Make a source or sink from its parameters, which stand at `path`."""
        count = len(self.config.problems)
        bound, _ = bind_params(self.config, path, name, make, params, artifacts={}, skip=0)
        if len(self.config.problems) > count:
            return None
        try:
            return make(**dict(bound))
        except Exception as error:
            self.config.problem(path, "FP104", "wrong value", f"{name}: {error}", "parameters that it accepts",
                                "change the parameter that it complains of")  # fmt: skip
            return None

    def transient(self, names: list[str], path: KeyPath) -> tuple[type[BaseException], ...]:
        """Find the exceptions that an operator declares as not the record's fault."""
        found: list[type[BaseException]] = []
        for index, name in enumerate(names):
            module, _, attribute = name.rpartition(".")
            here = (*path, "transient", index)
            if module and module not in sys.modules and not is_admitted(module):
                self.config.problem(here, "FP114", "module is not admitted", f'"{module}"',
                                    "a module that was imported already, or that the allow-list admits",
                                    "import it in the module that holds the registry")  # fmt: skip
                continue
            cls = _attribute(module, attribute)
            if isinstance(cls, type) and issubclass(cls, Exception):
                found.append(cls)
            else:
                mend = near_misses(name, _BUILTIN_EXCEPTIONS)
                self.config.problem(here, "FP104", "wrong value", f'"{name}"',
                                    "an exception such as ConnectionError or httpx.TransportError",
                                    mend if mend.startswith("did") else "write its name, with its module if it is not built in")  # fmt: skip
        return tuple(found)


def _attribute(module: str, attribute: str) -> Any:
    if not module:
        return getattr(builtins, attribute, None)
    if not MODULE.fullmatch(module):
        return None
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except Exception:
        return None

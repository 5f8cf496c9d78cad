"""The registry: the names that a pipeline file may use.

A pipeline file never names code. It names entries of registries, and the modules that fill them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, overload

from funcpipe_prefect.fingerprint import pin
from funcpipe_prefect.ir import Artifact
from funcpipe_prefect.monoid import Monoid

__all__ = ["Effect", "Kind", "Registry", "SinkEntry", "SourceEntry", "StrategyEntry"]

F = TypeVar("F", bound=Callable[..., Any])
Kind: TypeAlias = Literal["func", "lift", "monoid", "artifact", "sink", "source", "record", "strategy"]
Effect: TypeAlias = Literal["clock", "randomness", "network", "file", "environment", "process", "global"]


@dataclass(frozen=True)
class FuncEntry:
    """A function or lift.

    Attributes:
        version: When given, stands for its code in stage keys.
        uses: Effects that its author vouches for: they do not change what it gives for a record.
    """

    call: Callable[..., Any]
    version: str | None = None
    uses: tuple[Effect, ...] = ()


@dataclass(frozen=True)
class SinkEntry:
    """A sink: a `RecordSink` class (or factory), or a plain function of one record.

    Attributes:
        trial: Gives parameters for a place below a folder, where the laws may try it.
        visible: Gives what readers see of that place; by default the files in the folder.
    """

    make: Callable[..., Any]
    idempotent: bool
    is_function: bool
    trial: Callable[[str], Mapping[str, Any]] | None = None
    visible: Callable[[str], Any] | None = None


@dataclass(frozen=True)
class SourceEntry:
    """A source: a `RecordSource` class (or factory) and the record type that it declares."""

    make: Callable[..., Any]
    record: Any = None


@dataclass(frozen=True)
class StrategyEntry:
    """A Hypothesis strategy for a type's values, or a function that makes it."""

    record: Any
    make: Any


@dataclass
class Registry:
    """Names to functions, lifts, monoids, artifacts, sinks, sources, record types and strategies.

    Example:
        >>> registry = Registry()
        >>> @registry.func
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> registry.names("func")
        ('double',)
    """

    entries: dict[Kind, dict[str, Any]] = field(default_factory=dict)

    @overload
    def func(self, call: F) -> F: ...
    @overload
    def func(
        self, *, name: str | None = None, version: str | None = None, uses: tuple[Effect, ...] = ()
    ) -> Callable[[F], F]: ...
    def func(
        self,
        call: F | None = None,
        *,
        name: str | None = None,
        version: str | None = None,
        uses: tuple[Effect, ...] = (),
    ) -> Any:
        """Register a function for `Map`, `FlatMap` or `BatchMap`.

        Args:
            call: The function; its first parameter is the record, or the batch.
            name: Its name in pipeline files; the function's own by default.
            version: Stands for the function's code in cache keys, in place of its bytecode.
            uses: Effects that you vouch for, such as `("clock",)` where only a log line tells the time;
                `funcpipe laws` then says nothing of them.

        Raises:
            ValueError: The name is taken by something else.
        """
        return self._decorate("func", call, name, lambda target: FuncEntry(target, version, uses))

    @overload
    def lift(self, call: F) -> F: ...
    @overload
    def lift(
        self, *, name: str | None = None, version: str | None = None, uses: tuple[Effect, ...] = ()
    ) -> Callable[[F], F]: ...
    def lift(
        self,
        call: F | None = None,
        *,
        name: str | None = None,
        version: str | None = None,
        uses: tuple[Effect, ...] = (),
    ) -> Any:
        """Register a lift: what turns a record into a value of a Combine's monoid."""
        return self._decorate("lift", call, name, lambda target: FuncEntry(target, version, uses))

    def monoid(self, name: str, monoid: Monoid[Any] | type, *, version: str | None = None) -> None:
        """Register a monoid: any object with `empty`, `combine` and `commutative`, or its class.

        Args:
            name: Its name in pipeline files.
            monoid: The object or the class.
            version: Stands for the code of its class in cache keys.
        """
        self._add("monoid", name, monoid() if isinstance(monoid, type) else monoid)
        if version is not None:
            pin(monoid if isinstance(monoid, type) else type(monoid), version)

    @overload
    def artifact(self, build: F) -> F: ...
    @overload
    def artifact(self, *, name: str | None = None, version: str | None = None) -> Callable[[F], F]: ...
    def artifact(self, build: F | None = None, *, name: str | None = None, version: str | None = None) -> Any:
        """Register the builder of a read-only resource, injected into functions by parameter name."""
        return self._decorate(
            "artifact", build, name, lambda target: Artifact(name or str(target.__name__), target, version)
        )

    def sink(
        self,
        make: F | None = None,
        *,
        name: str | None = None,
        idempotent: bool = False,
        version: str | None = None,
        trial: Callable[[str], Mapping[str, Any]] | None = None,
        visible: Callable[[str], Any] | None = None,
    ) -> Any:
        """Register a sink: a plain function of one record, or a class with the `RecordSink` methods.

        Args:
            make: The function or class.
            name: Its name in pipeline files.
            idempotent: Writing a record again leaves the same content. Required by the builder.
            version: Stands for its code in cache keys.
            trial: Gives parameters for a place below a folder, where `funcpipe laws` may try the sink.
            visible: Gives what readers see of that place, from the folder; by default its files.
        """
        return self._decorate(
            "sink",
            make,
            name,
            lambda target: SinkEntry(
                _pinned(target, version), idempotent, not isinstance(target, type), trial, visible
            ),
        )

    def source(
        self,
        make: F | None = None,
        *,
        name: str | None = None,
        record: Any = None,
        version: str | None = None,
    ) -> Any:
        """Register a source: a class with the `RecordSource` methods, or a function that makes one.

        Args:
            make: The class; its parameters are the keys of `source:` in the file.
            name: Its `type` in pipeline files.
            record: The type of its records.
            version: Stands for the code of the class in cache keys.
        """

        def entry(target: Any) -> SourceEntry:
            if version is not None and not isinstance(target, type):
                raise ValueError("only a class can have a version as a source: what it makes is in the key")
            return SourceEntry(_pinned(target, version), record)

        return self._decorate("source", make, name, entry)

    def record(self, cls: type, *, name: str | None = None) -> type:
        """Register a record type that no function's annotation mentions."""
        self._add("record", name or cls.__name__, cls)
        return cls

    def strategy(self, record: Any, make: Any = None) -> Any:
        """Register how the laws draw values of a type, in place of what they make of its fields.

        Args:
            record: The type.
            make: A Hypothesis strategy, or a function without parameters that gives one; when left
                out, this is a decorator for such a function.
        """

        def register(target: Any) -> Any:
            name = f"{getattr(record, '__module__', '')}.{getattr(record, '__qualname__', record)}"
            self._add("strategy", name, StrategyEntry(record, target))
            return target

        return register if make is None else register(make)

    def names(self, kind: Kind) -> tuple[str, ...]:
        """List the names of a kind, sorted."""
        return tuple(sorted(self.entries.get(kind, {})))

    def get(self, kind: Kind, name: str) -> Any:
        """Look a name up; None when it is not there."""
        return self.entries.get(kind, {}).get(name)

    def of(self, kind: Kind) -> Mapping[str, Any]:
        """All entries of a kind."""
        return self.entries.get(kind, {})

    def _decorate(self, kind: Kind, target: Any, name: str | None, entry: Callable[[Any], Any]) -> Any:
        def register(item: Any) -> Any:
            if not callable(item):
                raise ValueError(f"@registry.{kind} takes a function or a class, not {type(item).__name__}")
            own = name or getattr(item, "__name__", None)
            if own is None:
                raise ValueError(f"this {type(item).__name__} has no name of its own: give name=...")
            self._add(kind, own, entry(item))
            return item

        return register if target is None else register(target)

    def _add(self, kind: Kind, name: str, entry: Any) -> None:
        known = self.entries.setdefault(kind, {})
        if name in known and not same_entry(known[name], entry):
            raise ValueError(f"the {kind} {name!r} is registered already, as something else")
        known[name] = entry


def _pinned(target: Any, version: str | None) -> Any:
    if version is not None:
        pin(target, version)
    return target


def same_entry(one: Any, other: Any) -> bool:
    """Tell whether two entries are one: equal, or the same definition after a module's reload."""
    return bool(one == other) or (type(one) is type(other) and _home(one) == _home(other) is not None)


def _home(entry: Any) -> tuple[str, str] | None:
    for attribute in ("call", "make", "build"):
        target = getattr(entry, attribute, None)
        if target is not None:
            qualname = getattr(target, "__qualname__", "")
            is_named = qualname and "<" not in qualname and not inspect.isbuiltin(target)
            return (target.__module__, qualname) if is_named else None
    return None

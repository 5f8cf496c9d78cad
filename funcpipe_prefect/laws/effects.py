"""Effects that a function's code can have, and that of the user's code which it reaches.

It counts what code gets hold of, by whatever name, not what things are called. What happens to be
called only through an object that a function is handed is not found here:
`funcpipe_prefect.laws.watch` sees it when it happens.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import re
import sys
import types
import typing
import warnings
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

from funcpipe_prefect.fingerprint.origin import is_users, is_users_root, spec_of
from funcpipe_prefect.fingerprint.reach import module_code
from funcpipe_prefect.laws.bytecode import UNKNOWN, Paths, Place, Reader, qualname
from funcpipe_prefect.laws.known_effects import (
    EFFECTS,
    Effect,
    KnownEffects,
    Sighting,
    attribute_of,
    is_a,
    is_path,
)

__all__ = ["EFFECTS", "Effect", "Finding", "findings"]

_MOST_ITEMS = 1000
"""A container of more items holds data rather than functions: the first ones stand for it."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, types.ModuleType)
_MAPPINGS = (dict, types.MappingProxyType)
_CONTAINERS = (list, tuple, set, frozenset, *_MAPPINGS)
_CALLS = (types.FunctionType, types.MethodType, functools.partial)
_METHODS = (classmethod, staticmethod)
_COMPUTED = (property, functools.cached_property, functools.partialmethod, functools.singledispatchmethod)
_BOUND = (*_METHODS, types.FunctionType, types.ClassMethodDescriptorType, types.MemberDescriptorType)
"""Attributes of a class that only give themselves, bound, when they are asked for."""


class Finding(Sighting):
    """An effect that is read in the bytecode."""


def findings(call: Callable[..., Any]) -> tuple[Finding, ...]:
    """Find the effects of a function and of all the user's code that it reaches.

    Helpers, methods, decorators and modules that it imports when it is called are read too; code of
    libraries is not, and none of the user's is run.

    Args:
        call: A function, method, class, partial or any other callable; one that has no bytecode
            counts by what it is.

    Returns:
        Each place once, sorted.

    Example:
        >>> import uuid
        >>> print(*findings(uuid.uuid4))
        randomness: uuid.uuid4 in uuid4
    """
    walk = _Walk()
    callee = _opened(call)[0]
    name = attribute_of(callee, "__qualname__") or type(callee).__qualname__
    walk.reach(call, Place("", 0, str(name)))
    return walk.finish()


class _Walk:
    """Goes from one of the user's functions to all that it reaches, each once."""

    def __init__(self) -> None:
        self._found: set[Finding] = set()
        self._waiting: deque[tuple[Any, Place]] = deque()
        self._seen: dict[Hashable, Any] = {}
        self._named: set[str] = set()
        self._members: list[tuple[str, Any, Place]] = []
        self._unloaded: dict[str, Any] = {}
        self._known = KnownEffects()

    def finish(self) -> tuple[Finding, ...]:
        """Follow what waits and all that it leads to; a member of a class once its name comes up."""
        while self._waiting:
            while self._waiting:
                self._follow(*self._waiting.popleft())
            members, self._members = self._members, []
            for name, value, place in members:
                if name in self._named or _is_dunder(name):
                    self._waiting.append((value, place))
                else:
                    self._members.append((name, value, place))
        return tuple(sorted(self._found))

    def note(self, effect: Effect, what: str, place: Place) -> None:
        self._found.add(Finding(effect, what, *place))

    def reach(self, value: Any, place: Place) -> bool:
        effect = self._known.of(value)
        if effect is not None:
            self.note(*effect, place)
        elif not is_a(value, _PLAIN):
            self._waiting.append((value, place))
        return effect is not None

    def call_on_unknown(self, name: str) -> None:
        self._named.add(name)

    def define(self, name: str, function: types.FunctionType, place: Place) -> None:
        self._members.append((name, function, place))

    def attribute(self, value: Any, name: str, place: Place) -> Any:
        try:
            if is_a(value, types.ModuleType):
                return self._of_module(value, name)
            found = inspect.getattr_static(value, name)
            is_class = is_a(value, type)
            if is_a(found, _COMPUTED):
                self.reach(found, place)
                return UNKNOWN
            if not is_a(found, _BOUND) or (name in _state(value) and not is_class):
                return found
            return found.__get__(None, value) if is_class else found.__get__(value, type(value))
        except Exception:  # an object may do anything when it is asked
            return UNKNOWN

    def _of_module(self, module: types.ModuleType, name: str) -> Any:
        if name in vars(module):
            return vars(module)[name]
        if is_users(module.__name__):
            return self.module(f"{module.__name__}.{name}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = getattr(module, name)
        self._known = KnownEffects()  # a package may import its modules only now
        return found

    def module(self, name: str) -> Any:
        """Give a module that code imports; one of the user's that is not loaded is read, not run."""
        if sys.modules.get(name) is not None:
            return sys.modules[name]
        if name in self._unloaded:
            return self._unloaded[name]
        if is_users_root(name):
            return self._read_module(name)
        if not self._known.has_some_of(name):
            return UNKNOWN
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = importlib.import_module(name)
        except Exception:
            return UNKNOWN
        self._known = KnownEffects()
        return module

    def _read_module(self, name: str) -> Any:
        if "." in name:
            self.module(name.rpartition(".")[0])
        if spec_of(name) is None or name in self._unloaded:
            return self._unloaded.get(name, UNKNOWN)
        code, package = module_code(name)
        module = self._unloaded[name] = types.ModuleType(name)
        module.__package__ = package
        if code is not None:
            scope = vars(module)
            Reader(self, code, scope, scope, "<module>", Paths(is_named=False), is_run=False).read()
        return module

    def _follow(self, value: Any, place: Place) -> None:
        callee, args, keywords = _opened(value)
        key = (id(callee), *map(id, args), *((name, id(keywords[name])) for name in sorted(keywords)))
        if key in self._seen:
            return
        self._seen[key] = value  # an id is unique only while its object lives
        if is_a(callee, types.FunctionType) and self._known.of(callee) is None:
            self._follow_function(callee, args, keywords, place)
        elif callee is not value:
            self._reach_all((callee, *args, *keywords.values()), place)
        elif is_a(value, type):
            self._follow_class(value, None, place)
        elif is_a(value, (*_METHODS, *_COMPUTED)):
            parts = (attribute_of(value, name) for name in ("fget", "fset", "fdel", "func", "__func__"))
            self._reach_all(parts, place)
        else:
            self._reach_all(_items(value), place)
            if is_users(type(value).__module__):
                self._follow_class(type(value), value, place)
            else:  # it may be a library's wrapper of functions
                held = (item for item in _state(value).values() if is_a(item, _CALLS))
                self._waiting.extend((item, place) for item in held)

    def _reach_all(self, values: Iterable[Any], place: Place) -> None:
        for value in values:
            self.reach(value, place)

    def _follow_function(
        self, function: Any, args: tuple[Any, ...], keywords: Mapping[str, Any], place: Place
    ) -> None:
        code, cells = function.__code__, _cells(function)
        if is_users(function.__globals__.get("__name__")):
            paths = Paths(is_named=_takes_path(function))
            given = {**dict(zip(code.co_varnames, args, strict=False)), **keywords}
            names = {**_defaults(function), **given, **cells}
            name = qualname(code, function.__qualname__)
            Reader(self, code, function.__globals__, names, name, paths).read()
            for method, call in paths.calls if paths.is_named else ():
                self.note("file", f"pathlib.Path.{method}", call)
        else:  # code of a library, around functions of the user's
            self._reach_all((*args, *keywords.values()), place)
            held = (item for item in cells.values() if is_a(item, (*_CALLS, *_CONTAINERS)))
            self._waiting.extend((item, place) for item in held)
        self.reach(_state(function).get("__wrapped__"), place)

    def _follow_class(self, cls: type, instance: Any, place: Place) -> None:
        """Keep attributes for when their names come up, and follow what makes the values of fields."""
        for base in cls.__mro__:
            for name, value in vars(base).items() if is_users(base.__module__) else ():
                is_function = is_a(value, types.FunctionType)
                if is_function and value.__code__.co_filename == "<string>":  # a dataclass made it
                    continue
                if not _is_dunder(name) or is_a(value, (*_CALLS, *_METHODS)):
                    is_bound = is_function and instance is not None
                    member = types.MethodType(value, instance) if is_bound else value
                    self._members.append((name, member, place))
        for field in _fields(cls) if is_users(cls.__module__) else ():
            self._reach_all((attribute_of(field, name) for name in ("default_factory", "factory")), place)


def _fields(cls: type) -> Iterator[Any]:
    """Give what tells the defaults of the fields of a dataclass, pydantic model or msgspec Struct."""
    for name in ("__dataclass_fields__", "__pydantic_fields__", "__struct_defaults__"):
        yield from _items(attribute_of(cls, name))


def _opened(value: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Take partials and bound methods apart: what is called in the end, and with what."""
    args: tuple[Any, ...] = ()
    keywords: dict[str, Any] = {}
    while is_a(value, (functools.partial, types.MethodType)):
        if is_a(value, functools.partial):
            args, keywords, value = (*value.args, *args), {**value.keywords, **keywords}, value.func
        else:
            args, value = (value.__self__, *args), value.__func__
    return value, args, keywords


def _items(value: Any) -> list[Any]:
    """Give the items of a container, without running an `__iter__` of the user's."""
    kind: Any = next((kind for kind in _CONTAINERS if is_a(value, kind)), None)
    if kind is None:
        return []
    items = kind.values(value) if kind in _MAPPINGS else kind.__iter__(value)
    return list(itertools.islice(items, _MOST_ITEMS))


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _state(value: Any) -> Mapping[str, Any]:
    state = attribute_of(value, "__dict__")
    return state if is_a(state, _MAPPINGS) else {}


def _cells(function: types.FunctionType) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            cells[name] = cell.cell_contents
        except ValueError:  # an empty cell
            continue
    return cells


def _defaults(function: types.FunctionType) -> dict[str, Any]:
    """Give the defaults of parameters that are more than data."""
    code, values = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(values) : code.co_argcount]
    defaults = {**dict(zip(names, values, strict=False)), **(function.__kwdefaults__ or {})}
    return {name: value for name, value in defaults.items() if not is_a(value, _PLAIN)}


def _takes_path(function: types.FunctionType) -> bool:
    """Tell whether a function's annotations name `pathlib.Path`, as the class or in a text."""
    scope = function.__globals__
    for hint in dict(attribute_of(function, "__annotations__") or {}).values():
        parts = [hint, *typing.get_args(hint)]
        if isinstance(hint, str):
            names = [text.split(".") for text in re.findall(r"[\w.]+", hint)]
            parts = [functools.reduce(attribute_of, name[1:], scope.get(name[0])) for name in names]
        if any(map(is_path, parts)):
            return True
    return False

"""The walk: every kind of object goes into the hash by what it is."""

from __future__ import annotations

import bisect
import copyreg
import dataclasses
import dis
import enum
import functools
import hashlib
import os
import types
import typing
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

from funcpipe_prefect.fingerprint.classes import class_parts, state_of
from funcpipe_prefect.fingerprint.origin import is_users, version_of
from funcpipe_prefect.fingerprint.reach import globals_reached, imports_of, module_code

__all__ = ["LAYOUT", "fingerprint", "key_of", "pin"]

LAYOUT: Mapping[str, bool] = {"layout": True}
"""Metadata of a dataclass field that says where data lies, not what it is: it stays out of keys."""

_PIN = "__funcpipe_version__"
_JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
_UNSEEN = frozenset({"RESUME", "NOP", "EXTENDED_ARG", "CACHE", "PRECALL"})
_HAS_DOCSTRING = 0x4000000  # a flag of code objects since Python 3.14
_ABOUT = frozenset({"__doc__", "__firstlineno__", "__static_attributes__"})
_METHOD_KINDS = (staticmethod, classmethod, functools.cached_property, functools.partialmethod)
_WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
"""Caches by nature: what is in them at the moment says nothing of the code."""


def key_of(*parts: str) -> str:
    """Hash strings into one hexadecimal key of 64 digits; no two lists of strings collide by joining."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def pin(target: Any, version: str) -> None:
    """Let a version stand for the code of a class or function, wherever it is reached.

    Raises:
        ValueError: It cannot carry a version.
    """
    try:
        setattr(target, _PIN, version)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{target!r} cannot carry a version: {error}") from error


def fingerprint(*objects: Any) -> str:
    """Hash objects by what they are: code by content, values by type and value.

    Args:
        objects: Functions, classes, instances, modules, plain values and containers of them.

    Returns:
        64 hexadecimal digits.
    """
    walk = _Walk()
    for item in objects:
        walk.add(item)
    return walk.finish()


class _Walk:
    """Feeds objects into one hash; an object that was met before counts by its number.

    Functions, classes and instances wait in a queue for their turn, so that a long chain of calls
    does not become a deep recursion.
    """

    def __init__(self, seen: Mapping[int, int] | None = None) -> None:
        self.digest = hashlib.sha256()
        self._seen = dict(seen or {})
        self._kept: list[Any] = []
        self._waiting: deque[Any] = deque()
        self._imports: set[str] = set()

    def _put(self, *parts: object) -> None:
        for part in parts:
            data = str(part).encode("utf-8", "surrogatepass")
            self.digest.update(len(data).to_bytes(4, "big"))
            self.digest.update(data)

    def _apart(self, *items: Any) -> str:
        """Hash items on their own, so that their hashes can be sorted; what was met stays known."""
        walk = _Walk(self._seen)
        for item in items:
            walk.add(item)
        return walk.finish()

    def finish(self) -> str:
        """Hash what waits, and all that it leads to."""
        while self._waiting:
            item = self._waiting.popleft()
            self._put("object", self._seen[id(item)])
            self._add_object(item)
        return self.digest.hexdigest()

    def add(self, item: Any) -> None:
        if type(item) in _PLAIN:
            self._put(type(item).__name__, repr(item))
        elif type(item) in (bytes, bytearray, memoryview):
            self._put("bytes", hashlib.sha256(bytes(item)).hexdigest())
        elif id(item) in self._seen:
            self._put("again", self._seen[id(item)])
        else:
            self._seen[id(item)] = len(self._seen)
            self._kept.append(item)  # an id is unique only while its object lives
            if type(item) in _CONTAINERS:
                self._add_container(item)
                del self._seen[id(item)]  # equal containers count alike, shared or not
            else:
                self._put("object", self._seen[id(item)])
                self._waiting.append(item)

    def _add_object(self, item: Any) -> None:
        if isinstance(item, enum.Enum):
            self._put("enum", item.name)
            self.add((type(item), item.value))
        elif isinstance(item, _BASES):
            self._add_derived(item)
        elif isinstance(item, functools.partial):
            self._put("partial")
            self.add((item.func, item.args, item.keywords))
        elif isinstance(item, types.ModuleType):
            self._add_module(item)
        elif isinstance(item, (typing.TypeVar, typing.NewType)):
            self._put("type variable", item.__name__)
            self.add(
                [getattr(item, name, None) for name in ("__bound__", "__constraints__", "__supertype__")]
            )
        elif typing.get_origin(item) is not None:
            self._put("generic")
            self.add((typing.get_origin(item), typing.get_args(item)))
        elif isinstance(item, (types.FunctionType, types.CodeType, type, types.MethodType)):
            self._add_definition(item)
        elif isinstance(item, (types.BuiltinMethodType, types.MethodWrapperType)):
            self._put("builtin", item.__qualname__)
            self.add(item.__self__)
        elif isinstance(item, types.GeneratorType):
            self._put("generator")
            self.add(item.gi_code)
        elif isinstance(item, property):
            self._put("property")
            self.add((item.fget, item.fset, item.fdel))
        elif isinstance(item, _METHOD_KINDS):
            self._put(type(item).__name__)
            parts: Any = item
            self.add(parts.func if hasattr(item, "func") else parts.__func__)
            self.add((getattr(item, "args", ()), getattr(item, "keywords", {})))
        elif not isinstance(item, _WEAK):
            self._add_instance(item)

    def _add_container(self, item: Any) -> None:
        if isinstance(item, (list, tuple)):
            self._put(type(item).__name__, len(item))
            for part in item:
                self.add(part)
        elif isinstance(item, (set, frozenset)):
            self._put("set", *sorted(map(self._apart, item)))
        else:
            self._put("mapping", len(item))
            for _, key, value in sorted(((self._apart(key), key, item[key]) for key in item), key=_first):
                self.add(key)
                self.add(value)

    def _add_derived(self, item: Any) -> None:
        """Hash an instance of a subclass of a built-in type: class, value and attributes."""
        self.add(type(item))
        base: Any = next(base for base in _BASES if isinstance(item, base))
        if issubclass(base, dict):
            value: Any = {key: dict.__getitem__(item, key) for key in dict.__iter__(item)}
        elif base in _CONTAINERS:
            value = base(base.__iter__(item))
        else:
            value = base.__repr__(item)
        self.add((value, getattr(item, "default_factory", None), state_of(item)))

    def _add_module(self, module: types.ModuleType) -> None:
        """Hash a module that code has at hand as a whole: it may take anything of it."""
        name = module.__name__
        self._put("module", name, version_of(name))
        if not is_users(name) or name == "__main__":
            return
        if module_code(name)[0] is not None:
            self._add_import(name)
        else:
            self.add({key: value for key, value in vars(module).items() if not key.startswith("__")})

    def _add_definition(self, item: Any) -> None:
        if isinstance(item, types.FunctionType):
            self._add_function(item)
        elif isinstance(item, types.CodeType):
            self._add_code(item)
        elif isinstance(item, type):
            self._add_class(item)
        else:
            self._put("method")
            self.add((item.__func__, item.__self__))

    def _add_function(self, function: types.FunctionType) -> None:
        self._put("function", function.__qualname__)
        if _PIN in vars(function):
            self._put("version", vars(function)[_PIN])
            return
        # A decorator of a library copies the user's module name onto its own wrapper.
        module = function.__globals__.get("__name__")
        if is_users(module):
            self._add_code(function.__code__)
            for name, value in globals_reached(function):
                self._put(name)
                self.add(value)
            for name in imports_of(function.__code__, function.__globals__.get("__package__")):
                self._add_import(name)
        else:
            self._put(module, version_of(str(module)))
        if is_users(module) or is_users(function.__module__) or "<locals>" in function.__qualname__:
            self.add((function.__defaults__, function.__kwdefaults__))
            self._add_closure(function)
            self.add(getattr(function, "__wrapped__", None))
            if not _is_dispatcher(function):
                self.add({name: value for name, value in vars(function).items() if name[:2] != "__"})

    def _add_closure(self, function: Any) -> None:
        if _is_dispatcher(function):  # it keeps caches in its closure
            self.add(function.registry)
            return
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:  # an empty cell
                self._put("empty")

    def _add_code(self, code: types.CodeType) -> None:
        flags = code.co_flags & ~_HAS_DOCSTRING
        self._put(
            "code",
            code.co_argcount,
            code.co_posonlyargcount,
            code.co_kwonlyargcount,
            flags,
            *code.co_varnames,
        )
        steps = [step for step in dis.get_instructions(code) if step.opname not in _UNSEEN]
        offsets = [step.offset for step in steps]
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            if following is not None and following.opname == "STORE_NAME" and following.argval in _ABOUT:
                continue
            self._put(step.opname)
            if step.opcode in _JUMPS:
                self._put(bisect.bisect_left(offsets, step.argval))
            elif isinstance(step.argval, types.CodeType):
                self._put(step.argval.co_name)
                self._add_code(step.argval)
            else:
                self._add_constant(step.argval)
        for entry in getattr(dis.Bytecode(code), "exception_entries", ()):
            places = (bisect.bisect_left(offsets, place) for place in (entry.start, entry.end, entry.target))
            self._put("except", *places, entry.depth)

    def _add_constant(self, value: Any) -> None:
        if isinstance(value, (tuple, frozenset)):
            self.add(value)
        else:
            self._put(type(value).__name__, repr(value))

    def _add_import(self, name: str) -> None:
        """Count a module that a function imports when it is called: all its code, loaded or not."""
        self._put("import", name)
        if name in self._imports or not is_users(name):
            self._put(version_of(name))
            return
        self._imports.add(name)
        code, package = module_code(name)
        if code is not None:
            self._add_code(code)
            for further in imports_of(code, package):
                self._add_import(further)

    def _add_class(self, cls: type) -> None:
        self._put("class", cls.__qualname__)
        if _PIN in vars(cls):
            self._put("version", vars(cls)[_PIN])
            return
        if not is_users(cls.__module__):
            if isinstance(cls.__module__, str):  # which it is not for some classes written in C
                self._put(cls.__module__, version_of(cls.__module__))
            return
        self.add(class_parts(cls))

    def _add_instance(self, item: Any) -> None:
        cls = type(item)
        self.add(cls)
        if item is os.environ:
            return
        if dataclasses.is_dataclass(item):
            for field in dataclasses.fields(item):
                if not field.metadata.get("layout"):
                    self._put(field.name)
                    self.add(getattr(item, field.name))
        elif "__wrapped__" in getattr(item, "__dict__", ()):  # a cached function
            self.add(item.__wrapped__)
        elif is_users(cls.__module__) and isinstance(getattr(item, "__dict__", None), dict):
            for name, value in sorted(state_of(item).items()):
                self._put(name)
                self.add(value)
        else:
            self._add_foreign(item)

    def _add_foreign(self, item: Any) -> None:
        """Hash a library's object by what pickling would keep of it, or else by its text."""
        reduce = copyreg.dispatch_table.get(type(item))
        try:
            parts: Any = reduce(item) if reduce else item.__reduce_ex__(4)
            if not isinstance(parts, str):
                parts = (*parts[:3], *(list(rest) for rest in parts[3:5] if rest is not None))
        except Exception:
            text = repr(item)
            self._put(text if " at 0x" not in text else type(item).__qualname__)
        else:
            self.add(parts)
            if isinstance(parts, str) and isinstance(module := getattr(item, "__module__", None), str):
                self._put(module, version_of(module))


_PLAIN = frozenset({type(None), bool, int, float, complex, str})
_CONTAINERS = frozenset({tuple, list, set, frozenset, dict, types.MappingProxyType})
_BASES = (int, float, complex, str, bytes, bytearray, tuple, list, set, frozenset, dict)


def _first(item: tuple[str, Any, Any]) -> str:
    return item[0]


def _is_dispatcher(function: Any) -> bool:
    """Tell whether a function was made by `functools.singledispatch`."""
    return hasattr(function, "registry") and hasattr(function, "dispatch")

"""Stable hashes of code, parameters and types: what a stage key is made of.

A function's fingerprint covers its bytecode (without docstring, file name and line numbers) and
everything of the user's own packages that it reaches: helpers, classes, constants. Third-party
code counts by the version of its distribution, the standard library by Python's version. It is
the same in every process, on every machine and under every `PYTHONHASHSEED`.
"""

from __future__ import annotations

import bisect
import copyreg
import dataclasses
import dis
import enum
import functools
import hashlib
import importlib.metadata
import os
import sys
import sysconfig
import types
import typing
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["LAYOUT", "fingerprint", "key_of"]

LAYOUT: Mapping[str, bool] = {"layout": True}
"""Metadata of a dataclass field that says where data lies, not what it is: it stays out of keys."""

_OWN = "funcpipe_prefect"
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
    return walk.digest.hexdigest()


class _Walk:
    """Feeds objects into one hash; an object that was met before counts by its number."""

    def __init__(self, seen: Mapping[int, int] | None = None) -> None:
        self.digest = hashlib.sha256()
        self._seen = dict(seen or {})
        self._kept: list[Any] = []
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
        return walk.digest.hexdigest()

    def add(self, item: Any) -> None:
        if isinstance(item, _PLAIN) and not isinstance(item, enum.Enum):
            self._put(type(item).__name__, repr(item))
        elif isinstance(item, (bytes, bytearray)):
            self._put("bytes", hashlib.sha256(item).hexdigest())
        elif id(item) in self._seen:
            self._put("again", self._seen[id(item)])
        else:
            self._seen[id(item)] = len(self._seen)
            self._kept.append(item)  # an id is unique only while its object lives
            self._add_object(item)
            if isinstance(item, (tuple, list, dict, set, frozenset)):
                del self._seen[id(item)]  # equal containers count alike, shared or not

    def _add_object(self, item: Any) -> None:
        if isinstance(item, (list, tuple)):
            self._put(type(item).__name__, len(item))
            for part in item:
                self.add(part)
        elif isinstance(item, (set, frozenset)):
            self._put("set", *sorted(map(self._apart, item)))
        elif isinstance(item, (dict, types.MappingProxyType)):
            self._put("mapping", len(item))
            for _, key, value in sorted(((self._apart(key), key, item[key]) for key in item), key=_first):
                self.add(key)
                self.add(value)
        elif isinstance(item, enum.Enum):
            self._put("enum", type(item).__qualname__, item.name)
            self.add(item.value)
        elif isinstance(item, functools.partial):
            self._put("partial")
            self.add((item.func, item.args, item.keywords))
        elif isinstance(item, types.ModuleType):
            self._put("module", item.__name__, _version_of(item.__name__))
        elif typing.get_origin(item) is not None:
            self._put("generic")
            self.add((typing.get_origin(item), typing.get_args(item)))
        elif isinstance(item, (types.FunctionType, types.CodeType, type, types.MethodType)):
            self._add_definition(item)
        elif isinstance(item, (types.BuiltinMethodType, types.MethodWrapperType)):
            self._put("builtin", item.__qualname__)
            self.add(item.__self__)
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
        # A decorator of a library copies the user's module name onto its own wrapper.
        module = function.__globals__.get("__name__")
        if _is_users(module):
            self._add_code(function.__code__)
            for name, value in _globals_reached(function):
                self._put(name)
                self.add(value)
            for name in _imported(function.__code__, function.__globals__.get("__package__")):
                self._add_import(name)
        else:
            self._put(module, _version_of(str(module)))
        if _is_users(module) or _is_users(function.__module__) or "<locals>" in function.__qualname__:
            self.add((function.__defaults__, function.__kwdefaults__))
            self._add_closure(function)
            self.add(getattr(function, "__wrapped__", None))

    def _add_closure(self, function: Any) -> None:
        if hasattr(function, "registry") and hasattr(
            function, "dispatch"
        ):  # singledispatch keeps caches there
            self.add(function.registry)
            return
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:  # an empty cell
                self._put("empty")

    def _add_code(self, code: types.CodeType) -> None:
        flags = code.co_flags & ~_HAS_DOCSTRING
        self._put("code", code.co_argcount, code.co_kwonlyargcount, flags, *code.co_varnames)
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
        if name in self._imports or not _is_users(name):
            self._put(_version_of(name))
            return
        self._imports.add(name)
        code, package = _module_code(name)
        if code is not None:
            self._add_code(code)
            for further in _imported(code, package):
                self._add_import(further)

    def _add_class(self, cls: type) -> None:
        self._put("class", cls.__qualname__)
        if not _is_users(cls.__module__):
            self._put(cls.__module__, _version_of(cls.__module__))
            return
        if type(cls) is not type:
            self.add(type(cls))
        for base in cls.__bases__:
            self.add(base)
        for name, hint in _annotations(cls):
            self._put(name)
            self.add(hint)
        self._put(getattr(cls, "__total__", ""))
        self._add_fields(cls)
        is_enum = isinstance(cls, enum.EnumMeta)
        for name, value in sorted(vars(cls).items()):
            if isinstance(value, types.FunctionType):
                is_own = value.__code__.co_filename != "<string>"  # or a dataclass made it
            else:
                is_own = not name.startswith("__") and not name.startswith("_abc_")
                is_own = is_own and not (is_enum and name.startswith("_"))
            if is_own:
                self._put(name)
                if not isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                    self.add(value)

    def _add_fields(self, cls: Any) -> None:
        if dataclasses.is_dataclass(cls):
            self._put(getattr(cls, "__dataclass_params__", ""))
            for field in dataclasses.fields(cls):
                self._put(field.name, field.init, field.compare, field.kw_only)
                self.add((field.default, field.default_factory))
        elif hasattr(cls, "__pydantic_decorators__"):
            for name, info in sorted(cls.model_fields.items()):
                self._put(name, info.alias)
                self.add((info.default, info.default_factory, info.metadata))
            for kind in dataclasses.fields(cls.__pydantic_decorators__):
                found = getattr(cls.__pydantic_decorators__, kind.name)
                if isinstance(found, dict):
                    self._put(kind.name)
                    self.add({name: decorator.info for name, decorator in found.items()})
        elif isinstance(cls, enum.EnumMeta):
            self.add([(name, cls.__members__[name].value) for name in cls.__members__])
        elif hasattr(cls, "__struct_fields__"):
            self.add((cls.__struct_fields__, cls.__struct_defaults__, cls.__struct_encode_fields__))

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
        elif _is_users(cls.__module__) and isinstance(getattr(item, "__dict__", None), dict):
            for name, value in sorted(_state_of(item).items()):
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


_PLAIN = (type(None), bool, int, float, complex, str)


def _first(item: tuple[str, Any, Any]) -> str:
    return item[0]


def _state_of(item: Any) -> dict[str, Any]:
    """The attributes of an instance, without those that are cached properties, computed or not."""
    cls = type(item)
    slots = [name for base in cls.__mro__ for name in _slots_of(base) if hasattr(item, name)]
    state = {**vars(item), **{name: getattr(item, name) for name in slots}}
    return {
        name: value
        for name, value in state.items()
        if not isinstance(getattr(cls, name, None), functools.cached_property)
    }


def _slots_of(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__") and name[:2] != "__")


def _annotations(cls: type) -> list[tuple[str, Any]]:
    own = vars(cls).get("__annotations__", {})
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception:
        hints = {}
    return [(name, hints.get(name, hint)) for name, hint in sorted(own.items())]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _codes(const)


def _globals_reached(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals that a function's code names, and the attributes it takes of user modules."""
    names = sorted({name for code in _codes(function.__code__) for name in code.co_names})
    scope = function.__globals__
    for name in names:
        if name in scope and not (name.startswith("__") and name.endswith("__")):
            yield name, scope[name]
            if isinstance(scope[name], types.ModuleType):
                yield from _attributes_reached(name, scope[name], names, {name})


def _attributes_reached(
    path: str, module: types.ModuleType, names: list[str], seen: set[str]
) -> Iterator[tuple[str, Any]]:
    if not _is_users(module.__name__):
        return
    for name in names:
        if name in vars(module) and not name.startswith("__"):
            value = vars(module)[name]
            yield f"{path}.{name}", value
            if isinstance(value, types.ModuleType) and value.__name__ not in seen:
                seen.add(value.__name__)
                yield from _attributes_reached(f"{path}.{name}", value, names, seen)


def _imported(code: types.CodeType, package: str | None) -> list[str]:
    """The modules that a function imports while it runs, by absolute name, submodules included."""
    found: set[str] = set()
    for part in _codes(code):
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
    return sorted({known for name in found if (known := _known_module(name))})


def _absolute(name: str, level: int, package: str | None) -> str:
    if not level:
        return name
    base = (package or "").rsplit(".", level - 1)[0]
    return f"{base}.{name}" if name else base


def _known_module(name: str) -> str:
    """Give a user's module as it is, a library by its top name, and nothing for what is no module."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or not _is_users_root(top):
        return top
    return name if _spec_of(name) is not None else ""


@functools.cache
def _spec_of(name: str) -> Any:
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


def _is_users_root(top: str) -> bool:
    spec = _spec_of(top)
    origin = getattr(spec, "origin", None) or next(
        iter(getattr(spec, "submodule_search_locations", ()) or ()), ""
    )
    return bool(origin) and not _is_library(origin)


def _module_code(name: str) -> tuple[types.CodeType | None, str]:
    spec = _spec_of(name)
    try:
        code = spec.loader.get_code(name)
    except Exception:
        code = None
    return code, getattr(spec, "parent", "") or ""


@functools.cache
def _library_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _is_library(file: str) -> bool:
    parts = file.replace("\\", "/").split("/")
    return file.startswith(_library_roots()) or "site-packages" in parts or "dist-packages" in parts


@functools.cache
def _is_users(module: str | None) -> bool:
    """Tell whether a module is the user's own: neither standard library nor an installed distribution."""
    if module is None or module == "__main__":
        return True
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == "builtins":
        return False
    if top == _OWN:
        return module.startswith(f"{_OWN}.examples")
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if loaded is None and (spec := _spec_of(module)) is not None:
        file = spec.origin
    return file is None or not _is_library(file)


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@functools.cache
def _version_of(module: str) -> str:
    """The version that stands for a module's code."""
    top = module.partition(".")[0]
    if _is_users(module):
        return "user"
    names = _distributions().get(top)
    if not names:
        return f"python-{sys.version_info.major}.{sys.version_info.minor}"
    return ",".join(sorted({f"{name}-{importlib.metadata.version(name)}" for name in names}))

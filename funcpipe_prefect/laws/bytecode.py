"""What code gets hold of, read from its bytecode: nothing is run.

The instructions of a code object are read from top to bottom, and the names in them are resolved to
the objects that they stand for. What a function does with an object that it is handed is not known.
"""

from __future__ import annotations

import dis
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from funcpipe_prefect.laws.known_effects import METHODS_OF_PATHS, Effect, is_a, is_path, unseeded

__all__ = ["UNKNOWN", "Listener", "Paths", "Place", "Reader", "qualname"]

UNKNOWN = object()
"""Stands for a value that only a run would tell."""

_NOTED = object()
_COMPREHENSIONS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})
_SILENT = frozenset(
    {"CACHE", "EXTENDED_ARG", "KW_NAMES", "NOP", "NOT_TAKEN", "PRECALL", "PUSH_NULL", "RESUME"}
)


class Place(NamedTuple):
    """Where something is in the user's code."""

    file: str
    line: int
    function: str


class Paths:
    """Whether a function names `pathlib.Path`, and where it may call methods of paths.

    Attributes:
        is_named: What it calls on an object nobody knows counts only if it does.
        calls: Methods and places.
    """

    def __init__(self, *, is_named: bool) -> None:
        self.is_named = is_named
        self.calls: list[tuple[str, Place]] = []


class Listener(Protocol):
    """Hears what a reader finds."""

    def note(self, effect: Effect, what: str, place: Place) -> None:
        """Hear of an effect."""

    def reach(self, value: Any, place: Place) -> bool:
        """Hear of an object that code gets hold of; tell whether that is an effect."""

    def call_on_unknown(self, name: str) -> None:
        """Hear of an attribute that is taken of an object nobody knows."""

    def define(self, name: str, function: types.FunctionType, place: Place) -> None:
        """Hear of a method in the body of a class that is not there yet."""

    def attribute(self, value: Any, name: str, place: Place) -> Any:
        """Give an attribute, or `UNKNOWN`."""

    def module(self, name: str) -> Any:
        """Give a module by its absolute name, or `UNKNOWN`."""


@dataclass
class Reader:
    """Reads one code object from top to bottom, and knows what lies on top of the stack if it can.

    Attributes:
        listener: Whom to tell what is found.
        code: What to read.
        scope: The globals.
        names: What local names and those of enclosing functions stand for.
        function: The qualified name.
        paths: Of the function and of those nested in it.
        is_run: False for a module that nobody has imported yet: what it defines is not there, so
            its functions are made of their code.
    """

    listener: Listener
    code: types.CodeType
    scope: dict[str, Any]
    names: dict[str, Any]
    function: str
    paths: Paths
    is_run: bool = True
    _line: int = field(init=False, default=0)
    _top: Any = field(init=False, default=UNKNOWN)
    _imported: Any = field(init=False, default=UNKNOWN)
    _constants: tuple[Any, Any] = field(init=False, default=(None, None))
    _nested: list[types.CodeType] = field(init=False, default_factory=list)

    def read(self) -> None:
        """Read it, and then the functions and classes that are nested in it."""
        self._line = self.code.co_firstlineno
        for step in dis.get_instructions(self.code):
            self._line = _line_of(step) or self._line
            if step.opname not in _SILENT:
                act = _ACTS.get(step.opname)
                self._top = act(self, step) if act is not None else UNKNOWN
        for code in self._nested:
            names = {name: self.names[name] for name in code.co_freevars if name in self.names}
            function = self.function
            if code.co_name not in _COMPREHENSIONS:
                function = qualname(code, f"{function}.<locals>.{code.co_name}")
            replace(self, code=code, names=names, function=function).read()

    @property
    def _cells(self) -> tuple[str, ...]:
        return (*self.code.co_cellvars, *self.code.co_freevars)

    @property
    def _place(self) -> Place:
        return Place(self.code.co_filename, self._line, self.function)

    def _got(self, value: Any) -> Any:
        if value is UNKNOWN or value is _NOTED:
            return value
        self.paths.is_named |= is_path(value)
        return _NOTED if self.listener.reach(value, self._place) else value

    def _load_local(self, step: dis.Instruction) -> Any:
        value: Any = UNKNOWN
        for name in _names_in(step):
            is_cell = step.opname.startswith("LOAD_FAST") and name in self._cells  # as part of a closure
            value = UNKNOWN if is_cell else self._got(self.names.get(name, UNKNOWN))
        return value

    def _load_global(self, step: dis.Instruction) -> Any:
        builtins = vars(sys.modules["builtins"])
        return self._got(self.scope.get(step.argval, builtins.get(step.argval, UNKNOWN)))

    def _load_name(self, step: dis.Instruction) -> Any:
        return self._load_local(step) if step.argval in self.names else self._load_global(step)

    def _load_attribute(self, step: dis.Instruction) -> Any:
        name, owner = step.argval, self._top
        if name in METHODS_OF_PATHS and is_path(owner):
            self.listener.note("file", f"pathlib.Path.{name}", self._place)
            return _NOTED
        value = owner
        if owner is not UNKNOWN and owner is not _NOTED:
            value = self.listener.attribute(owner, name, self._place)
        if value is UNKNOWN:
            self.listener.call_on_unknown(name)
            if name in METHODS_OF_PATHS:
                self.paths.calls.append((name, self._place))
        return self._got(value)

    def _load_of_super(self, step: dis.Instruction) -> Any:
        self.listener.call_on_unknown(step.argval)
        return UNKNOWN

    def _load_constant(self, step: dis.Instruction) -> Any:
        self._constants = (self._constants[1], step.argval)
        if isinstance(step.argval, types.CodeType) and step.argval.co_name != "__annotate__":
            self._nested.append(step.argval)
        return UNKNOWN

    def _store(self, step: dis.Instruction) -> Any:
        for name, value in zip(_names_in(step), (self._top, UNKNOWN), strict=False):
            if value is UNKNOWN:
                self.names.pop(name, None)
            else:
                self.names[name] = value
        is_in_class = not self.is_run and self.names is not self.scope
        if is_in_class and isinstance(self._top, types.FunctionType):
            self.listener.define(step.argval, self._top, self._place)
        return UNKNOWN

    def _store_and_load(self, step: dis.Instruction) -> Any:
        stored, loaded = step.argval
        self._store(step._replace(argval=stored))
        return self._load_local(step._replace(argval=loaded))

    def _write_global(self, step: dis.Instruction) -> Any:
        self.listener.note("global", f"global {step.argval}", self._place)
        return UNKNOWN

    def _import_name(self, step: dis.Instruction) -> Any:
        level, names = self._constants
        full = step.argval
        if isinstance(level, int) and level:
            base = str(self.scope.get("__package__") or "").rsplit(".", level - 1)[0]
            full = f"{base}.{full}" if full else base
        module = self.listener.module(full)
        self._imported = module if names else self.listener.module(full.partition(".")[0])
        return self._imported

    def _import_from(self, step: dis.Instruction) -> Any:
        if self._imported is UNKNOWN:
            return UNKNOWN
        return self.listener.attribute(self._imported, step.argval, self._place)

    def _swap(self, step: dis.Instruction) -> Any:
        self._imported = self._top  # in `import a.b as c` the module b takes the place of a
        return UNKNOWN

    def _call(self, step: dis.Instruction) -> Any:
        if step.arg == 0 and (name := unseeded(self._top)):
            self.listener.note("randomness", f"{name}()", self._place)
        is_decorated = not self.is_run and is_a(self._top, types.FunctionType)
        return self._top if is_decorated else UNKNOWN

    def _make_function(self, step: dis.Instruction) -> Any:
        code = self._nested[-1] if self._nested else None
        if self.is_run or code is None or code.co_name in _COMPREHENSIONS:
            return UNKNOWN
        if not code.co_flags & inspect.CO_OPTIMIZED or self.code.co_flags & inspect.CO_OPTIMIZED:
            return UNKNOWN  # the body of a class, or what is nested in a comprehension
        self._nested.pop()
        cells = tuple(types.CellType() for _ in code.co_freevars)
        return types.FunctionType(code, self.scope, code.co_name, None, cells)

    def _keep(self, step: dis.Instruction) -> Any:
        return self._top


_ACTS: Mapping[str, Callable[[Reader, dis.Instruction], Any]] = {
    opname: act
    for opnames, act in (
        ("LOAD_FAST LOAD_FAST_CHECK LOAD_FAST_AND_CLEAR LOAD_FAST_LOAD_FAST", Reader._load_local),
        ("LOAD_FAST_BORROW LOAD_FAST_BORROW_LOAD_FAST_BORROW", Reader._load_local),
        ("LOAD_DEREF LOAD_CLASSDEREF LOAD_FROM_DICT_OR_DEREF", Reader._load_local),
        ("LOAD_GLOBAL", Reader._load_global),
        ("LOAD_NAME LOAD_FROM_DICT_OR_GLOBALS", Reader._load_name),
        ("LOAD_ATTR LOAD_METHOD", Reader._load_attribute),
        ("LOAD_SUPER_ATTR", Reader._load_of_super),
        ("LOAD_CONST LOAD_SMALL_INT", Reader._load_constant),
        ("STORE_FAST STORE_DEREF STORE_NAME STORE_FAST_STORE_FAST", Reader._store),
        ("STORE_FAST_LOAD_FAST", Reader._store_and_load),
        ("STORE_GLOBAL DELETE_GLOBAL", Reader._write_global),
        ("IMPORT_NAME", Reader._import_name),
        ("IMPORT_FROM", Reader._import_from),
        ("SWAP ROT_TWO", Reader._swap),
        ("CALL CALL_FUNCTION CALL_METHOD", Reader._call),
        ("MAKE_FUNCTION", Reader._make_function),
        ("SET_FUNCTION_ATTRIBUTE", Reader._keep),
    )
    for opname in opnames.split()
}
"""What to do at an instruction; any other leaves something unknown on the stack."""


def _names_in(step: dis.Instruction) -> tuple[str, ...]:
    return step.argval if isinstance(step.argval, tuple) else (step.argval,)


def qualname(code: types.CodeType, otherwise: str) -> str:
    """Give the qualified name of code, which it has itself since Python 3.11."""
    return str(getattr(code, "co_qualname", otherwise))


def _line_of(step: dis.Instruction) -> int | None:
    positions = getattr(step, "positions", None)  # since Python 3.11
    return positions.lineno if positions is not None else step.starts_line

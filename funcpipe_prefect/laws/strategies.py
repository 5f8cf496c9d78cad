"""Values of record types, drawn by Hypothesis: such as a store can keep, small, the simplest first.

A type is resolved at once and whole, so that one of which no value can be made is named before
anything is drawn. A type that holds itself is unrolled to a depth, at which lists of it are empty
and unions take another branch: so a value ends, and stays small.
"""

from __future__ import annotations

import inspect
import re
import types
from collections import abc, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from pydantic import JsonValue
from typing_extensions import NotRequired, ReadOnly, Required, is_typeddict

from funcpipe_prefect.laws.plain_values import (
    JSON,
    MISSING,
    SCALARS,
    TEXT,
    Bounds,
    DrawnValues,
    bounds_of,
    by_hypothesis,
    impossible,
    is_hashable,
    made_by,
    plain,
    sizes,
    within,
)
from funcpipe_prefect.schema import fields_of, is_model, is_named_tuple, type_name

__all__ = ["mixed", "strategy_for"]

_DEPTH = 3  # of a type that holds itself


def strategy_for(tp: Any, own: Mapping[Any, DrawnValues] = {}) -> DrawnValues:
    """Make the strategy that draws values of a record type.

    Integers fit 64 bits, floats are finite, text has no lone surrogates and datetimes are naive;
    a strategy of the user's own can bring more. What a class refuses to be made of is not drawn.
    Classes that are no records are left to Hypothesis's `from_type`.

    Args:
        tp: The type; `Any` draws JSON-like values.
        own: The user's own strategies by type, which win wherever that type stands, also nested.

    Raises:
        TypeError: No strategy can be made for the type, or for that of a field within.
    """
    loops: set[Any] = set()
    _Maker(own, loops).make(tp)  # finds the types that hold themselves
    values = _Maker(own, loops).make(tp)
    if values.is_empty:
        raise impossible(tp, "each would have to hold another, or what has none")
    return values


def mixed(tp: Any, samples: Sequence[Any], own: Mapping[Any, DrawnValues] = {}) -> DrawnValues:
    """Make the strategy that draws from samples and from their type.

    Args:
        tp: The type. Samples alone are drawn if it tells nothing, or has no strategy.
        samples: Values, which are handed out as they are, not copied.
        own: The user's own strategies by type.

    Raises:
        TypeError: There are no samples, and no strategy can be made for the type.
    """
    if not samples:
        return strategy_for(tp, own)
    chosen = st.sampled_from(list(samples))
    if _is_open(tp) and _given(own, tp) is None:
        return chosen
    try:
        values = strategy_for(tp, own)
    except TypeError:
        return chosen
    # A sample is drawn on top of a value, so that an example shrinks to a value of its own.
    both = st.tuples(values, st.just(MISSING) | chosen)
    return both.map(lambda pair: pair[0] if pair[1] is MISSING else pair[1])


def _is_open(tp: Any) -> bool:
    return any(tp is other for other in (Any, object, JsonValue))


def _given(own: Mapping[Any, DrawnValues], tp: Any) -> DrawnValues | None:
    return own.get(tp) if is_hashable(tp) else None


_LISTS: Mapping[Any, Callable[[Any], Any]] = {
    **dict.fromkeys((list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable), list),
    tuple: tuple,
    deque: deque,
}
_SETS = {set: set, frozenset: frozenset, abc.Set: set, abc.MutableSet: set}
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)


@dataclass(frozen=True)
class _Maker:
    """Makes strategies of types by their kind.

    Attributes:
        own: The user's own strategies.
        loops: Types that hold themselves, as far as they are known; a round of making finds them.
        level: How many more of those may be nested.
        path: Named types that are being made.
        made: Strategies of named types, by type and level.
    """

    own: Mapping[Any, DrawnValues]
    loops: set[Any]
    level: int = _DEPTH
    path: frozenset[Any] = frozenset()
    made: dict[tuple[Any, int], DrawnValues] = field(default_factory=dict)

    def make(self, tp: Any, marks: Sequence[Any] = ()) -> DrawnValues:
        """Make the strategy of a type with the marks that Annotated gives it."""
        own = (_given(self.own, tp), *(mark for mark in marks if isinstance(mark, st.SearchStrategy)))
        values = next((one for one in own if one is not None), None)
        bounds = bounds_of(marks)
        try:
            if values is not None:
                return within(bounds, values)
            values = self._stood_for(tp, marks)
            values = self._of_kind(tp, bounds) if values is None else values
            values.validate()
        except (ImportError, InvalidArgument, ValueError, re.error) as error:
            raise impossible(tp, str(error)) from error
        return values

    def _stood_for(self, tp: Any, marks: Sequence[Any]) -> DrawnValues | None:
        """Make the strategy of a type that only stands for others."""
        origin, args = get_origin(tp) or tp, get_args(tp)
        if origin is Annotated:
            return self.make(args[0], (*tp.__metadata__, *marks))
        if origin is Final:
            return self.make(args[0], marks)
        if hasattr(tp, "__supertype__"):  # NewType
            return self.make(tp.__supertype__, marks)
        if origin in (Union, types.UnionType):
            nothing_first = sorted(args, key=lambda one: one is not type(None))
            return st.one_of(*(self.make(one, marks) for one in nothing_first))
        if isinstance(tp, TypeVar):
            return st.one_of(*(self.make(one, marks) for one in tp.__constraints__ or (tp.__bound__ or Any,)))
        if hasattr(origin, "__value__"):  # type X = ...
            value = _filled(origin.__value__, origin.__type_params__, args)
            return None if _is_open(tp) else self._named(tp, lambda inside: inside.make(value, marks))
        return None

    def _of_kind(self, tp: Any, bounds: Bounds) -> DrawnValues:
        origin, args = get_origin(tp) or tp, get_args(tp)
        if not is_hashable(origin):
            raise impossible(tp)
        if _is_open(tp):
            return JSON
        if tp is None or origin is Literal:
            return st.sampled_from(args or (None,))
        values = self._container(tp, bounds)
        if values is None and isinstance(tp, type) and not args:
            values = plain(tp, bounds)
        if values is None and isinstance(origin, type):
            fields = _fields(origin)
            if fields is not None:
                return self._named(tp, lambda inside: inside._record(origin, args, fields))
        return by_hypothesis(tp) if values is None else values

    def _container(self, tp: Any, bounds: Bounds) -> DrawnValues | None:
        origin, args = get_origin(tp) or tp, get_args(tp) or (Any, ...)
        if origin is tuple and (args[1:] != (...,) or tp == tuple[()]):
            return st.tuples(*map(self.make, get_args(tp)))
        if origin in _LISTS:
            inner = self.make(args[0])
            return _many(partial(st.lists, inner), bounds, inner).map(_LISTS[origin])
        if origin in _SETS:
            inner = self._hashable(args[0], SCALARS)
            return _many(partial(st.sets, inner), bounds, inner).map(_SETS[origin])
        if origin in _MAPPINGS:
            keys, values = self._hashable(args[0], TEXT), self.make(Any if args[1] is ... else args[1])
            return _many(partial(st.dictionaries, keys, values), bounds, keys, values)
        return None

    def _hashable(self, tp: Any, values_of_any: DrawnValues) -> DrawnValues:
        if _is_open(tp) and _given(self.own, tp) is None:
            return values_of_any
        if getattr(get_origin(tp) or tp, "__hash__", None) is None:
            raise impossible(tp, "they cannot be hashed, as the elements of a set and keys must")
        return self.make(tp).filter(is_hashable)

    def _named(self, tp: Any, make: Callable[[_Maker], DrawnValues]) -> DrawnValues:
        """Make the strategy of a type that may hold itself: where it does, the level falls."""
        if tp in self.path:
            self.loops.add(tp)
        level = self.level - (tp in self.loops)
        if level < 0:
            return st.nothing()
        if (tp, level) not in self.made:
            self.made[tp, level] = make(replace(self, level=level, path=self.path | {tp}))
        return self.made[tp, level]

    def _record(self, cls: Any, args: tuple[Any, ...], fields: Sequence[_Field]) -> DrawnValues:
        def build(drawn: tuple[Any, ...]) -> Any:
            pairs = zip(fields, drawn, strict=True)
            return cls(**{one.key: value for one, value in pairs if value is not MISSING})

        return made_by(build, st.tuples(*(self._of_field(cls, args, one) for one in fields)))

    def _of_field(self, cls: Any, args: tuple[Any, ...], one: _Field) -> DrawnValues:
        hint = _filled(one.hint, getattr(cls, "__parameters__", ()), args)
        try:
            values = self.make(hint, one.marks)
        except TypeError as error:
            raise TypeError(f"{type_name(cls)}.{one.name}: {error}") from error
        return st.just(MISSING) | values if one.may_lack else values


def _many(make: Callable[..., DrawnValues], bounds: Bounds, *inner: DrawnValues) -> DrawnValues:
    limits = sizes(bounds)
    if any(one.is_empty for one in inner):
        return st.nothing() if limits["min_size"] else make(max_size=0)
    return make(**limits)


def _filled(hint: Any, names: Sequence[Any], args: Sequence[Any]) -> Any:
    """Put the arguments of a generic type where their names stand in the type of a field."""
    given = dict(zip(names, args, strict=False))
    if isinstance(hint, TypeVar):
        return given.get(hint, hint)
    inner = () if isinstance(hint, type) or not given else getattr(hint, "__parameters__", ())
    return hint[tuple(given.get(name, name) for name in inner)] if inner else hint


class _Field(NamedTuple):
    """A field of a record class, and by which key its value is given."""

    name: str
    key: str
    hint: Any
    marks: Sequence[Any] = ()
    may_lack: bool = False


def _fields(cls: type) -> list[_Field] | None:
    """Give the fields that a record is made of; None for what is no record class."""
    try:
        if is_typeddict(cls):
            return [_item(cls, name, hint) for name, hint in fields_of(cls).items()]
        if is_model(cls):
            cls.model_rebuild(raise_errors=False)  # type: ignore[attr-defined]
        if hasattr(cls, "__pydantic_fields__"):
            return list(_validated(cls))
        if is_dataclass(cls) or is_named_tuple(cls) or hasattr(cls, "__struct_fields__"):
            return list(_arguments(cls))
    except NameError as error:
        raise TypeError(f"{type_name(cls)}: {error}") from error
    return None


def _item(cls: Any, name: str, hint: Any) -> _Field:
    kinds = []
    while get_origin(hint) in (Required, NotRequired, ReadOnly):
        kinds.append(get_origin(hint))
        hint = get_args(hint)[0]
    is_optional = name in cls.__optional_keys__ and Required not in kinds
    return _Field(name, name, hint, may_lack=is_optional or NotRequired in kinds)


def _validated(cls: Any) -> Iterator[_Field]:
    """Give the fields of a pydantic class, each with the alias under which it is read."""
    config = cls.model_config if is_model(cls) else cls.__pydantic_config__
    by_name = config.get("populate_by_name") or config.get("validate_by_name")
    for name, one in cls.__pydantic_fields__.items():
        alias = name if by_name or one.validation_alias is None else one.validation_alias
        key = next((key for key in getattr(alias, "choices", [alias]) if isinstance(key, str)), None)
        if key is None:
            raise TypeError(
                f"{type_name(cls)}.{name}: it is read from a path, so give a strategy of your own for the class"
            )
        if one.init is not False:
            yield _Field(name, key, one.annotation, one.metadata, may_lack=not one.is_required())


def _arguments(cls: type) -> Iterator[_Field]:
    hints = fields_of(cls)
    for name, one in inspect.signature(cls).parameters.items():
        if name in hints:
            yield _Field(name, name, hints[name])
        elif one.default is one.empty:
            raise TypeError(f"{type_name(cls)}.{name}: its type is not told")

"""Making a failing example smaller, whichever way it was found.

Each part of a value is made smaller in its place: an attempt at a part is an attempt at the whole
value with that part in it, and counts when the whole still fails.

Source: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input" (2002), for
removing ever smaller pieces.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import math
from collections.abc import Callable, Sequence, Sized
from typing import Any, TypeAlias

import msgspec

from funcpipe_prefect.schema import is_model, is_named_tuple

__all__ = ["shrink"]

_Attempt: TypeAlias = Callable[[Any], bool]
"""Tries a smaller value; tells whether it still fails and so takes the place of the larger one."""

_PLAIN = "a0 "
"""The characters that a text is made plainer with, the plainest first."""


def shrink(value: Any, still_fails: Callable[[Any], bool], *, most_tries: int = 300) -> Any:
    """Make a failing example smaller as long as it fails, step by step.

    Types stay: a text becomes a shorter text, never None, and a record one of the same class that
    its class accepts. A raising `still_fails` counts as not failing. It gets copies.

    Args:
        value: The example, for which `still_fails` is true. It is not changed.
        still_fails: Tells whether an example fails.
        most_tries: How many times to call it at most.

    Returns:
        The smallest failing example found: `value` if there is no smaller one.

    Example:
        >>> shrink([3, 17, 250, 8], lambda numbers: max(numbers, default=0) > 9)
        [10]
        >>> shrink("some <b>bold</b> text", lambda text: "<b>" in text)
        '<b>'
    """
    search = _Search(value, still_fails, most_tries)
    before = None
    while search.smallest is not before and search.left > 0:
        before = search.smallest
        try:
            _make_smaller(before, search.attempt)
        except Exception:  # a value that contains itself, or cannot be looked into
            break
    return search.smallest


class _Search:
    def __init__(self, value: Any, still_fails: Callable[[Any], bool], most_tries: int) -> None:
        self.smallest = value
        self.left = most_tries
        self._still_fails = still_fails

    def attempt(self, candidate: Any) -> bool:
        if self.left <= 0:
            return False
        try:
            shown = copy.deepcopy(candidate)
        except Exception:
            shown = candidate
        self.left -= 1
        try:
            is_failing = bool(self._still_fails(shown))
        except Exception:
            return False
        if is_failing:
            self.smallest = candidate
        return is_failing


def _make_smaller(value: Any, attempt: _Attempt) -> None:
    """Attempt ever smaller values of the same type."""
    if isinstance(value, enum.Enum):
        return
    fields = _fields_of(value)
    if fields is not None:
        _shrink_record(value, *fields, attempt)
        return
    for kinds, shrinker in _SHRINKERS:
        if isinstance(value, kinds):
            shrinker(value, attempt)
            return


def _through(make: Callable[[Any], Any], attempt: _Attempt) -> _Attempt:
    """Attempt what is made of a candidate; one that cannot be made does not fail."""

    def attempt_made(candidate: Any) -> bool:
        try:
            made = make(candidate)
        except Exception:
            return False
        return attempt(made)

    return attempt_made


def _shrink_number(value: Any, attempt: _Attempt) -> None:
    """Attempt 0 and 1, then the other sign, no fraction, and ever smaller steps towards 0."""
    attempt = _through(type(value), attempt)
    if value == 0 or attempt(0) or value == 1 or attempt(1):
        return
    if value < 0 and attempt(-value):
        value = -value
    if isinstance(value, float) and not math.isfinite(value):
        return
    whole = int(value)
    if whole != value and (whole in (0, 1) or not attempt(whole)):
        return
    size, sign = abs(whole), 1 if whole > 0 else -1
    bound = 2
    while bound < size:
        if attempt(sign * bound):
            size = bound
        bound *= bound
    step = size // 2
    while step:
        while size > step and attempt(sign * (size - step)):
            size -= step
        step //= 2


def _shrink_text(value: Any, attempt: _Attempt) -> None:
    attempt = _through(type(value), attempt)
    text = _with_less(value[:], attempt)
    plain = _PLAIN if isinstance(text, str) else _PLAIN.encode()
    letters = [plain[place : place + 1] for place in range(len(plain))]
    strange = [place for place in range(len(text)) if text[place : place + 1] not in letters]
    if len(strange) > 1 and attempt(letters[0] * len(text)):
        return
    for place in strange:
        for letter in letters:
            if attempt(candidate := text[:place] + letter + text[place + 1 :]):
                text = candidate
                break


def _with_less(items: Any, attempt: _Attempt) -> Any:
    """Leave out everything, halves, and ever smaller pieces, down to single items."""
    size = len(items)
    while size:
        start = 0
        while start < len(items):
            if attempt(candidate := items[:start] + items[start + size :]):
                items = candidate
            else:
                start += size
        size = min(size // 2, len(items))
    return items


def _shrink_collection(value: Any, attempt: _Attempt) -> None:
    """Leave out items, then make those smaller that are left."""
    items = list(value)
    if isinstance(value, (set, frozenset)):
        items.sort(key=lambda item: (len(repr(item)), repr(item)))
    attempt = _through(lambda items: _filled(value, items), attempt)
    _shrink_items(_with_less(items, attempt), attempt)


def _shrink_mapping(value: Any, attempt: _Attempt) -> None:
    """Leave out entries, then make values smaller; keys stay as they are."""
    attempt = _through(lambda pairs: _filled(value, dict(pairs)), attempt)
    pairs = _with_less(list(value.items()), attempt)
    keys = [key for key, _ in pairs]
    _shrink_items([item for _, item in pairs], _through(lambda items: zip(keys, items, strict=True), attempt))


def _filled(value: Any, items: Any) -> Any:
    """Make a collection of the same type with other items."""
    if isinstance(value, (tuple, frozenset)):
        return type(value)(items)
    other = copy.copy(value)
    other.clear()
    (other.extend if isinstance(other, (list, collections.deque)) else other.update)(items)
    return other


def _shrink_record(value: Any, names: Sequence[str], replace: Callable[..., Any], attempt: _Attempt) -> None:
    def made(parts: Sequence[Any]) -> Any:
        changes = dict(zip(names, parts, strict=True))
        other = replace(value, **changes)
        for name, part in changes.items():
            kept = getattr(other, name)
            if part is not getattr(value, name) and (type(kept) is not type(part) or kept != part):
                raise ValueError(f"{name} does not stay as it is given, so that nothing would get smaller")
        return other

    _shrink_items([getattr(value, name) for name in names], _through(made, attempt))


def _shrink_items(items: list[Any], attempt: _Attempt) -> None:
    """Empty each item that can be empty, lest one take all tries; then shrink each, long ones last."""

    def attempt_at(place: int) -> _Attempt:
        def attempt_item(item: Any) -> bool:
            is_failing = attempt([*items[:place], item, *items[place + 1 :]])
            if is_failing:
                items[place] = item
            return is_failing

        return attempt_item

    for place, item in enumerate(items):
        if type(item) in _EMPTIED and item:
            attempt_at(place)(type(item)())
    for place in sorted(range(len(items)), key=lambda place: _length(items[place])):
        _make_smaller(items[place], attempt_at(place))


def _length(item: Any) -> int:
    return len(item) if isinstance(item, Sized) else 0


def _fields_of(value: Any) -> tuple[Sequence[str], Callable[..., Any]] | None:
    """Give the names of a record's fields, and what makes a record with some of them replaced."""
    cls = type(value)
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls) if field.init], dataclasses.replace
    if is_named_tuple(cls):
        return value._fields, cls._replace
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__, msgspec.structs.replace
    return (tuple(cls.model_fields), _revalidated) if is_model(cls) else None


def _revalidated(model: Any, **changes: Any) -> Any:
    """Make a pydantic model with some fields replaced, if its validators accept them."""
    cls = type(model)
    words = dict(model.model_extra or {})
    for name, field in cls.model_fields.items():
        alias = field.validation_alias if isinstance(field.validation_alias, str) else name
        words[alias] = changes.get(name, getattr(model, name))
    return cls.model_validate(words)


_EMPTIED = (bool, int, float, str, bytes, list, tuple, set, frozenset, dict)

_SHRINKERS: Sequence[tuple[tuple[type, ...], Callable[[Any, _Attempt], None]]] = (
    ((int, float), _shrink_number),
    ((str, bytes, bytearray), _shrink_text),
    ((list, tuple, set, frozenset, collections.deque), _shrink_collection),
    ((dict,), _shrink_mapping),
)
"""What makes values of these types, and of types derived from them, smaller; the first counts."""

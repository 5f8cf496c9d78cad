"""Totals of single values, as a backend makes them from what a lift gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def unit(monoid: Any, value: Any, place: Any = 0) -> Any:
    """Make the total of one value."""
    if hasattr(monoid, "unit_at"):
        return monoid.unit_at(value, f"file:{place}")
    return monoid.unit(value)


def units(monoid: Any, values: Sequence[Any]) -> list[Any]:
    """Make the total of each value, at places that count from 0."""
    return [unit(monoid, value, place) for place, value in enumerate(values)]

"""How a call of a user's function ended, in a form that two calls can be compared by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from funcpipe_prefect.laws.same import same_records
from funcpipe_prefect.result import Err, Ok

__all__ = ["Ending", "ending_of"]


@dataclass(frozen=True)
class Ending:
    """A value, or an error as text: what the function raised, or the reason of its `Err`."""

    value: Any = None
    error: str = ""

    def agrees(self, other: Ending) -> bool:
        """Tell whether both calls gave the same."""
        return self.error == other.error and (bool(self.error) or same_records(self.value, other.value))

    def __str__(self) -> str:
        shown = self.error or _shown(self.value)
        return shown if len(shown) <= 200 else f"{shown[:197]}..."


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def ending_of(call: Callable[..., Any], *arguments: Any) -> Ending:
    """Call a function; read a generator to its end, take `Ok` off, and turn failures into text."""
    try:
        return _settled(call(*arguments))
    except Exception as error:
        return Ending(error=f"raised {type(error).__name__}: {error}")


def _settled(result: Any) -> Ending:
    if isinstance(result, Ok):
        result = result.value
    if isinstance(result, Err):
        return Ending(error=f"Err({_shown(result.error)})")
    if isinstance(result, Iterator):
        result = list(result)
    if isinstance(result, list):
        return Ending([item.value if isinstance(item, Ok) else item for item in result])
    return Ending(result)

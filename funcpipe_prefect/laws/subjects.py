"""What function laws are checked on: a function with its parameters, and the records it gets."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from funcpipe_prefect.builder.params import hints_of
from funcpipe_prefect.builder.tags import element_of, unwrap
from funcpipe_prefect.ir import Function
from funcpipe_prefect.kernel import bind
from funcpipe_prefect.laws.ending import Ending, ending_of
from funcpipe_prefect.laws.paste import Pasted, paste
from funcpipe_prefect.laws.search import Effort, Values, drawn_from

__all__ = ["Subject", "first_type", "function_of", "name_of", "subject_of"]


@dataclass(frozen=True)
class Subject:
    """A function under test.

    Attributes:
        name: How verdicts call it.
        function: With parameters and artifacts; `uses` says which effects its author vouches for.
        values: What it is called with: records, or lists of them for a batch function.
        effort: How hard to look.
    """

    name: str
    function: Function
    values: Values
    effort: Effort = Effort()

    def ending(self, value: Any) -> Ending:
        """Call the function here."""
        return ending_of(lambda record: bind(self.function)(record), value)

    @functools.cached_property
    def pasted(self) -> Pasted:
        """The function as Python source, with its parameters and artifacts in place."""
        call = paste(self.function.call)
        words = {name: paste(value) for name, value in self.function.params}
        for artifact in self.function.artifacts:
            build = paste(artifact.build)
            words[artifact.name] = Pasted(f"{build.expression}()", build.imports)
        if not words:
            return call
        given = ", ".join(f"{name}={word.expression}" for name, word in words.items())
        imports = frozenset({"import functools"}).union(
            call.imports, *(word.imports for word in words.values())
        )
        return Pasted(f"functools.partial({call.expression}, {given})", imports)


def name_of(call: Any) -> str:
    """Name a function, an object or its class."""
    while isinstance(call, functools.partial):
        call = call.func
    return str(getattr(call, "__name__", None) or type(call).__name__)


def function_of(call: Callable[..., Any] | Function, uses: tuple[str, ...] = ()) -> Function:
    """Wrap a plain function."""
    return call if isinstance(call, Function) else Function(name_of(call), call, uses=uses)


def subject_of(
    call: Callable[..., Any] | Function, values: Any, effort: Effort, *, uses: tuple[str, ...] = ()
) -> Subject:
    """Make the subject of a function that a user gives.

    Args:
        call: The function.
        values: A strategy, a type, or samples; by default the type of its first parameter.
        effort: How hard to look.
        uses: Effects that the author vouches for.

    Raises:
        TypeError: The function does not say what it takes, and neither does `values`.
    """
    function = function_of(call, uses)
    return Subject(
        function.name,
        function,
        drawn_from(first_type(function.call) if values is None else values),
        effort,
    )


def first_type(call: Callable[..., Any], *, is_batch: bool = False) -> Any:
    """Give the type of a function's first parameter; of its elements for a batch function.

    Raises:
        TypeError: The function does not say what it takes.
    """
    first = next(iter(inspect.signature(call).parameters), None)
    hints = hints_of(call)
    if first not in hints:
        raise TypeError(
            f"{name_of(call)} does not say what it takes: annotate its parameter, or give records"
        )
    hint = unwrap(hints[first])
    return element_of(hint) if is_batch else hint

"""Record operators: functions and types, checked against each other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from funcpipe_prefect.builder.scope import Scope
from funcpipe_prefect.builder.tags import Opaque, codec_type, element_of, fits, show, unwrap
from funcpipe_prefect.config import BatchMapSpec, FilterSpec, FlatMapSpec, MapSpec
from funcpipe_prefect.config.places import KeyPath
from funcpipe_prefect.ir import BatchMap, Filter, FlatMap, Function, Limit, Map, Operator

__all__ = ["annotated_output", "build_record_operator", "input_type", "passed_type"]


def build_record_operator(
    scope: Scope, spec: MapSpec | FlatMapSpec | BatchMapSpec | FilterSpec, path: KeyPath, produced: Any
) -> Operator | None:
    """Build a Map, FlatMap, BatchMap or Filter.

    Args:
        scope: Receives the problems.
        spec: The operator in the file.
        path: Where it stands.
        produced: The type of the records that reach it.

    Returns:
        The operator, or None when there is no function to build it from.
    """
    transient = scope.transient(spec.transient, path)
    function = scope.function(spec, path, "func", spec.func)
    if function is None:
        scope.tag(spec.in_type, path, "in_type", opaque=True)
        scope.tag(spec.out_type, path, "out_type", opaque=True)
        return None
    in_type = input_type(scope, spec, path, function, produced)
    common: dict[str, Any] = {
        "name": spec.name or "",
        "func": function,
        "error_policy": spec.error_policy,
        "limits": tuple(Limit(name, rate) for name, rate in spec.limits.items()),
        "in_type": in_type,
        "out_type": (
            passed_type(scope, spec, path, in_type, produced)
            if isinstance(spec, FilterSpec)
            else _output_type(scope, spec, path, function)
        ),
        "transient": transient,
    }
    match spec:
        case MapSpec():
            return Map(**common)
        case FlatMapSpec():
            return FlatMap(**common)
        case BatchMapSpec():
            return BatchMap(**common, max_batch_size=spec.max_batch_size)
        case FilterSpec():
            return Filter(**common)


def passed_type(scope: Scope, spec: Any, path: KeyPath, in_type: Any, produced: Any) -> Any:
    """Give the type of records that an operator passes on as they are."""
    known = in_type if codec_type(produced) is Any else produced
    if spec.out_type is None:
        return known
    tagged = scope.tag(spec.out_type, path, "out_type", opaque=codec_type(known) is Any)
    if not fits(known, tagged):
        scope.config.problem((*path, "out_type"), "FP202", "type differs from the input's", show(tagged),
                             f"{show(known)}: the records go on as they are", "leave out_type out")  # fmt: skip
    return known if codec_type(known) is not Any else tagged


def input_type(scope: Scope, spec: Any, path: KeyPath, function: Function, produced: Any) -> Any:
    """Give the type that an operator takes: its tag and its function's annotation must agree."""
    annotated = _annotated_input(scope, path, function.call, batch=isinstance(spec, BatchMapSpec))
    if spec.in_type is None:
        return produced if annotated is None else annotated
    tagged = scope.tag(spec.in_type, path, "in_type", opaque=annotated is None)
    if annotated is None:
        return tagged
    if tagged is Any:
        return annotated
    if not fits(tagged, annotated):
        _differs(scope, path, "in_type", function, tagged, annotated)
        return annotated
    return annotated if isinstance(tagged, Opaque) else tagged


def _output_type(
    scope: Scope, spec: MapSpec | FlatMapSpec | BatchMapSpec, path: KeyPath, function: Function
) -> Any:
    annotated = _annotated_output(scope, spec, path, function)
    if spec.out_type is None:
        return Any if annotated is None else annotated
    tagged = scope.tag(spec.out_type, path, "out_type", opaque=annotated is None)
    if annotated is None:
        return tagged
    if tagged is Any:
        return annotated
    if not fits(annotated, tagged):
        _differs(scope, path, "out_type", function, tagged, annotated)
        return annotated
    return tagged


def _differs(scope: Scope, path: KeyPath, key: str, function: Function, tagged: Any, annotated: Any) -> None:
    scope.config.problem((*path, key), "FP202", "type differs from the function's", show(tagged),
                         f"{show(annotated)}, as {function.name} is annotated",
                         f"write {show(annotated)}, or leave {key} out")  # fmt: skip


def _annotated_input(scope: Scope, path: KeyPath, call: Callable[..., Any], *, batch: bool) -> Any:
    hints = scope.hints(path, call)
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return None
    name = getattr(call, "__name__", call)
    names = [item.name for item in parameters if item.kind not in (item.KEYWORD_ONLY, item.VAR_KEYWORD)]
    if not names:
        scope.config.problem(scope.function_key(path), "FP205", "function has the wrong shape",
                             f"{name} takes no positional parameter", "the record as the first parameter",
                             "add it")  # fmt: skip
        return None
    if names[0] not in hints:
        return None
    hint = unwrap(hints[names[0]])
    if not batch:
        return hint
    try:
        return element_of(hint)
    except TypeError:
        scope.config.problem(scope.function_key(path), "FP205", "function has the wrong shape",
                             f"{name} takes {show(hint)}",
                             f"a list of records, such as list[{show(hint)}], in a BatchMap",
                             "take a list, or use a Map")  # fmt: skip
        return None


def _annotated_output(
    scope: Scope, spec: MapSpec | FlatMapSpec | BatchMapSpec, path: KeyPath, function: Function
) -> Any:
    hints = scope.hints(path, function.call)
    if "return" not in hints:
        return None
    hint = unwrap(hints["return"])
    if isinstance(spec, MapSpec):
        return hint
    try:
        return element_of(hint)
    except TypeError:
        several = "any number of records" if isinstance(spec, FlatMapSpec) else "one result for each record"
        scope.config.problem(scope.function_key(path), "FP205", "function has the wrong shape",
                             f"{function.name} returns {show(hint)}",
                             f"{several}, such as list[{show(hint)}], from a {spec.type}",
                             "return a list, or use a Map")  # fmt: skip
        return None


def annotated_output(scope: Scope, path: KeyPath, function: Function) -> Any:
    """Give what a function of one record says that it returns; None when it says nothing."""
    hints = scope.hints(path, function.call)
    return unwrap(hints["return"]) if "return" in hints else None

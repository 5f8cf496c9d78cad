"""Record operators and Combine: functions, monoids and types, checked against each other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from funcpipe_prefect.builder.scope import Scope
from funcpipe_prefect.builder.shipping import check_shippable
from funcpipe_prefect.builder.tags import Opaque, element_of, fits, show, unwrap
from funcpipe_prefect.config import BatchMapSpec, CombineSpec, FlatMapSpec, MapSpec
from funcpipe_prefect.config.places import KeyPath
from funcpipe_prefect.ir import BatchMap, Combine, FlatMap, Function, Map, Operator
from funcpipe_prefect.monoid import Monoid

__all__ = ["build_combine", "build_record_operator", "input_type"]


def build_record_operator(
    scope: Scope, spec: MapSpec | FlatMapSpec | BatchMapSpec, path: KeyPath, produced: Any
) -> Operator | None:
    """Build a Map, FlatMap or BatchMap.

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
    common: dict[str, Any] = {
        "name": spec.name or "",
        "func": function,
        "error_policy": spec.error_policy,
        "in_type": input_type(scope, spec, path, function, produced),
        "out_type": _output_type(scope, spec, path, function),
        "transient": transient,
    }
    match spec:
        case MapSpec():
            return Map(**common)
        case FlatMapSpec():
            return FlatMap(**common)
        case BatchMapSpec():
            return BatchMap(**common, max_batch_size=spec.max_batch_size)


def build_combine(scope: Scope, spec: CombineSpec, path: KeyPath, produced: Any) -> Operator | None:
    """Build a Combine, whose monoid must be declared associative and commutative."""
    monoid = scope.look_up(path, "monoid", spec.monoid, "monoid")
    if monoid is not None:
        _check_monoid(scope, spec, path, monoid)
        check_shippable(scope.config, (*path, "monoid"), f"the monoid {spec.monoid}", monoid)
    scope.tag(spec.out_type, path, "out_type", opaque=True)
    transient = scope.transient(spec.transient, path)
    function = scope.function(spec, path, "lift", spec.lift)
    if function is None:
        scope.tag(spec.in_type, path, "in_type", opaque=True)
        return None
    in_type = input_type(scope, spec, path, function, produced)
    if monoid is None:
        return None
    return Combine(
        name=spec.name or "",
        lift=function,
        monoid=monoid,
        error_policy=spec.error_policy,
        in_type=in_type,
        transient=transient,
        tolerance=_tolerance(spec, monoid),
    )


def _tolerance(spec: CombineSpec, monoid: Any) -> float:
    declared = spec.contract.tolerance
    return float(getattr(monoid, "tolerance", 0.0) if declared is None else declared)


def _check_monoid(scope: Scope, spec: CombineSpec, path: KeyPath, monoid: Any) -> None:
    if not isinstance(monoid, Monoid):
        lacks = [part for part in ("empty", "combine", "commutative") if not hasattr(monoid, part)]
        scope.config.problem((*path, "monoid"), "FP302", "not a monoid",
                             f"{spec.monoid}: {type(monoid).__name__} without {' and '.join(lacks)}",
                             "an object with empty(), combine(a, b) and commutative = True",
                             "add what is missing; an identity is needed for partitions that are empty")  # fmt: skip
        return
    for law in ("associative", "commutative"):
        declared = getattr(monoid, law, True)
        promised = getattr(spec.contract, law)
        if declared is not True:
            scope.config.problem((*path, "monoid"), "FP302", f"monoid is not {law}",
                                 f"{spec.monoid} with {law} = {declared!r}",
                                 f"{law} = True; partitions end in any order and are merged in any grouping",
                                 "use another monoid, or declare the law if it holds")  # fmt: skip
        elif promised is False:
            scope.config.problem((*path, "contract", law), "FP302", f"monoid is not {law}",
                                 f"{law}: false", f"{law}: true; partitions end in any order and are merged in any grouping",
                                 "use another monoid, or take the key out")  # fmt: skip


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

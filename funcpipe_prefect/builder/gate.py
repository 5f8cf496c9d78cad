"""`expect:` what the records of a sink must be like before they are published."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from funcpipe_prefect.builder.operators import input_type
from funcpipe_prefect.builder.scope import Scope
from funcpipe_prefect.builder.tags import codec_type, fits, show
from funcpipe_prefect.config import ExpectSpec
from funcpipe_prefect.config.places import KeyPath
from funcpipe_prefect.errors import near_misses
from funcpipe_prefect.ir import Expectation, Function, Operator, Sink
from funcpipe_prefect.schema import fields_of
from funcpipe_prefect.sinks import FunctionSink

__all__ = ["with_expectations"]

_KINDS = ("rows", "null_rate", "distinct", "pass_rate")
_RATES = ("null_rate", "pass_rate")


def with_expectations(scope: Scope, built: Sequence[Operator | None]) -> list[Operator | None]:
    """Give each sink what the file expects of its records."""
    sinks = {one.name: one for one in built if isinstance(one, Sink)}
    has_failed = any(one is None for one in built)
    found: dict[str, list[Expectation]] = {}
    for index, spec in enumerate(scope.config.expect):
        path: KeyPath = ("expect", index)
        sink = _sink(scope, spec, path, sinks, has_failed=has_failed)
        expectation = _expectation(scope, spec, path, sink)
        if sink is not None and expectation is not None:
            found.setdefault(sink.name, []).append(expectation)
    return [
        dataclasses.replace(one, expectations=tuple(found[one.name])) if isinstance(one, Sink) and one.name in found else one
        for one in built
    ]  # fmt: skip


def _sink(
    scope: Scope, spec: ExpectSpec, path: KeyPath, sinks: dict[str, Sink], *, has_failed: bool
) -> Sink | None:
    if has_failed:
        return sinks.get(spec.of or "")
    if spec.of is None and len(sinks) == 1:
        return next(iter(sinks.values()))
    if spec.of is None:
        scope.config.missing(path, "of", ", ".join(sinks) or "the name of a Sink; there is none")
    elif spec.of not in sinks:
        scope.config.problem((*path, "of"), "FP124", "unknown operator", f'"{spec.of}"',
                             ", ".join(sinks) or "no Sink", near_misses(spec.of, list(sinks)))  # fmt: skip
    return sinks.get(spec.of or "")


def _check_commits(scope: Scope, sink: Sink, path: KeyPath) -> None:
    if isinstance(sink.target, FunctionSink):
        scope.config.problem(path, "FP317", "nothing can be held back", f"{sink.name} is a function, which publishes each record as it comes",
                             "a Sink with a commit", "expect it of another Sink, or make the function a class")  # fmt: skip


def _expectation(scope: Scope, spec: ExpectSpec, path: KeyPath, sink: Sink | None) -> Expectation | None:
    count = len(scope.config.problems)
    asked = [kind for kind in _KINDS if getattr(spec, kind) is not None]
    if len(asked) != 1:
        scope.config.problem(path, "FP104", "wrong value", " and ".join(asked) or "no measure",
                             f"one of {', '.join(_KINDS)}", "write an item for each")  # fmt: skip
        return None
    [kind] = asked
    _check_bounds(scope, kind, getattr(spec, kind), (*path, kind))
    needs = {"null_rate": "field", "distinct": "field", "pass_rate": "predicate"}.get(kind)
    if needs is not None and getattr(spec, needs) is None:
        scope.config.missing(path, needs, f"{needs}: for {kind}")
    for key in {"field", "predicate"} - {needs}:
        if getattr(spec, key) is not None:
            scope.config.problem(
                (*path, key), "FP101", "unknown key", f'"{key}" with {kind}', "no such key there", "remove it"
            )
    if sink is not None:
        _check_commits(scope, sink, path)
    if spec.field is not None and sink is not None:
        _check_field(scope, spec.field, sink, (*path, "field"))
    func = _predicate(scope, spec, path, sink) if kind == "pass_rate" else None
    if len(scope.config.problems) > count:
        return None
    bounds: Any = getattr(spec, kind)
    return Expectation(kind, spec.field or "", func, bounds.min, bounds.max)  # type: ignore[arg-type]  # one of _KINDS


def _check_bounds(scope: Scope, kind: str, bounds: Any, path: KeyPath) -> None:
    least, most = bounds.min, bounds.max
    if least is None and most is None:
        scope.config.problem(
            path, "FP103", "missing key", "neither min nor max", "min, max", "add one of them"
        )
    elif least is not None and most is not None and least > most:
        scope.config.problem(
            path, "FP104", "wrong value", f"min {least:g}, max {most:g}", "min below max", "swap them"
        )
    for key, value in (("min", least), ("max", most)):
        if value is not None and (value != value or value < 0 or (kind in _RATES and value > 1)):
            allowed = "a share from 0 to 1" if kind in _RATES else "a number, 0 or more"
            scope.config.problem((*path, key), "FP104", "wrong value", f"{value:g}", allowed, "change it")


def _check_field(scope: Scope, field: str, sink: Sink, path: KeyPath) -> None:
    try:
        known = list(fields_of(codec_type(sink.in_type)))
    except TypeError:
        return
    if field not in known:
        scope.config.problem(
            path, "FP316", "unknown field", f'"{field}"', ", ".join(known), near_misses(field, known)
        )


def _predicate(scope: Scope, spec: ExpectSpec, path: KeyPath, sink: Sink | None) -> Function | None:
    with scope.focused("predicate"):
        func = scope.function(spec, path, "func", spec.predicate, key="predicate")
        if func is None or sink is None:
            return None
        plain = spec.model_copy()
        object.__setattr__(plain, "in_type", None)
        taken = input_type(scope, plain, path, func, sink.in_type)
        if not fits(sink.in_type, taken):
            scope.config.problem((*path, "predicate"), "FP201", "types do not chain", f"{func.name} takes {show(taken)}",
                                 f"{show(sink.in_type)}, which reaches {sink.name}", "change the function's types")  # fmt: skip
    return func

"""Combine, CombineByKey and Distinct: functions, monoids, windows and types, checked against each other."""

from __future__ import annotations

import dataclasses
import importlib.util
import typing
from typing import Any, TypeVar, get_origin

from funcpipe_prefect.builder.operators import annotated_output, input_type, passed_type
from funcpipe_prefect.builder.params import bind_params
from funcpipe_prefect.builder.scope import Scope
from funcpipe_prefect.builder.shipping import check_shippable
from funcpipe_prefect.builder.tags import codec_type, fits, show
from funcpipe_prefect.config import CombineByKeySpec, CombineSpec, DistinctSpec, WindowSpec
from funcpipe_prefect.config.places import KeyPath
from funcpipe_prefect.ir import Combine, CombineByKey, Distinct, Function, Operator, Windowing
from funcpipe_prefect.keyed import KeyValue, WindowedValue
from funcpipe_prefect.monoid import Monoid
from funcpipe_prefect.schema import canonical_encoder, key_codec, store_codec
from funcpipe_prefect.windows import FixedWindows, SlidingWindows

__all__ = ["build_combine", "build_combine_by_key", "build_distinct"]


def build_combine(scope: Scope, spec: CombineSpec, path: KeyPath, produced: Any) -> Operator | None:
    """Build a Combine, whose monoid must be declared associative and commutative."""
    monoid = _monoid(scope, spec, path)
    transient = scope.transient(spec.transient, path)
    function = scope.function(spec, path, "lift", spec.lift)
    if function is None:
        scope.tag(spec.in_type, path, "in_type", opaque=True)
        scope.tag(spec.out_type, path, "out_type", opaque=True)
        return None
    in_type = input_type(scope, spec, path, function, produced)
    if monoid is None:
        scope.tag(spec.out_type, path, "out_type", opaque=True)
        return None
    return Combine(
        name=spec.name or "",
        lift=function,
        monoid=monoid,
        error_policy=spec.error_policy,
        in_type=in_type,
        out_type=_declared(scope, spec, path, _answer_type(scope, spec, path, monoid, function)),
        transient=transient,
        tolerance=_tolerance(spec, monoid),
        fan_in=spec.fan_in,
    )


def build_combine_by_key(
    scope: Scope, spec: CombineByKeySpec, path: KeyPath, produced: Any
) -> Operator | None:
    """Build a CombineByKey: a key, a lift, a monoid, and perhaps windows of event time."""
    monoid = _monoid(scope, spec, path)
    transient = scope.transient(spec.transient, path)
    lift = scope.function(spec, path, "lift", spec.lift)
    with scope.focused("key"):
        key = scope.function(spec, path, "func", spec.key, key="key", params="key_params")
    windowing = _windowing(scope, spec.window, spec, path) if spec.window is not None else None
    if lift is None or key is None or monoid is None:
        scope.tag(spec.in_type, path, "in_type", opaque=True)
        scope.tag(spec.out_type, path, "out_type", opaque=True)
        return None
    in_type = input_type(scope, spec, path, lift, produced)
    with scope.focused("key"):
        _check_takes(scope, spec, path, key, in_type)
        key_type = _key_type(scope, path, key)
    if windowing is not None:
        with scope.focused("window", "time"):
            _check_takes(scope, spec, path, windowing.time, in_type)
    value_type = codec_type(_answer_type(scope, spec, path, monoid, lift))
    made: Any = KeyValue if spec.window is None else WindowedValue
    return CombineByKey(
        name=spec.name or "",
        key=key,
        lift=lift,
        monoid=monoid,
        error_policy=spec.error_policy,
        in_type=in_type,
        key_type=key_type,
        out_type=_declared(scope, spec, path, made[key_type, value_type]),
        transient=transient,
        tolerance=_tolerance(spec, monoid),
        windowing=windowing,
        partitions=spec.partitions or 0,
    )


def build_distinct(scope: Scope, spec: DistinctSpec, path: KeyPath, produced: Any) -> Operator | None:
    """Build a Distinct: by a key, or by the record's content."""
    transient = scope.transient(spec.transient, path)
    in_type, key, key_type = produced, None, Any
    if spec.key is not None:
        key = scope.function(spec, path, "func", spec.key, key="key")
        if key is None:
            scope.tag(spec.in_type, path, "in_type", opaque=True)
            return None
        in_type = input_type(scope, spec, path, key, produced)
        key_type = _key_type(scope, path, key)
    elif spec.in_type is not None:
        in_type = scope.tag(spec.in_type, path, "in_type", opaque=codec_type(produced) is Any)
    if spec.key is None and spec.params:
        scope.config.problem((*path, "params"), "FP117", "unknown parameter", "params without a key function",
                             "key: with a function that takes them", "remove them")  # fmt: skip
    in_type = passed_type(scope, spec, path, in_type, produced)
    _check_stored(scope, path, in_type)
    return Distinct(
        name=spec.name or "",
        key=key,
        error_policy=spec.error_policy,
        in_type=in_type,
        out_type=in_type,
        key_type=key_type,
        transient=transient,
        partitions=spec.partitions or 0,
    )


def _check_stored(scope: Scope, path: KeyPath, in_type: Any) -> None:
    try:
        canonical_encoder(codec_type(in_type))
        store_codec(codec_type(in_type))
    except Exception as error:
        scope.config.problem((*path, "type"), "FP206", "type cannot be stored", f"{show(in_type)}: {error}",
                             "a dataclass, model, TypedDict or plain values", "change the record type")  # fmt: skip


def _key_type(scope: Scope, path: KeyPath, key: Function) -> Any:
    """Give the type of a key: as its function is annotated, if keys of that type can be compared."""
    annotated = annotated_output(scope, path, key)
    key_type = Any if annotated is None else codec_type(annotated)
    try:
        key_codec(key_type)
    except Exception as error:
        scope.config.problem(scope.function_key(path), "FP206", "type cannot be a key", f"{show(key_type)}: {error}",
                             "text, numbers, dates, and tuples or dataclasses of them", "return one of these")  # fmt: skip
        return Any
    return key_type


def _check_takes(scope: Scope, spec: Any, path: KeyPath, function: Function, in_type: Any) -> None:
    """Check that a second function of an operator takes the same records as the first."""
    own = dataclasses.replace(function)
    taken = input_type(scope, spec.model_copy(update={"in_type": None}), path, own, in_type)
    if not fits(in_type, taken):
        scope.config.problem(scope.function_key(path), "FP201", "types do not chain",
                             f"{function.name} takes {show(taken)}", f"{show(in_type)}, which reaches {spec.name}",
                             "change the function's types")  # fmt: skip


def _windowing(scope: Scope, window: WindowSpec, spec: Any, path: KeyPath) -> Windowing | None:
    here = (*path, "window")
    with scope.focused("window", "time"):
        time = scope.function(spec, here, "func", window.time, key="time", params="")
    if window.size is None:
        scope.config.missing(here, "size", "a duration such as 5m, 1h or 1d")
    if time is None or window.size is None:
        return None
    offset = window.offset or 0.0
    try:
        if window.period is None:
            return Windowing(time, FixedWindows(window.size, offset))
        return Windowing(time, SlidingWindows(window.size, window.period, offset))
    except (TypeError, ValueError) as error:
        scope.config.problem(here, "FP104", "wrong value", str(error), "windows of whole microseconds, with an offset below the size, or the period",
                             "change size, period or offset")  # fmt: skip
        return None


def _declared(scope: Scope, spec: Any, path: KeyPath, inferred: Any) -> Any:
    """Give the type of what a combine gives: as it is declared, where that says more."""
    if spec.out_type is None:
        return inferred
    tagged = scope.tag(spec.out_type, path, "out_type", opaque=codec_type(inferred) is Any)
    if not fits(inferred, tagged) and not fits(tagged, inferred):
        scope.config.problem((*path, "out_type"), "FP202", "type differs from the answer's", show(tagged), show(inferred),
                             f"write {show(inferred)}, or leave out_type out")  # fmt: skip
        return inferred
    return tagged


def _answer_type(scope: Scope, spec: Any, path: KeyPath, monoid: Any, lift: Function) -> Any:
    """Find the type of a monoid's answers by its annotations, or by the lift's."""
    if hasattr(monoid, "finish"):
        return _returned(monoid, "finish")
    own = _returned(monoid, "combine")
    if own is not Any or hasattr(monoid, "unit") or hasattr(monoid, "unit_at"):
        return own
    annotated = annotated_output(scope, path, lift)
    return Any if annotated is None else annotated


def _returned(monoid: Any, method: str) -> Any:
    try:
        hint = typing.get_type_hints(getattr(type(monoid), method)).get("return", Any)
    except Exception:
        return Any
    is_open = isinstance(hint, TypeVar) or any(isinstance(arg, TypeVar) for arg in typing.get_args(hint))
    return Any if is_open or (get_origin(hint) is None and not isinstance(hint, type)) else hint


def _monoid(scope: Scope, spec: Any, path: KeyPath) -> Any:
    """Find the monoid, with the parameters that the file gives it."""
    monoid = scope.look_up(path, "monoid", spec.monoid, "monoid")
    if monoid is None:
        return None
    _check_monoid(scope, spec, path, monoid)
    for module in getattr(monoid, "needs", ()):
        if importlib.util.find_spec(module) is None:
            scope.config.problem((*path, "monoid"), "FP113", "module is missing", f"{spec.monoid} without {module}",
                                 f"{module}, which it needs", f"pip install {module}")  # fmt: skip
    check_shippable(scope.config, (*path, "monoid"), f"the monoid {spec.monoid}", monoid)
    if not spec.monoid_params:
        return monoid
    here = (*path, "monoid_params")
    if not dataclasses.is_dataclass(monoid):
        scope.config.problem(here, "FP117", "unknown parameter", f"parameters of {spec.monoid}", "no parameters: it is no dataclass",
                             "register it with its parameters in place")  # fmt: skip
        return monoid
    count = len(scope.config.problems)
    bound, _ = bind_params(scope.config, here, spec.monoid, type(monoid), spec.monoid_params, artifacts={}, skip=0)  # fmt: skip
    if len(scope.config.problems) > count:
        return monoid
    try:
        return dataclasses.replace(monoid, **dict(bound))  # type: ignore[type-var]
    except (TypeError, ValueError) as error:
        scope.config.problem(here, "FP104", "wrong value", f"{spec.monoid}: {error}", "parameters that it accepts",
                             "change the parameter that it complains of")  # fmt: skip
        return monoid


def _tolerance(spec: CombineSpec | CombineByKeySpec, monoid: Any) -> float:
    declared = spec.contract.tolerance
    return float(getattr(monoid, "tolerance", 0.0) if declared is None else declared)


def _check_monoid(scope: Scope, spec: CombineSpec | CombineByKeySpec, path: KeyPath, monoid: Any) -> None:
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

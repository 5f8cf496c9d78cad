"""The two ends of a pipeline: where records come from, where they go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from funcpipe_prefect.builder.operators import input_type
from funcpipe_prefect.builder.scope import Scope
from funcpipe_prefect.builder.tags import TagError, codec_type, fits, parse_tag, show
from funcpipe_prefect.config import SinkSpec
from funcpipe_prefect.config.places import KeyPath
from funcpipe_prefect.errors import near_misses
from funcpipe_prefect.ir import Operator, RecordSource, Sink
from funcpipe_prefect.late import late
from funcpipe_prefect.registry import SinkEntry
from funcpipe_prefect.schema import fields_of, json_codec
from funcpipe_prefect.sinks import FunctionSink
from funcpipe_prefect.sources import BUILTIN_SOURCES, IterableSource, source_type_of

__all__ = ["build_sink", "build_source", "declared_record"]

_TEXT_ENDINGS = (".txt", ".md", ".rst")


def build_sink(scope: Scope, spec: SinkSpec, path: KeyPath, produced: Any) -> Operator | None:
    """Build a Sink: a registered class, or a plain function of one record."""
    entry = scope.look_up(path, "sink", spec.func, "func")
    _check_contract(scope, spec, path, entry)
    scope.tag(spec.out_type, path, "out_type", opaque=True)
    transient = scope.transient(spec.transient, path)
    if entry is None:
        scope.tag(spec.in_type, path, "in_type", opaque=True)
        return None
    if entry.is_function:
        _mode(scope, spec, path, entry, produced)
        function = scope.bound(spec, path, entry.make, spec.func or "")
        if function is None:
            return None
        in_type = input_type(scope, spec, path, function, produced)
        return Sink(spec.name or "", FunctionSink(function, transient), spec.error_policy, in_type, transient)
    in_type = produced
    if spec.in_type:
        in_type = scope.tag(spec.in_type, path, "in_type", opaque=codec_type(produced) is Any)
    params = spec.params if scope.output is None else {**spec.params, "path": scope.output}
    moded = _mode(scope, spec, path, entry, in_type)
    if moded is None:
        return None
    target = scope.made((*path, "params"), spec.func or "", entry.make, {**params, **moded})
    if target is None:
        return None
    _check_written_type(scope, target, spec, path, in_type)
    target = _late(scope, (*path, "params"), target)
    return Sink(spec.name or "", target, spec.error_policy, in_type, transient)


def _mode(
    scope: Scope, spec: SinkSpec, path: KeyPath, entry: SinkEntry, in_type: Any
) -> dict[str, Any] | None:
    """Give the parameters that say what becomes of the rows that are there; None, with a problem, if it is unclear."""
    count = len(scope.config.problems)
    modes = () if entry.is_function else getattr(entry.make, "modes", ("replace",))
    mode, keys = spec.mode or "replace", [spec.key] if isinstance(spec.key, str) else list(spec.key or ())
    if spec.mode is not None and mode not in modes:
        scope.config.problem((*path, "mode"), "FP314", "sink has no such mode", f"{mode} with {spec.func}",
                             ", ".join(modes) or "none: what a function does with a record is its own",
                             "use another mode, or a sink that keeps rows by key, such as sql, lance or delta")  # fmt: skip
    elif len(modes) < 2 and keys:
        scope.config.problem((*path, "key"), "FP314", "sink takes no key", f"{spec.func} with a key",
                             "no key: it replaces all that is there", "take the key out")  # fmt: skip
    elif mode != "replace" and not keys:
        scope.config.problem((*path, "mode"), "FP315", "mode needs a key", f"{mode} without key",
                             "key: with a field that tells rows apart; without one a retry writes rows twice",
                             "add key:")  # fmt: skip
    for name in {"mode", "key"} & set(spec.params if len(modes) > 1 else ()):
        scope.config.problem((*path, "params", name), "FP117", "unknown parameter", f'"{name}" of {spec.func}',
                             f"{name}: beside params, as a key of the operator", f"move {name} one level up")  # fmt: skip
    known = _fields(in_type)
    for index, key in enumerate(keys):
        place = (*path, "key") if isinstance(spec.key, str) else (*path, "key", index)
        if known and key not in known:
            scope.config.problem(place, "FP316", "key is no field", f'"{key}"', ", ".join(known), near_misses(key, known))  # fmt: skip
        elif key in keys[:index]:
            scope.config.problem(place, "FP316", "key twice", f'"{key}"', "each field once", "remove it")
    if len(scope.config.problems) > count:
        return None
    return {"mode": mode, "key": tuple(keys)} if len(modes) > 1 else {}


def _fields(in_type: Any) -> list[str]:
    try:
        return list(fields_of(codec_type(in_type)))
    except TypeError:
        return []


def _check_written_type(scope: Scope, target: Any, spec: SinkSpec, path: KeyPath, in_type: Any) -> None:
    """Check, where the sink asks for it, that the records have a type that it can write."""
    check = getattr(target, "check_type", None)
    is_any = codec_type(in_type) is Any
    if check is None or (is_any and scope.is_broken):
        return
    try:
        if is_any:
            raise TypeError("no type is declared")
        check(codec_type(in_type))
    except Exception as error:
        key = "in_type" if spec.in_type else "func"
        reason = str(error).removeprefix(f"{show(in_type)} ")
        scope.config.problem((*path, key), "FP206", "type cannot be written", f"{show(in_type)}: {reason}",
                             "a dataclass, model or TypedDict with typed fields",
                             "annotate the function before it, or use the jsonl sink")  # fmt: skip


def _check_contract(scope: Scope, spec: SinkSpec, path: KeyPath, entry: Any) -> None:
    retries = f"with retries.sink: {scope.config.retries.sink}"
    if spec.contract is None:
        scope.config.missing(path, "contract", "contract: {idempotent: true}")
    elif spec.contract.idempotent is not True:
        found = "nothing" if spec.contract.idempotent is None else "false"
        scope.config.problem((*path, "contract"), "FP301", "sink is not idempotent",
                             f"idempotent: {found}, {retries}",
                             "idempotent: true; a retried append would write records twice",
                             "give the sink a key and let it upsert")  # fmt: skip
    if entry is not None and not entry.idempotent:
        scope.config.problem((*path, "func"), "FP301", "sink is not idempotent",
                             f"{spec.func} is registered without idempotent=True, {retries}",
                             "@registry.sink(idempotent=True); a retried append would write records twice",
                             "give the sink a key and let it upsert, then declare it")  # fmt: skip


def declared_record(scope: Scope) -> Any:
    """Give the type that the source is declared to have; Any where it says nothing that can be read."""
    spec = scope.config.source
    if spec is None:
        return Any
    if spec.record is not None:
        try:
            return parse_tag(spec.record, scope.known)
        except TagError:  # which build_source will tell
            return Any
    entry = scope.registry.get("source", spec.type or "")
    return Any if entry is None or entry.record is None else entry.record


def build_source(
    scope: Scope, given: str | Iterable[Any] | None, taker: Operator | None
) -> tuple[RecordSource | None, Any]:
    """Make the source from the file, or from what was given in its place.

    Args:
        scope: Receives the problems.
        given: A path or URL, or the records themselves.
        taker: The first operator; None when it could not be built.

    Returns:
        The source, None when there is none, and the type of its records.
    """
    first: Any = taker.in_type if taker is not None else Any
    spec = scope.config.source
    params = dict(spec.model_extra or {}) if spec else {}
    if given is not None and not isinstance(given, str):
        splits = params.get("splits")
        return IterableSource.of(given, splits if isinstance(splits, int) else None), first
    if given is None and spec is None:
        return None, first
    if given is not None:
        params["path"] = given
    kind = _source_kind(spec.type if spec else None, params.get("path"), given)
    if kind is None:
        names = ", ".join(scope.registry.names("source"))
        scope.config.problem(("source",), "FP103", "missing key", "no type and no path", names, "add type:")
        return None, first
    entry = scope.look_up(("source",), "source", kind, "type")
    if entry is None:
        return None, first
    record = _record_type(scope, spec, entry, taker)
    return _late(scope, ("source",), scope.made(("source",), kind, entry.make, params)), record


def _late(scope: Scope, path: KeyPath, made: Any) -> Any:
    """Let secrets be put in where a source or sink is used."""
    try:
        return late(made)
    except TypeError as error:
        scope.config.problem(
            path, "FP118", "wrong parameter type", str(error), "a value, no secret", "make it a dataclass"
        )
        return made


def _source_kind(declared: str | None, path: Any, given: str | None) -> str | None:
    """Choose the source's type: as declared, unless a path given in its place tells otherwise."""
    guess = source_type_of(path) if isinstance(path, str) else None
    if declared is None:
        return guess
    if given is None or declared not in BUILTIN_SOURCES:
        return declared
    return guess if guess != "text" or given.endswith(_TEXT_ENDINGS) else declared


def _record_type(scope: Scope, spec: Any, entry: Any, taker: Operator | None) -> Any:
    first: Any = taker.in_type if taker is not None else Any
    record = first
    place: KeyPath = ("source",)
    if spec is not None and spec.record is not None:
        place = ("source", "record")
        record = scope.tag(spec.record, ("source",), "record", opaque=codec_type(first) is Any)
    elif entry.record is not None:
        record = entry.record
    if taker is not None and not fits(record, first):
        scope.config.problem(place, "FP201", "types do not chain", f"the source gives {show(record)}",
                             f"{show(first)}, which {taker.name} takes", "change one of them")  # fmt: skip
    try:
        json_codec(codec_type(record))
    except Exception as error:
        scope.config.problem(place, "FP206", "type cannot be read", f"{show(record)}: {error}",
                             "a dataclass, model, TypedDict or plain values", "change the record type")  # fmt: skip
    return record

"""How a pipeline's partitions are kept: whether the storage can lock, which codec each one gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from funcpipe_prefect.builder.scope import Scope
from funcpipe_prefect.builder.tags import codec_type, show
from funcpipe_prefect.config.places import KeyPath
from funcpipe_prefect.errors import near_misses
from funcpipe_prefect.ir import CodecName, Operator, Sink
from funcpipe_prefect.store import can_lock, columns_of

__all__ = ["check_isolation", "choose_codecs"]

_DEFAULT = "default"


def check_isolation(scope: Scope, storage: str) -> None:
    """Refuse `isolation: serializable` where files cannot be locked."""
    if scope.config.cache.isolation == "serializable" and not can_lock(storage):
        scope.config.problem(("cache", "isolation"), "FP307", "storage cannot lock", f"serializable, with storage {storage}",
                             "storage on a local or mounted file system, or isolation: none",
                             "change cache.storage, or leave isolation out")  # fmt: skip


def choose_codecs(scope: Scope, built: Sequence[Operator | None]) -> dict[str, CodecName]:
    """Choose the codec of each materialization point by the type of its records.

    Returns:
        Codecs by operator name.
    """
    asked = scope.config.serialization
    made = {
        operator.name: operator.out_type
        for operator in built
        if operator is not None and not isinstance(operator, Sink)
    }
    types = {**scope.known, **{show(tp): tp for tp in made.values()}}
    for name, codec in asked.items():
        path: KeyPath = ("serialization", name)
        if name == _DEFAULT:
            continue
        if name in types:
            _check_columns(scope, path, name, types[name], codec)
        elif None not in built:
            allowed = [_DEFAULT, *sorted(types)]
            scope.config.problem(path, "FP203", "unknown record type", f'"{name}"', ", ".join(allowed),
                                 near_misses(name, allowed))  # fmt: skip
    codecs: dict[str, CodecName] = {}
    for point in scope.config.materialization_points:
        if point in made:
            name = show(made[point])
            codecs[point] = asked.get(name) or asked.get(_DEFAULT, "msgpack")
            if name not in asked:
                _check_columns(scope, ("serialization", _DEFAULT), name, made[point], codecs[point])
    return codecs


def _check_columns(scope: Scope, path: KeyPath, name: str, record_type: Any, codec: CodecName) -> None:
    if codec != "arrow":
        return
    try:
        columns_of(codec_type(record_type))
    except TypeError as error:
        scope.config.problem(path, "FP206", "type has no columns", f"arrow for {name}: {error}",
                             "arrow for a record type with named fields, each of a type that a column can have",
                             f"write {name}: msgpack")  # fmt: skip

"""From a file or mapping to specs: section by section, so that one mistake hides no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from funcpipe_prefect.config.block_names import put_blocks
from funcpipe_prefect.config.marks import read_mapping, read_yaml
from funcpipe_prefect.config.overrides import with_overrides
from funcpipe_prefect.config.places import KeyPath, Marked, in_document_order, problem_at
from funcpipe_prefect.config.secret_names import put_secrets
from funcpipe_prefect.config.specs import (
    OPERATOR,
    OPERATOR_SPECS,
    REQUIRED,
    BeamSpec,
    CacheSpec,
    ErrorsSpec,
    ExpectSpec,
    OperatorSpec,
    PipelineSpec,
    ResourcesSpec,
    RetriesSpec,
    SourceSpec,
)
from funcpipe_prefect.config.wording import kind_of, reword, shown
from funcpipe_prefect.errors import PipelineError, Problem, near_misses
from funcpipe_prefect.ir import CodecName

__all__ = ["Config", "load_config"]


@dataclass
class Config:
    """A pipeline file's sections as far as they are valid, and all problems found so far.

    Attributes:
        operators: One spec for each item; None where nothing can be made of it.
    """

    marked: Marked
    problems: list[Problem]
    name: str | None = None
    imports: list[str] = field(default_factory=list)
    source: SourceSpec | None = None
    operators: list[OperatorSpec | None] = field(default_factory=list)
    backend: str = "local"
    resources: ResourcesSpec = field(default_factory=ResourcesSpec)
    beam: BeamSpec = field(default_factory=BeamSpec)
    materialization_points: list[str] = field(default_factory=list)
    retries: RetriesSpec = field(default_factory=RetriesSpec)
    errors: ErrorsSpec = field(default_factory=ErrorsSpec)
    expect: list[ExpectSpec] = field(default_factory=list)
    cache: CacheSpec = field(default_factory=CacheSpec)
    serialization: dict[str, CodecName] = field(default_factory=dict)

    def problem(self, path: KeyPath, code: str, title: str, found: str, allowed: str, mend: str) -> None:
        """Note a problem at a path, unless its value was refused already."""
        if path not in self.marked.unread:
            self.problems.append(problem_at(self.marked.place(path), code, title, found, allowed, mend))

    def value_at(self, path: KeyPath) -> Any:
        """Give what the file holds at a path; None when there is nothing."""
        node = self.marked.data
        for step in path:
            if isinstance(node, dict):
                node = node.get(step)
            elif isinstance(node, list) and isinstance(step, int) and step < len(node):
                node = node[step]
            else:
                return None
        return node

    def missing(self, path: KeyPath, key: str, allowed: str) -> None:
        """Note that a key is missing, unless it is there with a value that was refused already."""
        if self.value_at((*path, key)) is None:
            there = self.value_at(path)
            place = (*path, key) if isinstance(there, dict) and key in there else path
            self.problem(place, "FP103", "missing key", f"no {key}", allowed, f"add {key}:")

    def raise_problems(self) -> None:
        """Raise what was found, in document order; nothing happens when all is well.

        Raises:
            PipelineError: Every problem, each once.
        """
        if self.problems:
            raise PipelineError(in_document_order(self.marked.data, self.problems))


def load_config(
    source: str | Path | Mapping[str, Any] | Marked, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Read and validate a pipeline file, without looking anything up.

    Args:
        source: A path, a mapping or what was read already.
        overrides: Values by key path.

    Returns:
        The valid sections with every problem found; the builder adds its own and raises once.

    Raises:
        PipelineError: FP105 to FP112, nothing can be read at all.
    """
    marked = source if isinstance(source, Marked) else _read(source)
    with_overrides(marked, overrides or {})
    config = Config(marked, list(marked.problems))
    put_blocks(config)
    put_secrets(config)
    data = marked.data
    if not isinstance(data, dict):
        found = "nothing but space and comments" if data is None else kind_of(data)
        config.problem((), "FP107", "not a pipeline", found, "a mapping with the key operators",
                       "begin with operators:")  # fmt: skip
        config.raise_problems()
    for key, value in data.items():
        if key not in PipelineSpec.model_fields:
            _unknown_key(config, (key,), list(PipelineSpec.model_fields))
        elif key == "operators":
            config.operators = list(_operators(config, value))
        elif value is not None:
            _section(config, key, value)
    if "operators" not in data:
        config.missing((), "operators", "operators: a list of operators")
    return config


def _read(source: str | Path | Mapping[str, Any]) -> Marked:
    return read_mapping(source) if isinstance(source, Mapping) else read_yaml(source)


def _section(config: Config, key: str, value: Any) -> None:
    model = PipelineSpec.model_fields[key]
    fields: Mapping[str, Any] = getattr(model.annotation, "model_fields", {})
    adapter: TypeAdapter[Any] = TypeAdapter(model.rebuild_annotation(), config=None)
    try:
        setattr(config, key, adapter.validate_python(_without_nulls(value, fields)))
    except ValidationError as error:
        _report(config, error, (key,), value, {(key,): list(fields)})


def _operators(config: Config, items: Any) -> Iterator[OperatorSpec | None]:
    if not isinstance(items, list) or not items:
        found = "an empty list" if items == [] else "nothing" if items is None else kind_of(items)
        config.problem(("operators",), "FP104", "wrong value", found, "a list with at least one operator",
                       "write each operator as - {type: Map, name: …, func: …}")  # fmt: skip
        return
    for index, item in enumerate(items):
        yield _operator(config, item, ("operators", index))


def _operator(config: Config, item: Any, path: KeyPath) -> OperatorSpec | None:
    spec: type[Any] | None = None
    if isinstance(item, dict):
        kind = item.get("type")
        if not isinstance(kind, str) or kind not in OPERATOR_SPECS:
            _wrong_type(config, kind, path)
            return None
        spec = OPERATOR_SPECS[kind]
    try:
        return OPERATOR.validate_python(_without_nulls(item, spec.model_fields if spec else {}))
    except ValidationError as error:
        nested = {(*path, key): _nested_keys(spec, key) for key in ("contract", "window")} if spec else {}
        known = {path: _operator_keys(spec), **nested} if spec else {}
        _report(config, error, path, item, known)
        if spec is None:
            return None
        wrong = {step for issue in error.errors() for step in issue["loc"][1:2]}
    rest = {key: value for key, value in item.items() if key not in wrong}
    try:
        return OPERATOR.validate_python(_without_nulls(rest, spec.model_fields))
    except ValidationError:
        return None


def _wrong_type(config: Config, kind: Any, path: KeyPath) -> None:
    if kind is None:
        config.missing(path, "type", ", ".join(REQUIRED))
    else:
        config.problem((*path, "type"), "FP109", "unknown operator type", shown(kind), ", ".join(REQUIRED),
                       near_misses(str(kind), REQUIRED))  # fmt: skip


def _operator_keys(spec: Any) -> list[str]:
    kind = spec.model_fields["type"].annotation.__args__[0]
    return list(dict.fromkeys([*REQUIRED[kind], *spec.model_fields]))


def _nested_keys(spec: Any, key: str) -> list[str]:
    annotation = spec.model_fields[key].annotation if key in spec.model_fields else None
    parts = getattr(annotation, "__args__", (annotation,))
    return [name for part in parts for name in getattr(part, "model_fields", {})]


def _without_nulls(value: Any, fields: Mapping[str, Any]) -> Any:
    """Take a key without a value as one that was left out."""
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if item is not None or key not in fields}


def _report(
    config: Config, error: ValidationError, base: KeyPath, value: Any, known: Mapping[KeyPath, list[str]]
) -> None:
    issues = {_path_of(issue["loc"], base, value): issue for issue in reversed(error.errors())}
    for path, issue in issues.items():
        if any(other != path and other[: len(path)] == path for other in issues):
            continue  # the other branch of a union says more
        if issue["type"] == "extra_forbidden":
            _unknown_key(config, path, known.get(path[:-1], []))
        else:
            key = next((step for step in reversed(path) if isinstance(step, str)), "")
            config.problem(path, "FP104", "wrong value", *reword({**issue}, key))


def _unknown_key(config: Config, path: KeyPath, allowed: list[str]) -> None:
    key = str(path[-1])
    owners = [kind for kind, spec in OPERATOR_SPECS.items() if key in spec.model_fields]
    mend = near_misses(key, allowed)
    if owners and path[0] == "operators" and len(path) == 3:
        mend = f"remove it; it belongs to {' and '.join(owners)}"
    config.problem(path, "FP101", "unknown key", f'"{key}"', ", ".join(allowed), mend)


def _path_of(loc: tuple[Any, ...], base: KeyPath, value: Any) -> KeyPath:
    """Keep the steps of pydantic's location that are real keys; others name types of a union."""
    path, node = base, value
    for step in loc:
        is_key = isinstance(node, dict) and step in node
        is_index = isinstance(node, list) and isinstance(step, int) and step < len(node)
        if is_key or is_index:
            path, node = (*path, step), node[step]
    return path

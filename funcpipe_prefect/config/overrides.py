"""Values set from outside the file by key path: `--set resources.workers=4`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from funcpipe_prefect.config.marks import read_scalar
from funcpipe_prefect.config.places import KeyPath, Marked, problem_at
from funcpipe_prefect.errors import PipelineError, Place, Problem, near_misses

__all__ = ["read_overrides", "with_overrides"]


def read_overrides(settings: Sequence[str]) -> dict[str, Any]:
    """Read settings such as `resources.workers=4`; the value is YAML.

    Raises:
        PipelineError: FP121, a setting is not key=value; FP105, its value is not YAML.
    """
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise PipelineError([
                Problem("FP121", "override is not key=value", Place(f"--set {setting}"), setting,
                        "key.path=value", "for example --set resources.workers=4")
            ])  # fmt: skip
        overrides[key.strip()] = read_scalar(value, f"--set {key.strip()}")
    return overrides


def with_overrides(marked: Marked, overrides: Mapping[str, Any], option: str = "--set") -> Marked:
    """Set values by key path, such as `resources.workers` or `operators.embed.max_batch_size`.

    An operator is named by its name or index. A mapping is merged into a mapping that is there.

    Raises:
        PipelineError: FP121, the path leads through something that has no keys.
    """
    for key, value in overrides.items():
        steps = re.sub(r"\[(\d+)\]", r".\1", key).removeprefix("$.").split(".")
        if isinstance(marked.data, dict):
            _set(marked, steps, value, f"{option} {key}")
    return marked


def _set(marked: Marked, steps: list[str], value: Any, label: str) -> None:
    node: Any = marked.data
    path: KeyPath = ()
    for number, step in enumerate(steps, 1):
        here = _step(node, step)
        if here is None:
            names = _names_in(node)
            raise PipelineError([
                problem_at(Place(label), "FP121", "override leads nowhere", f'"{step}"',
                           ", ".join(names) if names else "a key of a mapping, or an operator by its name or index",
                           near_misses(step, names) if names else "shorten the path")
            ])  # fmt: skip
        path = (*path, here)
        if number == len(steps):
            _replace(marked, node, here, path, value, label)
        elif isinstance(node, dict) and node.get(here) is None:
            node[here] = {}
            marked.sources[path] = label
        node = node[here]


def _replace(marked: Marked, node: Any, here: Any, path: KeyPath, value: Any, label: str) -> None:
    old = node[here] if isinstance(node, list) else node.get(here)
    if isinstance(old, dict) and isinstance(value, Mapping):
        for key, item in value.items():
            _replace(marked, old, str(key), (*path, str(key)), item, label)
        return
    marked.forget(path)
    marked.sources[path] = label
    node[here] = value


def _step(node: Any, step: str) -> Any:
    if isinstance(node, dict):
        return step
    if not isinstance(node, list):
        return None
    if step.isdecimal() and int(step) < len(node):
        return int(step)
    names = [item.get("name") if isinstance(item, dict) else None for item in node]
    return names.index(step) if step in names else None


def _names_in(node: Any) -> list[str]:
    items = node if isinstance(node, list) else []
    return [str(item["name"]) for item in items if isinstance(item, dict) and item.get("name")]

"""`{secret: name}` in a pipeline file: where it may stand, and what is put in its place."""

from __future__ import annotations

from typing import Any

from funcpipe_prefect.config.places import KeyPath, Noting
from funcpipe_prefect.secrets import NAME, placeholder

__all__ = ["put_secrets"]

_PARAMS = ("params", "monoid_params", "key_params")
_MOST = 64


def put_secrets(config: Noting) -> None:
    """Put what stands for a secret where a source or a function is given one by name."""
    data = config.marked.data
    if not isinstance(data, dict):
        return
    if isinstance(data.get("source"), dict):
        _fill(config, data["source"], ("source",))
    operators = data.get("operators")
    for index, item in enumerate(operators if isinstance(operators, list) else ()):
        for key in _PARAMS:
            if isinstance(item, dict) and isinstance(item.get(key), dict):
                _fill(config, item[key], ("operators", index, key))


def _fill(config: Noting, values: Any, path: KeyPath) -> None:
    if len(path) > _MOST:
        return
    for key, value in list(values.items() if isinstance(values, dict) else enumerate(values)):
        here: KeyPath = (*path, key)
        if isinstance(value, dict) and "secret" in value:
            values[key] = _stand_in(config, value, here)
        elif isinstance(value, (dict, list)):
            _fill(config, value, here)


def _stand_in(config: Noting, value: dict[str, Any], path: KeyPath) -> Any:
    name = value["secret"]
    if len(value) == 1 and isinstance(name, str) and NAME.fullmatch(name):
        return placeholder(name)
    found = f"{{{', '.join(f'{key}: …' for key in value)}}}" if len(value) > 1 else f"secret: {name!r}"
    config.problem(path, "FP104", "wrong value", found, "{secret: NAME} with the name of a Prefect Secret block alone",
                   "write {secret: NAME}, or call the key something else than secret")  # fmt: skip
    return ""

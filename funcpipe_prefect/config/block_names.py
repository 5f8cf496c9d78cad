"""`{block: NAME}` in place of a section's keys, or among them: what a block of a Prefect server says."""

from __future__ import annotations

import importlib
from typing import Any

from funcpipe_prefect.config.places import KeyPath, Noting

__all__ = ["put_blocks"]

_BLOCKS = "funcpipe_prefect.orchestration.blocks"
_SECTIONS = {
    "resources": "Dask Cluster Config", "beam": "Beam Runner Config", "cache": "Partition Storage",
}  # fmt: skip


def put_blocks(config: Noting) -> None:
    """Fill in what blocks say; what the file says itself comes before it."""
    data = config.marked.data
    for section, kind in _SECTIONS.items():
        values = data.get(section) if isinstance(data, dict) else None
        if isinstance(values, dict) and "block" in values:
            name = values.pop("block")
            for key, value in _looked_up(config, section, kind, name).items():
                values.setdefault(key, value)


def _looked_up(config: Noting, section: str, kind: str, name: Any) -> dict[str, Any]:
    path: KeyPath = (section, "block")
    if not isinstance(name, str) or not name:
        config.problem(path, "FP104", "wrong value", repr(name), f"the name of a {kind} block",
                       "for example block: my-settings")  # fmt: skip
        return {}
    try:
        found: dict[str, Any] | None = importlib.import_module(_BLOCKS).block_settings(section, name)
    except Exception as error:
        config.problem(path, "FP506", "block cannot be read", f"{name}: {type(error).__name__}: {error}",
                       "a Prefect server that can be reached", "set PREFECT_API_URL, or start the server")  # fmt: skip
        return {}
    if found is None:
        config.problem(path, "FP506", "unknown block", name, f"a {kind} block of the Prefect server",
                       f"make it in the UI under Blocks, as {kind}")  # fmt: skip
    return found or {}

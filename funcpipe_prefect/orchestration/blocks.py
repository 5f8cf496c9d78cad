"""Prefect Secret blocks, looked up in the process that uses them."""

from __future__ import annotations

from typing import Any

from prefect.blocks.system import Secret
from prefect.exceptions import ObjectNotFound

__all__ = ["secret"]


def secret(name: str) -> str | None:
    """Give the value of a Secret block; None where there is no such block."""
    load: Any = Secret.load
    try:
        block = load(name, _sync=True)
    except (ObjectNotFound, ValueError):
        return None
    value = block.get()
    return value if isinstance(value, str) else str(value)

"""The cache policy: a key that the plan has computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext

__all__ = ["PlannedKey"]


@dataclass
class PlannedKey(CachePolicy):
    """Uses the stage key of the plan, whatever the task's parameters are.

    Attributes:
        planned: 64 hexadecimal digits.
    """

    planned: str = ""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """Give the planned key."""
        return self.planned

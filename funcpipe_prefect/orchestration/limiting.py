"""Limits of operators as global concurrency limits of the Prefect server, with a slot decay."""

from __future__ import annotations

import math

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import rate_limit
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from funcpipe_prefect.ir import Limit, Pipeline

__all__ = ["make_limits", "wait"]


def make_limits(pipeline: Pipeline) -> None:
    """Make the limits that a pipeline's operators name; one that is there stays as it is."""
    limits = {
        limit.name: limit for operator in pipeline.operators for limit in getattr(operator, "limits", ())
    }
    if not limits:
        return
    with get_client(sync_client=True) as client:
        for limit in limits.values():
            try:
                client.read_global_concurrency_limit_by_name(limit.name)
            except ObjectNotFound:
                slots = max(1, math.ceil(limit.per_second))
                made = GlobalConcurrencyLimitCreate(
                    name=limit.name, limit=slots, active=True, slot_decay_per_second=limit.per_second
                )
                try:
                    client.create_global_concurrency_limit(made)
                except ObjectAlreadyExists:
                    continue


def wait(limit: Limit) -> None:
    """Return when the next call may be made."""
    rate_limit(limit.name, strict=True)

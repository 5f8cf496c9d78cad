"""Heartbeats of a flow run, from a thread that ends at once with it.

Prefect's own thread sleeps whole seconds, and a flow waits for it when it ends: half a second a run on
the average, as long as everything else that a small run costs. Runs that a Prefect worker or `serve` starts
keep Prefect's own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from prefect.context import FlowRunContext
from prefect.events import emit_event

from funcpipe_prefect.orchestration.beside import beside

__all__ = ["NO_HEARTBEATS", "beating", "heartbeats"]

NO_HEARTBEATS: Mapping[str, Any] = {"flows.heartbeat_frequency": None}
"""Settings under which Prefect sends none itself."""

_EVENT = "prefect.flow-run.heartbeat"
_every_s: ContextVar[int | None] = ContextVar("funcpipe_heartbeat", default=None)


@contextmanager
def heartbeats(every_s: int | None) -> Iterator[None]:
    """Let the flow run that is called in the block send heartbeats by `beating`.

    Args:
        every_s: Seconds between two; None for no heartbeats.
    """
    token = _every_s.set(every_s)
    try:
        yield
    finally:
        _every_s.reset(token)


@contextmanager
def beating() -> Iterator[None]:
    """Tell from time to time that the flow run at hand is alive, if that was asked for."""
    context, every_s = FlowRunContext.get(), _every_s.get()
    if every_s is None or context is None or context.flow_run is None:
        yield
        return
    run = context.flow_run
    resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name or ""}
    flow = {"prefect.resource.id": f"prefect.flow.{run.flow_id}", "prefect.resource.role": "flow"}

    def beat(ended: threading.Event) -> None:
        is_over = False
        while not is_over:
            emit_event(_EVENT, resource=resource, related=[flow])
            is_over = ended.wait(every_s)

    with beside(beat, "funcpipe-heartbeat"):
        yield

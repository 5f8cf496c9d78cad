"""Cancellation: a run notices that its flow run is being cancelled, and ends what it began.

A Prefect worker kills the process of a flow run that is cancelled. A run without a worker has to
look for itself, and work on a cluster of somebody else's has to be called back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.states import Cancelled

from funcpipe_prefect.errors import RunCancelled
from funcpipe_prefect.orchestration.beside import beside

__all__ = ["SLOW_S", "Cancellation", "cancel_task_runs", "flow_run_id", "watched"]

_POLL_EVERY_S = 2.0
SLOW_S = 2.0
_UNREACHABLE = (httpx.HTTPError, PrefectException, OSError)


def flow_run_id() -> UUID | None:
    """Give the id of the flow run that this is called in."""
    context = FlowRunContext.get()
    return context.flow_run.id if context is not None and context.flow_run is not None else None


class Cancellation:
    """Whether a flow run is being cancelled, and what is to happen then."""

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._was_away = False
        self._happened = threading.Event()
        self._callbacks: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    @property
    def happened(self) -> bool:
        """Tell whether the flow run is being cancelled."""
        return self._happened.is_set()

    @property
    def server_was_away(self) -> bool:
        """Tell whether an answer of the server took, or takes now, so long that it must have been away."""
        asked_at = self._asked_at
        return self._was_away or (asked_at is not None and time.monotonic() - asked_at > SLOW_S)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Notice how long the server takes: Prefect's client tries again for half a minute by itself."""
        self._asked_at = time.monotonic()
        try:
            yield
        except _UNREACHABLE:
            self._was_away = True
            raise
        finally:
            self._was_away = self.server_was_away
            self._asked_at = None

    def check(self) -> None:
        """End the work at hand if the flow run is being cancelled.

        Raises:
            RunCancelled: FP602.
        """
        if self.happened:
            raise RunCancelled("the flow run was cancelled; nothing was published")

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Call a function when the flow run is cancelled while the block runs."""
        with self._lock:
            self._callbacks.append(callback)
        if self.happened:
            callback()
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)

    def set(self) -> None:
        """Say that it is."""
        self._happened.set()
        with self._lock:
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()


@contextmanager
def watched(poll_every_s: float = _POLL_EVERY_S) -> Iterator[Cancellation]:
    """Ask Prefect from time to time whether the flow run at hand is being cancelled.

    Args:
        poll_every_s: Seconds between two questions. A server that is away is asked again.
    """
    cancellation = Cancellation()
    identity = flow_run_id()
    if identity is None:
        yield cancellation
        return

    def poll(ended: threading.Event) -> None:
        while not ended.wait(poll_every_s):
            with suppress(*_UNREACHABLE), cancellation.asking(), get_client(sync_client=True) as client:
                state = client.read_flow_run(identity).state
                if state is not None and (state.is_cancelling() or state.is_cancelled()):
                    cancellation.set()
                    return

    with beside(poll, "funcpipe-cancellation"):
        yield cancellation


def cancel_task_runs() -> None:
    """Mark the task runs of this flow run that never ended as cancelled; they will not end any more."""
    identity = flow_run_id()
    if identity is None:
        return
    unfinished = TaskRunFilter(
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    )
    with suppress(*_UNREACHABLE), get_client(sync_client=True) as client:
        only: Any = FlowRunFilter(id=FlowRunFilterId(any_=[identity]))
        for task_run in client.read_task_runs(flow_run_filter=only, task_run_filter=unfinished):
            client.set_task_run_state(
                task_run.id, Cancelled(message="the flow run was cancelled"), force=True
            )

"""The Dask task runner of a pipeline run.

Prefect sends the whole settings and the flow's context with every task run, and a worker builds
settings and HTTP client from them anew each time; that is most of what a small task run costs.
Here both are pickled once for a run, and kept by each thread of a worker for as long as it works
for that run.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import cloudpickle
from prefect.context import AssetContext, SettingsContext, SyncClientContext, serialize_context
from prefect.task_engine import run_task_sync
from prefect.utilities.engine import collect_task_run_inputs_sync

from funcpipe_prefect.errors import BackendError
from funcpipe_prefect.ir import Resources

if TYPE_CHECKING:
    from prefect_dask.task_runners import DaskTaskRunner

__all__ = ["dask_task_runner", "run_in_worker"]


class _Surroundings:
    """What the task runs of one pipeline run share in one thread: settings, client, the flow's context.

    They live in a `contextvars.Context` of their own, so nothing else that the thread runs sees them.
    """

    def __init__(self, blob: bytes) -> None:
        self.blob = blob
        self.flow_context: dict[str, Any] = cloudpickle.loads(blob)
        self._stack = ExitStack()
        self._variables = contextvars.copy_context()
        self._variables.run(self._enter, self.flow_context.pop("settings_context"))

    def _enter(self, settings: dict[str, Any]) -> None:
        self._stack.enter_context(SettingsContext(**settings))
        self._stack.enter_context(SyncClientContext())

    def close(self) -> None:
        """Close the HTTP client."""
        self._variables.run(self._stack.close)

    def run(self, task: Any, **keywords: Any) -> Any:
        """Run a task in these surroundings."""
        call: Callable[..., Any] = run_task_sync
        return self._variables.run(call, task, **keywords)


_thread = threading.local()


def run_in_worker(
    surroundings: bytes,
    task: Any,
    task_run_id: UUID,
    parameters: dict[str, Any],
    wait_for: Any,
    dependencies: dict[str, Any],
    asset_context: dict[str, Any],
) -> Any:
    """Run a Prefect task on a Dask worker and return its final state.

    Args:
        surroundings: What Prefect's `serialize_context` gives, pickled; the same for a whole run.
        task: A synchronous task.
        task_run_id: Chosen where it was submitted.
        parameters: Of the task, with the results of upstream tasks in place.
        wait_for: Results of other tasks that must have completed.
        dependencies: Which upstream task runs each parameter stems from.
        asset_context: This task run's own part of the context.
    """
    kept: _Surroundings | None = getattr(_thread, "surroundings", None)
    if kept is None or kept.blob != surroundings:
        if kept is not None:
            kept.close()
        kept = _thread.surroundings = _Surroundings(surroundings)
    return kept.run(
        task,
        task_run_id=task_run_id,
        parameters=parameters,
        wait_for=wait_for,
        return_type="state",
        dependencies=dependencies,
        context={**kept.flow_context, "asset_context": asset_context},
    )


def dask_task_runner(resources: Resources) -> DaskTaskRunner:
    """Make the task runner that `resources:` asks for; no cluster starts yet.

    Raises:
        BackendError: FP501, the cluster class cannot be imported.
    """
    from funcpipe_prefect.backends.dask.clusters import cluster_options
    from funcpipe_prefect.backends.dask.early import keep_few_messages, quiet_logs

    quiet_logs()
    keep_few_messages()
    from prefect_dask.task_runners import DaskTaskRunner, PrefectDaskFuture

    class PipelineTaskRunner(DaskTaskRunner):
        """Submits synchronous task runs of one flow run, as what they are to Dask: never pure.

        With `pure=True`, the parent's default, Dask's tokenize takes seconds for a few thousand
        small objects among the parameters.
        """

        _surroundings: bytes | None = None

        def submit(
            self,
            task: Any,
            parameters: dict[str, Any],
            wait_for: Iterable[Any] | None = None,
            dependencies: dict[str, Any] | None = None,
        ) -> Any:
            if self._surroundings is None:
                self._surroundings = cloudpickle.dumps(serialize_context())
            task_run_id = uuid4()
            inputs = {
                name: collect_task_run_inputs_sync(value, future_cls=PrefectDaskFuture)
                | (dependencies or {}).get(name, set())
                for name, value in parameters.items()
            }
            assets = AssetContext.from_task_and_inputs(
                task, task_run_id, task_inputs=inputs, copy_to_child_ctx=True
            )
            future: Any = self.client.submit(  # type: ignore[no-untyped-call]
                run_in_worker,
                self._surroundings,
                task,
                task_run_id,
                self._optimize_futures(parameters),
                self._optimize_futures(wait_for) if wait_for else None,
                inputs,
                assets.serialize(),
                key=f"{task.name}-{task_run_id}",
                pure=False,
            )
            return PrefectDaskFuture(wrapped_future=future, task_run_id=task_run_id)

    try:
        return PipelineTaskRunner(**cluster_options(resources))
    except (ImportError, AttributeError, ValueError) as error:
        raise BackendError(f"resources.cluster_class {resources.cluster_class!r}: {error}") from error

"""The Dask task runner of a pipeline run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from funcpipe_prefect.errors import BackendError
from funcpipe_prefect.ir import Resources

if TYPE_CHECKING:
    from prefect_dask.task_runners import DaskTaskRunner

__all__ = ["dask_task_runner"]


def dask_task_runner(resources: Resources) -> DaskTaskRunner:
    """Make the task runner that `resources:` asks for; no cluster starts yet.

    Raises:
        BackendError: FP501, the cluster class cannot be imported.
    """
    if "DASK_LOGGING__DISTRIBUTED" not in os.environ:
        os.environ["DASK_LOGGING__DISTRIBUTED"] = "error"  # read by the workers when they start
        logging.getLogger("distributed").setLevel(logging.ERROR)
    from prefect_dask.task_runners import DaskTaskRunner, PrefectDaskFuture

    from funcpipe_prefect.backends.dask import cluster_options

    class PipelineTaskRunner(DaskTaskRunner):
        """Submits task runs as what they are to Dask: never pure, so nothing is hashed for a key.

        With `pure=True`, the parent's default, Dask's tokenize takes seconds for a few thousand
        small objects among the parameters.
        """

        def submit(
            self,
            task: Any,
            parameters: dict[str, Any],
            wait_for: Iterable[Any] | None = None,
            dependencies: dict[str, Any] | None = None,
        ) -> Any:
            future: Any = self.client.submit(  # type: ignore[no-untyped-call]
                task,
                parameters=self._optimize_futures(parameters),
                wait_for=self._optimize_futures(wait_for) if wait_for else None,
                dependencies=dependencies,
                return_type="state",
                pure=False,
            )
            return PrefectDaskFuture(wrapped_future=future, task_run_id=future.task_run_id)

    try:
        return PipelineTaskRunner(**cluster_options(resources))
    except (ImportError, AttributeError, ValueError) as error:
        raise BackendError(f"resources.cluster_class {resources.cluster_class!r}: {error}") from error

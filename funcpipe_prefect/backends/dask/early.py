"""A local cluster that starts while the process of the run imports Prefect.

Prefect takes seconds to import, in this process and in each worker. Workers are forked here from one process
that has done so, and which begins with it before anything else happens.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any

from funcpipe_prefect.ir import Resources
from funcpipe_prefect.running import CHILD_VARIABLES

__all__ = ["early_address", "keep_few_messages", "local_cluster", "quiet_logs", "starting_early"]

_PRELOADED = ["distributed", "prefect_dask", "prefect.task_engine", "funcpipe_prefect.orchestration.flow"]
"""What workers need before their first record."""


def local_cluster(resources: Resources) -> dict[str, Any]:
    """Translate `resources:` into the keyword arguments of a `LocalCluster`."""
    kwargs: dict[str, Any] = {
        "n_workers": resources.workers,
        "threads_per_worker": resources.threads_per_worker,
        "processes": True,
        "dashboard_address": "127.0.0.1:0",
        **resources.cluster_kwargs,
    }
    if resources.memory_limit:
        kwargs["memory_limit"] = resources.memory_limit
    return kwargs


def quiet_logs() -> None:
    """Keep what workers log below errors out of the way, unless something else is asked for."""
    if "DASK_LOGGING__DISTRIBUTED" not in os.environ:
        os.environ["DASK_LOGGING__DISTRIBUTED"] = "error"  # read by the workers when they start
        logging.getLogger("distributed").setLevel(logging.ERROR)


@functools.cache
def keep_few_messages() -> None:
    """Let Dask keep the last hundred messages of each connection, where nobody asks for another number.

    It keeps a thousand for its developers. With a job in each they are 50 MB in the process of the flow.
    """
    import dask.config
    import distributed  # noqa: F401  its own default comes before this one

    dask.config.update_defaults({"distributed": {"admin": {"low-level-log-length": 100}}})


@dataclass(frozen=True)
class _Early:
    resources: Resources
    cluster: Future[Any]


_early: ContextVar[_Early | None] = ContextVar("funcpipe_early_cluster", default=None)


@contextmanager
def starting_early(resources: Resources) -> Iterator[None]:
    """Begin to start the local cluster that a run in the block asks for.

    A run that names a scheduler or a cluster class is left alone, and so is one where Dask's setting
    `distributed.worker.multiprocessing-method` asks for something else, or processes cannot be forked.
    """
    if resources.address or resources.cluster_class or not _may_fork():
        yield
        return
    quiet_logs()
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    with _environment(_SPAWNED):
        forkserver.ensure_running()
    with ThreadPoolExecutor(1, "funcpipe-cluster") as pool:
        cluster = pool.submit(_forked, local_cluster(resources))
        token = _early.set(_Early(resources, cluster))
        try:
            yield
        finally:
            _early.reset(token)
            with suppress(Exception):
                cluster.result().close()


_SPAWNED = {"MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1"}  # fmt: skip
"""Dask's own `distributed.nanny.pre-spawn-environ`: it has to be there before a process starts."""


def _may_fork() -> bool:
    chosen = "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD" in os.environ
    return not chosen and "forkserver" in multiprocessing.get_all_start_methods()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _forked(wanted: dict[str, Any]) -> Any:
    import dask
    import distributed
    import distributed.utils

    keep_few_messages()
    # Dask would import whatever it might send to workers, pandas among it, to have it preloaded.
    distributed.utils._forkserver_preload_set = True
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        return distributed.LocalCluster(**wanted)  # type: ignore[no-untyped-call]


def early_address(resources: Resources) -> str:
    """Wait for the cluster that was started early, if these are its resources.

    Its workers are told what this process has learned since they began to start.

    Returns:
        The scheduler's address; empty when there is no such cluster, or it did not start.
    """
    early = _early.get()
    if early is None or early.resources != resources:
        return ""
    from distributed import Client
    from distributed.diagnostics.plugin import WorkerPlugin

    class Environment(WorkerPlugin):
        """Variables for workers, those that are started again among them."""

        def setup(self, worker: Any) -> None:
            os.environ.update(variables)

    variables = dict(CHILD_VARIABLES)
    with suppress(Exception):  # the run's own attempt to start a cluster says why
        address: str = early.cluster.result().scheduler_address
        if variables:
            with Client(address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
                client.register_plugin(Environment(), name="funcpipe-environment")
        return address
    return ""

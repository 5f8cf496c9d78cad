"""What is known of Dask itself: which cluster the resources mean, and how futures ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dask.utils
import distributed
from distributed.scheduler import KilledWorker

from funcpipe_prefect.backends.dask.early import early_address, local_cluster
from funcpipe_prefect.errors import RunCancelled
from funcpipe_prefect.ir import Resources

__all__ = [
    "cancellation_check",
    "cluster_options",
    "death_of",
    "forget_keys",
    "outcomes",
    "threads_of",
]


def cluster_options(resources: Resources) -> dict[str, Any]:
    """Translate `resources:` into the keyword arguments of a `DaskTaskRunner`.

    A running scheduler is used as it is. A cluster class gets `cluster_kwargs` as written, and
    `n_workers` where they do not say it. Otherwise a local cluster is started.
    """
    if resources.address:
        return {"address": resources.address}
    if address := early_address(resources):
        return {"address": address}
    if resources.cluster_class:
        return {
            "cluster_class": resources.cluster_class,
            "cluster_kwargs": {"n_workers": resources.workers, **resources.cluster_kwargs},
        }
    return {"cluster_kwargs": local_cluster(resources)}


def cancellation_check() -> Callable[[], None] | None:
    """Make the function by which a task on a worker learns that nobody wants its result any more.

    Dask cannot end a running task. It marks it when its future is cancelled, or when the client
    that wanted it is gone.

    Returns:
        A function that raises RunCancelled; None outside of a worker.
    """
    try:
        worker = distributed.get_worker()
        key = worker.get_current_task()
    except (ValueError, AttributeError):
        return None

    def check() -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            raise RunCancelled("the run does not wait for this task any more")

    return check


def forget_keys() -> None:
    """Empty the cache in which Dask keeps the last hundred thousand keys, and what kind of task each was."""
    dask.utils.key_split.cache_clear()


def outcomes(futures: Sequence[Any], client: Any) -> Iterator[tuple[int, Any, str]]:
    """Yield each future's index, result and, if Dask lost it, the reason; in order of completion.

    A worker that is killed takes its task with it: Dask runs the task elsewhere, and gives up
    after `distributed.scheduler.allowed-failures` deaths.
    """
    index_of = {future.key: index for index, future in enumerate(futures)}
    with distributed.Client.as_current(client):
        completed = distributed.as_completed(futures)  # type: ignore[no-untyped-call]
        for future in completed:
            if future.status in ("lost", "pending"):  # with the worker that held it; Dask computes it again
                completed.add(future)  # type: ignore[no-untyped-call]
            elif future.status == "finished":
                yield index_of[future.key], future.result(), ""
            else:
                error = future.exception() if future.status == "error" else None
                yield index_of[future.key], None, _reason(future.status, error)


def threads_of(client: Any) -> int:
    """Give how many tasks the workers of a cluster run at once now."""
    return sum(client.nthreads().values())


def death_of(status: str, error: BaseException | None) -> str:
    """Say how Dask lost a task whose own code did not fail; nothing where it did."""
    return _reason(status, error) if error is None or isinstance(error, KilledWorker) else ""


def _reason(status: str, error: BaseException | None) -> str:
    if isinstance(error, KilledWorker):
        return f"its worker process died {error.allowed_failures + 1} times (out of memory, or killed from outside)"
    return f"{type(error).__name__}: {error}" if error else f"Dask reports it as {status}"

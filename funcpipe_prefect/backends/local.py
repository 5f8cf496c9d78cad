"""The local backend: a loop over splits in this process. It is the reference semantics."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, TypeVar

import tenacity

from funcpipe_prefect.backends.protocol import Progress, Receipts, RunReport, execute
from funcpipe_prefect.backends.publishing import commit_run
from funcpipe_prefect.backends.work import Entries, Job, run_stage
from funcpipe_prefect.errors import is_retryable
from funcpipe_prefect.ir import Pipeline, Retries
from funcpipe_prefect.plan import Lane, Plan, StageReceipt
from funcpipe_prefect.sources import IterableSource

__all__ = ["LocalEngine", "delay_before", "retrying", "run_local"]

T = TypeVar("T")


def run_local(
    pipeline: Pipeline,
    records: Iterable[Any] | None = None,
    *,
    refresh: bool = False,
    refresh_from: str | None = None,
    retry_errors: bool = False,
    progress: Progress | None = None,
) -> RunReport:
    """Run a pipeline in this process, without Prefect.

    Args:
        pipeline: A checked pipeline.
        records: Records in place of the pipeline's own source.
        refresh: Use nothing that was computed before.
        refresh_from: The operator from whose stage on nothing is used that was computed before.
        retry_errors: Compute again what left dead letters in an earlier run.
        progress: Called after each stage on each split.

    Returns:
        The run's report.

    Raises:
        FuncPipeError: The run failed; nothing was published.
    """
    from dataclasses import replace

    if records is not None:
        pipeline = replace(pipeline, source=IterableSource.of(records))
    with ExitStack() as afterwards:
        return execute(
            pipeline,
            LocalEngine(),
            afterwards=afterwards,
            refresh=refresh,
            refresh_from=refresh_from,
            retry_errors=retry_errors,
            progress=progress,
        )


class LocalEngine:
    """Runs stages one after the other, split by split, with the pipeline's retries."""

    name = "local"

    def run_lane(
        self, job: Job, plan: Plan, lane: Lane, notify: Callable[[int, StageReceipt], None]
    ) -> Receipts:
        """Take each split through all stages before the next split."""
        retries, needed = job.pipeline.retries, plan.needed
        receipts: Receipts = {}
        for number, task in enumerate(lane.tasks):
            for index in lane.stages:
                if (index, number) not in needed:
                    continue
                stage = job.stages[index]
                upstream = None if stage.upstream is None else receipts.get((stage.upstream, number))
                attempts = retries.sink if stage.kind == "write" else retries.transform
                receipts[index, number] = retrying(retries, attempts)(
                    run_stage, job, index, task.split, task.keys, upstream, task.feed
                )
                notify(index, receipts[index, number])
        return receipts

    def commit(self, job: Job, plan: Plan, entries: Entries) -> None:
        """Publish from here."""
        retries = job.pipeline.retries
        retrying(retries, retries.sink)(commit_run, job, plan, entries)


def delay_before(retries: Retries, attempt: int) -> float:
    """Give how many seconds to wait after an attempt has failed, the first being 1."""
    delays = retries.delay_seconds or (0.0,)
    delay = delays[min(attempt, len(delays)) - 1]
    return delay + random.uniform(0, delay * retries.jitter)


def retrying(retries: Retries, attempts: int) -> tenacity.Retrying:
    """Make what calls a function again after a failure that may pass.

    Args:
        retries: The delays before each time.
        attempts: How often to try again.
    """
    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(attempts + 1),
        wait=lambda state: delay_before(retries, state.attempt_number),
        retry=tenacity.retry_if_exception(is_retryable),
        reraise=True,
    )

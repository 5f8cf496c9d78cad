"""The local backend: a loop over splits in this process. It is the reference semantics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import tenacity

from funcpipe_prefect.backends.protocol import Progress, RunReport, execute
from funcpipe_prefect.backends.work import Job, Merged, commit_run, merge_partials, run_stage
from funcpipe_prefect.errors import is_retryable
from funcpipe_prefect.ir import Commit, Pipeline, Retries
from funcpipe_prefect.plan import Plan, StageReceipt
from funcpipe_prefect.sources import IterableSource

__all__ = ["LocalEngine", "retrying", "run_local"]

T = TypeVar("T")


def run_local(
    pipeline: Pipeline,
    records: Iterable[Any] | None = None,
    *,
    refresh: bool = False,
    refresh_from: str | None = None,
    progress: Progress | None = None,
) -> RunReport:
    """Run a pipeline in this process, without Prefect.

    Args:
        pipeline: A checked pipeline.
        records: Records in place of the pipeline's own source.
        refresh: Use nothing that was computed before.
        refresh_from: The operator from whose stage on nothing is used that was computed before.
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
            progress=progress,
        )


class LocalEngine:
    """Runs stages one after the other, split by split, with the pipeline's retries."""

    name = "local"

    def run_stages(
        self, job: Job, plan: Plan, notify: Callable[[int, StageReceipt], None]
    ) -> Sequence[StageReceipt]:
        """Take each pending split through all stages before the next split."""
        return [self._one_split(job, plan, index, notify) for index in plan.pending]

    def _one_split(
        self, job: Job, plan: Plan, split: int, notify: Callable[[int, StageReceipt], None]
    ) -> StageReceipt:
        receipt: StageReceipt | None = None
        for stage in job.stages:
            retries = job.pipeline.retries
            attempts = retries.sink if stage.kind == "write" else retries.transform
            receipt = retrying(retries, attempts)(
                run_stage, job, stage.index, plan.splits[split], plan.keys[split], receipt
            )
            notify(stage.index, receipt)
        assert receipt is not None, "a plan has at least one stage"
        return receipt

    def merge(self, job: Job, partials: Sequence[bytes]) -> Merged:
        """Merge here."""
        return merge_partials(job, partials)

    def commit(self, job: Job, entries: Sequence[Commit], plan: Plan) -> None:
        """Publish from here."""
        retries = job.pipeline.retries
        retrying(retries, retries.sink)(commit_run, job, entries, plan.by_name)


def retrying(retries: Retries, attempts: int) -> tenacity.Retrying:
    """Make what calls a function again after a failure that may pass.

    Args:
        retries: The delays before each time.
        attempts: How often to try again.
    """
    delays = [
        tenacity.wait_fixed(delay) + tenacity.wait_random(0, delay * retries.jitter)
        for delay in retries.delay_seconds or (0.0,)
    ]
    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(attempts + 1),
        wait=tenacity.wait_chain(*delays),
        retry=tenacity.retry_if_exception(is_retryable),
        reraise=True,
    )

"""The Prefect tasks: a stage on a split, a commit; and the engine that submits them.

A task takes the run's job as bytes, a split and keys, and gives back a receipt. Bytes are opaque
to Prefect and to Dask: nothing walks or hashes what is inside.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import cloudpickle
import httpx
import tenacity
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.context import AssetContext
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Crashed
from prefect.tasks import MaterializingTask, Task

from funcpipe_prefect.backends.dask.clusters import cancellation_check, outcomes
from funcpipe_prefect.backends.protocol import Receipts, schedule
from funcpipe_prefect.backends.publishing import commit_run
from funcpipe_prefect.backends.work import Entries, Job, leaves_receipt, loaded, run_stage
from funcpipe_prefect.errors import BackendError, RunCancelled, is_retryable
from funcpipe_prefect.fingerprint import key_of
from funcpipe_prefect.ir import Retries, Split, summed
from funcpipe_prefect.limits import limited_by
from funcpipe_prefect.orchestration.caching import PlannedKey
from funcpipe_prefect.orchestration.cancelling import SLOW_S, Cancellation, flow_run_id
from funcpipe_prefect.orchestration.handing import Handed, handed, taken
from funcpipe_prefect.orchestration.limiting import wait
from funcpipe_prefect.orchestration.lineage import describe_assets, made_assets, source_assets
from funcpipe_prefect.plan import Feed, Lane, Plan, Stage, StageReceipt
from funcpipe_prefect.running import run_by

__all__ = [
    "PrefectEngine",
    "commit_task",
    "is_worth_retrying",
    "pickled_once",
    "record_task_run",
    "retrying",
    "run_here",
]


_AWAY_AT_MOST_S = 900


def is_worth_retrying(task: Any, task_run: Any, state: State[Any]) -> bool:
    """Tell Prefect whether a failed task run is to be tried again."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and is_retryable(error)


def retrying(retries: Retries, attempts: int) -> dict[str, Any]:
    """Give the options of a Prefect task that is tried again so often, after the pipeline's delays."""
    return {
        "retries": attempts,
        "retry_delay_seconds": list(retries.delay_seconds),
        "retry_jitter_factor": retries.jitter or None,
    }


@task(name="funcpipe-stage", retry_condition_fn=is_worth_retrying, cache_policy=NO_CACHE)
def stage_task(
    job: bytes,
    index: int,
    split: Split,
    keys: tuple[str, ...],
    upstream: StageReceipt | None = None,
    feed: bytes | None = None,
) -> StageReceipt | State[Any]:
    """Run one stage on one split; a cancelled one ends as such."""
    try:
        with run_by("", cancellation_check()), limited_by(wait):
            source = None if feed is None else cloudpickle.loads(feed)
            receipt = run_stage(loaded(job), index, split, keys, upstream, source)
    except RunCancelled as error:
        return Cancelled(message=str(error))
    get_run_logger().info(
        "%s: %s",
        split.name,
        ", ".join(
            f"{counts.name} {counts.records_in}→{counts.records_out}"
            + (f" ({counts.dropped} dropped)" if counts.dropped else "")
            + (f" ({counts.errors} dead letters)" if counts.errors else "")
            for counts in summed(*(entry.counts for entry in receipt.entries))
        ),
    )
    return receipt


def _commit(job: bytes, entries: Handed) -> None:
    run, (plan, made) = loaded(job), taken(entries)
    commit_run(run, plan, made)
    context = AssetContext.get()
    if context is not None and context.downstream_assets:
        describe_assets(run, plan, made)


def commit_task(job: Job) -> Any:
    """Make the task that publishes outputs and dead letters, and with them what Prefect calls assets."""
    options: Any = {
        "name": "funcpipe-commit", "retry_condition_fn": is_worth_retrying, "cache_policy": NO_CACHE
    }  # fmt: skip
    assets = made_assets(job)
    if not assets:
        return Task(_commit, **options)
    sources = source_assets(job.pipeline)
    return MaterializingTask(
        _commit, assets=assets, asset_deps=sources, materialized_by="funcpipe", **options
    )


def pickled_once(feed: Feed, known: dict[int, bytes]) -> bytes:
    """Pickle what many tasks share, and hand over as bytes, once."""
    if id(feed) not in known:
        known[id(feed)] = cloudpickle.dumps(feed)
    return known[id(feed)]


def run_here(
    run: Any, options: Mapping[str, Any], parameters: Mapping[str, Any], cancellation: Cancellation
) -> Any:
    """Run a task in this process; give its value, or raise what failed it."""
    cancellation.check()
    with run_by("", cancellation.check):
        state = run.with_options(**options)(**parameters, return_state=True)
    cancellation.check()
    value = state.result(raise_on_failure=False)
    if state.is_completed():
        return value
    if isinstance(value, BaseException):
        raise value
    raise BackendError(f"{options['task_run_name']} ended {state.name}: {state.message}")


class PrefectEngine:
    """Submits one Prefect task run per stage and split to a Dask task runner, and waits on each.

    Args:
        runner: A started task runner.
        cancellation: Of the flow run.
    """

    name = "dask"

    def __init__(self, runner: Any, cancellation: Cancellation) -> None:
        self._runner, self._cancellation = runner, cancellation
        self._ended: dict[UUID, tuple[str, State[Any]]] = {}
        self._has_lost = False
        self._shown_as_cached = 0

    def run_lane(
        self, job: Job, plan: Plan, lane: Lane, notify: Callable[[int, StageReceipt], None]
    ) -> Receipts:
        """Submit what the schedule says of a lane; each future is kept and waited on."""
        blob = cloudpickle.dumps(job)
        budget = job.pipeline.resources.task_budget - self._shown_as_cached
        chosen = schedule(job, plan, lane, max(0, budget))
        self._shown_as_cached += len(chosen.cached) - len(chosen.unsubmitted)
        futures: dict[tuple[int, int], Any] = {}
        labels: list[tuple[int, str, str]] = []
        feeds: dict[int, bytes] = {}
        for pair, receipt in chosen.unsubmitted.items():
            notify(pair[0], receipt)
        for pair in chosen.needed:
            if pair in chosen.unsubmitted:
                continue
            stage, task = job.stages[pair[0]], lane.tasks[pair[1]]
            before = (stage.upstream, pair[1])
            name = f"{stage.name}[{pair[1]}]"
            parameters = {
                "job": blob,
                "index": stage.index,
                "split": task.split,
                "keys": task.keys,
                "upstream": futures.get(before, chosen.unsubmitted.get(before)),  # type: ignore[arg-type]
                "feed": None if task.feed is None else pickled_once(task.feed, feeds),
            }
            run = self._configured(job, stage, name, task.keys[stage.index], is_done=pair in chosen.cached)
            futures[pair] = self._runner.submit(run, parameters)
            labels.append((stage.index, name, task.split.name))
        receipts = self._collect([*futures.values()], labels, notify)
        return {**chosen.unsubmitted, **dict(zip(futures, receipts, strict=True))}

    def _configured(self, job: Job, stage: Stage, name: str, key: str, *, is_done: bool) -> Any:
        retries = job.pipeline.retries
        options: dict[str, Any] = {
            "task_run_name": name,
            "name": stage.name,
            **retrying(retries, retries.sink if stage.kind == "write" else retries.transform),
            "persist_result": True,
        }
        if leaves_receipt(stage):
            options |= {"cache_policy": PlannedKey(planned=key), "refresh_cache": not is_done}
        else:  # nobody can see whether it is done, so only a retry of this flow run takes it as done
            options |= {"cache_policy": PlannedKey(planned=key_of(key, str(flow_run_id())))}
        return stage_task.with_options(**options)

    def _collect(
        self,
        futures: Sequence[Any],
        labels: Sequence[tuple[int, str, str]],
        notify: Callable[[int, StageReceipt], None],
    ) -> list[Any]:
        """Wait for every future; then raise the first failure, if any, by the order of splits."""
        results: list[Any] = [None] * len(futures)
        failures: dict[int, BaseException] = {}
        dask_futures = [future.wrapped_future for future in futures]
        client = self._runner.client
        call_back = functools.partial(client.cancel, dask_futures, force=True)
        try:
            with self._cancellation.calling(call_back):
                for index, state, lost in outcomes(dask_futures, client):
                    self._cancellation.check()
                    stage, name, split = labels[index]
                    if state is not None:
                        self._ended[futures[index].task_run_id] = (name, state)
                    if lost:
                        self._has_lost = True
                        message = f"{name} on split {split!r} was lost: {lost}"
                        record_task_run(futures[index].task_run_id, name, Crashed(message=message))
                        failures[index] = BackendError(message)
                    elif state.is_completed():
                        results[index] = _value(state)
                        if isinstance(results[index], StageReceipt):
                            notify(stage, results[index])
                    else:
                        failures[index] = _failure(state, name)
        except BaseException:
            call_back()  # interrupted, cancelled: nobody is to go on working for a run that is over
            raise
        self._cancellation.check()
        if failures:
            roots = [index for index, error in failures.items() if not isinstance(error, _NotReadyError)]
            first = failures[min(roots or failures)]
            if len(roots) > 1:
                get_run_logger().error("%d task runs failed; the first: %s", len(roots), first)
            raise first
        return results

    def catch_up(self) -> None:
        """Tell a Prefect server how the task runs ended, as far as it does not know.

        It may not know if it was away, or if workers died, and their last events with them.
        """
        was_away = self._cancellation.server_was_away
        asked = time.monotonic()
        _wait_for_server()
        if not (was_away or self._has_lost) and time.monotonic() - asked < SLOW_S:
            return
        for task_run_id, (name, state) in self._ended.items():
            if state.is_final() and not _is_known_to_have_ended(task_run_id):
                record_task_run(task_run_id, name, state)

    def commit(self, job: Job, plan: Plan, entries: Entries) -> None:
        """Publish from a worker."""
        with handed(plan, entries) as told:
            self._one(job, commit_task(job), "commit", {"entries": told})

    def _one(self, job: Job, run: Any, name: str, parameters: Mapping[str, Any]) -> Any:
        retries = job.pipeline.retries
        options = {"task_run_name": name, **retrying(retries, retries.sink)}
        future = self._runner.submit(
            run.with_options(**options), {"job": cloudpickle.dumps(job), **parameters}
        )
        return self._collect([future], [(-1, name, name)], lambda index, receipt: None)[0]


def record_task_run(task_run_id: UUID, name: str, state: State[Any]) -> None:
    """Put the end of a task run on record that Prefect has not heard of, perhaps not even of its beginning."""
    with get_client(sync_client=True) as client:
        try:
            client.set_task_run_name(task_run_id, name)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise
            _create_task_run(client, task_run_id, name)
        client.set_task_run_state(task_run_id, state, force=True)


def _create_task_run(client: SyncPrefectClient, task_run_id: UUID, name: str) -> None:
    """Put a task run on record, unless the event of its beginning has come meanwhile and has done so."""
    try:
        client.create_task_run(stage_task, flow_run_id(), str(task_run_id), id=task_run_id, name=name)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != httpx.codes.CONFLICT:
            raise
        client.set_task_run_name(task_run_id, name)


def _is_known_to_have_ended(task_run_id: UUID) -> bool:
    with get_client(sync_client=True) as client:
        try:
            state = client.read_task_run(task_run_id).state
        except ObjectNotFound:
            return False
    return state is not None and state.is_final()


@tenacity.retry(
    retry=tenacity.retry_if_exception_type((httpx.HTTPError, OSError)),
    wait=tenacity.wait_fixed(1),
    stop=tenacity.stop_after_delay(_AWAY_AT_MOST_S),
    reraise=True,
)
def _wait_for_server() -> None:
    with get_client(sync_client=True) as client:
        client.hello().raise_for_status()


class _NotReadyError(BackendError):
    """A task run that never began because the one before it failed."""


def _value(state: State[Any]) -> Any:
    value = state.result(raise_on_failure=False)
    if isinstance(value, StageReceipt) and state.name == "Cached":
        return replace(value, cached=True, warnings=())
    return value


def _failure(state: State[Any], name: str) -> BaseException:
    if state.is_pending():
        return _NotReadyError(f"{name} never ran: {state.message}")
    error = state.result(raise_on_failure=False)
    return (
        error
        if isinstance(error, BaseException)
        else BackendError(f"{name} ended {state.name}: {state.message}")
    )

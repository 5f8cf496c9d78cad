"""Granularity `stage`: one Prefect task run a stage, which fans out over a Dask cluster by itself.

A task run for each split costs Prefect a few calls and a row for each. With ten thousand splits that is most of
the work. Here a split is a bare Dask task, with the same kernel, keys, receipts and retries; so many of them are
submitted at a time as keep the workers busy, so the scheduler never holds them all.
"""

from __future__ import annotations

import heapq
import os
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cloudpickle
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled

from funcpipe_prefect.backends.dask.clusters import (
    cancellation_check,
    death_of,
    forget_keys,
    threads_of,
)
from funcpipe_prefect.backends.local import delay_before
from funcpipe_prefect.backends.protocol import MOST_TASK_RUNS, Receipts
from funcpipe_prefect.backends.work import Job, finished, loaded, run_stage
from funcpipe_prefect.errors import BackendError, RunCancelled, is_retryable
from funcpipe_prefect.ir import Split
from funcpipe_prefect.limits import limited_by
from funcpipe_prefect.orchestration.limiting import wait
from funcpipe_prefect.orchestration.tasks import PrefectEngine, pickled_once, run_here
from funcpipe_prefect.plan import Lane, Plan, Stage, StageReceipt, Task
from funcpipe_prefect.running import run_by

__all__ = ["StageEngine"]

_AHEAD, _LEAST_AHEAD, _LOOK_EVERY_S, _ASK_EVERY_S = 4, 16, 0.2, 2.0
_MOST_SHARED, _KEYS_KNOWN, _MOST_NAMED = 1_000, 5_000, 5


@task(name="funcpipe-fan-out", cache_policy=NO_CACHE, persist_result=False)
def fan_out_task(work: Callable[[], Any]) -> Any:
    """Run one stage on all its splits; a cancelled one ends as such."""
    try:
        return work()
    except RunCancelled as error:
        return Cancelled(message=str(error))


def run_on_worker(
    job: bytes,
    index: int,
    split: Split,
    keys: tuple[str, ...],
    upstream: StageReceipt | None,
    feed: bytes | None,
    api: str | None,
) -> StageReceipt:
    """Run a stage on a split in a Dask worker.

    Args:
        job: The run, pickled.
        index: Which stage.
        split: Which split.
        keys: The split's stage keys.
        upstream: What the stage before returned.
        feed: Where records come from, if not from the source; pickled.
        api: The Prefect server's URL, for secrets and limits.
    """
    if api:
        os.environ.setdefault("PREFECT_API_URL", api)
    with run_by("", cancellation_check()), limited_by(wait):
        return run_stage(
            loaded(job), index, split, keys, upstream, None if feed is None else cloudpickle.loads(feed)
        )


class StageEngine(PrefectEngine):
    """Runs a stage on all splits as one Prefect task run; with few splits, if it may choose, one for each.

    Args:
        runner: A started task runner.
        cancellation: Of the flow run.
        may_choose: Take a task run for each stage and split where a lane has few of them.
    """

    def __init__(self, runner: Any, cancellation: Any, *, may_choose: bool = False) -> None:
        super().__init__(runner, cancellation)
        self._may_choose = may_choose

    def run_lane(
        self, job: Job, plan: Plan, lane: Lane, notify: Callable[[int, StageReceipt], None]
    ) -> Receipts:
        """Run stage by stage; what is done already is not submitted."""
        needed = plan.needed
        own = {
            index: [number for number in range(len(lane.tasks)) if (index, number) in needed]
            for index in lane.stages
        }
        if self._may_choose and sum(map(len, own.values())) <= MOST_TASK_RUNS:
            return super().run_lane(job, plan, lane, notify)
        receipts: Receipts = {}
        blob = cloudpickle.dumps(job)
        for index, numbers in own.items():
            if numbers:
                fan = _Fan(self, job, blob, job.stages[index], lane.tasks, receipts, notify)
                self._one_stage(job.stages[index], fan, numbers)
                receipts.update(((index, number), receipt) for number, receipt in fan.made.items())
        return receipts

    def _one_stage(self, stage: Stage, fan: _Fan, numbers: Sequence[int]) -> None:
        options = {"name": stage.name, "task_run_name": stage.name}
        work = {"work": lambda: fan.run(numbers)}
        run_here(fan_out_task, options, work, self._cancellation)

    @property
    def client(self) -> Any:
        """The Dask client."""
        return self._runner.client

    @property
    def cancellation(self) -> Any:
        """Of the flow run."""
        return self._cancellation


@dataclass
class _Fan:
    """One stage on its splits: those in flight, those that wait, and those to be tried again."""

    engine: StageEngine
    job: Job
    blob: bytes
    stage: Stage
    tasks: Sequence[Task]
    before: Receipts
    notify: Callable[[int, StageReceipt], None]
    made: dict[int, StageReceipt] = field(default_factory=dict)
    failures: dict[int, BaseException] = field(default_factory=dict)
    _active: dict[int, Any] = field(default_factory=dict)
    _attempts: dict[int, int] = field(default_factory=dict)
    _again: list[tuple[float, int]] = field(default_factory=list)
    _lost: dict[int, str] = field(default_factory=dict)
    _ended: queue.SimpleQueue[int] = field(default_factory=queue.SimpleQueue)
    _feeds: dict[int, bytes] = field(default_factory=dict)
    _shared: dict[Any, Any] = field(default_factory=dict)
    _ahead: int = _LEAST_AHEAD
    _asked: float = -_ASK_EVERY_S

    def run(self, numbers: Sequence[int]) -> None:
        """Run the stage on these splits; when one has failed for good, end those in flight, and raise.

        The receipts are in `made`, not returned: Prefect goes through what a task returns, and copies it.
        """
        waiting = iter(numbers)
        cancellation = self.engine.cancellation
        try:
            with cancellation.calling(self._cancel):
                while self._submit(waiting):
                    cancellation.check()
                    self._collect()
            cancellation.check()
        except BaseException:
            self._cancel()
            raise
        cached = sum(receipt.cached for receipt in self.made.values())
        get_run_logger().info("%d splits, %d of them cached", len(self.made), cached)
        if self.failures:
            first = min(self.failures)
            if len(self.failures) > 1:
                get_run_logger().error(
                    "%d splits failed; the first: %s", len(self.failures), self.failures[first]
                )
            if first in self._lost:
                # Dask blames a death on all tasks that the worker had: it may be any of them.
                named = [self._lost[number] for number in sorted(self._lost)[:_MOST_NAMED]]
                raise BackendError("; ".join(named))
            raise self.failures[first]

    def _submit(self, waiting: Any) -> bool:
        """Keep the workers busy; tell whether there is anything to wait for."""
        most = self._most()
        while self._again and self._again[0][0] <= time.monotonic() and len(self._active) < most:
            self._send(heapq.heappop(self._again)[1])
        while not self.failures and len(self._active) < most:
            number = next(waiting, None)
            if number is None:
                break
            found = finished(self.job, self.stage, self.tasks[number].keys[self.stage.index])
            if found is not None:
                self._take(number, replace(found, cached=True))
            else:
                self._send(number)
        return bool(self._active) or (bool(self._again) and not self.failures)

    def _most(self) -> int:
        """Say how many may be in flight; a cluster may grow and shrink."""
        if time.monotonic() - self._asked > _ASK_EVERY_S:
            self._ahead = max(_LEAST_AHEAD, _AHEAD * threads_of(self.engine.client))
            self._asked = time.monotonic()
        return self._ahead

    def _send(self, number: int) -> None:
        task, stage = self.tasks[number], self.stage
        feed = None if task.feed is None else pickled_once(task.feed, self._feeds)
        attempt = self._attempts[number] = self._attempts.get(number, 0) + 1
        upstream = None if stage.upstream is None else self.before.get((stage.upstream, number))
        # Dask plans by what comes before the first number: a name of its own for each split would have no past.
        key = f"{stage.name}-{number}-{self.job.token}-{attempt}"
        future = self.engine.client.submit(
            run_on_worker, self.blob, stage.index, task.split, task.keys, upstream, feed, PREFECT_API_URL.value(),
            key=key, pure=False,
        )  # fmt: skip
        self._active[number] = future
        future.add_done_callback(lambda _, number=number: self._ended.put(number))

    def _collect(self) -> None:
        """Take what has ended; wait a little when nothing has."""
        done: dict[int, Any] = {}
        for number in self._drained():
            future = self._active.get(number)
            if future is not None and future.status in ("lost", "pending"):  # Dask computes it again
                future.add_done_callback(lambda _, number=number: self._ended.put(number))
            elif future is not None:
                del self._active[number]
                if future.status == "finished":
                    done[number] = future
                else:
                    self._fail(number, future)
        if done:
            for number, receipt in zip(done, self.engine.client.gather([*done.values()]), strict=True):
                self._take(number, receipt)

    def _drained(self) -> list[int]:
        """Give all that have ended meanwhile; their results are fetched together."""
        try:
            numbers = [self._ended.get(timeout=_LOOK_EVERY_S)]
        except queue.Empty:
            return []
        while not self._ended.empty():
            numbers.append(self._ended.get())
        return numbers

    def _take(self, number: int, receipt: StageReceipt) -> None:
        self.notify(self.stage.index, receipt)
        if len(self.made) % _KEYS_KNOWN == 0:
            forget_keys()
        self.made[number] = _slim(receipt, self.stage, self.tasks[number], self._shared)

    def _fail(self, number: int, future: Any) -> None:
        error = future.exception() if future.status == "error" else None
        name = f"{self.stage.name}[{number}]"
        lost = death_of(future.status, error)
        if lost:
            self._lost[number] = f"{name} on split {self.tasks[number].split.name!r} was lost: {lost}"
            self.failures[number] = BackendError(self._lost[number])
            return
        retries = self.job.pipeline.retries
        most = retries.sink if self.stage.kind == "write" else retries.transform
        if isinstance(error, Exception) and is_retryable(error) and self._attempts[number] <= most:
            delay = delay_before(retries, self._attempts[number])
            get_run_logger().warning("%s failed and is tried again in %.1f s: %s", name, delay, error)
            heapq.heappush(self._again, (time.monotonic() + delay, number))
            return
        assert error is not None
        self.failures[number] = error

    def _cancel(self) -> None:
        self.engine.client.cancel([*self._active.values()], force=True)


def _slim(receipt: StageReceipt, stage: Stage, task: Task, shared: dict[Any, Any]) -> StageReceipt:
    """Let a receipt, which stays to the end of the run, share what its task or other receipts say too."""

    def common(value: Any) -> Any:
        return shared.setdefault(value, value) if len(shared) < _MOST_SHARED else shared.get(value, value)

    entry = receipt.entry
    own = {text: text for text in (task.split.name, *task.keys)}
    return replace(
        receipt,
        costs=(),  # they are added up by now
        stage=stage.name,
        kind=stage.kind,
        pipeline=common(receipt.pipeline),
        made=common(receipt.made),
        entry=replace(
            entry,
            split=own.get(entry.split, entry.split),
            key=own.get(entry.key, entry.key),
            counts=common(entry.counts),
            dead_letters=common(entry.dead_letters),
        ),
    )

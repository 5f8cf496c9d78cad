"""What a run would do: which stages on how many splits, how much of it is there already, and how much work it is."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from funcpipe_prefect.backends.history import History, recall
from funcpipe_prefect.backends.protocol import MOST_TASK_RUNS, planned, source_of, will_publish
from funcpipe_prefect.backends.work import Job, finished
from funcpipe_prefect.ir import SOURCE, BatchMap, Operator, Pipeline, Resources, Sink
from funcpipe_prefect.plan import Plan, Stage
from funcpipe_prefect.store import PartitionStore

_MOST_NAMES = 1000

__all__ = ["described", "preview"]


def preview(pipeline: Pipeline, backend: str | None = None) -> dict[str, Any]:
    """Say what a run would do; nothing runs.

    Args:
        pipeline: A checked pipeline with a source.
        backend: In place of the pipeline's own.

    Returns:
        Plain values: `stages`, each with its operators, splits, bytes, what is to run (with the names of the
        first 1,000 splits) and what is cached, and what is expected of it; their sums; the task runs that Prefect will have, and the budget for cached ones;
        `expected`, from the last run of the pipeline of this name: records, calls and seconds by operator.

    Raises:
        PipelineError: FP103, the pipeline has no source.
        SourceError: FP409, the input is missing or unreadable.
    """
    backend = backend or pipeline.backend
    plan, job = planned(pipeline, source_of(pipeline), time.time(), refresh=False, refresh_from=None)
    return described(plan, backend, _to_run(job, plan), recall(pipeline))


def _to_run(job: Job, plan: Plan) -> frozenset[tuple[int, int]]:
    """Find what no earlier run has done."""
    keys = {place: plan.task(*place).keys[place[0]] for place in plan.needed}
    try:
        known = PartitionStore(job.pipeline.storage).with_receipts(keys.values())
    except OSError:
        known = set(keys.values())
    done = [
        place for place, key in keys.items() if key in known and finished(job, plan.stages[place[0]], key)
    ]
    return plan.needed.difference(done)


def described(
    plan: Plan, backend: str, open_: Collection[tuple[int, int]] | None = None, history: History | None = None
) -> dict[str, Any]:
    """Give a plan as plain values, as `preview` does.

    Args:
        plan: Stages, lanes, and what is published.
        backend: On which it is to run.
        open_: Stage and task of what is to run; all that is needed for what is not published, when absent.
        history: What an earlier run was like.
    """
    pipeline, needed = plan.pipeline, plan.needed
    stages: list[dict[str, Any]] = []
    waiting: list[int] = []
    for stage in plan.stages:
        tasks = plan.lanes[stage.lane].tasks
        own = [number for number in range(len(tasks)) if (stage.index, number) in needed]
        waiting.append(len(own))
        to_run = [number for number in own if open_ is None or (stage.index, number) in open_]
        size = sum(tasks[number].split.size for number in to_run) if stage.lane == 0 else 0
        before = stage.upstream if stage.upstream is not None else stage.feeder
        forecast = _Forecast(plan, stage, history, len(to_run), size)
        stages.append(
            {
                "name": stage.name,
                "kind": stage.kind,
                "input": SOURCE if before is None else plan.stages[before].name,
                "after": before,
                "splits": len(tasks),
                "to_run": len(to_run),
                "cached": len(tasks) - len(to_run),
                "bytes": size if before is None else 0,
                "splits_to_run": [tasks[number].split.name for number in to_run[:_MOST_NAMES]],
                "operators": [_described(node) for node in stage.nodes],
                "expected": forecast.of_stage() if history is not None else None,
            }
        )
    publishes = will_publish(plan)
    lanes = [stage.lane for stage in plan.stages]
    open_runs = [stage["to_run"] for stage in stages]
    return {
        "pipeline": pipeline.name,
        "backend": backend,
        "stages": stages,
        "splits": len(plan.splits),
        "bytes": sum(split.size for split in plan.splits),
        "tasks_to_run": sum(open_runs),
        "tasks_cached": sum(stage["cached"] for stage in stages),
        "publishes": publishes,
        "outputs": {sink.name: sink.target.location for sink in pipeline.sinks},
        "task_runs": _task_runs(backend, pipeline.resources, lanes, waiting, open_runs)
        + publishes * (backend != "local"),
        "task_budget": pipeline.resources.task_budget,
        "expected": _total(stages, history),
    }


def _task_runs(
    backend: str, resources: Resources, lanes: list[int], waiting: list[int], open_runs: list[int]
) -> int:
    """Count the task runs that Prefect will have beside the commit; what is cached is shown up to a budget.

    Args:
        backend: On which it is to run.
        resources: Granularity and budget.
        lanes: Of each stage.
        waiting: How many runs each stage has that are needed.
        open_runs: How many of them are not done yet.
    """
    by_stage = sum(count > 0 for count in waiting)
    if backend != "dask" or resources.granularity == "stage":
        return 0 if backend == "local" else by_stage
    total, budget = 0, resources.task_budget
    for lane in sorted(set(lanes)):
        of_lane = [index for index, one in enumerate(lanes) if one == lane]
        needed, left = sum(waiting[index] for index in of_lane), sum(open_runs[index] for index in of_lane)
        if resources.granularity == "auto" and needed > MOST_TASK_RUNS:
            total += sum(waiting[index] > 0 for index in of_lane)
            continue
        shown = min(budget, needed - left)
        budget -= shown
        total += left + shown
    return total


def _described(node: Operator) -> dict[str, Any]:
    found: dict[str, Any] = {"name": node.name, "type": type(node).__name__}
    function = getattr(node, "func", None) or getattr(node, "lift", None)
    if function is not None:
        found["func"] = function.name
    if isinstance(node, Sink) and node.target.location:
        found["output"] = node.target.location
    return found


@dataclass(frozen=True)
class _Forecast:
    """What is to be expected of a stage, by what the last run was like."""

    plan: Plan
    stage: Stage
    history: History | None
    to_run: int
    size: int

    def of_stage(self) -> dict[str, Any]:
        """Give records, calls and seconds by operator."""
        found: dict[str, Any] = {}
        for node in self.stage.nodes:
            records = self._records(node.name)
            if records is not None:
                found[node.name] = {
                    "records": records,
                    "calls": self._calls(node, records),
                    "seconds": round(records * self.history.seconds.get(node.name, 0.0), 3)
                    if self.history
                    else 0.0,
                }
        return found

    def _records(self, name: str) -> int | None:
        history = self.history
        if history is None or name not in history.records:
            return None
        count = len(self.plan.lanes[self.stage.lane].tasks)
        if self.stage.lane == 0 and self.size and history.bytes:
            share = self.size / history.bytes
        elif self.stage.lane == 0:
            share = self.to_run / max(1, history.splits)
        else:
            share = self.to_run / count
        return round(history.records[name] * share)

    def _calls(self, node: Operator, records: int) -> int:
        if not isinstance(node, BatchMap):
            return records
        return max(min(self.to_run, records), math.ceil(records / node.max_batch_size))


def _total(stages: list[dict[str, Any]], history: History | None) -> dict[str, Any] | None:
    if history is None:
        return None
    operators = {name: values for stage in stages for name, values in (stage["expected"] or {}).items()}
    at = datetime.datetime.fromtimestamp(history.at, datetime.timezone.utc)
    return {
        "seconds": round(sum(one["seconds"] for one in operators.values()), 3),
        "operators": operators,
        "known_from": at.isoformat(timespec="seconds"),
    }

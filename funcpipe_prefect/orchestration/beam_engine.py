"""The Beam engine: one Prefect task run a stage, which launches one Beam pipeline and follows it.

The tasks run in the flow's process, one after the other; the work is done where the runner does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import cloudpickle
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Cancelled

from funcpipe_prefect.backends.beam.launch import Outcome, run_on_beam
from funcpipe_prefect.backends.beam.request import SplitWork
from funcpipe_prefect.backends.protocol import Receipts
from funcpipe_prefect.backends.work import Entries, Job, finished, leaves_receipt, loaded
from funcpipe_prefect.errors import RunCancelled
from funcpipe_prefect.fingerprint import key_of
from funcpipe_prefect.ir import BeamSettings, Pipeline, Sink
from funcpipe_prefect.orchestration.caching import PlannedKey
from funcpipe_prefect.orchestration.cancelling import Cancellation, flow_run_id
from funcpipe_prefect.orchestration.handing import handed
from funcpipe_prefect.orchestration.showing import show_link
from funcpipe_prefect.orchestration.tasks import commit_task, is_worth_retrying, retrying, run_here
from funcpipe_prefect.plan import Lane, Plan, Stage, StageReceipt

__all__ = ["BeamEngine", "job_link"]


@task(name="funcpipe-beam", retry_condition_fn=is_worth_retrying, cache_policy=NO_CACHE)
def beam_task(
    job: bytes, index: int, work: bytes, key: str, notify: Callable[[StageReceipt], None]
) -> dict[int, StageReceipt] | State[Any]:
    """Launch one stage as one Beam pipeline and follow it to its end; a cancelled one ends as such."""
    logger = get_run_logger()
    try:
        outcome = run_on_beam(
            loaded(job), job, index, cloudpickle.loads(work), key, log=logger.log, notify=notify
        )
    except RunCancelled as error:
        return Cancelled(message=str(error))
    _tell(outcome, loaded(job).pipeline, loaded(job).stages[index], logger)
    return outcome.receipts


def _tell(outcome: Outcome, pipeline: Pipeline, stage: Stage, logger: Any) -> None:
    order = {name: index for index, name in enumerate(["source", *stage.name.split("+")])}
    if outcome.state:
        logger.info("Beam job %s", " ".join([outcome.job_id, outcome.state]).strip())
    if outcome.job_id and (link := job_link(pipeline.beam, outcome.job_id)):
        show_link(pipeline.name, link, f"Beam job of {stage.name}", of=stage.name)
    for operator, values in sorted(outcome.counters.items(), key=lambda item: order.get(item[0], len(order))):
        told = (f"{values[name]} {name}" for name in ("in", "out", "dropped", "errors") if name in values)
        logger.info("%s: %s", operator, ", ".join(told))


def job_link(beam: BeamSettings, job_id: str) -> str:
    """Give the page of a job where its runner has one that is known; else nothing."""
    options = dict(beam.options)
    kind = beam.runner.rpartition(".")[2]
    if kind == "DataflowRunner" and options.get("project"):
        region = options.get("region", "us-central1")
        return (
            f"https://console.cloud.google.com/dataflow/jobs/{region}/{job_id}?project={options['project']}"
        )
    if kind == "FlinkRunner" and options.get("flink_master"):
        master = str(options["flink_master"])
        return f"{master if '://' in master else f'http://{master}'}/#/job/{job_id}/overview"
    return ""


class BeamEngine:
    """Runs a stage on all splits as one Prefect task run that launches one Beam pipeline.

    Args:
        cancellation: Of the flow run.
    """

    name = "beam"

    def __init__(self, cancellation: Cancellation) -> None:
        self._cancellation = cancellation

    def run_lane(
        self, job: Job, plan: Plan, lane: Lane, notify: Callable[[int, StageReceipt], None]
    ) -> Receipts:
        """Run stage by stage; what is done already is not launched again."""
        blob = cloudpickle.dumps(job)
        receipts: Receipts = {}
        for index in lane.stages:
            receipts |= self._one_stage(job, blob, plan, lane, job.stages[index], receipts, notify)
        return receipts

    def _one_stage(
        self,
        job: Job,
        blob: bytes,
        plan: Plan,
        lane: Lane,
        stage: Stage,
        before: Receipts,
        notify: Callable[[int, StageReceipt], None],
    ) -> Receipts:
        needed = [number for number in range(len(lane.tasks)) if (stage.index, number) in plan.needed]
        if not needed:
            return {}
        keys = {number: lane.tasks[number].keys[stage.index] for number in needed}
        found = {number: finished(job, stage, key) for number, key in keys.items()}
        receipts = {number: replace(one, cached=True) for number, one in found.items() if one is not None}
        for receipt in receipts.values():
            notify(stage.index, receipt)
        missing = [number for number in needed if number not in receipts]
        told: list[StageReceipt] = []

        def tell(receipt: StageReceipt) -> None:
            told.append(receipt)
            notify(stage.index, receipt)

        work = [
            SplitWork(
                number,
                lane.tasks[number].split,
                lane.tasks[number].keys,
                None if stage.upstream is None else before.get((stage.upstream, number)),
                lane.tasks[number].feed,
            )
            for number in missing
        ]
        key, retries = _work_key(job, stage, keys.values()), job.pipeline.retries
        options = {
            "task_run_name": stage.name,
            "name": stage.name,
            **retrying(retries, retries.sink if stage.kind == "write" else retries.transform),
            "persist_result": True,
            "cache_policy": PlannedKey(planned=key),
            "refresh_cache": bool(missing) and leaves_receipt(stage),
        }
        parameters = {
            "job": blob, "index": stage.index, "work": cloudpickle.dumps(work), "key": key, "notify": tell,
        }  # fmt: skip
        made: dict[int, StageReceipt] = run_here(beam_task, options, parameters, self._cancellation)
        for number in missing:
            if not told:  # nothing ran: Prefect had the result
                made[number] = replace(made[number], cached=True, warnings=())
                notify(stage.index, made[number])
            receipts[number] = made[number]
        return {(stage.index, number): receipt for number, receipt in receipts.items()}

    def commit(self, job: Job, plan: Plan, entries: Entries) -> None:
        """Publish in a task of this process."""
        with handed(plan, entries) as told:
            self._retried(job, commit_task(job), "commit", {"entries": told})

    def _retried(self, job: Job, run: Any, name: str, parameters: Mapping[str, Any]) -> Any:
        retries = job.pipeline.retries
        options = {"task_run_name": name, **retrying(retries, retries.sink)}
        return run_here(run, options, {"job": cloudpickle.dumps(job), **parameters}, self._cancellation)


def _work_key(job: Job, stage: Stage, keys: Any) -> str:
    """Name the work of a stage: on which splits, and where its parts and dead letters go.

    Where nobody can see whether work is done, and where it is to be done again whatever there is,
    only a retry of the same flow run takes it up.
    """
    pipeline = job.pipeline
    target = stage.terminal.target.location if isinstance(stage.terminal, Sink) else None
    is_own = job.is_refreshed(stage) or not leaves_receipt(stage)
    return key_of("launch", *keys, pipeline.errors.path, target or "", str(flow_run_id()) if is_own else "")

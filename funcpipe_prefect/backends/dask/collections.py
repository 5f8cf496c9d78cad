"""A pipeline as a lazy Dask collection, for those who compose their own Dask programs.

A partition is a split of the source, or of what a keyed operator has gathered, run by the kernel from one
materialization point to the end. What stages in front store goes into the pipeline's cache, as in any run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import cloudpickle

from funcpipe_prefect.errors import BackendError

try:
    import dask.bag
    from dask.delayed import Delayed, delayed
except ModuleNotFoundError as error:
    raise BackendError('to_bag needs the extra dask: pip install "funcpipe-prefect[dask]"') from error

from funcpipe_prefect.backends.protocol import source_of
from funcpipe_prefect.backends.work import Job, loaded, records_of, run_stage
from funcpipe_prefect.columns import arrow_schema, row_maker
from funcpipe_prefect.fingerprint import key_of
from funcpipe_prefect.ir import Pipeline
from funcpipe_prefect.plan import Plan, Stage, StageReceipt, Task, plan_run

__all__ = ["to_bag", "to_dataframe", "to_delayed"]

Give = Literal["records", "dead_letters"]


def to_bag(pipeline: Pipeline, *, end: str | None = None, give: Give = "records") -> dask.bag.Bag:
    """Compile a pipeline to a Dask Bag; nothing runs before the bag is computed.

    Args:
        pipeline: A checked pipeline with a source.
        end: The Sink, or the last operator, whose records to give; the first in the file by default. The
            Sink itself stays out, and a Combine gives its one answer.
        give: The records, or instead what failed on the way to them since the last materialization point, as
            dicts like the lines of the dead-letter files.

    Returns:
        A bag with a partition for each split.

    Raises:
        BackendError: FP501, the pipeline has no such end, or Dask is not installed.
        PipelineError: FP103, the pipeline has no source.

    Example:
        >>> to_bag(pipeline).frequencies().compute()  # doctest: +SKIP
    """
    bag: dask.bag.Bag = dask.bag.from_delayed(to_delayed(pipeline, end=end, give=give))  # type: ignore[no-untyped-call]
    return bag


def to_delayed(pipeline: Pipeline, *, end: str | None = None, give: Give = "records") -> list[Delayed]:
    """Compile a pipeline to Dask delayed objects, one for each partition, each of a list; nothing runs.

    Args:
        pipeline: A checked pipeline with a source.
        end: As for `to_bag`.
        give: As for `to_bag`.

    Raises:
        BackendError: FP501, the pipeline has no such end.
        PipelineError: FP103, the pipeline has no source.
    """
    plan = plan_run(pipeline, source_of(pipeline).list_splits())
    return _Graph(plan).partitions(_end(plan, end), give)


def to_dataframe(pipeline: Pipeline, *, end: str | None = None) -> Any:
    """Compile a pipeline to a Dask DataFrame, a row for each record; nothing runs before it is computed.

    The columns are those that the Parquet sink would write, as pandas' Arrow-backed types.

    Args:
        pipeline: A checked pipeline with a source.
        end: As for `to_bag`.

    Raises:
        BackendError: FP501, pandas is not installed, or the records have no columns.
        PipelineError: FP103, the pipeline has no source.
    """
    try:
        import dask.dataframe
        import pandas
    except ImportError as error:
        raise BackendError(
            'to_dataframe needs the extra dataframe: pip install "funcpipe-prefect[dataframe]"'
        ) from error
    plan = plan_run(pipeline, source_of(pipeline).list_splits())
    stage = _end(plan, end)
    try:
        schema = arrow_schema(stage.out_type)
    except TypeError as error:
        raise BackendError(f"what {_name(stage)} gives has no columns: {error}") from error
    frame = delayed(_frame, pure=False)
    partitions = [frame(part, stage.out_type) for part in _Graph(plan).partitions(stage, "records")]
    return dask.dataframe.from_delayed(
        partitions, meta=schema.empty_table().to_pandas(types_mapper=pandas.ArrowDtype)
    )


def _name(stage: Stage) -> str:
    return stage.nodes[-1].name if stage.nodes else stage.name


def _end(plan: Plan, name: str | None) -> Stage:
    ends = {_name(stage): stage for stage, _ in plan.ends()}
    if name is None:
        in_file = (one.name for one in plan.pipeline.operators if one.name in ends)
        return ends[next(in_file, next(iter(ends)))]
    if name not in ends:
        raise BackendError(f"{plan.pipeline.name} does not end in {name!r}; it ends in {', '.join(ends)}")
    return ends[name]


class _Graph:
    """The tasks of a plan as delayed objects, each made once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        job = cloudpickle.dumps(Job(plan.pipeline, plan.stages))
        self._job = delayed(job, name=f"job-{key_of(job.hex())}", traverse=False)
        self._run = delayed(_run, pure=False)
        self._made: dict[tuple[int, int], Any] = {}
        self._places = {
            task.keys[index]: (index, number)
            for lane in plan.lanes
            for number, task in enumerate(lane.tasks)
            for index in lane.stages
        }

    def partitions(self, stage: Stage, give: Give) -> list[Any]:
        """Give the partitions of an end."""
        end = delayed(_records, pure=False)
        return [
            end(self._job, stage.index, _plain(task), give, self._before(stage, number))
            for number, task in enumerate(self._plan.lanes[stage.lane].tasks)
        ]

    def _before(self, stage: Stage, number: int) -> list[Any]:
        """Give what has to run first."""
        task = self._plan.task(stage.index, number)
        if stage.upstream is not None:
            return [self._receipt(stage.upstream, number)]
        if task.feed is None:
            return []
        feed = task.feed
        return [self._receipt(*self._places[one.keys[feed.stage]]) for one in feed.tasks]

    def _receipt(self, index: int, number: int) -> Any:
        """Give the delayed run of a stage that stores or hands over."""
        if (index, number) not in self._made:
            stage, task = self._plan.stages[index], self._plan.task(index, number)
            self._made[index, number] = self._run(self._job, index, _plain(task), self._before(stage, number))
        return self._made[index, number]


def _plain(task: Task) -> bytes:
    """Pickle a task, so that Dask does not walk through it."""
    data: bytes = cloudpickle.dumps(task)
    return data


def _run(job: bytes, index: int, task: bytes, before: Sequence[StageReceipt]) -> StageReceipt:
    found: Task = cloudpickle.loads(task)
    return run_stage(loaded(job), index, found.split, found.keys, feed=found.feed)


def _records(job: bytes, index: int, task: bytes, give: Give, before: Sequence[StageReceipt]) -> list[Any]:
    records, dead_letters = records_of(loaded(job), index, cloudpickle.loads(task))
    return records if give == "records" else dead_letters


def _frame(records: Iterable[Any], record_type: Any) -> Any:
    import pandas
    import pyarrow as pa

    row: Callable[[Any], dict[str, Any]] = row_maker(record_type)
    table = pa.Table.from_pylist([row(record) for record in records], schema=arrow_schema(record_type))
    return table.to_pandas(types_mapper=pandas.ArrowDtype)

"""The launched form of a stage: a pipeline whose elements are splits, and whose one step is the kernel.

Semantics, part names and bytes are therefore those of the other backends. Records never become
elements of a PCollection: they go from source to kernel to sink or store inside one call.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam

from funcpipe_prefect.backends.beam.counters import count
from funcpipe_prefect.backends.beam.request import SplitWork
from funcpipe_prefect.backends.work import loaded, run_stage
from funcpipe_prefect.errors import RunCancelled
from funcpipe_prefect.ir import SOURCE, OperatorCounts, summed
from funcpipe_prefect.plan import Stage, StageReceipt
from funcpipe_prefect.running import run_by
from funcpipe_prefect.store import Handover

__all__ = ["RunStage", "own_counts"]

_LOOK_EVERY_S = 2.0


class RunStage(beam.PTransform[beam.pvalue.PBegin, beam.PCollection[int]]):
    """Runs one stage on splits and hands each receipt over; gives the splits' numbers.

    Args:
        job: The run's job, pickled.
        index: Which stage.
        work: The splits.
        handover: Where receipts and failures go.
        attempt: Works as long as the handover calls this attempt the current one.
    """

    def __init__(
        self, job: bytes, index: int, work: Sequence[SplitWork], handover: Handover, attempt: str
    ) -> None:
        super().__init__()
        self._elements = [pickle.dumps(one) for one in work]
        self._run = _RunSplit(job, index, handover, attempt)

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[int]:
        """Create the splits, spread them over the workers, run the stage on each."""
        return (
            begin
            | "splits" >> beam.Create(self._elements, reshuffle=False).with_output_types(bytes)
            | "spread" >> beam.Reshuffle()
            | "run" >> beam.ParDo(self._run).with_output_types(int)
        )


class _RunSplit(beam.DoFn):
    def __init__(self, job: bytes, index: int, handover: Handover, attempt: str) -> None:
        self._job, self._index = job, index
        self._handover, self._attempt = handover, attempt

    def process(self, element: bytes) -> Iterator[int]:
        work: SplitWork = pickle.loads(element)
        job = loaded(self._job)
        handover = Handover(self._handover.url, self._handover.key)
        try:
            with run_by("", _unless_superseded(handover, self._attempt)):
                receipt = run_stage(job, self._index, work.split, work.keys, work.upstream, work.feed)
        except RunCancelled:
            raise
        except Exception as error:
            handover.put_failure(work.number, error)
            raise
        handover.put(work.number, receipt)
        count(own_counts(job.stages[self._index], receipt))
        yield work.number


def _unless_superseded(handover: Handover, attempt: str) -> Callable[[], None]:
    """Make the check by which a worker anywhere notices that its attempt is over."""
    due = 0.0

    def check() -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        if not handover.is_current(attempt):
            raise RunCancelled("nobody waits for this attempt any more")
        due = time.monotonic() + _LOOK_EVERY_S

    return check


def own_counts(stage: Stage, receipt: StageReceipt) -> tuple[OperatorCounts, ...]:
    """Take from a receipt the counts of this stage's operators alone: it has those of the stages before, too."""
    names = {operator.name for operator in stage.nodes}
    names |= {f"{name}.store" for name in names}
    if stage.upstream is None and stage.feeder is None:
        names |= {SOURCE, f"{SOURCE}.store"}
    if stage.kind == "count":
        names.add("count")
    total = summed(*(entry.counts for entry in receipt.entries))
    return tuple(counts for counts in total if counts.name in names)

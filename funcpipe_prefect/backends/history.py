"""What earlier runs of a pipeline were like: how many records an operator got for the input's size, and how fast it was.

    <storage>/runs/<pipeline>-<hash of its name>.json

It is for forecasts alone; nothing is computed from it, and it may be lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from funcpipe_prefect.errors import SinkError
from funcpipe_prefect.fingerprint import key_of
from funcpipe_prefect.ir import OperatorCost, OperatorCounts, Pipeline, Split
from funcpipe_prefect.sinks.directory import slug
from funcpipe_prefect.storage import filesystem
from funcpipe_prefect.store.partitions import RenamedFile

__all__ = ["History", "recall", "remember"]


@dataclass(frozen=True)
class History:
    """A run that was, with what is known of operators from runs before it.

    Attributes:
        at: When it began, in seconds since 1970.
        bytes: Of its input; 0 where the source does not say.
        splits: Of its input.
        records: That reached each operator, by name.
        seconds: For each record, by operator, in the last run in which it did anything.
    """

    at: float
    bytes: int
    splits: int
    records: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


def recall(pipeline: Pipeline) -> History | None:
    """Read what is known of the last run of the pipeline of this name, if anything is."""
    try:
        fs, path = filesystem(_url_of(pipeline))
        return msgspec.json.decode(fs.cat_file(path), type=History)
    except (OSError, ValueError, ImportError):  # msgspec's errors are ValueErrors
        return None


def remember(
    pipeline: Pipeline,
    splits: Sequence[Split],
    operators: Sequence[OperatorCounts],
    costs: Sequence[OperatorCost],
    now: float,
) -> None:
    """Note what a run was like; one that cannot be noted is not.

    Args:
        pipeline: That was run.
        splits: Of the input.
        operators: The counts of all operators, over the whole input.
        costs: Of the work that was done in this run.
        now: When it began, in seconds since 1970.
    """
    before = recall(pipeline)
    seconds = dict(before.seconds) if before is not None else {}
    seconds |= {cost.name: cost.seconds / cost.records for cost in costs if cost.records}
    records = {counts.name: counts.records_in for counts in operators}
    found = History(now, sum(split.size for split in splits), len(splits), records, seconds)
    with (
        suppress(SinkError, OSError, ValueError, ImportError),
        RenamedFile(*filesystem(_url_of(pipeline))) as file,
    ):
        file.raw.write(msgspec.json.encode(found))


def _url_of(pipeline: Pipeline) -> str:
    name = f"{slug(pipeline.name)}-{key_of(pipeline.name)[:8]}"
    return f"{pipeline.storage.rstrip('/')}/runs/{name}.json"

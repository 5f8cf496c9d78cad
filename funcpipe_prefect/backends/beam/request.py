"""What a task asks of the Beam process: pickled on one side, read on the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from funcpipe_prefect.ir import Split
from funcpipe_prefect.plan import Feed, StageReceipt

__all__ = ["Request", "SplitWork"]


@dataclass(frozen=True)
class SplitWork:
    """One element of a launched pipeline.

    Attributes:
        number: The split's number in the plan.
        split: The split.
        keys: Its stage keys.
        upstream: What the stage before returned.
        feed: Where its records come from, if not from the source.
    """

    number: int
    split: Split
    keys: tuple[str, ...]
    upstream: StageReceipt | None = None
    feed: Feed | None = None


@dataclass(frozen=True)
class Request:
    """What is to be launched.

    Attributes:
        runner: As written.
        options: Of the runner, by name.
        job_name: Equal for every attempt at the same work, and for no other.
        job: The run's job, pickled.
        index: Which stage.
        work: The splits.
        storage: Root of the partition store.
        key: Names the work; 64 hexadecimal digits.
        attempt: Names this attempt.
    """

    runner: str
    options: Mapping[str, Any]
    job_name: str
    job: bytes
    index: int
    work: tuple[SplitWork, ...]
    storage: str
    key: str
    attempt: str

"""Laziness: building, planning and compiling a pipeline opens no file and starts no process."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import TypeVar

from funcpipe_prefect.fingerprint import key_of
from funcpipe_prefect.ir import Pipeline, Split
from funcpipe_prefect.laws.verdicts import Law, Verdict
from funcpipe_prefect.laws.watch import Event, watched
from funcpipe_prefect.plan import plan_run

__all__ = ["compiled", "laziness_law", "watched_build"]

T = TypeVar("T")


def watched_build(build: Callable[[], T], *, users_only: bool = True) -> tuple[T, tuple[Event, ...]]:
    """Build something, and tell what happened outside meanwhile.

    Modules that are imported on the way may read their own code; code of the user's that runs then
    may touch nothing else.

    Args:
        build: Loads a pipeline, for the first time in this process if that is to tell of imports.
        users_only: Leave out what no code of the user's is behind of.
    """
    with watched(users_only=users_only) as events:
        built = build()
    return built, tuple(events)


def compiled(pipeline: Pipeline) -> None:
    """Plan a pipeline for a made-up split, and compile it for Beam if that is its backend."""
    plan_run(pipeline, [Split("made-up", "nowhere", 0, 1, key_of("made-up"))])
    if pipeline.backend == "beam" and importlib.util.find_spec("apache_beam") is not None:
        from funcpipe_prefect.backends.beam.transform import to_ptransform

        to_ptransform(pipeline)


def laziness_law(pipeline: Pipeline, built: Sequence[Event]) -> Law:
    """State that a pipeline was built lazily, and is planned and compiled so.

    Args:
        pipeline: The pipeline.
        built: What happened when it was built.
    """
    return Law("laziness", pipeline.name, lambda: _verdict(pipeline, built))


def _verdict(pipeline: Pipeline, built: Sequence[Event]) -> Verdict:
    _, events = watched_build(lambda: compiled(pipeline))
    told = list(dict.fromkeys(str(event) for event in (*built, *events)))
    if not told:
        return Verdict("laziness", pipeline.name, examples=1)
    mend = "open files and connections where records are read or written, or build them as an artifact"
    return Verdict("laziness", pipeline.name, "broken", 1, reason="; ".join(told[:3]), mend=mend)

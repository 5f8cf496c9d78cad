"""What the task of the commit is told of a run: by its parameters, or by a file where there is much to tell.

Parameters pass through the process of the flow and the Dask scheduler several times over. Those of a hundred
thousand splits would be more than all that the flow holds otherwise.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import cloudpickle

from funcpipe_prefect.backends.work import Entries
from funcpipe_prefect.plan import Plan
from funcpipe_prefect.storage import filesystem, open_file

__all__ = ["Handed", "handed", "taken"]

Handed: TypeAlias = bytes | str
"""A pickle, or the URL of a file of pickles."""

_IN_PARAMETERS, _AT_ONCE = 2_000, 1_000


@contextlib.contextmanager
def handed(plan: Plan, entries: Entries) -> Iterator[Handed]:
    """Hand a plan and its entries over, for the time of a task.

    Raises:
        OSError: The storage of the cache cannot be written to.
    """
    if len(entries) <= _IN_PARAMETERS:
        yield cloudpickle.dumps((plan, entries))
        return
    url = f"{plan.pipeline.storage.rstrip('/')}/spool/{uuid.uuid4().hex}.commit"
    fs, path = filesystem(url)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    try:
        with fs.open(path, "wb") as file:
            for piece in _pieces(plan, entries):
                cloudpickle.dump(piece, file)
        yield url
    finally:
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(path)


def taken(found: Handed) -> tuple[Plan, Entries]:
    """Take what was handed over.

    Raises:
        OSError: The file cannot be read.
    """
    if isinstance(found, bytes):
        plan, entries = cloudpickle.loads(found)
        return plan, entries
    with open_file(found) as file:
        plan, lanes, entries = pickle.load(file), [], {}
        for lane in plan.lanes:
            tasks: list[Any] = []
            while piece := pickle.load(file):
                tasks += piece
            lanes.append(replace(lane, tasks=tuple(tasks)))
        while piece := pickle.load(file):
            entries.update(piece)
    return replace(plan, lanes=tuple(lanes)), entries


def _pieces(plan: Plan, entries: Entries) -> Iterator[Any]:
    """Give the plan without its tasks, then those of each lane, then the entries; nothing ends each of these.

    A pickler remembers all objects of a piece, so pieces are small; but what all tasks of a lane share, they
    share in one piece.
    """
    yield replace(plan, lanes=tuple(replace(lane, tasks=()) for lane in plan.lanes), published={})
    for lane in plan.lanes:
        has_feeds = any(task.feed is not None for task in lane.tasks)
        yield from _cut(lane.tasks, len(lane.tasks) if has_feeds else _AT_ONCE)
        yield ()
    yield from map(dict, _cut(entries.items(), _AT_ONCE))
    yield {}


def _cut(values: Any, size: int) -> Iterator[tuple[Any, ...]]:
    rest = iter(values)
    while piece := tuple(itertools.islice(rest, size)):
        yield piece

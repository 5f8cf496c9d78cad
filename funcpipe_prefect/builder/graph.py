"""The graph of operators: who reads whom, in which order they are built, and what is wrong with it."""

from __future__ import annotations

import graphlib
from collections.abc import Sequence
from typing import Any

from funcpipe_prefect.config import CombineSpec, Config, SinkSpec
from funcpipe_prefect.errors import near_misses
from funcpipe_prefect.ir import SOURCE, Operator, Sink
from funcpipe_prefect.storage import canonical

__all__ = ["FROM_SOURCE", "build_order", "check_ends", "check_writers", "inputs_of"]

FROM_SOURCE = -1


def inputs_of(config: Config) -> list[int | None]:
    """Give for each operator the index of the one that it reads; None where that is not known."""
    return [_input_of(config, index, spec) for index, spec in enumerate(config.operators)]


def _input_of(config: Config, index: int, spec: Any) -> int | None:
    if spec is None:
        return None
    path = ("operators", index)
    if spec.input is None:
        before = config.operators[index - 1] if index else None
        if isinstance(before, SinkSpec):
            config.problem((*path, "type"), "FP304", "nothing comes behind a Sink", f"a {spec.type} behind {before.name}",
                           "input: with the name of the operator that it reads", "add input:")  # fmt: skip
            return None
        return index - 1
    names = {other.name: place for place, other in enumerate(config.operators) if other and other.name}
    if spec.input == SOURCE:
        return FROM_SOURCE
    found = names.get(spec.input)
    if found is None:
        allowed = [SOURCE, *(name for name in names if name != spec.name)]
        if None not in config.operators:
            config.problem((*path, "input"), "FP125", "unknown input", f'"{spec.input}"', ", ".join(allowed),
                           near_misses(spec.input, allowed))  # fmt: skip
        return None
    if isinstance(config.operators[found], SinkSpec):
        config.problem((*path, "input"), "FP304", "nothing comes behind a Sink", f"input: {spec.input}",
                       "an operator that gives records, or source", f"read what {spec.input} reads")  # fmt: skip
        return None
    return found


def build_order(config: Config, inputs: Sequence[int | None]) -> list[int]:
    """Give the operators' indices, each behind the one that it reads, else as in the file."""
    graph = {
        index: [read] if read is not None and read != FROM_SOURCE else [] for index, read in enumerate(inputs)
    }
    sorter = graphlib.TopologicalSorter(graph)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        circle = error.args[1][::-1]
        first = min(circle)
        names = [getattr(config.operators[index], "name", None) or f"operators[{index}]" for index in circle]
        config.problem(("operators", first, "input"), "FP311", "operators read each other in a circle",
                       " reads ".join(names), "an input: that leads back to the source",
                       "let one of them read another operator")  # fmt: skip
        return list(graph)
    order: list[int] = []
    waiting: list[int] = []
    while sorter.is_active():
        waiting = sorted([*waiting, *sorter.get_ready()])
        if not waiting:
            break
        index = waiting.pop(0)
        order.append(index)
        sorter.done(index)
    return order


def check_ends(config: Config, inputs: Sequence[int | None]) -> None:
    """Check that what every branch gives goes somewhere; a pipeline without any end is only counted."""
    if None in config.operators or None in inputs:
        return
    open_ends = [
        index
        for index, spec in enumerate(config.operators)
        if index not in inputs and not isinstance(spec, (SinkSpec, CombineSpec))
    ]
    has_end = any(isinstance(spec, (SinkSpec, CombineSpec)) for spec in config.operators)
    if len(open_ends) + has_end < 2:
        return
    for index in open_ends:
        spec = config.operators[index]
        assert spec is not None
        config.problem(("operators", index, "type"), "FP312", "dangling branch", f"nobody reads what {spec.name} gives",
                       "a Sink or a Combine at the end of every branch",
                       f"add a Sink with input: {spec.name}, or take {spec.name} out")  # fmt: skip


def check_writers(config: Config, built: Sequence[Operator | None]) -> None:
    """Check that no two sinks, and not a sink and the dead letters, write to one place."""
    places: dict[str, str] = {}
    if config.errors.path is not None:
        places[_place(config.errors.path)] = "errors.path"
    for index, operator in enumerate(built):
        if not isinstance(operator, Sink) or not operator.target.location:
            continue
        place = _place(operator.target.location)
        if place in places:
            config.problem(("operators", index, "params", "path"), "FP313", "two writers to one output",
                           f"{operator.target.location}, to which {places[place]} writes too",
                           "a place of its own for each", "change one of the paths")  # fmt: skip
        places[place] = operator.name


def _place(url: str) -> str:
    """Name a place: equal for all ways to write its URL."""
    try:
        return canonical(url)
    except (ValueError, ImportError):  # which the sink will say
        return url

"""Timing in interleaved pairs, and the JSON that a benchmark leaves."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
BASELINE = RESULTS / "baseline"


def seconds(work: Callable[[], object]) -> float:
    """Run once; give the seconds."""
    gc.collect()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def pairs(ours: Callable[[], object], other: Callable[[], object], n: int) -> tuple[list[float], list[float]]:
    """Time two works in turn, n times each; who goes first alternates.

    Returns:
        The seconds of ours and of the other, pair by pair.
    """
    mine: list[float] = []
    others: list[float] = []
    for index in range(n):
        for work, taken in ((ours, mine), (other, others))[:: 1 if index % 2 == 0 else -1]:
            taken.append(seconds(work))
    return mine, others


def in_turn(
    works: Mapping[str, Callable[[], object]], n: int, prepare: Callable[[str], object]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Time several works in turn, n times each; who goes first changes from round to round.

    Args:
        works: By name.
        n: The rounds.
        prepare: Called with a work's name before it, outside its time.

    Returns:
        The seconds of each work, and those of the processor in this process, round by round.
    """
    names = list(works)
    taken: dict[str, list[float]] = {name: [] for name in names}
    computed: dict[str, list[float]] = {name: [] for name in names}
    for index in range(n):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            prepare(name)
            before = time.process_time()
            taken[name].append(seconds(works[name]))
            computed[name].append(time.process_time() - before)
    return taken, computed


def summary(values: Sequence[float], digits: int = 4) -> dict[str, Any]:
    """Give n, median and spread (half of the distance between the quartiles, of the median)."""
    middle = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 3 else (min(values), 0.0, max(values))
    return {
        "n": len(values),
        "median": round(middle, digits),
        "spread": round((high - low) / 2 / middle, 4) if middle else 0.0,
        "values": [round(value, digits) for value in values],
    }


def machine() -> dict[str, Any]:
    """Describe the machine by its size alone."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def commit() -> str:
    """Name the commit, with a plus sign when the package differs from it."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "funcpipe_prefect")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_result(
    name: str, *, what: str, value: float, unit: str, target: str, met: bool, **details: Any
) -> dict[str, Any]:
    """Write `results/<name>.json` and print its head.

    Args:
        name: The benchmark.
        what: What `value` is, in words.
        value: The figure that the target is about.
        unit: Its unit.
        target: The target, such as `>= 0.9`.
        met: Whether the figure meets it.
        details: The measurements behind it.
    """
    result = {
        "benchmark": name,
        "commit": commit(),
        "machine": machine(),
        "what": what,
        "value": round(value, 4),
        "unit": unit,
        "target": target,
        "met": met,
        **details,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {what}: {value:.3f} {unit} (target {target}: {'met' if met else 'MISSED'})", flush=True)
    return result

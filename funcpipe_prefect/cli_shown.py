"""What the command line shows of a plan, of a run while it runs, and of what it did."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from funcpipe_prefect.backends.protocol import Progress, RunReport, StageDone

__all__ = ["show_plan", "show_report", "shown_progress"]


def show_plan(console: Console, shown: Mapping[str, Any]) -> None:
    """Print what a run would do: a row for each stage, then sums."""
    console.print(f"{shown['pipeline']} on {shown['backend']}", style="bold", markup=False)
    has_forecast = shown["expected"] is not None
    names = ["stage", "does", "splits", "to run", "cached", *(["records", "seconds"] if has_forecast else [])]
    rows = []
    for stage in shown["stages"]:
        row = [stage["name"], stage["kind"], *(f"{stage[name]:,}" for name in ("splits", "to_run", "cached"))]
        if has_forecast:
            found = stage["expected"].values()
            row += [
                f"{max((one['records'] for one in found), default=0):,}",
                f"{sum(one['seconds'] for one in found):,.1f}",
            ]
        rows.append(row)
    _table(console, names, rows, left=2)
    _say(console, f"{shown['splits']:,} splits, {shown['bytes']:,} bytes: {shown['tasks_to_run']:,} tasks to run, "
                  f"{shown['tasks_cached']:,} cached; {'publishes' if shown['publishes'] else 'publishes nothing new'}")  # fmt: skip
    if shown["backend"] != "local":
        budget = (
            f", up to {shown['task_budget']:,} of them for what is cached"
            if shown["backend"] == "dask"
            else ""
        )
        _say(console, f"{shown['task_runs']:,} Prefect task runs{budget}")
    if has_forecast:
        expected = shown["expected"]
        calls = ", ".join(
            f"{name} {one['calls']:,}" for name, one in expected["operators"].items() if one["calls"]
        )
        _say(
            console,
            f"expected, from the run of {expected['known_from']}: {expected['seconds']:,.1f} s of all workers; calls: {calls or 'none'}",
        )
    for name, place in shown["outputs"].items():
        _say(console, f"{name}: {place or 'a function'}")


@contextlib.contextmanager
def shown_progress(console: Console, *, quiet: bool) -> Iterator[Progress | None]:
    """Show a live bar for each stage on a terminal; nothing elsewhere.

    A bar tells splits done and cached, source records and how many a second, dead letters, and the time left.
    """
    if quiet:
        yield None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(), TimeRemainingColumn(), console=console,
    )  # fmt: skip
    rows: dict[int, Any] = {}
    cached: dict[int, int] = {}
    begun = time.monotonic()

    def show(event: StageDone) -> None:
        if event.index not in rows:
            rows[event.index] = bars.add_task(event.stage, total=event.total, note="")
        cached[event.index] = cached.get(event.index, 0) + event.cached
        rate = event.records / max(1e-3, time.monotonic() - begun)
        note = f"{event.records:,} records ({rate:,.0f}/s)"
        note += f", {cached[event.index]:,} cached" if cached[event.index] else ""
        note += f", {event.errors:,} dead letters" if event.errors else ""
        bars.update(rows[event.index], completed=event.done, note=note)

    with bars:
        yield show


def show_report(console: Console, report: RunReport) -> None:
    """Print what a run did."""
    costs = {cost.name: cost for cost in report.costs}
    rows = []
    for counts in report.operators:
        cells = (counts.records_in, counts.records_out, counts.dropped, counts.errors)
        cost = costs.get(counts.name)
        rows.append([counts.name, *(f"{cell:,}" for cell in cells), f"{cost.seconds:,.2f}" if cost else ""])
    _table(console, ["operator", "in", "out", "dropped", "dead letters", "seconds"], rows)
    _say(console, f"{report.splits} splits on {report.backend}: {report.tasks_run} tasks run, "
                  f"{report.tasks_cached} cached, {report.elapsed_s:.1f} s")  # fmt: skip
    if report.result is not None:
        _say(console, f"result        {report.result!r}")
    if report.output:
        _say(console, f"output        {report.output}")
    if report.dead_letters:
        _say(console, f"dead letters  {report.dead_letters}")
    _say(console, f"digest        {report.digest}")
    for one in report.expectations:
        _say(console, f"as expected   {one['what']} of {one['of']}: {one['found']:g}")
    for warning in report.warnings:
        console.print(f"warning       {warning}", style="yellow", markup=False, soft_wrap=True)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _table(console: Console, names: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number < left else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)

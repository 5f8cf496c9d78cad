"""The Beam counters of an operator, in a namespace of its name."""

from __future__ import annotations

from collections.abc import Iterable

from apache_beam.metrics import Metrics

from funcpipe_prefect.ir import OperatorCounts

__all__ = ["COUNTERS", "count"]

COUNTERS = ("in", "out", "dropped", "errors")


def count(operators: Iterable[OperatorCounts]) -> None:
    """Add to the counters of the bundle at hand."""
    for one in operators:
        numbers = (one.records_in, one.records_out, one.dropped, one.errors)
        for name, number in zip(COUNTERS, numbers, strict=True):
            Metrics.counter(one.name, name).inc(number)

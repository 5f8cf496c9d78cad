"""The quality gate: what a pipeline expects of the records that reach a sink.

While a partition is written, its records are measured; the measures are small, travel in the
partition's receipt, and are merged before the commit. Where one is out of its bounds, nothing is
published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from funcpipe_prefect.ir import Expectation, Sink
from funcpipe_prefect.kernel import bind
from funcpipe_prefect.monoid import fold
from funcpipe_prefect.result import Err, Ok
from funcpipe_prefect.sketches import DistinctCount

__all__ = ["Measured", "Outcome", "judged", "measuring"]

_DISTINCT = DistinctCount()
Measured = tuple[str, ...]
"""What was measured of one partition, an entry for each expectation: MessagePack as hexadecimal digits."""


@dataclass(frozen=True)
class Outcome:
    """What came of one expectation.

    Attributes:
        of: The sink.
        what: What was measured, in words.
        found: The value.
        low: The least that it may be.
        high: The most.
        ok: It is within its bounds.
    """

    of: str
    what: str
    found: float
    low: float | None
    high: float | None
    ok: bool

    def __str__(self) -> str:
        bounds = [f"{word} {value:g}" for word, value in (("at least", self.low), ("at most", self.high)) if value is not None]  # fmt: skip
        return f"{self.what} of {self.of}: {self.found:g}, expected {' and '.join(bounds)}"

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain values."""
        return asdict(self)


class _Gauge:
    """Measures records for one expectation."""

    def __init__(self, expectation: Expectation) -> None:
        self._of: Callable[[Any], Any] = _count_of(expectation)
        self._is_sketch = expectation.kind == "distinct"
        self.totals: list[Any] = []
        self.count = self.seen = 0

    def add(self, record: Any) -> None:
        self.seen += 1
        if not self._is_sketch:
            self.count += self._of(record)
            return
        self.totals.append(_DISTINCT.unit(self._of(record)))
        if len(self.totals) >= 4096:
            self.totals[:] = [fold(_DISTINCT, self.totals)]

    def measured(self) -> str:
        total: Any = fold(_DISTINCT, self.totals) if self._is_sketch else [self.count, self.seen]
        return msgspec.msgpack.encode(total).hex()


def measuring(sink: Sink) -> tuple[Callable[[Any], None], Callable[[], Measured]]:
    """Give what measures a record, and what gives the measures of all so far."""
    gauges = [_Gauge(one) for one in sink.expectations]

    def add(record: Any) -> None:
        for gauge in gauges:
            gauge.add(record)

    return add, lambda: tuple(gauge.measured() for gauge in gauges)


def judged(sink: Sink, rows: int, measures: Iterable[Measured]) -> list[Outcome]:
    """Merge the measures of all partitions and hold them against what is expected."""
    columns: Sequence[Sequence[str]] = list(zip(*measures, strict=True)) or [()] * len(sink.expectations)
    return [
        _outcome(sink.name, one, rows, [msgspec.msgpack.decode(bytes.fromhex(text)) for text in column])
        for one, column in zip(sink.expectations, columns, strict=True)
    ]


def _outcome(of: str, one: Expectation, rows: int, totals: list[Any]) -> Outcome:
    found: float
    if one.kind == "distinct":
        merged = fold(_DISTINCT, [tuple(total) if isinstance(total, list) else total for total in totals])
        found = _DISTINCT.finish(merged)
    elif one.kind == "rows":
        found = rows
    else:
        seen = sum(total[1] for total in totals)
        found = sum(total[0] for total in totals) / seen if seen else float(one.kind == "pass_rate")
    is_ok = (one.low is None or found >= one.low) and (one.high is None or found <= one.high)
    return Outcome(of, one.what, found, one.low, one.high, is_ok)


def _count_of(one: Expectation) -> Callable[[Any], Any]:
    field = one.field
    match one.kind:
        case "rows":
            return lambda record: 0
        case "null_rate":
            return lambda record: _value(record, field) is None
        case "distinct":
            return lambda record: _value(record, field)
    assert one.func is not None
    call = bind(one.func)

    def passes(record: Any) -> int:
        try:
            verdict = call(record)
        except Exception:
            return 0
        if isinstance(verdict, Err):
            return 0
        return (verdict.value if isinstance(verdict, Ok) else verdict) is True

    return passes


def _value(record: Any, field: str) -> Any:
    return record.get(field) if isinstance(record, Mapping) else getattr(record, field, None)

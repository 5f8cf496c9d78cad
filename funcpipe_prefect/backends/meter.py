"""What reaches the end of a partition: its count and digest, and what is measured of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from funcpipe_prefect.expectations import Measured, measuring
from funcpipe_prefect.ir import Located, Sink
from funcpipe_prefect.kernel import Batch, Batches, LocatedLists, Trace
from funcpipe_prefect.monoid import digest_of, digest_text, digests_of
from funcpipe_prefect.schema import canonical_encoder, canonical_list_encoder

__all__ = ["Meter"]


class Meter:
    """Keeps count and digest of the records that pass, and takes refused ones back."""

    def __init__(self, trace: Trace, terminal: Sink | None, record_type: Any, name: str) -> None:
        self._trace, self._name = trace, name
        self._policy = terminal.error_policy if terminal else "collect"
        self._encode = canonical_encoder(record_type)
        self._encode_list = canonical_list_encoder(record_type)
        self._count = self._sum = 0
        self._tally = trace.tally(name)
        self._measure: Callable[[Any], None] | None = None
        self.measures: Callable[[], Measured] = tuple
        if terminal is not None and terminal.expectations:
            self._measure, self.measures = measuring(terminal)

    def passing(self, values: Iterator[Any]) -> Iterator[Located]:
        """Pair each value with the position of the record that it stems from, and count it."""
        if self._measure is None and isinstance(values, Batches):
            return LocatedLists(self._lists_passing(values.lists), self._whole_lists(values.lists))
        return self._each_passing(values)

    def _each_passing(self, values: Iterable[Any]) -> Iterator[Located]:
        trace, encode, measure, lifted = self._trace, self._encode, self._measure, digest_of
        count = total = 0
        try:
            for value in values:
                position = trace.position
                try:
                    total += lifted(encode(value))[1]
                except Exception as error:
                    trace.fail(self._name, self._policy, value, error)
                    continue
                if measure is not None:
                    measure(value)
                count += 1
                yield position, value
                trace.position = position  # a sink that refused an earlier record has moved it
        finally:
            self._passed(count, total)

    def _lists_passing(self, lists: Iterator[Batch]) -> Generator[Located, None, None]:
        """Pass on records that are there in lists: what is worked out for a whole list takes less for each."""
        trace = self._trace
        for positions, values in lists:
            hashes, last, count = self._hashes(values), trace.position, 0
            if hashes is None:
                yield from self._each_passing(Batches(iter([(positions, values)]), trace))
            else:
                try:
                    for item in zip(positions, values, strict=True):
                        trace.position = item[0]
                        count += 1
                        yield item
                finally:
                    self._passed(count, sum(hashes[:count]))
            trace.position = last

    def _whole_lists(self, lists: Iterator[Batch]) -> Generator[Batch, None, None]:
        """Pass on the lists themselves, for a sink that takes them whole."""
        trace = self._trace
        for positions, values in lists:
            hashes, last = self._hashes(values), trace.position
            if hashes is None:
                passed = [*self._each_passing(Batches(iter([(positions, values)]), trace))]
                yield [position for position, _ in passed], [value for _, value in passed]
            else:
                self._passed(len(values), sum(hashes))
                yield positions, values
            trace.position = last

    def _hashes(self, values: list[Any]) -> list[int] | None:
        try:
            encoded = self._encode_list(values)
            return None if encoded is None else digests_of(encoded)
        except Exception:
            return None

    def _passed(self, count: int, total: int) -> None:
        self._count += count
        self._sum += total
        self._tally.passed += count
        self._tally.records_out += count

    def reject(self, position: int, record: Any, error: Exception) -> None:
        """Take a record back that the sink has refused, and treat it as the sink's policy says."""
        self._count -= 1
        self._sum -= digest_of(self._encode(record))[1]
        self._tally.passed -= 1
        self._tally.records_out -= 1
        self._trace.position = position
        self._trace.fail(self._name, self._policy, record, error)

    def digest(self) -> str:
        """Give count and digest of what has passed."""
        return digest_text((self._count, self._sum % (1 << 256)))

"""A plain function of one record as a sink: it declares itself idempotent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from funcpipe_prefect.errors import ContractError, TransientError
from funcpipe_prefect.ir import Commit, Function, Located, Part, Reject, Split
from funcpipe_prefect.kernel import INFRASTRUCTURE, bind
from funcpipe_prefect.result import Err

__all__ = ["FunctionSink"]


@dataclass(frozen=True)
class FunctionSink:
    """Calls the function for each record, as soon as it comes.

    There is nothing to publish afterwards and no record of what was written, so every run calls
    it for every record; that is why it must be idempotent.

    Attributes:
        function: Takes one record; may return an `Err` to refuse it.
        transient: Exceptions that are not the record's fault.
    """

    function: Function
    transient: tuple[type[BaseException], ...] = ()
    idempotent: bool = True

    @property
    def location(self) -> None:
        """A function has no place that we know of."""
        return None

    def write(self, split: Split, records: Iterator[Located], record_type: Any, reject: Reject) -> Part:
        """Hand each record to the function."""
        put = bind(self.function)
        outside: tuple[type[BaseException], ...] = (*INFRASTRUCTURE, *self.transient)
        count = 0
        for position, record in records:
            try:
                result = put(record)
            except ContractError:
                raise
            except outside as error:
                raise TransientError(
                    f"{self.function.name!r} at {split.name}, position {position}: {type(error).__name__}: {error}"
                ) from error
            except Exception as error:
                reject(position, record, error)
                continue
            if result.__class__ is Err:
                reject(position, record, ValueError(str(result.error)))
                continue
            count += 1
        return Part(records=count)

    def has(self, part: Part) -> bool:
        """What the function did with its records cannot be seen from here."""
        return False

    def sweep(self, token: str) -> None:
        """A function makes no temporary files that we know of."""

    def published(self) -> Mapping[str, Commit]:
        """Nothing is known to be published."""
        return {}

    def commit(self, entries: Sequence[Commit]) -> None:
        """Nothing is left to do."""

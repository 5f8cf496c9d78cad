"""`Ok` and `Err`: how a function says that a record succeeded or failed.

They are the API at the edges. Inside a kernel values travel bare, and failures leave by a
side channel: boxing every value costs several times what a bare generator does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

__all__ = ["Err", "ErrorInfo", "FPResult", "Ok", "Result"]

T = TypeVar("T")
E = TypeVar("E")


@dataclass(frozen=True)
class Ok(Generic[T]):
    """A success and its value."""

    value: T


@dataclass(frozen=True)
class Err(Generic[E]):
    """A failure and its reason."""

    error: E


@dataclass(frozen=True)
class ErrorInfo:
    """What is known of a failed record.

    Attributes:
        operator: Name of the operator that failed; `source` for a record that did not decode.
        type: Name of the exception's class, or `Err` for a reason that the function returned.
        message: The exception's message or the reason, at most 2,000 characters.
        split: Label of the split that held the record.
        position: The record's place in its file: byte offset, row number or index.
        location: The same place for a person, such as `docs.jsonl:17 (byte 1234)`.
        preview: The start of the failed record's `repr`, at most 200 characters.
    """

    operator: str
    type: str
    message: str
    split: str
    position: int
    location: str
    preview: str

    def __str__(self) -> str:
        return f"{self.operator}: {self.type}: {self.message} (record at {self.location}: {self.preview})"


Result: TypeAlias = Ok[T] | Err[E]
FPResult: TypeAlias = Result[T, ErrorInfo]


def unbox(value: Any) -> Any:
    """Return the value of an `Ok`, and anything else as it is."""
    return value.value if type(value) is Ok else value

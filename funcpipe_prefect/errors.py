"""Problems and exceptions.

The hierarchy:

    FuncPipeError
    ├── PipelineError      a pipeline is wrong; carries every Problem (FP1xx, FP2xx, FP3xx)
    ├── RecordError        a record failed under `fail_fast` (FP401)
    ├── ContractError      a function broke its contract while running (FP402)
    ├── ErrorRateExceeded  too many records failed (FP406)
    ├── CorruptPartition   a stored partition does not match its checksum (FP407)
    ├── SinkError          an output could not be written or published (FP408)
    ├── SourceError        an input is missing or unreadable (FP409)
    ├── BackendError       a backend cannot run, or lost a task (FP5xx)
    ├── DeploymentError    a deployment or its Prefect server cannot be used (FP603)
    └── TransientError     try again later; the task is retried, the record is never blamed

Every class survives pickling, since errors cross processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "BackendError",
    "ContractError",
    "CorruptPartition",
    "DeploymentError",
    "ErrorRateExceeded",
    "FuncPipeError",
    "PipelineError",
    "Place",
    "Problem",
    "RecordError",
    "SinkError",
    "SourceError",
    "TransientError",
    "is_retryable",
    "near_misses",
]


@dataclass(frozen=True, order=True)
class Place:
    """Where a problem is: file, one-based line and column, and the path inside the document."""

    file: str = "<mapping>"
    line: int = 0
    column: int = 0
    path: str = "$"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{where}  {self.path}"


@dataclass(frozen=True)
class Problem:
    """One violation: what was found, what is allowed, and how to mend it."""

    code: str
    title: str
    place: Place
    found: str
    allowed: str
    mend: str

    def __str__(self) -> str:
        return (
            f"{self.code} {self.title}  {self.place}\n"
            f"  found:   {self.found}\n"
            f"  allowed: {self.allowed}\n"
            f"  mend:    {self.mend}"
        )


class FuncPipeError(Exception):
    """Base of all errors of this package."""

    code = "FP000"

    def __str__(self) -> str:
        return f"{self.code} {super().__str__()}"


class PipelineError(FuncPipeError):
    """A pipeline breaks its contracts; `problems` holds every violation, in document order."""

    code = "FP100"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n\n".join(str(problem) for problem in self.problems)


class RecordError(FuncPipeError):
    """A record failed in an operator whose policy is `fail_fast`."""

    code = "FP401"


class ContractError(FuncPipeError):
    """A user's function broke its contract while it ran, so that no record can be blamed."""

    code = "FP402"


class ErrorRateExceeded(FuncPipeError):
    """More records failed than `errors.max_error_rate` allows; nothing was published."""

    code = "FP406"


class CorruptPartition(FuncPipeError):
    """A stored partition is truncated or does not match its checksum."""

    code = "FP407"


class SinkError(FuncPipeError):
    """An output could not be written or published."""

    code = "FP408"


class SourceError(FuncPipeError):
    """An input is missing or cannot be read."""

    code = "FP409"


class ExpectationFailed(FuncPipeError):
    """The records are not what the pipeline expects; nothing was published."""

    code = "FP410"


class BackendError(FuncPipeError):
    """A backend cannot run here, or lost a task."""

    code = "FP501"


class SecretError(FuncPipeError):
    """There is no secret of the name that a pipeline gives."""

    code = "FP505"


class RunCancelled(FuncPipeError):
    """The run was cancelled from outside; nothing was published."""

    code = "FP602"


class DeploymentError(FuncPipeError):
    """A deployment is not there or not fit for what was asked, or no Prefect server answers."""

    code = "FP603"


class TransientError(FuncPipeError):
    """Something outside failed that may work later: the task is retried, the record kept."""

    code = "FP400"


_FINAL = (
    ExpectationFailed,
    PipelineError,
    RecordError,
    ContractError,
    ErrorRateExceeded,
    RunCancelled,
    SecretError,
)


def is_retryable(error: BaseException) -> bool:
    """Tell whether running the task again may help; a broken contract stays broken."""
    return isinstance(error, Exception) and not isinstance(error, _FINAL)


def near_misses(word: str, allowed: Iterable[str]) -> str:
    """Suggest how to mend a misspelt word.

    Example:
        >>> near_misses("clean_dok", ["clean_doc", "chunk_doc"])
        'did you mean "clean_doc"?'
    """
    close = difflib.get_close_matches(word, sorted(allowed), n=1)
    return f'did you mean "{close[0]}"?' if close else "use one of the allowed names"

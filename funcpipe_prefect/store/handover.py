"""What a launched stage hands back: receipts and failures by split, beside the partitions.

    <root>/launches/<key>/current        the attempt whose workers may go on; empty: none
    <root>/launches/<key>/job.json       the job at the runner that computes the stage
    <root>/launches/<key>/<n>.receipt    of the split of this number
    <root>/launches/<key>/<n>.failure    why it failed

A runner may be anywhere, so its workers and the task that launched them meet where the partitions
are. The key names the work, not the attempt: a retried task finds what the first attempt did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from funcpipe_prefect.errors import (
    BackendError,
    ContractError,
    CorruptPartition,
    FuncPipeError,
    RecordError,
    SinkError,
    SourceError,
    TransientError,
)
from funcpipe_prefect.plan import StageReceipt
from funcpipe_prefect.storage import filesystem
from funcpipe_prefect.store.partitions import RenamedFile, sealed, unsealed

__all__ = ["Handover", "JobRecord"]


_ERRORS: Mapping[str, type[FuncPipeError]] = {
    error.__name__: error
    for error in (
        BackendError,
        ContractError,
        CorruptPartition,
        RecordError,
        SinkError,
        SourceError,
        TransientError,
    )
}


class _Failure(msgspec.Struct, frozen=True):
    kind: str
    text: str


class JobRecord(msgspec.Struct, frozen=True):
    """A job that was given to a runner.

    Attributes:
        runner: The runner's name.
        job_id: As the runner calls it.
        attempt: The attempt that launched it.
    """

    runner: str
    job_id: str
    attempt: str


@dataclass(frozen=True)
class Handover:
    """The meeting place of one launched stage.

    Attributes:
        url: Root of the partition store.
        key: Names the work; 64 hexadecimal digits.
    """

    url: str
    key: str

    @cached_property
    def _place(self) -> tuple[Any, str]:
        fs, root = filesystem(self.url)
        return fs, f"{root.rstrip('/')}/launches/{self.key}"

    def _write(self, name: str, data: bytes) -> None:
        fs, folder = self._place
        with RenamedFile(fs, f"{folder}/{name}") as file:
            file.raw.write(data)

    def _read(self, name: str) -> bytes | None:
        fs, folder = self._place
        try:
            data: bytes = fs.cat_file(f"{folder}/{name}")
        except OSError:
            return None
        return data

    def _numbered(self, suffix: str) -> Iterator[tuple[int, str]]:
        fs, folder = self._place
        fs.invalidate_cache(folder)
        names: list[str] = []
        with suppress(FileNotFoundError):
            names = [path.rpartition("/")[2] for path in fs.ls(folder, detail=False)]
        for name in names:
            number, _, kind = name.partition(".")
            if kind == suffix and number.isdigit():
                yield int(number), name

    def begin(self, attempt: str) -> None:
        """Let the workers of an attempt go on, and no others; forget how splits failed before."""
        self._write("current", attempt.encode())
        fs, folder = self._place
        for _, name in list(self._numbered("failure")):
            with suppress(FileNotFoundError):
                fs.rm_file(f"{folder}/{name}")

    def stop(self) -> None:
        """Let no worker go on, wherever it is."""
        self._write("current", b"")

    def is_known(self) -> bool:
        """Tell whether there was an attempt before."""
        return self._read("current") is not None

    def is_open(self) -> bool:
        """Tell whether the workers of some attempt may go on."""
        return bool(self._read("current"))

    def is_current(self, attempt: str) -> bool:
        """Tell whether an attempt's workers may go on; not when the launch is over."""
        return self._read("current") == attempt.encode()

    def keep_job(self, record: JobRecord) -> None:
        """Remember the job before anybody waits for it."""
        self._write("job.json", msgspec.json.encode(record))

    def job(self) -> JobRecord | None:
        """The job that an attempt before this one launched."""
        data = self._read("job.json")
        try:
            return None if data is None else msgspec.json.decode(data, type=JobRecord)
        except ValueError:
            return None

    def put(self, number: int, receipt: StageReceipt) -> None:
        """Hand over what a split's work gave."""
        self._write(f"{number}.receipt", sealed(receipt))

    def done(self) -> frozenset[int]:
        """The numbers of the splits that are handed over."""
        return frozenset(number for number, _ in self._numbered("receipt"))

    def receipt(self, number: int) -> StageReceipt | None:
        """Read what a split's work gave; None if that is not there or not what was written."""
        data = self._read(f"{number}.receipt")
        try:
            return None if data is None else unsealed(data)
        except ValueError:
            return None

    def forget(self, number: int) -> None:
        """Remove what is handed over of a split."""
        fs, folder = self._place
        with suppress(FileNotFoundError):
            fs.rm_file(f"{folder}/{number}.receipt")

    def put_failure(self, number: int, error: Exception) -> None:
        """Hand over why a split's work failed."""
        kind = type(error).__name__
        text = str(error.args[0]) if isinstance(error, FuncPipeError) and error.args else str(error)
        self._write(f"{number}.failure", msgspec.json.encode(_Failure(kind, text)))

    def failures(self) -> Mapping[int, Exception]:
        """Read why splits failed that are not done; what is no error of this package is a BackendError."""
        done, found = self.done(), {}
        for number, name in sorted(self._numbered("failure")):
            data = self._read(name)
            if data is None or number in done:
                continue
            failure = msgspec.json.decode(data, type=_Failure)
            known = _ERRORS.get(failure.kind)
            found[number] = known(failure.text) if known else BackendError(f"{failure.kind}: {failure.text}")
        return found

    def clear(self) -> None:
        """Remove everything; workers that still go on will stop."""
        fs, folder = self._place
        with suppress(FileNotFoundError):
            fs.rm(folder, recursive=True)

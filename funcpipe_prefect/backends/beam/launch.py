"""Launches the Beam process of a stage, follows it, and takes over what it hands over.

Neither Beam nor gRPC is imported here: the task's process stays free of a runner's threads and memory.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import IO, Any

from funcpipe_prefect.backends.beam.guard import GRACE_S
from funcpipe_prefect.backends.beam.options import options_for
from funcpipe_prefect.backends.beam.request import Request, SplitWork
from funcpipe_prefect.backends.work import Job, finished, leaves_receipt
from funcpipe_prefect.errors import BackendError, SinkError
from funcpipe_prefect.plan import StageReceipt
from funcpipe_prefect.running import check, child_environment
from funcpipe_prefect.store import Handover

__all__ = ["Outcome", "run_on_beam"]

_GUARD, _CHILD = "funcpipe_prefect.backends.beam.guard", "funcpipe_prefect.backends.beam.child"
_LOOK_S, _LONGEST_LINE = 0.2, 20_000
_POLL_EVERY_S = 1.0
_LOGGING_LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]+:")

Log = Callable[[int, str], None]


@dataclass
class Outcome:
    """What a launch came to.

    Attributes:
        receipts: By the number of the split.
        state: The runner's last word, such as `DONE`.
        job_id: As the runner calls it; empty where it does not.
        attached: The job was launched by an attempt before this one.
        counters: The runner's, by operator: in, out, dropped, errors.
    """

    receipts: dict[int, StageReceipt] = field(default_factory=dict)
    state: str = ""
    job_id: str = ""
    attached: bool = False
    counters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def run_on_beam(
    job: Job,
    blob: bytes,
    index: int,
    work: Sequence[SplitWork],
    key: str,
    *,
    log: Log,
    notify: Callable[[StageReceipt], None],
) -> Outcome:
    """Run one stage on splits as one Beam pipeline.

    Args:
        job: The run's job.
        blob: The same, pickled.
        index: Which stage.
        work: The splits.
        key: Names this work: an attempt that was interrupted is taken up under the same key.
        log: Receives level and text of each log line.
        notify: Receives each receipt as soon as it is handed over.

    Returns:
        The receipts and how the job ended.

    Raises:
        RunCancelled: FP602, the run's check said so; job and processes have ended.
        FuncPipeError: Whatever failed a split, the first by number.
        BackendError: FP501, the pipeline or its process failed otherwise.
    """
    handover, outcome = Handover(job.pipeline.storage, key), Outcome()
    _forget_what_is_gone(job, index, work, handover)

    def take_over() -> None:
        for number in sorted(handover.done() - outcome.receipts.keys()):
            receipt = handover.receipt(number)
            if receipt is not None:
                outcome.receipts[number] = receipt
                notify(receipt)

    take_over()
    missing = tuple(one for one in work if one.number not in outcome.receipts)
    if missing:
        request = _request(job, blob, index, missing, key)
        try:
            with _Following(request, log) as following:
                for event in following.events(take_over):
                    _note(outcome, event, log)
        except BaseException:
            with suppress(SinkError):
                handover.stop()  # there may be workers that no signal reaches
            raise
        take_over()
        _check_whole(outcome, request, handover, job.stages[index].name, following.ending())
    handover.clear()
    return outcome


def _forget_what_is_gone(job: Job, index: int, work: Sequence[SplitWork], handover: Handover) -> None:
    """Let go of receipts of an earlier attempt whose part or partition is not there any more."""
    stage = job.stages[index]
    if leaves_receipt(stage):
        for number in handover.done():
            keys = next((one.keys for one in work if one.number == number), None)
            if keys is None or finished(replace(job, refreshed=frozenset()), stage, keys[index]) is None:
                handover.forget(number)


def _request(job: Job, blob: bytes, index: int, work: tuple[SplitWork, ...], key: str) -> Request:
    pipeline = job.pipeline
    slug = re.sub(r"[^a-z0-9]+", "-", pipeline.name.lower()).strip("-")[:36] or "pipeline"
    return Request(
        runner=pipeline.beam.runner,
        options=options_for(pipeline.beam, pipeline.resources),
        job_name=f"funcpipe-{slug}-{index}-{key[:12]}",
        job=blob,
        index=index,
        work=work,
        storage=pipeline.storage,
        key=key,
        attempt=uuid.uuid4().hex,
    )


def _note(outcome: Outcome, event: Mapping[str, Any], log: Log) -> None:
    match event["event"]:
        case "job":
            outcome.job_id, outcome.attached = event["job_id"], event["attached"]
            if outcome.job_id:
                log(
                    logging.INFO,
                    f"{'re-attached to' if outcome.attached else 'launched'} job {outcome.job_id}",
                )
        case "done":
            outcome.state, outcome.counters = event["state"], event["counters"]
        case "failed":
            outcome.state = "FAILED"
            log(logging.ERROR, event["message"])


def _check_whole(outcome: Outcome, request: Request, handover: Handover, stage: str, ending: str) -> None:
    """Make sure that every split is handed over; blame a record or function rather than Beam's wrapper.

    A job may fail after all splits are done, in tidying up; nothing is missing then.
    """
    missing = [one for one in request.work if one.number not in outcome.receipts]
    if not missing:
        return
    failures = handover.failures()
    for one in missing:
        if one.number in failures:
            raise failures[one.number]
    how = f"the job ended {outcome.state}" if outcome.state else "the Beam process ended before its pipeline"
    names = ", ".join(one.split.name for one in missing[:3]) + (", …" if len(missing) > 3 else "")
    raise BackendError(f"{stage} on {request.runner}: {how}; not done: {names}; {ending}")


class _Following:
    """A guard with its Beam process, as a context: left early, the job is cancelled and both end."""

    def __init__(self, request: Request, log: Log) -> None:
        self._request, self._log = request, log
        self._tail: list[str] = []
        self._failure = ""

    def __enter__(self) -> _Following:
        lifeline, self._lifeline = os.pipe()
        self._events, events = os.pipe()
        with tempfile.TemporaryFile() as question:
            pickle.dump(self._request, question)
            question.seek(0)
            try:
                self._guard = subprocess.Popen(
                    [sys.executable, "-m", _GUARD, str(lifeline), str(events), sys.executable, "-m", _CHILD],
                    stdin=question, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                    pass_fds=(lifeline, events), env=child_environment(),
                )  # fmt: skip
            finally:
                os.close(lifeline)
                os.close(events)
        return self

    def __exit__(self, *_: object) -> None:
        if self._guard.poll() is None:
            self._guard.send_signal(signal.SIGTERM)
            try:
                self._guard.wait(GRACE_S + 5)
            except subprocess.TimeoutExpired:
                self._guard.kill()
                self._guard.wait()
        os.close(self._lifeline)
        os.close(self._events)
        for pipe in (self._guard.stdout, self._guard.stderr):
            if pipe is not None:
                pipe.close()

    def events(self, look: Callable[[], None]) -> Iterator[Mapping[str, Any]]:
        """Yield what the Beam process tells; log its log; return when it and its guard have ended.

        Args:
            look: Called about once a second.

        Raises:
            RunCancelled: The run's check said so.
        """
        due = time.monotonic() + _POLL_EVERY_S
        with selectors.DefaultSelector() as selector:
            readers = {
                self._events: _Lines(),
                _descriptor(self._guard.stdout): _Lines(),
                _descriptor(self._guard.stderr): _Lines(),
            }
            for descriptor in readers:
                os.set_blocking(descriptor, False)
                selector.register(descriptor, selectors.EVENT_READ)
            while selector.get_map():
                check()
                for chosen, _ in selector.select(_LOOK_S):
                    lines = readers[chosen.fd].read(chosen.fd)
                    if lines is None:
                        selector.unregister(chosen.fd)
                        continue
                    for line in lines:
                        if chosen.fd == self._events:
                            yield from self._event(line)
                        else:
                            self._plain(line, is_error=chosen.fd != _descriptor(self._guard.stdout))
                if time.monotonic() >= due:
                    look()
                    due = time.monotonic() + _POLL_EVERY_S
        self._guard.wait()

    def _event(self, line: str) -> Iterator[Mapping[str, Any]]:
        try:
            event = json.loads(line)
        except ValueError:  # cut off by a kill
            return
        if event["event"] == "log":
            self._log(event["level"], f"{event['logger']}: {event['message']}")
        else:
            lines = event.get("message", "").strip().splitlines()
            self._failure = lines[-1].strip() if lines else ""
            yield event

    def _plain(self, line: str, *, is_error: bool) -> None:
        """Log what was printed; the lines of Python's logging come as events, too."""
        if is_error:
            self._tail = [*self._tail[-9:], line]
        is_known = is_error and _LOGGING_LINE.match(line)
        self._log(logging.DEBUG if is_known else logging.INFO, line)

    def ending(self) -> str:
        """Say how the process ended, and what it said last."""
        code = self._guard.returncode
        if self._failure:
            return self._failure
        how = f"exit code {code}"
        number = -code if code < 0 else code - 128
        if number > 0:
            how = f"it was ended by {signal.Signals(number).name}" if number in set(signal.Signals) else how
        return how + ("; its last words: " + " / ".join(self._tail) if self._tail else "")


class _Lines:
    """Whole lines from a pipe that is read without waiting."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, descriptor: int) -> list[str] | None:
        """Give the lines that are complete; None at the end."""
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return []
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace")[:_LONGEST_LINE] for line in lines]


def _descriptor(pipe: IO[bytes] | None) -> int:
    assert pipe is not None
    return pipe.fileno()

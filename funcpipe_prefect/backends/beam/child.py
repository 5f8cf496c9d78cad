"""The Beam process: launches one pipeline, waits for it, and tells the task what happens.

Everything that it tells is a line of JSON on a pipe of its own: log records, the job's id, its end
with the runner's counters. The pipeline runs in the main thread, which some runners need; a thread
beside it hears signals at once, whatever the main one does: SIGTERM cancels the job, SIGHUP or the
end of the lifeline leaves it to the next attempt.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import pickle
import select
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from funcpipe_prefect.backends.beam.guard import EVENTS, LIFELINE, end_descendants, heard
from funcpipe_prefect.backends.beam.request import Request, SplitWork
from funcpipe_prefect.running import die_with_parent

if TYPE_CHECKING:
    from funcpipe_prefect.store import Handover

__all__ = ["main"]

_CANCEL_S = 5.0
_NOISE = ("apitools not found", "No semi_persistent_directory found", "Discarding unparseable args")
_WORKER_THREAD = "run_worker"
_WORKER_LOGS = "apache_beam.runners.portability.local_job_service"
_SEVERITIES = {2: logging.DEBUG, 3: logging.INFO, 4: logging.INFO, 5: logging.WARNING, 6: logging.ERROR}


class _Events(logging.Handler):
    """Writes events to the task, log records among them."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(logging.INFO)
        self._pipe = os.fdopen(descriptor, "w", buffering=1)
        self._writing = threading.Lock()

    def tell(self, event: str, **values: Any) -> None:
        try:
            with self._writing:
                self._pipe.write(json.dumps({"event": event, **values}, default=str) + "\n")
        except (BrokenPipeError, ValueError):
            pass

    def emit(self, record: logging.LogRecord) -> None:
        level, name, text = record.levelno, record.name, self.format(record)
        if any(noise in text for noise in _NOISE):
            return
        if name == _WORKER_LOGS and record.msg == "Worker: %s":
            level, name, text = _of_worker(record)
        least = max(self.level, logging.WARNING) if name.startswith("apache_beam") else self.level
        if level >= least:
            self.tell("log", level=level, logger=name, message=text)


def _of_worker(record: logging.LogRecord) -> tuple[int, str, str]:
    """Read a log record of an SDK worker process, which arrives as the text of a protocol buffer."""
    from apache_beam.portability.api import beam_fn_api_pb2
    from google.protobuf import text_format

    try:
        entry = text_format.Parse(str((record.args or ("",))[0]), beam_fn_api_pb2.LogEntry())  # type: ignore[index]
    except text_format.ParseError:
        return record.levelno, record.name, record.getMessage()
    name = "apache_beam" if "/apache_beam/" in entry.log_location else "worker"
    text = entry.message + (f"\n{entry.trace}" if entry.trace else "")
    return _SEVERITIES.get(entry.severity, logging.INFO), name, text


@dataclass
class _Launch:
    """One launch, and what is needed to end it from another thread."""

    request: Request
    events: _Events
    job: Any = None

    def run(self) -> int:
        """Launch and wait; give the exit code."""
        try:
            self._run()
        except BaseException as error:
            self.tell_failure(error)
            return 1
        return 0

    def tell_failure(self, error: BaseException) -> None:
        """Tell why the pipeline failed."""
        text = "".join(traceback.format_exception_only(type(error), error)).strip()
        self.events.tell("failed", message=text[-4000:])

    def of_thread(self, failure: threading.ExceptHookArgs) -> None:
        """Notice the death of an SDK worker process: Beam's thread that waits for it fails, and Beam waits on."""
        if (
            failure.thread is not None
            and failure.thread.name == _WORKER_THREAD
            and failure.exc_value is not None
        ):
            self.tell_failure(failure.exc_value)
            _end(1)

    def _run(self) -> None:
        """Wait for the job of an attempt before this one, or launch one for what is still to be done."""
        from apache_beam.options.pipeline_options import PipelineOptions

        from funcpipe_prefect.backends.beam.jobs import find_job, is_worker_elsewhere
        from funcpipe_prefect.backends.beam.options import as_flags, is_named
        from funcpipe_prefect.store import Handover

        request = self.request
        # Beam's own DirectRunner would fetch the Prism runner from the internet where it can.
        runner = "FnApiRunner" if is_named(request.runner, "DirectRunner") else request.runner
        options = PipelineOptions([
            f"--runner={runner}", f"--job_name={request.job_name}", *as_flags(request.options),
        ])  # fmt: skip
        handover = Handover(request.storage, request.key)
        kept = handover.job()
        before = find_job(runner, options, request.job_name, kept.job_id if kept else "")
        attached = before is not None and is_worker_elsewhere(runner, options) and handover.is_open()
        if attached:
            self.job = before
        elif before is not None:  # cancelled, or its workers were part of a process that is gone
            before.cancel()
        work = tuple(one for one in request.work if one.number not in handover.done())
        if not attached and work:
            self._launch(handover, work, options)
        if self.job is None:  # the job of the attempt before has done everything meanwhile
            self.events.tell("done", state="DONE", job_id=kept.job_id if kept else "", counters={})
            return
        self.events.tell("job", job_id=self.job.job_id, attached=attached)
        state = self.job.wait()
        self.events.tell("done", state=state, job_id=self.job.job_id, counters=self.job.counters())

    def _launch(self, handover: Handover, work: tuple[SplitWork, ...], options: Any) -> None:
        import apache_beam as beam

        from funcpipe_prefect.backends.beam.jobs import launched
        from funcpipe_prefect.backends.beam.splits import RunStage
        from funcpipe_prefect.backends.publishing import sweep
        from funcpipe_prefect.backends.work import loaded
        from funcpipe_prefect.store import JobRecord

        request = self.request
        if handover.is_known():  # an attempt before this one may have been killed
            sweep(loaded(request.job), (key for one in request.work for key in one.keys))
        handover.begin(request.attempt)
        pipeline = beam.Pipeline(options=options)
        run = RunStage(request.job, request.index, work, handover, request.attempt)
        _ = pipeline | "stage" >> run
        self.job = launched(pipeline)
        if self.job.job_id:
            handover.keep_job(JobRecord(request.runner, self.job.job_id, request.attempt))

    def cancel(self) -> None:
        """Cancel the job, and stop workers whose runner does not cancel for real."""
        from funcpipe_prefect.store import Handover

        def ask() -> None:
            if self.job is not None:
                self.job.cancel()
            Handover(self.request.storage, self.request.key).stop()

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(_CANCEL_S)


def main() -> None:
    """Launch what standard input asks for."""
    die_with_parent(signal.SIGHUP)
    wakeup = heard(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    events = _Events(int(os.environ[EVENTS]))
    logging.basicConfig(level=logging.INFO, handlers=[events], format="%(message)s", force=True)
    request: Request = pickle.load(sys.stdin.buffer)
    launch = _Launch(request, events)
    threading.excepthook = launch.of_thread
    lifeline = int(os.environ[LIFELINE])
    threading.Thread(target=_listen, args=(launch, wakeup, lifeline), daemon=True).start()
    code = launch.run()
    if code == 0:
        atexit._run_exitfuncs()  # what a runner started, such as a job server, ends in good order
    _end(code)


def _listen(launch: _Launch, wakeup: int, lifeline: int) -> None:
    """End the process when it is told to, or when its guard is gone."""
    asked: set[int] = set()
    while not asked & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
        ready, _, _ = select.select([wakeup, lifeline], [], [])
        asked |= set(os.read(wakeup, 64)) if wakeup in ready else set()
        asked |= {int(signal.SIGHUP)} if lifeline in ready else set()
    if asked & {signal.SIGTERM, signal.SIGINT}:
        launch.cancel()
    _end(128 + max(asked))


def _end(code: int) -> None:
    """End this process and all below it; threads of gRPC may never end by themselves."""
    logging.shutdown()
    end_descendants()
    os._exit(code)


if __name__ == "__main__":
    main()

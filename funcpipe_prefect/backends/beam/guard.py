"""The process between a task and its Beam process: whatever dies, nothing is left behind.

    python -m funcpipe_prefect.backends.beam.guard LIFELINE EVENTS COMMAND…

The first two are file descriptors: this end of the lifeline, and the pipe that the command writes to.

A Beam process starts more: SDK workers, a Java job server. If it is killed, they would go on. The
guard adopts them (it is their subreaper) and ends them. If the task's process dies, the guard
hears of it twice, by the parent-death signal and by the end of the lifeline, a pipe that only the
task's process holds. If the guard itself is killed, the Beam process hears of it in the same way.

SIGTERM and SIGINT mean that the work is cancelled; SIGHUP and the end of the lifeline that nobody
waits for it any more, so that a job at a remote runner goes on and is found by the next attempt.

Source: prctl(2), PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil

from funcpipe_prefect.running import die_with_parent

__all__ = ["EVENTS", "GRACE_S", "LIFELINE", "end_descendants", "heard", "main"]

GRACE_S = 8.0
"""Seconds that the Beam process has to cancel its job before it is killed."""

LIFELINE, EVENTS = "FUNCPIPE_LIFELINE", "FUNCPIPE_EVENTS"
"""The environment variables that tell the command its own file descriptors."""

_CHILD_SUBREAPER = 36
_LONGEST_S = 30.0


def end_descendants() -> None:
    """Kill every process below this one, and those that they start meanwhile."""
    own, end = psutil.Process(), time.monotonic() + _LONGEST_S
    while time.monotonic() < end and (
        living := [one for one in own.children(recursive=True) if _is_alive(one)]
    ):
        for process in living:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(living, timeout=1)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def heard(*numbers: signal.Signals) -> int:
    """Take signals as bytes on a pipe, which any thread can read at once; give its descriptor."""
    wakeup, signalled = os.pipe()
    os.set_blocking(signalled, False)
    signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return wakeup


def main() -> None:
    """Run the command until it ends or is to end; exit as it did."""
    die_with_parent(signal.SIGHUP)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
    wakeup = heard(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    lifeline, events, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    reading, writing = os.pipe()
    own = {LIFELINE: str(reading), EVENTS: str(events)}
    child = subprocess.Popen(command, pass_fds=(reading, events), env={**os.environ, **own})
    os.close(reading)
    try:
        _watch(child, lifeline, wakeup)
    finally:
        os.close(writing)
        end_descendants()
    code = child.wait()
    sys.exit(code if code >= 0 else 128 - code)


def _watch(child: subprocess.Popen[bytes], lifeline: int, wakeup: int) -> None:
    """Wait for the end of the child; ask it to end when told so, or when the task's process is gone."""
    watched = [lifeline, wakeup]
    end = float("inf")
    while child.poll() is None and time.monotonic() < end:
        ready, _, _ = select.select(watched, [], [], min(1.0, max(0.0, end - time.monotonic())))
        asked: int | None = None
        if wakeup in ready:
            numbers = set(os.read(wakeup, 512))
            if numbers & {signal.SIGTERM, signal.SIGINT}:
                asked = signal.SIGTERM
            elif signal.SIGHUP in numbers:
                asked = signal.SIGHUP
        if lifeline in ready and not os.read(lifeline, 1):
            watched.remove(lifeline)
            asked = asked or signal.SIGHUP
        if asked is not None:
            child.send_signal(asked)
            end = min(end, time.monotonic() + GRACE_S)


if __name__ == "__main__":
    main()

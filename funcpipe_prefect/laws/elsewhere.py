"""Other processes, with other hash seeds, that call a user's function on a record.

They are started once and end with this process. What goes there and comes back is pickled, each
message behind its length in eight bytes. There are two, so that what depends on the hash seed
differs between them even where chance gave this process the order of one of them.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

import cloudpickle

from funcpipe_prefect.ir import Function
from funcpipe_prefect.kernel import bind
from funcpipe_prefect.laws.ending import Ending, ending_of
from funcpipe_prefect.running import child_environment, die_with_parent

__all__ = ["Elsewhere", "elsewhere"]

_PATIENCE_S = 60.0
_LENGTH = 8


class Elsewhere:
    """A process that answers calls; it is started at the first one.

    Attributes:
        seed: Its `PYTHONHASHSEED`.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def call(self, function: Function, value: Any) -> Ending:
        """Call a function there.

        Args:
            function: With its parameters; artifacts are built there.
            value: The record or batch.

        Returns:
            How the call ended; an ending with an error if the process died of it.

        Raises:
            Exception: Function or value cannot be pickled.
        """
        code = cloudpickle.dumps(function)
        record = cloudpickle.dumps(value)
        with self._lock:
            answer = self._answer(code, record)
        if answer is None:
            self.close()
            return Ending(error="the process in which it was called ended, or did not answer in a minute")
        ending = cloudpickle.loads(answer)
        assert isinstance(ending, Ending)
        return ending

    def _answer(self, code: bytes, record: bytes) -> bytes | None:
        if self._process is None:
            self._process = _started(self.seed)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            _send(self._process.stdin, code)
            _send(self._process.stdin, record)
            return _received(self._process.stdout, _PATIENCE_S)
        except OSError:
            return None

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


elsewhere = (Elsewhere(1), Elsewhere(2))
for _one in elsewhere:
    atexit.register(_one.close)


def _started(seed: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import answer; answer()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**child_environment(), "PYTHONHASHSEED": str(seed)},
    )


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(len(data).to_bytes(_LENGTH, "big") + data)
    pipe.flush()


def _received(pipe: IO[bytes], patience_s: float | None = None) -> bytes | None:
    """Read a message; None when the other side has ended or keeps silent."""
    if patience_s is not None and not select.select([pipe], [], [], patience_s)[0]:
        return None
    head = pipe.read(_LENGTH)
    return pipe.read(int.from_bytes(head, "big")) if len(head) == _LENGTH else None


def answer() -> None:
    """Answer calls until the other side closes; what functions print goes to the error output."""
    die_with_parent(signal.SIGKILL)
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    bound: dict[bytes, Callable[..., Any]] = {}
    while (code := _received(calls)) is not None and (record := _received(calls)) is not None:
        try:
            if code not in bound:
                bound[code] = bind(cloudpickle.loads(code))
            ending = ending_of(bound[code], cloudpickle.loads(record))
        except Exception as error:
            ending = Ending(error=f"cannot be called in another process: {type(error).__name__}: {error}")
        try:
            data = cloudpickle.dumps(ending)
        except Exception as error:
            data = cloudpickle.dumps(Ending(error=f"its result cannot be pickled: {error}"))
        _send(answers, data)

"""The lock of a partition: one holder at a time, among real processes, also when a holder is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from funcpipe_prefect.store import can_lock
from funcpipe_prefect.store.locks import PartitionLock

HOLDER = """
import sys
from pathlib import Path
from funcpipe_prefect.store.locks import PartitionLock
with PartitionLock(Path(sys.argv[1]), renew_s=0.1, stale_s=1.0).held():
    print("held", flush=True)
    sys.stdin.readline()
"""
COUNTER = """
import sys
from pathlib import Path
from funcpipe_prefect.store.locks import PartitionLock
lock, counter = PartitionLock(Path(sys.argv[1]), renew_s=0.1, stale_s=1.0, poll_s=0.001), Path(sys.argv[2])
for _ in range(25):
    with lock.held():
        number = int(counter.read_text())
        counter.write_text("in use")
        counter.write_text(str(number + 1))
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def quick(path: Path) -> PartitionLock:
    return PartitionLock(path, renew_s=0.1, stale_s=1.0, poll_s=0.02)


def test_a_waiter_gets_the_lock_when_its_holder_is_done_however_long_that_takes(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "k.lock"
    with holder(path) as process:
        assert process.stdin is not None
        with quick(path).held(waits=False) as is_held:
            assert not is_held
        waiting = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with pytest.raises(subprocess.TimeoutExpired):  # well beyond stale_s: the holder renews it
            waiting.wait(2.5)
        process.stdin.write("\n")
        process.stdin.close()
        process.wait(10)
        out, _ = waiting.communicate("\n", timeout=20)
    assert out == "held\n"
    assert not path.exists(), "a lock leaves no file"


def test_the_lock_of_a_killed_holder_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "k.lock"
    with holder(path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    assert path.exists()
    started = time.monotonic()
    with quick(path).held() as is_held:
        assert is_held
        assert time.monotonic() - started >= 1.0, "not before it was stale"
    assert not path.exists()


def test_of_many_waiters_on_a_killed_holder_one_at_a_time_goes_on(tmp_path: Path) -> None:
    path, counter = tmp_path / "k.lock", tmp_path / "counter"
    counter.write_text("0")
    with holder(path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    counters = [subprocess.Popen([sys.executable, "-c", COUNTER, str(path), str(counter)]) for _ in range(4)]
    assert [process.wait(60) for process in counters] == [0] * 4
    assert counter.read_text() == "100"


def test_a_holder_whose_lock_was_taken_over_leaves_the_other_ones_alone(tmp_path: Path) -> None:
    path = tmp_path / "k.lock"
    paused, other = quick(path), quick(path)
    with paused.held():
        path.unlink()
        with other.held() as is_held:
            assert is_held
            theirs = path.stat().st_ino
            with quick(path).held(waits=False) as third:
                assert not third
        path.write_text("another")
        theirs = path.stat().st_ino
    assert path.stat().st_ino == theirs, "the paused holder must not remove a lock that is not its own"


def test_the_lock_ends_with_an_error_inside(tmp_path: Path) -> None:
    path = tmp_path / "k.lock"
    with pytest.raises(RuntimeError), quick(path).held():
        raise RuntimeError
    assert not path.exists()


def test_only_a_stale_lock_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "k.lock"
    lock = quick(path)
    assert not lock.break_stale(time.time())
    with lock.held():
        now = time.time()
        assert lock.is_live(now)
        assert not lock.break_stale(now)
        assert path.exists()
    path.touch()
    os.utime(path, (now - 60, now - 60))
    assert not lock.is_live(now)
    assert lock.break_stale(now)
    assert not path.exists()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("store", True),
        ("/a/b", True),
        ("file:///a", True),
        ("memory://a", False),
        ("s3://b/c", False),
        ("gs://b", False),
    ],
)
def test_only_local_file_systems_lock(url: str, expected: bool) -> None:
    assert can_lock(url) is expected

"""What launched stages hand back: found by the next attempt, fenced, and never a reason to run foreign code."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from funcpipe_prefect.errors import BackendError, RecordError, TransientError, is_retryable
from funcpipe_prefect.ir import Commit, OperatorCounts, Part
from funcpipe_prefect.plan import Segment, StageReceipt
from funcpipe_prefect.store import Handover, JobRecord
from funcpipe_prefect.store.inventory import Inventory

KEY = "ab" * 32


@pytest.fixture(params=["folder", "memory"])
def handover(request: pytest.FixtureRequest, tmp_path: Path) -> Handover:
    return Handover(str(tmp_path) if request.param == "folder" else f"memory://{tmp_path.name}", KEY)


def receipt(split: str) -> StageReceipt:
    counts = (OperatorCounts("tidy", 3, 3, 1, 1),)
    return StageReceipt(
        Commit(split, KEY, Part("part-1", 3, 40, "ff"), "3-0", counts),
        exchange=(Segment(3, 0, 40, 90, 5, "aa"),),
    )


def test_receipts_come_back_as_they_were(handover: Handover) -> None:
    assert handover.done() == frozenset()
    handover.put(3, receipt("c"))
    handover.put(11, receipt("l"))
    assert handover.done() == {3, 11}
    assert handover.receipt(11) == receipt("l")
    assert handover.receipt(4) is None
    handover.forget(3)
    assert handover.done() == {11}


def test_a_damaged_receipt_is_taken_as_absent(tmp_path: Path) -> None:
    handover = Handover(str(tmp_path), KEY)
    handover.put(0, receipt("a"))
    (path,) = tmp_path.rglob("0.receipt")
    path.write_bytes(path.read_bytes().replace(b"tidy", b"TIDY"))
    assert handover.receipt(0) is None


def test_only_the_attempt_that_began_last_may_go_on(handover: Handover) -> None:
    assert (handover.is_known(), handover.is_open(), handover.is_current("")) == (False, False, False)
    handover.begin("one")
    assert handover.is_current("one")
    handover.begin("two")
    assert (handover.is_current("one"), handover.is_current("two")) == (False, True)
    handover.stop()
    assert (handover.is_current("two"), handover.is_open(), handover.is_known()) == (False, False, True)
    handover.clear()
    assert not handover.is_known()


def test_failures_keep_their_kind_so_that_only_what_may_pass_is_retried(handover: Handover) -> None:
    handover.begin("one")
    handover.put_failure(2, RecordError("tidy: ValueError: broken at in.jsonl:3"))
    handover.put_failure(0, TransientError("the model server is away"))
    handover.put_failure(1, MemoryError("no room"))
    failures = handover.failures()
    assert [type(error) for error in failures.values()] == [TransientError, BackendError, RecordError]
    assert [is_retryable(error) for error in failures.values()] == [True, True, False]
    assert str(failures[2]) == "FP401 tidy: ValueError: broken at in.jsonl:3"
    assert str(failures[1]) == "FP501 MemoryError: no room"
    handover.put(0, receipt("a"))
    assert list(handover.failures()) == [1, 2], "what was done after all did not fail"
    handover.begin("two")
    assert not handover.failures(), "an attempt begins without the failures of the one before"


def test_the_job_is_kept(handover: Handover) -> None:
    assert handover.job() is None
    handover.keep_job(JobRecord("PortableRunner", "job-1", "one"))
    assert handover.job() == JobRecord("PortableRunner", "job-1", "one")


def test_nothing_in_a_handover_is_pickled(tmp_path: Path) -> None:
    handover = Handover(str(tmp_path), KEY)
    handover.begin("one")
    handover.put_failure(0, ValueError("x"))
    handover.put(1, receipt("b"))
    handover.keep_job(JobRecord("r", "j", "one"))
    for path in (path for path in tmp_path.rglob("*") if path.is_file() and path.name != "current"):
        json.loads(path.read_bytes())


def test_prune_removes_what_a_launch_left_a_day_ago(tmp_path: Path) -> None:
    handover = Handover(str(tmp_path), KEY)
    handover.begin("one")
    handover.put(0, receipt("a"))
    fresh = Inventory(str(tmp_path), time.time())
    assert not list(fresh.removals(None, unused=False))
    for path in tmp_path.rglob("*"):
        os.utime(path, (time.time() - 90_000,) * 2)
    old = Inventory(str(tmp_path), time.time())
    (removal,) = old.removals(None, unused=False)
    assert (removal.why, len(removal.files)) == ("handed over by a launch that ended early", 2)
    assert old.remove(removal)
    assert not handover.is_known()

"""Limits: so many calls a second, of all workers together, on each backend."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import PipelineError, TransientError, load_pipeline, run_local
from funcpipe_prefect.ir import Limit
from funcpipe_prefect.limits import TokenBucket, keeping, limited_by
from tests.contract.test_backends import Run, run_on, spec

PREFECT = pytest.mark.prefect
ON_BEAM = pytest.param("beam", marks=[PREFECT, pytest.mark.runners])


@pytest.fixture(params=["local", pytest.param("dask", marks=PREFECT), ON_BEAM])
def run(request: pytest.FixtureRequest) -> Run:
    return run_on(request.param, request)


def limited(folder: Path, limits: Any, lines: int = 60) -> dict[str, Any]:
    rows = ({"id": number, "text": "one word"} for number in range(lines))
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapping = spec(folder)
    mapping["operators"][2] |= {"limits": limits, "max_batch_size": 4}
    return mapping


def test_all_workers_together_keep_to_a_rate(run: Run, tmp_path: Path) -> None:
    name = f"api-{uuid.uuid4().hex[:8]}"
    begun = time.monotonic()
    report = run(limited(tmp_path, {name: "10/s"}))
    calls = next(cost.batches for cost in report.costs if cost.name == "score")
    assert 30 <= calls <= 33
    assert time.monotonic() - begun >= (calls - 10) / 10 * 0.9, "ten at once, then ten a second"
    plain = run_local(load_pipeline({**limited(tmp_path, {}), "cache": {"storage": str(tmp_path / "other")}}))
    assert report.digest == plain.digest
    assert run(limited(tmp_path, {name: "1/h"})).tasks_run == 0, "a limit is no part of what is computed"


@PREFECT
def test_it_is_a_global_limit_of_the_server_which_stays_as_it_is_found(
    prefect_api: str, dask_address: str, tmp_path: Path
) -> None:
    from prefect.client.orchestration import get_client

    from funcpipe_prefect import run_pipeline

    name = f"api-{uuid.uuid4().hex[:8]}"
    mapping = limited(tmp_path, {name: "600/m"}, lines=4)
    with get_client(sync_client=True) as client:
        for given, decay in (("600/m", 10.0), ("1200/m", 10.0)):
            mapping["operators"][2]["limits"] = {name: given}
            run_pipeline(mapping, backend="dask", overrides={"resources.address": dask_address})
            found = client.read_global_concurrency_limit_by_name(name)
            assert (found.limit, found.slot_decay_per_second, found.active) == (10, decay, True)


def test_a_bucket_lets_a_burst_through_and_then_the_rate() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))
        now[0] += seconds

    bucket = TokenBucket(4.0, clock=lambda: now[0], sleep=sleep)
    for _ in range(6):
        bucket.wait()
    assert slept == [0.25, 0.25]
    now[0] += 10
    for _ in range(5):
        bucket.wait()
    assert slept == [0.25, 0.25, 0.25]
    slow = TokenBucket(0.5, clock=lambda: now[0], sleep=sleep)
    slow.wait()
    slow.wait()
    assert slept[-1] == 2.0


def test_a_limit_that_cannot_be_asked_fails_the_task_not_the_record() -> None:
    def away(limit: Limit) -> None:
        raise OSError("no server")

    with limited_by(away), pytest.raises(TransientError, match="the limit api cannot be asked: no server"):
        keeping((Limit("api", 1.0),), len)([])


@pytest.mark.parametrize(
    "limits", ["10/s", {"api": 10}, {"api": "0/s"}, {"api": "ten/s"}, {"a b": "1/s"}, {"api": "5/d"}]
)
def test_what_is_no_rate_is_told(tmp_path: Path, limits: Any) -> None:
    with pytest.raises(PipelineError, match=r"\$\.operators\[2\]\.limits"):
        load_pipeline(limited(tmp_path, limits))

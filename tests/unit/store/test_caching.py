"""What a run uses of earlier ones: by age, from an operator on, under a lock, in another codec."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import PipelineError, Registry, RunReport, load_pipeline, run_local
from funcpipe_prefect.backends.local import LocalEngine
from funcpipe_prefect.backends.preview import preview
from funcpipe_prefect.backends.protocol import execute, schedule
from funcpipe_prefect.backends.work import Job
from funcpipe_prefect.plan import lower, plan_run
from funcpipe_prefect.sources import IterableSource
from funcpipe_prefect.store import PartitionStore

registry = Registry()
DAY = 86_400.0


@dataclass(frozen=True)
class Pair:
    a: int
    b: str


@registry.func
def pair(x: int) -> Pair:
    if x == 13:
        raise ValueError("unlucky")
    return Pair(x, str(x))


@registry.func
def longer(one: Pair) -> Pair:
    return Pair(one.a, one.b * 2)


@registry.func
def loose(x: int) -> Any:
    return (x, x) if x % 2 else [x, x]


Build = Callable[..., Any]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def built(**changes: Any) -> Any:
        pipeline = load_pipeline(
            {
                "name": "cached",
                "operators": [
                    {"type": "Map", "name": "pair", "func": "pair"},
                    {"type": "Map", "name": "longer", "func": "longer"},
                    {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
                     "params": {"path": str(tmp_path / "out")}},
                ],
                "materialization_points": ["pair", "longer"],
                "cache": {"storage": str(tmp_path / "store"), **changes.pop("cache", {})},
                "errors": {"path": str(tmp_path / "letters")},
                "retries": {"delay_seconds": [0]},
                **changes,
            },
            registry,
        )  # fmt: skip
        return replace(pipeline, source=IterableSource.of(range(30), splits=3))

    return built


def at(pipeline: Any, now: float, **options: Any) -> RunReport:
    with contextlib.ExitStack() as afterwards:
        return execute(pipeline, LocalEngine(), now=now, afterwards=afterwards, **options)


def work(report: RunReport) -> tuple[int, int]:
    return report.tasks_run, report.tasks_cached


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_expired_partition_is_computed_again_and_writes_the_same(build: Build, tmp_path: Path) -> None:
    pipeline = build(cache={"expires": "7d"})
    assert work(at(pipeline, 1000.0)) == (9, 0)
    before = content(tmp_path / "out")
    assert work(at(pipeline, 1000.0 + 7 * DAY - 1)) == (0, 9)
    assert work(at(pipeline, 1000.0 + 7 * DAY)) == (9, 0)
    assert work(at(pipeline, 1000.0 + 14 * DAY - 1)) == (0, 9)
    assert content(tmp_path / "out") == before, "the clock must not reach the output"


def test_without_expiry_nothing_gets_old(build: Build) -> None:
    assert work(at(build(), 0.0)) == (9, 0)
    assert work(at(build(), 1e12)) == (0, 9)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800.0), ("12h", 43200.0), ("7d", 604800.0), (90, 90.0), ("1h30m", 5400.0), (0.5, 0.5)],
)
def test_a_duration_is_read_as_written(build: Build, text: Any, seconds: float) -> None:
    assert build(cache={"expires": text}).expires_s == seconds


def test_neither_expiry_nor_isolation_nor_a_lossless_codec_change_a_key(build: Build) -> None:
    plain = [stage.fingerprint for stage in lower(build())]
    other = build(cache={"expires": "1h", "isolation": "serializable"}, serialization={"default": "arrow"},
                  resources={"task_budget": 3})  # fmt: skip
    assert [stage.fingerprint for stage in lower(other)] == plain
    pickled = [stage.fingerprint for stage in lower(build(serialization={"Pair": "pickle"}))]
    assert pickled[0] != plain[0]


@pytest.mark.parametrize(("operator", "expected"), [("pair", (9, 0)), ("longer", (6, 3)), ("write", (3, 6))])
def test_refresh_from_keeps_what_lies_before(build: Build, operator: str, expected: tuple[int, int]) -> None:
    first = at(build(), 0.0)
    again = at(build(), 1.0, refresh_from=operator)
    assert work(again) == expected
    assert again.digest == first.digest


def test_refresh_from_an_unknown_operator_says_which_there_are(build: Build) -> None:
    with pytest.raises(
        PipelineError, match=r'(?s)FP124 unknown operator.*"lnoger".*pair, longer, write.*"longer"'
    ):
        run_local(build(), refresh_from="lnoger")


def test_a_partition_is_read_by_the_codec_that_wrote_it(build: Build, tmp_path: Path) -> None:
    first = at(build(serialization={"default": "msgpack", "Pair": "arrow"}), 0.0)
    assert {one.codec for one in stored(tmp_path)} == {"arrow"}
    again = at(build(), 0.0, refresh_from="longer")
    assert work(again) == (6, 3)
    assert again.digest == first.digest
    assert sorted(one.codec for one in stored(tmp_path)) == ["arrow"] * 3 + ["msgpack"] * 3


def stored(tmp_path: Path) -> list[Any]:
    store = PartitionStore(str(tmp_path / "store"))
    receipts = [store.receipt(path.stem) for path in (tmp_path / "store").rglob("*.fpp")]
    return [one.stored for one in receipts if one is not None]


def test_pickle_works_and_warns(build: Build, tmp_path: Path) -> None:
    mapping = {
        "name": "p",
        "operators": [{"type": "Map", "name": "loose", "func": "loose"}],
        "materialization_points": ["loose"],
        "cache": {"storage": str(tmp_path / "store")},
        "errors": {"path": str(tmp_path / "letters")},
    }
    plain = run_local(load_pipeline(mapping, registry), range(10))
    assert plain.errors == 5, "MessagePack cannot keep tuples"
    assert not any("pickle" in warning for warning in plain.warnings)
    report = run_local(
        load_pipeline({**mapping, "serialization": {"default": "pickle"}}, registry), range(10)
    )
    assert (report.errors, report.records_out) == (0, 10)
    assert any("loose is stored by pickle: to read a partition runs" in one for one in report.warnings)


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda data: data[:-1],
    "flipped": lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
    "removed": lambda data: None,
}


@pytest.mark.parametrize("codec", ["msgpack", "arrow", "pickle"])
@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("suffix", ["fpp", "json", "letters"])
def test_damage_is_reported_with_the_file_and_mended(
    build: Build, tmp_path: Path, suffix: str, kind: str, codec: str
) -> None:
    pipeline = build(serialization={"default": codec})
    first = at(pipeline, 0.0)
    assert first.warnings == (() if codec != "pickle" else first.warnings)
    keys = plan_run(pipeline, pipeline.source.list_splits()).keys[1]  # the split with the dead letter
    path = tmp_path / "store" / "partitions" / keys[0][:2] / f"{keys[0]}.{suffix}"
    damaged = DAMAGES[kind](path.read_bytes())
    path.unlink() if damaged is None else path.write_bytes(damaged)
    again = at(pipeline, 0.0, refresh_from="longer")
    assert (again.digest, again.errors, again.operators) == (first.digest, first.errors, first.operators)
    told = [warning for warning in again.warnings if "pickle: to read" not in warning]
    if (suffix, kind) == ("json", "removed"):  # as if it had never been
        assert told == []
    else:
        assert len(told) == 1
        assert path.name in told[0]
        assert "pair on records-000000010 was computed again" in told[0]
    quiet = at(pipeline, 0.0, refresh_from="longer")
    assert not [warning for warning in quiet.warnings if "computed again" in warning]


def test_a_receipt_that_was_changed_by_hand_is_not_believed(build: Build, tmp_path: Path) -> None:
    pipeline = build()
    at(pipeline, 0.0)
    for path in (tmp_path / "store").rglob("*.json"):
        path.write_bytes(path.read_bytes().replace(b'"passed":10', b'"passed":11'))
    again = at(pipeline, 0.0, refresh_from="longer")
    assert again.records_in == 30
    assert len([warning for warning in again.warnings if "is not what was written" in warning]) == 3


@pytest.mark.parametrize(("budget", "expected"), [(0, 6), (4, 2), (500, 0)])
def test_beyond_the_budget_cached_stage_runs_are_not_submitted(
    build: Build, budget: int, expected: int
) -> None:
    pipeline = build()
    at(pipeline, 0.0)
    for path in (tmp := Path(pipeline.sinks[0].target.location)).iterdir():
        path.unlink()
    tmp.rmdir()
    plan = plan_run(pipeline, pipeline.source.list_splits())
    job = Job(pipeline, plan.stages, now=0.0)
    chosen = schedule(job, plan, plan.lanes[0], budget)
    assert len(chosen.cached) == 6
    assert len(chosen.unsubmitted) == expected
    assert all(receipt.cached for receipt in chosen.unsubmitted.values())
    again = schedule(replace(job, refreshed=frozenset({1})), plan, plan.lanes[0], budget)
    assert again.cached == {(0, 0), (0, 1), (0, 2)}
    assert preview(pipeline)["tasks_cached"] == 6


RUN = """
import sys
from pathlib import Path
from funcpipe_prefect import load_pipeline, run_local
folder = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
report = run_local(load_pipeline({
    "name": "slow",
    "imports": ["tests.registries.words"],
    "source": {"type": "jsonl", "path": str(folder / "in.jsonl"), "record": "Line", "splits": 1},
    "operators": [
        {"type": "Map", "name": "slowly", "func": "slowly", "params": {"seconds": 0.02}},
        {"type": "Map", "name": "flaky", "func": "flaky", "params": {"marks": str(folder), "times": 0}},
    ],
    "materialization_points": ["slowly"],
    "cache": {"storage": str(folder / "store"), "isolation": "serializable"},
    "errors": {"path": str(folder / "letters")},
}))
print(report.tasks_run, report.tasks_cached, report.digest, flush=True)
"""


def started(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    (tmp_path / "in.jsonl").write_text("".join(f'{{"id": {n}, "text": "t"}}\n' for n in range(100)))
    return tmp_path


def test_two_runs_that_need_a_partition_at_once_compute_it_once(lines: Path) -> None:
    runs = [started(lines) for _ in range(2)]
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.flush()
    ended = [run.communicate(timeout=120)[0].split() for run in runs]
    assert sorted(int(ran) for ran, _, _ in ended) == [0, 2]
    assert sorted(int(cached) for _, cached, _ in ended) == [0, 2]
    assert len({digest for _, _, digest in ended}) == 1
    assert not list((lines / "store").rglob("*.lock"))
    assert not list((lines / "store").rglob("*.tmp"))


def test_a_run_takes_over_from_one_that_was_killed_over_a_partition(lines: Path) -> None:
    first = started(lines)
    assert first.stdin is not None
    first.stdin.write("\n")
    first.stdin.flush()
    while not list((lines / "store").rglob("*.fpp.*.tmp")):
        assert first.poll() is None
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert list((lines / "store").rglob("*.lock"))
    out, _ = started(lines).communicate("\n", timeout=120)
    assert out.split()[:2] == ["2", "0"]
    assert not list((lines / "store").rglob("*.lock"))

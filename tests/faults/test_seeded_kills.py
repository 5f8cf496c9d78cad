"""Kills at random but seeded points: after a retry the bytes are those of an undisturbed run, every time.

`FUNCPIPE_KILLS=500 pytest tests/faults/test_seeded_kills.py` does it at length.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from funcpipe_prefect import load_pipeline, run_local
from funcpipe_prefect.errors import FuncPipeError
from tests.faults.test_kills import content, spec, started, write_input

KILLS = int(os.environ.get("FUNCPIPE_KILLS", "60"))
LOCAL_SEEDS = range(max(1, KILLS // 10))
KILLS_OF_A_SEED = 7
WORKER_SEEDS = range(max(1, KILLS // 12))
FLOW_SEEDS = range(max(1, KILLS // 30))


def the_first_quick(seeds: range, count: int) -> list[Any]:
    """Mark all seeds but the first ones as slow."""
    return [pytest.param(seed, marks=pytest.mark.slow) if seed >= count else seed for seed in seeds]


def pipeline(folder: Path, seed: int, **changes: Any) -> dict[str, Any]:
    """Another shape for each seed: sink, materialization, splits."""
    shape = random.Random(seed)
    write_input(folder, 300)
    mapping = spec(folder, **{
        "materialization_points": shape.choice([[], ["tidy"], ["tidy", "words"]]),
        **changes,
    })  # fmt: skip
    mapping["source"]["splits"] = shape.randint(3, 9)
    mapping["operators"][-1]["func"] = shape.choice(["jsonl", "parquet"])
    mapping["operators"][0]["params"] = {"seconds": 0.003}
    return mapping


def reference(folder: Path, mapping: dict[str, Any]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    overrides = {
        "operators.write.params.path": str(folder / "ref"),
        "errors.path": str(folder / "ref_letters"),
        "cache.storage": str(folder / "ref_store"),
    }
    run_local(load_pipeline(mapping, overrides=overrides))
    return content(folder / "ref"), content(folder / "ref_letters")


def made(folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    return content(folder / "out"), content(folder / "letters")


def has_begun(folder: Path) -> bool:
    return (folder / "out").exists() or (folder / "store").exists()


def run_in_child(mapping: dict[str, Any]) -> None:
    run_local(load_pipeline(mapping))


@pytest.fixture(scope="module")
def fork() -> Any:
    """A clean process to fork from, with the imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "funcpipe_prefect.sinks", "funcpipe_prefect.sources"])
    return context


@pytest.mark.parametrize("seed", the_first_quick(LOCAL_SEEDS, 3))
def test_local_runs_killed_again_and_again(tmp_path: Path, fork: Any, seed: int) -> None:
    mapping = pipeline(tmp_path, seed)
    expected = reference(tmp_path, mapping)
    when = random.Random(seed)
    killed = 0
    for _ in range(KILLS_OF_A_SEED):
        child = fork.Process(target=run_in_child, args=(mapping,))
        child.start()
        child.join(when.uniform(0.1, 0.8))
        if child.exitcode is None:
            child.kill()
            killed += 1
        child.join()
        if not (tmp_path / "out" / "_manifest.json").exists():
            assert not list((tmp_path / "out").glob("part-*")), "nothing is visible before the commit"
    assert killed, "no run was hit"
    report = run_local(load_pipeline(mapping))
    assert report.status == "completed"
    assert made(tmp_path) == expected


@pytest.fixture(scope="module")
def mortal_cluster(server_url: str) -> Iterator[Any]:
    """A cluster whose workers may die; its nannies start new ones."""
    import distributed

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster


def worker_pids(cluster: Any) -> list[int]:
    """The workers that the scheduler knows: a nanny whose worker dies while it starts gives up."""
    known = cluster.scheduler.workers
    nannies = [nanny for nanny in cluster.workers.values() if nanny.worker_address in known]
    return [nanny.process.pid for nanny in nannies if nanny.process and nanny.process.pid]


@pytest.mark.prefect
@pytest.mark.parametrize("seed", the_first_quick(WORKER_SEEDS, 2))
def test_workers_killed_at_any_point(
    tmp_path: Path, prefect_api: str, mortal_cluster: Any, seed: int
) -> None:
    from funcpipe_prefect import run_pipeline

    granularity = "stage" if seed % 2 else "partition"
    address = mortal_cluster.scheduler_address
    mapping = pipeline(tmp_path, 1000 + seed, resources={"address": address, "granularity": granularity})
    mapping["operators"][0]["params"] = {"seconds": 0.01}
    expected = reference(tmp_path, mapping)
    when = random.Random(seed)
    ended = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while not has_begun(tmp_path):
            if ended.wait(0.01):
                return
        for latest in (0.8, 2.5):
            if ended.wait(when.uniform(0, latest)):
                return
            pids = worker_pids(mortal_cluster)
            if pids:
                os.kill(victim := when.choice(pids), signal.SIGKILL)
                killed.append(victim)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run_pipeline(mapping, backend="dask")
    except FuncPipeError:
        assert not (tmp_path / "out" / "_manifest.json").exists(), "a failed run publishes nothing"
        run_pipeline(mapping, backend="dask")
    finally:
        ended.set()
        killer.join()
    assert killed, "no worker was hit"
    assert made(tmp_path) == expected


@pytest.mark.prefect
@pytest.mark.parametrize("seed", the_first_quick(FLOW_SEEDS, 1))
def test_the_process_of_the_flow_killed_at_any_point(
    tmp_path: Path, prefect_api: str, dask_address: str, seed: int
) -> None:
    granularity = "stage" if seed % 2 else "partition"
    mapping = pipeline(tmp_path, 2000 + seed, resources={"address": dask_address, "granularity": granularity})
    mapping["operators"][0]["params"] = {"seconds": 0.02}
    expected = reference(tmp_path, mapping)
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(mapping))
    process = started(tmp_path, "dask", path, PREFECT_API_URL=prefect_api)
    end = time.monotonic() + 120
    while not has_begun(tmp_path):
        assert time.monotonic() < end, "the run does not begin"
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 2))
    process.kill()
    process.wait()
    run_local(load_pipeline(mapping))
    assert made(tmp_path) == expected

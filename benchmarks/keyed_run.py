"""A CombineByKey of 10 million records and a million keys, against `Bag.foldby` and Beam's `CombinePerKey`.

All read the same 32 JSON Lines files and write one JSON line for each key. Ours is timed from the call
of `run_pipeline` on a warm cluster of two workers to its return, so it includes planning, the flow run,
its task runs, digests and the commit; `foldby` runs on the same cluster, Beam in two worker processes
of FnApiRunner, each timed as a whole.
"""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import keyed_by_hand as by_hand
from benchmarks.measure import seconds, summary, write_result

RECORDS, KEYS, FILES = 10_000_000, 1_000_000, 32
ROUNDS = 1
LIMIT = "2GiB"


def mapping(folder: Path, source: Path) -> dict[str, Any]:
    """Give the pipeline."""
    return {
        "name": "keyed",
        "imports": ["benchmarks.keyed_functions"],
        "source": {"type": "jsonl", "path": f"{source}/events-*.jsonl", "record": "Event", "split_size": "1GiB", "by_content": False},
        "operators": [
            {"type": "CombineByKey", "name": "sums", "key": "key_of", "lift": "value_of", "monoid": "sum", "partitions": 8},
            {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
             "params": {"path": str(folder / "out")}},
        ],
        "backend": "dask",
        "cache": {"storage": str(folder / "store")},
        "errors": {"path": str(folder / "letters")},
    }  # fmt: skip


def ours(client: Any, source: Path, out: Path) -> None:
    """Run the pipeline from nothing."""
    from funcpipe_prefect import run_pipeline

    shutil.rmtree(out, ignore_errors=True)
    run_pipeline(mapping(out, source), overrides={"resources.address": client.scheduler.address})


def foldby(client: Any, source: Path, out: Path) -> None:
    """Run `Bag.foldby` from nothing."""
    shutil.rmtree(out, ignore_errors=True)
    by_hand.by_foldby(client, source, out)


def beam(client: Any, source: Path, out: Path) -> None:
    """Run `CombinePerKey` from nothing."""
    shutil.rmtree(out, ignore_errors=True)
    by_hand.by_combine_per_key(source, out, 2)


WAYS: dict[str, Callable[[Any, Path, Path], None]] = {"ours": ours, "foldby": foldby, "beam": beam}


def measured(client: Any, folder: Path, source: Path) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Time the ways in turn; give the seconds, and the most MiB that one worker of ours had."""
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    peaks: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            pids = client.run(os.getpid).values()
            with by_hand.PeakMemory(pids if name != "beam" else None) as memory:
                taken[name].append(seconds(lambda: way(client, source, folder / name)))  # noqa: B023
            peaks[name] = max(peaks.get(name, 0.0), memory.peak.of_one)
            print(
                f"  {name}: {taken[name][-1]:.1f} s, {memory.peak.of_one:.0f} MiB in one process", flush=True
            )
            client.restart()
            client.run(_warm)
    return taken, peaks


def _warm() -> None:
    import dask.bag  # noqa: F401

    import benchmarks.keyed_functions  # noqa: F401
    import funcpipe_prefect.orchestration.tasks  # noqa: F401


def main() -> None:
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    from funcpipe_prefect.orchestration.server import one_server

    with tempfile.TemporaryDirectory(prefix="funcpipe-bench-", ignore_cleanup_errors=True) as root:
        folder = Path(root)
        os.environ["PREFECT_HOME"] = str(folder / "prefect")
        os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
        source, little = folder / "events", folder / "little"
        started = time.perf_counter()
        by_hand.write_events(source, RECORDS, KEYS, FILES)
        by_hand.write_events(little, 10_000, 1_000, 4)
        print(f"  written in {time.perf_counter() - started:.0f} s", flush=True)
        with one_server(), by_hand.two_workers(LIMIT) as client:
            client.run(_warm)
            ours(client, little, folder / "warm")
            taken, peaks = measured(client, folder, source)
        found = {name: by_hand.digest_of_output(folder / name) for name in WAYS}
    assert len(set(found.values())) == 1, f"the ways differ: {found}"
    medians = {name: statistics.median(values) for name, values in taken.items()}
    value = min(medians["foldby"], medians["beam"]) / medians["ours"]
    write_result(
        "keyed_run",
        what="throughput of a CombineByKey to that of the faster of Bag.foldby and CombinePerKey",
        value=value,
        unit="×",
        target="> 1",
        met=value > 1,
        records=RECORDS,
        keys=found["ours"][0],
        workers=2,
        memory_limit=LIMIT,
        peak_mib_of_one_worker={name: round(peak) for name, peak in peaks.items()},
        seconds={name: summary(values, 2) for name, values in taken.items()},
        to_foldby=round(medians["foldby"] / medians["ours"], 3),
        to_beam=round(medians["beam"] / medians["ours"], 3),
    )


if __name__ == "__main__":
    main()

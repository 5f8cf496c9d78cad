"""A CombineByKey of 10 million records and a million keys, against `Bag.foldby` and Beam's `CombinePerKey`.

All read the same 32 JSON Lines files and write one JSON line for each key. Ours is timed from the call
of `run_pipeline` on a warm cluster of two workers to its return, so it includes planning, the flow run,
its task runs, digests and the commit; `foldby` runs on the same cluster, Beam in two worker processes
of FnApiRunner, each timed as a whole. Then, as information, each once where nine records of ten have
one key, and ours on workers of 512 MiB where most records have a key of their own.
"""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import keyed_by_hand as by_hand
from benchmarks.measure import seconds, summary, write_result

RECORDS, KEYS, FILES = 10_000_000, 1_000_000, 32
ROUNDS = 3
LIMIT = "2GiB"
SKEW = 0.9
MOST_KEYS, LITTLE = 10_000_000, "512MiB"


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


@dataclass
class Measured:
    """What runs of one way took; memory is of the process that had the most."""

    seconds: list[float]
    peak_mib: float
    keys: int = 0

    def summary(self) -> dict[str, Any]:
        """Give it as a result has it."""
        return {**summary(self.seconds, 2), "peak_mib_of_one_process": round(self.peak_mib)}


def measured(
    client: Any, folder: Path, source: Path, rounds: int = 1, ways: Iterable[str] = tuple(WAYS)
) -> dict[str, Measured]:
    """Run the ways in turn, the other way round each second time; they must give the same."""
    found = {name: Measured([], 0.0) for name in ways}
    outcomes = set()
    for number in range(rounds):
        for name in list(found)[:: -1 if number % 2 else 1]:
            pids = client.run(os.getpid).values() if name != "beam" else None
            out = folder / name
            with by_hand.PeakMemory(pids) as memory:
                taken = seconds(lambda: WAYS[name](client, source, out))  # noqa: B023
            found[name].seconds.append(taken)
            found[name].peak_mib = max(found[name].peak_mib, memory.peak.of_one)
            print(f"  {name}: {taken:.1f} s, {memory.peak.of_one:.0f} MiB in one process", flush=True)
            outcomes.add(by_hand.digest_of_output(out))
            shutil.rmtree(out)
            client.restart()
            client.run(_warm)
    assert len(outcomes) == 1, f"the ways differ: {outcomes}"
    for one in found.values():
        one.keys = next(iter(outcomes))[0]
    return found


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
        even, skewed, many, little = (folder / name for name in ("even", "skewed", "many", "little"))
        by_hand.write_events(even, RECORDS, KEYS, FILES)
        by_hand.write_events(skewed, RECORDS, KEYS, FILES, skew=SKEW)
        by_hand.write_events(many, RECORDS, MOST_KEYS, FILES)
        by_hand.write_events(little, 10_000, 1_000, 4)
        with one_server():
            with by_hand.two_workers(LIMIT) as client:
                client.run(_warm)
                ours(client, little, folder / "warm")
                found = measured(client, folder, even, ROUNDS)
                with_skew = measured(client, folder, skewed)
            with by_hand.two_workers(LITTLE) as client:
                client.run(_warm)
                with_many = measured(client, folder, many, ways=["ours"])
    medians = {name: statistics.median(one.seconds) for name, one in found.items()}
    value = min(medians["foldby"], medians["beam"]) / medians["ours"]
    write_result(
        "keyed_run",
        what="throughput of a CombineByKey to that of the faster of Bag.foldby and CombinePerKey",
        value=value,
        unit="×",
        target="> 1",
        met=value > 1,
        records=RECORDS,
        keys=found["ours"].keys,
        workers=2,
        memory_limit=LIMIT,
        ways={name: one.summary() for name, one in found.items()},
        to_foldby=round(medians["foldby"] / medians["ours"], 3),
        to_beam=round(medians["beam"] / medians["ours"], 3),
        nine_of_ten_records_of_one_key={name: one.summary() for name, one in with_skew.items()},
        many_keys={"keys": with_many["ours"].keys, "memory_limit": LITTLE, **with_many["ours"].summary()},
    )


if __name__ == "__main__":
    main()

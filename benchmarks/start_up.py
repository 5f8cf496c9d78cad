"""How long a user waits: from the command `funcpipe run` to the first record, and to the end.

Each run is a process of its own, with a pipeline of 100 lines in four splits.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import summary, write_result

TARGETS_S = {"dask_new_home": 25.0, "dask_no_server": 15.0, "dask_server": 6.0, "local": 1.5}
ROUNDS = 3


def described(folder: Path) -> Path:
    """Write the pipeline."""
    documents = folder / "docs.jsonl"
    documents.write_text(
        "".join(json.dumps({"id": str(number), "text": "a few words"}) + "\n" for number in range(100))
    )
    pipeline = {
        "name": "start-up",
        "imports": ["benchmarks.start_up_functions"],
        "source": {"type": "jsonl", "path": str(documents), "splits": 4},
        "operators": [
            {"type": "Map", "name": "note", "func": "noted"},
            {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
             "params": {"path": str(folder / "out")}},
        ],
        "resources": {"workers": 2},
        "cache": {"storage": str(folder / "store")},
        "errors": {"path": str(folder / "letters")},
    }  # fmt: skip
    path = folder / "start_up.yaml"
    path.write_text(yaml.safe_dump(pipeline))
    return path


def timed(folder: Path, pipeline: Path, backend: str, home: Path, server: str = "") -> dict[str, float]:
    """Run the command once; give the seconds to the first record and to the end."""
    for name in ("out", "store", "letters"):
        shutil.rmtree(folder / name, ignore_errors=True)
    first = folder / "first"
    first.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "BENCH_FIRST_RECORD": str(first),
        "PREFECT_HOME": str(home),
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    environment.pop("PREFECT_API_URL", None)
    if server:
        environment["PREFECT_API_URL"] = server
    command = [
        str(Path(sys.executable).parent / "funcpipe"),
        "run",
        str(pipeline),
        "--backend",
        backend,
        "--json",
    ]
    begun = time.time()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    ended = time.time()
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return {"first_record_s": float(first.read_text()) - begun, "whole_s": ended - begun}


@contextmanager
def a_server(home: Path) -> Iterator[str]:
    """Run a Prefect server in that home for the time of the block."""
    os.environ.update(PREFECT_HOME=str(home), PREFECT_LOGGING_LEVEL="WARNING")
    os.environ.pop("PREFECT_API_URL", None)
    from funcpipe_prefect.orchestration.server import one_server

    with one_server() as url:
        yield url


def main() -> None:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in TARGETS_S}
    with tempfile.TemporaryDirectory(prefix="funcpipe-bench-", ignore_cleanup_errors=True) as root:
        folder = Path(root)
        pipeline = described(folder)
        timed(folder, pipeline, "local", folder / "home")  # compiles, and reads from disk, what is imported
        for number in range(ROUNDS):
            home = folder / f"home-{number}"
            found["local"].append(timed(folder, pipeline, "local", home))
            found["dask_new_home"].append(timed(folder, pipeline, "dask", home))
            found["dask_no_server"].append(timed(folder, pipeline, "dask", home))
        with a_server(folder / "home-0") as url:
            for _ in range(ROUNDS):
                found["dask_server"].append(timed(folder, pipeline, "dask", folder / "home-0", url))
    firsts = {name: summary([one["first_record_s"] for one in runs], 2) for name, runs in found.items()}
    met = {name: firsts[name]["median"] <= target for name, target in TARGETS_S.items()}
    details: dict[str, Any] = {
        name: {
            "target_s": TARGETS_S[name],
            "met": met[name],
            "first_record_s": firsts[name],
            "whole_s": summary([one["whole_s"] for one in runs], 2),
        }
        for name, runs in found.items()
    }
    write_result(
        "start_up",
        what="funcpipe run to the first record, on Dask with no server running",
        value=firsts["dask_no_server"]["median"],
        unit="s",
        target=f"<= {TARGETS_S['dask_no_server']}",
        met=all(met.values()),
        runs=details,
    )
    for name, one in details.items():
        print(f"  {name}: first record {one['first_record_s']['median']} s (target <= {one['target_s']}: "
              f"{'met' if one['met'] else 'MISSED'}), whole run {one['whole_s']['median']} s")  # fmt: skip


if __name__ == "__main__":
    main()

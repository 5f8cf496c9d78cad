"""How far it goes: a plan of a million splits, and a run of a hundred thousand under one task run.

plan    `funcpipe plan` for a file of a million lines in as many splits, known by content: wall time and peak memory
run     `funcpipe run` on Dask with two workers, a hundred thousand splits of a line each: wall time, and the
        peak memory of the process that holds the flow and the Dask scheduler
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import write_result

PLANNED, PLAN_S, PLAN_MB = 1_000_000, 30.0, 1_000.0
RUN, FLOW_MB = 100_000, 400.0
_POLL_S = 0.2


def described(folder: Path, splits: int) -> Path:
    """Write a file of lines, and a pipeline with as many splits."""
    documents = folder / f"{splits}.jsonl"
    with documents.open("w") as file:
        for number in range(splits):
            file.write(json.dumps({"id": f"{number:08d}", "text": "a few words"}) + "\n")
    pipeline = {
        "name": f"scale-{splits}",
        "imports": ["benchmarks.split_functions"],
        "source": {"type": "jsonl", "path": str(documents), "splits": splits},
        "operators": [
            {"type": "Map", "name": "count", "func": "count_words"},
            {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
             "params": {"path": str(folder / f"out-{splits}")}},
        ],
        "resources": {"workers": 2},
        "cache": {"storage": str(folder / "store")},
        "errors": {"path": str(folder / "letters")},
    }  # fmt: skip
    path = folder / f"{splits}.yaml"
    path.write_text(yaml.safe_dump(pipeline))
    return path


def command(folder: Path, *words: str) -> dict[str, Any]:
    """Run the command line; give its answer, the seconds, and the peak memory of its process in MB."""
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder / "prefect"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    environment.pop("PREFECT_API_URL", None)
    begun, peak = time.perf_counter(), 0
    with (folder / "answer").open("w+") as answer:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "funcpipe"), *words, "--json"],
            env=environment, stdout=answer, cwd=folder,
        )  # fmt: skip
        while process.poll() is None:
            peak = max(peak, _peak_kb(process.pid))
            time.sleep(_POLL_S)
        seconds = time.perf_counter() - begun
        answer.seek(0)
        lines = answer.read().splitlines()
    if process.returncode:
        raise RuntimeError(f"{words} ended with {process.returncode}")
    return {
        "seconds": round(seconds, 1),
        "peak_mb": round(peak * 1024 / 1e6),
        "answer": json.loads(lines[-1]),
    }


def _peak_kb(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="funcpipe-bench-", ignore_cleanup_errors=True) as root:
        folder = Path(root)
        plan = command(folder, "plan", str(described(folder, PLANNED)), "--backend", "dask")
        assert plan["answer"]["tasks_to_run"] == PLANNED
        run = command(folder, "run", str(described(folder, RUN)), "--backend", "dask")
        assert run["answer"]["tasks_run"] == run["answer"]["records_out"] == RUN
    met = plan["seconds"] <= PLAN_S and plan["peak_mb"] <= PLAN_MB and run["peak_mb"] <= FLOW_MB
    write_result(
        "scale",
        what=f"peak memory of the flow's process with {RUN:,} splits",
        value=run["peak_mb"],
        unit="MB",
        target=f"<= {FLOW_MB}",
        met=met,
        plan={"splits": PLANNED, "seconds": plan["seconds"], "peak_mb": plan["peak_mb"],
              "target_s": PLAN_S, "target_mb": PLAN_MB},
        run={"splits": RUN, "seconds": run["seconds"], "peak_mb": run["peak_mb"],
             "ms_a_split": round(run["seconds"] / RUN * 1000, 2)},
    )  # fmt: skip
    print(
        f"  plan of {PLANNED:,}: {plan['seconds']} s, {plan['peak_mb']} MB; run of {RUN:,}: {run['seconds']} s"
    )


if __name__ == "__main__":
    main()

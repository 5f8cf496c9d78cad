"""Run benchmarks, each in a process of its own: `python -m benchmarks.run [name ...] [--baseline]`."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import BASELINE, RESULTS

NAMES = (
    "kernel", "flow_memory", "split_memory", "split_cost", "start_up", "scale", "dask_run", "cached_run", "beam_run", "keyed_run",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--baseline", action="store_true", help="keep the results as the new baseline")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.name if name not in NAMES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    failed = []
    for name in chosen.name or NAMES:
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=Path(__file__).parents[1])
        if done.returncode:
            failed.append(name)
        elif chosen.baseline:
            BASELINE.mkdir(parents=True, exist_ok=True)
            shutil.copy(RESULTS / f"{name}.json", BASELINE / f"{name}.json")
    if failed:
        print(f"did not run to the end: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

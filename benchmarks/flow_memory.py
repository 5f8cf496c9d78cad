"""Peak memory of the process that runs the flow, for little and for much input.

The flow's process holds plans and receipts, never records: its peak must not grow with the data.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import data, rag_run
from benchmarks.measure import summary, write_result

TARGET_MB = 50
COPIES = (1, 5)
REPEATS = 2


def measured(copies: int) -> dict[str, Any]:
    """Run the flow here, its workers in processes of their own; give this process's peak."""
    with rag_run.own_prefect() as folder:
        documents = folder / "docs.jsonl"
        count = data.write_documents(documents, copies)
        from funcpipe_prefect import run_pipeline

        started = time.perf_counter()
        report = run_pipeline(rag_run.mapping(folder, documents, "hash_batch"))
        elapsed = time.perf_counter() - started
        assert report.records_in == count, f"{report.records_in} of {count} documents"
        return {
            "documents": count,
            "records_out": report.records_out,
            "splits": report.splits,
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _rss_unit() / 1e6, 1),
            "elapsed_s": round(elapsed, 1),
        }


def _rss_unit() -> int:
    return 1 if sys.platform == "darwin" else 1024


def in_a_process(copies: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.flow_memory", str(copies)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    runs: dict[int, list[dict[str, Any]]] = {copies: [] for copies in COPIES}
    for _ in range(REPEATS):
        for copies in COPIES:
            runs[copies].append(in_a_process(copies))
            print(f"  {runs[copies][-1]}", flush=True)
    little, much = (runs[copies] for copies in COPIES)
    growth = [b["peak_mb"] - a["peak_mb"] for a, b in zip(little, much, strict=True)]
    value = summary(growth, 1)["median"]
    write_result(
        "flow_memory",
        what=f"growth of the flow process's peak from {little[0]['documents']:,} to {much[0]['documents']:,} documents",
        value=value,
        unit="MB",
        target=f"<= {TARGET_MB}",
        met=value <= TARGET_MB,
        data=data.origin(),
        splits=much[0]["splits"],
        little={
            "documents": little[0]["documents"],
            "peak_mb": summary([run["peak_mb"] for run in little], 1),
        },
        much={"documents": much[0]["documents"], "peak_mb": summary([run["peak_mb"] for run in much], 1)},
        growth_mb=summary(growth, 1),
        elapsed_s={"little": little[-1]["elapsed_s"], "much": much[-1]["elapsed_s"]},
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measured(int(sys.argv[1]))))
    else:
        main()

"""What a split ten times as large does to the memory of the process that works on it.

Each run is a process of its own with one split, once of 16 MB, the default size, and once of 160 MB, by what the split ends in.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import write_result

TARGET = 1.20
LINES = {"small": 110_000, "large": 1_100_000}

_CODE = """
import json, sys
from funcpipe_prefect import load_pipeline, run_local
report = run_local(load_pipeline(json.loads(sys.argv[1])))
peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))
print(json.dumps({'mb': int(peak.split()[1]) / 1024, 'records': report.records_out}))
"""


def described(folder: Path, name: str, documents: Path) -> dict[str, Any]:
    """Give a pipeline of one split that ends in different things."""
    embed = [
        {"type": "Map", "name": "clean", "func": "clean_doc", "error_policy": "drop"},
        {"type": "FlatMap", "name": "chunk", "func": "chunk_doc", "params": {"size": 512, "overlap": 64}},
        {"type": "BatchMap", "name": "embed", "func": "sha_batch", "max_batch_size": 128},
    ]
    sink = {
        "type": "Sink",
        "name": "write",
        "contract": {"idempotent": True},
        "params": {"path": str(folder / name)},
    }
    ends: dict[str, list[dict[str, Any]]] = {
        "jsonl": [*embed, {**sink, "func": "jsonl"}],
        "parquet": [*embed, {**sink, "func": "parquet"}],
        "stored": [*embed, {**sink, "func": "jsonl"}],
        "by_key": [
            {"type": "CombineByKey", "name": "totals", "key": "id_of", "lift": "length_of", "monoid": "sum"},
            {**sink, "func": "jsonl"},
        ],
        "distinct": [*embed[:2], {"type": "Distinct", "name": "once"}, {**sink, "func": "jsonl"}],
    }
    return {
        "name": name,
        "imports": [
            "funcpipe_prefect.examples.rag",
            "benchmarks.contenders.work",
            "benchmarks.split_functions",
        ],
        "source": {"type": "jsonl", "path": str(documents), "record": "RawDoc", "splits": 1},
        "operators": ends[name],
        "materialization_points": ["embed"] if name == "stored" else [],
        "cache": {"storage": str(folder / f"{name}-store")},
        "errors": {"path": str(folder / f"{name}-letters")},
    }


def peak(mapping: dict[str, Any]) -> dict[str, Any]:
    """Run the pipeline in a process of its own; give its peak memory in MiB and its records."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE, json.dumps(mapping)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="funcpipe-bench-") as root:
        for size, lines in LINES.items():
            documents = Path(root) / f"{size}.jsonl"
            with documents.open("w") as file:
                for number in range(lines):
                    text = f"Document {number} says something of its own. " * 3
                    file.write(json.dumps({"doc_id": str(number), "text": text}) + "\n")
            for name in ("jsonl", "parquet", "stored", "by_key", "distinct"):
                folder = Path(root) / size
                folder.mkdir(exist_ok=True)
                found.setdefault(name, {})[size] = peak(described(folder, name, documents))
    ratios = {name: one["large"]["mb"] / one["small"]["mb"] for name, one in found.items()}
    worst = max(ratios.values())
    write_result(
        "split_memory",
        what="peak memory with a split ten times as large, of the worst kind of end",
        value=worst,
        unit="×",
        target=f"<= {TARGET}",
        met=worst <= TARGET,
        ratios={name: round(one, 3) for name, one in ratios.items()},
        peaks=found,
    )
    for name, one in found.items():
        print(f"  {name}: {one['small']['mb']:.0f} MiB → {one['large']['mb']:.0f} MiB, {ratios[name]:.2f} ×")


if __name__ == "__main__":
    main()

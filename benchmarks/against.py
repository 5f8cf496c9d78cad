"""One way, timed in this process: `python -m benchmarks.against NAME DOCUMENTS...`; prints a line of JSON a file.

The process is warmed up by a run over the first documents before anything is timed: over so many that each worker
takes part, and has imported what it needs.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import cast

from benchmarks import rag_run
from benchmarks.contenders import work

WAYS = {
    "loop": "plain.loop",
    "pool": "plain.pool",
    "futures": "plain.futures",
    "bag": "bag.bag",
    "naive_map": "prefect_map.naive_map",
    "beam": "beam_elements.elements",
    "ray": "ray_data.ray_data",
    "daft": "daft_frame.daft_frame",
    "ours_local": "ours.local",
    "ours_dask": "ours.dask_auto",
    "ours_dask_stage": "ours.dask_stage",
    "ours_beam": "ours.on_beam",
}
WARM_UP_BYTES = (2 * work.WORKERS - 1) * work.SPLIT_BYTES


def way(name: str) -> AbstractContextManager[work.Work]:
    """Find a way by its name."""
    module, _, function = WAYS[name].partition(".")
    make = getattr(import_module(f"benchmarks.contenders.{module}"), function)
    return cast(Callable[[], AbstractContextManager[work.Work]], make)()


def main() -> None:
    name, *files = sys.argv[1:]
    checks = "--digest" in files
    documents = [Path(one) for one in files if one != "--digest"]
    with (
        rag_run.own_prefect(),
        way(name) as run,
        tempfile.TemporaryDirectory(prefix="funcpipe-bench-") as root,
    ):
        folder = Path(root)
        few = folder / "few.jsonl"
        with documents[0].open("rb") as file:
            few.write_bytes(b"".join(file.readlines(WARM_UP_BYTES)))
        for number, one in enumerate((few, *documents)):
            out = folder / "out"
            out.mkdir()
            begun = time.perf_counter()
            run(one, out)
            seconds = time.perf_counter() - begun
            found = {"way": name, "documents": one.name, "seconds": round(seconds, 3)}
            if checks:
                found["digest"] = work.digest(out)
            found["bytes"] = sum(path.stat().st_size for path in work.written(out))
            shutil.rmtree(out)
            if number:
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

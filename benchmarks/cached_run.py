"""A run again over an unchanged input, and over one with one changed file of 32, against the first run.

All on a warm Dask cluster with a running Prefect server, so that no start-up is in the figures. The
first run clears the way for the others: it computes and stores everything.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks import data, rag_run
from benchmarks.measure import seconds, summary, write_result

TARGET = 0.10
COPIES = 5
AGAIN = 3


def files_of(documents: Path, folder: Path) -> list[Path]:
    """Deal the documents out to one file for each split."""
    folder.mkdir()
    lines = documents.read_bytes().splitlines(keepends=True)
    paths = [folder / f"{index:02}.jsonl" for index in range(rag_run.SPLITS)]
    for index, path in enumerate(paths):
        path.write_bytes(b"".join(lines[index :: rag_run.SPLITS]))
    return paths


def main() -> None:
    with rag_run.own_prefect() as folder:
        from funcpipe_prefect import run_pipeline

        documents = folder / "docs.jsonl"
        count = data.write_documents(documents, COPIES)
        paths = files_of(documents, folder / "docs")
        reports: list[Any] = []
        with rag_run.warm_cluster() as client:

            def run(name: str, files: Path) -> None:
                mapping = rag_run.mapping(folder / name, files, "embed_batch")
                mapping["source"] = {"type": "jsonl", "path": str(files), "record": "RawDoc"}
                mapping["materialization_points"] = ["chunk"]
                (folder / name).mkdir(exist_ok=True)
                overrides = {"resources": {"address": client.scheduler.address}}
                reports.append(run_pipeline(mapping, overrides=overrides))

            little = folder / "little"
            little.mkdir()
            (little / "a.jsonl").write_bytes(b"".join(paths[0].read_bytes().splitlines(keepends=True)[:200]))
            run("warm", little)
            first = seconds(lambda: run("all", folder / "docs"))
            again = [seconds(lambda: run("all", folder / "docs")) for _ in range(AGAIN)]
            time.sleep(0.01)  # so that the changed file has another time of modification
            lines = paths[7].read_bytes().splitlines(keepends=True)
            paths[7].write_bytes(b"".join(lines[1:]))
            changed = seconds(lambda: run("all", folder / "docs"))
    computed, cached, last = reports[1], reports[2:-1], reports[-1]
    assert computed.tasks_run == 2 * rag_run.SPLITS, computed
    assert all(report.tasks_run == 0 and report.digest == computed.digest for report in cached)
    assert last.tasks_run == 2, f"one partition, two stages: {last.tasks_run}"
    assert last.records_in == count - 1
    ratios = summary([value / first for value in again])
    write_result(
        "cached_run",
        what="time of a run again over an unchanged input to that of the first run",
        value=ratios["median"],
        unit="×",
        target=f"<= {TARGET}",
        met=ratios["median"] <= TARGET,
        data=data.origin(),
        documents=count,
        splits=rag_run.SPLITS,
        workers=rag_run.WORKERS,
        first_s=round(first, 2),
        again_s=summary(again, 2),
        ratio=ratios,
        one_file_changed={
            "s": round(changed, 2),
            "ratio": round(changed / first, 4),
            "tasks_run": last.tasks_run,
        },
    )


if __name__ == "__main__":
    main()

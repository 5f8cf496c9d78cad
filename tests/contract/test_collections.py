"""`to_bag`, `to_delayed`, `to_dataframe`: what a user's own Dask program gets from our operators."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import dask
import pytest

from funcpipe_prefect import (
    BackendError,
    PipelineError,
    load_pipeline,
    run_local,
    to_bag,
    to_dataframe,
    to_delayed,
)
from funcpipe_prefect.sinks.directory import Directory

ROOT = Path(__file__).parents[2]
DOCS = [
    {"doc_id": str(number), "text": f"Text number {number} of some words. " * (number % 5)}
    for number in range(60)
]


@pytest.fixture(autouse=True)
def _in_threads() -> Any:
    with dask.config.set(scheduler="threads"):
        yield


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in DOCS))
    return path


def described(documents: Path, *operators: dict[str, Any], store: bool = False) -> dict[str, Any]:
    folder = documents.parent
    return {
        "name": "collected",
        "imports": ["funcpipe_prefect.examples.rag"],
        "source": {"type": "jsonl", "path": str(documents), "record": "RawDoc", "splits": 4},
        "operators": [
            {"type": "Map", "name": "clean", "func": "clean_doc", "error_policy": "collect"},
            {"type": "FlatMap", "name": "chunk", "func": "chunk_doc", "params": {"size": 64, "overlap": 8}},
            *operators,
        ],
        "materialization_points": ["clean"] if store else [],
        "cache": {"storage": str(folder / "store")},
        "errors": {"path": str(folder / "letters")},
    }  # fmt: skip


def lines_of(folder: Path) -> list[Any]:
    return [json.loads(line) for line in Directory(str(folder), ".jsonl").lines()]


def sink(documents: Path) -> dict[str, Any]:
    return {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
            "params": {"path": str(documents.parent / "out")}}  # fmt: skip


@pytest.mark.parametrize("store", [False, True])
def test_a_bag_has_the_records_that_a_run_publishes(documents: Path, store: bool) -> None:
    pipeline = load_pipeline(described(documents, sink(documents), store=store))
    bag = to_bag(pipeline)
    assert not (documents.parent / "store").exists()  # nothing has run
    assert bag.npartitions == 4
    records = bag.compute()
    report = run_local(pipeline)
    published = lines_of(documents.parent / "out")
    assert [vars(one) for one in records] == published
    assert len(records) == report.records_out > 0
    assert bag.map(lambda chunk: len(chunk.text)).max().compute() <= 64


def test_what_failed_is_given_as_the_dead_letter_files_have_it(documents: Path) -> None:
    pipeline = load_pipeline(described(documents, sink(documents)))
    letters = to_bag(pipeline, give="dead_letters").compute()
    run_local(pipeline)
    assert letters == lines_of(documents.parent / "letters")
    assert Counter(one["operator"] for one in letters) == {"clean": 12}


def test_delayed_objects_are_the_partitions(documents: Path) -> None:
    pipeline = load_pipeline(described(documents, sink(documents)))
    parts = to_delayed(pipeline)
    assert len(parts) == 4
    (first,) = dask.compute(parts[0])
    assert first == to_bag(pipeline).compute()[: len(first)]
    assert not (documents.parent / "out").exists()  # the Sink stays out


def test_an_unwritten_end_and_one_chosen_by_name(documents: Path) -> None:
    count = {"type": "Combine", "name": "count", "lift": "count_words", "monoid": "sum"}
    branch = {**sink(documents), "input": "chunk"}
    pipeline = load_pipeline(described(documents, branch, {**count, "input": "chunk"}))
    words = to_bag(pipeline, end="count").compute()
    assert words == [sum(len(one.text.split()) for one in to_bag(pipeline, end="write").compute())]
    assert to_bag(pipeline).compute() == to_bag(pipeline, end="write").compute()
    with pytest.raises(BackendError, match="does not end in 'clean'; it ends in write, count"):
        to_bag(pipeline, end="clean")
    plain = load_pipeline(described(documents))
    assert to_bag(plain).count().compute() == run_local(plain).records_out


def test_grouped_records_are_gathered_across_the_partitions(documents: Path) -> None:
    mapping = described(documents, {"type": "Distinct", "name": "once"}, sink(documents))
    pipeline = load_pipeline(mapping)
    records = to_bag(pipeline).compute()
    run_local(pipeline, refresh=True)
    assert sorted(map(str, map(vars, records))) == sorted(map(str, lines_of(documents.parent / "out")))


def test_a_stored_partition_is_used_again_by_a_run(documents: Path) -> None:
    pipeline = load_pipeline(described(documents, sink(documents), store=True))
    to_bag(pipeline).compute()
    assert run_local(pipeline).tasks_cached == 4


def test_a_data_frame_has_the_columns_of_the_parquet_sink(documents: Path) -> None:
    pipeline = load_pipeline(described(documents, sink(documents)))
    frame = to_dataframe(pipeline)
    assert list(frame.columns) == ["doc_id", "index", "title", "text"]
    assert frame.npartitions == 4
    found = frame.compute()
    assert found.to_dict("records") == [vars(one) for one in to_bag(pipeline).compute()]
    assert str(found.dtypes["index"]) == "int64[pyarrow]"
    longest = frame.groupby("doc_id")["index"].max().compute()
    assert longest.max() == max(one.index for one in to_bag(pipeline).compute())


def test_answers_have_no_columns(documents: Path) -> None:
    count = {"type": "Combine", "name": "count", "lift": "count_words", "monoid": "sum"}
    with pytest.raises(BackendError, match="what count gives has no columns"):
        to_dataframe(load_pipeline(described(documents, count)))


def test_without_a_source_there_is_nothing_to_compile(documents: Path) -> None:
    mapping = described(documents)
    del mapping["source"]
    with pytest.raises(PipelineError, match="FP103"):
        to_bag(load_pipeline(mapping))


def test_a_failing_record_under_fail_fast_fails_the_computation(documents: Path) -> None:
    mapping = described(documents)
    mapping["operators"][0]["error_policy"] = "fail_fast"
    with pytest.raises(Exception, match="only 0 characters of text"):
        to_bag(load_pipeline(mapping)).compute()


def test_on_a_cluster_of_processes_the_bag_is_the_same(documents: Path) -> None:
    code = (
        "import sys; from distributed import Client; from funcpipe_prefect import load_pipeline, to_bag\n"
        "from tests.contract.test_collections import described\n"
        "from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        f"    pipeline = load_pipeline(described(Path({str(documents)!r}), store=True))\n"
        "    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None):\n"
        "        print(len(to_bag(pipeline).compute()), to_bag(pipeline).count().compute())\n"
    )
    script = documents.parent / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=ROOT, timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "DASK_LOGGING__DISTRIBUTED": "error"},
    )  # fmt: skip
    expected = run_local(load_pipeline(described(documents))).records_out
    assert done.stdout.split() == [str(expected)] * 2, done.stderr[-2000:]


def test_a_missing_engine_is_named_with_its_extra() -> None:
    code = (
        "import sys; sys.modules['dask'] = None\n"
        "import funcpipe_prefect\n"
        "try:\n    funcpipe_prefect.to_bag\nexcept funcpipe_prefect.BackendError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert 'pip install "funcpipe-prefect[dask]"' in done.stdout, done.stderr

"""Real abstracts and really messy files, on one core, on Dask and on Beam."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import RunReport, load_pipeline, run_local
from tests.conftest import BEAM_MODES
from tests.contract.test_backends import content, engine


def rag(folder: Path, source: dict[str, Any]) -> dict[str, Any]:
    return {
        "imports": ["funcpipe_prefect.examples.rag"],
        "source": {"record": "RawDoc", **source},
        "operators": [
            {"type": "Map", "name": "clean", "func": "clean_doc", "error_policy": "drop"},
            {"type": "FlatMap", "name": "chunk", "func": "chunk_doc", "params": {"size": 512, "overlap": 64}},
            {"type": "BatchMap", "name": "embed", "func": "hash_batch", "max_batch_size": 128},
            {"type": "Sink", "name": "write", "func": "parquet", "contract": {"idempotent": True},
             "params": {"path": str(folder / "out"), "float_type": "float32"}},
        ],
        "cache": {"storage": str(folder / "store")},
        "errors": {"path": str(folder / "letters")},
    }  # fmt: skip


def adds_up(report: RunReport) -> None:
    before = report.records_in
    for counts in report.operators:
        assert counts.records_in == before
        assert counts.records_in == counts.passed + counts.dropped + counts.errors
        before = counts.records_out
    assert before == report.records_out


@pytest.mark.slow
def test_abstracts_give_one_digest_for_any_splits_and_batches(arxiv: Path, tmp_path: Path) -> None:
    mapping = rag(tmp_path, {"type": "jsonl", "path": str(arxiv)})
    reports = [
        run_local(
            load_pipeline(
                mapping, overrides={"source.splits": splits, "operators.embed.max_batch_size": size}
            )
        )
        for splits, size in [(1, 1), (3, 7), (32, 128)]
    ]
    assert [report.splits for report in reports] == [1, 3, 32]
    assert len({report.digest for report in reports}) == 1
    assert len({report.operators for report in reports}) == 1
    assert reports[0].records_in == 19_640
    for report in reports:
        adds_up(report)


def summed(folder: Path, source: dict[str, Any]) -> dict[str, Any]:
    """The same with a word count in place of the embedding, and stored chunks: two stages that cost little."""
    mapping = rag(folder, source)
    mapping["imports"].append("tests.registries.abstracts")
    mapping["operators"][2] = {"type": "BatchMap", "name": "sum_up", "func": "sum_up", "max_batch_size": 128}
    mapping["operators"][3]["params"] = {"path": str(folder / "out")}
    return {**mapping, "materialization_points": ["chunk"]}


def assert_as_on_one_core(folder: Path, mapping: dict[str, Any], backend: str, given: dict[str, Any]) -> None:
    """Run on a backend and on one core, with nothing shared: the same counts, digest and bytes."""
    from funcpipe_prefect import run_pipeline

    report = run_pipeline(mapping, backend=backend, overrides=given)
    elsewhere = {"cache.storage": str(folder / "store2"), "errors.path": str(folder / "letters2")}
    local = run_local(load_pipeline(mapping, output=str(folder / "local"), overrides=elsewhere))
    assert (report.digest, report.operators) == (local.digest, local.operators)
    assert content(folder / "out") == content(folder / "local") != {}
    assert content(folder / "letters") == content(folder / "letters2")


@pytest.mark.prefect
@pytest.mark.parametrize("name", ["dask", *BEAM_MODES])
def test_abstracts_give_the_digest_and_bytes_of_one_core(
    arxiv: Path, tmp_path: Path, prefect_api: str, name: str, request: pytest.FixtureRequest
) -> None:
    make = rag if name == "dask" else summed
    mapping = make(tmp_path, {"type": "jsonl", "path": str(arxiv), "splits": 32})
    assert_as_on_one_core(tmp_path, mapping, *engine(name, request))


@pytest.mark.parametrize("undecodable", ["collect", "replace"])
def test_messy_files_are_all_accounted_for(shared_data: Path, tmp_path: Path, undecodable: str) -> None:
    messy = shared_data / "messy"
    source = {"type": "text", "path": f"{messy}/**", "undecodable": undecodable}
    report = run_local(load_pipeline(rag(tmp_path, source)))
    assert report.records_in == sum(path.is_file() for path in messy.rglob("*"))
    adds_up(report)
    source_counts = report.operators[0]
    assert (source_counts.errors > 50) == (undecodable == "collect")
    letters = [
        line for part in (tmp_path / "letters").glob("part-*") for line in part.read_bytes().splitlines()
    ]
    assert len(letters) == report.errors
    assert all("record" in json.loads(letter) for letter in letters)


@pytest.mark.prefect
@pytest.mark.parametrize("name", ["dask", "beam"])
def test_messy_files_give_the_digest_and_bytes_of_one_core(
    shared_data: Path, tmp_path: Path, prefect_api: str, name: str, request: pytest.FixtureRequest
) -> None:
    mapping = rag(tmp_path, {"type": "text", "path": f"{shared_data / 'messy'}/**"})
    assert_as_on_one_core(tmp_path, mapping, *engine(name, request))


@pytest.mark.parametrize(
    "name", ["arxiv_edgecases.jsonl", "arxiv_revisions.jsonl", "arxiv_stream_with_dups.jsonl"]
)
def test_problem_documents_are_all_accounted_for(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = shared_data / name
    report = run_local(load_pipeline(rag(tmp_path, {"type": "jsonl", "path": str(path), "splits": 5})))
    assert report.records_in == sum(1 for line in path.open("rb"))
    assert report.errors == 0
    adds_up(report)

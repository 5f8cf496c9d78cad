"""Blocks: registered by the command, saved on a real server, used by pipeline files and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from funcpipe_prefect import (
    BeamRunnerConfig,
    DaskClusterConfig,
    FuncPipeline,
    PartitionStorage,
    PipelineError,
    load_pipeline,
    run_pipeline,
)
from tests.conftest import ROOT
from tests.contract.test_backends import LINES, spec

pytestmark = pytest.mark.prefect


@pytest.fixture
def name(prefect_api: str) -> str:
    return f"b-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def mapping(tmp_path: Path) -> dict[str, Any]:
    rows = (json.dumps({"id": index, "text": text}) for index, text in enumerate(LINES))
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    return spec(tmp_path, materialization_points=["words"])


def saved(block: Any, name: str) -> None:
    block.save(name, overwrite=True, _sync=True)


def test_the_types_are_registered_by_the_command(prefect_api: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "block", "register", "-m", "funcpipe_prefect"],
        env={**os.environ, "PREFECT_API_URL": prefect_api, "COLUMNS": "200"}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "registered 4 blocks" in done.stdout
    for kind in ("Func Pipeline", "Dask Cluster Config", "Beam Runner Config", "Partition Storage"):
        assert kind in done.stdout


def test_sections_are_filled_in_and_the_file_comes_first(
    mapping: dict[str, Any], name: str, tmp_path: Path
) -> None:
    saved(DaskClusterConfig(workers=3, memory_limit="1GiB", cluster_kwargs={"silence_logs": 40}), name)
    saved(BeamRunnerConfig(runner="DirectRunner", options={"direct_num_workers": 2}), name)
    saved(PartitionStorage(storage=str(tmp_path / "kept"), expires="7d"), name)
    mapping["resources"] = {"block": name, "workers": 5}
    mapping["beam"] = {"block": name}
    mapping["cache"] = {"block": name}
    built = load_pipeline(mapping)
    assert (built.resources.workers, built.resources.memory_limit) == (5, 2**30)
    assert dict(built.resources.cluster_kwargs) == {"silence_logs": 40}
    assert (built.beam.runner, dict(built.beam.options)) == ("DirectRunner", {"direct_num_workers": 2})
    assert (built.storage, built.expires_s) == (str(tmp_path / "kept"), 7 * 86_400)
    over = load_pipeline(mapping, overrides={"resources.workers": 1})
    assert over.resources.workers == 1


def test_a_run_on_a_cluster_that_a_block_names(
    mapping: dict[str, Any], name: str, dask_address: str, tmp_path: Path
) -> None:
    saved(DaskClusterConfig(address=dask_address), name)
    saved(PartitionStorage(storage=str(tmp_path / "kept")), name)
    mapping |= {"resources": {"block": name}, "cache": {"block": name}}
    report = run_pipeline(mapping, backend="dask")
    assert report.records_in == len(LINES)
    assert (tmp_path / "kept" / "partitions").is_dir()


def test_a_stored_pipeline_is_run_by_its_name(mapping: dict[str, Any], name: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(mapping))
    saved(FuncPipeline.from_file(path), name)
    path.unlink()
    report = run_pipeline(f"func-pipeline/{name}", output=str(tmp_path / "elsewhere"))
    assert report.output == str(tmp_path / "elsewhere")
    loaded: Any = FuncPipeline.load(name, _sync=True)
    assert loaded.load_pipeline(overrides={"source.splits": 1}).name == mapping["name"]
    path.write_text("operators: []")
    with pytest.raises(PipelineError):
        FuncPipeline.from_file(path)


def test_a_block_that_is_not_there_is_one_located_problem(mapping: dict[str, Any], name: str) -> None:
    mapping["resources"] = {"block": name}
    with pytest.raises(PipelineError, match=r"FP506 unknown block .*\$\.resources\.block"):
        load_pipeline(mapping)
    mapping["resources"] = {"block": 3}
    with pytest.raises(PipelineError, match=r"FP104 wrong value .*\$\.resources\.block"):
        load_pipeline(mapping)
    with pytest.raises(PipelineError, match=r"func-pipeline/nothing"):
        run_pipeline("func-pipeline/nothing")

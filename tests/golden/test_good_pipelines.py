"""Pipeline files that must build as they are."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import run_local
from funcpipe_prefect.builder import load_pipeline
from funcpipe_prefect.ir import BatchMap, FlatMap, Map, Pipeline, Sink, Split
from funcpipe_prefect.plan import lower, plan_run

GOOD = Path(__file__).parent / "good"


def built(module: str, **given: Any) -> Pipeline:
    registry = importlib.import_module(module).registry
    return load_pipeline(GOOD / "issue_example.yaml", registry, **given)


@pytest.mark.parametrize("module", ["golden_docs", "golden_untyped"])
def test_the_example_builds_unchanged(module: str, registries: Path) -> None:
    pipeline = built(module)
    assert [type(operator) for operator in pipeline.operators] == [Map, FlatMap, BatchMap, Sink]
    assert [operator.name for operator in pipeline.operators] == ["clean", "chunk", "embed", "write"]
    assert [operator.error_policy for operator in pipeline.operators] == [
        "drop",
        "collect",
        "drop",
        "collect",
    ]
    assert pipeline.name == "issue_example"
    assert pipeline.backend == "dask"
    assert pipeline.resources.workers == 2
    assert pipeline.materialization_points == ("chunk",)
    assert pipeline.source is None
    assert [stage.name for stage in lower(pipeline)] == ["clean+chunk", "embed+write"]


def test_annotated_functions_give_the_example_its_types(registries: Path) -> None:
    types = [operator.in_type for operator in built("golden_docs").operators]
    assert [tp.__name__ for tp in types] == ["RawDoc", "CleanDoc", "Chunk", "EmbeddedChunk"]


def test_types_known_by_name_only_are_plain_values(registries: Path) -> None:
    pipeline = built("golden_untyped")
    assert {operator.in_type for operator in pipeline.operators} == {Any}
    assert pipeline.record_type is Any


@pytest.mark.parametrize("module", ["golden_docs", "golden_untyped"])
def test_the_example_runs(module: str, registries: Path, tmp_path: Path) -> None:
    records = [{"doc_id": str(number), "text": f" some text {number} \n" * 3} for number in range(5)]
    pipeline = built(module, input=records, overrides={"cache.storage": str(tmp_path / "store"),
                                                       "errors.path": str(tmp_path / "letters")})  # fmt: skip
    report = run_local(pipeline)
    assert report.records_in == 5
    assert report.errors == 0
    assert report.records_out >= 5


def test_a_parameterised_type_may_be_known_by_name_only(registries: Path) -> None:
    registry = importlib.import_module("golden_untyped").registry
    pipeline = load_pipeline(
        {
            "operators": [
                {"type": "Map", "name": "a", "func": "clean_doc", "out_type": "FPResult[list[RawDoc]]"},
                {"type": "Map", "name": "b", "func": "clean_doc", "in_type": "list[RawDoc]"},
            ]
        },
        registry,
    )
    assert [operator.name for operator in pipeline.operators] == ["a", "b"]


def test_a_key_without_a_value_is_as_if_left_out(registries: Path) -> None:
    registry = importlib.import_module("golden_docs").registry
    empty = dict.fromkeys(("name", "imports", "source", "backend", "resources", "materialization_points",
                           "retries", "errors", "cache"))  # fmt: skip
    operator = {"type": "Map", "name": "clean", "func": "clean_doc"}
    nulls = dict.fromkeys(("error_policy", "in_type", "out_type", "params", "transient"))
    assert load_pipeline({**empty, "operators": [{**operator, **nulls}]}, registry) == load_pipeline(
        {"operators": [operator]}, registry
    )


THREE_TERMINALS = """\
0 clean+unique group <- source on 5
1 unique.merge store <- 0 on 5
2 chunk store <- 1 on 5
3 write write <- 2 on 5
4 count group <- 2 on 5
5 count.merge group <- 4 on 3
6 count.merge group <- 5 on 2
7 count.merge answer <- 6 on 1
8 documents write <- 1 on 5
"""


def test_a_graph_with_three_terminals_runs_every_stage_once(registries: Path) -> None:
    registry = importlib.import_module("golden_docs").registry
    pipeline = load_pipeline(GOOD / "three_terminals.yaml", registry)
    plan = plan_run(pipeline, [Split(f"part-{number}", "docs", number, number + 1) for number in range(5)])
    lines = []
    for stage in plan.stages:
        before = stage.upstream if stage.upstream is not None else stage.feeder
        read = "source" if before is None else before
        count = len(plan.lanes[stage.lane].tasks)
        lines.append(f"{stage.index} {stage.name} {stage.kind} <- {read} on {count}\n")
    assert "".join(lines) == THREE_TERMINALS
    halves = [node.name for stage in plan.stages for node in (*stage.operators, stage.terminal) if node]
    assert {name: halves.count(name) for name in halves} == {
        "clean": 1, "unique": 1, "chunk": 1, "write": 1, "documents": 1, "count": 3,  # a tree of three levels
    }  # fmt: skip
    keys = [task.keys[index] for lane in plan.lanes for task in lane.tasks for index in lane.stages]
    assert len(keys) == len(set(keys)) == plan.size() == len(plan.needed)


def test_the_order_in_the_file_does_not_matter(registries: Path) -> None:
    registry = importlib.import_module("golden_docs").registry
    mapping = {
        "operators": [
            {"type": "FlatMap", "name": "chunk", "func": "chunk_doc", "input": "clean"},
            {"type": "Map", "name": "clean", "func": "clean_doc", "input": "source"},
        ]
    }
    pipeline = load_pipeline(mapping, registry)
    assert [operator.name for operator in pipeline.operators] == ["clean", "chunk"]
    assert [stage.name for stage in lower(pipeline)] == ["clean+chunk"]

"""Whatever a pipeline file holds, it is refused with located problems: never a traceback, a hang or code run."""

from __future__ import annotations

import contextlib
import copy
import importlib
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from funcpipe_prefect.builder import load_pipeline
from funcpipe_prefect.cli import main
from funcpipe_prefect.errors import PipelineError

VALID: dict[str, Any] = {
    "name": "docs",
    "imports": ["golden_docs"],
    "source": {"type": "jsonl", "path": "docs/*.jsonl", "record": "RawDoc", "split_size": "16MiB"},
    "operators": [
        {"type": "Map", "name": "clean", "func": "clean_doc", "error_policy": "drop", "in_type": "FPResult[RawDoc]"},
        {"type": "FlatMap", "name": "chunk", "func": "chunk_doc", "params": {"size": 512}, "transient": ["OSError"]},
        {"type": "BatchMap", "name": "embed", "func": "embed_batch", "max_batch_size": 128},
        {"type": "Sink", "name": "write", "func": "parquet", "contract": {"idempotent": True}, "params": {"path": "out"}},
    ],
    "backend": "local",
    "resources": {"workers": 2, "threads_per_worker": 1, "memory_limit": "2GiB"},
    "materialization_points": ["chunk"],
    "retries": {"transform": 2, "sink": 5, "delay_seconds": [1, 10]},
    "errors": {"path": "letters", "max_error_rate": 0.5},
    "cache": {"storage": "store"},
}  # fmt: skip


def problems_of(source: Any, **given: Any) -> tuple[Any, ...]:
    with pytest.raises(PipelineError) as caught:
        load_pipeline(source, **given)
    problems = caught.value.problems
    assert problems
    for problem in problems:
        for text in (problem.found, problem.allowed, problem.mend, problem.place.path, problem.title):
            assert text
            assert text.isprintable()
            assert "pydantic" not in text
            assert "Input should" not in text
    assert len(set(problems)) == len(problems)
    return problems


HOSTILE = {
    "brackets": b"[" * 1_000_000,
    "braces": b"{" * 1_000_000,
    "dashes": b"- " * 500_000,
    "questions": b"? " * 500_000,
    "colons": b": " * 500_000,
    "many keys": b"".join(b"k%d: 1\n" % number for number in range(60_000)),
    "one key again and again": b"a: 1\n" * 100_000,
    "long key": b"a" * 1_000_000 + b": 1\n",
    "long name": b"name: " + b"a" * 1_000_000 + b"\n",
    "long number": b"resources: {workers: " + b"9" * 900_000 + b"}\n",
    "long sexagesimal": b"resources: {workers: 1" + b":1" * 400_000 + b"}\n",
    "laughs": b"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\noperators: *c\n",
    "python object": b"!!python/object/apply:os.system ['touch hacked']\n",
    "tag in a list": b"operators: [!!python/name:os.system '', !foo bar]\n",
    "alias without anchor": b"operators: *nothing\n",
    "alias as key": b"a: &a b\n*a : c\n",
    "anchored key": b"&k operators: []\n",
    "null bytes": b"operators:\x00 []\n",
    "windows newlines": b"operators:\r\n  - type: Map\r\n    name: a\r\n",
    "old newlines": b"operators:\r  - type: Map\r    name: a\r",
    "unicode": "operators:\n  - {type: Map, name: naïve, func: 清理, in_type: Ünïcode}\n名: 1\n".encode(),
    "direction marks": b'operators: [{type: Map, name: "a\\u202eb", func: "\\u202e"}]\n',
    "surrogate key": b'"\\ud800": 1\noperators: []\n',
    "byte order mark": b"\xef\xbb\xbfoperators: []\n",
    "directive": b"%YAML 9.9\n---\noperators: []\n",
    "unknown directive": b"%FOO bar\n---\noperators: []\n",
    "empty key": b": x\n",
    "null key": b"~: x\noperators: []\n",
    "block scalar": b"operators: |\n  - type: Map\n",
    "date": b"operators: 2024-01-01\n",
    "binary": b"operators: !!binary aGVsbG8=\n",
    "equals": b"operators: =\n",
    "nan": b"operators: [.nan]\nerrors: {max_error_rate: .nan}\n",
    "tag that nests": b"operators: [{type: Map, name: a, func: b, in_type: '" + b"list[" * 300 + b"'}]\n",
    "tag of many parts": b"operators: [{type: Map, name: a, func: b, in_type: '" + b"a|" * 100_000 + b"a'}]\n",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_good_time(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hostile.yaml"
    path.write_bytes(HOSTILE[name])
    started = time.monotonic()
    problems_of(path)
    assert time.monotonic() - started < 20
    assert list(tmp_path.iterdir()) == [path]


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "random.yaml"
    for seed in range(300):
        source = random.Random(seed)
        alphabet = bytes(range(256)) if seed % 2 else b"[]{}:,-?&*!|>'\"%@` \n\tab1#"
        path.write_bytes(bytes(source.choices(alphabet, k=source.randrange(1, 200))))
        problems_of(path)


@pytest.mark.parametrize("path", ["a\0b.yaml", "x" * 5000, "", "operators:\n  - type: Map\n", "/dev/zero"])
def test_a_path_that_is_no_file_is_refused(path: str) -> None:
    problems_of(path)


@pytest.mark.parametrize(
    "change",
    [
        {"operators": {"a": "b"}}, {"operators": [None]}, {"operators": ["Map"]}, {"operators": [[]]}, {"operators": 5},
        {"operators": [{}]}, {"operators": [{"type": None}]}, {"operators": [{"type": {}}]}, {"operators": "Map"},
        {"name": 5}, {"name": ""}, {"name": []}, {"source": 5}, {"source": []}, {"source": {"type": 5}},
        {"source": {"path": 5}}, {"source": {"type": "jsonl", "path": None}}, {"source": {}},
        {"imports": "golden_docs"}, {"imports": {"a": 1}}, {"imports": [None]}, {"imports": [5]}, {"imports": [".."]},
        {"imports": [""]}, {"imports": ["os; import sys"]}, {"imports": ["golden_docs.deeper"]},
        {"resources": 5}, {"resources": []}, {"resources": {"workers": True}}, {"resources": {"memory_limit": []}},
        {"resources": {"memory_limit": -5}}, {"resources": {"cluster_kwargs": 3}}, {"retries": 3}, {"retries": {"sink": 1.5}},
        {"retries": {"delay_seconds": {}}}, {"retries": {"delay_seconds": []}}, {"retries": {"delay_seconds": -1}},
        {"errors": 5}, {"errors": {"path": 5}}, {"errors": {"max_error_rate": True}}, {"cache": 5}, {"backend": None, "x": 1},
        {"materialization_points": "chunk"}, {"materialization_points": [None]}, {"materialization_points": [["chunk"]]},
        {1: "x"}, {("a",): 1}, {None: 1}, {"": 1}, {"operators": [{1: 2}]}, {"a\nb": 1},
    ],
)  # fmt: skip
def test_a_hostile_section_is_refused(change: dict[Any, Any], registries: Path) -> None:
    problems_of({**VALID, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"params": 3}, {"params": []}, {"params": {1: 2}}, {"params": {"size": object()}}, {"params": {"size": float("nan")}},
        {"params": {"size": {1, 2}}}, {"params": {"": 1}}, {"func": ""}, {"func": 5}, {"func": ["a"]}, {"name": None},
        {"name": "a\x1b[31m"}, {"in_type": 5}, {"in_type": ""}, {"in_type": "1"}, {"in_type": "None | None | 1"},
        {"in_type": "lambda: 0"}, {"in_type": "list[]"}, {"in_type": "FPResult"}, {"in_type": "FPResult[()]"},
        {"in_type": "CleanDoc[int]"}, {"in_type": "Union[int, 'x']"}, {"in_type": "Optional[int, str]"},
        {"in_type": "__import__('os').system('touch hacked')"}, {"in_type": "\ud800"}, {"in_type": "a" * 10_000},
        {"out_type": "RawDoc"}, {"transient": ["os.system"]}, {"transient": ["."]}, {"transient": [".."]},
        {"transient": [".a.b"]}, {"transient": [""]}, {"transient": ["golden_raises.Error"]}, {"transient": "OSError"},
        {"transient": ["KeyboardInterrupt"]}, {"transient": ["int"]}, {"contract": True}, {"max_batch_size": 5},
        {"error_policy": ["drop"]}, {"error_policy": True}, {"type": ["FlatMap"]}, {"type": "flatmap"},
    ],
)  # fmt: skip
def test_a_hostile_operator_is_refused(
    change: dict[Any, Any], registries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = copy.deepcopy(VALID)
    spec["operators"][1].update(change)
    problems_of(spec)
    assert list(tmp_path.iterdir()) == []


def test_a_mapping_that_holds_itself_is_refused(registries: Path) -> None:
    spec = copy.deepcopy(VALID)
    spec["source"]["self"] = spec
    assert problems_of(spec)[0].code == "FP112"


def test_a_value_that_cannot_be_copied_is_no_crash(registries: Path) -> None:
    spec = copy.deepcopy(VALID)
    spec["resources"]["workers"] = (number for number in range(3))
    problems_of(spec)


def test_naming_an_exception_imports_no_module_that_is_not_admitted(
    registries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_FUNCPIPE_ALLOWED_IMPORTS", "golden_docs")
    spec = copy.deepcopy(VALID)
    spec["operators"][1]["transient"] = ["golden_untyped.Error"]
    assert [problem.code for problem in problems_of(spec)] == ["FP114"]
    assert "golden_untyped" not in sys.modules
    spec["operators"][1]["transient"] = ["json.JSONDecodeError", "golden_docs.RuntimeError"]
    assert [problem.code for problem in problems_of(spec)] == ["FP104"]


def test_problems_of_a_mapping_come_in_its_order(registries: Path) -> None:
    spec = copy.deepcopy(VALID)
    spec["imports"] = ["golden_docs", "no_such_module"]
    spec["source"]["typo"] = 1
    spec["operators"][0]["func"] = "clean_dok"
    spec["operators"][1]["error_policy"] = "ignore"
    spec["operators"][3]["contract"] = {"idempotent": False}
    spec["resources"]["wokers"] = 1
    spec["materialization_points"] = ["chnk"]
    assert [problem.place.path for problem in problems_of(spec)] == [
        "$.imports[1]",
        "$.source.typo",
        "$.operators[0].func",
        "$.operators[1].error_policy",
        "$.operators[3].contract",
        "$.resources.wokers",
        "$.materialization_points[0]",
    ]


@pytest.mark.parametrize(
    ("key", "value", "code", "path"),
    [
        ("resources", {"workers": 0}, "FP104", "$.resources.workers"),
        ("resources.workers", 0, "FP104", "$.resources.workers"),
        ("operators.embed.max_batch_size", 0, "FP104", "$.operators[2].max_batch_size"),
        ("operators[2].max_batch_size", 0, "FP104", "$.operators[2].max_batch_size"),
        ("operators.embed", 5, "FP104", "$.operators[2]"),
        ("operators.embd.max_batch_size", 1, "FP121", "$"),
        ("operators.99.name", 1, "FP121", "$"),
        ("operators.².name", 1, "FP121", "$"),
        ("name.first", 1, "FP121", "$"),
        ("resources..workers", 1, "FP101", "$.resources."),
        ("", 1, "FP101", "$."),
    ],
)
def test_a_wrong_override_is_placed_at_the_option(
    key: str, value: Any, code: str, path: str, registries: Path, tmp_path: Path
) -> None:
    file = tmp_path / "docs.yaml"
    file.write_text(
        "imports: [golden_docs]\nname: docs\noperators:\n"
        "  - {type: Map, name: clean, func: clean_doc}\n  - {type: FlatMap, name: chunk, func: chunk_doc}\n"
        "  - {type: BatchMap, name: embed, func: embed_batch, max_batch_size: 5}\nresources: {workers: 1}\n"
    )
    (problem,) = problems_of(file, overrides={key: value})
    assert (problem.code, problem.place.file, problem.place.path) == (code, f"--set {key}", path)


def test_an_override_replaces_what_was_wrong(registries: Path, tmp_path: Path) -> None:
    file = tmp_path / "docs.yaml"
    file.write_text(
        "imports: [golden_docs]\noperators: [{type: Map, name: clean, func: clean_doc}]\n"
        "resources:\n  workers: ${GOLDEN_WORKERS}\n"
    )
    assert problems_of(file)[0].code == "FP108"
    assert load_pipeline(file, overrides={"resources.workers": 3}).resources.workers == 3


def test_the_command_escapes_what_a_terminal_would_obey(
    registries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "docs.yaml"
    file.write_text('"\\e]0;title\\a": 1\nname: "[bold]x[/]"\noperators: [{type: "\\e[2J"}]\n')
    with pytest.raises(SystemExit):
        main(["validate", str(file)])
    printed = capsys.readouterr().err
    assert "\x1b" not in printed
    assert "\x07" not in printed
    assert "[bold]x[/]" in printed


def _paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
    return [path, *(found for step in steps for found in _paths(node[step], (*path, step)))]


def _mutated(spec: Any, path: tuple[Any, ...], change: Any) -> Any:
    *above, last = path
    node = spec
    for step in above:
        node = node[step] if isinstance(node, (dict, list)) and _has(node, step) else None
    if isinstance(node, (dict, list)) and _has(node, last):
        if change is DROP:
            del node[last]
        else:
            node[last] = change
    return spec


def _has(node: Any, step: Any) -> bool:
    return step in node if isinstance(node, dict) else isinstance(step, int) and step < len(node)


DROP = object()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["Map", "Sink", "Combine", "sum", "RawDoc", "FPResult[Chunk]", "jsonl", "${X}", "${X:-5}", "$${", "clean"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4) | st.sampled_from(["type", "name", "func", "path"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(_paths(VALID)[1:]), st.just(DROP) | json_values), min_size=1, max_size=3
    )
)
def test_any_change_builds_or_is_refused(
    registries: Path, changes: list[tuple[tuple[Any, ...], Any]]
) -> None:
    importlib.import_module("golden_docs")
    spec = copy.deepcopy(VALID)
    for path, change in changes:
        spec = _mutated(spec, path, copy.copy(change) if change is not DROP else DROP)
    with contextlib.suppress(PipelineError):
        load_pipeline(spec)

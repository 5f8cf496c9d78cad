"""The command line as a user types it: real processes, a real server where one is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import ROOT

FUNCPIPE = str(Path(sys.executable).with_name("funcpipe"))
KEYS = {
    "status", "backend", "records_in", "records_out", "dropped", "errors", "splits", "tasks_run", "tasks_cached",
    "output", "digest", "result", "elapsed_s",
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder: a registry module, a pipeline file, an input."""
    (tmp_path / "my_registry.py").write_text(
        "from dataclasses import dataclass\n"
        "from funcpipe_prefect import Registry\n"
        "registry = Registry()\n"
        "@dataclass\n"
        "class Doc:\n"
        "    id: int\n"
        "    text: str\n"
        "@registry.func\n"
        "def shout(doc: Doc) -> Doc:\n"
        "    if not doc.text:\n"
        "        raise ValueError('empty')\n"
        "    return Doc(doc.id, doc.text.upper())\n"
        "@registry.lift\n"
        "def words(doc: Doc) -> set[str]:\n"
        "    return set(doc.text.split())\n"
    )
    (tmp_path / "p.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "shouting",
                "imports": ["my_registry"],
                "operators": [
                    {"type": "Map", "name": "shout", "func": "shout"},
                    {
                        "type": "Sink",
                        "name": "write",
                        "func": "jsonl",
                        "contract": {"idempotent": True},
                        "params": {"path": "out"},
                    },
                ],
                "cache": {"storage": "store"},
            }
        )  # fmt: skip
    )
    rows = [{"id": index, "text": f"word {index % 5}" if index % 10 else ""} for index in range(100)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def funcpipe(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FUNCPIPE, *arguments],
        cwd=project,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_validate_plan_run_and_plan_again(project: Path) -> None:
    assert funcpipe(project, "validate", "p.yaml").returncode == 0
    arguments = ("p.yaml", "--input", "in.jsonl", "--set", "source.splits=4", "--json")
    before = last_line(funcpipe(project, "plan", *arguments))
    assert (before["splits"], before["tasks_to_run"], before["tasks_cached"]) == (4, 4, 0)
    assert not (project / "out").exists(), "planning writes nothing"
    done = funcpipe(project, "run", *arguments)
    report = last_line(done)
    assert done.returncode == 0
    assert report.keys() >= KEYS
    assert (report["records_in"], report["records_out"], report["errors"]) == (100, 90, 10)
    assert report["tasks_run"] == before["tasks_to_run"]
    after = last_line(funcpipe(project, "plan", *arguments))
    assert (after["tasks_to_run"], after["tasks_cached"]) == (0, 4)


def test_a_combine_puts_its_answer_into_the_json(project: Path) -> None:
    done = funcpipe(
        project, "run", "p.yaml", "--input", "in.jsonl", "--json",
        "--set", "operators.write={type: Combine, name: write, func: null}",
    )  # fmt: skip
    assert done.returncode == 2, "a mapping is merged into what is there, and a Combine takes no func"
    mapping = yaml.safe_load((project / "p.yaml").read_text())
    mapping["operators"][1] = {
        "type": "Combine",
        "name": "vocabulary",
        "lift": "words",
        "monoid": "set_union",
    }
    (project / "c.yaml").write_text(yaml.safe_dump(mapping))
    report = last_line(funcpipe(project, "run", "c.yaml", "--input", "in.jsonl", "--json"))
    assert report["result"] == ["0", "1", "2", "3", "4", "WORD"] or report["result"] == sorted(
        ["WORD", *"01234"]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "absent.yaml"), 2, "FP106 file cannot be read"),
        (("run", "p.yaml"), 2, "no source and no input"),
        (("run", "p.yaml", "--input", "absent.jsonl"), 2, "FP409 no file matches 'absent.jsonl'"),
        (("run", "p.yaml", "--backend", "spark"), 2, "FP122 command line"),
        (("run", "p.yaml", "--input"), 2, "FP122 command line"),
        (("run", "p.yaml", "--set", "nonsense"), 2, "FP121 override is not key=value"),
        (("run", "p.yaml", "--set", "operators.nobody.func=x"), 2, "FP121 override leads nowhere"),
        (("run", "p.yaml", "--set", "resources.workers=[1"), 2, "FP105 YAML syntax"),
        (("run", "p.yaml", "--set", "resources.workers=none"), 2, "--set resources.workers"),
        (("fly",), 2, "FP122 command line"),
        (("run", "p.yaml", "--input", "in.jsonl", "--set", "operators.shout.error_policy=fail_fast"), 1, "FP401 shout: ValueError: empty"),
        (("run", "p.yaml", "--input", "in.jsonl", "--set", "errors.max_error_rate=0.05"), 1, "10.00%"),
        (("run", "p.yaml", "--input", "in.jsonl", "--backend", "beam", "--set", "beam.runner=FlinkRuner"), 2, "FP503 unknown runner --set beam.runner"),
        (("run", "p.yaml", "--input", "in.jsonl", "--backend", "beam", "--set", "beam.options.direct_num_workrs=2"), 2, 'did you mean "direct_num_workers"?'),
        (("validate", "p.yaml", "--set", "backend=beam", "--set", "beam.options={direct_running_mode: fast}"), 2, "in_memory, multi_threading, multi_processing"),
    ],
)  # fmt: skip
def test_each_failure_has_its_exit_code_and_one_clear_line(
    project: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = funcpipe(project, *arguments)
    assert done.returncode == code
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr + done.stdout
    assert not (project / "out" / "_manifest.json").exists()


def test_a_failed_run_still_prints_its_json(project: Path) -> None:
    done = funcpipe(
        project, "run", "p.yaml", "--input", "in.jsonl", "--json", "--set", "errors.max_error_rate=0"
    )
    report = last_line(done)
    assert (done.returncode, report["status"]) == (1, "failed")
    assert report.keys() >= KEYS


def test_schema_is_a_json_schema_that_admits_the_example(project: Path) -> None:
    import jsonschema

    schema = json.loads(funcpipe(project, "schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in [project / "p.yaml", *(ROOT / "flows" / "pipelines").glob("*.yaml")]:
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"operators": [{"type": "Map", "name": "x"}]}, schema)


@pytest.mark.prefect
def test_a_dask_run_brings_one_server_ends_it_and_says_the_same(project: Path, tmp_path: Path) -> None:
    environment = {"PREFECT_HOME": str(tmp_path / "home")}
    arguments = ("run", "p.yaml", "--input", "in.jsonl", "--set", "source.splits=3", "--json")
    process = subprocess.Popen(
        [FUNCPIPE, *arguments, "--backend", "dask"],
        cwd=project, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    servers: set[int] = set()
    family: dict[int, psutil.Process] = {}
    while process.poll() is None:
        try:
            for child in psutil.Process(process.pid).children(recursive=True):
                family[child.pid] = child
                if any("uvicorn" in word for word in child.cmdline()):
                    servers.add(child.pid)
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.05)
    output, notes = process.communicate()
    assert process.returncode == 0, notes[-2000:]
    report = json.loads(output.splitlines()[-1])
    assert len(servers) == 1, "one server for the flow and all its workers"
    _, alive = psutil.wait_procs(list(family.values()), timeout=10)
    assert not alive, "no process outlives the run"
    local = last_line(funcpipe(project, *arguments, "--backend", "local", "--output", "out_local"))
    assert (report["digest"], report["errors"]) == (local["digest"], local["errors"])
    written = {path.name: path.read_bytes() for path in (project / "out").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (project / "out_local").iterdir()}


@pytest.mark.prefect
@pytest.mark.parametrize("method", ["", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_that_start_early_know_what_is_set_for_the_project(
    project: Path, server_url: str, method: str
) -> None:
    (project / "told.py").write_text(
        "import multiprocessing, os\n"
        "from funcpipe_prefect import Registry\n"
        "registry = Registry()\n"
        "@registry.func(version='1')\n"
        "def told(record: dict) -> dict:\n"
        "    name = 'PREFECT_INTEGRATIONS_FUNCPIPE_MOST_EXPANSION'\n"
        "    return {'most': os.environ.get(name), 'how': type(multiprocessing.current_process()).__name__}\n"
    )
    (project / "prefect.toml").write_text("[integrations.funcpipe]\nmost_expansion = 7\n")
    (project / "told.yaml").write_text(yaml.safe_dump({
        "name": "told", "imports": ["told"],
        "source": {"type": "jsonl", "path": "in.jsonl"},
        "operators": [
            {"type": "Map", "name": "told", "func": "told"},
            {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
             "params": {"path": "told"}},
        ],
        "resources": {"workers": 1},
    }))  # fmt: skip
    environment = {"PREFECT_API_URL": server_url, "PYTHONPATH": f"{project}:{ROOT}"}
    if method:
        environment["DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD"] = method
    done = funcpipe(project, "run", "told.yaml", "--backend", "dask", "--json", **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    [part] = (project / "told").glob("part-*")
    assert {one["most"] for one in map(json.loads, part.read_text().splitlines())} == {"7.0"}
    how = {one["how"] for one in map(json.loads, part.read_text().splitlines())}
    assert how == {"SpawnProcess" if method else "ForkServerProcess"}


@pytest.mark.prefect
def test_the_demonstration_finds_texts_about_retrying(tmp_path: Path) -> None:
    """The main job on one real package, by the pipeline that `make run` uses."""
    from funcpipe_prefect.examples.search import search

    done = funcpipe(
        ROOT, "run", "flows/pipelines/packages_rag.yaml", "--backend", "local", "--output", str(tmp_path / "out"),
        "--set", "source.names=[tenacity, dask]", "--set", f"cache.storage={tmp_path / 'store'}",
        "--set", f"errors.path={tmp_path / 'letters'}", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = last_line(done)
    assert report["splits"] == 2
    assert report["records_out"] > 50
    best = search(str(tmp_path / "out"), "retry a failed call", k=3)
    assert "tenacity" in best[0].doc_id
    assert "retr" in best[0].text.lower()

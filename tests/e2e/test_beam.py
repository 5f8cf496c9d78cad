"""What a user sees of the Beam backend in Prefect and on the command line."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from funcpipe_prefect.errors import PipelineError
from tests.conftest import IN_MEMORY, PROCESSES, ROOT
from tests.contract.test_backends import LINES, content, spec
from tests.e2e.test_prefect import latest

pytestmark = pytest.mark.prefect


@pytest.fixture
def mapping(tmp_path: Path) -> dict[str, Any]:
    rows = (json.dumps({"id": index, "text": text}) for index, text in enumerate(LINES))
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    return spec(tmp_path, name=f"beam-{uuid.uuid4().hex[:8]}", materialization_points=["words"])


def run(mapping: dict[str, Any], given: dict[str, Any] = IN_MEMORY, **options: Any) -> Any:
    from funcpipe_prefect import run_pipeline

    return run_pipeline(mapping, **{"backend": "beam", "overrides": given, **options})


def test_each_stage_is_one_task_run_and_a_second_run_has_them_cached(
    mapping: dict[str, Any], prefect_api: str, tmp_path: Path
) -> None:
    first = run(mapping)
    flow_run, task_runs = latest(mapping["name"])
    assert flow_run.state.is_completed()
    assert sorted(task_runs) == ["commit", "score+write", "tidy+words"]
    again = run(mapping, output=str(tmp_path / "elsewhere"))
    _, task_runs = latest(mapping["name"])
    assert task_runs["tidy+words"].state.name == "Cached"
    assert task_runs["score+write"].state.name == "Completed"
    assert (again.digest, again.tasks_run, again.tasks_cached) == (first.digest, 3, 3)


@pytest.mark.parametrize(("one", "other"), [("dask", "beam"), ("beam", "dask")])
def test_a_pipeline_that_changes_its_backend_computes_nothing_again(
    mapping: dict[str, Any], prefect_api: str, dask_address: str, one: str, other: str, tmp_path: Path
) -> None:
    given = {**IN_MEMORY, "resources.address": dask_address}
    first = run(mapping, given, backend=one)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.fpp")}
    second = run(mapping, given, backend=other)
    assert (second.tasks_run, second.tasks_cached, second.digest) == (0, 6, first.digest)
    elsewhere = run(mapping, given, backend=other, output=str(tmp_path / "elsewhere"))
    assert (elsewhere.tasks_run, elsewhere.tasks_cached) == (3, 3), "the stored partitions are taken over"
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert content(tmp_path / "elsewhere") == content(tmp_path / "out")


def logs_of(flow_run_id: Any) -> list[tuple[int, str]]:
    import time

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    end = time.monotonic() + 20
    with get_client(sync_client=True) as client:
        while True:  # logs are sent in batches
            only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
            found = [(log.level, log.message) for log in client.read_logs(log_filter=only, limit=200)]
            if any("digest" in message for _, message in found) or time.monotonic() > end:
                return found
            time.sleep(0.2)


@pytest.mark.parametrize("given", [IN_MEMORY, PROCESSES], ids=["in_memory", "processes"])
def test_what_functions_log_and_what_beam_counts_is_in_the_log_of_the_run(
    mapping: dict[str, Any], prefect_api: str, given: dict[str, Any]
) -> None:
    mapping["operators"][0]["func"] = "telling"
    run(mapping, given)
    flow_run, _ = latest(mapping["name"])
    logs = logs_of(flow_run.id)
    warned = [message for level, message in logs if level == logging.WARNING]
    assert any("line 7 is worth a warning" in message for message in warned)
    assert not any("apitools" in message or "semi_persistent" in message for _, message in logs)
    told = [message for level, message in logs if level == logging.INFO]
    assert any("line 7 is printed" in message for message in told)
    assert "source: 320 in, 320 out, 0 dropped, 0 errors" in told
    assert any(message.startswith("Beam job") and message.endswith("DONE") for message in told)


def test_wrong_options_are_all_located_before_anything_starts(
    mapping: dict[str, Any], prefect_api: str, tmp_path: Path
) -> None:
    mapping |= {
        "backend": "beam",
        "beam": {
            "runner": "PortableRuner",
            "options": {"job_endpont": "localhost:1", "sdk_worker_parallelism": 2, "job_name": "mine",
                        "direct_num_workers": "many", "pipeline_type_check": "perhaps"},
        },
    }  # fmt: skip
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(mapping, sort_keys=False))
    with pytest.raises(PipelineError) as refused:
        run(path)  # type: ignore[arg-type]
    problems = {problem.place.path: problem for problem in refused.value.problems}
    assert sorted(problems) == [
        "$.beam.options.direct_num_workers", "$.beam.options.job_endpont", "$.beam.options.job_name",
        "$.beam.options.pipeline_type_check", "$.beam.runner",
    ]  # fmt: skip
    assert problems["$.beam.runner"].mend == 'did you mean "PortableRunner"?'
    assert problems["$.beam.options.job_endpont"].mend == 'did you mean "job_endpoint"?'
    lines = path.read_text().splitlines()
    for place, problem in problems.items():
        assert place.rpartition(".")[2] in lines[problem.place.line - 1]
    assert not (tmp_path / "store").exists()


def test_a_run_without_the_beam_extra_says_which_extra_to_install(tmp_path: Path) -> None:
    (tmp_path / "no_beam.py").write_text(
        "import importlib.util, sys; real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'apache_beam' else real(name, *rest)\n"
        "import funcpipe_prefect.cli; funcpipe_prefect.cli.main()\n"
    )
    write = {"type": "Map", "name": "tidy", "func": "tidy"}
    (tmp_path / "p.yaml").write_text(
        yaml.safe_dump({"imports": ["tests.registries.words"], "operators": [write]})
    )
    (tmp_path / "in.jsonl").write_text('{"id": 1, "text": "a"}\n')
    done = subprocess.run(
        [sys.executable, str(tmp_path / "no_beam.py"), "run", str(tmp_path / "p.yaml"), "--backend", "beam",
         "--input", str(tmp_path / "in.jsonl")],
        capture_output=True, text=True, cwd=ROOT, timeout=120, env=None,
    )  # fmt: skip
    said = " ".join(done.stderr.split())
    assert done.returncode == 1
    assert said.endswith('FP501 the beam backend needs the extra beam: pip install "funcpipe-prefect[beam]"')
    assert "Traceback" not in done.stderr


def test_asking_for_a_ptransform_without_the_extra_says_which_one_to_install() -> None:
    code = (
        "import sys; sys.modules['apache_beam'] = None\n"
        "import funcpipe_prefect\n"
        "try:\n    funcpipe_prefect.to_ptransform\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("BackendError")
    assert 'pip install "funcpipe-prefect[beam]"' in done.stdout


def test_the_task_that_launches_a_pipeline_does_not_import_beam() -> None:
    code = (
        "import sys; import funcpipe_prefect.orchestration.beam_engine\n"
        "print([name for name in ('apache_beam', 'grpc') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "[]"

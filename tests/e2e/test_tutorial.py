"""The tutorial, as it is written: from an empty folder to a deployment that a worker has run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.prefect

GIVEN = {
    "pip install": "this checkout is installed",
    "prefect server start": "the tests have a server",
    "prefect config set PREFECT_API_URL": "its address is in the environment",
}


def commands() -> list[str]:
    """Give the commands of the page, in order."""
    text = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.strip().splitlines()]


@pytest.mark.slow
def test_someone_new_gets_from_an_empty_folder_to_a_deployment(prefect_api: str, tmp_path: Path) -> None:
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_API_URL": prefect_api,
        "PYTHONPATH": str(ROOT),
    }
    folder, said = tmp_path, {}
    for command in commands():
        if command.startswith(tuple(GIVEN)):
            continue
        if command.startswith("cd "):
            folder /= command[3:]
            continue
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=280,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        said[command] = done.stdout + done.stderr
    asked = [text for command, text in said.items() if command.startswith("python flows/my-docs.py")]
    assert "errors.md" in asked[0].partition("tasks cached")[2].split()[1]
    assert "own/tea.md" in asked[1].partition("tasks cached")[2].split()[1]
    assert re.search(r"\d+ passed", said["pytest -q"])
    assert "<svg" in (tmp_path / "my-docs" / "plan.html").read_text()
    assert _last_run_of("my-docs-adhoc") == "COMPLETED"
    assert _schedule_of("my-docs-nightly") == "15 2 * * *"


def _last_run_of(deployment: str) -> str:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    with get_client(sync_client=True) as client:
        wanted = DeploymentFilter(name=DeploymentFilterName(any_=[deployment]))
        runs = client.read_flow_runs(deployment_filter=wanted)
    return str(max(runs, key=lambda run: run.created).state_type.value)


def _schedule_of(deployment: str) -> str:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        [schedule] = client.read_deployment_by_name(f"funcpipe/{deployment}").schedules
    assert schedule.active
    return str(schedule.schedule.cron)


def test_the_page_says_nothing_that_is_not_tried() -> None:
    skipped = [command for command in commands() if command.startswith(tuple(GIVEN))]
    assert len(skipped) == len(GIVEN), "only what the tests bring themselves is left out"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["there"], "there and not empty"),
        (["Bad Name"], "the name 'bad name'"),
        (["new", "--name", "tests"], "as a folder of the project has"),
    ],
)
def test_a_folder_that_will_not_do_is_refused(tmp_path: Path, arguments: list[str], told: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-c", "from funcpipe_prefect.cli import main; main()", "init", *arguments],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert told in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "mine.txt"]


@pytest.mark.slow
def test_the_commands_of_the_readme_do_what_they_say(prefect_api: str, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    [pipeline] = [
        block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "name: arxiv-rag" in block
    ]
    [console] = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    (tmp_path / "rag.yaml").write_text(
        pipeline.replace("funcpipe_prefect.examples.rag", "tests.registries.quick_rag")
    )
    (tmp_path / "data" / "arxiv").mkdir(parents=True)
    rows = (
        {"doc_id": str(n), "title": f"Title {n}", "abstract": f"An abstract about {n} things. " * 9}
        for n in range(30)
    )
    (tmp_path / "data" / "arxiv" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_API_URL": prefect_api,
        "PYTHONPATH": str(ROOT),
    }
    digests = set()
    for command in (
        line.removeprefix("$ ").partition("#")[0].strip() for line in console.strip().splitlines()
    ):
        done = subprocess.run(
            command.split(),
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=280,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        digests |= set(re.findall(r"\b30-[0-9a-f]{64}|\b\d+-[0-9a-f]{64}", done.stdout + done.stderr))
    assert len(digests) == 1, "each backend gives the same"

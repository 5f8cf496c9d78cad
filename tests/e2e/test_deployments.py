"""Deployments as a user makes them: the documented commands, a real server, pool and worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.client.schemas.sorting import FlowRunSort

from tests.conftest import ROOT, ending

pytestmark = pytest.mark.prefect

T = TypeVar("T")
GATE = '''
import os, time
from pathlib import Path
from funcpipe_prefect import Registry

registry = Registry()

@registry.func
def pass_gate(row: dict, *, folder: str) -> dict:
    """Come in, say so, and stay until the gate opens."""
    (Path(folder) / f"inside-{os.getpid()}").touch()
    while not (Path(folder) / "open").exists():
        time.sleep(0.02)
    return row
'''


def eventually(what: str, look: Callable[[], T], timeout_s: float = 150) -> T:
    """Wait until something is found."""
    end = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < end, f"{what}: not within {timeout_s} s"
        time.sleep(0.1)
    return found


class Project:
    """A user's checkout: flows, deployments, a pipeline with a gate in it, and its commands."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PREFECT_API_URL": url,
            "PYTHONPATH": str(folder),
            "PWD": str(folder),
        }
        for part in ("flows", "deployments"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "gate.py").write_text(GATE)
        for name in ("rows", "monday"):
            (folder / f"{name}.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
        gated: dict[str, Any] = {
            "name": "gated", "imports": ["gate"], "backend": "local",
            "source": {"type": "jsonl", "path": "rows.jsonl"},
            "operators": [
                {"type": "Map", "name": "gate", "func": "pass_gate", "params": {"folder": str(folder)}},
                {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
                 "params": {"path": "out/gated"}},
            ],
            "cache": {"storage": "store"},
        }  # fmt: skip
        (folder / "gated.yaml").write_text(yaml.safe_dump(gated))

    def start(self, *arguments: str, log: str | None = None, **environment: str) -> subprocess.Popen[str]:
        output = (self.folder / log).open("w") if log else subprocess.PIPE
        try:
            return subprocess.Popen(
                arguments, cwd=self.folder, env={**self.environment, **environment}, text=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        finally:
            if log:
                output.close()  # type: ignore[union-attr]

    def prefect(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return self.start(sys.executable, "-m", "prefect", *arguments, **environment)

    @property
    def inside(self) -> list[int]:
        """Process ids that have come to the gate."""
        return sorted(int(path.name.partition("-")[2]) for path in self.folder.glob("inside-*"))


Answer: TypeAlias = tuple[int, dict[str, Any], str]


@pytest.fixture
def backfill(client: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """The command in this process, whose Prefect server is the session's."""
    from funcpipe_prefect.cli import main

    def run(*arguments: str) -> Answer:
        with pytest.raises(SystemExit) as exit_:
            main(["backfill", *arguments, "--json"])
        output, notes = capsys.readouterr()
        return int(exit_.value.code or 0), json.loads(output) if output else {}, notes

    return run


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, notes = process.communicate(timeout=120)
    return process.returncode, output + notes


@pytest.fixture(scope="module")
def project(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Deployed by the documented commands."""
    project = Project(tmp_path_factory.mktemp("project"), server_url)
    code, said = ended(project.prefect("work-pool", "create", "funcpipe", "--type", "process"))
    assert code == 0, said
    command = ("deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    code, said = ended(project.prefect(*command))
    assert code == 0, said
    return project


@pytest.fixture
def client(server_url: str) -> Iterator[Any]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server_url}), get_client(sync_client=True) as client:
        yield client


def runs_of(client: Any, name: str) -> list[Any]:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    chosen = DeploymentFilter(name=DeploymentFilterName(any_=[name]))
    found: list[Any] = client.read_flow_runs(deployment_filter=chosen)
    return found


def test_schedules_fire_in_their_time_zone_and_only_where_they_are_on(project: Project, client: Any) -> None:
    nightly = eventually("a nightly run", lambda: runs_of(client, "rag-nightly"))
    zone = ZoneInfo("Europe/Berlin")
    times = {run.expected_start_time.astimezone(zone).strftime("%H:%M") for run in nightly}
    assert times == {"02:15"}
    incremental = eventually("an incremental run", lambda: runs_of(client, "rag-incremental"))
    first, second, *_ = sorted(run.expected_start_time for run in incremental)
    assert (second - first).total_seconds() == 900
    weekly = eventually("a weekly run", lambda: runs_of(client, "rag-weekly-beam"))
    assert {run.expected_start_time.astimezone(zone).strftime("%a %H:%M") for run in weekly} == {"Sun 04:00"}
    assert not runs_of(client, "rag-adhoc")
    limits = {
        name: client.read_deployment_by_name(f"funcpipe/{name}")
        for name in ("rag-nightly", "rag-incremental")
    }
    assert {name: one.global_concurrency_limit.limit for name, one in limits.items()} == dict.fromkeys(
        limits, 1
    )


@pytest.fixture(scope="module")
def worker(project: Project, server_url: str) -> Iterator[None]:
    """A worker in a second terminal; the schedules rest, so that it runs what the tests ask for."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server_url}), get_client(sync_client=True) as client:
        for name in ("rag-nightly", "rag-incremental", "rag-weekly-beam"):
            deployment = client.read_deployment_by_name(f"funcpipe/{name}")
            for schedule in deployment.schedules:
                client.update_deployment_schedule(deployment.id, schedule.id, active=False)
            for run in runs_of(client, name):
                client.delete_flow_run(run.id)
    command = (sys.executable, "-m", "prefect", "worker", "start", "--pool", "funcpipe")
    with ending(project.start(*command, log="worker.log", PREFECT_WORKER_QUERY_SECONDS="1")):
        yield


@pytest.mark.slow
def test_runs_of_different_deployments_write_one_after_the_other(
    project: Project, worker: None, client: Any
) -> None:
    """And as the guide says: `prefect deployment run … --watch` tells by its exit code how it went."""
    run = ("deployment", "run", "--watch", "--watch-interval", "1")
    gated = ("--param", "pipeline=gated.yaml", "--param", "backend=local")
    writers = [
        project.prefect(*run, "funcpipe/rag-nightly", *gated, "--param", "refresh=true"),
        project.prefect(*run, "funcpipe/rag-adhoc", *gated, "--param", "refresh=true"),
    ]
    wrong = ("--param", 'overrides={"beam.runner": "FlinkRuner"}')
    failing = project.prefect(*run, "funcpipe/rag-weekly-beam", "--param", "pipeline=gated.yaml", *wrong)

    def both_run() -> bool:
        names = ("rag-nightly", "rag-adhoc")
        are_running = all(any(run.state.is_running() for run in runs_of(client, name)) for name in names)
        return are_running and bool(project.inside)

    eventually("both flow runs begin, and one of them writes", both_run)
    end = time.monotonic() + 5  # without a limit the second is inside within a second
    while time.monotonic() < end:
        assert len(project.inside) == 1, "the other one stays outside"
        time.sleep(0.1)
    (project.folder / "open").touch()
    for writer in writers:
        code, said = ended(writer)
        assert code == 0, said
    assert len(project.inside) == 2
    manifest = json.loads((project.folder / "out" / "gated" / "_manifest.json").read_text())
    assert sum(entry["part"]["records"] for entry in manifest["parts"]) == 2

    code, said = ended(failing)
    assert code == 1, said
    assert "Failed" in said
    [beam] = runs_of(client, "rag-weekly-beam")
    assert 'did you mean "FlinkRunner"?' in beam.state.message
    on_beam = ("--param", "pipeline=gated.yaml", "--param", "output=out/beam")
    code, said = ended(project.prefect(*run, "funcpipe/rag-weekly-beam", *on_beam))
    assert code == 0, said
    names = [
        sorted(path.name for path in (project.folder / "out" / one).iterdir()) for one in ("gated", "beam")
    ]
    assert names[0] == names[1], "the same parts as on one core"


def test_a_backfill_runs_each_part_once_and_retries_what_failed(
    project: Project, worker: None, client: Any, backfill: Callable[..., Answer]
) -> None:
    (project.folder / "open").touch()
    adhoc = client.read_deployment_by_name("funcpipe/rag-adhoc")
    changed = {**adhoc.parameters, "pipeline": "gated.yaml", "overrides": {"resources.workers": 1}}
    from prefect.client.schemas.actions import DeploymentUpdate

    client.update_deployment(adhoc.id, DeploymentUpdate(parameters=changed))
    command = (
        "rag-adhoc", "--part", "monday,tuesday", "--set", "source.path={part}.jsonl", "--output", "out/{part}",
        "--set", "cache.storage=store",
    )  # fmt: skip
    code, planned, _ = backfill(*command, "--dry-run")
    assert (code, planned["scheduled"], [run["id"] for run in planned["runs"]]) == (0, 2, [None, None])
    code, first, _ = backfill(*command)
    assert (code, first["scheduled"], first["skipped"]) == (0, 2, 0)
    assert backfill(*command)[1]["skipped"] == 2, "scheduled is as good as done"

    monday, tuesday = (UUID(run["id"]) for run in first["runs"])
    states = {run: final_state(client, run) for run in (monday, tuesday)}
    assert {run: state.type.value for run, state in states.items()} == {
        monday: "COMPLETED",
        tuesday: "FAILED",
    }
    assert "FP409" in states[tuesday].message
    run = client.read_flow_run(monday)
    assert run.name == "rag-adhoc-monday", "named by its part, before and after it ran"
    assert "backfill" in run.tags
    assert run.parameters["overrides"] == {
        "resources.workers": 1, "source.path": "monday.jsonl", "cache.storage": "store",
    }, "added to the deployment's own overrides"  # fmt: skip
    assert (project.folder / "out" / "monday" / "_manifest.json").is_file()

    code, again, notes = backfill(*command)
    assert (code, again["skipped"]) == (0, 2)
    assert "1 of them failed before; --retry-failed" in notes
    (project.folder / "tuesday.jsonl").write_text('{"id": 3}\n')
    code, retried, _ = backfill(*command, "--retry-failed")
    assert [(run["part"], run["action"], run["id"]) for run in retried["runs"]] == [
        ("monday", "skipped", str(monday)), ("tuesday", "retried", str(tuesday)),
    ]  # fmt: skip
    eventually("tuesday is done", lambda: client.read_flow_run(tuesday).state.is_completed())
    assert (project.folder / "out" / "tuesday" / "_manifest.json").is_file()
    assert backfill(*command, "--retry-failed")[1]["skipped"] == 2


def final_state(client: Any, run: UUID) -> Any:
    def state() -> Any:
        found = client.read_flow_run(run).state
        return found if found.is_final() else None

    return eventually("the run has ended", state)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rag-nighty", "--input", "{date}", "--from", "2026-01-01", "--to", "2026-01-02"), 'did you mean "rag-nightly"?'),
        (("rag-incremental", "--input", "{date}", "--from", "2026-01-01", "--to", "2026-01-02"), "CANCEL_NEW"),
        (("rag-adhoc", "--input", "{date:%Y}", "--from", "2026-01-01", "--to", "2026-01-02"), "runs with equal parameters"),
        (("rag-adhoc", "--input", "{date}", "--from", "2026-01-01"), "--from and --to, or --part"),
        (("rag-adhoc", "--input", "{date}", "--from", "2026-01-01", "--to", "tomorrow"), "FP123 wrong part --to"),
        (("rag-adhoc", "--set", "{part}", "--part", "a,b"), "FP121 override is not key=value"),
    ],
)  # fmt: skip
def test_a_wrong_backfill_is_one_clear_message(
    project: Project, backfill: Callable[..., Answer], arguments: tuple[str, ...], says: str
) -> None:
    code, report, notes = backfill(*arguments)
    assert (code, report) == (2, {})
    assert says in " ".join(notes.split())
    assert "Traceback" not in notes


@pytest.mark.parametrize(
    ("url", "says"),
    [(None, "no Prefect server is configured"), ("http://127.0.0.1:9/api", "no Prefect server answers at")],
)
def test_a_backfill_without_a_server_says_so(
    backfill: Callable[..., Answer], url: str | None, says: str
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    chosen = {PREFECT_API_URL: url} if url else {}
    with temporary_settings(chosen, restore_defaults={PREFECT_API_URL}):
        code, _, notes = backfill("rag-adhoc", "--part", "a", "--input", "{part}")
    assert code == 2
    assert notes.startswith(f"FP603 {says}")
    assert len(notes.splitlines()) == 1


@pytest.mark.slow
def test_a_run_whose_process_was_killed_becomes_crashed(
    project: Project, client: Any, tmp_path: Path
) -> None:
    """The shipped automation, with its 90 s cut to the least that Prefect allows."""
    shipped = yaml.safe_load((project.folder / "deployments" / "heartbeat.yaml").read_text())
    assert shipped["trigger"]["within"] == 90
    shipped["trigger"]["within"] = 10
    (project.folder / "zombies.yaml").write_text(yaml.safe_dump(shipped))
    code, said = ended(project.prefect("automation", "create", "--from-file", "zombies.yaml"))
    assert code == 0, said
    [automation] = client.read_automations_by_name(shipped["name"])
    (project.folder / "open").unlink(missing_ok=True)
    before = project.inside
    source = "from funcpipe_prefect import run_pipeline; run_pipeline('gated.yaml', output='out/zombie')"
    process = project.start(sys.executable, "-c", source, PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30")
    try:
        eventually("the run works", lambda: set(project.inside) - set(before))
        newest = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC)
        run = next(run for run in newest if run.state.is_running())
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        state = final_state(client, run.id)
    finally:
        process.kill()
        client.delete_automation(automation.id)
    assert (state.type.value, "No heartbeat" in state.message) == ("CRASHED", True)

"""Settings by Prefect's pattern, and where jobs of Beam runners are looked at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import running
from funcpipe_prefect.ir import BeamSettings
from funcpipe_prefect.orchestration.beam_engine import job_link
from funcpipe_prefect.orchestration.settings import FuncPipeSettings, apply_settings

ALLOW, MOST = (f"PREFECT_INTEGRATIONS_FUNCPIPE_{name}" for name in ("ALLOW_PICKLE", "MOST_EXPANSION"))


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (ALLOW, MOST):
        monkeypatch.setenv(name, "")  # so that what the test sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.setattr(running, "CHILD_VARIABLES", {})
    monkeypatch.setattr("funcpipe_prefect.orchestration.settings.CHILD_VARIABLES", {})


def test_nothing_set_means_nothing_changed() -> None:
    apply_settings()
    assert ALLOW not in os.environ
    assert FuncPipeSettings().most_expansion == 300


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("prefect.toml", "[integrations.funcpipe]\nmost_expansion = 50\nallow_pickle = true\n"),
        (
            "pyproject.toml",
            "[tool.prefect.integrations.funcpipe]\nmost_expansion = 50\nallow_pickle = true\n",
        ),
        (".env", f"{MOST}=50\n{ALLOW}=true\n"),
    ],
)
def test_files_are_read_and_the_environment_comes_first(
    file: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).write_text(text)
    monkeypatch.setenv(ALLOW, "false")
    apply_settings()
    assert (float(os.environ[MOST]), os.environ[ALLOW]) == (50, "false")


@pytest.mark.parametrize(
    ("runner", "options", "link"),
    [
        ("DataflowRunner", {"project": "p", "region": "europe-west1"},
         "https://console.cloud.google.com/dataflow/jobs/europe-west1/j-1?project=p"),
        ("FlinkRunner", {"flink_master": "flink:8081"}, "http://flink:8081/#/job/j-1/overview"),
        ("FlinkRunner", {"flink_master": "https://flink"}, "https://flink/#/job/j-1/overview"),
        ("FlinkRunner", {}, ""),
        ("DirectRunner", {}, ""),
    ],
)  # fmt: skip
def test_a_job_has_a_page_where_its_runner_is_known(runner: str, options: dict[str, Any], link: str) -> None:
    assert job_link(BeamSettings(runner, options), "j-1") == link


@pytest.mark.parametrize(
    ("location", "key"),
    [
        ("/data/out", "file:///data/out"),
        ("s3://bucket/a b/c?d#e", "s3://bucket/a_b/c_d_e"),
        ("postgresql+psycopg://me@host:5432/db#public.docs", "postgresql://me@host:5432/db_public.docs"),
        ("sqlite:////tmp/x.db#docs", "sqlite:////tmp/x.db_docs"),
        ("hf-mirror://x/ü'", "hfmirror://x/_"),
        ("s3://b/" + "x" * 600, "s3://b/" + "x" * 505),
    ],
)
def test_any_place_has_a_name_as_an_asset(location: str, key: str) -> None:
    from prefect.assets import Asset

    from funcpipe_prefect.orchestration.lineage import asset_key

    assert Asset(key=asset_key(location)).key == key

"""Real engines behind Beam: Prism and Flink, which `make engines` fetches where they can be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import free_port, listening
from tests.contract.test_real_text import assert_as_on_one_core, summed
from tests.engines import FLINK, PRISM, Engine

pytestmark = [pytest.mark.prefect, pytest.mark.runners]


@pytest.fixture
def prism() -> Path:
    return there(PRISM)


@pytest.fixture
def flink_job_server() -> Path:
    return there(FLINK)


def there(engine: Engine) -> Path:
    why_not = engine.why_not()
    if why_not:
        pytest.skip(why_not)
    return engine.path


def left_of(engine: Path) -> list[psutil.Process]:
    """The processes of an engine that this test began, adopted by nobody or not yet ended."""
    own = psutil.Process()
    named = [one for one in psutil.process_iter(["cmdline"]) if str(engine) in (one.info["cmdline"] or ())]
    return [one for one in named if one.is_running() and (one.ppid() == 1 or own in one.parents())]


def abstracts(folder: Path, arxiv: Path) -> dict[str, Any]:
    return summed(folder, {"type": "jsonl", "path": str(arxiv), "splits": 4})


def test_abstracts_on_prism_give_the_bytes_of_one_core(
    tmp_path: Path, arxiv: Path, prefect_api: str, prism: Path
) -> None:
    given = {"beam.runner": "PrismRunner", "beam.options": {"prism_location": str(prism)}}
    assert_as_on_one_core(tmp_path, abstracts(tmp_path, arxiv), "beam", given)
    assert not left_of(prism)


@contextmanager
def a_prism_service(prism: Path, folder: Path) -> Iterator[str]:
    port = free_port()
    command = [str(prism), f"--job_port={port}", "--serve_http=false"]
    with listening(command, port, folder / "prism.log"):
        yield f"localhost:{port}"


def test_abstracts_on_prism_as_a_service_give_the_bytes_of_one_core(
    tmp_path: Path, arxiv: Path, prefect_api: str, prism: Path
) -> None:
    with a_prism_service(prism, tmp_path) as endpoint:
        options = {"job_endpoint": endpoint, "environment_type": "LOOPBACK"}
        given = {"beam.runner": "PortableRunner", "beam.options": options}
        assert_as_on_one_core(tmp_path, abstracts(tmp_path, arxiv), "beam", given)


def test_abstracts_on_flink_give_the_bytes_of_one_core(
    tmp_path: Path, arxiv: Path, prefect_api: str, flink_job_server: Path
) -> None:
    options = {
        "flink_job_server_jar": str(flink_job_server),
        "flink_master": "[local]",
        "flink_version": "1.20",
    }
    given = {"beam.runner": "FlinkRunner", "beam.options": options, "resources.workers": 2}
    assert_as_on_one_core(tmp_path, abstracts(tmp_path, arxiv), "beam", given)
    assert not left_of(flink_job_server)

"""`funcpipe laws`, `funcpipe run --check` and the pytest plugin, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FUNCPIPE = [str(Path(sys.executable).parent / "funcpipe")]

BROKEN = """\
name: lawless
imports: [tests.registries.lawless]
operators:
  - {type: Map, name: stamp, func: stamp}
  - {type: BatchMap, name: scale, func: scale}
  - {type: Combine, name: mean, lift: value_of, monoid: mean_of_means}
"""
SOUND = """\
name: lawful
imports: [tests.registries.lawless]
source: {type: jsonl, path: readings.jsonl}
operators:
  - {type: Map, name: timed, func: timed}
  - {type: Combine, name: total, lift: value_of, monoid: exact_sum}
"""


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=200, env=_environment()
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def answer(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lawless.yaml").write_text(BROKEN)
    (tmp_path / "lawful.yaml").write_text(SOUND)
    lines = (json.dumps({"sensor": "a", "value": number / 7}) for number in range(50))
    (tmp_path / "readings.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_broken_laws_are_told_with_tests_that_fail(folder: Path) -> None:
    done = run([*FUNCPIPE, "laws", "lawless.yaml", "--backend", "local", "--json"], folder)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    report = answer(done)
    assert report["status"] == "broken"
    broken = {(one["law"], one["subject"]): one for one in report["laws"] if one["outcome"] == "broken"}
    assert {
        ("no effects", "stamp"), ("repeatable", "stamp"), ("batch invariance", "scale"),
        ("associativity", "mean_of_means"), ("identity", "mean_of_means"), ("partition invariance", "lawless"),
    } <= set(broken)  # fmt: skip
    assert "lawless.py:" in broken["no effects", "stamp"]["reason"]
    for one in broken.values():
        assert len(one["counter_example"]) < 300
        assert one["counter_example"][:40] in done.stderr
        assert one["mend"]
    written = sorted(path.name for path in folder.iterdir())
    assert written == ["lawful.yaml", "lawless.yaml", "readings.jsonl"]
    pasted = folder / "test_pasted.py"
    tests = [one["test"] for one in broken.values()]
    pasted.write_text("\n\n".join(tests))
    again = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_pasted.py"], folder)
    assert f"{len(tests)} failed" in again.stdout, again.stdout


def test_laws_that_hold_are_no_failure(folder: Path) -> None:
    done = run([*FUNCPIPE, "laws", "lawful.yaml", "--backend", "local", "--json"], folder)
    assert done.returncode == 0, done.stderr
    report = answer(done)
    assert report["samples"] == "50 records of the source"
    assert {one["outcome"] for one in report["laws"]} == {"holds"}
    assert all(one["examples"] for one in report["laws"])


@pytest.mark.parametrize(
    ("sink", "outcome", "law"),
    [
        ("append, params: {folder: out}", "broken", "written twice"),
        ("anywhere", "skipped", "sink idempotence"),
    ],
)
def test_a_function_as_a_sink_is_tried_only_where_nothing_is_lost(
    folder: Path, sink: str, outcome: str, law: str
) -> None:
    text = BROKEN[: BROKEN.index("operators:")] + (
        "operators:\n  - {type: Map, name: timed, func: timed}\n"
        f"  - {{type: Sink, name: put, contract: {{idempotent: true}}, func: {sink}}}\n"
    )
    (folder / "sink.yaml").write_text(text)
    done = run([*FUNCPIPE, "laws", "sink.yaml", "--backend", "local", "--json"], folder)
    verdicts = {one["law"]: one for one in answer(done)["laws"] if one["subject"] == "put"}
    assert verdicts[law]["outcome"] == outcome
    assert not (folder / "out").exists()


def test_a_pipeline_that_reads_files_when_it_is_built_is_not_lazy(folder: Path) -> None:
    (folder / "eager.py").write_text(
        "from pathlib import Path\n"
        "from funcpipe_prefect import Registry\n"
        "registry = Registry()\n"
        "WORDS = Path('words.txt').read_text().split()\n"
        "@registry.func\n"
        "def known(text: str) -> bool:\n"
        "    return text in WORDS\n"
    )
    (folder / "words.txt").write_text("a b")
    (folder / "eager.yaml").write_text(
        "imports: [eager]\noperators:\n  - {type: Map, name: known, func: known}\n"
    )
    done = run([*FUNCPIPE, "laws", "eager.yaml", "--quick", "--json"], folder)
    assert done.returncode == 1, done.stderr
    (broken,) = [one for one in answer(done)["laws"] if one["outcome"] == "broken"]
    assert broken["law"] == "laziness"
    assert "words.txt" in broken["reason"]
    assert "eager.py:4" in broken["reason"]


def test_wrong_files_and_options_are_told_in_a_line(folder: Path) -> None:
    for arguments in (
        ["missing.yaml"],
        ["lawful.yaml", "--samples", "missing.jsonl"],
        ["lawful.yaml", "--backend", "x"],
    ):
        done = run([*FUNCPIPE, "laws", *arguments], folder)
        assert done.returncode == 2, done.stderr
        assert "FP" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_checked_run_does_not_begin_when_a_law_is_broken(folder: Path) -> None:
    text = BROKEN.replace("operators:", "source: {type: jsonl, path: readings.jsonl}\noperators:")
    text = text[: text.index("  - {type: BatchMap")]
    text += "  - {type: Sink, name: w, func: jsonl, contract: {idempotent: true}, params: {path: out}}\n"
    (folder / "run.yaml").write_text(text)
    refused = run([*FUNCPIPE, "run", "run.yaml", "--backend", "local", "--check", "--json"], folder)
    assert refused.returncode == 1, refused.stderr
    assert "FP310 no effects of stamp: broken" in refused.stderr
    assert answer(refused)["status"] == "failed"
    assert not (folder / "out").exists()
    (folder / "run.yaml").write_text(text.replace("func: stamp", "func: timed"))
    done = run([*FUNCPIPE, "run", "run.yaml", "--backend", "local", "--check", "--json"], folder)
    assert done.returncode == 0, done.stderr
    assert answer(done)["records_out"] == 50


def test_each_law_of_each_pipeline_under_a_folder_is_a_named_test(folder: Path) -> None:
    (folder / "pipelines").mkdir()
    for name in ("lawless", "lawful"):
        (folder / f"{name}.yaml").rename(folder / "pipelines" / f"{name}.yaml")
    (folder / "pipelines" / "lawful.samples.jsonl").write_text('{"sensor": "b", "value": 2.5}\n')
    (folder / "pipelines" / "wrong.yaml").write_text(BROKEN.replace("func: scale", "func: scael"))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-p",
        "no:cacheprovider",
        "--funcpipe-pipelines",
        "pipelines",
    ]
    done = run([*command, "pipelines"], folder)
    assert "pipelines/lawful.yaml::repeatable [timed] PASSED" in done.stdout, done.stdout
    assert "pipelines/lawless.yaml::batch invariance [scale] FAILED" in done.stdout
    assert "FP310 associativity of mean_of_means: broken" in done.stdout
    assert "pipelines/wrong.yaml::valid FAILED" in done.stdout
    assert 'did you mean "scale"?' in done.stdout
    assert "Traceback" not in done.stdout
    chosen = run([*command, "pipelines/lawful.yaml", "-k", "associativity"], folder)
    assert "1 passed" in chosen.stdout, chosen.stdout
    silent = run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "pipelines"], folder)
    assert "no tests ran" in silent.stdout


@pytest.mark.runners
def test_a_function_that_depends_on_its_process_makes_backends_disagree(folder: Path) -> None:
    text = SOUND.replace("name: timed, func: timed", "name: shard, func: shard")
    (folder / "shard.yaml").write_text(text[: text.index("  - {type: Combine")])
    done = run([*FUNCPIPE, "laws", "shard.yaml", "--backend", "dask", "--json"], folder)
    assert done.returncode == 1, done.stderr
    broken = {one["law"]: one for one in answer(done)["laws"] if one["outcome"] == "broken"}
    assert set(broken) == {"process independent", "backends agree"}
    assert "digest is" in broken["backends agree"]["reason"]
    assert "check_backends_agree(pipeline, records, backends=['dask'])" in broken["backends agree"]["test"]


@pytest.mark.runners
def test_the_rag_pipeline_keeps_every_law_on_real_documents(shared_data: Path, folder: Path) -> None:
    """On one core, on Dask and on Beam."""
    pipeline = ROOT / "flows" / "pipelines" / "arxiv_rag.yaml"
    samples = shared_data / "arxiv_sample.jsonl"
    done = run([*FUNCPIPE, "laws", str(pipeline), "--samples", str(samples), "--json"], folder)
    assert done.returncode == 0, done.stderr
    report = answer(done)
    assert {one["outcome"] for one in report["laws"]} == {"holds"}
    assert [one["subject"] for one in report["laws"]][-1] == "local, dask, beam"

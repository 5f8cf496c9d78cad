"""What the package promises to those who import it."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import funcpipe_prefect
from funcpipe_prefect import BackendError, laws
from funcpipe_prefect.laws import needs

ROOT = Path(__file__).parents[2]

PUBLIC = [
    "Approximate", "BackendError", "BeamRunnerConfig", "ContractError", "DaskClusterConfig", "Err", "ErrorInfo", "ErrorRateExceeded", "FPResult", "FuncPipeError", "FuncPipeline", "KeyValue", "Monoid", "Ok", "PartitionStorage", "Pipeline", "PipelineError", "Problem", "RecordError", "Registry", "Result", "RunReport", "SinkError", "SourceError", "Split", "TransientError", "WindowedValue", "__version__", "load_pipeline", "run_local", "run_pipeline", "to_bag", "to_dataframe", "to_delayed", "to_ptransform",
]  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert sorted(funcpipe_prefect.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(funcpipe_prefect, name) is not None


LAWS = [
    "LawBroken", "LawReport", "Verdict", "check_backends_agree", "check_batch_invariant", "check_monoid",
    "check_partition_invariant", "check_pipeline", "check_pure", "check_round_trip", "check_sink",
    "check_sink_idempotent",
    "check_source",
]  # fmt: skip


def test_the_public_names_of_the_laws_are_these() -> None:
    assert sorted(laws.__all__) == LAWS
    for name in LAWS:
        assert getattr(laws, name) is not None


def test_without_hypothesis_a_check_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    vars(laws).pop("check_monoid", None)
    with pytest.raises(BackendError, match=r"funcpipe-prefect\[laws\]"):
        _ = laws.check_monoid


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = funcpipe_prefect.nothing


def test_importing_the_package_loads_no_engine_and_is_quick() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import funcpipe_prefect; "
        "spent = time.perf_counter() - start; "
        "print(spent); print([name for name in ('prefect', 'dask', 'distributed', 'apache_beam', 'pandas', 'pyarrow', "
        "'pydantic') if name in sys.modules])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    assert {run.stdout.splitlines()[1] for run in runs} == {"[]"}
    assert min(float(run.stdout.splitlines()[0]) for run in runs) < 0.3


def test_a_local_run_loads_neither_prefect_nor_dask(tmp_path: Path) -> None:
    code = (
        "import sys; from funcpipe_prefect import load_pipeline, run_local; "
        "report = run_local(load_pipeline({'imports': ['tests.registries.words'], 'operators': ["
        "{'type': 'Map', 'name': 'tidy', 'func': 'tidy'}, "
        "{'type': 'FlatMap', 'name': 'words', 'func': 'words'}, "
        "{'type': 'Combine', 'name': 'count', 'lift': 'count_of', 'monoid': 'counter'}]}), [{'id': 1, 'text': 'a b a'}]); "
        "print(report.result, [name for name in ('prefect', 'dask', 'distributed', 'apache_beam', 'pandas') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip() == "{'a': 2, 'b': 1} []"


def test_prefect_finds_the_collection() -> None:
    points = importlib.metadata.entry_points(group="prefect.collections")
    assert [point.value for point in points if point.name == "funcpipe_prefect"] == ["funcpipe_prefect"]


@pytest.mark.parametrize(("name", "bound"), [("fastapi", (0, 151)), ("sqlalchemy", (2, 1))])
def test_the_project_itself_keeps_prefects_server_working(name: str, bound: tuple[int, int]) -> None:
    """The server starts only with such a fastapi, and schedules fire only with such a sqlalchemy."""
    requires = importlib.metadata.requires("funcpipe-prefect") or []
    own = [one for one in requires if one.lower().startswith(name)]
    assert own == [f"{name}<{bound[0]}.{bound[1]}"]
    installed = tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version(name))[:2])
    assert installed < bound


def test_the_lock_file_names_no_index() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()


def test_the_modules_say_what_they_hold() -> None:
    for path in (ROOT / "funcpipe_prefect").rglob("*.py"):
        assert path.read_text().startswith('"""'), f"{path} has no docstring"

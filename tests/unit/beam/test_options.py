"""`beam:` and `resources:` as the options that a runner gets."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from funcpipe_prefect.backends.beam.known_options import problems
from funcpipe_prefect.backends.beam.options import as_flags, options_for
from funcpipe_prefect.ir import BeamSettings, Resources


@pytest.mark.parametrize(
    ("runner", "options", "given"),
    [
        ("DirectRunner", {}, {"direct_num_workers": 3, "direct_running_mode": "multi_processing"}),
        ("DirectRunner", {"direct_running_mode": "in_memory"}, {"direct_num_workers": 1, "direct_running_mode": "in_memory"}),
        ("directrunner", {"direct_num_workers": 1}, {"direct_num_workers": 1, "direct_running_mode": "in_memory"}),
        ("DirectRunner", {"direct_running_mode": "multi_threading"}, {"direct_num_workers": 3, "direct_running_mode": "multi_threading"}),
        ("PortableRunner", {"job_endpoint": "h:1"}, {"sdk_worker_parallelism": 3, "job_endpoint": "h:1"}),
        ("Flink", {}, {"parallelism": 3}),
        ("FlinkRunner", {"parallelism": 7}, {"parallelism": 7}),
        ("SparkRunner", {}, {"spark_master_url": "local[3]"}),
        ("SparkRunner", {"spark_master_url": "spark://h:7077"}, {"spark_master_url": "spark://h:7077"}),
        ("DataflowRunner", {"region": "europe-west1"}, {"num_workers": 3, "region": "europe-west1"}),
        ("my.company.Runner", {}, {}),
    ],
)  # fmt: skip
def test_workers_mean_what_the_runner_calls_them_and_the_file_wins(
    runner: str, options: dict[str, Any], given: dict[str, Any]
) -> None:
    assert options_for(BeamSettings(runner, options), Resources(workers=3)) == given


def test_flags_are_what_beam_reads() -> None:
    from apache_beam.options.pipeline_options import (
        DebugOptions,
        DirectOptions,
        PipelineOptions,
        PortableOptions,
    )

    options = {
        "direct_num_workers": 2,
        "experiments": ["a", "b=c"],
        "environment_config": '{"command": "x y"}',
        "streaming": False,
    }
    read = PipelineOptions(as_flags(options))
    assert read.view_as(DirectOptions).direct_num_workers == 2
    assert read.view_as(DebugOptions).experiments == ["a", "b=c"]
    assert read.view_as(PortableOptions).environment_config == '{"command": "x y"}'


@pytest.mark.parametrize(
    ("options", "code", "mend"),
    [
        ({"job_endpont": "h:1"}, "FP502", 'did you mean "job_endpoint"?'),
        ({"zzz": 1}, "FP502", "use one of the allowed names"),
        ({"runner": "x"}, "FP502", "remove it"),
        ({"streaming": True}, "FP502", "remove it"),
        ({"parallelism": "many"}, "FP504", "invalid int value"),
        ({"direct_running_mode": "fast"}, "FP504", "invalid choice"),
        ({"flink_submit_uber_jar": "yes"}, "FP504", "write flink_submit_uber_jar: true"),
        ({"region": True}, "FP504", "give region a value"),
    ],
)
def test_a_wrong_option_is_told_with_its_mend(options: dict[str, Any], code: str, mend: str) -> None:
    (found,) = problems("FlinkRunner", options)
    assert (found["code"], found["option"]) == (code, next(iter(options)))
    assert mend in found["mend"]


def test_a_runner_whose_packages_are_missing_is_told_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam.runners.dataflow.internal.apiclient", None)
    (found,) = problems("DataflowRunner", {})
    assert (found["code"], found["title"]) == ("FP503", "runner is not available")
    assert "apache-beam[gcp]" in found["mend"]


def test_right_options_of_each_runner_are_taken() -> None:
    options = {
        "job_endpoint": "localhost:1", "environment_type": "PROCESS", "environment_config": '{"command": "boot"}',
        "parallelism": 4, "flink_master": "localhost:8081", "experiments": ["x"], "project": "p", "temp_location": "gs://b",
        "no_use_public_ips": True, "labels": ["team=x"], "prism_location": "/bin/prism", "setup_file": "./setup.py",
    }  # fmt: skip
    assert not list(problems("PortableRunner", options))


@pytest.mark.parametrize("runner", ["FlinkRuner", "flnk", "os.path.join", "nowhere.Runner", "."])
def test_a_runner_that_is_none_is_told(runner: str) -> None:
    (found,) = problems(runner, {})
    assert (found["code"], found["option"]) == ("FP503", "runner")

"""From `beam:` and `resources:` to the pipeline options of a Beam runner. Beam itself is not imported here."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from funcpipe_prefect.errors import BackendError, PipelineError, Place, Problem
from funcpipe_prefect.ir import BeamSettings, Resources
from funcpipe_prefect.running import child_environment

__all__ = ["MISSING", "as_flags", "check_options", "has_beam", "is_named", "options_for"]

MISSING = 'the beam backend needs the extra beam: pip install "funcpipe-prefect[beam]"'


def is_named(runner: str, name: str) -> bool:
    """Tell whether a runner is the one of this name, as Beam reads names: in any case, with or without `Runner`.

    Example:
        >>> is_named("flink", "FlinkRunner"), is_named("PortableRunner", "FlinkRunner")
        (True, False)
    """
    short = runner.rpartition(".")[2].lower().removesuffix("runner")
    return short == name.lower().removesuffix("runner")


def options_for(settings: BeamSettings, resources: Resources) -> dict[str, Any]:
    """Give a runner's options: what `resources:` means to it, then what the file says.

    Example:
        >>> options_for(BeamSettings(), Resources(workers=2))
        {'direct_num_workers': 2, 'direct_running_mode': 'multi_processing'}
        >>> options_for(BeamSettings("FlinkRunner", {"parallelism": 8}), Resources(workers=2))
        {'parallelism': 8}
    """
    return {**_of_resources(settings, resources.workers), **settings.options}


def _of_resources(settings: BeamSettings, workers: int) -> dict[str, Any]:
    runner, given = settings.runner, settings.options
    if is_named(runner, "DirectRunner") or is_named(runner, "FnApiRunner"):
        in_one = given.get("direct_running_mode") == "in_memory"
        asked = given.get("direct_num_workers", 1 if in_one else workers)
        mode = "in_memory" if asked == 1 else "multi_processing"
        return {"direct_num_workers": asked, "direct_running_mode": mode}
    if is_named(runner, "FlinkRunner"):
        return {"parallelism": workers}
    if is_named(runner, "SparkRunner"):
        is_elsewhere = {"spark_master_url", "job_endpoint"} & set(given)
        return {} if is_elsewhere else {"spark_master_url": f"local[{workers}]"}
    if is_named(runner, "DataflowRunner"):
        return {"num_workers": workers}
    if is_named(runner, "PortableRunner"):
        return {"sdk_worker_parallelism": workers}
    return {}


def as_flags(options: Mapping[str, Any]) -> list[str]:
    """Write options as Beam reads them from a command line.

    Example:
        >>> as_flags({"streaming": True, "experiments": ["a", "b"], "labels": {"team": "x"}, "region": "eu"})
        ['--streaming', '--experiments=a', '--experiments=b', '--labels={"team": "x"}', '--region=eu']
    """
    flags: list[str] = []
    for name, value in options.items():
        if isinstance(value, bool):
            flags += [f"--{name}"] if value else []
        elif isinstance(value, (list, tuple)):
            flags += [f"--{name}={item}" for item in value]
        elif isinstance(value, Mapping):
            flags.append(f"--{name}={json.dumps(value)}")
        else:
            flags.append(f"--{name}={value}")
    return flags


def has_beam() -> bool:
    """Tell whether Beam is installed."""
    return find_spec("apache_beam") is not None


def check_options(settings: BeamSettings) -> None:
    """Have a process with Beam look at the runner's name and options, if there is anything to look at.

    Raises:
        PipelineError: FP502 to FP504, every runner or option that Beam does not know or cannot read.
        BackendError: FP501, Beam is not installed, or could not be asked.
    """
    if not has_beam():
        raise BackendError(MISSING)
    if settings.runner == BeamSettings.runner and not settings.options:
        return
    found = _asked(json.dumps({"runner": settings.runner, "options": dict(settings.options)}))
    if found:
        raise PipelineError([
            Problem(one["code"], one["title"], settings.places.get(one["option"], Place(path=f"$.beam.{one['option']}")),
                    one["found"], one["allowed"], one["mend"])
            for one in found
        ])  # fmt: skip


@functools.lru_cache(maxsize=16)
def _asked(question: str) -> list[dict[str, str]]:
    answer = subprocess.run(
        [sys.executable, "-m", "funcpipe_prefect.backends.beam.known_options"],
        input=question, capture_output=True, text=True, check=False, env=child_environment(),
    )  # fmt: skip
    if answer.returncode:
        tail = " / ".join(answer.stderr.strip().splitlines()[-3:])
        raise BackendError(f"Beam's options could not be checked: {tail}")
    found: list[dict[str, str]] = json.loads(answer.stdout.strip().splitlines()[-1])
    return found

"""Equivalence: a pipeline gives the same on one core, on Dask and on Beam."""

from __future__ import annotations

import copy
import functools
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from funcpipe_prefect.backends.local import run_local
from funcpipe_prefect.backends.protocol import RunReport
from funcpipe_prefect.ir import (
    BeamSettings,
    Combine,
    CombineByKey,
    Operator,
    Pipeline,
    Resources,
    Retries,
    Sink,
)
from funcpipe_prefect.laws.paste import Pasted, pasted_test
from funcpipe_prefect.laws.same import alike
from funcpipe_prefect.laws.verdicts import Law, Verdict
from funcpipe_prefect.schema import canonical_encoder
from funcpipe_prefect.sources import IterableSource

__all__ = ["BACKENDS", "agreement_laws", "in_folder"]

BACKENDS: tuple[str, ...] = ("local", "dask", "beam")
_NEEDS = {"dask": "prefect_dask", "beam": "apache_beam"}
_WORKERS = 2
_PER_SPLIT = 64


def agreement_laws(
    pipeline: Pipeline, records: Sequence[Any], backends: Sequence[str], pasted: Mapping[str, Pasted]
) -> Iterator[Law]:
    """State that the backends give what one core gives, on sample records.

    Args:
        pipeline: Its outputs, caches and dead letters go to a folder that is removed afterwards; a
            sink that has no folder is left out.
        records: The sample.
        backends: Those to compare with the local one.
        pasted: `pipeline` and `records` as Python source.
    """
    ready = [name for name in backends if name != "local" and find_spec(_NEEDS[name]) is not None]
    for name in backends:
        if name != "local" and name not in ready:
            reason = f'not installed: pip install "funcpipe-prefect[{name}]"'
            missing = Verdict("backends agree", f"local, {name}", "skipped", reason=reason)
            yield Law("backends agree", missing.subject, functools.partial(copy.copy, missing))
    if ready:
        subject = ", ".join(["local", *ready])
        yield Law(
            "backends agree", subject, functools.partial(_verdict, subject, pipeline, records, ready, pasted)
        )


def has_folder(target: Any) -> bool:
    """Tell whether a sink could as well write below another folder."""
    return is_dataclass(target) and hasattr(target, "path") and getattr(target, "location", None) is not None


def in_folder(pipeline: Pipeline, folder: str) -> Pipeline:
    """Give the pipeline with everything that it writes below a folder."""
    kept: list[Operator] = []
    inputs = {one.name: pipeline.input_of(one) for one in pipeline.operators}
    for one in pipeline.operators:
        if not isinstance(one, Sink):
            kept.append(one)
        elif has_folder(one.target):
            target: Any = one.target
            kept.append(replace(one, target=replace(target, path=f"{folder}/out/{one.name}")))
    operators = tuple(kept)
    return replace(
        pipeline,
        operators=operators,
        inputs=inputs,
        errors=replace(pipeline.errors, path=f"{folder}/dead_letters", max_error_rate=1.0),
        storage=f"{folder}/store",
        resources=Resources(workers=_WORKERS),
        beam=BeamSettings(options={"direct_running_mode": "in_memory"}),
        retries=Retries(transform=1, sink=1, delay_seconds=(0.1,)),
        expires_s=None,
        isolation="none",
    )


def _answer(pipeline: Pipeline, records: Sequence[Any], backend: str) -> tuple[RunReport, Any]:
    splits = max(2, min(8, -(-len(records) // _PER_SPLIT)))
    with tempfile.TemporaryDirectory() as folder:
        ready = replace(in_folder(pipeline, folder), source=IterableSource.of(records, splits))
        report = run_local(ready) if backend == "local" else _on_prefect(ready, backend)
        written: dict[str, Any] = {}
        for sink in ready.sinks:
            written |= _seen(sink.target, Path(folder, "out", sink.name), sink.name)
    return report, written


def _seen(target: Any, folder: Path, name: str) -> dict[str, Any]:
    """Give what readers see of a sink: its rows, where it has them, else the bytes of its files."""
    if hasattr(target, "rows"):
        return {f"out/{name}": sorted(map(canonical_encoder(), target.rows()))}
    return {
        f"out/{name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _on_prefect(pipeline: Pipeline, backend: str) -> RunReport:
    from funcpipe_prefect.orchestration.flow import check_backend, run_pipeline

    check_backend(backend, pipeline.beam)
    report: RunReport = run_pipeline(pipeline, backend=backend)
    return report


@contextmanager
def _quiet_server() -> Iterator[None]:
    """Have one Prefect server for all backends, and no log line of Prefect or Dask on the terminal."""
    names = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "DASK_LOGGING__DISTRIBUTED": "critical"}
    with ExitStack() as stack:
        for name, value in names.items():
            if name not in os.environ:
                os.environ[name] = value
                stack.callback(os.environ.pop, name, None)
        from funcpipe_prefect.orchestration.server import one_server

        stack.enter_context(one_server())
        yield


def _verdict(
    subject: str,
    pipeline: Pipeline,
    records: Sequence[Any],
    backends: Sequence[str],
    pasted: Mapping[str, Pasted],
) -> Verdict:
    if not records:
        return Verdict("backends agree", subject, "skipped", reason="no sample record to run on")
    try:
        expected = _answer(pipeline, records, "local")
    except Exception as error:
        return Verdict("backends agree", subject, "skipped", reason=f"the local run fails: {error}")
    with _quiet_server():
        told = [_told(pipeline, records, backend, expected) for backend in backends]
    reason = "; ".join(filter(None, told))
    if not reason:
        return Verdict("backends agree", subject, examples=len(records))
    test = pasted_test(
        f"{pipeline.name} agrees on {' and '.join(backends)}", pasted,
        [f"check_backends_agree(pipeline, records, backends={list(backends)!r})"],
        ["from funcpipe_prefect.laws import check_backends_agree"],
    )  # fmt: skip
    mend = "see which function depends on process, machine or batch: its own laws tell"
    return Verdict(
        "backends agree",
        subject,
        "broken",
        len(records),
        f"{len(records)} sample records",
        reason,
        mend,
        test,
    )


def _told(pipeline: Pipeline, records: Sequence[Any], backend: str, expected: tuple[RunReport, Any]) -> str:
    try:
        return _difference(pipeline, expected, _answer(pipeline, records, backend))
    except Exception as error:
        return f"the run on {backend} fails: {type(error).__name__}: {error}"


def _difference(pipeline: Pipeline, one: tuple[RunReport, Any], other: tuple[RunReport, Any]) -> str:
    (first, files), (second, others) = one, other
    merging = [one for one in pipeline.operators if isinstance(one, (Combine, CombineByKey))]
    tolerance = max((one.tolerance for one in merging), default=0.0)
    if not alike(first.result, second.result, rel=tolerance, abs_=tolerance):
        return f"the result is {first.result!r} on {first.backend}, {second.result!r} on {second.backend}"
    names = ["records_in", "records_out", "dropped", "errors", "operators"]
    names += [] if tolerance else ["digest"]
    for name in names:
        if getattr(first, name) != getattr(second, name):
            return f"{name} is {getattr(first, name)} on {first.backend}, {getattr(second, name)} on {second.backend}"
    differing = sorted(name for name in {*files, *others} if files.get(name) != others.get(name))
    differing = [] if tolerance else differing
    return f"the output differs in {', '.join(differing[:3])}" if differing else ""

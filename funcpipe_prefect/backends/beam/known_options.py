"""Looks at runner names and pipeline options with Beam's own parser; runs in a process of its own.

    python -m funcpipe_prefect.backends.beam.known_options < {"runner": …, "options": {…}}

It prints a list of problems as the last line.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner

from funcpipe_prefect.backends.beam.options import as_flags, is_named
from funcpipe_prefect.errors import near_misses

__all__ = ["main", "problems"]

_OURS: Mapping[str, str] = {
    "runner": "name the runner under beam.runner",
    "job_name": "a job is named after its pipeline and stage",
    "streaming": "the input is bounded",
    "save_main_session": "functions come from importable modules",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def problems(runner: str, options: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Tell what Beam does not know or cannot read.

    Args:
        runner: As written.
        options: As written.

    Yields:
        The parts of a `Problem`, and the `option` that it is about (`runner` for the runner itself).
    """
    try:
        create_runner(runner)
        if is_named(runner, "DataflowRunner"):
            importlib.import_module("apache_beam.runners.dataflow.internal.apiclient")
    except (ImportError, ValueError, AttributeError, TypeError) as error:
        names = [name for name in StandardOptions.KNOWN_RUNNER_NAMES if not name.startswith("Test")]
        is_known = any(is_named(runner, name) for name in names)
        yield _problem(
            "runner", "FP503", "runner is not available" if is_known else "unknown runner", f'"{runner}"',
            ", ".join(names) + ", or the import path of a runner class",
            f"{error}; install what the runner needs, such as apache-beam[gcp] for Dataflow" if is_known else near_misses(runner, names),
        )  # fmt: skip
    parser = _parser()
    known = {
        option.removeprefix("--"): action for action in parser._actions for option in action.option_strings
    }
    described = _described(options) if "job_endpoint" in options else set()
    for name, value in options.items():
        if name in _OURS:
            yield _problem(name, "FP502", "option is not for you to set", name, _OURS[name], "remove it")
        elif name in known:
            yield from _unreadable(parser, known[name], name, value)
        elif name not in described:
            close = difflib.get_close_matches(name, {*known, *described}, n=3)
            yield _problem(
                name, "FP502", "unknown Beam option", f'"{name}"',
                ", ".join(close) or f"an option of Beam or of {runner}",
                near_misses(name, {*known, *described}),
            )  # fmt: skip


def _problem(option: str, code: str, title: str, found: str, allowed: str, mend: str) -> dict[str, str]:
    return {
        "option": option, "code": code, "title": title, "found": found, "allowed": allowed, "mend": mend,
    }  # fmt: skip


def _parser() -> _Parser:
    parser = _Parser(allow_abbrev=False, add_help=False, conflict_handler="resolve")
    # Beam's options may be values that are known later only; here they are known now.
    parser.add_value_provider_argument = parser.add_argument  # type: ignore[attr-defined]
    for kind in _subclasses(PipelineOptions):
        if "_add_argparse_args" in vars(kind):
            kind._add_argparse_args(parser)
    return parser


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    one: type[Any]
    for one in kind.__subclasses__():
        yield one
        yield from _subclasses(one)


def _unreadable(parser: _Parser, action: argparse.Action, name: str, value: Any) -> Iterator[dict[str, str]]:
    is_switch = action.nargs == 0
    takes = "true or false" if is_switch else getattr(action.type, "__name__", "text")
    if action.choices:
        takes = ", ".join(map(str, action.choices))
    if is_switch != isinstance(value, bool):
        mend = f"write {name}: true" if is_switch else f"give {name} a value"
        yield _problem(name, "FP504", "wrong value", json.dumps(value), takes, mend)
        return
    try:
        parser.parse_known_args(as_flags({name: value}))
    except Exception as error:  # whatever a type's constructor raises
        yield _problem(name, "FP504", "wrong value", json.dumps(value), takes, str(error))


def _described(options: Mapping[str, Any]) -> set[str]:
    """Ask a job service that answers for the options that it knows itself."""
    import grpc
    from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

    with suppress(grpc.RpcError, ValueError), grpc.insecure_channel(str(options["job_endpoint"])) as channel:
        service = beam_job_api_pb2_grpc.JobServiceStub(channel)
        asked = beam_job_api_pb2.DescribePipelineOptionsRequest()
        return {option.name for option in service.DescribePipelineOptions(asked, timeout=5).options}
    return set()


def main() -> None:
    """Read a question from standard input, print the answer."""
    asked = json.load(sys.stdin)
    print(json.dumps(list(problems(asked["runner"], asked["options"]))))


if __name__ == "__main__":
    main()

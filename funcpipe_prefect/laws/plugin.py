"""The pytest plugin: every pipeline file under a folder becomes named tests, one for each law and subject.

    [tool.pytest.ini_options]
    funcpipe_pipelines = ["flows/pipelines"]

or `pytest --funcpipe-pipelines flows/pipelines`. Sample records are taken from a file beside the
pipeline, `NAME.samples.jsonl` for `NAME.yaml`, or else from the pipeline's own source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from funcpipe_prefect.errors import PipelineError

if TYPE_CHECKING:
    from funcpipe_prefect.laws.verdicts import Law

__all__ = ["pytest_addoption", "pytest_collect_file"]

_SUFFIXES = (".yaml", ".yml")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; nothing is collected where none of them is given."""
    group = parser.getgroup("funcpipe", "laws of funcpipe pipelines")
    group.addoption(
        "--funcpipe-pipelines", action="append", metavar="FOLDER", default=[],
        help="check the laws of every pipeline file under this folder",
    )  # fmt: skip
    group.addoption(
        "--funcpipe-backends", metavar="NAMES", default="local",
        help="backends to compare with one core, such as dask,beam; none by default",
    )  # fmt: skip
    parser.addini("funcpipe_pipelines", "folders whose pipeline files are checked", type="paths", default=[])


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Take a pipeline file below one of the folders."""
    if file_path.suffix not in _SUFFIXES:
        return None
    given = parent.config.getoption("--funcpipe-pipelines")
    folders = [*parent.config.getini("funcpipe_pipelines"), *(Path(one).resolve() for one in given)]
    if not any(file_path.is_relative_to(folder) for folder in folders):
        return None
    return PipelineFile.from_parent(parent, path=file_path)


class PipelineFile(pytest.File):
    """A pipeline file; one that is wrong is one failing test."""

    def collect(self) -> Iterable[pytest.Item]:
        """List its laws."""
        from funcpipe_prefect.laws.needs import needs_hypothesis

        needs_hypothesis()
        from funcpipe_prefect.laws.pipeline import laws_of, load, samples_of

        try:
            loaded = load(str(self.path))
        except PipelineError as error:
            yield InvalidItem.from_parent(self, name="valid", error=error)
            return
        beside = self.path.with_suffix(".samples.jsonl")
        samples = samples_of(loaded, beside if beside.is_file() else None)
        backends = self.config.getoption("--funcpipe-backends").split(",")
        yield from self._named(laws_of(loaded, samples, backends=backends))

    def _named(self, laws: Iterator[Law]) -> Iterator[pytest.Item]:
        for law in laws:
            yield LawItem.from_parent(self, name=f"{law.name} [{law.subject}]", law=law)


class InvalidItem(pytest.Item):
    """A pipeline file that cannot be built: its problems, located as by `funcpipe validate`."""

    def __init__(self, *, error: PipelineError, **rest: Any) -> None:
        super().__init__(**rest)
        self.error = error

    def runtest(self) -> None:
        """Fail."""
        raise self.error

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show the problems without a traceback."""
        return str(self.error)


class LawItem(pytest.Item):
    """One law on one subject."""

    def __init__(self, *, law: Law, **rest: Any) -> None:
        super().__init__(**rest)
        self.law = law

    def runtest(self) -> None:
        """Check the law."""
        from funcpipe_prefect.laws.verdicts import LawBroken

        verdict = self.law.check()
        if verdict.outcome == "skipped":
            pytest.skip(verdict.reason)
        if verdict.outcome == "broken":
            raise LawBroken([verdict])

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show the counter-example without a traceback."""
        from funcpipe_prefect.laws.verdicts import LawBroken

        return str(excinfo.value) if isinstance(excinfo.value, LawBroken) else super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Name the file and the law."""
        return self.path, None, f"{self.path.name}: {self.name}"

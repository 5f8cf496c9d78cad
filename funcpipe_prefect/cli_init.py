"""`funcpipe init`: a project that works at once, to be changed into one's own."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from funcpipe_prefect.errors import PipelineError, Place, Problem

__all__ = ["init"]

_FILES = {
    "README.md": "README.md",
    "pyproject.toml": "pyproject.toml",
    "prefect.yaml": "prefect.yaml",
    ".gitignore": "gitignore",
    "MODULE/functions.py": "functions.py",
    "pipelines/PROJECT.yaml": "pipeline.yaml",
    "flows/PROJECT.py": "flow.py",
    "tests/test_pipeline.py": "test_pipeline.py",
    "documents/welcome.md": "welcome.md",
    "documents/errors.md": "errors.md",
}
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,60}")
_notes = Console(stderr=True, highlight=False)


def init(
    folder: Annotated[str, Parameter(help="A new or empty folder.")],
    /,
    *,
    name: Annotated[str | None, Parameter(help="The project's name; the folder's by default.")] = None,
) -> int:
    """Make a project: a registry, a pipeline file, a flow, deployments, and tests that pass."""
    root = Path(folder)
    project = name or root.absolute().name.lower()
    if not _NAME.fullmatch(project):
        raise _wrong(
            f"the name {project!r}", "small letters, digits, - and _, with a letter first", "give --name"
        )
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise _wrong(
            f"{folder}, which is there and not empty", "a new or empty folder", "give another folder"
        )
    module = project.replace("-", "_")
    if module in ("documents", "flows", "pipelines", "tests"):
        raise _wrong(f"the name {project!r}, as a folder of the project has", "any other", "give --name")
    try:
        for path, template in _FILES.items():
            text = (resources.files("funcpipe_prefect") / "templates" / f"{template}.template").read_text(
                "utf-8"
            )
            target = root / _filled(path, project, module)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_filled(text, project, module), encoding="utf-8")
        (root / module / "__init__.py").write_text('"""The project\'s own code."""\n', encoding="utf-8")
    except OSError as error:
        raise _wrong(str(error), "a folder that can be written to", "give another folder") from error
    _notes.print(f"{folder} has a project now; begin with its README.md:", markup=False, soft_wrap=True)
    _notes.print(
        f"  cd {folder}\n  funcpipe run pipelines/{project}.yaml\n  pytest", markup=False, soft_wrap=True
    )
    return 0


def _filled(text: str, project: str, module: str) -> str:
    return text.replace("PROJECT", project).replace("MODULE", module)


def _wrong(found: str, allowed: str, mend: str) -> PipelineError:
    return PipelineError([Problem("FP122", "command line", Place("funcpipe init"), found, allowed, mend)])

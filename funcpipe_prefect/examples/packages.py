"""The documentation inside installed Python packages, as a source: one split per distribution.

Descriptions, Markdown and RST files, and the docstrings of every module: real and messy text
that is there on any machine with a few packages, without a download.
"""

from __future__ import annotations

import ast
import importlib.metadata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from funcpipe_prefect import Registry, Split
from funcpipe_prefect.examples.rag import RawDoc

__all__ = ["InstalledPackages", "registry"]

registry = Registry()

_PROSE = (".md", ".rst", ".txt")


@registry.source(name="installed_packages", record=RawDoc)
@dataclass(frozen=True)
class InstalledPackages:
    """Texts of the distributions installed in this environment.

    Attributes:
        names: Only these distributions; all by default.
        shortest: Characters that a docstring has at least.
    """

    names: tuple[str, ...] | None = field(default=None, metadata={"layout": True})
    shortest: int = 200

    def list_splits(self) -> list[Split]:
        """Give one split for each distribution; its version is its identity."""
        found: dict[str, Split] = {}
        for distribution in importlib.metadata.distributions():
            name, version = distribution.metadata["Name"], distribution.version
            if self.names is None or name in self.names:
                size = sum(
                    file.size or 0 for file in distribution.files or [] if file.suffix in (".py", *_PROSE)
                )
                found.setdefault(name, Split(name, name, identity=version, size=size))
        return [found[name] for name in sorted(found)]

    def read(self, split: Split, record_type: Any) -> Iterator[tuple[int, RawDoc]]:
        """Stream a distribution's texts; each position is a running number."""
        yield from enumerate(self._texts(importlib.metadata.distribution(split.location)))

    def locate(self, split: Split, position: int) -> str:
        """Give distribution and number."""
        return f"{split.location} (text {position})"

    def _texts(self, distribution: importlib.metadata.Distribution) -> Iterator[RawDoc]:
        name = distribution.metadata["Name"]
        summary = distribution.metadata.json.get("summary", "")
        description = distribution.metadata.get_payload()  # type: ignore[attr-defined]
        if isinstance(description, str) and description.strip():
            yield RawDoc(f"{name}:description", f"{name}: {summary}", description)
        for file in sorted(distribution.files or [], key=str):
            path = Path(str(distribution.locate_file(file)))
            if file.suffix == ".py" or file.suffix in _PROSE and ".dist-info" not in str(file):
                text = _text_of(path)
                if file.suffix == ".py":
                    yield from self._docstrings(name, str(file), text)
                elif text.strip():
                    yield RawDoc(f"{name}:{file}", f"{name}: {file.name}", text)

    def _docstrings(self, name: str, file: str, text: str) -> Iterator[RawDoc]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            return
        dotted = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for node in ast.walk(module):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                doc = ast.get_docstring(node)
                if doc and len(doc) >= self.shortest:
                    title = dotted if isinstance(node, ast.Module) else f"{dotted}.{node.name}"
                    line = getattr(node, "lineno", 1)
                    yield RawDoc(f"{name}:{file}:{line}", title, doc)


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""

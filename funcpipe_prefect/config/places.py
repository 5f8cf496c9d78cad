"""Where things stand in a pipeline file: paths, marks, and problems placed by them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from funcpipe_prefect.errors import Place, Problem

__all__ = ["KeyPath", "Marked", "Noting", "in_document_order", "path_text", "printable", "problem_at"]

KeyPath: TypeAlias = tuple[str | int, ...]

_LONGEST = 300


def path_text(path: KeyPath) -> str:
    """Write a path as `$.operators[2].func`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{printable(step, 60)}" for step in path)
    return "$" + "".join(steps)


def printable(text: object, longest: int = _LONGEST) -> str:
    r"""Make text safe for a terminal and a log: control characters escaped, the end cut off.

    Example:
        >>> printable("a\x1b[31m\n"), printable("abcdef", 5)
        ('a\\x1b[31m\\n', 'ab...')
    """
    plain = str(text)
    plain = plain if len(plain) <= longest else f"{plain[: longest - 3]}..."
    if plain.isprintable():
        return plain
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in plain
    )


def problem_at(place: Place, code: str, title: str, found: str, allowed: str, mend: str) -> Problem:
    """Make a problem whose words are safe to print, whatever the file holds."""
    return Problem(
        code, title, place, printable(found), printable(allowed, 4 * _LONGEST), printable(mend, 2 * _LONGEST)
    )


@dataclass
class Marked:
    """Plain data with the place of every key and list item.

    Attributes:
        data: Mappings, lists and scalars.
        file: Name for messages.
        marks: One-based line and column by path; empty for data that came from Python.
        problems: What was wrong without making the rest unreadable.
        sources: Values that were set from elsewhere, by path: `--set resources.workers`.
        unread: Paths whose value was refused already, so that nothing more is said of it.
    """

    data: Any
    file: str = "<mapping>"
    marks: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    sources: dict[KeyPath, str] = field(default_factory=dict)
    unread: set[KeyPath] = field(default_factory=set)

    def place(self, path: KeyPath) -> Place:
        """The place of a path, or of the nearest thing around it that has one."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.sources:
                return Place(self.sources[path[:length]], 0, 0, path_text(path))
            if path[:length] in self.marks:
                return Place(self.file, *self.marks[path[:length]], path_text(path))
        return Place(self.file, 0, 0, path_text(path))

    def forget(self, path: KeyPath) -> None:
        """Drop what is known of a value that is being replaced: marks and problems below it too."""
        for known in (self.marks, self.sources):
            for other in [other for other in known if other[: len(path)] == path]:
                del known[other]
        self.unread = {other for other in self.unread if other[: len(path)] != path}
        text = path_text(path)
        self.problems = [
            problem
            for problem in self.problems
            if problem.place.path != text and not problem.place.path.startswith((f"{text}.", f"{text}["))
        ]


class Noting(Protocol):
    """A pipeline file that is being read, and takes note of its problems."""

    marked: Marked

    def problem(self, path: KeyPath, code: str, title: str, found: str, allowed: str, mend: str) -> None:
        """Note a problem at a path."""


def in_document_order(data: Any, problems: list[Problem]) -> list[Problem]:
    """Sort problems as a reader meets them, each once; data from Python has an order, too."""
    ranks = {path_text(path): rank for rank, path in enumerate(_paths(data, ()))}

    def rank_of(path: str) -> int:
        while path and path not in ranks:
            path = re.sub(r"(\.[^.\[]*|\[\d+\]|.)$", "", path, count=1)
        return ranks.get(path, 0)

    def key(problem: Problem) -> tuple[int, int, int]:
        return problem.place.line, problem.place.column, rank_of(problem.place.path)

    return sorted(dict.fromkeys(problems), key=key)


def _paths(node: Any, path: KeyPath) -> Iterator[KeyPath]:
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for step, value in items:
        yield from _paths(value, (*path, step))

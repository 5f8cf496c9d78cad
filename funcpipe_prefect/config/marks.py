"""YAML read event by event, so that every key keeps its place and nothing hostile is built.

Refused, each with its place: aliases (one could stand for a billion values), tags, duplicate
keys, keys that are not text, several documents, nesting beyond 32 levels, more than 10,000
values, files above 1 MiB.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from funcpipe_prefect.config.places import KeyPath, Marked, path_text, printable, problem_at
from funcpipe_prefect.config.wording import reword_syntax
from funcpipe_prefect.errors import PipelineError, Place

__all__ = ["KeyPath", "Marked", "path_text", "read_mapping", "read_scalar", "read_yaml"]

_LARGEST_BYTES = 1 << 20
_DEEPEST = 32
_MOST_VALUES = 10_000
_LONGEST_NUMBER = 100
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")
_SURROGATE = re.compile("[\ud800-\udfff]")
_YAML = "tag:yaml.org,2002:"
_TYPED = {f"{_YAML}{name}" for name in ("null", "bool", "int", "float")}


def _refuse(place: Place, code: str, title: str, found: str, allowed: str, mend: str) -> NoReturn:
    raise PipelineError([problem_at(place, code, title, found, allowed, mend)])


def read_yaml(path: str | Path) -> Marked:
    """Read a pipeline file.

    Raises:
        PipelineError: FP105, FP106, FP112, with the place; nothing can be made of the file.
    """
    name = printable(path)
    text = _text_of(path, name)
    try:
        return _Reader(name).read(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        is_open = "end" in (error.problem or "") and "stream" in (error.problem or "")
        mark = (error.context_mark if is_open else None) or error.problem_mark or error.context_mark
        place = Place(name, mark.line + 1, mark.column + 1) if mark else Place(name)
        lines = text.splitlines()
        line = lines[mark.line] if mark and mark.line < len(lines) else ""
        _refuse(
            place,
            "FP105",
            "YAML syntax",
            *reword_syntax(error.problem or error.context or "unreadable YAML", line),
        )
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(name, before.count("\n") + 1, error.position - before.rfind("\n"))
        _refuse(place, "FP105", "YAML syntax", f"the character U+{ord(text[error.position]):04X}",
                "printable characters", "remove it")  # fmt: skip


def _text_of(path: str | Path, name: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
            size = max(os.fstat(file.fileno()).st_size, len(data))
    except (OSError, ValueError) as error:
        _refuse(
            Place(name), "FP106", "file cannot be read", getattr(error, "strerror", None) or str(error),
            "a readable file", "check the path and its permissions",
        )  # fmt: skip
    if len(data) > _LARGEST_BYTES:
        _refuse(
            Place(name), "FP112", "file too large", f"{size:,} bytes", f"{_LARGEST_BYTES:,} bytes",
            "a pipeline file holds no data; name the data by path",
        )  # fmt: skip
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        place = Place(name, before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        _refuse(place, "FP106", "file is not text", f"the byte 0x{data[error.start]:02X}, which is not UTF-8 here",
                "UTF-8 text", "save the file as UTF-8")  # fmt: skip


class _Reader:
    """Builds plain data from YAML events and notes the place of every key."""

    def __init__(self, file: str) -> None:
        self._out = Marked(None, file)
        self._construct = yaml.constructor.SafeConstructor()
        self._resolver = yaml.resolver.Resolver()
        self._count = 0

    def read(self, events: Iterator[Any]) -> Marked:
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._note(event, (), "FP112", "several documents", "a second document behind ---",
                               "one document a file", "put the second pipeline into a file of its own")  # fmt: skip
                    break
            elif isinstance(event, yaml.NodeEvent):
                self._mark(event, ())
                self._out.data = self._value(event, events, ())
        return self._out

    def _mark(self, event: Any, path: KeyPath) -> None:
        self._out.marks[path] = (event.start_mark.line + 1, event.start_mark.column + 1)

    def _place(self, event: Any, path: KeyPath) -> Place:
        return Place(self._out.file, event.start_mark.line + 1, event.start_mark.column + 1, path_text(path))

    def _note(self, event: Any, path: KeyPath, *words: str) -> None:
        self._out.problems.append(problem_at(self._place(event, path), *words))

    def _value(self, event: Any, events: Iterator[Any], path: KeyPath) -> Any:
        self._count += 1
        if self._count > _MOST_VALUES:
            _refuse(self._place(event, ()), "FP112", "file too large", f"more than {_MOST_VALUES:,} values",
                    f"{_MOST_VALUES:,} values", "a pipeline file holds no data; name the data by path")  # fmt: skip
        if len(path) > _DEEPEST:
            _refuse(self._place(event, path[:3]), "FP112", "nested too deeply", f"more than {_DEEPEST} levels",
                    f"{_DEEPEST} levels", "flatten the value")  # fmt: skip
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            mark = "*" if isinstance(event, yaml.AliasEvent) else "&"
            self._note(event, path, "FP111", "anchor or alias", f"{mark}{event.anchor}", "values written out",
                       "repeat the value, or set it from outside with --set")  # fmt: skip
        if isinstance(event, yaml.AliasEvent):
            self._out.unread.add(path)
            return None
        if event.tag and event.tag != "!":
            tag = event.tag.replace(_YAML, "!!")
            self._note(event, path, "FP112", "YAML tag", tag, "plain values", "remove the tag")
            self._out.unread.add(path)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, path)
        return self._scalar(event, path)

    def _mapping(self, events: Iterator[Any], path: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event, events, path)
            if key is None:
                value = next(events)
                if not isinstance(value, yaml.AliasEvent):
                    self._value(value, events, (*path, "?"))
                continue
            if key in found:
                first = self._out.marks[(*path, key)][0]
                self._note(event, (*path, key), "FP110", "duplicate key", f'"{key}", already on line {first}',
                           "each key once", "remove one of them")  # fmt: skip
            self._mark(event, (*path, key))
            found[key] = self._value(next(events), events, (*path, key))
        return found

    def _key(self, event: Any, events: Iterator[Any], path: KeyPath) -> str | None:
        if not isinstance(event, yaml.ScalarEvent):
            found = "an alias" if isinstance(event, yaml.AliasEvent) else "a list or mapping"
            self._note(event, path, "FP112", "key is not text", found, "a name", "write the key as one word")
            self._value(event, events, (*path, "?"))
            return None
        if event.value == "<<" and event.implicit[0]:
            self._note(event, (*path, "<<"), "FP111", "merge key", "<<", "values written out",
                       "repeat the values here")  # fmt: skip
            self._out.unread.add(path)
            return None
        if event.anchor or event.tag:
            self._value(event, events, (*path, printable(event.value)))
        key: str = event.value
        return self._without_surrogates(event, (*path, key), key)

    def _sequence(self, events: Iterator[Any], path: KeyPath) -> list[Any]:
        found: list[Any] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            here = (*path, len(found))
            self._mark(event, here)
            found.append(self._value(event, events, here))
        return found

    def _scalar(self, event: Any, path: KeyPath) -> Any:
        plain = event.implicit[0]
        value = self._without_surrogates(event, path, event.value)
        text = expand(value, lambda name: self._unset(event, path, name))
        return _typed(self._resolver, self._construct, text) if plain else text

    def _without_surrogates(self, event: Any, path: KeyPath, text: str) -> str:
        if _SURROGATE.search(text):
            self._note(event, path, "FP106", "text is not Unicode", f'"{text}"', "characters, no half surrogate pairs",
                       r"write the character itself, or \UXXXXXXXX")  # fmt: skip
            self._out.unread.add(path)
        return _SURROGATE.sub("\ufffd", text)

    def _unset(self, event: Any, path: KeyPath, name: str) -> None:
        self._note(event, path, *_unset_words(name))
        self._out.unread.add(path)


def _unset_words(name: str) -> tuple[str, ...]:
    allowed = f"a variable that is set, or ${{{name}:-default}}"
    return "FP108", "environment variable is not set", f"${{{name}}}", allowed, f"export {name}=…"


def expand(text: str, unset: Callable[[str], None]) -> str:
    """Replace `${NAME}` and `${NAME:-default}` from the environment; `$${` stands for `${`."""

    def one(match: re.Match[str]) -> str:
        name, default = match.groups()
        if match.group() == "$${" or name is None:
            return "${"
        value = os.environ.get(name, default)
        if value is None:
            unset(name)
            return match.group()
        return value

    return _VARIABLE.sub(one, text) if "${" in text else text


def _typed(resolver: Any, construct: Any, text: str) -> Any:
    if len(text) > _LONGEST_NUMBER:
        return text
    tag = resolver.resolve(yaml.ScalarNode, text, (True, False))
    if tag not in _TYPED:
        return text
    try:
        return construct.construct_object(yaml.ScalarNode(tag, text))
    except ValueError:
        return text


def read_mapping(source: Mapping[Any, Any]) -> Marked:
    """Take a mapping from Python as if it had been read from a file.

    Raises:
        PipelineError: FP112, it is nested too deeply, perhaps in itself.
    """
    marked = Marked(None)
    marked.data = _copied(marked, source, ())
    return marked


def _copied(marked: Marked, value: Any, path: KeyPath) -> Any:
    if len(path) > _DEEPEST:
        _refuse(marked.place(path[:3]), "FP112", "nested too deeply", f"more than {_DEEPEST} levels",
                f"{_DEEPEST} levels", "flatten the value")  # fmt: skip
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                marked.problems.append(
                    problem_at(marked.place((*path, str(key))), "FP112", "key is not text", repr(key), "a name",
                               "write the key as one word")
                )  # fmt: skip
        return {key: _copied(marked, value[key], (*path, key)) for key in value if isinstance(key, str)}
    if isinstance(value, (list, tuple)):
        return [_copied(marked, item, (*path, index)) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def unset(name: str) -> None:
        marked.problems.append(problem_at(marked.place(path), *_unset_words(name)))
        marked.unread.add(path)

    return expand(value, unset)


def read_scalar(text: str, source: str) -> Any:
    """Read the value of `--set key=value` as a piece of YAML.

    Raises:
        PipelineError: FP105, with the option as its place.
    """
    try:
        found = _Reader(source).read(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        _refuse(Place(source), "FP105", "YAML syntax", reason, "a YAML value", "quote the value")
    if found.problems:
        raise PipelineError(found.problems)
    return found.data

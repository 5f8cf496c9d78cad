"""What pydantic and the YAML parser found wrong, in the words of a pipeline file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from funcpipe_prefect.config.places import printable
from funcpipe_prefect.errors import near_misses

__all__ = ["kind_of", "reword", "reword_syntax", "shown"]

_WORDS: Mapping[str, tuple[str, str]] = {
    "name": (
        "letters, digits, _ - and dots, with a letter or _ first, at most 80 characters",
        "name: clean_text",
    ),
    "imports": ("a list of module names", "imports: [my_project.pipeline]"),
    "source": ("a mapping", "source: {type: jsonl, path: data/*.jsonl}"),
    "params": ("a mapping", "params: {size: 512}"),
    "transient": ("a list of exceptions", "transient: [ConnectionError]"),
    "fan_in": ("a whole number, 2 or more", "fan_in: 16"),
    "partitions": ("a whole number from 1 to 4096", "partitions: 32"),
    "monoid_params": ("a mapping", "monoid_params: {k: 5}"),
    "key_params": ("a mapping", "key_params: {field: author}"),
    "window": ("a mapping", "window: {time: seen_at, size: 1h}"),
    "size": ("a duration above 0: seconds, or a number with s, m, h, d or w", "size: 1h"),
    "period": ("a duration above 0: seconds, or a number with s, m, h, d or w", "period: 10m"),
    "offset": ("a duration above 0: seconds, or a number with s, m, h, d or w", "offset: 30m"),
    "max_batch_size": ("a whole number, 1 or more", "max_batch_size: 64"),
    "contract": ("a mapping", "contract: {idempotent: true}"),
    "idempotent": ("true or false", "contract: {idempotent: true}"),
    "resources": ("a mapping", "resources: {workers: 2}"),
    "workers": ("a whole number, 1 or more", "workers: 2"),
    "threads_per_worker": ("a whole number, 1 or more", "threads_per_worker: 1"),
    "memory_limit": ("a size above 0", "memory_limit: 2GiB"),
    "cluster_kwargs": ("a mapping", "cluster_kwargs: {n_workers: 4}"),
    "beam": ("a mapping", "beam: {runner: DirectRunner}"),
    "runner": ("a name of a Beam runner", "runner: PortableRunner"),
    "options": ("a mapping of Beam pipeline options", "options: {job_endpoint: localhost:8099}"),
    "materialization_points": ("a list of operator names", "materialization_points: [chunk]"),
    "retries": ("a mapping", "retries: {transform: 2, sink: 5}"),
    "transform": ("a whole number, 0 or more", "transform: 2"),
    "sink": ("a whole number, 0 or more", "sink: 5"),
    "delay_seconds": ("seconds, 0 or more, or a list of 1 to 50 such", "delay_seconds: [1, 10, 60]"),
    "jitter": ("a number from 0 to 10", "jitter: 0.5"),
    "errors": ("a mapping", "errors: {path: out/dead_letters}"),
    "max_error_rate": ("a number from 0 to 1", "max_error_rate: 0.01"),
    "cache": ("a mapping", "cache: {storage: /data/partitions}"),
    "block": ("the name of a block of the Prefect server", "block: my-settings"),
    "limits": ("a mapping of names to rates such as 10/s, 600/m or 5000/h", "limits: {embedding-api: 10/s}"),
    "keep": ("a duration above 0: seconds, or a number with s, m, h, d or w", "keep: 30d"),
    "expires": ("a duration above 0: seconds, or a number with s, m, h, d or w", "expires: 7d"),
    "serialization": (
        "a mapping of record types to codecs",
        "serialization: {default: msgpack, Chunk: arrow}",
    ),
    "task_budget": ("a whole number, 0 or more", "task_budget: 500"),
}
_OPERATOR = ("an operator, which is a mapping", "- {type: Map, name: clean, func: clean_doc}")
_UNQUOTED = re.compile(r"[+-]?\d+(\.\d+)?|true|false")
_KINDS = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}

_SYNTAX = (
    (r"character '\\t'", "a tab", "spaces for indentation", "indent with spaces"),
    (r"expected <block end>", "indentation or text that does not fit the lines above", "one key or item a line",
     "indent it like the lines that it belongs to"),
    (r"'\}', but got '<stream end>'", "a { that is never closed", "{key: value, …}", "add the } that is missing"),
    (r"'\]', but got '<stream end>'", "a [ that is never closed", "[item, …]", "add the ] that is missing"),
    (r"mapping values are not allowed", "a colon where no key can be", "key: value",
     "put a value that holds a colon in quotes; check the indentation"),
    (r"found character '(.)' that cannot", "a value that begins with \\1", "text, a number, a list or a mapping",
     "put it in quotes"),
    (r"sequence entries are not allowed", "a list item where no list can be", "- item, on a line of its own",
     "begin the list on a new line, below its key"),
    (r"could not find expected ':'", "a line without a colon", "key: value", "add the colon, or indent the line"),
)  # fmt: skip


def reword(issue: Mapping[str, Any], key: str) -> tuple[str, str, str]:
    """Say what was found, what is allowed and how to mend it.

    Args:
        issue: One entry of a `ValidationError`, about a value.
        key: The key that holds the value, or that holds the list around it.
    """
    kind, value = issue["type"], issue.get("input")
    if kind == "literal_error":
        allowed = re.findall(r"'([^']+)'", issue["ctx"]["expected"])
        return shown(value), ", ".join(allowed), near_misses(str(value), allowed)
    if kind == "string_type":
        scalar = isinstance(value, (bool, int, float))
        return (
            shown(value),
            "text",
            f'put it in quotes: "{shown(value)}"' if scalar else "write it as one word",
        )
    if kind == "model_attributes_type":
        return shown(value), _OPERATOR[0], f"for example {_OPERATOR[1]}"
    wanted, example = _WORDS.get(key, (issue["msg"].removeprefix("Input should be "), ""))
    return (
        shown(value),
        wanted,
        _mend(kind, value, key) or (f"for example {example}" if example else "write that"),
    )


def _mend(kind: str, value: Any, key: str) -> str:
    if not isinstance(value, str):
        return ""
    if kind == "list_type":
        return f"write {key}: [{value}]"
    if kind in ("int_type", "float_type", "bool_type") and _UNQUOTED.fullmatch(value):
        return f"write it without quotes: {value}"
    if kind == "string_pattern_mismatch":
        name = re.sub(r"[^A-Za-z0-9_.\-]+", "_", value).strip("_")
        return f"for example {key}: {name}" if name[:1].isalpha() and len(name) <= 80 else ""
    return ""


def reword_syntax(reason: str, line: str) -> tuple[str, str, str]:
    """Say what was found, what is allowed and how to mend it, without the parser's own terms where we can.

    Args:
        reason: What the YAML parser says.
        line: The line that it stumbled over.
    """
    if reason == "found unexpected end of stream":
        return "a quote that is never closed", "\"text\" or 'text'", "add the quote that is missing"
    if "${" in line and re.search(r"[{\[].*\$\{", line):
        return "${ inside of { } or [ ]", '"${NAME}" in quotes there', "put it in quotes"
    for pattern, found, allowed, mend in _SYNTAX:
        match = re.search(pattern, reason)
        if match:
            return match.expand(found), allowed, mend
    return reason, "YAML 1.1", "check indentation, quotes, colons and brackets here"


def shown(value: Any) -> str:
    """Write a value as a pipeline file would, on one line.

    Example:
        >>> shown("a"), shown(None), shown(True), shown([1, "b"])
        ('"a"', 'nothing', 'true', '[1, "b"]')
    """
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f'"{printable(value, 80)}"'
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan")
    try:
        return printable(json.dumps(value, ensure_ascii=False), 80)
    except (TypeError, ValueError):
        return printable(repr(value), 80)


def kind_of(value: Any) -> str:
    """Name the kind of a value: a mapping, a list, text, a number, a boolean."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")

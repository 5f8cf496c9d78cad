"""Fills in reference pages: the keys of pipeline files from the JSON Schema, the commands from their help."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMANDS = (
    [], ["init"], ["validate"], ["plan"], ["run"], ["laws"], ["errors", "ls"], ["errors", "show"], ["errors", "replay"],
    ["cache", "ls"], ["cache", "prune"], ["backfill"], ["schema"],
)  # fmt: skip


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put generated text where a page asks for it."""
    if "{{ keys }}" in markdown:
        markdown = markdown.replace("{{ keys }}", keys())
    if "{{ commands }}" in markdown:
        markdown = markdown.replace("{{ commands }}", commands())
    if "{{ decisions }}" in markdown:
        markdown = markdown.replace("{{ decisions }}", decisions())
    return markdown


def keys() -> str:
    """Give a table for the whole file and for each of its sections and operators."""
    from funcpipe_prefect.config import pipeline_schema

    schema = pipeline_schema()
    parts = ["## The file", _table(schema)]
    for name, part in schema["$defs"].items():
        title = re.sub(r"(?<!^)(?=[A-Z])", " ", name.removesuffix("Spec"))
        title = (
            title.replace("Batch Map", "BatchMap")
            .replace("Flat Map", "FlatMap")
            .replace("Combine By Key", "CombineByKey")
        )
        parts += [f"## {title}", part.get("description", ""), _table(part)]
    return "\n\n".join(parts)


def _table(part: dict[str, Any]) -> str:
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    for name, value in part.get("properties", {}).items():
        default = (
            ""
            if value.get("default") is None or isinstance(value["default"], (dict, list))
            else f"`{value['default']}`"
        )
        rows.append(f"| `{name}` | {_kind(value)} | {default} | {value.get('description', '')} |")
    return "\n".join(rows)


def _kind(value: dict[str, Any]) -> str:
    if "$ref" in value:
        return "see below"
    if "enum" in value or "const" in value:
        return ", ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    if "anyOf" in value:
        kinds = [_kind(one) for one in value["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false",
             "object": "mapping", "array": "list"}  # fmt: skip
    return names.get(value.get("type", ""), "any value")


def commands() -> str:
    """Give the help of each command."""
    parts = []
    for words in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-c", "from funcpipe_prefect.cli import main; main()", *words, "--help"],
            cwd=ROOT, capture_output=True, text=True, check=True, env={"COLUMNS": "100", "PATH": ""},
        )  # fmt: skip
        text = (done.stdout + done.stderr).strip()
        parts.append(f"## funcpipe {' '.join(words)}\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


def decisions() -> str:
    """List the decision records."""
    found = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    return "\n".join(f"- [{path.read_text().splitlines()[0].lstrip('# ')}]({path.name})" for path in found)

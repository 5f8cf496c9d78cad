"""The documentation: its pipelines are valid, its commands are ours, its links lead somewhere."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from funcpipe_prefect.config.load import load_config
from tests.conftest import ROOT
from tests.contract.test_backends import spec

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
STRUCTURE = ("FP103", "FP104", "FP109", "FP110", "FP101", "FP107")


def blocks(language: str) -> Iterator[Any]:
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(rf"```{language}\n(.*?)```", text, re.DOTALL):
            line = text[: match.start()].count("\n") + 1
            yield pytest.param(match[1], id=f"{page.relative_to(ROOT)}:{line}")


@pytest.mark.parametrize("text", list(blocks("yaml")))
def test_a_pipeline_of_the_docs_has_no_unknown_key_and_no_wrong_value(text: str) -> None:
    found = yaml.safe_load(text)
    if isinstance(found, list):
        found = {"operators": found}
    if set(found) <= {"params", "mode", "key", "contract"}:
        found = {
            "operators": [
                {"type": "Sink", "name": "s", "func": "jsonl", "contract": {"idempotent": True}, **found}
            ]
        }
    sections = {
        name: part for name, part in found.items() if not (isinstance(part, dict) and "block" in part)
    }
    config = load_config({"operators": [{"type": "Map", "name": "m", "func": "f"}], **sections})
    assert [str(problem) for problem in config.problems] == []


def test_every_command_of_ours_in_the_docs_exists() -> None:
    from funcpipe_prefect.cli import app

    known = {name for name in app if not name.startswith("-")}
    for page in PAGES:
        for word in re.findall(r"(?:^\s+|`|\$ )funcpipe ([a-z]+)", page.read_text(), re.MULTILINE):
            assert word in known, f"{page.name}: funcpipe {word}"


def test_every_option_in_the_docs_is_one_of_its_command() -> None:
    import contextlib
    import io

    from funcpipe_prefect.cli import main

    helps: dict[str, str] = {}
    for page in PAGES:
        for words, rest in re.findall(
            r"^(?:    |\$ )funcpipe ((?:errors |cache )?[a-z]+)(.*)$", page.read_text(), re.MULTILINE
        ):
            if words not in helps:
                text = io.StringIO()
                with (
                    pytest.raises(SystemExit),
                    contextlib.redirect_stderr(text),
                    contextlib.redirect_stdout(text),
                ):
                    main([*words.split(), "--help"])
                helps[words] = text.getvalue()
            for option in re.findall(r"(--[a-z-]+)", rest.partition("#")[0]):
                assert option in helps[words], f"{page.name}: funcpipe {words} {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_python_of_the_readme_and_the_guide_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import dask

    [readme] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    beams, dasks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.DOTALL)
    module = types.ModuleType("readme_example")
    (tmp_path / "docs.jsonl").write_text('{"id": "1", "text": "  some   more text "}\n')
    module.spec = {  # type: ignore[attr-defined]
        "source": {"type": "jsonl", "path": str(tmp_path / "docs.jsonl")},
        "operators": [{"type": "Map", "name": "tidy", "func": "tidy"}],
    }
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(readme, vars(module))
    assert module.tidy(module.Doc("1", " some  text ")) == module.Doc("1", "some text")
    exec(beams, vars(module))
    assert "some text" in capsys.readouterr().out
    with dask.config.set(scheduler="synchronous"):
        exec(dasks, vars(module))
        assert capsys.readouterr().out == f"{len('some more text')}\n"
        assert module.frame["text"].compute().tolist() == ["some more text"]


VALUES = {"FILE": "file.jsonl", "B": "local", "N": "5", "NAME": "tidy", "URL": "store", "7d": "7d"}


def written_commands() -> Iterator[list[str]]:
    """Give the commands that pages show in one line, with all their options and with none; not what needs a server."""
    for page in PAGES:
        for line in re.findall(r"^    funcpipe ((?!backfill).*)$", page.read_text(), re.MULTILINE):
            shown = re.split(r"\s{2,}", line)[0].replace("...", "")
            for alternative in ("ls", "prune") if "ls | prune" in shown else ("",):
                one = shown.replace("ls | prune", alternative)
                yield re.sub(r"\[.*?\]", "", one).split()
                yield one.replace("[", "").replace("]", "").split()


@pytest.mark.slow
def test_every_command_of_a_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from funcpipe_prefect.cli import main

    monkeypatch.chdir(tmp_path)
    rows = [{"id": n, "text": "poison" if n == 3 else "a line"} for n in range(20)]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("file.jsonl").write_text(json.dumps(rows[0]) + "\n")
    mapping = spec(tmp_path, source={"type": "jsonl", "path": "in.jsonl"})
    mapping["cache"] = {"storage": "store"}
    Path("p.yaml").write_text(yaml.safe_dump(mapping))

    def run(*words: str) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        return ended.value.code, capsys.readouterr().out

    assert run("run", "p.yaml", "--backend", "local")[0] == 0
    letter = json.loads(run("errors", "ls", "p.yaml", "--json")[1])["causes"][0]["id"]
    seen = set()
    for words in written_commands():
        command = [VALUES.get(word, word).replace("PIPELINE.yaml", "p.yaml") for word in words]
        command = [letter if word == "ID" else word for word in command]
        code, out = run(*command)
        assert code == 0, (command, out)
        seen.add(command[0])
    assert seen == {"cache", "errors", "laws", "plan"}

"""Every mistake in a pipeline file is told with its place, what was found, what is allowed and a mend.

`FUNCPIPE_UPDATE_GOLDEN=1` rewrites the expected messages; read what changed before you keep it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from funcpipe_prefect.cli import main

BAD = Path(__file__).parent / "bad"
FILES = sorted(path.name for path in BAD.glob("*.yaml"))
UPDATE = os.environ.get("FUNCPIPE_UPDATE_GOLDEN") == "1"
ALLOWED = "golden_*"

Refused = Callable[[str], str]


def compare(name: str, message: str) -> None:
    expected = BAD / f"{name}.txt"
    if UPDATE:
        expected.write_text(message, encoding="utf-8")
    assert message == expected.read_text(encoding="utf-8")


@pytest.fixture
def refused(registries: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Validate a file by the real command; give what it printed when it refused the file."""
    monkeypatch.chdir(BAD)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_FUNCPIPE_ALLOWED_IMPORTS", ALLOWED)

    def run(path: str) -> str:
        with pytest.raises(SystemExit) as exit_info:
            main(["validate", path])
        printed = capsys.readouterr()
        assert exit_info.value.code == 2
        assert printed.out == ""
        assert "Traceback" not in printed.err
        return printed.err

    return run


@pytest.mark.parametrize("file", FILES)
def test_a_mistake_is_told_as_expected(file: str, refused: Refused) -> None:
    compare(file.removesuffix(".yaml"), refused(file))


def test_every_expected_message_has_its_pipeline() -> None:
    made = {
        "file_missing",
        "file_is_a_directory",
        "file_too_large",
        "file_not_utf8",
        "file_utf16",
        "too_many_values",
    }
    expected = {path.stem for path in BAD.glob("*.txt")}
    assert expected - made == {name.removesuffix(".yaml") for name in FILES}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("file_missing", None),
        ("file_is_a_directory", "directory"),
        ("file_too_large", b"# a pipeline file that holds its own data\n" * 250_000),
        ("file_not_utf8", "# caf\u00e9\noperators: []\n".encode("latin-1")),
        ("file_utf16", "operators: []\n".encode("utf-16")),
        ("too_many_values", b"operators: [" + b"1," * 20_000 + b"]\n"),
    ],
)
def test_a_file_that_cannot_be_committed(
    name: str, content: bytes | str | None, tmp_path: Path, refused: Refused
) -> None:
    path = tmp_path / f"{name}.yaml"
    if content == "directory":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    compare(name, refused(str(path)).replace(str(path), path.name))


@pytest.mark.parametrize("name", ["unknown_function", "yaml_tab", "many_mistakes"])
def test_the_installed_command_says_the_same(name: str, registries: Path) -> None:
    command = Path(sys.executable).parent / "funcpipe"
    environment = {
        **os.environ,
        "PYTHONPATH": str(registries),
        "PREFECT_INTEGRATIONS_FUNCPIPE_ALLOWED_IMPORTS": ALLOWED,
    }
    done = subprocess.run(
        [command, "validate", f"{name}.yaml"],
        cwd=BAD,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    compare(name, done.stderr)


def test_many_mistakes_are_told_at_once_in_document_order(refused: Refused) -> None:
    message = refused("many_mistakes.yaml")
    lines = [
        int(line.split("many_mistakes.yaml:")[1].split(":")[0])
        for line in message.splitlines()
        if "many_mistakes.yaml:" in line
    ]
    assert len(lines) >= 10
    assert lines == sorted(lines)

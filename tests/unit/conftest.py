"""What the fingerprint tests share."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from funcpipe_prefect.fingerprint import fingerprint

PrintOf = Callable[..., str]


@pytest.fixture
def print_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PrintOf:
    """Import a text as the module `user_code` and take the fingerprint of its `f`."""

    def load(source: str, name: str = "f") -> str:
        path = tmp_path / "user_code.py"
        path.write_text(textwrap.dedent(source))
        spec = importlib.util.spec_from_file_location("user_code", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "user_code", module)
        exec(compile(path.read_text(), str(path), "exec"), vars(module))
        return fingerprint(getattr(module, name))

    return load

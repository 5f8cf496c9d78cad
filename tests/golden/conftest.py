"""The registry modules of the golden pipelines are importable, as a user's own would be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

collect_ignore_glob = ["registries/*", "bad/*", "good/*"]


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the registry modules on the path for one test, and forget them behind it."""
    folder = HERE / "registries"
    monkeypatch.syspath_prepend(str(folder))
    for module in folder.glob("*.py"):
        monkeypatch.delitem(sys.modules, module.stem, raising=False)
    return folder

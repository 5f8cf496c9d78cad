"""Sinks and sources that installed packages bring by entry points."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import load_pipeline, run_local
from funcpipe_prefect.builder.imports import ALLOWED_IMPORTS
from funcpipe_prefect.errors import PipelineError

CODE = '''
from dataclasses import dataclass
from funcpipe_prefect.ir import Split
from funcpipe_prefect.sinks import JsonlSink

class ShelfSink(JsonlSink):
    """JSON Lines by another name."""

@dataclass(frozen=True)
class Numbers:
    count: int = 3
    def list_splits(self):
        return [Split("numbers", "numbers", 0, self.count)]
    def read(self, split, record_type):
        return ((n, {"id": n, "text": "x", "weight": 0.5}) for n in range(split.stop))
    def locate(self, split, position):
        return f"number {position}"

def no_class(): ...
'''
POINTS = """
[funcpipe_prefect.sinks]
shelf = shelf_package:ShelfSink
wrong = shelf_package:no_class
broken = shelf_broken:Sink

[funcpipe_prefect.sources]
numbers = shelf_package:Numbers
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    site = tmp_path / "site"
    info = site / "shelf_package-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "shelf_package.py").write_text(CODE)
    (site / "shelf_broken.py").write_text("raise RuntimeError('no such licence')")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(site))
    yield
    for name in ("shelf_package", "shelf_broken"):
        sys.modules.pop(name, None)


def spec(folder: Path, sink: str = "shelf", source: str = "numbers") -> dict[str, Any]:
    return {
        "name": "p",
        "source": {"type": source, "count": 5},
        "operators": [{"type": "Sink", "name": "write", "func": sink, "contract": {"idempotent": True},
                       "params": {"path": str(folder / "out")}}],
        "cache": {"storage": str(folder / "cache")},
    }  # fmt: skip


def test_a_pipeline_uses_what_an_installed_package_brings(package: None, tmp_path: Path) -> None:
    assert run_local(load_pipeline(spec(tmp_path))).records_out == 5
    assert (tmp_path / "out" / "_manifest.json").exists()


def test_nothing_is_imported_that_the_file_does_not_name(package: None, tmp_path: Path) -> None:
    mapping = spec(tmp_path, sink="jsonl")
    mapping["source"] = {"type": "jsonl", "path": "x.jsonl"}
    load_pipeline(mapping)
    assert "shelf_package" not in sys.modules


@pytest.mark.parametrize(
    ("sink", "fault"),
    [
        ("broken", r"FP113 module fails on import.*\n.*shelf_broken:Sink: RuntimeError: no such licence"),
        ("wrong", r"FP113 not a sink.*\n.*shelf_package:no_class: a function"),
        ("absent", "FP102 unknown sink"),
    ],
)
def test_what_is_no_sink_is_told_at_its_name(package: None, tmp_path: Path, sink: str, fault: str) -> None:
    with pytest.raises(PipelineError, match=fault):
        load_pipeline(spec(tmp_path, sink))


def test_the_allow_list_holds_for_them(
    package: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOWED_IMPORTS, "funcpipe_prefect")
    with pytest.raises(PipelineError, match=r"FP114 module is not admitted.*\$\.operators\[0\]\.func"):
        load_pipeline(spec(tmp_path))
    assert "shelf_package" not in sys.modules

"""Changed code: after one edit of a user's package exactly the affected stages run again.

Each edit is made to a copy of the package in another folder and run in a new process there, with
another hash seed and working directory, on the store and the output of the first run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PACKAGE = {
    "shop/__init__.py": "",
    "shop/records.py": '''
from dataclasses import dataclass, field
from typing import Literal, TypedDict

@dataclass
class Doc:
    """A document."""
    id: int
    text: str

class Origin(TypedDict):
    page: int

@dataclass
class Chunk:
    id: int
    text: str
    kind: Literal["long", "short"] = "long"
    origin: Origin = field(default_factory=lambda: {"page": 1})
''',
    "shop/words.py": '''
import enum, re
import numpy as np

LIMIT = 40
SPACES = re.compile(r"\\s+")
WEIGHTS = np.array([1.0, 2.0, 3.0])

class Size(enum.Enum):
    SMALL = 3
    LARGE = 9

    def doubled(self):
        return self.value * 2

def cut(text):
    return text[:LIMIT]

def tidy(text, *, strip=True):
    """Tidy a text."""
    text = SPACES.sub(" ", cut(text))  # one blank
    return text.strip() if strip else text

class Base:
    glue = "-"
    def join(self, parts):
        return self.glue.join(parts)

class Joiner(Base):
    def __init__(self, upper=False):
        self.upper = upper
    def __call__(self, parts):
        return self.join(part.upper() if self.upper else part for part in parts)
''',
    "shop/late.py": """
def mark(text):
    return text + "."
""",
    "shop/tools.py": """
def fold(text):
    return text.casefold()

def unused(text):
    return text
""",
    "shop/ops.py": """
import functools
from funcpipe_prefect import Registry
from shop import tools
from shop import words as w
from shop.records import Chunk, Doc
from shop.words import tidy as tidied
import outside

registry = Registry()
join = w.Joiner()
TABLE = {"a": "A", "b": "B"}

def logged(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)
    return inner

def times(number):
    def repeat(text):
        return text * number
    return repeat

twice = times(2)
first = functools.partial(max, default=0)
shorter = lambda text: text[:30]

@registry.func
def clean(doc: Doc) -> Doc:
    return Doc(doc.id, tidied(doc.text))

@registry.func
@logged
def chunk(doc: Doc, *, size: int = 5, joined: bool = False) -> list[Chunk]:
    from shop.late import mark
    parts = [mark(part) for part in doc.text.split()][:size]
    return [Chunk(doc.id, join(parts))]

@registry.func(version="1")
def tag(chunk: Chunk) -> Chunk:
    return Chunk(chunk.id, chunk.text + "!")

@registry.artifact
def model() -> dict:
    return {name: len(name) for name in ("small", "large")}

@registry.func
def embed(batch: list[Chunk], *, model: dict) -> list[Chunk]:
    weight = float(w.WEIGHTS.sum()) + w.Size.SMALL.doubled() + first([1]) + len(model)
    out = [twice(shorter(getattr(tools, "fold")(chunk.text))) for chunk in batch]
    return [Chunk(chunk.id, f"{text} {weight} {outside.scale(2)} {TABLE}") for chunk, text in zip(batch, out)]
""",
    "libs/site-packages/outside.py": "def scale(x):\n    return x * 10\n",
    "libs/site-packages/outside-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n",
    "libs/site-packages/outside-1.0.dist-info/top_level.txt": "outside\n",
}

SCRIPT = """
import json, sys
from funcpipe_prefect import load_pipeline, run_local
ran = {}
def note(done):
    if done.index >= 0:
        ran[done.stage] = ran.get(done.stage, 0) + (not done.cached)
report = run_local(load_pipeline(json.load(sys.stdin)), progress=note)
print(json.dumps({"ran": ran, "run": report.tasks_run, "cached": report.tasks_cached, "out": report.records_out}))
"""

STAGES = ["clean", "chunk", "tag", "embed+write"]
SPLITS = 2


@dataclass
class Place:
    """A copy of the package with the store and the output of the first run."""

    folder: Path
    data: Path

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} in {file}"
        path.write_text(text.replace(old, new))

    def spec(self) -> dict[str, Any]:
        return {
            "name": "shop",
            "imports": ["shop.ops"],
            "source": {"type": "jsonl", "path": str(self.data)},
            "operators": [
                {"type": "Map", "name": "clean", "func": "clean"},
                {"type": "FlatMap", "name": "chunk", "func": "chunk", "params": {"size": 5, "joined": False}},
                {"type": "Map", "name": "tag", "func": "tag"},
                {"type": "BatchMap", "name": "embed", "func": "embed"},
                {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
                 "params": {"path": "out"}},
            ],
            "materialization_points": ["clean", "chunk", "tag"],
            "cache": {"storage": str(self.folder / "store")},
            "errors": {"path": "letters"},
        }  # fmt: skip

    def run(self, spec: dict[str, Any] | None = None) -> list[str]:
        """Run in a new process; give the stages that ran, on every split, and check the others did not."""
        path = [str(self.folder), str(self.folder / "libs" / "site-packages")]
        result = subprocess.run(
            [sys.executable, "-B", "-c", SCRIPT],
            input=json.dumps(spec or self.spec()), cwd=self.folder, text=True, capture_output=True, timeout=120,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONHASHSEED": "random"},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        report = json.loads(result.stdout.splitlines()[-1])
        assert report["out"] == 20
        assert report["run"] + report["cached"] == len(STAGES) * SPLITS
        assert set(report["ran"].values()) <= {0, SPLITS}
        assert report["run"] == sum(report["ran"].values())
        return [stage for stage in STAGES if report["ran"].get(stage)]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("data"))
    for name, text in PACKAGE.items():
        (place.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (place.folder / name).write_text(text)
    for part in range(SPLITS):
        rows = [
            {"id": number, "text": f"Some  text  number {number}"}
            for number in range(part * 10, part * 10 + 10)
        ]
        (place.data / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert place.run() == STAGES
    return place


@pytest.fixture
def place(first_run: Place, tmp_path: Path) -> Place:
    folder = tmp_path / "elsewhere"
    shutil.copytree(first_run.folder, folder)
    return Place(folder, first_run.data)


OPS, WORDS, RECORDS = "shop/ops.py", "shop/words.py", "shop/records.py"

EDITS: dict[str, tuple[str, str, str, str | None]] = {
    "a comment": (WORDS, "  # one blank", "  # a single blank", None),
    "a docstring of a function": (WORDS, '"""Tidy a text."""', '"""Make a text tidy."""', None),
    "a docstring of a record": (RECORDS, '"""A document."""', '"""One document."""', None),
    "the order of a dict": (OPS, '{"a": "A", "b": "B"}', '{"b": "B", "a": "A"}', None),
    "lines above a function": (WORDS, "LIMIT = 40", "\n\n\nLIMIT = 40", None),
    "code that nobody calls": (OPS, "first = functools", "def idle(): return 1\n\nfirst = functools", None),
    "a constant two calls away": (WORDS, "LIMIT = 40", "LIMIT = 41", "clean"),
    "a helper two calls away": (WORDS, "text[:LIMIT]", "text[: LIMIT - 1]", "clean"),
    "a regular expression": (WORDS, r'r"\s+"', r'r"\s"', "clean"),
    "a default of a helper": (WORDS, "strip=True", "strip=False", "clean"),
    "a decorator": (OPS, "return function(*args, **kwargs)", "return list(function(*args, **kwargs))", "chunk"),
    "a decorated function": (OPS, "[mark(part) for", "[mark(part + '') for", "chunk"),
    "a helper imported in the function": ("shop/late.py", '"."', '","', "chunk"),
    "a method": (WORDS, "part.upper() if", "part.title() if", "chunk"),
    "an inherited class attribute": (WORDS, 'glue = "-"', 'glue = "+"', "chunk"),
    "the state of an instance": (OPS, "w.Joiner()", "w.Joiner(upper=True)", "chunk"),
    "a field of a record added": (RECORDS, 'kind: Literal', 'extra: int = 0\n    kind: Literal', "chunk"),
    "the type of a field": (RECORDS, '["long", "short"]', '["long", "short", "none"]', "chunk"),
    "a type inside a nested record": (RECORDS, "page: int", "page: float", "chunk"),
    "the first record": (RECORDS, "    text: str\n\nclass", "    text: str\n    lang: str = 'en'\n\nclass", "clean"),
    "code of a function with a version": (OPS, '+ "!"', '+ "?"', None),
    "the version of a function": (OPS, 'version="1"', 'version="2"', "tag"),
    "an artifact": (OPS, '("small", "large")', '("small", "huge")', "embed+write"),
    "a closure": (OPS, "times(2)", "times(3)", "embed+write"),
    "the argument of a partial": (OPS, "default=0", "default=1", "embed+write"),
    "a lambda": (OPS, "text[:30]", "text[:29]", "embed+write"),
    "an array": (WORDS, "3.0]", "4.0]", "embed+write"),
    "a value of an enum": (WORDS, "SMALL = 3", "SMALL = 4", "embed+write"),
    "a method of an enum": (WORDS, "self.value * 2", "self.value + 2", "embed+write"),
    "a helper behind getattr": ("shop/tools.py", "text.casefold()", "text.lower()", "embed+write"),
    "code of a library, its version kept": ("libs/site-packages/outside.py", "x * 10", "x * 11", None),
    "the version of a library": (
        "libs/site-packages/outside-1.0.dist-info/METADATA", "Version: 1.0", "Version: 1.1", "embed+write"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "first"), EDITS.values(), ids=EDITS)
def test_an_edit_runs_the_stages_that_it_affects_and_no_other(
    place: Place, file: str, old: str, new: str, first: str | None
) -> None:
    place.edit(file, old, new)
    assert place.run() == ([] if first is None else STAGES[STAGES.index(first) :])


def test_a_package_that_moved_runs_nothing(place: Place) -> None:
    assert place.run() == []


def test_parameters_count_and_their_order_does_not(place: Place) -> None:
    spec = place.spec()
    spec["operators"][1]["params"] = {"joined": False, "size": 5}
    assert place.run(spec) == []
    spec["operators"][1]["params"] = {"size": 4}
    assert place.run(spec) == STAGES[1:]


def test_the_kind_and_the_policy_of_an_operator_count(place: Place) -> None:
    spec = place.spec()
    spec["operators"][3]["error_policy"] = "fail_fast"
    assert place.run(spec) == STAGES[3:]
    spec["operators"][3] = {"type": "Map", "name": "embed", "func": "tag"}
    assert place.run(spec) == STAGES[3:]

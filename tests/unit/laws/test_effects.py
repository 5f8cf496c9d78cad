"""Effects in code: each is found at its line by whatever way it is reached, and nothing else is."""

from __future__ import annotations

import functools
import inspect
import operator
import re
import sys
import textwrap
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect.examples import packages, rag
from funcpipe_prefect.laws.effects import EFFECTS, Finding, findings
from tests.registries import effects

TAG = re.compile(r"# (" + "|".join(EFFECTS) + r"): (.+)$")
Found = set[tuple[str, str, int]]


def tagged(*functions: Any) -> Found:
    """What the comments in the source of functions and classes say."""
    expected: Found = set()
    for function in functions:
        lines, first = inspect.getsourcelines(function)
        for number, line in enumerate(lines, first):
            if (tag := TAG.search(line)) is not None:
                expected |= {(tag[1], what, number) for what in tag[2].split(", ")}
    return expected


def found(call: Callable[..., Any]) -> Found:
    return {(one.effect, one.what, one.line) for one in findings(call)}


ALONE = [
    "clocks", "dates", "dates_by_default", "chances", "chances_of_numpy", "unseeded", "network",
    "network_by_local_imports", "files", "paths", "paths_by_annotation", "paths_in_a_union", "paths_in_a_global",
    "paths_by_method", "environment", "processes", "a_global_written", "a_global_deleted",
    "a_global_written_within", "aliases", "held_in_a_container", "held_in_a_partial", "as_an_argument", "nested",
    "captured", "generator", "coroutine", "in_a_handler", "cached", "makes_a_record", "makes_a_model",
    "makes_a_struct", "makes_a_client_of_its_own",
]  # fmt: skip
PURE = [name for name in vars(effects) if name.startswith(("pure_", "methods_of_no_path"))]


@pytest.mark.parametrize("name", ALONE)
def test_an_effect_is_found_at_its_line(name: str) -> None:
    function = getattr(effects, name)
    assert tagged(function)
    assert found(function) == tagged(function)


@pytest.mark.parametrize("name", PURE)
def test_a_pure_function_is_not_accused(name: str) -> None:
    assert findings(getattr(effects, name)) == ()


REACHED = {
    "two_levels_down": [effects._down],
    "recursive": [effects._mutual],
    "decorated": [effects.timed, effects.decorated],
    "dispatched": [effects._of_text],
    "makes_an_instance": [effects.Cleaner._tidy, effects.Cleaner.home.fget],
    "has_an_instance": [effects.Cleaner._tidy, effects.Cleaner.home.fget],
    "calls_an_instance": [effects.Cleaner._tidy, effects.Cleaner.home.fget],
    "calls_a_super_class": [effects.Cleaner._tidy, effects.Cleaner.home.fget],
    "calls_a_class_method": [effects.Tools.build],
}


@pytest.mark.parametrize("name", REACHED)
def test_an_effect_is_found_where_it_is_reached(name: str) -> None:
    assert tagged(*REACHED[name])
    assert found(getattr(effects, name)) == tagged(*REACHED[name])


def test_a_finding_names_the_function_and_the_place() -> None:
    (finding,) = findings(effects.two_levels_down)
    assert finding.file == effects.__file__
    assert str(finding) == f"clock: time.time in _down (effects.py:{finding.line})"


def test_a_finding_in_a_comprehension_names_the_function_around_it() -> None:
    assert {one.function for one in findings(effects.generator)} == {"generator"}


def test_findings_are_sorted_and_without_duplicates() -> None:
    several = findings(effects.files)
    assert list(several) == sorted(set(several))
    assert len(findings(effects.environment)) == len({str(one) for one in findings(effects.environment)})


@pytest.mark.parametrize("name", ["build", "plain", "stamped", "seeded"])
def test_a_bound_method_is_read_with_its_object(name: str) -> None:
    tools = effects.Tools(clock=time.time)
    part = effects.Tools.seed.func if name == "seeded" else getattr(effects.Tools, name)
    assert tagged(part)
    assert found(getattr(tools, name)) == tagged(part)


@pytest.mark.parametrize("call", [effects.CLEANER, effects.Cleaner], ids=["object", "class"])
def test_an_object_or_class_that_can_be_called_is_read(call: Any) -> None:
    assert found(call) == tagged(effects.Cleaner._tidy, effects.Cleaner.home.fget)


def test_a_clock_that_a_partial_binds_is_found_where_it_is_called() -> None:
    bound = functools.partial(functools.partial(effects.dates_by_default, day=len), clock=time.time)
    assert {what for _, what, _ in found(bound)} == {"time.time"}
    assert findings(functools.partial(effects.dates_by_default, clock=len, day=len)) == ()


def test_a_closure_is_read_with_what_it_holds() -> None:
    def make(clock: Callable[[], float]) -> Callable[[], float]:
        def stamp() -> float:
            return clock()

        return stamp

    assert [one.what for one in findings(make(time.time))] == ["time.time"]
    assert findings(make(float)) == ()


@pytest.mark.parametrize(
    "call",
    [
        print, len, int, dict.get, "".join, operator.itemgetter(1), functools.partial(map, str), Path, object(), None,
        lambda: None, [], effects.Mine, type("Odd", (), {"__getattr__": lambda self, name: 1 / 0})(), EFFECTS,
        functools.partial(print, 1), re.compile("a").sub, iter([]), sys.modules["os"],
    ],
    ids=lambda call: type(call).__name__,
)  # fmt: skip
def test_nothing_that_can_be_called_fails_or_is_accused(call: Any) -> None:
    assert findings(call) == ()


def test_a_function_in_c_counts_by_what_it_is() -> None:
    assert findings(time.time) == (Finding("clock", "time.time", "", 0, "time"),)
    assert str(findings(functools.partial(uuid.uuid4))[0]) == "randomness: uuid.uuid4 in uuid4"


def test_an_object_that_lies_or_fails_breaks_no_reading() -> None:
    class Proxy:
        @property
        def __class__(self) -> type:
            raise RuntimeError("working outside of a context")

        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("working outside of a context")

    proxy = Proxy()

    def use(x: Any) -> Any:
        return proxy.user, time.time()

    assert [one.what for one in findings(use)] == ["time.time"]


def test_a_list_that_holds_itself_is_read_once() -> None:
    held: list[Any] = [time.time]
    held.append(held)

    def use(x: Any) -> Any:
        return held[0]()

    assert [one.what for one in findings(use)] == ["time.time"]


def test_reading_runs_no_code_of_the_users() -> None:
    class Explosive:
        def __getattribute__(self, name: str) -> Any:
            if name != "__dict__":
                raise AssertionError(name)
            return {}

        @property
        def value(self) -> Any:
            raise AssertionError

    explosive = Explosive()

    def use(x: Any) -> Any:
        return explosive.value, explosive.other(x)

    assert findings(use) == ()


def test_the_example_pipelines_are_pure() -> None:
    functions = [rag.clean_doc, rag.chunk_doc, rag.hash_batch, rag.count_words]
    assert [findings(function) for function in functions] == [()] * len(functions)
    assert "file" not in {one.effect for one in findings(packages.registry)}


def test_code_of_libraries_is_not_read() -> None:
    import fsspec.implementations.local as library

    assert findings(library.LocalFileSystem.ls) == ()


@pytest.mark.parametrize(
    ("library", "call"),
    [("requests", "get"), ("requests", "Session"), ("urllib3", "PoolManager"), ("redis", "Redis")],
)
def test_a_library_of_the_network_is_found_by_its_public_name(library: str, call: str) -> None:
    pytest.importorskip(library)
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(f"from {library} import {call} as c\ndef f(x): return c(x)", scope)
    assert [one.what for one in findings(scope["f"])] == [f"{library}.{call}"]


def test_exceptions_and_parsing_of_requests_are_pure() -> None:
    pytest.importorskip("requests")
    scope: dict[str, Any] = {"__name__": "__main__"}
    source = """
    import requests
    def f(x):
        try:
            return requests.utils.quote(x)
        except (requests.RequestException, requests.exceptions.Timeout):
            return requests.codes.ok
    """
    exec(textwrap.dedent(source), scope)
    assert findings(scope["f"]) == ()


Modules = Callable[[dict[str, str]], None]


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Modules:
    """Write modules of the user's, by path, importable for one test."""

    def write(sources: dict[str, str]) -> None:
        for path, source in sources.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(str(tmp_path))

    return write


def function_of(source: str) -> Callable[..., Any]:
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(textwrap.dedent(source), scope)
    return scope["f"]


def test_a_module_that_is_imported_when_it_is_called_is_read_but_not_run(modules: Modules) -> None:
    modules(
        {
            "lazy_effects_one.py": """
        import registry_that_is_not_there
        from time import time as now

        @registry_that_is_not_there.func
        def helper(x):
            return _deeper(x)

        def _deeper(x):
            return now()

        def unused(x):
            return open(x)

        raise SystemExit("it was run")
        """
        }
    )
    found = findings(
        function_of("def f(x):\n    from lazy_effects_one import helper as h\n    return h(x)\n")
    )
    assert [(one.what, Path(one.file).name, one.line) for one in found] == [
        ("time.time", "lazy_effects_one.py", 10)
    ]
    assert "lazy_effects_one" not in sys.modules


def test_a_lazy_module_that_reads_a_file_when_it_is_imported_is_found(modules: Modules) -> None:
    modules({"lazy_effects_two.py": "WORDS = [line for line in open('words.txt')]\n"})
    (finding,) = findings(function_of("def f(x):\n    import lazy_effects_two as m\n    return m.WORDS\n"))
    assert (finding.what, finding.line, finding.function) == ("open", 1, "<module>")


@pytest.mark.parametrize("marker", ["__init__.py", "of_no_meaning.txt"], ids=["package", "namespace package"])
def test_classes_and_submodules_of_a_lazy_package_are_read(modules: Modules, marker: str) -> None:
    name = f"lazy_effects_{'namespace' if marker.endswith('txt') else 'package'}"
    texts = """
    import os
    from . import more

    class Store:
        kind = "store"

        def save(self, x):
            return os.listdir(x), super().save(x)

        def load(self, x):
            return open(x)
    """
    modules(
        {f"{name}/{marker}": "", f"{name}/texts.py": texts, f"{name}/more.py": "import os\nP = os.getpid()\n"}
    )
    function = function_of(f"def f(x):\n    import {name}.texts\n    return {name}.texts.Store().save(x)\n")
    assert {one.what for one in findings(function)} == {"os.listdir", "os.getpid"}


def test_lazy_modules_that_import_each_other_are_read_once(modules: Modules) -> None:
    modules(
        {
            "lazy_effects_four.py": "import lazy_effects_five\ndef a(x): return lazy_effects_five.b(x)\n",
            "lazy_effects_five.py": "import lazy_effects_four, time\ndef b(x): return time.time()\n",
        }
    )
    found = findings(function_of("def f(x):\n    import lazy_effects_four as m\n    return m.a(x)\n"))
    assert [one.what for one in found] == ["time.time"]


def test_a_module_that_is_missing_or_broken_breaks_no_reading(modules: Modules) -> None:
    modules({"lazy_effects_six.py": "def broken(:\n"})
    source = """
    def f(x):
        import lazy_effects_six, nowhere_to_be_found
        from lazy_effects_six import a
        return a(x), nowhere_to_be_found.get(x)
    """
    assert findings(function_of(source)) == ()


STDLIB = frozenset({"argparse", "json", "logging", "dataclasses"})


def test_any_code_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from funcpipe_prefect.laws import effects as reading

    monkeypatch.setattr(reading, "is_users", lambda module: module in STDLIB)
    namespaces = [vars(sys.modules[name]) for name in STDLIB]
    namespaces += [vars(value) for names in namespaces for value in names.values() if inspect.isclass(value)]
    functions = [value for names in namespaces for value in names.values() if inspect.isfunction(value)]
    assert len(functions) > 300
    assert "clock" in {one.effect for function in functions for one in findings(function)}

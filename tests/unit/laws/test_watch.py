"""What happens outside is told while it is watched, at the user's line, and nothing else is."""
# ruff: noqa: PTH102, PTH104, PTH106, PTH207, PTH208

from __future__ import annotations

import ast
import functools
import glob
import importlib
import inspect
import json
import linecache
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import traceback
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis.database import DirectoryBasedExampleDatabase

from funcpipe_prefect.laws.watch import Event, watched


def line_of(function: Any) -> int:
    lines, first = inspect.getsourcelines(function)
    return next(number for number, line in enumerate(lines, first) if "# here" in line)


def seen(call: Callable[..., Any], *args: Any, users_only: bool = True) -> list[Event]:
    with watched(users_only=users_only) as events, suppress(OSError):
        call(*args)
    return events


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "docs.json"
    path.write_text('{"a": 1}')
    return path


def opens(path: Path) -> Any:
    with open(path) as file:  # here
        return json.load(file)


def reads(path: Path) -> str:
    return path.read_text()  # here


def reads_by_a_library(path: Path) -> Any:
    with fsspec.open(str(path)) as file:  # here
        return file.read()


def lists(path: Path) -> Any:
    return os.listdir(path.parent)  # here


def scans(path: Path) -> Any:
    return list(os.scandir(path.parent))  # here


def walks_a_pattern(path: Path) -> Any:
    return glob.glob(str(path.parent / "*"))  # here


def removes(path: Path) -> None:
    path.unlink()  # here


def renames(path: Path) -> None:
    os.rename(path, path.with_suffix(".txt"))  # here


def makes_a_folder(path: Path) -> None:
    os.mkdir(path.parent / "new")  # here


def copies(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".txt"))  # here


def makes_a_temporary_folder(path: Path) -> None:
    os.rmdir(tempfile.mkdtemp(dir=path.parent))  # here


def opens_a_database(path: Path) -> None:
    sqlite3.connect(path.with_suffix(".db")).close()  # here


def connects(path: Path) -> None:
    with socket.socket() as client:
        client.connect(("127.0.0.1", 9))  # here


def looks_up(path: Path) -> None:
    socket.getaddrinfo("localhost", 80)  # here


def fetches(path: Path) -> None:
    with suppress(urllib.error.URLError):
        urllib.request.urlopen("http://127.0.0.1:9/", timeout=1)  # here


def starts(path: Path) -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)  # here


def starts_a_shell(path: Path) -> None:
    os.system("true")  # here


def sets_a_variable(path: Path) -> None:
    os.environ["FUNCPIPE_TEST_OF_EFFECTS"] = "1"  # here


HAPPENING = {
    opens: ("file", "open '{}'"),
    reads: ("file", "open '{}'"),
    reads_by_a_library: ("file", "open '{}'"),
    lists: ("file", "os.listdir '{parent}'"),
    scans: ("file", "os.scandir '{parent}'"),
    walks_a_pattern: ("file", "glob.glob '{parent}/*'"),
    removes: ("file", "os.remove '{}'"),
    renames: ("file", "os.rename '{}'"),
    makes_a_folder: ("file", "os.mkdir '{parent}/new'"),
    copies: ("file", "shutil.copyfile '{}'"),
    makes_a_temporary_folder: ("file", "tempfile.mkdtemp '{parent}/"),
    opens_a_database: ("file", "sqlite3.connect '{parent}/docs.db'"),
    connects: ("network", "socket.connect ('127.0.0.1', 9)"),
    looks_up: ("network", "socket.getaddrinfo 'localhost'"),
    fetches: ("network", "urllib.Request 'http://127.0.0.1:9/'"),
    starts: ("process", f"subprocess.Popen ('{sys.executable}', '-c', '')"),
    starts_a_shell: ("process", "os.system 'true'"),
    sets_a_variable: ("environment", "os.putenv 'FUNCPIPE_TEST_OF_EFFECTS'"),
}


@pytest.mark.parametrize("call", HAPPENING, ids=lambda call: call.__name__)
def test_an_event_is_told_at_the_users_line(
    call: Any, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNCPIPE_TEST_OF_EFFECTS", "0")
    effect, what = HAPPENING[call]
    events = seen(call, document)
    shown = what.format(document, parent=document.parent)
    assert any(one.effect == effect and one.what.startswith(shown) for one in events), events
    assert {(one.file, one.line, one.function) for one in events} == {
        (__file__, line_of(call), call.__name__)
    }


def test_an_event_reads_as_a_sentence(document: Path) -> None:
    (event,) = seen(opens, document)
    assert str(event) == f"file: open '{document}' in opens (test_watch.py:{line_of(opens)})"


def test_opening_nothing_is_no_event() -> None:
    def open_nothing() -> None:
        with open(os.devnull) as first, open(os.dup(first.fileno())):
            sqlite3.connect(":memory:").close()

    assert seen(open_nothing) == []


def test_an_import_of_a_library_is_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("colorsys", "this_is_not_there", "wave", "plistlib"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def lazily() -> Any:
        import colorsys
        import plistlib
        import wave

        with suppress(ImportError):
            importlib.import_module("this_is_not_there")
        return colorsys, plistlib, wave

    assert seen(lazily, users_only=False) == []


Modules = Callable[[dict[str, str]], None]


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Modules:
    """Write modules of the user's, importable for one test."""

    def write(sources: dict[str, str]) -> None:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(str(tmp_path))

    return write


def test_an_import_of_a_users_module_is_no_event(modules: Modules) -> None:
    modules({"watched_quiet": "import watched_other\n", "watched_other": "import colorsys\n"})
    assert seen(functools.partial(importlib.import_module, "watched_quiet")) == []


def test_a_users_module_that_reads_a_file_when_it_is_imported_is_told(modules: Modules) -> None:
    modules({"watched_loud": "import colorsys\n\nwith open(__file__) as file:\n    TEXT = file.read()\n"})
    (event,) = seen(functools.partial(importlib.import_module, "watched_loud"))
    assert (event.effect, Path(event.file).name, event.line) == ("file", "watched_loud.py", 3)
    assert event.function == "<module>"


def test_a_traceback_that_is_shown_is_no_event() -> None:
    def fail() -> str:
        linecache.clearcache()
        try:
            raise ValueError
        except ValueError:
            return traceback.format_exc()

    with watched() as events:
        shown = fail()
    assert "raise ValueError" in shown
    assert events == []


def test_text_that_is_no_code_opens_no_file() -> None:
    def parse(text: str) -> Any:
        try:
            return ast.literal_eval(text)
        except SyntaxError:
            return compile(text, "<string>", "eval")

    with watched() as events, suppress(SyntaxError):
        parse("1 +")
    assert events == []


def test_what_is_cleaned_up_by_chance_is_no_event(tmp_path: Path) -> None:
    folder = tempfile.TemporaryDirectory(dir=tmp_path)  # noqa: F841
    with warnings.catch_warnings(), watched() as events:
        warnings.simplefilter("ignore")
        del folder
    assert list(tmp_path.iterdir()) == []
    assert events == []


def test_what_hypothesis_keeps_is_no_event(tmp_path: Path) -> None:
    base = DirectoryBasedExampleDatabase(tmp_path)
    with watched() as events:
        base.save(b"key", b"value")
        assert list(base.fetch(b"key")) == [b"value"]
    assert events == []


def in_a_library(source: str, **names: Any) -> dict[str, Any]:
    """Run code as if it were the standard library's."""
    scope = {"__name__": "json.made_up", "watched": watched, **names}
    exec(compile(textwrap.dedent(source), json.__file__, "exec"), scope)
    return scope


HOLD = """
with watched(users_only=users_only) as events:
    call(path)
"""


@pytest.mark.parametrize("users_only", [True, False])
def test_what_a_library_does_of_itself_is_told_only_if_asked_for(document: Path, users_only: bool) -> None:
    events = in_a_library(HOLD, call=Path.read_text, path=document, users_only=users_only)["events"]
    expected = [] if users_only else [Event("file", f"open '{document}'", "", 0, "")]
    assert events == expected
    assert [str(one) for one in events] == [f"file: open '{document}'" for _ in expected]


def test_code_of_the_users_that_a_library_calls_is_told(document: Path) -> None:
    events = in_a_library(HOLD, call=opens, path=document, users_only=True)["events"]
    assert [(one.function, one.line) for one in events] == [("opens", line_of(opens))]


def test_nothing_is_told_behind_the_block(document: Path) -> None:
    with watched() as events:
        opens(document)
    opens(document)
    assert len(events) == 1


def test_nothing_is_told_behind_a_block_that_failed(document: Path) -> None:
    def fail() -> None:
        opens(document)
        raise KeyError

    with pytest.raises(KeyError), watched() as events:
        fail()
    opens(document)
    assert len(events) == 1


def test_other_threads_are_not_told(document: Path) -> None:
    with watched(users_only=False) as events:
        thread = threading.Thread(target=opens, args=(document,))
        thread.start()
        thread.join()
    assert events == []


def test_threads_that_watch_at_the_same_time_hear_their_own(document: Path) -> None:
    heard: dict[int, list[Event]] = {}
    together = threading.Barrier(2)

    def watch(count: int) -> None:
        together.wait(30)
        with watched() as events:
            together.wait(30)
            for _ in range(count):
                opens(document)
            together.wait(30)
        heard[count] = events

    threads = [threading.Thread(target=watch, args=(count,)) for count in (2, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {count: len(events) for count, events in heard.items()} == {2: 2, 5: 5}


def test_a_block_within_a_block_tells_both(document: Path) -> None:
    with watched() as outer:
        opens(document)
        with watched(users_only=False) as inner:
            opens(document)
        opens(document)
    assert (len(outer), len(inner)) == (3, 1)


def test_blocks_may_end_in_any_order(document: Path) -> None:
    with ExitStack() as first, ExitStack() as second:
        outer = first.enter_context(watched())
        inner = second.enter_context(watched())
        first.close()
        opens(document)
    assert (len(outer), len(inner)) == (0, 1)


def test_a_strange_event_breaks_nothing() -> None:
    class Path(os.PathLike[str]):
        def __fspath__(self) -> str:
            raise ValueError("strange")

        def __repr__(self) -> str:
            raise ValueError("strange")

    with watched() as events:
        sys.audit("open")
        sys.audit("open", Path(), None, 0)
        sys.audit("os.listdir", object())
        sys.audit("os.listdir", [object(), 1, b"x"])
        sys.audit("unknown", 1)
    assert [one.what for one in events] == ["os.listdir", "os.listdir (object, 1, 'x')"]


def test_a_script_is_the_users(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import time
            from funcpipe_prefect.laws.effects import findings
            from funcpipe_prefect.laws.watch import watched

            def load(path):
                with open(path) as file:
                    return file.read(), time.time()

            with watched() as events:
                load(__file__)
            print(*events, *findings(load), sep="\\n")
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"file: open '{script}' in load (script.py:7)",
        "clock: time.time in load (script.py:8)",
        "file: open in load (script.py:7)",
    ]
    assert done.stderr == ""

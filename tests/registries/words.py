"""A small registry that the contract and fault suites share; importable in worker processes."""

from __future__ import annotations

import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funcpipe_prefect import Err, Ok, Registry, Result, TransientError

registry = Registry()


@dataclass(frozen=True)
class Line:
    id: int
    text: str


@dataclass(frozen=True)
class Word:
    line: int
    index: int
    word: str


@dataclass(frozen=True)
class Scored:
    line: int
    index: int
    word: str
    score: int


@registry.func
def tidy(line: Line) -> Result[Line, str]:
    """Refuses lines that say bad, fails on lines that say broken."""
    if "bad" in line.text:
        return Err("a bad line")
    if "broken" in line.text:
        raise ValueError(f"broken line {line.id}")
    return Ok(Line(line.id, line.text.strip().lower()))


@registry.func
def words(line: Line, *, shortest: int = 1) -> list[Word]:
    if "nowords" in line.text:
        raise LookupError("no words")
    found = [word for word in line.text.split() if len(word) >= shortest]
    return [Word(line.id, index, word) for index, word in enumerate(found)]


@registry.func
def score(batch: list[Word]) -> list[Scored]:
    if any(word.word == "poison" for word in batch):
        raise RuntimeError("poison in the batch")
    return [Scored(w.line, w.index, w.word, sum(map(ord, w.word))) for w in batch]


@registry.func
def pairs(line: Line) -> dict[str, Any]:
    """Some of these no store can keep as they are: a tuple would come back as a list."""
    return {"id": (line.id, 0)} if "poison" in line.text and " " in line.text else {"id": [line.id, 0]}


@registry.func
def first(pair: dict[str, Any]) -> dict[str, Any]:
    return {"id": pair["id"][0]}


@registry.lift
def count_of(word: Word) -> dict[str, int]:
    return {word.word: 1}


@registry.lift
def length_of(word: Word) -> tuple[int, int]:
    return (len(word.word), 1)


@registry.func
def slowly(line: Line, *, seconds: float = 0.0) -> Line:
    time.sleep(seconds)
    return line


@registry.func
def telling(line: Line) -> Line:
    """Logs and prints, as users' functions do."""
    if line.id == 7:
        logging.getLogger(__name__).warning("line %d is worth a warning", line.id)
        print(f"line {line.id} is printed", flush=True)
    return line


@registry.func
def flaky(line: Line, *, marks: str, times: int = 2) -> Line:
    """Fails for reasons outside, for the first few calls on each line; counts by files."""
    if "flaky" in line.text:
        for attempt in range(times):
            mark = Path(marks) / f"{line.id}-{attempt}"
            if not mark.exists():
                mark.touch()
                raise TransientError(f"attempt {attempt} on line {line.id}")
    return line


@registry.func
def needing(line: Line, *, file: str) -> Line:
    """Fails on a line that says needs until a file is there."""
    if "needs" in line.text and not Path(file).exists():
        raise TransientError(f"line {line.id} needs {file}")
    return line


@registry.func
def hungry(line: Line, *, mebibytes: int) -> Line:
    """Takes memory on a line that says hungry, not so fast that nobody could notice."""
    if "hungry" in line.text:
        held = []
        for _ in range(mebibytes):
            held.append(b"x" * (1 << 20))
            time.sleep(0.005)
    return line


@registry.func
def deadly(line: Line, *, marks: str, always: bool = False) -> Line:
    """Kills its process on a line that says kill: once, or every time."""
    if "kill" in line.text:
        mark = Path(marks) / f"killed-{line.id}"
        if always or not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return line


@registry.sink(idempotent=True)
def put_file(word: Word, *, folder: str) -> None:
    """Writes each record to a file of its own: again gives the same."""
    Path(folder, f"{word.line}-{word.index}").write_text(word.word)

"""The command line of dead letters: `funcpipe errors ls | show`; `cli` adds `replay`, which is a run."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.console import Console

from funcpipe_prefect.errors import PipelineError, Place, Problem, SinkError

if TYPE_CHECKING:
    from funcpipe_prefect.sinks.letters import DeadLetters

__all__ = ["errors"]

DONE, FAILED = 0, 1

_notes = Console(stderr=True, highlight=False)

errors = App(name="errors", help="Look at the records that failed: counts by cause, and each in full.")

PipelineFile = Annotated[str, Parameter(help="A pipeline file.", name="pipeline")]
OperatorOption = Annotated[str | None, Parameter(help="Only of this operator.")]
SolvedOption = Annotated[
    bool, Parameter(help="Those that have come through since, or left the input.", negative=())
]
JsonOption = Annotated[
    bool, Parameter(name="--json", help="Print one JSON object as the last line.", negative=())
]


@errors.command
def ls(
    pipeline: PipelineFile,
    /,
    *,
    operator: OperatorOption = None,
    solved: SolvedOption = False,
    json_: JsonOption = False,
) -> int:
    """List what records failed of, the most frequent cause first."""
    from funcpipe_prefect.sinks.letters import causes_of

    try:
        store = _opened(pipeline)
        found = store.solved() if solved else store.read()
        causes, count = causes_of(one for one in found if operator in (None, one["operator"]))
        url = store.path
    except SinkError as error:
        return _failed(error)
    if json_:
        print(json.dumps({"dead_letters": url, "count": count, "causes": causes}))
        return DONE
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("records", "operator", "error", "message", "first", "id"):
        table.add_column(column, justify="right" if column == "records" else "left")
    for cause in causes:
        shown = (cause["operator"], cause["type"], cause["message"], cause["location"], cause["id"])
        table.add_row(f"{cause['count']:,}", *(text.replace("[", r"\[") for text in shown))
    _notes.print(table)
    what = "solved dead letters" if solved else "dead letters"
    _notes.print(f"{count:,} {what} below {url}", markup=False, soft_wrap=True)
    return DONE


@errors.command
def show(pipeline: PipelineFile, id: str, /) -> int:
    """Print one dead letter in full, solved or not, by its id or the beginning of it."""
    from funcpipe_prefect.sinks.letters import id_of

    try:
        store = _opened(pipeline)
        letters = itertools.chain(store.solved(), store.read())
        found = {key: letter for letter in letters if (key := id_of(letter)).startswith(id)}
    except SinkError as error:
        return _failed(error)
    if len(found) != 1:
        what = "no dead letter has" if not found else f"{len(found)} dead letters have"
        raise PipelineError(
            [Problem("FP124", "unknown dead letter", Place(f"errors show {id}"), f"{what} an id that begins so",
                     "an id as funcpipe errors ls shows it", "give more of it" if found else "run funcpipe errors ls")]
        )  # fmt: skip
    [(key, letter)] = found.items()
    print(json.dumps({"id": key, **letter}, indent=1, ensure_ascii=False))
    return DONE


def _opened(path: str) -> DeadLetters:
    from funcpipe_prefect.builder import load_pipeline
    from funcpipe_prefect.sinks.letters import DeadLetters

    return DeadLetters(load_pipeline(path).errors.path)


def _failed(error: SinkError) -> int:
    _notes.print(str(error), style="red", markup=False, soft_wrap=True)
    return FAILED

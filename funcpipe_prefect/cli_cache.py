"""The command line of the partition store: `funcpipe cache ls | prune`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.console import Console

from funcpipe_prefect.errors import PipelineError, Place, Problem, SourceError

if TYPE_CHECKING:
    from funcpipe_prefect.ir import Pipeline
    from funcpipe_prefect.store.inventory import Inventory

__all__ = ["cache"]

DONE, WRONG = 0, 2

_notes = Console(stderr=True, highlight=False)

cache = App(name="cache", help="Look at what earlier runs have stored, and remove what nobody needs.")

PipelineOption = Annotated[str | None, Parameter(help="A pipeline file.", name="pipeline")]
StorageOption = Annotated[
    str | None, Parameter(help="A partition store's folder or URL, in place of a pipeline's.")
]
InputOption = Annotated[str | None, Parameter(help="Path, glob or URL in place of the source's.")]
JsonOption = Annotated[
    bool, Parameter(name="--json", help="Print one JSON object as the last line.", negative=())
]


@cache.command
def ls(
    pipeline: PipelineOption = None,
    /,
    *,
    storage: StorageOption = None,
    input: InputOption = None,
    json_: JsonOption = False,
) -> int:
    """List the stored results of stages: of a pipeline, or all below a storage."""
    try:
        url, built, inventory = _opened(pipeline, storage, input)
    except SourceError as error:
        return _failed(error)
    rows = inventory.rows(built.expires_s if built else None)
    total = sum(row["bytes"] for row in rows)
    if json_:
        print(json.dumps({"storage": url, "partitions": rows, "bytes": total}))
        return DONE
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("key", "stage", "split", "records", "bytes", "age", "codec", "used"):
        table.add_column(column, justify="right" if column in ("records", "bytes", "age") else "left")
    for row in rows:
        used = {None: "?", True: "yes", False: "no"}[row["used"]]
        table.add_row(row["key"][:12], row["stage"], row["split"], f"{row['records']:,}", f"{row['bytes']:,}",
                      _age(row["age_s"]), row["codec"] or row["kind"], "expired" if row["expired"] else used)  # fmt: skip
    _notes.print(table)
    _notes.print(f"{len(rows)} stored results, {total:,} bytes below {url}", markup=False, soft_wrap=True)
    return DONE


@cache.command
def prune(
    pipeline: PipelineOption = None,
    /,
    *,
    storage: StorageOption = None,
    input: InputOption = None,
    older_than: Annotated[
        str | None, Parameter(help="Age such as 12h or 7d; the pipeline's cache.expires by default.")
    ] = None,
    all_: Annotated[
        bool,
        Parameter(name="--all", help="Also what the pipeline as it is now does not use.", negative=()),
    ] = False,
    dry_run: Annotated[bool, Parameter(help="Only say what would be removed.", negative=())] = False,
    json_: JsonOption = False,
) -> int:
    """Remove what is expired, what runs left that ended early, and with --all what is not used."""
    age_s = _older_than(older_than)
    try:
        url, built, inventory = _opened(pipeline, storage, input)
        if all_ and built is not None and inventory.used is None:
            raise _wrong("--all", "a pipeline without input", "a pipeline whose splits are known",
                         "give --input, or --storage in place of the pipeline")  # fmt: skip
        if age_s is None and built is not None:
            age_s = built.expires_s
        removals = [one for one in inventory.removals(age_s, unused=all_) if dry_run or inventory.remove(one)]
    except SourceError as error:
        return _failed(error)
    total = sum(one.size for one in removals)
    if json_:
        rows = [
            {"key": one.key, "why": one.why, "files": sorted(one.files), "bytes": one.size}
            for one in removals
        ]
        print(json.dumps({"storage": url, "dry_run": dry_run, "removed": rows, "bytes": total}))
    else:
        verb = "would be removed" if dry_run else "removed"
        for one in removals:
            _notes.print(f"{one.key[:12]} {verb} ({one.why}): {len(one.files)} files, {one.size:,} bytes",
                         markup=False, soft_wrap=True)  # fmt: skip
        _notes.print(f"{total:,} bytes {verb} below {url}", markup=False, soft_wrap=True)
    return DONE


def _opened(
    path: str | None, storage: str | None, input: str | None
) -> tuple[str, Pipeline | None, Inventory]:
    from funcpipe_prefect.store.inventory import Inventory

    if (path is None) == (storage is None):
        found = "neither of them" if path is None else "both of them"
        raise _wrong("funcpipe cache", found, "a pipeline file, or --storage URL", "give one of them")
    now = time.time()
    if path is None:
        assert storage is not None
        return storage, None, Inventory(storage, now)
    from funcpipe_prefect.builder import load_pipeline

    built = load_pipeline(path, input=input)
    return built.storage, built, Inventory(built.storage, now, built.name, _keys(built))


def _keys(pipeline: Pipeline) -> frozenset[str] | None:
    """The stage keys of a pipeline as it is now; None when it has no input."""
    from funcpipe_prefect.plan import plan_run

    if pipeline.source is None:
        return None
    plan = plan_run(pipeline, pipeline.source.list_splits())
    return frozenset(key for lane in plan.lanes for task in lane.tasks for key in task.keys if key)


def _older_than(text: str | None) -> float | None:
    from funcpipe_prefect.config import duration_s

    try:
        return None if text is None else duration_s(text)
    except ValueError:
        raise _wrong("--older-than", f'"{text}"', "a duration above 0: seconds, or a number with s, m, h, d or w",
                     "for example --older-than 7d") from None  # fmt: skip


def _wrong(option: str, found: str, allowed: str, mend: str) -> PipelineError:
    return PipelineError([Problem("FP122", "command line", Place(option), found, allowed, mend)])


def _failed(error: SourceError) -> int:
    _notes.print("failed", style="bold red", end=" ")
    _notes.print(str(error), markup=False, soft_wrap=True)
    return WRONG


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{max(0.0, seconds):.0f}s"

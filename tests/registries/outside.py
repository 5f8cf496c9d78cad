"""A registry whose function fails for records that a file beside the input lists: an outside that can be mended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from funcpipe_prefect import Err, Registry
from tests.registries.items import Item

registry = Registry()


@registry.func(version="1")
def looked_up(item: Item, *, refused: str) -> Item:
    """Fail for those that the file lists."""
    if str(item.id) in Path(refused).read_text().split():
        raise LookupError(f"nothing is known of {item.id}")
    return item


@registry.func(version="1")
def asked(item: Item, *, folder: str, name: str) -> Item:
    """Note the call; fail for those that the file `<name>.refused` lists."""
    with Path(folder, f"{name}.calls").open("a") as calls:
        calls.write(f"{item.id}\n")
    if str(item.id) in Path(folder, f"{name}.refused").read_text().split():
        raise LookupError(f"nothing is known of {item.id}")
    return item


@registry.func(version="1")
def asked_together(items: list[Item], *, folder: str, name: str) -> list[Item | Err[str]]:
    """Do the same for a batch."""
    found: list[Item | Err[str]] = []
    for item in items:
        try:
            found.append(asked(item, folder=folder, name=name))
        except LookupError as error:
            found.append(Err(str(error)))
    return found


@registry.func(version="1")
def twice(item: Item) -> list[Item]:
    """Give two of each."""
    return [item, replace(item, id=item.id + 1000)]


@registry.func(version="1")
def is_small(item: Item) -> bool:
    """Leave some out."""
    return item.id % 10 != 8


@registry.func(version="1")
def key_of(item: Item) -> int:
    """Give a key of few values."""
    return item.id % 3


@registry.lift(version="1")
def one(item: Item) -> int:
    """Count it."""
    return 1

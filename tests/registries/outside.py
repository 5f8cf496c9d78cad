"""A registry whose function fails for records that a file beside the input lists: an outside that can be mended."""

from __future__ import annotations

from pathlib import Path

from funcpipe_prefect import Registry
from tests.registries.items import Item

registry = Registry()


@registry.func(version="1")
def looked_up(item: Item, *, refused: str) -> Item:
    """Fail for those that the file lists."""
    if str(item.id) in Path(refused).read_text().split():
        raise LookupError(f"nothing is known of {item.id}")
    return item


@registry.func(version="1")
def key_of(item: Item) -> int:
    """Give a key of few values."""
    return item.id % 3


@registry.lift(version="1")
def one(item: Item) -> int:
    """Count it."""
    return 1

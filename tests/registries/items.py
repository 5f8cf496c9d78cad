"""A registry for pipelines into stores: items with a key, one of them broken."""

from __future__ import annotations

from dataclasses import dataclass

from funcpipe_prefect import Registry

registry = Registry()


@dataclass(frozen=True)
class Item:
    id: int
    text: str
    weight: float


@registry.func
def tidied(item: Item) -> Item:
    if item.text == "broken":
        raise ValueError("a broken item")
    return Item(item.id, item.text.strip(), item.weight)

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


@registry.func
def third_of(item: Item) -> int:
    return item.id % 3


@registry.lift
def weight_of(item: Item) -> float:
    return item.weight + item.id


@registry.lift
def pair_of(item: Item) -> tuple[float, int]:
    return item.weight, 1


@registry.lift
def set_of(item: Item) -> set[int]:
    return {item.id}


@registry.lift
def list_of(item: Item) -> list[int]:
    return [item.id]


@registry.lift
def counts_of(item: Item) -> dict[str, int]:
    return {item.text: 1}


class Opaque:
    """A value that only pickle knows to write."""

    def __init__(self, item: Item) -> None:
        self.item = item


@registry.lift
def item_of(item: Item) -> Opaque:
    return Opaque(item)


class LastItem:
    """The item with the largest id."""

    commutative = True

    def empty(self) -> Opaque | None:
        return None

    def combine(self, a: Opaque | None, b: Opaque | None) -> Opaque | None:
        if a is None or b is None:
            return b if a is None else a
        return max(a, b, key=lambda one: one.item.id)


registry.monoid("last_item", LastItem())

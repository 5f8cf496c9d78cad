"""What generated pipelines are made of: functions whose failures a pipeline chooses by their parameters.

A record's number decides what becomes of it: `refuse: 3` returns an Err for every third record,
`stumble: 5` raises for every fifth. Zero means never.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from funcpipe_prefect import Err, KeyValue, Ok, Registry, Result, WindowedValue

registry = Registry()


@dataclass(frozen=True)
class Item:
    id: int
    text: str
    weight: float | None
    tags: list[str]


@dataclass(frozen=True)
class Token:
    item: int
    index: int
    word: str
    value: int

    @property
    def id(self) -> int:
        return self.item + 3 * self.index


def _hits(record: Item | Token, every: int, rest: int = 0) -> bool:
    return every > 0 and record.id % every == rest


def _stumble(record: Item | Token, every: int) -> None:
    if _hits(record, every, every // 2):
        raise ValueError(f"stumbled over {record.id}")


@registry.func
def shout(item: Item, *, refuse: int = 0, stumble: int = 0) -> Result[Item, str]:
    _stumble(item, stumble)
    return Err(f"refused {item.id}") if _hits(item, refuse) else Ok(replace(item, text=item.text.upper()))


@registry.func
def weigh(item: Item, *, stumble: int = 0, huge: int = 0) -> Item:
    """Makes, where `huge` says so, numbers that neither a store nor a column can hold."""
    _stumble(item, stumble)
    number = item.id + 2**80 if _hits(item, huge) else item.id
    return replace(item, id=number, weight=(item.weight or 0.1) * 1.1, tags=[*item.tags, str(len(item.text))])


@registry.func
def split(item: Item, *, refuse: int = 0, stumble: int = 0) -> Result[list[Token], str]:
    """Gives no token for a text of blanks."""
    _stumble(item, stumble)
    if _hits(item, refuse):
        return Err(f"refused {item.id}")
    return Ok([Token(item.id, index, word, len(word)) for index, word in enumerate(item.text.split())])


@registry.func
def copies(item: Item, *, most: int = 3, stumble: int = 0) -> Iterator[Item]:
    """Gives none to `most` records, and raises half-way."""
    for number in range(item.id % (most + 1)):
        yield replace(item, id=item.id + 100 * number)
        _stumble(item, stumble)


@registry.func
def grade(batch: list[Item], *, refuse: int = 0, stumble: int = 0) -> list[Result[Item, str]]:
    """Raises for a whole batch, or answers with an Err among others."""
    for item in batch:
        _stumble(item, stumble)
    return [
        Err(f"refused {item.id}") if _hits(item, refuse) else Ok(replace(item, tags=["graded"]))
        for item in batch
    ]


@registry.func
def label(token: Token, *, refuse: int = 0, stumble: int = 0, huge: int = 0) -> Result[Token, str]:
    _stumble(token, stumble)
    if _hits(token, refuse):
        return Err(f"refused {token.id}")
    return Ok(replace(token, value=token.value + 2**80 if _hits(token, huge) else token.value * 3))


@registry.func
def letters(token: Token, *, refuse: int = 0) -> list[Result[Token, str]]:
    """One Err among the results fails the whole record."""
    tokens = [replace(token, word=letter, index=place) for place, letter in enumerate(token.word[:4])]
    return [
        Err(f"refused letter {one.index}") if one.index == 2 and _hits(token, refuse) else Ok(one)
        for one in tokens
    ]


@registry.func
def score(batch: list[Token], *, stumble: int = 0) -> list[Token]:
    for token in batch:
        _stumble(token, stumble)
    return [replace(token, value=sum(map(ord, token.word))) for token in batch]


@registry.func
def restore(token: Token, *, stumble: int = 0) -> Item:
    _stumble(token, stumble)
    return Item(token.id, token.word, token.value / 7, [])


@registry.func
def keep(item: Item, *, refuse: int = 0, stumble: int = 0) -> Result[bool, str]:
    """Two of three go on."""
    _stumble(item, stumble)
    return Err(f"refused {item.id}") if _hits(item, refuse) else Ok(item.id % 3 > 0)


@registry.func
def item_key(item: Item, *, refuse: int = 0, stumble: int = 0) -> Result[tuple[str, int], str]:
    """Many have one key."""
    _stumble(item, stumble)
    return Err(f"refused {item.id}") if _hits(item, refuse) else Ok((item.text[:1], item.id % 4))


@registry.func
def token_key(token: Token, *, refuse: int = 0, stumble: int = 0) -> Result[str, str]:
    _stumble(token, stumble)
    return Err(f"refused {token.id}") if _hits(token, refuse) else Ok(token.word)


@registry.func
def token_time(token: Token) -> float:
    return token.id * 7.5 - 100


@registry.func
def counted(pair: KeyValue[str, int], *, refuse: int = 0) -> Result[Item, str]:
    item = Item(pair.value, pair.key, pair.value / 3, [pair.key])
    return Err(f"refused {item.id}") if _hits(item, refuse) else Ok(item)


@registry.func
def timed(one: WindowedValue[str, int]) -> Item:
    return Item(one.value, one.key, one.start.timestamp(), [one.end.isoformat()])


@registry.lift
def item_number(item: Item, *, stumble: int = 0) -> int:
    _stumble(item, stumble)
    return item.id


@registry.lift
def item_counts(item: Item, *, stumble: int = 0) -> dict[str, int]:
    _stumble(item, stumble)
    return {tag: 1 for tag in (*item.tags, item.text[:1])}


@registry.lift
def item_mean(item: Item, *, stumble: int = 0) -> tuple[float, int]:
    _stumble(item, stumble)
    return (item.weight or 0.0, 1)


@registry.lift
def item_top(item: Item, *, stumble: int = 0) -> list[int]:
    _stumble(item, stumble)
    return [item.id]


@registry.lift
def token_number(token: Token, *, stumble: int = 0) -> int:
    _stumble(token, stumble)
    return token.value


@registry.lift
def token_counts(token: Token, *, stumble: int = 0) -> dict[str, int]:
    _stumble(token, stumble)
    return {token.word: token.index + 1}


@registry.lift
def token_mean(token: Token, *, stumble: int = 0) -> tuple[float, int]:
    _stumble(token, stumble)
    return (token.value / 3, 1)


@registry.lift
def token_top(token: Token, *, stumble: int = 0) -> list[str]:
    _stumble(token, stumble)
    return [token.word]

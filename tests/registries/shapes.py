"""A registry for pipelines with keys, windows and branches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from funcpipe_prefect import Err, KeyValue, Registry, Result

registry = Registry()

_START = datetime(2026, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Event:
    id: int
    user: str
    amount: int
    minute: float


@registry.func
def is_big(event: Event, *, least: int = 10) -> bool:
    if event.user == "broken":
        raise ValueError(f"event {event.id} is broken")
    return event.amount >= least


@registry.func
def yes_and_no(event: Event) -> str:
    """No predicate: it gives a text."""
    return "yes" if event.amount else ""


@registry.func
def user_of(event: Event) -> Result[str, str]:
    return Err("nobody") if event.user == "nobody" else event.user  # type: ignore[return-value]


@registry.func
def bucket_of(event: Event, *, size: int = 5) -> tuple[str, int]:
    return event.user[:1], event.id // size


@registry.func
def untyped_pair(event: Event):  # type: ignore[no-untyped-def]
    return event.user, event.id % 2


@registry.func
def time_of(event: Event) -> datetime:
    return _START + timedelta(minutes=event.minute)


@registry.func
def doubled(event: Event) -> list[Event]:
    return [event, Event(event.id, event.user, -event.amount, event.minute)]


@registry.func
def loudest(pair: KeyValue[str, int]) -> KeyValue[str, int]:
    return KeyValue(pair.key.upper(), pair.value)


@registry.lift
def amount_of(event: Event) -> int:
    if event.amount == 13:
        raise ValueError("an unlucky amount")
    return event.amount


@registry.lift
def one(event: Event) -> int:
    return 1


@registry.lift
def id_of(event: Event) -> int:
    return event.id


@dataclass(frozen=True)
class Paper:
    doc_id: str
    title: str
    abstract: str
    categories: str


@dataclass(frozen=True)
class Chunk:
    doc_id: str
    text: str


@registry.func
def categories_of(paper: Paper) -> list[str]:
    return paper.categories.split()


@registry.func
def itself(text: str) -> str:
    return text


@registry.func
def nearly(paper: Paper) -> str:
    """Equal for abstracts that differ in case, blanks and signs alone, or behind their beginning."""
    return " ".join(re.findall(r"[a-z0-9]+", paper.abstract.lower())[:12])


@registry.func
def chunks_of(paper: Paper) -> list[Chunk]:
    text = paper.abstract
    return [Chunk(paper.doc_id, text[at : at + 500]) for at in range(0, len(text), 400)]


@registry.lift
def once(text: str) -> int:
    return 1


@registry.lift
def words_of(paper: Paper) -> list[str]:
    return re.findall(r"[a-z]+", paper.abstract.lower())


@registry.lift
def first_word(paper: Paper) -> str:
    return next(iter(words_of(paper)), "")


@registry.lift
def length_of(chunk: Chunk) -> int:
    return len(chunk.text)

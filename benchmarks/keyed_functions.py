"""What the pipeline of `keyed_run` is made of."""

from __future__ import annotations

from benchmarks.keyed_by_hand import Event
from funcpipe_prefect import Registry

registry = Registry()


@registry.func
def key_of(event: Event) -> str:
    return event.key


@registry.lift
def value_of(event: Event) -> int:
    return event.value

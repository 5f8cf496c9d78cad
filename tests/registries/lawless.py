"""A registry whose entries break laws, beside some that keep them, for the command and the pytest plugin."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import strategies as st

from funcpipe_prefect import Registry

registry = Registry()


@dataclass(frozen=True)
class Reading:
    sensor: str
    value: float
    at: float = 0.0


class MeanOfMeans:
    commutative = True

    def empty(self) -> float:
        return 0.0

    def combine(self, a: float, b: float) -> float:
        return (a + b) / 2


registry.monoid("mean_of_means", MeanOfMeans())
registry.strategy(
    Reading, st.builds(Reading, sensor=st.sampled_from("ab"), value=st.integers(0, 9).map(float))
)


@registry.func
def stamp(reading: Reading) -> Reading:
    return replace(reading, at=time.time())


@registry.func
def shard(reading: Reading) -> Reading:
    return replace(reading, sensor=str(hash(reading.sensor) % 1000))


@registry.func(uses=("clock",))
def timed(reading: Reading) -> Reading:
    started = time.perf_counter()
    known = replace(reading, sensor=reading.sensor.strip())
    assert time.perf_counter() >= started
    return known


@registry.func
def scale(batch: list[Reading]) -> list[Reading]:
    greatest = max(reading.value for reading in batch) or 1.0
    return [replace(reading, value=reading.value / greatest) for reading in batch]


@registry.lift
def value_of(reading: Reading) -> float:
    return reading.value


def _in_folder(folder: str) -> Mapping[str, str]:
    return {"folder": folder}


@registry.sink(idempotent=True, trial=_in_folder)
def append(reading: Reading, *, folder: str) -> None:
    with Path(folder, "readings.txt").open("a") as file:
        file.write(f"{reading.sensor}\n")


@registry.sink(idempotent=True)
def anywhere(reading: Reading) -> None:
    """Nobody knows where it writes."""

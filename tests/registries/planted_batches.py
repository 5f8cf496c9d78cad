"""Batch functions with a planted fault, each followed by a twin that equals itself element by element."""

from __future__ import annotations

import functools
import itertools
import math
import random
import zlib
from collections.abc import Callable

from funcpipe_prefect import Err, Ok, Result
from tests.registries.planted_functions import Doc

Vector = list[float]

Reading = tuple[int, int]
"""A value and the one before it."""


def scales_by_the_batchs_greatest(batch: list[int]) -> list[float]:
    greatest = max(map(abs, batch), default=0) or 1
    return [value / greatest for value in batch]


def scales_by_a_constant(batch: list[int]) -> list[float]:
    return [value / 1000 for value in batch]


def weighs_by_softmax_over_the_batch(batch: list[int]) -> list[float]:
    powers = [math.exp(value / 1000) for value in batch]
    return [power / sum(powers) for power in powers]


def weighs_by_sigmoid(batch: list[int]) -> list[float]:
    return [1 / (1 + math.exp(-value / 1000)) for value in batch]


def fills_gaps_by_the_batchs_mean(batch: list[int | None]) -> list[float]:
    known = [value for value in batch if value is not None]
    mean = sum(known) / len(known) if known else 0.0
    return [mean if value is None else float(value) for value in batch]


def fills_gaps_by_a_constant(batch: list[int | None]) -> list[float]:
    return [500.0 if value is None else float(value) for value in batch]


def shares_the_cost_among_the_batch(batch: list[str]) -> list[tuple[str, float]]:
    return [(text, 12.0 / len(batch)) for text in batch]


def costs_by_length(batch: list[str]) -> list[tuple[str, float]]:
    return [(text, 0.125 * len(text)) for text in batch]


def filters_the_empty(batch: list[str]) -> list[str]:
    return [text.upper() for text in batch if text.strip()]


def refuses_the_empty(batch: list[str]) -> list[Result[str, str]]:
    return [Ok(text.upper()) if text.strip() else Err("empty") for text in batch]


def drops_repeats(batch: list[str]) -> list[str]:
    return list(dict.fromkeys(text.lower() for text in batch))


def keeps_repeats(batch: list[str]) -> list[str]:
    return [text.lower() for text in batch]


def marks_repeats(batch: list[str]) -> list[tuple[str, bool]]:
    return [(text, text in batch[:index]) for index, text in enumerate(batch)]


def marks_by_content(batch: list[str]) -> list[tuple[str, int]]:
    return [(text, zlib.crc32(text.encode())) for text in batch]


def sorts_the_batch(batch: list[str]) -> list[str]:
    return sorted(text.strip() for text in batch)


def sorts_within_each(batch: list[str]) -> list[str]:
    return ["".join(sorted(text.strip())) for text in batch]


def ranks_in_the_batch(batch: list[int]) -> list[int]:
    return [sum(other < value for other in batch) for value in batch]


def ranks_on_a_fixed_scale(batch: list[int]) -> list[int]:
    return [sum(limit < value for limit in (10, 100, 500)) for value in batch]


def numbers_by_index(batch: list[Doc]) -> list[tuple[int, str]]:
    return [(index, doc.text) for index, doc in enumerate(batch)]


def numbers_by_id(batch: list[Doc]) -> list[tuple[int, str]]:
    return [(doc.id, doc.text) for doc in batch]


def encodes_labels_by_first_sight(batch: list[str]) -> list[int]:
    labels: dict[str, int] = {}
    return [labels.setdefault(text, len(labels)) for text in batch]


def encodes_labels_by_crc(batch: list[str]) -> list[int]:
    return [zlib.crc32(text.encode()) for text in batch]


def steps_from_the_one_before(batch: list[Reading]) -> list[int]:
    previous, steps = 0, []
    for value, _ in batch:
        steps.append(value - previous)
        previous = value
    return steps


def steps_from_its_own_past(batch: list[Reading]) -> list[int]:
    return [value - before for value, before in batch]


def pads_to_the_longest(batch: list[str]) -> list[str]:
    width = max(map(len, batch), default=0)
    return [text.ljust(width) for text in batch]


def pads_to_a_width(batch: list[str]) -> list[str]:
    return [text.ljust(32) for text in batch]


def begins_with_a_header(batch: list[str]) -> list[str]:
    return ["text", *(f'"{text}"' for text in batch)]


def has_no_header(batch: list[str]) -> list[str]:
    return [f'"{text}"' for text in batch]


def takes_the_batch_apart(batch: list[str]) -> list[str]:
    done = []
    while batch:
        done.append(batch.pop(0).swapcase())
    return done


def reads_the_batch(batch: list[str]) -> list[str]:
    return [text.swapcase() for text in batch]


def normalises_vectors_in_place(batch: list[Vector]) -> list[Vector]:
    for vector in batch:
        length = math.hypot(*vector) or 1.0
        for index, value in enumerate(vector):
            vector[index] = value / length
    return batch


def makes_normalised_vectors(batch: list[Vector]) -> list[Vector]:
    return [[value / (math.hypot(*vector) or 1.0) for value in vector] for vector in batch]


def jitters_from_one_seed(batch: list[int]) -> list[float]:
    generator = random.Random(7)
    return [value + generator.random() for value in batch]


def jitters_from_each_value(batch: list[int]) -> list[float]:
    return [value + random.Random(value).random() for value in batch]


def shuffles_from_one_seed(batch: list[Doc]) -> list[str]:
    texts = [doc.text for doc in batch]
    random.Random(7).shuffle(texts)
    return texts


def shuffles_words_within_each(batch: list[Doc]) -> list[str]:
    return [" ".join(random.Random(doc.id).sample(doc.text.split(), len(doc.text.split()))) for doc in batch]


def leaves_off_beyond_four(batch: list[str]) -> list[str]:
    return [text.casefold() for text in batch[:4]]


def refuses_more_than_four(batch: list[str]) -> list[str]:
    """Sound: a batch that raises is halved until it passes."""
    if len(batch) > 4:
        raise ValueError("more than four at once")
    return [text.casefold() for text in batch]


_batches = itertools.count()


def tags_with_the_batchs_number(batch: list[str]) -> list[tuple[int, str]]:
    number = next(_batches)
    return [(number, text) for text in batch]


def tags_with_the_length(batch: list[str]) -> list[tuple[int, str]]:
    return [(len(text), text) for text in batch]


def calls_late_bound_closures(batch: list[str]) -> list[str]:
    """Every closure sees the last text."""
    calls: list[Callable[[], str]] = []
    for text in batch:
        calls.append(lambda: text[::-1])  # noqa: B023
    return [call() for call in calls]


def _turned(text: str) -> str:
    return text[::-1]


def calls_bound_closures(batch: list[str]) -> list[str]:
    calls = [functools.partial(_turned, text) for text in batch]
    return [call() for call in calls]


def translates_all_lines_at_once(batch: list[str]) -> list[str]:
    """A text that has a line break comes back as two."""
    return "\n".join(batch).replace("a", "e").split("\n")


def translates_one_by_one(batch: list[str]) -> list[str]:
    return [text.replace("a", "e") for text in batch]


def compares_with_the_first(batch: list[Vector]) -> list[float]:
    return [sum(x * y for x, y in zip(batch[0], vector, strict=False)) for vector in batch]


def compares_with_a_query(batch: list[Vector]) -> list[float]:
    return [sum(x * y for x, y in zip((1.0, 0.5, 0.25), vector, strict=False)) for vector in batch]

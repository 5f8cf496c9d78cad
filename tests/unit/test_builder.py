"""Building from Python: what counts as a function, which source an input gets, what an output replaces."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from funcpipe_prefect import Registry
from funcpipe_prefect.builder import load_pipeline
from funcpipe_prefect.builder.tags import Opaque, TagError, fits, parse_tag, show
from funcpipe_prefect.errors import PipelineError
from funcpipe_prefect.ir import Pipeline


class Box:
    def __init__(self, value: int, times: int = 1) -> None: ...


class Shout:
    def __call__(self, text: str) -> bytes:
        return text.encode()


def scaled(value: int, *, factor: int) -> float:
    return float(value * factor)


def built(call: Any, **spec: Any) -> Pipeline:
    registry = Registry()
    registry.func(name="it")(call)
    return load_pipeline({"operators": [{"type": "Map", "name": "a", "func": "it"}], **spec}, registry)


@pytest.mark.parametrize(
    ("call", "takes", "gives"),
    [
        (Box, int, Box),
        (Shout(), str, bytes),
        (functools.partial(scaled, factor=2), int, float),
        (str.upper, Any, Any),
        (len, Any, Any),
        (lambda record: record, Any, Any),
    ],
)
def test_anything_callable_is_a_function_with_the_types_that_it_declares(
    call: Any, takes: Any, gives: Any
) -> None:
    operator = built(call).operators[0]
    assert (operator.in_type, getattr(operator, "out_type", None)) == (takes, gives)


@pytest.mark.parametrize(
    ("declared", "path", "expected"),
    [
        (None, "a.csv", "CsvSource"),
        (None, "folder", "TextSource"),
        ("jsonl", "a.csv", "CsvSource"),
        ("jsonl", "a.dat", "JsonlSource"),
        ("jsonl", "folder/", "JsonlSource"),
        ("jsonl", "a.txt", "TextSource"),
        ("csv", "a.jsonl.gz", "JsonlSource"),
    ],
)
def test_an_input_keeps_the_declared_source_unless_its_ending_tells_otherwise(
    declared: str | None, path: str, expected: str
) -> None:
    source = {"path": "other", **({"type": declared} if declared else {})}
    registry = Registry()
    registry.func(name="it")(str.upper)
    mapping = {"source": source, "operators": [{"type": "Map", "name": "a", "func": "it"}]}
    assert type(load_pipeline(mapping, registry, input=path).source).__name__ == expected


@pytest.mark.parametrize(
    "last",
    [
        {"type": "Map", "name": "z", "func": "it"},
        {"type": "Combine", "name": "z", "lift": "one", "monoid": "sum"},
        {"type": "Sink", "name": "z", "func": "put", "contract": {"idempotent": True}},
    ],
)
def test_an_output_that_would_be_ignored_is_refused(last: dict[str, Any]) -> None:
    registry = Registry()
    registry.func(name="it")(str.upper)
    registry.lift(name="one")(len)
    registry.sink(name="put", idempotent=True)(print)
    assert load_pipeline({"operators": [last]}, registry)
    with pytest.raises(PipelineError, match="FP122 output has no place"):
        load_pipeline({"operators": [last]}, registry, output="out")


def test_a_type_known_by_name_only_fits_the_type_of_that_name() -> None:
    assert parse_tag("FPResult[Chunk]", {}, opaque=True) == Opaque("Chunk")
    assert fits(Opaque("Box"), Box)
    assert fits(list[Box], parse_tag("list[Box]", {}, opaque=True))
    assert not fits(list[Box], parse_tag("list[Bax]", {}, opaque=True))
    assert show(list[Box]) == "list[Box]"


@pytest.mark.parametrize(
    "tag", ["", "FPResult", "FPResul[Box]", "list[", "1", "Box()", "x" * 1000, "a|" * 2000 + "a"]
)
def test_a_tag_that_is_no_type_is_refused(tag: str) -> None:
    with pytest.raises(TagError):
        parse_tag(tag, {"Box": Box}, opaque=True)

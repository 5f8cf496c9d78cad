"""Coders: a record that went over the wire is the record that was sent, or nothing is sent."""

from __future__ import annotations

import datetime
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest
from apache_beam import coders
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.typehints import typehints

from funcpipe_prefect.backends.beam.coders import RecordCoder, Records, ValueCoder, Values, record_hint


@dataclass(frozen=True)
class Doc:
    id: int
    when: datetime.datetime
    tags: frozenset[str] = frozenset()
    scores: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Key:
    id: int
    name: str
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Priced:
    price: float


class Model(pydantic.BaseModel):
    id: int
    names: tuple[str, ...] = ()


class Point(NamedTuple):
    x: int
    y: int


class Struct(msgspec.Struct, frozen=True):
    id: int
    inner: Point


class Typed(TypedDict):
    id: int
    name: str


NOON = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))

RECORDS = [
    (Doc, Doc(1, NOON, frozenset("abc"), [0.1, float("inf")])),
    (Model, Model(id=1, names=("a", "b"))),
    (Point, Point(1, 2)),
    (Struct, Struct(1, Point(3, 4))),
    (Typed, {"id": 1, "name": "ä"}),
    (dict[str, Any], {"b": [1, None, 2.5], "a": {"x": True}}),
    (Any, {"text": "", "bytes": b"\0\xff"}),
    (set[str], {"a", "b"}),
    (dict[int, set[str]], {3: {"x"}, 1: set()}),
    (int, 2**64 - 1),
    (int, -(2**63)),
    (int | None, None),
    (datetime.date, datetime.date(1, 1, 1)),
]
TYPES = [tp for tp, _ in RECORDS]


@pytest.mark.parametrize(("tp", "record"), RECORDS)
@pytest.mark.parametrize("ordered", [False, True])
def test_a_record_comes_back_as_it_was(tp: Any, record: Any, ordered: bool) -> None:
    coder = RecordCoder(tp, ordered=ordered)
    back = coder.decode(coder.encode(record))
    assert back == record
    assert type(back) is type(record)
    nested = coder.decode_nested(coder.encode_nested(record))
    assert nested == record


@pytest.mark.parametrize(
    ("tp", "record"),
    [(Any, "\ud800"), (Any, (1, 2)), (int, 2**70), (int, True), (Doc, {"id": 1}), (float, 2**60 + 1)],
)
def test_a_record_that_would_change_on_the_way_is_refused(tp: Any, record: Any) -> None:
    coder = RecordCoder(tp)
    with pytest.raises((TypeError, ValueError, OverflowError)):
        coder.encode(record)
    assert coder.estimate_size(record) > 0  # statistics fail no run


def test_bytes_keep_beams_own_coder_and_text_does_not() -> None:
    assert record_hint(bytes) is bytes
    assert coders.registry.get_coder(record_hint(str)) == RecordCoder(str)


@pytest.mark.parametrize("tp", TYPES)
def test_a_type_finds_its_coder_and_a_coder_its_type(tp: Any) -> None:
    hint = record_hint(tp)
    coder = coders.registry.get_coder(hint)
    assert coder == RecordCoder(tp)
    assert hash(coder) == hash(RecordCoder(tp))
    assert coder != RecordCoder(tp, ordered=True)
    assert coder != RecordCoder(bytes)
    assert coder.to_type_hint() == hint
    assert pickle.loads(pickle.dumps(coder)) == coder
    assert pickle.loads(pickle.dumps(hint)) == hint


@pytest.mark.parametrize(
    "coder", [*map(RecordCoder, TYPES), RecordCoder(Any, ordered=True), ValueCoder()], ids=str
)
def test_a_coder_survives_the_way_to_a_portable_runner(coder: coders.Coder) -> None:
    context = PipelineContext()
    coder_id = context.coders.get_id(coder)
    back = PipelineContext(context.to_runner_api())
    assert back.coders.get_by_id(coder_id) == coder
    assert back.element_type_from_coder_id(coder_id) == coder.to_type_hint()


def test_a_coder_that_the_user_registered_stays() -> None:
    class Own:
        pass

    own = dataclass(Own)

    class OwnCoder(coders.PickleCoder):
        pass

    coders.registry.register_coder(own, OwnCoder)
    assert record_hint(own) is own
    assert isinstance(coders.registry.get_coder(own), OwnCoder)


def test_classes_of_a_script_find_their_coder_too() -> None:
    script = dataclass(type("InScript", (), {"__module__": "__main__", "__annotations__": {"id": int}}))
    assert coders.registry.get_coder(record_hint(script)) == RecordCoder(script)


@pytest.mark.parametrize("hint", [Records(dict[str, Any]), Values()], ids=repr)
@pytest.mark.parametrize("other", [int, typehints.Any, typehints.Dict[str, int], object, Doc, type(None)])
def test_our_hints_fit_whatever_the_user_declares_behind(hint: Any, other: Any) -> None:
    assert typehints.is_consistent_with(hint, other)
    assert typehints.is_consistent_with(other, hint)
    assert hint != other


def test_hints_are_told_apart_by_record_type() -> None:
    assert Records(int) == Records(int)
    assert len({Records(int), Records(int), Records(Typed), Values(), Values()}) == 3


# Keys.


@pytest.mark.parametrize("tp", [Key, Point, Struct, Model, int, str, set[str], Sequence[int], datetime.date])
def test_types_whose_equal_values_have_equal_bytes_can_be_keys(tp: Any) -> None:
    coder = RecordCoder(tp)
    assert coder.is_deterministic()
    assert coder.as_deterministic_coder("step") is coder


@pytest.mark.parametrize(
    "tp", [Any, object, dict, list, Typed, dict[str, int], Mapping[str, int], list[Any], Doc]
)
def test_types_whose_equal_values_may_differ_in_bytes_are_not_keys_as_they_are(tp: Any) -> None:
    coder = RecordCoder(tp)
    assert not coder.is_deterministic()
    assert coder.as_deterministic_coder("step") == RecordCoder(tp, ordered=True)


@pytest.mark.parametrize(
    ("tp", "one", "other"),
    [
        (Typed, {"id": 1, "name": "a"}, {"name": "a", "id": 1}),
        (Any, {"a": {"x": 1, "y": 2}, "b": []}, {"b": [], "a": {"y": 2, "x": 1}}),
        (dict[int, str], {1: "a", 2: "b"}, {2: "b", 1: "a"}),
        (Priced, Priced(1), Priced(1.0)),
    ],
)
def test_equal_keys_have_equal_bytes(tp: Any, one: Any, other: Any) -> None:
    coder = RecordCoder(tp).as_deterministic_coder("step")
    assert one == other
    assert coder.encode(one) == coder.encode(other)
    assert coder.decode(coder.encode(one)) == one


def test_a_type_without_an_encoding_cannot_be_a_key() -> None:
    with pytest.raises(ValueError, match="cannot encode the keys of 'step'"):
        RecordCoder(Doc | Model | Key).as_deterministic_coder("step")
    with pytest.raises(ValueError, match="mine"):
        RecordCoder(Doc | Model | Key).as_deterministic_coder("step", "mine")


def test_a_set_has_the_same_bytes_in_every_process() -> None:
    code = (
        "from funcpipe_prefect.backends.beam.coders import RecordCoder\n"
        "print(RecordCoder(frozenset[str]).encode(frozenset('abcdefgh')).hex())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "1"}, capture_output=True, check=True, text=True
    )
    assert there.stdout.strip() == RecordCoder(frozenset[str]).encode(frozenset("abcdefgh")).hex()


# Partial answers and answers.


@pytest.mark.parametrize(
    "value",
    [
        1,
        2**80,
        (1, 2),
        [(0.5, 3)],
        Fraction(1, 3),
        frozenset("a"),
        {"a": {1, 2}},
        "\ud800",
        None,
        NOON,
        Point(1, 2),
    ],
    ids=repr,
)
def test_any_answer_comes_back_as_it_was(value: Any) -> None:
    coder = coders.registry.get_coder(Values())
    back = coder.decode(coder.encode(value))
    assert back == value
    assert type(back) is type(value)
    assert not coder.is_deterministic()


def test_plain_answers_are_not_pickled() -> None:
    assert ValueCoder().encode({"a": [1, 2.5, "x"]})[0] == 0
    assert ValueCoder().encode((1, 2))[0] == 1

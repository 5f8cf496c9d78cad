"""Plain functions as sinks, and dead letters that can be read back as input."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pydantic
import pytest

from funcpipe_prefect.errors import ContractError, TransientError
from funcpipe_prefect.ir import Commit, Function, Split, Undecodable
from funcpipe_prefect.result import Err, ErrorInfo
from funcpipe_prefect.sinks import DeadLetters, FunctionSink
from funcpipe_prefect.sinks.letters import letter_line
from funcpipe_prefect.sources import JsonlSource


def put_all(call: Any, records: list[Any], **rest: Any) -> tuple[int, list[tuple[int, str]]]:
    refused: list[tuple[int, str]] = []
    sink = FunctionSink(Function("put", call), **rest)
    part = sink.write(
        Split("s"),
        iter(list(enumerate(records, 10))),
        Any,
        lambda place, _, error: refused.append((place, str(error))),
    )
    return part.records, refused


def test_a_function_gets_every_record_and_may_refuse_one() -> None:
    seen: list[int] = []

    def put(record: int) -> Any:
        seen.append(record)
        if record == 1:
            raise ValueError("bad")
        return Err("no") if record == 2 else None

    assert put_all(put, [0, 1, 2, 3]) == (2, [(11, "bad"), (12, "no")])
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "error", [ConnectionError("away"), TimeoutError("away"), TransientError("away"), KeyError("away")]
)
def test_a_database_that_is_away_blames_no_record_and_is_named(error: Exception) -> None:
    def put(record: int) -> None:
        raise error

    with pytest.raises(TransientError, match="'put' at s, position 10: .*away"):
        put_all(put, [0], transient=(KeyError,))


def test_a_broken_contract_in_a_sink_is_no_refused_record() -> None:
    def put(record: int) -> None:
        raise ContractError("mine")

    with pytest.raises(ContractError, match="mine"):
        put_all(put, [0])


@dataclasses.dataclass(frozen=True)
class Doc:
    id: int
    data: bytes = b""
    tags: tuple[str, ...] = ()


class Model(pydantic.BaseModel):
    id: int
    data: bytes = b""
    words: set[str] = set()


INFO = ErrorInfo("clean", "ValueError", "bad", "s", 3, "a.jsonl:1 (byte 3)", "Doc(...)")


@pytest.mark.parametrize(
    ("record_type", "record"),
    [
        (Doc, Doc(1, b"\xff", ("a",))), (Model, Model(id=1, data=b"text", words={"b", "a"})), (Any, {"a": [1, None]}),
        (Any, "text"), (dict[int, str], {1: "a"}), (int, 2**80),
    ],
)  # fmt: skip
def test_a_dead_letter_is_read_back_as_the_record_that_it_was(
    tmp_path: Path, record_type: Any, record: Any
) -> None:
    (tmp_path / "letters.jsonl").write_bytes(letter_line(INFO, record))
    source = JsonlSource(str(tmp_path), field="record")
    (split,) = source.list_splits()
    ((_, back),) = source.read(split, record_type)
    assert back == record


def test_a_dead_letter_names_operator_error_and_place() -> None:
    assert json.loads(letter_line(INFO, Doc(1))) == {
        **dataclasses.asdict(INFO),
        "record": {"id": 1, "data": "", "tags": []},
    }


@pytest.mark.parametrize(
    ("record", "kept"),
    [
        (Undecodable(b"{broken", "DecodeError", "x"), "{broken"),
        (Undecodable(b"\xff", "UnicodeDecodeError", "x"), {"base64": "/w=="}),
        ({"a": "\ud800"}, {"a": "\ud800"}),
        (object, "<class 'object'>"),
        ({"a": object}, "{'a': <class 'object'>}"),
    ],
)
def test_a_record_without_a_json_form_is_kept_as_well_as_can_be(record: Any, kept: Any) -> None:
    line = letter_line(INFO, record)
    assert line.count(b"\n") == 1
    assert json.loads(line)["record"] == kept


def test_a_run_without_dead_letters_makes_no_folder(tmp_path: Path) -> None:
    letters = DeadLetters(str(tmp_path / "letters"))
    part = letters.stage(Split("s"), io.BytesIO(b""), 0)
    letters.commit([Commit("s", "k", part, "", dead_letters=(part,))])
    assert not (tmp_path / "letters").exists()


def test_a_mended_run_removes_the_dead_letters_of_the_last_one(tmp_path: Path) -> None:
    letters = DeadLetters(str(tmp_path / "letters"))
    line = letter_line(INFO, Doc(1))
    part = letters.stage(Split("s"), io.BytesIO(line), 1)
    entry = Commit("s", "k", part, "", dead_letters=(part,))
    letters.commit([entry])
    assert letters.holds(entry, letters.present())
    letters.commit([])
    assert not letters.holds(entry, letters.present())
    assert list((tmp_path / "letters").glob("*.jsonl")) == []

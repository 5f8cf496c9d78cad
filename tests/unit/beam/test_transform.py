"""`to_ptransform`: what a user's own Beam pipeline gets from our operators."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from collections import Counter as Multiset
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline as CheckedPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.typehints.decorators import TypeCheckError

from funcpipe_prefect import load_pipeline, run_local
from funcpipe_prefect.backends.beam.coders import RecordCoder
from funcpipe_prefect.backends.beam.transform import MonoidCombineFn, to_ptransform
from funcpipe_prefect.errors import BackendError, ContractError
from funcpipe_prefect.ir import (
    Artifact,
    BatchMap,
    Combine,
    ErrorSettings,
    FlatMap,
    Function,
    Map,
    Operator,
    Pipeline,
)
from funcpipe_prefect.monoid import Counter, ExactSum, Mean, Monoid, SetUnion, Sum
from funcpipe_prefect.result import Err
from tests.registries.words import Line, Scored, Word

TIDY = {"type": "Map", "name": "tidy", "func": "tidy"}
WORDS = {"type": "FlatMap", "name": "words", "func": "words"}
SCORE = {"type": "BatchMap", "name": "score", "func": "score", "max_batch_size": 3}
COUNT = {"type": "Combine", "name": "total", "monoid": "counter", "lift": "count_of"}
PLACE = ("split", "position", "location")

LINES = [
    Line(1, " The quick FOX "),
    Line(2, "a bad line"),
    Line(3, "broken"),
    Line(4, "nowords"),
    Line(5, "one poison two three"),
    *(Line(index, f"line {index} of many") for index in range(6, 40)),
]


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Pipeline]:
    def load(*operators: Mapping[str, Any]) -> Pipeline:
        return load_pipeline({
            "name": "words-pipeline",
            "imports": ["tests.registries.words"],
            "operators": list(operators),
            "errors": {"path": str(tmp_path / "letters")},
            "cache": {"storage": str(tmp_path / "cache")},
        })  # fmt: skip

    return load


def made(*operators: Operator, record_type: Any = Any) -> Pipeline:
    return Pipeline("made", operators, ErrorSettings("unused"), "unused", record_type=record_type)


def function(call: Callable[..., Any]) -> Function:
    return Function(call.__name__, call)


def running(*flags: str) -> CheckedPipeline:
    return CheckedPipeline(runner=FnApiRunner(), options=PipelineOptions(list(flags)))


def check(
    pipeline: Pipeline, records: Iterable[Any], results: Iterable[Any], letters: int = 0
) -> dict[str, dict[str, int]]:
    """Run a pipeline, compare what comes out, and give the counters by operator."""
    with running() as p:
        out = p | beam.Create(list(records)) | to_ptransform(pipeline)
        came = out.results | beam.Map(lambda record: ("result", record))
        failed = out.dead_letters | beam.Map(lambda letter: ("letter", letter["operator"]))
        expected = [("letter", pipeline.operators[0].name)] * letters
        assert_that(
            (came, failed) | beam.Flatten(), equal_to([("result", one) for one in results] + expected)
        )
    return {operator.name: counters(p.result, operator.name) for operator in pipeline.operators}


def counters(result: Any, operator: str) -> dict[str, int]:
    found = result.metrics().query(MetricsFilter().with_namespace(operator))["counters"]
    return {one.key.metric.name: one.committed for one in found}


def plus_one(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number + 1


def twice(number: int) -> Iterable[Any]:
    yield number
    yield Err("three") if number == 3 else number


def same(value: Any) -> Any:
    return value


def as_fraction(number: int) -> Fraction:
    return Fraction(number, 3)


def never(value: Any) -> Any:
    raise AssertionError("something ran")


def too_few(batch: list[int]) -> list[int]:
    return batch[:-1]


def away(value: Any) -> Any:
    raise ConnectionError("the service is away")


def own_outside(value: Any) -> Any:
    raise LookupError("busy")


def nested(number: int) -> dict[str, Any]:
    """No store keeps this as it is: but it never has to."""
    return {"pair": (number, {number})}


def strange(number: int) -> dict[str, Any]:
    return ({"number": 2**70}, {"text": "\ud800"})[number]


def inner(record: dict[str, Any]) -> int:
    number: int = record["pair"][0]
    return number


class Longest:
    """A monoid of one's own: the longest text, the greater of equals."""

    commutative = True

    def empty(self) -> str:
        return ""

    def combine(self, a: str, b: str) -> str:
        return max(a, b, key=lambda text: (len(text), text))

    def finish(self, total: str) -> str:
        return total.upper()


class Broken(Sum):
    def combine(self, a: Any, b: Any) -> Any:
        raise ZeroDivisionError("no sums today")


class Away(Sum):
    def combine(self, a: Any, b: Any) -> Any:
        raise ConnectionError("no sums now")


# What comes out.


def test_results_and_dead_letters_are_those_of_a_local_run(load: Any, tmp_path: Path) -> None:
    pipeline = load(TIDY, WORDS, SCORE)
    run_local(pipeline, LINES)
    written = [
        json.loads(line) for file in (tmp_path / "letters").rglob("*.jsonl") for line in file.open("rb")
    ]
    expected = [{key: item for key, item in line.items() if key not in PLACE} for line in written]
    sink = {"type": "Sink", "name": "put", "func": "jsonl", "contract": {"idempotent": True}}
    run_local(load(TIDY, WORDS, SCORE, sink | {"params": {"path": str(tmp_path / "out")}}), LINES)
    records = [
        Scored(**json.loads(line)) for file in (tmp_path / "out").rglob("*.jsonl") for line in file.open("rb")
    ]
    assert len(expected) == 4
    assert len(records) > 100

    with running() as p:
        out = p | beam.Create(LINES) | to_ptransform(pipeline)
        placed = out.dead_letters | beam.Map(lambda letter: [letter[key] for key in PLACE])
        bare = out.dead_letters | "bare" >> beam.Map(
            lambda letter: {key: item for key, item in letter.items() if key not in PLACE}
        )
        assert_that(out.results, equal_to(records))
        assert_that(bare, equal_to(expected), "letters")
        assert_that(placed, equal_to([["", 0, "an element of a PCollection"]] * 4), "placed")


def test_several_workers_give_what_a_local_run_gives(load: Any) -> None:
    counts: Any = run_local(load(TIDY, WORDS, COUNT), LINES).result
    with running("--direct_running_mode=multi_threading", "--direct_num_workers=2") as p:
        lines = p | beam.Create(LINES) | beam.Reshuffle()
        scored = lines | to_ptransform(load(TIDY, WORDS, SCORE))
        total = lines | "total" >> to_ptransform(load(TIDY, WORDS, COUNT))
        assert_that(scored.results | beam.combiners.Count.Globally(), equal_to([sum(counts.values()) - 1]))
        assert_that(scored.dead_letters | "n" >> beam.combiners.Count.Globally(), equal_to([4]), "letters")
        assert_that(total.results, equal_to([counts]), "answer")


def test_the_other_direct_runner_agrees() -> None:
    pipeline = made(Map("m", function(plus_one), out_type=int), Combine("sum", function(same), Sum()))
    with CheckedPipeline(runner="BundleBasedDirectRunner") as p:
        out = p | beam.Create([1, 2, 3, 4]) | to_ptransform(pipeline)
        assert_that(out.results, equal_to([10]))


@pytest.mark.parametrize("policy", ["drop", "collect", "fail_fast"])
@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (Map("op", function(plus_one)), [2, 3, 5]),
        (FlatMap("op", function(twice)), [1, 1, 2, 2, 4, 4]),
        (
            BatchMap("op", Function("b", lambda batch: list(map(plus_one, batch))), max_batch_size=3),
            [2, 3, 5],
        ),
        (Combine("op", function(plus_one), Sum()), [10]),
    ],
    ids=["Map", "FlatMap", "BatchMap", "Combine"],
)
def test_a_failed_record_goes_where_the_policy_says(operator: Any, expected: list[int], policy: Any) -> None:
    pipeline = made(replace(operator, error_policy=policy))
    if policy == "fail_fast":
        with pytest.raises(Exception, match="FP401 op: "):
            check(pipeline, [1, 2, 3, 4], [])
        return
    counted = check(pipeline, [1, 2, 3, 4], expected, letters=policy == "collect")["op"]
    outputs = 3 if isinstance(operator, Combine) else len(expected)
    collects = policy == "collect"
    assert counted == {"in": 4, "out": outputs, "dropped": not collects, "errors": collects}


def test_counters_account_for_every_record(load: Any) -> None:
    with running() as p:
        p | beam.Create(LINES) | to_ptransform(load(TIDY | {"error_policy": "drop"}, WORDS, COUNT))
    tidy, words, total = (counters(p.result, name) for name in ("tidy", "words", "total"))
    assert tidy == {"in": 39, "out": 37, "dropped": 2, "errors": 0}
    assert words == {"in": 37, "out": total["in"], "dropped": 0, "errors": 1}
    assert total == {"in": words["out"], "out": words["out"], "dropped": 0, "errors": 0}


def test_a_wrong_count_of_a_batch_names_operator_and_counts() -> None:
    with pytest.raises(Exception, match=r"FP402 'op' \(too_few\) returned 1 results for a batch of 2"):
        check(made(BatchMap("op", function(too_few), max_batch_size=2)), [1, 2], [])


@pytest.mark.parametrize(
    "operator",
    [Map("op", function(away)), Map("op", function(own_outside), transient=(LookupError,))],
    ids=["ConnectionError", "transient"],
)
def test_a_failure_outside_fails_the_bundle_and_blames_no_record(operator: Map) -> None:
    with pytest.raises(Exception, match="FP400 'op' at an element of a PCollection: "):
        check(made(operator), [1], [])


def test_records_that_no_store_would_keep_pass_between_operators() -> None:
    pipeline = made(Map("out", function(nested)), Map("back", function(inner), out_type=int))
    check(pipeline, range(50), range(50))


def test_a_sink_is_left_out_and_what_would_reach_it_comes_out(load: Any, tmp_path: Path) -> None:
    sink = {"type": "Sink", "name": "put", "func": "put_file", "contract": {"idempotent": True}}
    sink |= {"params": {"folder": str(tmp_path / "files")}}
    words = [Word(7, 0, "one"), Word(7, 1, "two")]
    check(load(WORDS, sink), [Line(7, "one two")], words)
    check(load(sink), words, words)
    assert not (tmp_path / "files").exists()


def test_dead_letters_that_no_store_would_keep_do_not_fail_the_run() -> None:
    pipeline = made(Map("strange", function(strange)), Map("op", function(inner)))
    with running() as p:
        out = p | beam.Create([0, 1]) | to_ptransform(pipeline)
        kept = out.dead_letters | beam.Reshuffle() | beam.Map(lambda letter: repr(letter["record"]))
        assert_that(kept, equal_to([repr(strange(0)), repr(strange(1))]))


def test_text_that_has_no_encoding_passes_between_operators() -> None:
    check(
        made(Map("out", Function("chr", chr), out_type=str), Map("back", Function("ord", ord))),
        [0xD800],
        [0xD800],
    )


# Combine.


@pytest.mark.parametrize(
    ("monoid", "lifted", "expected", "of_none"),
    [
        (Mean(), [(1.5, 1), (2, 1)], 1.75, None),
        (SetUnion(), [["a"], {"b"}, "ab"], frozenset("ab"), frozenset()),
        (Longest(), ["ab", "abc", "b"], "ABC", ""),
    ],
    ids=["Mean", "SetUnion", "Longest"],
)
def test_a_combine_gives_one_answer(monoid: Any, lifted: list[Any], expected: Any, of_none: Any) -> None:
    pipeline = made(Combine("op", function(same), monoid))
    with running() as p:
        some = p | beam.Create([lifted]) | beam.FlatMap(same) | to_ptransform(pipeline)
        none = p | "empty" >> beam.Create([]) | "none" >> to_ptransform(pipeline)
        both = (some.results | beam.Reshuffle(), none.results) | beam.Flatten()
        assert_that(both, equal_to([expected, of_none]))


@pytest.mark.parametrize("monoid", [Sum(), Mean(), Counter(), SetUnion(), ExactSum()], ids=repr)
def test_partial_answers_merge_in_any_order_and_through_the_wire(monoid: Monoid[Any]) -> None:
    lifts: Mapping[type, Callable[[int], Any]] = {
        Mean: lambda n: (n / 3, 1),
        Counter: lambda n: {n % 7: 1},
        SetUnion: lambda n: {n % 9, str(n)},
        ExactSum: lambda n: n / 7,
    }
    lifted = list(map(lifts.get(type(monoid), same), range(9_000)))
    combine_fn = MonoidCombineFn(Combine("op", function(same), monoid))
    coder = combine_fn.get_accumulator_coder()
    whole = combine_fn.apply(lifted)
    parts = []
    for start, stop in ((0, 5_000), (5_000, 5_001), (5_001, 5_001), (5_001, 9_000)):
        accumulator = combine_fn.create_accumulator()
        for value in lifted[start:stop]:
            accumulator = combine_fn.add_input(accumulator, value)
        parts.append(coder.encode(combine_fn.compact(accumulator)))
    for order in itertools.permutations(parts):
        first, *rest = map(coder.decode, order)
        merged = combine_fn.merge_accumulators([first, combine_fn.merge_accumulators(rest)])
        assert combine_fn.extract_output(merged) == whole


def test_merging_changes_no_partial_answer() -> None:
    combine_fn = MonoidCombineFn(Combine("op", function(same), Counter()))
    parts = [combine_fn.add_inputs(combine_fn.create_accumulator(), [{key: 1}]) for key in "ab"]
    combine_fn.merge_accumulators(parts)
    assert parts == [[{"a": 1}], [{"b": 1}]]
    assert combine_fn.create_accumulator() == []


def test_a_monoid_that_fails_breaks_its_contract_and_one_that_is_away_does_not() -> None:
    with pytest.raises(Exception, match="FP402 the monoid of 'op' failed .*ZeroDivisionError: no sums today"):
        check(made(Combine("op", function(same), Broken())), [1, 2], [])
    with pytest.raises(ContractError, match="the monoid of 'op' failed"):
        MonoidCombineFn(Combine("op", function(same), Broken())).compact([1, 2])
    with pytest.raises(Exception, match="FP400 merging for 'op': ConnectionError: no sums now"):
        check(made(Combine("op", function(same), Away())), [1, 2], [])


# Windows, types, portability.


def timed(number: int) -> TimestampedValue:
    return TimestampedValue(number, number * 5)


def test_windows_and_timestamps_stay() -> None:
    pipeline = made(Map("m", function(plus_one)), FlatMap("f", function(twice)))
    batched = made(BatchMap("b", function(same), max_batch_size=2))
    total = made(Combine("c", function(same), Sum()))

    def stamped(value: Any, window: Any = beam.DoFn.WindowParam, at: Any = beam.DoFn.TimestampParam) -> Any:
        return value, int(window.start), int(at)

    def windowed(value: Any, window: Any = beam.DoFn.WindowParam) -> Any:
        return value if isinstance(value, int) else value["operator"], int(window.start)

    with running() as p:
        numbers = p | beam.Create([0, 1, 2, 3]) | beam.Map(timed) | beam.WindowInto(FixedWindows(10))
        out = numbers | to_ptransform(pipeline)
        expected = [(1, 0, 0), (1, 0, 0), (2, 0, 5), (2, 0, 5)]
        assert_that(out.results | beam.Map(stamped), equal_to(expected))
        letters = out.dead_letters | "l" >> beam.Map(windowed)
        assert_that(letters, equal_to([("m", 10), ("f", 10)]), "letters")
        batches = (numbers | "b" >> to_ptransform(batched)).results | "bw" >> beam.Map(windowed)
        assert_that(batches, equal_to([(0, 0), (1, 0), (2, 10), (3, 10)]), "batches")
        totals = (numbers | "c" >> to_ptransform(total)).results | "cw" >> beam.Map(windowed)
        assert_that(totals, equal_to([(1, 0), (5, 10)]), "totals")


def test_a_step_behind_that_takes_another_type_is_refused(load: Any) -> None:
    out = running() | beam.Create(LINES) | to_ptransform(load(TIDY, WORDS))
    assert out.results.element_type is Word
    out.results | "right" >> beam.Map(same).with_input_types(Word)
    with pytest.raises(TypeCheckError, match="Word"):
        out.results | "wrong" >> beam.Map(same).with_input_types(int)
    out.dead_letters | "letters" >> beam.Map(same).with_input_types(dict[str, Any])


def test_records_of_another_type_are_refused_before_anything_runs(load: Any) -> None:
    with pytest.raises(TypeCheckError, match="Line"):
        running() | beam.Create([1, 2]) | to_ptransform(load(TIDY))


@pytest.mark.parametrize("operators", [(TIDY, WORDS, SCORE), (TIDY, WORDS, COUNT)], ids=["records", "answer"])
def test_a_pipeline_survives_the_way_to_a_portable_runner(load: Any, operators: tuple[Any, ...]) -> None:
    p = running()
    out = p | beam.Create(LINES) | to_ptransform(load(*operators))
    out.results | "use" >> beam.Map(same)
    proto, context = p.to_runner_api(return_context=True)
    named = {one.unique_name: one for one in proto.components.transforms.values()}
    whole = named["words-pipeline"]
    assert set(whole.outputs) == {"results", "dead_letters"}
    assert {"words-pipeline/tidy", "words-pipeline/words"} <= set(named)
    chunks = proto.components.pcollections[named["words-pipeline/words"].outputs["None"]]
    assert context.coders[chunks.coder_id] == RecordCoder(Word)

    back = beam.Pipeline.from_runner_api(proto, FnApiRunner(), PipelineOptions([]))
    again = back.to_runner_api()
    coders = Multiset(coder.spec.urn for coder in proto.components.coders.values())
    assert Multiset(coder.spec.urn for coder in again.components.coders.values()) == coders
    result = back.run()
    result.wait_until_finish()
    (count,) = result.metrics().query(MetricsFilter().with_namespace("tidy").with_name("in"))["counters"]
    assert count.committed == len(LINES)


def test_records_can_be_keys_behind_the_transform(load: Any) -> None:
    with running() as p:
        lines = p | beam.Create([Line(1, "a b"), Line(1, "a")])
        words = (lines | to_ptransform(load(WORDS))).results
        pairs = words | beam.Map(lambda word: (word, 1)).with_output_types(tuple[Word, int])
        grouped = pairs | beam.GroupByKey() | beam.MapTuple(lambda word, ones: (word.word, sum(ones)))
        assert_that(grouped, equal_to([("a", 2), ("b", 1)]))
        dicts = made(Map("m", function(same), out_type=dict[str, int]))
        records = p | "d" >> beam.Create([{"a": 1, "b": 2}, {"b": 2, "a": 1}]) | "t" >> to_ptransform(dicts)
        keyed = records.results | "key" >> beam.Map(lambda record: (record, 1))
        again = keyed | "g" >> beam.GroupByKey() | "s" >> beam.MapTuple(lambda key, ones: (key, sum(ones)))
        assert_that(again, equal_to([({"a": 1, "b": 2}, 2)]), "dicts")


def test_answers_that_no_store_would_keep_cross_the_wire() -> None:
    total = made(Combine("op", function(as_fraction), Sum()))
    with running() as p:
        out = p | beam.Create([2**60] * 32) | to_ptransform(total)
        assert_that(out.results | beam.Reshuffle(), equal_to([Fraction(2**65, 3)]))


def test_compiling_and_applying_run_nothing() -> None:
    artifact = Artifact("model", lambda: never(None))
    operators = (
        Map("m", Function("never", never, artifacts=(artifact,))),
        BatchMap("b", function(never)),
        Combine("c", function(never), Longest()),
    )
    with_defaults = to_ptransform(made(*operators))
    running() | beam.Create([1]) | with_defaults


def test_without_beam_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "funcpipe_prefect.backends.beam.transform"
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(BackendError, match=r'pip install "funcpipe-prefect\[beam\]"'):
        importlib.import_module(name)

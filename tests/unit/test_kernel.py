"""The kernel: every operator under every policy, counts, positions, and what is never a record's fault."""

from __future__ import annotations

import concurrent.futures
import itertools
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funcpipe_prefect.errors import ContractError, RecordError, SourceError, TransientError
from funcpipe_prefect.grouping import fold_records, merge_totals
from funcpipe_prefect.ir import Artifact, BatchMap, Combine, FlatMap, Function, Map, Undecodable
from funcpipe_prefect.kernel import Batches, Trace, bind, decoded, located, run_chain
from funcpipe_prefect.monoid import Counter, Sum
from funcpipe_prefect.result import Err, ErrorInfo, Ok

POLICIES = ("drop", "collect", "fail_fast")


class Ran(NamedTuple):
    records: list[Any]
    positions: list[int]
    counts: dict[str, tuple[int, int, int, int]]
    letters: list[tuple[ErrorInfo, Any]]
    trace: Trace


def run(operators: Iterable[Any], records: Iterable[Any], first: int = 100) -> Ran:
    letters: list[tuple[ErrorInfo, Any]] = []
    trace = Trace("split", lambda position: f"line {position}", lambda info, one: letters.append((info, one)))
    source = decoded(enumerate(records, first), trace)
    pairs = list(located(run_chain(operators, source, trace), trace))
    counts = {one.name: (one.passed, one.records_out, one.dropped, one.errors) for one in trace.counts()}
    return Ran([record for _, record in pairs], [place for place, _ in pairs], counts, letters, trace)


def function(call: Callable[..., Any], **params: Any) -> Function:
    return Function(getattr(call, "__name__", "call"), call, tuple(sorted(params.items())))


def mapping(call: Callable[..., Any], name: str = "m", **rest: Any) -> Map:
    return Map(name, function(call), **rest)


def flat(call: Callable[..., Any], name: str = "f", **rest: Any) -> FlatMap:
    return FlatMap(name, function(call), **rest)


def batch(call: Callable[..., Any], name: str = "b", **rest: Any) -> BatchMap:
    return BatchMap(name, function(call), **rest)


# The same failure on 3 by every way there is, for each operator.


def _raise(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


def _err(x: int) -> Any:
    return Err("three") if x == 3 else Ok(x)


def _plain_err(x: int) -> Any:
    return Err("three") if x == 3 else x


def _expand(one: Callable[[int], Any]) -> Callable[[int], Any]:
    def expand(x: int) -> Any:
        found = one(x)
        return found if type(found) is Err else [found, found]

    return expand


def _lazily(one: Callable[[int], Any]) -> Callable[[int], Any]:
    def expand(x: int) -> Iterator[Any]:
        yield Ok(x)
        yield one(x)

    return expand


def _whole(one: Callable[[int], Any]) -> Callable[[list[int]], Any]:
    return lambda xs: [one(x) for x in xs]


OPERATORS = [
    pytest.param(lambda policy, one=one, make=make: make(one, policy), copies, id=f"{name}-{one.__name__}")
    for one in (_raise, _err, _plain_err)
    for name, copies, make in (
        ("Map", 1, lambda one, policy: mapping(one, "op", error_policy=policy)),
        ("FlatMap", 2, lambda one, policy: flat(_expand(one), "op", error_policy=policy)),
        ("FlatMap-generator", 2, lambda one, policy: flat(_lazily(one), "op", error_policy=policy)),
        ("BatchMap-1", 1, lambda one, p: batch(_whole(one), "op", error_policy=p, max_batch_size=1)),
        ("BatchMap-2", 1, lambda one, p: batch(_whole(one), "op", error_policy=p, max_batch_size=2)),
        ("BatchMap-9", 1, lambda one, p: batch(_whole(one), "op", error_policy=p, max_batch_size=9)),
    )
]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("operator", "copies"), OPERATORS)
def test_a_failing_record_costs_only_itself_and_every_record_is_counted(
    operator: Callable[[str], Any], copies: int, policy: str
) -> None:
    if policy == "fail_fast":
        with pytest.raises(RecordError, match=r"op: (ValueError|Err): three \(record at line 103: 3\)"):
            run([operator(policy)], range(6))
        return
    ran = run([operator(policy)], range(6))
    healthy = [0, 1, 2, 4, 5]
    assert ran.records == [x for x in healthy for _ in range(copies)]
    assert ran.positions == [100 + x for x in healthy for _ in range(copies)]
    assert ran.counts["op"] == (5, 5 * copies, int(policy == "drop"), int(policy == "collect"))
    assert [(info.position, record) for info, record in ran.letters] == [(103, 3)][: policy == "collect"]


@given(
    fails=st.lists(st.sets(st.integers(0, 30)), min_size=4, max_size=4),
    policies=st.lists(st.sampled_from(["drop", "collect"]), min_size=4, max_size=4),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    count=st.integers(0, 30),
)
def test_no_record_is_lost_or_counted_twice_between_operators(
    fails: list[set[int]], policies: list[str], sizes: tuple[int, int], count: int
) -> None:
    """What goes into an operator is what came out of the one before; dead letters name their source."""

    def failing(index: int) -> Callable[[tuple[int, int]], Any]:
        return lambda x: Err("no") if x[0] in fails[index] else x

    operators = [
        batch(
            lambda xs: [failing(0)(x) for x in xs], "b1", error_policy=policies[0], max_batch_size=sizes[0]
        ),
        batch(
            lambda xs: [failing(1)(x) for x in xs], "b2", error_policy=policies[1], max_batch_size=sizes[1]
        ),
        flat(
            lambda x: Err("no") if x[0] in fails[2] else [(x[0], i) for i in range(x[0] % 3)],
            error_policy=policies[2],
        ),
        batch(
            lambda xs: [failing(3)(x) for x in xs], "b3", error_policy=policies[3], max_batch_size=sizes[0]
        ),
    ]
    ran = run(operators, [(number, 0) for number in range(count)])
    flowing = count
    for name in ("source", "b1", "b2", "f", "b3"):
        passed, records_out, dropped, errors = ran.counts[name]
        assert passed + dropped + errors == flowing, name
        flowing = records_out
    assert flowing == len(ran.records)
    assert all(info.position == 100 + record[0] for info, record in ran.letters)
    assert ran.positions == [100 + record[0] for record in ran.records]


def test_a_flat_map_that_fails_half_way_leaves_no_half_of_its_record() -> None:
    def halves(x: int) -> Iterator[int]:
        yield x
        if x == 1:
            raise ValueError("half")
        yield x

    ran = run([flat(halves)], range(3))
    assert ran.records == [0, 0, 2, 2]
    assert ran.counts["f"] == (2, 4, 0, 1)


def test_a_flat_map_result_with_an_err_behind_oks_gives_nothing() -> None:
    ran = run([flat(lambda x: [Ok(x), x, Err("late")] if x else [Ok(x), 7])], range(2))
    assert ran.records == [0, 7]
    assert ran.letters[0][0].message == "late"


class _Model(pydantic.BaseModel):
    a: int = 1


class _Pair(NamedTuple):
    a: int


@pytest.mark.parametrize("one", ["text", b"bytes", {"a": 1}, _Model(), _Pair(1)], ids=repr)
def test_a_flat_map_that_returns_one_record_in_place_of_a_list_is_told_so(one: Any) -> None:
    ran = run([flat(lambda _: one)], [0])
    assert ran.records == []
    assert "iterable of records" in ran.letters[0][0].message


def test_a_flat_map_may_return_nothing_for_a_record() -> None:
    assert run([flat(lambda x: ())], range(3)).counts["f"] == (3, 0, 0, 0)


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        (lambda xs: xs[:-1], "returned 3 results for a batch of 4"),
        (lambda xs: [*xs, 1], "returned 5 results for a batch of 4"),
        (lambda xs: Ok(xs[1:]), "returned 3 results for a batch of 4"),
        (lambda xs: None, "NoneType"),
        (lambda xs: "abcd", "returned a str"),
        (lambda xs: set(xs), "returned a set"),
        (lambda xs: 4, "returned a int"),
    ],
)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_batch_with_the_wrong_number_of_results_stops_the_run_and_is_named(
    returns: Callable[[list[int]], Any], words: str, policy: str
) -> None:
    with pytest.raises(ContractError, match="'embed'") as caught:
        run([batch(returns, "embed", error_policy=policy, max_batch_size=4)], range(9))
    assert words in str(caught.value)


def test_a_batch_function_may_return_a_tuple_or_a_generator() -> None:
    assert run([batch(lambda xs: tuple(xs), max_batch_size=2)], range(3)).records == [0, 1, 2]
    assert run([batch(lambda xs: (x for x in xs), max_batch_size=2)], range(3)).records == [0, 1, 2]


def test_a_batch_function_that_empties_its_list_takes_nothing_from_the_retry() -> None:
    def greedy(xs: list[int]) -> list[int]:
        taken = [xs.pop(0) for _ in range(len(xs))]
        if 3 in taken:
            raise ValueError("three")
        return taken

    ran = run([batch(greedy, max_batch_size=5)], range(7))
    assert ran.records == [0, 1, 2, 4, 5, 6]
    assert [record for _, record in ran.letters] == [3]


@pytest.mark.parametrize("size", [1, 7, 128])
def test_a_poison_record_fails_alone_whatever_the_batch_size(size: int) -> None:
    poison = {3, 4, 77, 199}

    def together(xs: list[int]) -> list[int]:
        if poison.intersection(xs):
            raise ValueError("the whole batch is refused")
        return [x * 10 for x in xs]

    ran = run([batch(together, max_batch_size=size)], range(200))
    assert ran.records == [x * 10 for x in range(200) if x not in poison]
    assert [(info.position, record) for info, record in ran.letters] == [(100 + x, x) for x in sorted(poison)]


def test_an_err_for_a_whole_batch_is_asked_again_record_by_record() -> None:
    ran = run([batch(lambda xs: Err("no") if 2 in xs else xs, max_batch_size=4)], range(4))
    assert ran.records == [0, 1, 3]


INFRASTRUCTURE = (
    TransientError("later"), ConnectionResetError("later"), TimeoutError("later"), MemoryError("later"),
    concurrent.futures.TimeoutError("later"), LookupError("later"),
)  # fmt: skip


@pytest.mark.parametrize("error", INFRASTRUCTURE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["Map", "FlatMap", "BatchMap", "Combine"])
def test_infrastructure_failures_never_blame_the_record_and_say_where(
    kind: str, policy: Any, error: Exception
) -> None:
    def fails(x: Any) -> Any:
        if x in (3, [3]):
            raise error
        return [x] if kind == "FlatMap" else x

    rest: Any = {"error_policy": policy, "transient": (LookupError,)}
    sizes = {"max_batch_size": 1} if kind == "BatchMap" else {}
    combine = Combine("op", function(fails), Sum(), **rest)
    makers = {"Map": mapping, "FlatMap": flat, "BatchMap": batch}
    with pytest.raises(TransientError, match=r"'op' at line 103") as caught:
        fold(combine, range(6)) if kind == "Combine" else run(
            [makers[kind](fails, "op", **rest, **sizes)], range(6)
        )
    assert "later" in str(caught.value)


def test_a_contract_error_of_a_user_is_not_a_dead_letter() -> None:
    def broken(x: int) -> int:
        raise ContractError("mine")

    with pytest.raises(ContractError, match="mine"):
        run([mapping(broken)], range(3))


def test_stop_iteration_of_a_user_does_not_end_the_partition() -> None:
    def stops(x: int) -> int:
        return next(iter(())) if x == 1 else x

    ran = run([mapping(stops)], range(4))
    assert ran.records == [0, 2, 3]
    assert ran.letters[0][0].type == "StopIteration"


def test_an_error_without_text_or_with_broken_text_is_still_a_dead_letter() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    def refuse(x: Any) -> Any:
        raise Hostile

    ran = run([mapping(refuse)], [Shy(), "\ud800"])
    assert [info.type for info, _ in ran.letters] == ["Hostile", "Hostile"]
    assert ran.letters[0][0].preview == "<Shy instance>"
    ran.letters[1][0].preview.encode()


def test_a_record_is_a_dead_letter_even_when_its_place_cannot_be_found_any_more() -> None:
    def gone(position: int) -> str:
        raise FileNotFoundError("the input was removed")

    letters: list[ErrorInfo] = []
    trace = Trace("docs.jsonl-0", gone, lambda info, record: letters.append(info))
    assert list(run_chain([mapping(_raise)], decoded([(7, 3)], trace), trace)) == []
    assert letters[0].location == "docs.jsonl-0, position 7"


def test_an_input_that_breaks_while_it_is_read_is_no_fault_of_the_output() -> None:
    def records() -> Iterator[tuple[int, Any]]:
        yield 0, "a"
        raise OSError("disk gone")

    trace = Trace("s", str, lambda *_: None)
    with pytest.raises(SourceError, match="behind 0 failed: OSError: disk gone"):
        list(run_chain([mapping(str)], decoded(records(), trace), trace))


def test_undecodable_lines_are_dead_letters_of_the_source() -> None:
    ran = run([mapping(lambda x: x)], [1, Undecodable(b"{", "DecodeError", "bad"), 2])
    assert ran.records == [1, 2]
    assert ran.counts["source"] == (2, 2, 0, 1)
    info, record = ran.letters[0]
    assert (info.operator, info.type, info.message, info.position) == ("source", "DecodeError", "bad", 101)
    assert record.raw == b"{"


def test_a_position_is_right_after_a_sink_has_refused_an_earlier_record() -> None:
    """A sink hands back records of a batch long past; the stream must not take over their place."""
    trace = Trace("s", str, lambda *_: None)
    stream = located(
        run_chain([flat(lambda x: [x, x, x])], decoded([(10, "a"), (20, "b")], trace), trace), trace
    )
    places = []
    for place, _ in stream:
        places.append(place)
        trace.position = 0  # as a sink's `reject` does
    assert places == [10, 10, 10, 20, 20, 20]


def test_parameters_and_artifacts_reach_the_function_and_an_artifact_is_built_once() -> None:
    built = []

    def model() -> dict[str, int]:
        built.append(1)
        return {"k": 5}

    def scale(x: int, *, by: int, model: dict[str, int]) -> int:
        return x * by + model["k"]

    artifact = Artifact("model", model)
    bound = Function("scale", scale, (("by", 2),), (artifact,))
    again = Function("scale", scale, (("by", 3),), (artifact,))
    assert run([Map("m", bound), Map("n", again)], range(3)).records == [20, 26, 32]
    assert bind(bound)(1) == 7
    assert built == [1]


def test_records_stream_one_by_one_through_maps_and_flat_maps() -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        for number in itertools.count():
            taken = number + 1
            yield number

    trace = Trace("s", str, lambda *_: None)
    chain = [mapping(lambda x: x), flat(lambda x: [x, x]), batch(lambda xs: xs, max_batch_size=8)]
    stream = run_chain(chain, decoded(enumerate(source()), trace), trace)
    for _ in range(50):
        next(stream)
    assert taken <= 50 / 2 + 8


def test_a_million_records_are_never_held_at_once() -> None:
    trace = Trace("s", str, lambda *_: None)
    source = decoded(((number, number) for number in range(10_000)), trace)
    chain = [flat(lambda x: range(x, x + 100)), batch(lambda xs: xs, max_batch_size=64)]
    tracemalloc.start()
    try:
        total = sum(1 for _ in run_chain(chain, source, trace))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 1_000_000
    assert peak < 500_000


def test_what_comes_in_lists_is_the_same_as_one_by_one() -> None:
    def mixed(values: list[int]) -> list[Any]:
        return [Err("odd") if value % 3 == 0 else Ok(value) if value % 2 else value for value in values]

    def run(by_lists: bool) -> tuple[list[Any], list[Any], Any]:
        letters: list[Any] = []
        trace = Trace("s", str, lambda info, one: letters.append((info.position, one)))
        chain = [flat(lambda x: [x, x + 1]), batch(mixed, max_batch_size=4)]
        values = run_chain(chain, decoded(enumerate(range(9), 100), trace), trace)
        assert isinstance(values, Batches)
        found = (
            [pair for positions, results in values.lists for pair in zip(positions, results, strict=True)]
            if by_lists
            else list(located(values, trace))
        )
        return found, letters, trace.counts()

    assert run(by_lists=True) == run(by_lists=False)
    assert len(run(by_lists=True)[1]) == 6


def fold(operator: Combine, records: Iterable[Any]) -> tuple[Any, Trace, list[tuple[ErrorInfo, Any]]]:
    letters: list[tuple[ErrorInfo, Any]] = []
    trace = Trace("split", lambda position: f"line {position}", lambda info, one: letters.append((info, one)))
    return fold_records(operator, decoded(enumerate(records, 100), trace), trace), trace, letters


def test_a_combine_sums_what_lifts_and_routes_what_does_not() -> None:
    for policy, expected in (("drop", (5, 0, 1, 0)), ("collect", (5, 0, 0, 1))):
        total, trace, letters = fold(Combine("sum", function(_raise), Sum(), policy), range(6))  # type: ignore[arg-type]
        assert total == 12
        (_, counts) = trace.counts()
        assert (counts.passed, counts.records_out, counts.dropped, counts.errors) == expected
        assert [info.position for info, _ in letters] == [103][: policy == "collect"]
    with pytest.raises(RecordError, match="sum: ValueError: three"):
        fold(Combine("sum", function(_raise), Sum(), "fail_fast"), range(6))


def test_a_combine_of_nothing_is_the_identity() -> None:
    assert fold(Combine("sum", function(_raise), Sum()), [])[0] == 0
    assert fold(Combine("sum", function(_raise), Sum(), "drop"), [3, 3])[0] == 0


@pytest.mark.parametrize("monoid", [Sum(), Counter()], ids=["combine", "fold"])
def test_a_monoid_that_cannot_combine_is_a_broken_contract_not_a_bad_record(monoid: Any) -> None:
    with pytest.raises(ContractError, match=r"monoid of 'total' failed to combine: .* \(record at line 10"):
        fold(Combine("total", function(lambda x: "text" if x == 3 else (x or {})), monoid), range(5))


def test_a_monoid_that_needs_the_network_may_try_again() -> None:
    class Remote(Sum):
        def combine(self, a: Any, b: Any) -> Any:
            raise ConnectionError("store away")

    with pytest.raises(TransientError, match="'total' at line"):
        fold(Combine("total", function(lambda x: x), Remote()), range(2))


def test_partial_answers_that_do_not_merge_break_the_contract_too() -> None:
    total = Combine("total", function(lambda x: x), Sum())
    assert (merge_totals(total, [1, 2]), merge_totals(total, [])) == (3, 0)
    with pytest.raises(ContractError, match="monoid of 'total' failed to merge .*: TypeError"):
        merge_totals(total, [1, "text"])

    class Mean(Sum):
        def finish(self, total: Any) -> Any:
            return total / 0

    with pytest.raises(ContractError, match="ZeroDivisionError"):
        merge_totals(Combine("total", function(lambda x: x), Mean()), [1])

    class Remote(Sum):
        def combine(self, a: Any, b: Any) -> Any:
            raise ConnectionError("store away")

    with pytest.raises(TransientError, match="merging for 'total': ConnectionError: store away"):
        merge_totals(Combine("total", function(lambda x: x), Remote()), [1])

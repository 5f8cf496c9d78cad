"""Keyed combines, de-duplication, windows, branches: the same on every backend, and what they should be."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import RunReport, load_pipeline, run_local
from funcpipe_prefect.errors import RecordError
from tests.contract.test_backends import Run, content, engine, run_on
from tests.registries.shapes import Paper, chunks_of, first_word, nearly

SINK = {"type": "Sink", "func": "jsonl", "contract": {"idempotent": True}}


def events(count: int = 600, seed: int = 3) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    users = ["ann", "bob", "cid", "dee", "nobody", "broken", "Zoë", "ann"]
    return [
        {
            "id": number // 2,  # each id twice
            "user": "ann" if chance.random() < 0.5 else chance.choice(users),
            "amount": chance.randint(-5, 30),
            "minute": chance.choice([0, 5, 29.5, 30, 61, chance.uniform(-100, 300)]),
        }
        for number in range(count)
    ]


PREFECT = pytest.mark.prefect
ON_BEAM = pytest.param("beam", marks=[PREFECT, pytest.mark.runners])
"""Generated pipelines run on every mode of Beam, the real abstracts on this one each time."""


@pytest.fixture(params=["local", pytest.param("dask", marks=PREFECT), ON_BEAM])
def run(request: pytest.FixtureRequest) -> Run:
    return run_on(request.param, request)


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    made = events()
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return made


def spec(folder: Path, operators: Iterable[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "name": "shapes",
        "imports": ["tests.registries.shapes"],
        "source": {"type": "jsonl", "path": str(folder / "in.jsonl"), "record": "Event", "splits": 5},
        "operators": [dict(one) for one in operators],
        "cache": {"storage": str(folder / "store")},
        "errors": {"path": str(folder / "letters")},
        "retries": {"delay_seconds": 0},
        **changes,
    }


def sink(folder: Path, name: str = "write", **more: Any) -> dict[str, Any]:
    return {**SINK, "name": name, "params": {"path": str(folder / name)}, **more}


def read(folder: Path) -> list[dict[str, Any]]:
    manifest = json.loads((folder / "_manifest.json").read_text())
    files = [entry["part"]["file"] for entry in manifest["parts"] if entry["part"]["file"]]
    return [json.loads(line) for file in files for line in (folder / file).read_text().splitlines()]


def by_name(report: RunReport) -> dict[str, Any]:
    return {counts.name: counts for counts in report.operators}


KEYED = {"type": "CombineByKey", "name": "totals", "key": "user_of", "lift": "amount_of", "monoid": "sum"}


def expected_totals(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    totals: dict[str, int] = defaultdict(int)
    for row in rows:
        if row["user"] != "nobody" and row["amount"] != 13:
            totals[row["user"]] += row["amount"]
    return totals


def test_a_keyed_combine_gives_one_record_for_each_key(
    run: Run,
    rows: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    report = run(spec(tmp_path, [KEYED, sink(tmp_path)]))
    written = read(tmp_path / "write")
    assert {row["key"]: row["value"] for row in written} == expected_totals(rows)
    assert report.records_out == len(written) == len(expected_totals(rows))
    failed = sum(row["user"] == "nobody" or row["amount"] == 13 for row in rows)
    counts = by_name(report)["totals"]
    assert (counts.records_in, counts.errors, counts.records_out) == (len(rows), failed, len(written))
    letters = read(tmp_path / "letters")
    assert len(letters) == failed == report.errors
    assert {letter["operator"] for letter in letters} == {"totals"}
    assert all("in.jsonl:" in letter["location"] for letter in letters)


def test_splits_and_partitions_change_neither_records_nor_their_order(
    run: Run,
    rows: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    orders = set()
    for splits, partitions in [(1, 1), (5, 3), (7, 64), (2, 100)]:
        places = {"operators.write.params.path": str(tmp_path / f"{splits}-{partitions}")}
        run(spec(tmp_path, [KEYED, sink(tmp_path)]), **{
            "source.splits": splits, "operators.totals.partitions": partitions, **places,
        })  # fmt: skip
        orders.add(json.dumps(read(tmp_path / f"{splits}-{partitions}")))
    assert len(orders) == 1


def test_of_equal_keys_the_record_with_the_smallest_position_survives(
    run: Run,
    rows: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    distinct = {"type": "Distinct", "name": "unique", "key": "bucket_of", "params": {"size": 7}}
    first: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        first.setdefault((row["user"][:1], row["id"] // 7), row)
    digests = set()
    for splits, partitions in [(1, 1), (5, 4), (13, 9)]:
        report = run(spec(tmp_path, [distinct, sink(tmp_path)]), **{
            "source.splits": splits, "operators.unique.partitions": partitions,
        })  # fmt: skip
        digests.add(report.digest)
        written = read(tmp_path / "write")
        assert sorted(written, key=repr) == sorted(first.values(), key=repr)
    assert len(digests) == 1


def test_a_second_distinct_goes_by_position_too(
    run: Run,
    rows: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    fine = {"type": "Distinct", "name": "fine", "key": "bucket_of", "params": {"size": 1}, "partitions": 5}
    coarse = {"type": "Distinct", "name": "coarse", "key": "user_of", "partitions": 3}
    first: dict[str, dict[str, Any]] = {}
    seen = set()
    for row in rows:
        mark = (row["user"][:1], row["id"])
        if mark not in seen and row["user"] != "nobody":
            first.setdefault(row["user"], row)
        seen.add(mark)
    run(spec(tmp_path, [fine, coarse, sink(tmp_path)]))
    assert sorted(read(tmp_path / "write"), key=repr) == sorted(first.values(), key=repr)


def test_equal_records_are_one_without_a_key(run: Run, tmp_path: Path) -> None:
    made = events(50) * 3
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    report = run(spec(tmp_path, [{"type": "Distinct", "name": "unique"}, sink(tmp_path)]))
    assert report.records_out == len({json.dumps(row) for row in made})


def test_a_filter_keeps_what_its_function_says(
    run: Run,
    rows: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    keep = {"type": "Filter", "name": "big", "func": "is_big", "params": {"least": 20}}
    report = run(spec(tmp_path, [keep, sink(tmp_path)]))
    broken = sum(row["user"] == "broken" for row in rows)
    kept = [row for row in rows if row["amount"] >= 20 and row["user"] != "broken"]
    assert read(tmp_path / "write") == kept
    counts = by_name(report)["big"]
    assert (counts.passed, counts.errors, counts.records_out) == (len(rows) - broken, broken, len(kept))


OPERATORS = {
    "Filter": {"type": "Filter", "name": "one", "func": "is_big"},
    "Distinct": {"type": "Distinct", "name": "one", "key": "user_of"},
    "CombineByKey": {**KEYED, "name": "one"},
    "Combine": {"type": "Combine", "name": "one", "lift": "amount_of", "monoid": "sum"},
}
FAILS = {
    "Filter": lambda row: row["user"] == "broken",
    "Distinct": lambda row: row["user"] == "nobody",
    "CombineByKey": lambda row: row["user"] == "nobody" or row["amount"] == 13,
    "Combine": lambda row: row["amount"] == 13,
}


@pytest.mark.parametrize("policy", ["drop", "collect", "fail_fast"])
@pytest.mark.parametrize("kind", list(OPERATORS))
def test_a_failed_record_is_treated_by_its_operators_policy(
    rows: list[dict[str, Any]], tmp_path: Path, kind: str, policy: str
) -> None:
    mapping = spec(tmp_path, [{**OPERATORS[kind], "error_policy": policy}, sink(tmp_path)])
    failed = sum(map(FAILS[kind], rows))
    if policy == "fail_fast":
        with pytest.raises(RecordError, match=r"FP401 one: .*in\.jsonl:\d+ \(byte \d+\)"):
            run_local(load_pipeline(mapping))
        assert not (tmp_path / "write" / "_manifest.json").exists()
        return
    report = run_local(load_pipeline(mapping))
    counts = by_name(report)["one"]
    assert (counts.dropped, counts.errors) == ((failed, 0) if policy == "drop" else (0, failed))


def test_one_pass_feeds_two_sinks_and_two_combines(
    run: Run,
    rows: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    operators = [
        {"type": "Filter", "name": "big", "func": "is_big"},
        sink(tmp_path, "all"),
        {"type": "Combine", "name": "spread", "lift": "id_of", "monoid": "moments", "input": "big", "fan_in": 2},
        {**KEYED, "input": "big"},
        {"type": "Map", "name": "loud", "func": "loudest"},
        sink(tmp_path, "by_user"),
        {"type": "Combine", "name": "count", "lift": "one", "monoid": "count", "input": "source"},
    ]  # fmt: skip
    report = run(spec(tmp_path, operators))
    kept = [row for row in rows if row["amount"] >= 10 and row["user"] != "broken"]
    assert report.result["count"] == len(rows)
    assert report.result["spread"]["count"] == len(kept)
    assert read(tmp_path / "all") == kept
    assert {row["key"]: row["value"] for row in read(tmp_path / "by_user")} == {
        user.upper(): total for user, total in expected_totals(kept).items()
    }
    counts = by_name(report)
    assert counts["big"].records_in == len(rows), "the filter saw each record once"
    assert {name: one["records_out"] for name, one in report.outputs.items()} == {
        "all": len(kept), "by_user": len(expected_totals(kept)),
    }  # fmt: skip
    elsewhere = {
        "operators.all.params.path": str(tmp_path / "all2"),
        "operators.by_user.params.path": str(tmp_path / "by2"),
        "cache.storage": str(tmp_path / "store2"),
        "errors.path": str(tmp_path / "letters2"),
    }
    local = run_local(load_pipeline(spec(tmp_path, operators), overrides=elsewhere))
    assert (report.digest, report.operators, report.result) == (local.digest, local.operators, local.result)
    for one, other in (("all", "all2"), ("by_user", "by2"), ("letters", "letters2")):
        assert content(tmp_path / one) == content(tmp_path / other) != {}
    again = run(spec(tmp_path, operators))
    assert (again.tasks_run, again.result, again.operators) == (0, report.result, report.operators)


def test_an_answer_goes_through_a_sink_and_an_empty_input_gives_the_identity(
    run: Run,
    tmp_path: Path,
) -> None:
    total = {"type": "Combine", "name": "total", "lift": "amount_of", "monoid": "sum"}
    for count in (0, 40):
        made = [{"id": 1, "user": "ann", "amount": 2, "minute": 0}] * count
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
        report = run(spec(tmp_path, [total, sink(tmp_path)]), **{"operators.total.fan_in": 2})
        assert (report.result, report.records_out) == (2 * count, 1)
        assert read(tmp_path / "write") == [2 * count]


def test_windows_are_part_of_the_key(
    run: Run,
    rows: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    window = {"time": "time_of", "size": "30m"}
    run(spec(tmp_path, [{**KEYED, "monoid": "count", "lift": "one", "window": window}, sink(tmp_path)]))
    expected = Counter((row["user"], int(row["minute"] // 30)) for row in rows if row["user"] != "nobody")
    found = {(row["key"], row["start"], row["end"]): row["value"] for row in read(tmp_path / "write")}
    assert len(found) == len(expected)
    assert sorted(found.values()) == sorted(expected.values())
    assert found["ann", "2026-01-01T00:00:00Z", "2026-01-01T00:30:00Z"] == expected["ann", 0]


def test_one_key_with_most_records_is_no_trouble(run: Run, tmp_path: Path) -> None:
    made = [{"id": n, "user": "hot" if n % 10 else f"u{n}", "amount": 1, "minute": 0} for n in range(3000)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    run(spec(tmp_path, [KEYED, sink(tmp_path)]))
    assert {row["key"]: row["value"] for row in read(tmp_path / "write")} == expected_totals(made)


def test_more_keys_than_may_be_held_take_more_passes(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distinct = {"type": "Distinct", "name": "unique", "key": "bucket_of", "params": {"size": 1}}
    keyed = {**KEYED, "key": "bucket_of", "key_params": {"size": 1}}
    for operator in (distinct, keyed):
        digests = set()
        for most in (1 << 20, 17):
            monkeypatch.setattr("funcpipe_prefect.grouping.MOST_KEYS", most)
            monkeypatch.setattr("funcpipe_prefect.grouping._FIRST_PARTIALS", most)
            report = run_local(load_pipeline(spec(tmp_path, [operator, sink(tmp_path)])), refresh=True)
            digests.add(report.digest)
            assert report.records_out > 300
        assert len(digests) == 1


@pytest.mark.parametrize("kind", ["missing", "truncated", "tampered"])
def test_what_was_handed_over_damaged_is_worked_out_again(
    run: Run,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    kind: str,
) -> None:
    first = run(spec(tmp_path, [KEYED, sink(tmp_path)]))
    paths = sorted((tmp_path / "store").rglob("*.fpx"))
    data = paths[0].read_bytes()
    assert len(paths) == 5
    if kind == "missing":
        paths[0].unlink()
    elif kind == "truncated":
        paths[0].write_bytes(data[:-1])
    else:
        paths[0].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elsewhere = {"operators.write.params.path": str(tmp_path / "again")}
    again = run(spec(tmp_path, [{**KEYED, "partitions": 4}, sink(tmp_path)]), **elsewhere)
    assert (again.digest, again.operators) == (first.digest, first.operators)
    assert paths[0].read_bytes() == data


def test_a_key_that_would_come_back_as_another_is_a_dead_letter(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    report = run_local(load_pipeline(spec(tmp_path, [{**KEYED, "key": "untyped_pair"}, sink(tmp_path)])))
    assert report.records_out == 0
    assert "annotate what the key function returns" in read(tmp_path / "letters")[0]["message"]


def test_a_filter_without_a_verdict_fails_its_records(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    keep = {"type": "Filter", "name": "big", "func": "yes_and_no"}
    report = run_local(load_pipeline(spec(tmp_path, [keep, sink(tmp_path)])))
    assert (report.records_out, report.errors) == (0, len(rows))


def test_a_sample_does_not_depend_on_partitions(
    run: Run,
    rows: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    operators = [
        {"type": "FlatMap", "name": "double", "func": "doubled"},
        {"type": "Combine", "name": "sample", "lift": "amount_of", "monoid": "reservoir_sample",
         "monoid_params": {"k": 7}},
    ]  # fmt: skip
    samples = [run(spec(tmp_path, operators), **{"source.splits": splits}).result for splits in (1, 4, 9)]
    assert samples[0] == samples[1] == samples[2]
    assert len(samples[0]) == 7
    other = run(spec(tmp_path, operators), **{"operators.sample.monoid_params.seed": 1}).result
    assert other != samples[0]


@pytest.mark.prefect
@pytest.mark.parametrize(
    "backend", ["local", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dask", "beam"))]
)
def test_real_abstracts_are_counted_sorted_out_and_measured(
    arxiv: Path, tmp_path: Path, backend: str, request: pytest.FixtureRequest
) -> None:
    """Documents per category, distinct first words, near-duplicates, quantiles of chunks: in one pipeline."""
    papers = [json.loads(line) for line in arxiv.open()]
    operators = [
        {"type": "FlatMap", "name": "categories", "func": "categories_of"},
        {"type": "CombineByKey", "name": "count", "key": "itself", "lift": "once", "monoid": "count"},
        sink(tmp_path, "by_category"),
        {"type": "Distinct", "name": "unique", "key": "nearly", "input": "source"},
        sink(tmp_path, "documents"),
        {"type": "FlatMap", "name": "chunk", "func": "chunks_of", "input": "unique"},
        {"type": "Combine", "name": "lengths", "lift": "length_of", "monoid": "quantiles"},
        {"type": "Combine", "name": "words", "lift": "first_word", "monoid": "distinct_count", "input": "unique"},
    ]  # fmt: skip
    mapping = spec(tmp_path, operators)
    mapping["source"] |= {"path": str(arxiv), "record": "Paper", "splits": 8}
    if backend == "local":
        report = run_local(load_pipeline(mapping))
    else:
        from funcpipe_prefect import run_pipeline

        request.getfixturevalue("prefect_api")
        name, given = engine(backend, request)
        report = run_pipeline(mapping, backend=name, overrides=given)
    counted = Counter(category for paper in papers for category in paper["categories"].split())
    assert {row["key"]: row["value"] for row in read(tmp_path / "by_category")} == counted
    first: dict[str, str] = {}
    for paper in papers:
        first.setdefault(nearly(Paper(**paper)), paper["doc_id"])
    assert {row["doc_id"] for row in read(tmp_path / "documents")} == set(first.values())
    assert len(first) < len(papers)
    kept = [Paper(**paper) for paper in papers if paper["doc_id"] in set(first.values())]
    sizes = sorted(len(chunk.text) for paper in kept for chunk in chunks_of(paper))
    lengths = report.result["lengths"]
    assert (lengths["count"], lengths["min"], lengths["max"]) == (len(sizes), sizes[0], sizes[-1])
    assert lengths["quantiles"]["0.5"] == sizes[(len(sizes) - 1) // 2]
    words = len({first_word(paper) for paper in kept})
    assert abs(report.result["words"] - words) < 0.04 * words

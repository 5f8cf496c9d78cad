"""One suite for every backend: the same pipeline gives the same records, counts and bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import RunReport, load_pipeline, run_local
from funcpipe_prefect.errors import ErrorRateExceeded, RecordError
from tests.conftest import BEAM_MODES, beam_overrides

LINES = [
    "Alpha beta", "bad line", "gamma broken delta", "x poison y", "nowords here", "epsilon  zeta eta", "", "poison",
] * 40  # fmt: skip

Run = Callable[..., RunReport]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    rows = [json.dumps({"id": index, "text": text}) for index, text in enumerate(LINES)]
    rows[7] = '{"id": "seven", "text": "not a number"}'
    rows[100] = "{not json"
    path.write_text("\n".join(rows) + "\n")
    return path


def spec(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "words",
        "imports": ["tests.registries.words"],
        "source": {"type": "jsonl", "path": str(folder / "in.jsonl"), "splits": 3},
        "operators": [
            {"type": "Map", "name": "tidy", "func": "tidy", "error_policy": "drop"},
            {"type": "FlatMap", "name": "words", "func": "words"},
            {"type": "BatchMap", "name": "score", "func": "score", "max_batch_size": 7},
            {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
             "params": {"path": str(folder / "out")}},
        ],
        "cache": {"storage": str(folder / "store")},
        "errors": {"path": str(folder / "letters")},
        "retries": {"transform": 2, "sink": 2, "delay_seconds": 0},
        **changes,
    }  # fmt: skip


@pytest.fixture(params=["local", pytest.param("dask", marks=pytest.mark.prefect), *BEAM_MODES])
def run(request: pytest.FixtureRequest) -> Run:
    return run_on(request.param, request)


def run_on(name: str, request: pytest.FixtureRequest) -> Run:
    """Give what runs a pipeline file on a backend."""
    if name == "local":
        return lambda mapping, refresh_from=None, retry_errors=False, **overrides: run_local(
            load_pipeline(mapping, overrides=overrides), refresh_from=refresh_from, retry_errors=retry_errors
        )
    request.getfixturevalue("prefect_api")
    backend, given = engine(name, request)

    def under_prefect(
        mapping: dict[str, Any], refresh_from: str | None = None, retry_errors: bool = False, **overrides: Any
    ) -> RunReport:
        from funcpipe_prefect import run_pipeline

        records = overrides.pop("input", None)
        report: RunReport = run_pipeline(
            mapping,
            backend=backend,
            input=records,
            overrides={**given, **overrides},
            refresh_from=refresh_from,
            retry_errors=retry_errors,
        )
        return report

    return under_prefect


def engine(name: str, request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The backend of a name, and what it overrides."""
    if name == "dask":
        return "dask", {"resources.address": request.getfixturevalue("dask_address")}
    return "beam", beam_overrides(name, request)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_counts_add_up_at_each_operator_and_to_the_input(run: Run, lines: Path, tmp_path: Path) -> None:
    report = run(spec(tmp_path))
    assert report.records_in == len(LINES)
    before = report.records_in
    for counts in report.operators:
        assert counts.records_in == before == counts.passed + counts.dropped + counts.errors
        before = counts.records_out
    by_name = {counts.name: counts for counts in report.operators}
    assert (by_name["source"].errors, by_name["tidy"].dropped) == (2, 80)
    assert by_name["words"].errors == 39  # row 100, one of 40, is not JSON
    assert report.errors == 2 + 39 + by_name["score"].errors
    assert (
        by_name["score"].errors == sum(text.split().count("poison") for text in LINES) - 1
    )  # one line is not JSON-typed


def test_digest_is_the_reference_for_any_split_count_and_batch_size(
    run: Run, lines: Path, tmp_path: Path
) -> None:
    digests = {
        run(spec(tmp_path), **{"source.splits": splits, "operators.score.max_batch_size": size}).digest
        for splits, size in [(1, 1), (3, 7), (32, 128)]
    }
    reference = run_local(load_pipeline(spec(tmp_path, source={"type": "jsonl", "path": str(lines)})), None)
    assert digests == {reference.digest}


def test_committed_bytes_equal_those_of_the_local_backend(run: Run, lines: Path, tmp_path: Path) -> None:
    run(
        spec(tmp_path),
        **{"operators.write.params.path": str(tmp_path / "one"), "errors.path": str(tmp_path / "l1")},
    )
    again = {"operators.write.params.path": str(tmp_path / "two"), "errors.path": str(tmp_path / "l2")}
    run_local(load_pipeline(spec(tmp_path), overrides=again))
    assert content(tmp_path / "one") == content(tmp_path / "two") != {}
    assert content(tmp_path / "l1") == content(tmp_path / "l2") != {}


def test_every_record_lands_once_with_dead_letters_that_keep_the_rest(
    run: Run, lines: Path, tmp_path: Path
) -> None:
    report = run(spec(tmp_path))
    rows = [
        json.loads(row) for part in (tmp_path / "out").glob("part-*") for row in part.read_text().splitlines()
    ]
    expected = {
        (number, index, word)
        for number, text in enumerate(LINES)
        if number not in (7, 100) and not any(mark in text for mark in ("bad", "broken", "nowords"))
        for index, word in enumerate(text.lower().split())
        if word != "poison"
    }
    assert {(row["line"], row["index"], row["word"]) for row in rows} == expected
    assert len(rows) == len(expected) == report.records_out
    letters = [
        json.loads(row)
        for part in (tmp_path / "letters").glob("part-*")
        for row in part.read_text().splitlines()
    ]
    assert len(letters) == report.errors
    assert {letter["operator"] for letter in letters} == {"source", "words", "score"}
    broken = next(letter for letter in letters if letter["record"] == "{not json")
    assert f"in.jsonl:{100 + 1} (byte " in broken["location"]


def test_a_second_run_computes_and_publishes_nothing(run: Run, lines: Path, tmp_path: Path) -> None:
    first = run(spec(tmp_path, materialization_points=["words"]))
    assert (first.tasks_run, first.tasks_cached) == (6, 0)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    second = run(spec(tmp_path, materialization_points=["words"]))
    assert (second.tasks_run, second.tasks_cached) == (0, 6)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times
    assert (second.digest, second.records_in, second.errors) == (first.digest, first.records_in, first.errors)
    assert second.operators == first.operators


def test_materialization_changes_neither_records_nor_dead_letters(
    run: Run, lines: Path, tmp_path: Path
) -> None:
    plain = run(spec(tmp_path))
    cut = run(spec(tmp_path, materialization_points=["tidy", "words"]), **{
        "operators.write.params.path": str(tmp_path / "cut"), "errors.path": str(tmp_path / "cut_letters"),
    })  # fmt: skip
    assert (cut.digest, cut.errors, cut.operators) == (plain.digest, plain.errors, plain.operators)
    again = run(spec(tmp_path, materialization_points=["tidy", "words"]), **{
        "operators.write.params.path": str(tmp_path / "cut2"), "errors.path": str(tmp_path / "cut2_letters"),
    })  # fmt: skip
    assert again.tasks_cached == 6
    assert content(tmp_path / "cut2_letters") == content(tmp_path / "cut_letters")


@pytest.mark.parametrize("policy", ["drop", "collect", "fail_fast"])
def test_a_record_that_cannot_be_stored_is_treated_by_its_operators_policy(
    run: Run, lines: Path, tmp_path: Path, policy: str
) -> None:
    mapping = spec(tmp_path, materialization_points=["pairs"])
    mapping["operators"] = [
        {"type": "Map", "name": "pairs", "func": "pairs", "error_policy": policy},
        {"type": "Map", "name": "first", "func": "first"},
        mapping["operators"][-1],
    ]
    if policy == "fail_fast":
        with pytest.raises(RecordError, match=r"pairs\.store: TypeError: a tuple would come back as a list"):
            run(mapping)
        assert not (tmp_path / "out" / "_manifest.json").exists()
        return
    report = run(mapping)
    lost = sum("x poison y" in line for line in LINES)
    (row,) = [one for one in report.operators if one.name == "pairs.store"]
    assert (row.dropped, row.errors) == ((lost, 0) if policy == "drop" else (0, lost))
    assert report.records_in == report.records_out + report.dropped + report.errors


def test_dead_letters_lost_from_the_store_are_worked_out_again(
    run: Run, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(spec(tmp_path, materialization_points=["words"]))
    letters = content(tmp_path / "letters")
    for path in (tmp_path / "store").rglob("*.letters"):
        path.unlink()
    shutil.rmtree(tmp_path / "letters")
    shutil.rmtree(tmp_path / "out")
    report = run(spec(tmp_path, materialization_points=["words"]))
    assert (report.status, content(tmp_path / "letters")) == ("completed", letters)


@pytest.mark.parametrize("codec", ["arrow", "pickle"])
def test_the_codec_of_the_store_changes_no_output(run: Run, lines: Path, tmp_path: Path, codec: str) -> None:
    points = ["tidy", "words"]
    plain = run(spec(tmp_path, materialization_points=points))
    elsewhere = {
        "cache.storage": str(tmp_path / "store2"),
        "operators.write.params.path": str(tmp_path / "out2"),
        "errors.path": str(tmp_path / "letters2"),
    }
    changed = run(
        spec(tmp_path, materialization_points=points, serialization={"default": codec}), **elsewhere
    )
    receipts = [path.read_text() for path in (tmp_path / "store2").rglob("*.json")]
    assert sum(f'"codec":"{codec}"' in receipt for receipt in receipts) == 6
    assert (plain.digest, plain.operators) == (changed.digest, changed.operators)
    for folder in ("out", "letters"):
        parts = [content(tmp_path / name) for name in (folder, f"{folder}2")]
        for one in parts:
            del one["_manifest.json"]  # it holds the stage keys, of which pickle is a part
        assert parts[0] == parts[1] != {}


@pytest.mark.parametrize("kind", ["missing", "truncated", "tampered"])
def test_a_damaged_partition_is_reported_and_computed_again(
    run: Run, lines: Path, tmp_path: Path, kind: str
) -> None:
    first = run(spec(tmp_path, materialization_points=["words"]))
    path = sorted((tmp_path / "store").rglob("*.fpp"))[0]
    data = path.read_bytes()
    path.unlink() if kind == "missing" else path.write_bytes(data[:-1])
    if kind == "tampered":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    shutil.rmtree(tmp_path / "out")
    again = run(spec(tmp_path, materialization_points=["words"]))
    assert (again.digest, again.operators) == (first.digest, first.operators)
    (warning,) = again.warnings
    assert path.name in warning
    assert "tidy+words on in.jsonl" in warning
    assert path.read_bytes() == data


def test_refreshing_from_an_operator_keeps_the_stages_before(run: Run, lines: Path, tmp_path: Path) -> None:
    mapping = spec(tmp_path, materialization_points=["tidy", "words"])
    first = run(mapping)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.fpp")}
    again = run(mapping, refresh_from="words")
    assert (again.tasks_run, again.tasks_cached, again.digest) == (6, 3, first.digest)
    kept = [path for path, then in times.items() if path.stat().st_mtime_ns == then]
    assert len(kept) == 3


def test_an_expired_partition_is_computed_again(run: Run, lines: Path, tmp_path: Path) -> None:
    mapping = spec(tmp_path, materialization_points=["words"])
    first = run(mapping)
    again = run(mapping, **{"cache.expires": 3600})
    assert (again.tasks_run, again.tasks_cached) == (0, 6)
    late = run(mapping, **{"cache.expires": 0.001})
    assert (late.tasks_run, late.tasks_cached, late.digest) == (6, 0, first.digest)


def test_another_split_count_leaves_no_stale_part(run: Run, lines: Path, tmp_path: Path) -> None:
    for splits in (5, 2):
        report = run(spec(tmp_path), **{"source.splits": splits})
        manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
        named = {entry["part"]["file"] for entry in manifest["parts"]} | {"_manifest.json"}
        assert set(content(tmp_path / "out")) == named
        assert report.splits == splits
        assert manifest["digest"] == report.digest


def test_combine_answers_the_same_under_each_backend(run: Run, lines: Path, tmp_path: Path) -> None:
    operators = spec(tmp_path)["operators"][:2]
    counted = [*operators, {"type": "Combine", "name": "count", "lift": "count_of", "monoid": "counter"}]
    report = run(spec(tmp_path, operators=counted))
    assert report.result["alpha"] == 40
    assert report.result["poison"] == 79
    mean = [*operators, {"type": "Combine", "name": "mean", "lift": "length_of", "monoid": "mean"}]
    answer = run(spec(tmp_path, operators=mean)).result
    total = sum(len(word) * count for word, count in report.result.items())
    assert answer == total / sum(report.result.values())


def test_a_function_sink_sees_every_record(run: Run, lines: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    operators = [*spec(tmp_path)["operators"][:2], {
        "type": "Sink", "name": "put", "func": "put_file", "contract": {"idempotent": True}, "params": {"folder": str(folder)},
    }]  # fmt: skip
    report = run(spec(tmp_path, operators=operators))
    assert len(list(folder.iterdir())) == report.records_out > 0


def test_records_held_by_python_run_on_each_backend(
    run: Run, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    records = [{"id": index, "text": text} for index, text in enumerate(LINES)]
    mapping = spec(tmp_path)
    del mapping["source"]
    is_local = "local" in request.node.name
    report = run_local(load_pipeline(mapping), records) if is_local else run(mapping, input=records)
    reference = run_local(load_pipeline(mapping, output=str(tmp_path / "ref")), iter(records))
    assert report.digest == reference.digest
    assert report.records_in == len(records)
    assert not list((tmp_path / "store").glob("spool/*")), "the spooled records are removed"


def test_fail_fast_names_operator_and_position_and_publishes_nothing(
    run: Run, lines: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        RecordError, match=r"FP401 tidy: ValueError: broken line 2 .*in\.jsonl:3 \(byte \d+\)"
    ):
        run(spec(tmp_path), **{"operators.tidy.error_policy": "fail_fast", "source.splits": 1,
                               "source.path": str(_without_bad(lines))})  # fmt: skip
    assert not (tmp_path / "out" / "_manifest.json").exists()


def _without_bad(lines: Path) -> Path:
    path = lines.with_name("nobad_in.jsonl")
    path.write_text(lines.read_text().replace("bad line", "good line"))
    return path


def test_too_many_errors_fail_the_run_before_commit(run: Run, lines: Path, tmp_path: Path) -> None:
    with pytest.raises(ErrorRateExceeded, match="dead letters for 320 records"):
        run(spec(tmp_path), **{"errors.max_error_rate": 0.01})
    assert not (tmp_path / "out" / "_manifest.json").exists()


def test_an_empty_input_publishes_an_empty_output(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("")
    report = run(spec(tmp_path))
    assert (report.records_in, report.records_out, report.status) == (0, 0, "completed")
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["records"] == 0


def test_transient_errors_are_retried_and_never_become_dead_letters(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"id": i, "text": "flaky"}) + "\n" for i in range(2))
    )
    marks = tmp_path / "marks"
    marks.mkdir()
    operators = [
        {"type": "Map", "name": "flaky", "func": "flaky", "params": {"marks": str(marks), "times": 1}},
        spec(tmp_path)["operators"][-1],
    ]
    report = run(
        spec(tmp_path, operators=operators, materialization_points=["flaky"]), **{"source.splits": 1}
    )
    assert (report.records_out, report.errors) == (2, 0)
    assert len(list(marks.iterdir())) == 2

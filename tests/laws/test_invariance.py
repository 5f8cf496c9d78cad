"""One pipeline, one answer: no split count, batch size or materialization point changes the output."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import ErrorRateExceeded, Registry, RunReport, TransientError, load_pipeline, run_local
from funcpipe_prefect.examples.rag import RawDoc

EDGE_CASES = Path(__file__).parents[3] / "shared" / "data" / "arxiv_edgecases.jsonl"

SPLITS = (1, 3, 32)
BATCHES = (1, 7, 128)

registry = Registry()


@registry.func
def poison(batch: list[RawDoc]) -> list[RawDoc]:
    """Refuse a whole batch for one document in it."""
    if any(doc.doc_id.endswith("7") for doc in batch):
        raise ValueError("a document ends in 7")
    return batch


@registry.lift
def length(doc: RawDoc) -> tuple[float, int]:
    return (len(doc.text) / 7, 1)


def rag(
    tmp_path: Path, source: dict[str, Any], *, batch: int = 64, points: tuple[str, ...] = (), **rest: Any
) -> Any:
    return load_pipeline(
        {
            "name": "rag",
            "imports": ["funcpipe_prefect.examples.rag"],
            "source": {"record": "RawDoc", **source},
            "operators": [
                {"type": "BatchMap", "name": "poison", "func": "poison", "max_batch_size": batch},
                {"type": "Map", "name": "clean", "func": "clean_doc", "error_policy": "drop"},
                {"type": "FlatMap", "name": "chunk", "func": "chunk_doc", "params": {"size": 200, "overlap": 20}},
                {"type": "BatchMap", "name": "embed", "func": "hash_batch", "max_batch_size": batch},
                {
                    "type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
                    "params": {"path": str(tmp_path / "out")},
                },
            ],
            "materialization_points": list(points),
            "cache": {"storage": str(tmp_path / "cache")},
            "errors": {"path": str(tmp_path / "letters"), **rest},
            "retries": {"delay_seconds": [0]},
        },
        registry,
    )  # fmt: skip


def generated(folder: Path, count: int = 150) -> Path:
    """Documents of all lengths, with markup, blank lines, broken lines and texts too short to keep."""
    chance = random.Random(20240607)
    words = ["Grüße", "<b>bold</b>", "&amp;", "世界", "a", "model", "x" * 90, ".", "\u2028", "\t", "e\u0301"]
    path = folder / "docs.jsonl"
    with path.open("wb") as file:
        for number in range(count):
            text = " ".join(chance.choices(words, k=chance.choice([0, 3, 30, 300])))
            line = json.dumps(
                {"doc_id": f"d{number}", "title": words[number % 3], "text": text}, ensure_ascii=False
            )
            broken = line[:-5] if number % 31 == 0 else line
            file.write(broken.encode() + chance.choice([b"\n", b"\r\n", b"\n\n"]))
    return path


def totals(report: RunReport) -> Any:
    counts = tuple(
        (one.name, one.passed, one.records_out, one.dropped, one.errors) for one in report.operators
    )
    return report.digest, report.records_in, report.records_out, report.dropped, report.errors, counts


def letters(folder: Path) -> list[tuple[Any, ...]]:
    found = [json.loads(line) for part in folder.glob("*.jsonl") for line in part.read_bytes().splitlines()]
    return sorted(
        (one["operator"], one["message"], one["position"], one["location"], str(one["record"]))
        for one in found
    )


def lines(folder: Path) -> list[bytes]:
    return sorted(line for part in folder.glob("*.jsonl") for line in part.read_text().splitlines())


def check_all(tmp_path: Path, path: Path) -> tuple[Any, list[tuple[Any, ...]]]:
    """Run under every split count and batch size; all runs must agree in every count, record and letter."""
    answers = []
    for splits, batch in itertools.product(SPLITS, BATCHES):
        folder = tmp_path / f"{splits}-{batch}"
        pipeline = rag(folder, {"type": "jsonl", "path": str(path), "splits": splits}, batch=batch)
        report = run_local(pipeline)
        answers.append((totals(report), letters(folder / "letters"), lines(folder / "out")))
        assert report.digest is not None
        assert report.records_out == int(report.digest.partition("-")[0]) == len(answers[-1][2])
    assert all(answer == answers[0] for answer in answers)
    return answers[0][0], answers[0][1]


def test_no_split_count_or_batch_size_changes_record_count_or_dead_letter(tmp_path: Path) -> None:
    (_, records_in, records_out, dropped, errors, _), found = check_all(tmp_path, generated(tmp_path))
    assert records_in == 150
    assert records_out > 500
    assert dropped > 0
    assert errors == len(found) > 15
    assert {operator for operator, *_ in found} == {"source", "poison"}


@pytest.mark.skipif(not EDGE_CASES.is_file(), reason="the problem documents are not beside this checkout")
def test_no_split_count_or_batch_size_changes_anything_on_problem_documents(tmp_path: Path) -> None:
    (_, records_in, records_out, *_), _ = check_all(tmp_path, EDGE_CASES)
    assert records_in == 634
    assert records_out > 1000


def test_no_materialization_point_changes_the_output(tmp_path: Path) -> None:
    path = generated(tmp_path, 60)
    answers = []
    for points in [(), ("poison",), ("chunk",), ("embed",), ("poison", "clean", "chunk", "embed")]:
        folder = tmp_path / "-".join(points or ("none",))
        report = run_local(rag(folder, {"type": "jsonl", "path": str(path), "splits": 3}, points=points))
        answers.append((totals(report), letters(folder / "letters"), lines(folder / "out")))
    assert all(answer == answers[0] for answer in answers)


def test_counts_hold_together_from_operator_to_operator(tmp_path: Path) -> None:
    report = run_local(rag(tmp_path, {"type": "jsonl", "path": str(generated(tmp_path)), "splits": 4}))
    flowing = report.records_in
    for counts in report.operators:
        assert counts.records_in == counts.passed + counts.dropped + counts.errors == flowing, counts.name
        flowing = counts.records_out
    assert flowing == report.records_out


def test_a_second_run_computes_nothing_and_changes_no_byte(tmp_path: Path) -> None:
    pipeline = rag(
        tmp_path, {"type": "jsonl", "path": str(generated(tmp_path)), "splits": 4}, points=("chunk",)
    )
    first = run_local(pipeline)
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()
    }
    again = run_local(pipeline)
    assert again.tasks_run == 0
    assert totals(again) == totals(first)
    run_local(pipeline, refresh=True)
    after = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()
    }
    published = [path for path in before if "cache" not in path.parts]
    assert {path: before[path] for path in published} == {path: after[path] for path in published}
    receipts = {path for path in before if "cache" in path.parts and path.suffix == ".json"}
    assert before.keys() == after.keys()
    for path in before.keys() - receipts:  # a receipt says when it was made
        assert before[path][0] == after[path][0]


def test_dead_letters_are_input_for_a_second_run(tmp_path: Path) -> None:
    first = run_local(rag(tmp_path / "a", {"type": "jsonl", "path": str(generated(tmp_path))}))
    source = {"type": "jsonl", "path": str(tmp_path / "a" / "letters"), "field": "record"}
    again = run_local(rag(tmp_path / "b", source))
    assert again.records_in == first.errors
    refused = {(operator, record) for operator, _, _, _, record in letters(tmp_path / "b" / "letters")}
    assert {operator for operator, _ in refused} == {"source", "poison"}


def test_too_many_errors_publish_nothing(tmp_path: Path) -> None:
    pipeline = rag(tmp_path, {"type": "jsonl", "path": str(generated(tmp_path))}, max_error_rate=0.01)
    with pytest.raises(ErrorRateExceeded, match="nothing was published"):
        run_local(pipeline)
    assert list((tmp_path / "out").glob("*.*")) == []


def docs(count: int) -> list[RawDoc]:
    chance = random.Random(5)
    return [RawDoc(f"d{number}", text="x" * chance.randrange(3000)) for number in range(count)]


def combine(tmp_path: Path, monoid: str = "mean") -> Any:
    return load_pipeline(
        {
            "name": "mean",
            "operators": [
                {"type": "Map", "name": "flaky", "func": "flaky"},
                {"type": "Combine", "name": "total", "lift": "length", "monoid": monoid},
            ],
            "cache": {"storage": str(tmp_path / "cache")},
            "errors": {"path": str(tmp_path / "letters")},
            "retries": {"delay_seconds": [0], "transform": 3},
        },
        registry,
    )


failures = itertools.count()


@registry.func
def flaky(doc: RawDoc) -> RawDoc:
    """Lose the network three times, wherever it is."""
    if doc.doc_id.endswith("33") and next(failures) < 3:
        raise TransientError("network away")
    return doc


def test_an_answer_is_exact_whatever_the_cut_and_through_retries(tmp_path: Path) -> None:
    from dataclasses import replace

    from funcpipe_prefect.sources import IterableSource

    records = docs(400)
    answers = {
        repr(run_local(replace(combine(tmp_path), source=IterableSource.of(records, splits))).result)
        for splits in (1, 3, 32)
    }
    shuffled = random.Random(1).sample(records, len(records))
    answers.add(repr(run_local(combine(tmp_path), shuffled).result))
    assert len(answers) == 1
    assert next(failures) > 3


def test_a_combine_of_no_records_is_the_identity(tmp_path: Path) -> None:
    report = run_local(combine(tmp_path), [])
    assert (report.result, report.records_in) == (None, 0)


def test_without_a_limit_a_record_may_fail_more_than_once(tmp_path: Path) -> None:
    """Three words of one line fail: three dead letters for one record, and no limit was asked for."""
    mapping = {
        "imports": ["tests.registries.words"],
        "operators": [
            {"type": "FlatMap", "name": "words", "func": "words"},
            {"type": "BatchMap", "name": "score", "func": "score"},
        ],
        "errors": {"path": str(tmp_path / "letters")},
        "cache": {"storage": str(tmp_path / "store")},
    }
    report = run_local(load_pipeline(mapping), [{"id": 1, "text": "poison poison poison"}])
    assert (report.status, report.records_in, report.errors) == ("completed", 1, 3)

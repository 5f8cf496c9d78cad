"""Hostile and careless input: each has one outcome, and none of them leads out, runs code or fills the memory."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from funcpipe_prefect import load_pipeline, run_local
from funcpipe_prefect.errors import BackendError, PipelineError, SinkError, SourceError
from funcpipe_prefect.monoid import BUILTIN_MONOIDS
from funcpipe_prefect.sinks import DeadLetters
from funcpipe_prefect.sketches import SKETCHES
from funcpipe_prefect.sources import IterableSource
from funcpipe_prefect.sources.files import MOST_EXPANSION
from funcpipe_prefect.statistics import STATISTICS
from funcpipe_prefect.store.exchange import ALLOW_PICKLE
from tests.conftest import ROOT
from tests.stores import rows_seen


def spec(folder: Path, data: bytes | None = None, name: str = "in.jsonl", **changes: Any) -> dict[str, Any]:
    if data is not None:
        (folder / name).write_bytes(data)
    return {
        "name": "hostile",
        "imports": ["tests.registries.items"],
        "source": {"type": "jsonl", "path": str(folder / name), "record": "Item"},
        "operators": [
            {"type": "Map", "name": "tidy", "func": "tidied"},
            {"type": "Sink", "name": "write", "func": "jsonl", "contract": {"idempotent": True},
             "params": {"path": str(folder / "out")}},
        ],
        "materialization_points": ["tidy"],
        "cache": {"storage": str(folder / "cache")},
        "errors": {"path": str(folder / "letters")},
        "retries": {"delay_seconds": 0},
        **changes,
    }  # fmt: skip


def line(**more: Any) -> bytes:
    return json.dumps({"id": 1, "text": "x", "weight": 0.5, **more}).encode() + b"\n"


def run(mapping: dict[str, Any]) -> Any:
    return run_local(load_pipeline(mapping))


# Paths


@pytest.mark.parametrize("place", ["_staging", "letters/_staging"])
def test_a_link_in_the_output_folder_is_not_followed(tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    link = tmp_path / (f"out/{place}" if place == "_staging" else place)
    link.parent.mkdir()
    link.symlink_to(outside, target_is_directory=True)
    with pytest.raises(SinkError, match=r"_staging is a symbolic link, and would lead out of"):
        run(spec(tmp_path, line() + line(text="broken")))
    assert [path.name for path in outside.iterdir()] == ["precious"]


def test_a_link_in_place_of_a_part_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    mapping = spec(tmp_path, line())
    run(mapping)
    [part] = (tmp_path / "out").glob("part-*")
    data = part.read_bytes()
    (tmp_path / "precious").write_bytes(b"mine")
    part.unlink()
    part.symlink_to(tmp_path / "precious")
    run({**mapping, "operators": [mapping["operators"][0], {**mapping["operators"][1]}]})
    assert rows_seen(mapping) == [{"id": 1, "text": "x", "weight": 0.5}]
    assert part.read_bytes() == data
    assert (tmp_path / "precious").read_bytes() == b"mine"


@pytest.mark.parametrize("file", ["../precious", "/etc/passwd", "a/../../precious"])
def test_a_manifest_that_names_other_places_is_not_followed(tmp_path: Path, file: str) -> None:
    (tmp_path / "precious").write_bytes(line())
    mapping = spec(tmp_path, line())
    run(mapping)
    manifest = tmp_path / "out" / "_manifest.json"
    found = json.loads(manifest.read_text())
    found["parts"][0]["part"] |= {"file": file, "size": (tmp_path / "precious").stat().st_size}
    manifest.write_text(json.dumps(found))
    reading = spec(tmp_path, source={"type": "jsonl", "path": str(tmp_path / "out"), "record": "Item"})
    reading["operators"][1]["params"]["path"] = str(tmp_path / "again")
    with pytest.raises(SourceError, match="outside of its folder"):
        run(reading)
    report = run(mapping)
    assert (tmp_path / "precious").exists()
    assert report.records_out == 1
    assert rows_seen(mapping) == [{"id": 1, "text": "x", "weight": 0.5}]


def test_an_input_whose_name_leads_out_leaves_its_parts_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("..hidden.jsonl", "a b;rm -rf.jsonl", "ünï…code.jsonl", "-rf.jsonl"):
        (folder / name).write_bytes(line())
    mapping = spec(tmp_path)
    mapping["source"]["path"] = f"{folder}/*.jsonl"
    assert run(mapping).records_out == 4
    assert {path.parent for path in (tmp_path / "out").rglob("part-*")} == {tmp_path / "out"}


@pytest.mark.parametrize("part", ["../../etc", "/etc", "a/../../b", "s3://elsewhere", r"..\up"])
def test_a_backfilled_part_leads_nowhere_else(part: str) -> None:
    from funcpipe_prefect.config.parts import filled, listed

    [found] = listed([part])
    with pytest.raises(PipelineError, match="FP123 wrong part"):
        filled("out/{part}/data", found, "--output")
    assert filled("out/{part}", replace(found, value="a..b"), "--output") == "out/a..b"


# Sizes and shapes


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"id": 1, "text": ' + "[" * 50_000])
def test_deep_nesting_is_a_dead_letter(tmp_path: Path, text: str) -> None:
    report = run(spec(tmp_path, text.encode() + b"\n" + line()))
    assert (report.records_out, report.errors) == (1, 1)


def test_a_record_of_a_hundred_megabytes_passes(tmp_path: Path) -> None:
    data = line(text="y" * 100_000_000)
    report = run(spec(tmp_path, data + line()))
    assert (report.records_out, report.errors) == (2, 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert peak < 4096, "a few copies, no more"


@pytest.mark.parametrize("cut", ["size", "content"])
def test_a_line_beyond_the_limit_is_a_dead_letter_and_its_neighbours_pass(tmp_path: Path, cut: str) -> None:
    data = line() + line(text="y" * 300_000) + line(text="z" * 80_000) + line()
    mapping = spec(tmp_path, data)
    mapping["source"] |= {"max_line": "100KB", "split_size": "64KB", "cut": cut}
    report = run(mapping)
    assert (report.records_in, report.records_out, report.errors) == (4, 3, 1)
    [letter] = DeadLetters(str(tmp_path / "letters")).read()
    assert (letter["type"], len(letter["record"])) == ("LineTooLong", 1000)
    assert "max_line: 100,000 bytes" in letter["message"]
    assert "in.jsonl:2" in letter["location"]


def test_a_line_without_end_is_never_held_as_a_whole(tmp_path: Path) -> None:
    with (tmp_path / "in.jsonl").open("wb") as file:
        file.write(line())
        file.truncate(1 << 30)
    code = (
        "import json, pathlib, sys\n"
        "from funcpipe_prefect import load_pipeline, run_local\n"
        "report = run_local(load_pipeline(json.loads(sys.argv[1])))\n"
        "peak = pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
        "print(report.records_out, report.errors, int(peak) // 1024)"
    )
    mapping = spec(tmp_path)
    mapping["source"] |= {"max_line": "16MB", "by_content": False, "split_size": "4GiB"}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(mapping)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    rows, errors, peak = map(int, done.stdout.split())
    assert (rows, errors) == (1, 1)
    assert peak < 400, "a line of a gibibyte was not in memory"


def test_a_text_file_beyond_the_limit_is_a_dead_letter(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a" * 5000)
    (tmp_path / "texts" / "b.txt").write_text("b" * 2000)
    mapping = spec(tmp_path)
    mapping["source"] = {"type": "text", "path": str(tmp_path / "texts"), "max_file": 3000}
    mapping["operators"], mapping["materialization_points"] = [mapping["operators"][1]], []
    report = run(mapping)
    assert (report.records_out, report.errors) == (1, 1)
    [letter] = DeadLetters(str(tmp_path / "letters")).read()
    assert (letter["type"], letter["record"]) == ("FileTooLong", "a" * 1000)


@pytest.mark.parametrize("lead", ["nowhere", "folder"])
def test_a_link_in_place_of_a_manifest_is_told(tmp_path: Path, lead: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "out" / "_manifest.json").symlink_to(tmp_path / lead)
    if lead == "folder":
        with pytest.raises(SinkError, match=r"_manifest\.json"):
            run(spec(tmp_path, line()))
        return
    assert run(spec(tmp_path, line())).records_out == 1
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "out" / "_manifest.json").is_symlink()


def test_records_handed_to_other_processes_are_not_read_when_they_were_changed(tmp_path: Path) -> None:
    source = IterableSource(({"id": 1},)).spooled(str(tmp_path), Any)
    [file] = tmp_path.glob("*")
    [split] = source.list_splits()
    assert list(source.read(split, Any)) == [(0, {"id": 1})]
    file.write_bytes(pickle.dumps([(0, {"id": 2})]))
    with pytest.raises(SourceError, match="not what was written"):
        list(source.read(split, Any))


def test_numbers_that_json_does_not_have_and_half_characters_are_dead_letters(tmp_path: Path) -> None:
    data = b'{"id": 1, "text": "x", "weight": NaN}\n{"id": 2, "text": "x", "weight": Infinity}\n'
    data += (
        b'{"id": 3, "text": "\\ud800", "weight": 0.5}\n{"id": 4, "text": "\xff", "weight": 0.5}\n' + line()
    )
    report = run(spec(tmp_path, data))
    assert (report.records_in, report.records_out, report.errors) == (5, 1, 4)
    letters = [json.loads(one) for path in (tmp_path / "letters").glob("part-*") for one in path.open()]
    assert len(letters) == 4


# Compressed bombs


def bomb(path: Path, mebibytes: int) -> None:
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _ in range(mebibytes):
            file.write(b"\0" * (1 << 20))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "text"])
def test_a_bomb_is_told_before_it_fills_the_memory(tmp_path: Path, kind: str) -> None:
    name = f"in.{'txt' if kind == 'text' else kind}.gz"
    bomb(tmp_path / name, 400)
    child = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path / name), kind], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    assert "unfolds to more than" in child.stdout
    assert int(child.stdout.split()[-1]) < 1500, "mebibytes at the most"


BOMB = """
import resource, sys
from typing import Any
from funcpipe_prefect.errors import SourceError
from funcpipe_prefect.sources import CsvSource, JsonlSource, TextSource
source = {"jsonl": JsonlSource, "csv": CsvSource, "text": TextSource}[sys.argv[2]](sys.argv[1])
try:
    for split in source.list_splits():
        for _ in source.read(split, dict):
            pass
except SourceError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_what_compresses_well_is_read_and_the_bound_can_be_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(line() * 200_000))
    assert run(spec(tmp_path, name="in.jsonl.gz")).records_out == 200_000
    monkeypatch.setattr("funcpipe_prefect.sources.files._HARMLESS_BYTES", 1000)
    monkeypatch.setenv(MOST_EXPANSION, "3")
    with pytest.raises(SourceError, match="over 3 times"):
        run_local(load_pipeline(spec(tmp_path, name="in.jsonl.gz")), refresh=True)


# Pickles


class Planted:
    """Runs a command where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return (open, (self.marker, "w"))


def test_pickles_are_not_read_from_a_cache_to_which_others_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = spec(tmp_path, line(), serialization={"default": "pickle"})
    run(mapping)
    cache = tmp_path / "cache"
    other = {
        **mapping,
        "operators": [mapping["operators"][0], {**mapping["operators"][1], "func": "parquet"}],
    }
    cache.chmod(0o777)
    with pytest.raises(BackendError, match=rf"is pickled, and whoever may write there.*{ALLOW_PICKLE}"):
        run(other)
    monkeypatch.setenv(ALLOW_PICKLE, "true")
    assert run(other).records_out == 1


@pytest.mark.parametrize("monoid", sorted({*BUILTIN_MONOIDS, *STATISTICS, *SKETCHES} - {"digest"}))
def test_totals_of_built_in_monoids_are_read_from_any_store(tmp_path: Path, monoid: str) -> None:
    lifts = {"mean": "pair_of", "arg_min": "pair_of", "arg_max": "pair_of", "set_union": "set_of", "top_k": "list_of", "counter": "counts_of"}  # fmt: skip
    mapping = spec(tmp_path, b"".join(line(id=n) for n in range(30)))
    mapping["source"]["splits"] = 3
    mapping["materialization_points"] = []
    lift = lifts.get(monoid, "weight_of")
    mapping["operators"][1:] = [
        {"type": "CombineByKey", "name": "keyed", "key": "third_of", "lift": lift, "monoid": monoid},
        {**spec(tmp_path)["operators"][1]},
        {"type": "Combine", "name": "whole", "lift": lift, "monoid": monoid, "input": "tidy"},
    ]
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    report = run(mapping)
    assert report.outputs["write"]["records_out"] == 3
    assert report.result is not None


def test_a_total_of_a_class_of_the_users_is_not(tmp_path: Path) -> None:
    mapping = spec(tmp_path, line() * 9)
    mapping["materialization_points"] = []
    mapping["operators"][1:] = [
        {"type": "Combine", "name": "whole", "lift": "item_of", "monoid": "last_item"}
    ]
    (tmp_path / "cache").mkdir()
    assert run(mapping).result is not None
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(BackendError, match="is pickled"):
        run_local(load_pipeline(mapping), refresh=True)


def test_a_planted_pickle_is_never_run_for_a_pipeline_without_pickles(tmp_path: Path) -> None:
    """Whatever its receipt says: the planted one calls itself a pickle, with the right checksum."""
    import hashlib

    from funcpipe_prefect.store.partitions import sealed, unsealed

    mapping = spec(tmp_path, line())
    run(mapping)
    marker = tmp_path / "ran"
    data = pickle.dumps(Planted(marker))
    for path in (tmp_path / "cache" / "partitions").rglob("*.json"):
        receipt = unsealed(path.read_bytes())
        if receipt.stored is None:
            continue
        path.with_suffix(".fpp").write_bytes(data)
        stored = replace(
            receipt.stored, codec="pickle", sha256=hashlib.sha256(data).hexdigest(), size=len(data)
        )
        path.write_bytes(sealed(replace(receipt, stored=stored)))
    mapping["operators"][1]["func"] = "parquet"
    mapping["operators"][1]["params"]["path"] = str(tmp_path / "again")
    report = run(mapping)
    assert not marker.exists()
    assert report.records_out == 1
    assert any("computed again" in warning for warning in report.warnings)

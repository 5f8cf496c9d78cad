"""Source, store, output and dead letters on a server of the S3 protocol: the bytes of local files."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from funcpipe_prefect import RunReport, load_pipeline, run_local
from funcpipe_prefect.errors import FuncPipeError, SinkError, SourceError
from funcpipe_prefect.sinks import DeadLetters
from funcpipe_prefect.storage import filesystem
from tests.conftest import free_port
from tests.servers import s3
from tests.stores import rows_seen


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3() as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": endpoint,
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_ALLOW_HTTP": "true",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"


def content(url: str) -> dict[str, bytes]:
    fs, root = fsspec.url_to_fs(url)
    fs.invalidate_cache()
    return {path.removeprefix(root): fs.cat_file(path) for path in fs.find(root)}


def spec(base: str, source: str, kind: str = "jsonl", size: str = "2KiB") -> dict[str, Any]:
    return {
        "name": "items",
        "imports": ["tests.registries.items"],
        "source": {"type": kind, "path": source, "record": "Item", "split_size": size} if kind != "csv" else
                  {"type": kind, "path": source, "record": "Item"},
        "operators": [
            {"type": "Map", "name": "tidy", "func": "tidied"},
            {"type": "Sink", "name": "write", "func": "parquet" if kind == "parquet" else "jsonl",
             "contract": {"idempotent": True}, "params": {"path": f"{base}/out"}},
        ],
        "materialization_points": ["tidy"],
        "cache": {"storage": f"{base}/cache"},
        "errors": {"path": f"{base}/letters"},
        "retries": {"delay_seconds": 0},
    }  # fmt: skip


def lines(count: int, text: str = "x") -> bytes:
    rows = ({"id": n, "text": "broken" if n % 50 == 7 else text, "weight": n / 7} for n in range(count))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def run(mapping: dict[str, Any]) -> RunReport:
    return run_local(load_pipeline(mapping))


def test_a_pipeline_gives_on_s3_the_bytes_of_local_files(bucket: str, tmp_path: Path) -> None:
    base = f"{bucket}/same"
    fsspec.filesystem("s3").pipe_file(f"{base}/in/docs.jsonl", lines(400))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "docs.jsonl").write_bytes(lines(400))
    there, here = run(spec(base, f"{base}/in/*.jsonl")), run(spec(str(tmp_path), f"{tmp_path}/in/*.jsonl"))
    assert (there.digest, there.operators, there.errors) == (here.digest, here.operators, 8)
    assert there.splits > 5
    manifests = [json.loads(content(f"{place}/out")["/_manifest.json"]) for place in (base, str(tmp_path))]
    parts = [[part["part"]["sha256"] for part in manifest["parts"]] for manifest in manifests]
    assert parts[0] == parts[1]
    assert not [path for path in content(f"{base}/out") if "_staging" in path]
    again = run(spec(base, f"{base}/in/*.jsonl"))
    assert (again.tasks_run, again.digest) == (0, there.digest)


def test_changed_input_runs_again_and_leaves_no_stale_part(bucket: str) -> None:
    base = f"{bucket}/changed"
    fs = fsspec.filesystem("s3")
    for number in range(4):
        fs.pipe_file(f"{base}/in/{number}.jsonl", lines(30, f"text {number}"))
    run(spec(base, f"{base}/in/*.jsonl"))
    fs.pipe_file(f"{base}/in/2.jsonl", lines(30, "another"))
    fs.rm_file(f"{base}/in/3.jsonl")
    report = run(spec(base, f"{base}/in/*.jsonl"))
    assert (report.splits, report.tasks_run) == (3, 2)
    manifest = json.loads(content(f"{base}/out")["/_manifest.json"])
    named = {f"/{part['part']['file']}" for part in manifest["parts"]}
    assert set(content(f"{base}/out")) == {*named, "/_manifest.json"}


def test_a_failed_run_publishes_nothing_and_the_next_uses_its_parts(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from funcpipe_prefect.sinks import JsonlSink

    base = f"{bucket}/failed"
    fsspec.filesystem("s3").pipe_file(f"{base}/in.jsonl", lines(200))
    run(spec(base, f"{base}/in.jsonl"))
    before = content(f"{base}/out")
    fsspec.filesystem("s3").pipe_file(f"{base}/in.jsonl", lines(200, "new"))
    with monkeypatch.context() as patch:
        patch.setattr(JsonlSink, "commit", lambda *_: (_ for _ in ()).throw(RuntimeError("cut off")))
        with pytest.raises((RuntimeError, FuncPipeError)):
            run(spec(base, f"{base}/in.jsonl"))
    seen = content(f"{base}/out")
    assert {path: seen[path] for path in before} == before
    report = run(spec(base, f"{base}/in.jsonl"))
    assert report.tasks_run == 0
    assert report.records_out == 196
    assert content(f"{base}/out") != before


def test_a_reader_that_follows_the_manifest_never_sees_a_mixture(bucket: str) -> None:
    base = f"{bucket}/polled"
    fs = fsspec.filesystem("s3")
    reader = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    seen: set[frozenset[str]] = set()
    over = threading.Event()

    def read() -> frozenset[str] | None:
        try:
            parts = json.loads(reader.cat_file(f"{base}/out/_manifest.json"))["parts"]
            data = [
                reader.cat_file(f"{base}/out/{part['part']['file']}")
                for part in parts
                if part["part"]["file"]
            ]
        except FileNotFoundError:  # the manifest has just been replaced
            return None
        return frozenset(json.loads(line)["text"] for one in data for line in one.splitlines())

    def poll() -> None:
        while not over.is_set():
            if (found := read()) is not None:
                seen.add(found)

    fs.pipe_file(f"{base}/in.jsonl", lines(300, "v0"))
    run(spec(base, f"{base}/in.jsonl", size="8KiB"))
    polling = threading.Thread(target=poll)
    polling.start()
    try:
        for version in range(1, 4):
            fs.pipe_file(f"{base}/in.jsonl", lines(300, f"v{version}"))
            run(spec(base, f"{base}/in.jsonl", size="8KiB"))
    finally:
        over.set()
        polling.join()
    assert all(len(found) == 1 for found in seen), seen
    assert len(seen) > 1


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_other_formats_are_read_from_s3(bucket: str, kind: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    base = f"{bucket}/{kind}"
    fs = fsspec.filesystem("s3")
    if kind == "csv":
        fs.pipe_file(f"{base}/in.csv", b"id,text,weight\n" + b"".join(b"%d,x,0.5\n" % n for n in range(90)))
    else:
        table = pa.table({"id": range(90), "text": ["x"] * 90, "weight": [0.5] * 90})
        with fs.open(f"{base}/in.parquet", "wb") as file:
            pq.write_table(table, file, row_group_size=20)
    report = run(spec(base, f"{base}/in.{kind}", kind))
    assert (report.records_in, report.records_out) == (90, 90)
    assert run(spec(base, f"{base}/in.{kind}", kind)).tasks_run == 0


QUICK = (("lance", "sync"), ("delta", "upsert"))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        pytest.param(kind, mode, marks=() if (kind, mode) in QUICK else pytest.mark.slow)
        for kind in ("lance", "delta")
        for mode in ("replace", "sync", "upsert", "append")
    ],
)
def test_tables_on_s3_hold_what_local_ones_do(bucket: str, tmp_path: Path, kind: str, mode: str) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(200))
    mappings = [spec(base, f"{tmp_path}/in.jsonl") for base in (f"{bucket}/{kind}-{mode}", str(tmp_path))]
    for mapping, base in zip(mappings, (f"{bucket}/{kind}-{mode}", str(tmp_path)), strict=True):
        mapping["operators"][1] = {
            "type": "Sink", "name": "write", "func": kind, "contract": {"idempotent": True},
            "mode": mode, "key": ["id"], "params": {"path": f"{base}/table"},
        }  # fmt: skip
    there, here = map(run, mappings)
    assert (there.digest, there.errors) == (here.digest, 4)
    assert rows_seen(mappings[0]) == rows_seen(mappings[1])
    assert run(mappings[0]).tasks_run == 0
    (tmp_path / "in.jsonl").write_bytes(lines(150, "changed"))
    there, here = map(run, mappings)
    assert there.digest == here.digest
    assert rows_seen(mappings[0]) == rows_seen(mappings[1])
    assert len(rows_seen(mappings[0])) == {"replace": 147, "sync": 147}.get(mode, 196)


def test_dead_letters_on_s3_are_run_again_and_kept_as_solved(bucket: str, tmp_path: Path) -> None:
    base = f"{bucket}/again"
    (tmp_path / "in.jsonl").write_bytes(lines(100))
    (tmp_path / "refused").write_text("3 80")
    mapping = spec(base, f"{tmp_path}/in.jsonl")
    mapping["imports"].append("tests.registries.outside")
    mapping["operators"][0] |= {"func": "looked_up", "params": {"refused": str(tmp_path / "refused")}}
    assert run(mapping).errors == 2
    (tmp_path / "refused").write_text("")
    report = run_local(load_pipeline(mapping), retry_errors=True)
    assert (report.records_out, report.errors) == (100, 0)
    letters = DeadLetters(f"{base}/letters")
    assert (list(letters.read()), [one["record"]["id"] for one in letters.solved()]) == ([], [3, 80])
    assert run(mapping).tasks_run == 0


@pytest.mark.parametrize(
    ("what", "wrong"),
    [(what, "no credentials") for what in ("source", "sink", "store", "letters", "lance", "delta")]
    + [("source", "no server")],
)
def test_a_storage_that_cannot_be_used_is_one_error_that_names_it(
    bucket: str, tmp_path: Path, what: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(20))
    mapping = spec(str(tmp_path), f"{tmp_path}/in.jsonl")
    remote = spec("s3://elsewhere/x", "s3://elsewhere/in.jsonl")
    match what:
        case "source" | "letters" | "store":
            name = {"letters": "errors", "store": "cache"}.get(what, what)
            mapping[name] = remote[name]
        case "sink":
            mapping["operators"] = remote["operators"]
        case _:
            mapping["operators"][1] |= {"func": what, "params": {"path": "s3://elsewhere/x"}, "key": ["id"]}
            monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    if wrong == "no server":
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    else:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    filesystem("s3://elsewhere")[0].clear_instance_cache()
    try:
        with pytest.raises((SinkError, SourceError)) as told:
            run(mapping)
    finally:
        filesystem("s3://elsewhere")[0].clear_instance_cache()
    assert "elsewhere" in str(told.value)
    assert "\n" not in str(told.value)
    why = {
        "no credentials": "redential|169.254.169.254",
        "no server": "Could not connect",
    }  # where it asks for them
    assert re.search(why[wrong], str(told.value))

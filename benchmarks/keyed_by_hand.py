"""Sums by key as careful users of Dask and Beam write them, over JSON Lines of a key and a value.

Each way reads the same files and leaves `part-*.jsonl` of `{"key": ..., "value": <sum>}` in a folder:

    by_one_loop          one process, one dictionary; what a machine gives without any framework
    by_foldby            Dask Bag: a partition a thread, `foldby`
    by_shuffle           `Client.map`: a dictionary a file, cut by a hash of the key, pickled, merged a piece
    by_combine_per_key   Beam: ReadFromText → decode → CombinePerKey(sum) → encode → WriteToText
"""

from __future__ import annotations

import hashlib
import pickle
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import add, attrgetter, itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import psutil

HOT = 0
_LARGEST = 1_000
_DIGITS = 7
_HEAD, _MIDDLE, _TAIL = b'{"key": "user-', b'", "value": ', b"}\n"


class Event(msgspec.Struct, gc=False):
    """One record."""

    key: str
    value: int


decode = msgspec.json.Decoder(Event).decode
encode = msgspec.json.Encoder().encode


def write_events(
    folder: Path,
    records: int = 10_000_000,
    keys: int = 1_000_000,
    files: int = 32,
    seed: int = 7,
    skew: float = 0.0,
) -> int:
    """Write events whose keys are spread evenly, by chance, over all files.

    Args:
        folder: Gets `events-*.jsonl`.
        records: How many there are in all.
        keys: From how many keys one is drawn, up to ten millions; few of them may not come up.
        files: How many files there are.
        seed: The same seed gives the same bytes.
        skew: Share of the records that have one single key, `user-0000000`, in place of the one drawn.

    Returns:
        How many keys did come up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance, seen = np.random.default_rng(seed), np.zeros(keys, dtype=bool)
    for index in range(files):
        count = (index + 1) * records // files - index * records // files
        drawn = chance.integers(0, keys, count)
        drawn[chance.random(count) < skew] = HOT
        seen[drawn] = True
        lines = _lines(drawn, chance.integers(0, _LARGEST, count))
        (folder / f"events-{index:05d}.jsonl").write_bytes(lines)
    return int(seen.sum())


def _lines(keys: Any, values: Any) -> bytes:
    digits = len(str(_LARGEST - 1))
    template = np.frombuffer(_HEAD + b"0" * _DIGITS + _MIDDLE + b"0" * digits + _TAIL, dtype=np.uint8)
    lines = np.tile(template, (len(keys), 1))
    at_key, at_value = len(_HEAD), len(_HEAD) + _DIGITS + len(_MIDDLE)
    for place in range(_DIGITS):
        lines[:, at_key + place] += (keys // 10 ** (_DIGITS - 1 - place) % 10).astype(np.uint8)
    shown = np.ones(lines.shape, dtype=bool)
    for place in range(digits):
        power = 10 ** (digits - 1 - place)
        lines[:, at_value + place] += (values // power % 10).astype(np.uint8)
        shown[:, at_value + place] = (values >= power) | (power == 1)
    return bytes(lines[shown])


def inputs(folder: Path) -> list[str]:
    """Name the files that `write_events` left."""
    return [str(path) for path in sorted(folder.glob("events-*.jsonl"))]


def read(path: str) -> Iterator[Event]:
    """Read the events of a file."""
    with open(path, "rb") as file:
        yield from map(decode, file)


def write(sums: Iterable[tuple[str, int]], path: str) -> int:
    """Write sums by key; give the number of keys."""
    count = 0
    with open(path, "wb") as file:
        for key, value in sums:
            file.write(encode(Event(key, value)) + b"\n")
            count += 1
    return count


def by_one_loop(folder: Path, out: Path) -> int:
    """Sum in this process; give the number of keys."""
    sums = _sums(event for path in inputs(folder) for event in read(path))
    return write(sums.items(), _part(out))


def by_foldby(
    client: Any, folder: Path, out: Path, split_every: int | bool | None = None, partitions: int | None = None
) -> int:
    """Sum on a Dask cluster with `Bag.foldby`; give the number of keys.

    Args:
        client: A `distributed.Client`, or the address of a scheduler.
        folder: The input.
        out: Gets one file, since `foldby` ends in one partition.
        split_every: How many partial answers one task merges; None is Dask's 8, False all of them.
        partitions: Into how many partitions the files go; None: one a thread of the cluster. More of
            them cost much: Dask sends a dictionary between workers value by value, some 25 µs each.
    """
    import dask.bag
    from distributed import Client

    if isinstance(client, str):
        with Client(client) as connected:
            return by_foldby(connected, folder, out, split_every, partitions)
    paths = inputs(folder)
    events = dask.bag.from_sequence(
        paths, npartitions=partitions or sum(client.nthreads().values())
    ).map_partitions(_events)
    sums = events.foldby(attrgetter("key"), _add_event, 0, add, 0, split_every=split_every)
    written = sums.map_partitions(_written, _part(out)).to_delayed()
    return sum(client.gather(client.compute(written)))


def _events(paths: Iterable[str]) -> Iterator[Event]:
    for path in paths:
        yield from read(path)


def _add_event(total: int, event: Event) -> int:
    return total + event.value


def _written(sums: Iterable[tuple[str, int]], path: str) -> int:
    return write(sums, path)


def by_shuffle(client: Any, folder: Path, out: Path, pieces: int = 8) -> int:
    """Sum on a Dask cluster with futures alone; give the number of keys.

    Args:
        client: A `distributed.Client`.
        folder: The input.
        out: Gets a file for each piece.
        pieces: Into how many pieces the keys go.
    """
    part = Path(_part(out))
    cut = client.map(_cut, inputs(folder), pieces=pieces, pure=False)
    one_piece = [[client.submit(itemgetter(i), each, pure=False) for each in cut] for i in range(pieces)]
    merged = [
        client.submit(_merged, each, str(part.with_name(f"part-{i:05d}.jsonl")), pure=False)
        for i, each in enumerate(one_piece)
    ]
    return sum(client.gather(merged))


def _cut(path: str, pieces: int) -> list[bytes]:
    sums = _sums(read(path))
    cut: list[dict[str, int]] = [{} for _ in range(pieces)]
    for key, value in sums.items():
        cut[zlib.crc32(key.encode()) % pieces][key] = value
    return [pickle.dumps(piece, protocol=5) for piece in cut]


def _merged(cut: list[bytes], path: str) -> int:
    sums: dict[str, int] = {}
    get = sums.get
    for piece in cut:
        for key, value in pickle.loads(piece).items():
            sums[key] = get(key, 0) + value
    return write(sums.items(), path)


def _sums(events: Iterable[Event]) -> dict[str, int]:
    sums: dict[str, int] = {}
    get = sums.get
    for event in events:
        key = event.key
        sums[key] = get(key, 0) + event.value
    return sums


@contextmanager
def two_workers(memory_limit: str = "2GiB", workers: int = 2) -> Iterator[Any]:
    """Start a Dask cluster of single-threaded processes; give its client."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=memory_limit,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def by_combine_per_key(folder: Path, out: Path, workers: int = 2) -> int:
    """Sum on Beam's FnApiRunner with `CombinePerKey`; give the number of keys.

    Args:
        folder: The input.
        out: Gets as many files as Beam makes.
        workers: One works in this process, in memory; more are processes.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    mode = "in_memory" if workers == 1 else "multi_processing"
    options = PipelineOptions(
        ["--runner=FnApiRunner", f"--direct_num_workers={workers}", f"--direct_running_mode={mode}"]
    )
    part = Path(_part(out))
    with beam.Pipeline(options=options) as pipeline:
        lines = pipeline | "read" >> beam.io.ReadFromText(
            str(folder / "events-*.jsonl"), coder=beam.coders.BytesCoder()
        )
        pairs = lines | "decode" >> beam.Map(_pair).with_output_types(tuple[str, int])
        sums = pairs | "sum" >> beam.CombinePerKey(sum)
        _ = (
            sums
            | "encode" >> beam.MapTuple(_line).with_output_types(bytes)
            | "write"
            >> beam.io.WriteToText(
                str(part.with_suffix("")), file_name_suffix=part.suffix, coder=beam.coders.BytesCoder()
            )
        )
    return sum(path.read_bytes().count(b"\n") for path in outputs(out))


def _pair(line: bytes) -> tuple[str, int]:
    event = decode(line)
    return event.key, event.value


def _line(key: str, value: int) -> bytes:
    return encode(Event(key, value))


def _part(out: Path) -> str:
    out.mkdir(parents=True, exist_ok=True)
    return str(out / "part-00000.jsonl")


def outputs(out: Path) -> list[Path]:
    """Name the files that a way left."""
    return sorted(out.rglob("part-*.jsonl"))


def digest_of_output(folder: Path) -> tuple[int, int]:
    """Give the number of lines, one a key, and a checksum that does not depend on their order."""
    count = total = 0
    for path in outputs(folder):
        for event in read(str(path)):
            text = f"{event.key}\t{event.value}".encode()
            total += int.from_bytes(hashlib.sha256(text).digest(), "big")
            count += 1
    return count, total % 2**256


class Peak(NamedTuple):
    """The most memory that processes had, in MiB of resident set."""

    of_all: float
    of_one: float


class PeakMemory:
    """Watch processes while a block runs; see `peak` behind it.

    Args:
        pids: The processes; None: this one, with all that it starts.
        every_s: Seconds between two looks.
    """

    def __init__(self, pids: Iterable[int] | None = None, every_s: float = 0.05) -> None:
        self._pids = None if pids is None else list(pids)
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = Peak(0.0, 0.0)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            sizes = [size / 2**20 for size in map(_resident, self._processes())]
            self.peak = Peak(max(self.peak.of_all, sum(sizes)), max(self.peak.of_one, *sizes, 0.0))
            if self._over.wait(self._every_s):
                return

    def _processes(self) -> list[psutil.Process]:
        if self._pids is None:
            own = psutil.Process()
            return [own, *own.children(recursive=True)]
        return [psutil.Process(pid) for pid in self._pids if psutil.pid_exists(pid)]


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0

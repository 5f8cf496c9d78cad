"""The same work by hand, by others and by us: `python -m benchmarks.compare [--rounds N] [--sizes 5,50] [way ...]`.

Documents (arXiv abstracts under new ids, some copies of the sample) → clean → chunk → 32 numbers from a hash →
files of records. Each way is a process of its own, warmed up, that does the work once for each size; the
ways come in turn, first the one, in the next round the other. Count and digest of the records must be equal for
all ways, whatever files they write. `--write` makes the page of the documentation from the result.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.against import WAYS
from benchmarks.measure import BASELINE, RESULTS, summary, write_result
from benchmarks.page import write_page

FEW = 300
"""Documents for a task run each, from which the whole is extrapolated."""
TARGETS = {"at_5": 1.30, "at_50": 1.10, "pool": 0.85, "map": 100.0}
SMALL_ONLY = frozenset({"loop", "beam", "ours_local", "ours_beam"})
"""Ways on one core, or by the same engine: what the larger size would tell of them, the smaller one does."""
_TIMEOUT_S = 3600


class Comparison:
    """What was measured so far.

    Attributes:
        seconds: By size and way.
    """

    def __init__(self, folder: Path, sizes: Sequence[int], large_rounds: int) -> None:
        self.folder, self.large_rounds = folder, large_rounds
        self.files = {size: folder / f"documents-{size}.jsonl" for size in sizes}
        self.counts = {size: data.write_documents(path, size) for size, path in self.files.items()}
        self.seconds: dict[int, dict[str, list[float]]] = {size: {} for size in sizes}
        self.digests: dict[int, dict[str, str]] = {size: {} for size in sizes}

    def one(self, name: str, number: int) -> None:
        """Run one way, once for each size; the first time its records are read and compared.

        Args:
            name: Of the way.
            number: Of the round; the largest size takes part in the first ones alone.
        """
        extrapolated = name == "naive_map"
        smallest = min(self.files)
        sizes = [
            size
            for size in sorted(self.files)
            if size == smallest or not (extrapolated or name in SMALL_ONLY or number >= self.large_rounds)
        ]
        checks = any(name not in self.digests[size] for size in sizes)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.against", name, *(str(self.files[size]) for size in sizes),
             *(["--digest"] if checks and not extrapolated else [])],
            cwd=Path(__file__).parents[1], env={**os.environ, "BENCH_DOCUMENTS": str(FEW)},
            capture_output=True, text=True, timeout=_TIMEOUT_S,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr[-3000:]}")
        found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"way"')]
        for size, one in zip(sizes, found, strict=True):
            if extrapolated:
                for every in self.files:
                    taken = one["seconds"] / FEW * self.counts[every]
                    self.seconds[every].setdefault(name, []).append(taken)
                continue
            self.seconds[size].setdefault(name, []).append(one["seconds"])
            if "digest" in one:
                self.digests[size][name] = one["digest"]
            print(f"  {name} ×{size}: {one['seconds']:.2f} s", flush=True)
        for size, digests in self.digests.items():
            assert len(set(digests.values())) <= 1, f"×{size}: the ways differ: {digests}"

    def result(self) -> dict[str, Any]:
        """Give medians, throughputs, and the digest that all ways share, by size."""
        return {
            str(size): {
                "documents": self.counts[size],
                "digest": next(iter(self.digests[size].values()), ""),
                "checked": sorted(self.digests[size]),
                "ways": {
                    name: {
                        **summary(values, 2),
                        "documents_a_second": round(self.counts[size] / statistics.median(values)),
                    }
                    for name, values in ways.items()
                },
            }
            for size, ways in self.seconds.items()
        }

    def ratio(self, size: int, own: str, other: str) -> float | None:
        """Give the median of the rounds' ratios of two ways' seconds; None where one was not run."""
        ways = self.seconds.get(size, {})
        if own not in ways or other not in ways:
            return None
        pairs = zip(ways[own], ways[other], strict=False)
        return round(statistics.median(mine / theirs for mine, theirs in pairs), 4)


def judged(found: Comparison) -> dict[str, dict[str, Any]]:
    """Hold what was measured against the targets."""
    verdicts: dict[str, dict[str, Any]] = {}

    def hold(what: str, value: float | None, target: float, *, at_least: bool = False) -> None:
        if value is not None:
            met = value >= target if at_least else value <= target
            verdicts[what] = {"value": value, "target": f"{'>=' if at_least else '<='} {target}", "met": met}

    for size in found.files:
        limit = TARGETS["at_5"] if size < 50 else TARGETS["at_50"]
        hold(f"×{size}: time to that of Dask futures", found.ratio(size, "ours_dask", "futures"), limit)
        for other in ("bag", "ray", "daft"):
            hold(f"×{size}: time to that of {other}", found.ratio(size, "ours_dask", other), 1.0)
        pool = found.ratio(size, "pool", "ours_dask")
        hold(f"×{size}: throughput to that of a pool", pool, TARGETS["pool"], at_least=True)
        naive = found.ratio(size, "naive_map", "ours_dask")
        hold(f"×{size}: speed to that of a task run a document", naive, TARGETS["map"], at_least=True)
    return verdicts


def in_turn(names: Sequence[str], rounds: int) -> Iterable[tuple[str, int]]:
    """Give the ways with the number of their round; each round begins with another one."""
    for number in range(rounds):
        first = number % len(names)
        yield from ((name, number) for name in (*names[first:], *names[:first]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("way", nargs="*", help=f"of {', '.join(WAYS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large-rounds", type=int, help="of the sizes above the first; as many by default")
    parser.add_argument("--sizes", default="5,50", help="copies of the sample")
    parser.add_argument("--write", action="store_true", help="keep the result, and make the page of it")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.way if name not in WAYS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(WAYS)}")
    names = chosen.way or list(WAYS)
    with tempfile.TemporaryDirectory(prefix="funcpipe-bench-") as root:
        large_rounds = chosen.rounds if chosen.large_rounds is None else chosen.large_rounds
        found = Comparison(Path(root), [int(size) for size in chosen.sizes.split(",")], large_rounds)
        try:
            for name, number in in_turn(names, chosen.rounds):
                found.one(name, number)
        except KeyboardInterrupt:
            print("  stopped: what follows is of the rounds that were run")
        verdicts = judged(found)
        largest = max(found.files)
        value = found.ratio(largest, "ours_dask", "futures") or 0.0
        result = write_result(
            "compare",
            what=f"time on Dask to that of bare Dask futures, ×{largest}",
            value=value,
            unit="×",
            target=f"<= {TARGETS['at_50'] if largest >= 50 else TARGETS['at_5']}",
            met=all(one["met"] for one in verdicts.values()),
            data=data.origin(),
            rounds=chosen.rounds,
            extrapolated_from={"naive_map": FEW},
            verdicts=verdicts,
            sizes=found.result(),
        )
    for what, one in verdicts.items():
        print(f"  {what}: {one['value']:.3f} ({one['target']}: {'met' if one['met'] else 'MISSED'})")
    if chosen.write:
        BASELINE.mkdir(parents=True, exist_ok=True)
        (BASELINE / "compare.json").write_bytes((RESULTS / "compare.json").read_bytes())
        write_page(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())

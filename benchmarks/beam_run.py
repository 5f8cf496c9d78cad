"""What we run on Beam against a hand-written Beam pipeline whose elements are the records.

Three ways to do the same work, all in this process on Beam's FnApiRunner, in memory, one worker:

    launched   `RunStage` over splits: the pipeline that the Beam process of a stage runs. Timed with
               building and planning the pipeline, digests, hashes of the parts, and the commit
    by_hand    ReadFromText → decode → clean → chunk → BatchElements → embed → encode → WriteToText
    compiled   the same with `to_ptransform(pipeline)` in place of clean … embed

The embedding costs next to nothing, so that the rest shows. Reading and writing by hand uses the standard
library's `json`; beside it, over less data, msgspec, which ours uses too, and the hash embedding.
"""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import cloudpickle
from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks import beam_by_hand, data, rag_run
from benchmarks.contenders import work as shared
from benchmarks.measure import in_turn, seconds, summary, write_result
from funcpipe_prefect import load_pipeline
from funcpipe_prefect.backends.beam.options import as_flags, options_for
from funcpipe_prefect.backends.beam.request import SplitWork
from funcpipe_prefect.backends.beam.splits import RunStage
from funcpipe_prefect.backends.beam.transform import to_ptransform
from funcpipe_prefect.backends.publishing import commit_run
from funcpipe_prefect.backends.work import Job
from funcpipe_prefect.examples import rag
from funcpipe_prefect.fingerprint import key_of
from funcpipe_prefect.ir import BeamSettings, Pipeline, Resources
from funcpipe_prefect.monoid import Digest, digest_of, digest_text, fold
from funcpipe_prefect.plan import plan_run
from funcpipe_prefect.schema import canonical_encoder, json_codec
from funcpipe_prefect.store import Handover

TARGET, TARGET_COMPILED = 1.5, 0.9
COPIES = 5
ROUNDS = 3
WORKERS = 2


@dataclass(frozen=True)
class Ways:
    """The three ways to do one work.

    Attributes:
        folder: Where each way has a folder of its own.
        documents: The input.
        embed: Name of the function that embeds.
        codec: Reads and writes what goes through Beam's own text transforms: `json` or `msgspec`.
    """

    folder: Path
    documents: Path
    embed: str
    codec: str

    def launched(self, workers: int = 1) -> None:
        """Run the pipeline's one stage as the Beam process does, and publish."""
        pipeline = self._pipeline(self.folder / "launched")
        assert pipeline.source is not None
        plan = plan_run(pipeline, pipeline.source.list_splits())
        job = Job(pipeline, plan.stages)
        attempt, handover = uuid.uuid4().hex, Handover(pipeline.storage, key_of("benchmark"))
        handover.begin(attempt)
        work = [SplitWork(split, plan.splits[split], plan.keys[split]) for split in plan.pending]
        with beam.Pipeline(options=options(workers)) as launch:
            _ = launch | "stage" >> RunStage(cloudpickle.dumps(job), 0, work, handover, attempt)
        receipts = {split: handover.receipt(split) for split in plan.pending}
        commit_run(job, plan, {(0, split): one.entry for split, one in receipts.items() if one})
        handover.clear()

    def by_hand(self) -> None:
        """Run the hand-written pipeline."""
        with beam.Pipeline(options=options()) as launch:
            documents = beam_by_hand.read(launch, self.documents, self.codec)
            chunks = documents | "work" >> beam_by_hand.Work(self.embed)
            beam_by_hand.write(chunks, self.folder / "by_hand", self.codec)

    def compiled(self) -> None:
        """Run it with our operators in its middle."""
        work = to_ptransform(self._pipeline(self.folder / "compiled"))
        with beam.Pipeline(options=options()) as launch:
            documents = beam_by_hand.read(launch, self.documents, self.codec)
            chunks = (documents | "work" >> work).results
            beam_by_hand.write(chunks, self.folder / "compiled", self.codec)

    def all(self) -> dict[str, Callable[[], object]]:
        """Give the three by name."""
        return {"launched": self.launched, "by_hand": self.by_hand, "compiled": self.compiled}

    def empty(self, name: str) -> None:
        """Remove what a way wrote before."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir(parents=True)

    def digest(self, name: str) -> str:
        """Read what a way wrote; give count and digest of the records."""
        decode, encode = json_codec(rag.EmbeddedChunk).decode, canonical_encoder(rag.EmbeddedChunk)

        def lifted() -> Any:
            for path in sorted((self.folder / name).rglob("part-*.jsonl")):
                with path.open("rb") as file:
                    for line in file:
                        yield digest_of(encode(decode(line)))

        return digest_text(fold(Digest(), lifted()))

    def _pipeline(self, folder: Path) -> Pipeline:
        mapping = rag_run.mapping(folder, self.documents, self.embed)
        mapping["imports"].append(shared.__name__)
        mapping["operators"][-1].update(func="jsonl", params={"path": str(folder / "out")})
        return load_pipeline({**mapping, "backend": "beam", "resources": {}})


def options(workers: int = 1) -> PipelineOptions:
    """Give Beam's options as the Beam process gets them: one worker works in memory, more are processes."""
    asked = options_for(BeamSettings(), Resources(workers=workers))
    return PipelineOptions(["--runner=FnApiRunner", *as_flags(asked)])


def compared(ways: Ways, rounds: int) -> dict[str, Any]:
    """Time the three ways in turn, and check that they give the same records."""
    taken, computed = in_turn(ways.all(), rounds, ways.empty)
    digests = {name: ways.digest(name) for name in taken}
    assert len(set(digests.values())) == 1, f"the ways differ: {digests}"

    def against_by_hand(name: str) -> dict[str, Any]:
        by_hand = taken["by_hand"]
        pairs = [other / own for own, other in zip(taken[name], by_hand, strict=True)]
        medians = statistics.median(by_hand) / statistics.median(taken[name])
        processor = statistics.median(computed["by_hand"]) / statistics.median(computed[name])
        return {
            **summary(pairs),
            "of_medians": round(medians, 4),
            "of_processor_medians": round(processor, 4),
        }

    found = {
        "embed": ways.embed,
        "codec": ways.codec,
        "records_out": int(digests["launched"].partition("-")[0]),
        "digest": digests["launched"],
        **{f"{name}_s": summary(values, 2) for name, values in taken.items()},
        "processor_s": {name: round(statistics.median(values), 2) for name, values in computed.items()},
        "launched": against_by_hand("launched"),
        "compiled": against_by_hand("compiled"),
    }
    print(f"  {ways.embed}, {ways.codec}: launched {found['launched']['median']:.2f} ×, compiled "
          f"{found['compiled']['median']:.2f} × the throughput by hand", flush=True)  # fmt: skip
    return found


def by_processes(ways: Ways) -> float:
    """Give the seconds of the launched form with worker processes."""
    expected = ways.digest("launched")
    ways.empty("launched")
    with workers_quiet(ways.folder / "workers.log"):
        taken = seconds(lambda: ways.launched(WORKERS))
    assert ways.digest("launched") == expected, "worker processes give other records"
    return taken


@contextmanager
def workers_quiet(log: Path) -> Iterator[None]:
    """Let worker processes, which log to standard error whatever is asked of them, log to a file."""
    kept = os.dup(2)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def main() -> None:
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="funcpipe-bench-", ignore_cleanup_errors=True) as root:
        folder = Path(root)
        documents, fewer, few = folder / "docs.jsonl", folder / "fewer.jsonl", folder / "few.jsonl"
        count, less = data.write_documents(documents, COPIES), data.write_documents(fewer, 1)
        few.write_bytes(b"".join(fewer.read_bytes().splitlines(keepends=True)[:500]))
        compared(Ways(folder, few, "sha_batch", "json"), 1)  # to warm up
        sides = [
            compared(Ways(folder, fewer, embed, codec), ROUNDS)
            for embed, codec in (("hash_batch", "json"), ("hash_batch", "msgspec"), ("sha_batch", "msgspec"))
        ]
        ways = Ways(folder, documents, "sha_batch", "json")
        full = compared(ways, ROUNDS)
        processes = by_processes(ways)
    value, compiled = full["launched"]["median"], full["compiled"]["median"]
    write_result(
        "beam_run",
        what="throughput of the launched form on Beam to that of a hand-written element-wise pipeline",
        value=value,
        unit="×",
        target=f">= {TARGET}",
        met=value >= TARGET,
        compiled={
            "value": compiled,
            "target": f">= {TARGET_COMPILED}",
            "met": compiled >= TARGET_COMPILED,
        },
        data=data.origin(),
        documents=count,
        splits=rag_run.SPLITS,
        full=full,
        worker_processes={
            "workers": WORKERS,
            "s": round(processes, 2),
            "throughput_to_in_memory": round(full["launched_s"]["median"] / processes, 3),
        },
        fewer_documents={"documents": less, "compared": sides},
    )
    print(f"  to_ptransform {compiled:.3f} × (target >= {TARGET_COMPILED}: "
          f"{'met' if compiled >= TARGET_COMPILED else 'MISSED'}); {WORKERS} worker processes "
          f"{processes:.1f} s, in memory {full['launched_s']['median']:.1f} s")  # fmt: skip


if __name__ == "__main__":
    main()

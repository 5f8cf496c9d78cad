"""As a user of Beam writes it: records are elements, each step a transform."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders import work


@contextmanager
def elements() -> Iterator[work.Work]:
    """Run the pipeline on the DirectRunner, in as many processes as the others have."""
    import apache_beam as beam

    from benchmarks import beam_by_hand
    from benchmarks.beam_run import options

    def run(documents: Path, folder: Path) -> None:
        with beam.Pipeline(options=options(work.WORKERS)) as launch:
            lines = beam_by_hand.read(launch, documents, "json")
            beam_by_hand.write(lines | "work" >> beam_by_hand.Work("sha_batch"), folder, "json")

    yield run

"""RAG ingestion of the documentation inside the installed packages, then one question.

python flows/rag_ingest.py ["your question"]
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from prefect.settings import PREFECT_HOME

from funcpipe_prefect import RunReport, run_pipeline
from funcpipe_prefect.examples.rag import has_model
from funcpipe_prefect.examples.search import search

PIPELINE = Path(__file__).parent / "pipelines" / "packages_rag.yaml"
QUESTION = "retry a failed task"


def ingest() -> RunReport:
    """Run the ingestion as a Prefect flow on Dask."""
    report: RunReport = run_pipeline(str(PIPELINE))
    return report


def answer(output: str, question: str) -> None:
    """Print the passages that answer a question best."""
    print(f"\nQuestion: {question}\n")
    for number, passage in enumerate(search(output, question), 1):
        text = textwrap.shorten(passage.text, 300, placeholder=" …")
        print(f"{number}. {passage.title}  ({passage.score:.2f})")
        print(textwrap.indent(textwrap.fill(text, 96), "   "))


def main() -> None:
    """Ingest, say what was done and where it is, and answer."""
    if not has_model():
        print("The extra rag is not installed: a hashing embedder serves, which matches words, not meanings.")
    report = ingest()
    print(
        f"\n{report.records_in:,} texts of {report.splits} packages → {report.records_out:,} passages; "
        f"{report.dropped:,} dropped, {report.errors:,} dead letters; "
        f"{report.tasks_run} tasks run, {report.tasks_cached} cached; {report.elapsed_s:.0f} s"
    )
    print(f"digest: {report.digest}")
    print(f"output: {Path(report.output or '').resolve()}")
    print(f"Prefect UI: make ui (it shows this run; its database is in {PREFECT_HOME.value()})")
    answer(report.output or "", " ".join(sys.argv[1:]) or QUESTION)


if __name__ == "__main__":
    main()

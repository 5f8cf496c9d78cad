"""As a user of Ray Data writes it: rows, expanded row by row, embedded in batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contenders import work
from funcpipe_prefect.examples import rag


def expanded(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Clean and chunk one document."""
    doc = rag.RawDoc(row["doc_id"], row["title"], abstract=row["abstract"])
    return [vars(chunk) for chunk in work.passages(doc)]


def embedded(table: Any) -> Any:
    """Embed a batch."""
    import pyarrow as pa

    vectors = [work.sha_vector(text) for text in table["text"].to_pylist()]
    return table.append_column("vector", pa.array(vectors, pa.list_(pa.float64())))


@contextmanager
def ray_data() -> Iterator[work.Work]:
    """Run on a Ray that is there already."""
    import ray

    ray.init(num_cpus=work.WORKERS, include_dashboard=False, log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def run(documents: Path, folder: Path) -> None:
        rows = ray.data.read_json(str(documents))
        found = rows.flat_map(expanded).map_batches(embedded, batch_size=work.BATCH, batch_format="pyarrow")
        found.write_parquet(str(folder))

    yield run
    ray.shutdown()

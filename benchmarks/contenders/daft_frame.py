"""As a user of Daft writes it: a data frame, functions over its columns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contenders import work
from funcpipe_prefect.examples import rag


@contextmanager
def daft_frame() -> Iterator[work.Work]:
    """Run on Daft's own runner of this machine, Python functions in processes."""
    import daft
    from daft import DataType

    chunk = DataType.struct(
        {"index": DataType.int64(), "title": DataType.string(), "text": DataType.string()}
    )

    @daft.func.batch(return_dtype=DataType.list(chunk), use_process=True)
    def expanded(ids: Any, titles: Any, abstracts: Any) -> Any:
        docs = zip(ids.to_pylist(), titles.to_pylist(), abstracts.to_pylist(), strict=True)
        return [
            [
                {"index": one.index, "title": one.title, "text": one.text}
                for one in work.passages(rag.RawDoc(doc_id, title, abstract=abstract))
            ]
            for doc_id, title, abstract in docs
        ]

    @daft.func.batch(return_dtype=DataType.list(DataType.float64()), use_process=True)
    def embedded(texts: Any) -> Any:
        return [work.sha_vector(text) for text in texts.to_pylist()]

    def run(documents: Path, folder: Path) -> None:
        from daft import col

        frame = daft.read_json(str(documents)).select("doc_id", "title", "abstract")
        frame = frame.with_column("chunk", expanded(col("doc_id"), col("title"), col("abstract"))).explode(
            "chunk"
        )
        frame = frame.where(col("chunk").not_null())
        frame = frame.select(
            col("doc_id"),
            col("chunk").get("index").alias("index"),
            col("chunk").get("title").alias("title"),
            col("chunk").get("text").alias("text"),
        )
        frame.with_column("vector", embedded(col("text"))).write_parquet(str(folder))

    yield run

"""What comes built in keeps its laws: each monoid, sink and source stated in one line."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from funcpipe_prefect.examples.rag import RawDoc
from funcpipe_prefect.ir import Mode
from funcpipe_prefect.laws import (
    check_monoid,
    check_round_trip,
    check_sink,
    check_sink_idempotent,
    check_source,
)
from funcpipe_prefect.monoid import (
    BUILTIN_MONOIDS,
    Count,
    Counter,
    Digest,
    ExactSum,
    Max,
    Mean,
    Min,
    Product,
    SetUnion,
    Sum,
    TopK,
    digest_of,
)
from funcpipe_prefect.sinks import BUILTIN_SINKS, DeltaSink, JsonlSink, LanceSink, ParquetSink, SqlSink
from funcpipe_prefect.sources import (
    BUILTIN_SOURCES,
    CsvSource,
    IterableSource,
    JsonlSource,
    ParquetSource,
    TextSource,
)


@dataclass(frozen=True)
class Row:
    key: int
    text: str
    weight: float


PAIRS = st.tuples(st.floats(-1e9, 1e9) | st.integers(), st.just(1))
MONOIDS: dict[str, Callable[[], Any]] = {
    "sum": lambda: check_monoid(Sum(), int),
    "exact_sum": lambda: check_monoid(ExactSum(), st.floats(-1e300, 1e300)),
    "count": lambda: check_monoid(Count(), st.just(1)),
    "min": lambda: check_monoid(Min(), st.floats()),
    "max": lambda: check_monoid(Max(), st.floats()),
    "mean": lambda: check_monoid(Mean(), PAIRS),
    "set_union": lambda: check_monoid(SetUnion(), list[str]),
    "counter": lambda: check_monoid(Counter(), dict[str, int]),
    "top_k": lambda: check_monoid(TopK(3), list[int]),
    "digest": lambda: check_monoid(Digest(), st.binary().map(digest_of)),
    "product": lambda: check_monoid(Product(Sum(), Mean(), Max()), st.tuples(st.integers(), PAIRS, st.integers())),
}  # fmt: skip
ROWS = st.builds(Row, st.integers(-99, 99), st.text("ab", max_size=3), st.floats(allow_nan=False))


def in_sqlite(folder: str, mode: Mode, key: tuple[str, ...]) -> SqlSink:
    return SqlSink(f"sqlite:///{folder}.db", "rows", mode=mode, key=key)


SINKS: dict[str, Callable[[], Any]] = {
    "jsonl": lambda: check_sink_idempotent(JsonlSink, Row, examples=40),
    "parquet": lambda: check_sink_idempotent(ParquetSink, Row, examples=40),
    "lance": lambda: check_sink(LanceSink, Row, key="key", examples=2),
    "delta": lambda: check_sink(DeltaSink, Row, key="key", examples=2),
    "delta as any sink": lambda: check_sink_idempotent(
        functools.partial(DeltaSink, mode="sync", key=("key",)), ROWS, record_type=Row, examples=8
    ),
    "lance as any sink": lambda: check_sink_idempotent(LanceSink, ROWS, record_type=Row, examples=8),
    "sql": lambda: check_sink(in_sqlite, ROWS, key="key", record_type=Row, examples=2),
    "parquet of narrow floats": lambda: check_sink_idempotent(
        functools.partial(ParquetSink, float_type="float32"), Row, examples=40
    ),
}
SOURCES: dict[str, Callable[[Path], Any]] = {
    "jsonl": lambda folder: check_source(lambda n: JsonlSource(str(folder / "docs.jsonl"), splits=n), record_type=RawDoc),
    "csv": lambda folder: check_source(lambda n: CsvSource(str(folder / "*.csv")), record_type=RawDoc),
    "parquet": lambda folder: check_source(lambda n: ParquetSource(str(folder / "docs.parquet"), splits=n), record_type=RawDoc),
    "text": lambda folder: check_source(lambda n: TextSource(str(folder / "texts"), splits=n)),
    "iterable": lambda folder: check_source(lambda n: IterableSource.of(range(100), n), record_type=int),
}  # fmt: skip


@pytest.mark.parametrize("name", MONOIDS)
def test_a_built_in_monoid_keeps_its_laws(name: str) -> None:
    assert MONOIDS[name]().broken == ()


@pytest.mark.parametrize("name", SINKS)
def test_a_built_in_sink_keeps_its_laws(name: str) -> None:
    assert SINKS[name]().broken == ()


@pytest.mark.parametrize("name", SOURCES)
def test_a_built_in_source_keeps_its_laws(name: str, tmp_path: Path) -> None:
    docs = [
        {"doc_id": f"d{n}", "title": f"t{n}", "text": "line\none " * (n % 7), "abstract": ""}
        for n in range(90)
    ]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs) + "broken\n")
    pq.write_table(pa.Table.from_pylist(docs), tmp_path / "docs.parquet", row_group_size=10)
    (tmp_path / "texts").mkdir()
    for number, part in enumerate((docs[:40], docs[40:])):
        (tmp_path / f"{number}.csv").write_text(
            "doc_id,text\n" + "".join(f"{d['doc_id']},a b\n" for d in part)
        )
    for doc in docs[:9]:
        (tmp_path / "texts" / f"{doc['doc_id']}.txt").write_text(doc["text"])
    assert SOURCES[name](tmp_path).broken == ()


@pytest.mark.parametrize("tp", [Row, RawDoc, dict[str, list[int]], tuple[str, float | None]], ids=str)
def test_records_come_back_from_store_and_process(tp: Any) -> None:
    assert check_round_trip(tp).broken == ()


def test_nothing_that_is_built_in_is_left_out() -> None:
    assert set(BUILTIN_MONOIDS) <= set(MONOIDS)
    assert set(BUILTIN_SINKS) <= set(SINKS)
    in_stores = {"lance", "delta", "sql", "hf_folder"}  # tests/unit/sources/test_stores.py
    assert set(BUILTIN_SOURCES) <= set(SOURCES) | in_stores


def test_what_is_no_monoid_and_no_sink_is_refused() -> None:
    with pytest.raises(TypeError, match="int is no monoid"):
        check_monoid(3, int)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="make gives a int"):
        check_sink_idempotent(lambda folder: 3, Row)

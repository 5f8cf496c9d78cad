"""Sinks: one file a format, and the table of those that come built in."""

from collections.abc import Mapping

from funcpipe_prefect.registry import SinkEntry
from funcpipe_prefect.sinks.delta import DeltaSink
from funcpipe_prefect.sinks.directory import Directory
from funcpipe_prefect.sinks.function import FunctionSink
from funcpipe_prefect.sinks.jsonl import JsonlSink
from funcpipe_prefect.sinks.lance import LanceSink
from funcpipe_prefect.sinks.letters import DeadLetters
from funcpipe_prefect.sinks.parquet import ParquetSink
from funcpipe_prefect.sinks.sql import SqlSink

__all__ = [
    "BUILTIN_SINKS",
    "DeadLetters",
    "DeltaSink",
    "Directory",
    "FunctionSink",
    "JsonlSink",
    "LanceSink",
    "ParquetSink",
    "SqlSink",
]

BUILTIN_SINKS: Mapping[str, SinkEntry] = {
    "jsonl": SinkEntry(JsonlSink, idempotent=True, is_function=False),
    "delta": SinkEntry(DeltaSink, idempotent=True, is_function=False),
    "lance": SinkEntry(
        LanceSink,
        idempotent=True,
        is_function=False,
        trial=lambda folder: {"path": f"{folder}/trial.lance", "vector": None},
    ),
    "parquet": SinkEntry(ParquetSink, idempotent=True, is_function=False),
    "sql": SinkEntry(
        SqlSink,
        idempotent=True,
        is_function=False,
        trial=lambda folder: {"url": f"sqlite:///{folder}/trial.db", "table": "trial", "schema": None},
    ),
}

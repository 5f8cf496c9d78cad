"""Sources: one file a format, and the table of those that come built in."""

from collections.abc import Mapping

from funcpipe_prefect.registry import SourceEntry
from funcpipe_prefect.sources.csv import CsvSource
from funcpipe_prefect.sources.delta import DeltaSource
from funcpipe_prefect.sources.folder import HfFolderSource
from funcpipe_prefect.sources.iterable import IterableSource
from funcpipe_prefect.sources.jsonl import JsonlSource
from funcpipe_prefect.sources.lance import LanceSource
from funcpipe_prefect.sources.parquet import ParquetSource
from funcpipe_prefect.sources.sql import SqlSource
from funcpipe_prefect.sources.text import TextSource

__all__ = [
    "BUILTIN_SOURCES",
    "CsvSource",
    "DeltaSource",
    "HfFolderSource",
    "IterableSource",
    "JsonlSource",
    "LanceSource",
    "ParquetSource",
    "SqlSource",
    "TextSource",
    "source_type_of",
]

BUILTIN_SOURCES: Mapping[str, SourceEntry] = {
    "jsonl": SourceEntry(JsonlSource),
    "csv": SourceEntry(CsvSource),
    "parquet": SourceEntry(ParquetSource),
    "text": SourceEntry(TextSource),
    "hf_folder": SourceEntry(HfFolderSource),
    "lance": SourceEntry(LanceSource),
    "delta": SourceEntry(DeltaSource),
    "sql": SourceEntry(SqlSource),
}

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
}


def source_type_of(url: str) -> str:
    """Guess a source's type from a URL's ending; a folder holds texts.

    Example:
        >>> source_type_of("data/*.jsonl.gz"), source_type_of("docs/")
        ('jsonl', 'text')
    """
    name = url.removesuffix(".gz").removesuffix(".zst").removesuffix(".bz2").lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), "text")

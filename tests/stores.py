"""The stores under test: how a pipeline file names each, and what its readers see."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from funcpipe_prefect import load_pipeline
from funcpipe_prefect.sinks.directory import MANIFEST


@dataclass(frozen=True)
class Store:
    """A store under test.

    Attributes:
        name: The sink's name, with the database behind it.
        modes: Its modes.
        url: Of a database server.
    """

    name: str
    modes: tuple[str, ...] = ("replace", "upsert", "sync", "append")
    url: str = ""

    def operator(self, folder: Path, mode: str, key: list[str], table: str = "items") -> dict[str, Any]:
        """Give the Sink operator of a pipeline file that writes below a folder."""
        kind = "sql" if self.name in ("sqlite", "postgres") else self.name
        places = {
            "sqlite": {"url": f"sqlite:///{folder}/{table}.db", "table": table},
            "postgres": {"url": self.url, "table": f"{table}_{folder.name}".replace("-", "_")[-60:]},
            "lance": {"path": f"{folder}/{table}.lance"},
        }
        more = {} if self.modes == ("replace",) else {"mode": mode, "key": key}
        params = places.get(self.name, {"path": f"{folder}/{table}"})
        return {"type": "Sink", "name": "write", "func": kind, "contract": {"idempotent": True}, **more, "params": params}  # fmt: skip


STORES = ("jsonl", "parquet", "sqlite", "postgres", "lance", "delta")
KEYED = ("sqlite", "postgres", "lance", "delta")


def store(name: str, request: pytest.FixtureRequest) -> Store:
    """Give a store by name; starts the server that it needs."""
    if name in ("jsonl", "parquet"):
        return Store(name, ("replace",))
    return Store(name, url=request.getfixturevalue("postgres_url") if name == "postgres" else "")


def rows_seen(mapping: dict[str, Any]) -> list[Any]:
    """Give the rows that readers of a pipeline's sink see now, in an order of their own."""
    target = load_pipeline(mapping).sinks[0].target
    if hasattr(target, "rows"):
        return in_order(target.rows())
    folder = Path(target.location or "")
    while True:
        try:
            return in_order(_published(folder))
        except FileNotFoundError:  # a part of the manifest that has just been replaced
            continue


def in_order(rows: Iterable[Any]) -> list[Any]:
    """Sort rows by their text."""
    return sorted((dict(sorted(row.items())) for row in rows), key=repr)


def _published(folder: Path) -> list[Any]:
    manifest = folder / MANIFEST
    if not manifest.exists():
        return []
    found: list[Any] = []
    for entry in json.loads(manifest.read_text())["parts"]:
        file = entry["part"]["file"]
        if file.endswith(".parquet"):
            found += pq.read_table(folder / file).to_pylist()
        elif file:
            found += [json.loads(line) for line in (folder / file).read_text().splitlines()]
    return found

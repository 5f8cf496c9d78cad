"""Compare the newest results with the committed baseline: `python -m benchmarks.baseline`.

The figures that are compared are ratios of pairs taken in one run (or megabytes), so they can be
held against a baseline of another machine; seconds could not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import BASELINE, RESULTS


def loaded(folder: Path) -> dict[str, Any]:
    """Read the results of a folder by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def row(name: str, new: dict[str, Any] | None, old: dict[str, Any]) -> tuple[str, ...]:
    """Give one line of the table."""
    if new is None:
        return (name, f"{old['value']:.3f}", "not run", "", old["target"], "", old["commit"])
    change = f"{new['value'] / old['value']:.3f}" if old["value"] else "-"
    return (
        name, f"{old['value']:.3f}", f"{new['value']:.3f} {new['unit']}", change,
        new["target"], "met" if new["met"] else "MISSED", f"{old['commit']} → {new['commit']}",
    )  # fmt: skip


def main() -> int:
    newest, baseline = loaded(RESULTS), loaded(BASELINE)
    if not baseline:
        print("no baseline: python -m benchmarks.run --baseline")
        return 1
    head = ("benchmark", "baseline", "newest", "new/old", "target", "", "commits")
    rows = [head, *(row(name, newest.get(name), old) for name, old in baseline.items())]
    widths = [max(len(line[column]) for line in rows) for column in range(len(head))]
    for line in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())

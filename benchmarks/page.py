"""The page of the documentation that shows the comparison: a table and a drawing, made from its result."""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.measure import BASELINE

DOCS = Path(__file__).parents[1] / "docs"
TITLES = {
    "loop": "a loop by hand, one core",
    "pool": "`multiprocessing.Pool`, two processes",
    "futures": "bare Dask futures",
    "bag": "Dask Bag",
    "naive_map": "Prefect `.map`, a task run a document",
    "beam": "Beam by hand, record by record, two processes",
    "ray": "Ray Data",
    "daft": "Daft",
    "ours_local": "**funcpipe, local**, one core",
    "ours_dask": "**funcpipe, Dask**, `auto`",
    "ours_dask_stage": "**funcpipe, Dask**, `stage`",
    "ours_beam": "**funcpipe, Beam**, two processes",
}
_HEAD = """# Measured against others

This page is made by `make bench-compare` from `benchmarks/results/baseline/compare.json`; the code of each way is in
`benchmarks/contenders`. The work is the model job with next to nothing done for each record, which is the hardest case for
us: arXiv abstracts → clean → chunk → 32 numbers from a hash → files of records. All ways gave the same records, by count
and digest. Clusters, pools and servers are up and warm before the clock starts. What takes splits has ours by default, 16 MiB each; Ray
Data and Daft choose for themselves.
"""


def write_page(result: dict[str, Any]) -> None:
    """Write `docs/benchmarks.md` and its drawing."""
    machine = result["machine"]
    lines = [
        _HEAD,
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, Python {machine['python']}; medians of "
        f"{result['rounds']} rounds in turn, with half of the distance between the quartiles. Of Prefect's `.map` "
        f"{result['extrapolated_from']['naive_map']} documents were run, and the rest is extrapolated.\n",
        "![Documents a second](images/benchmarks.svg)\n",
    ]
    for size, one in result["sizes"].items():
        lines.append(f"## {one['documents']:,} documents (the sample × {size})\n")
        lines.append("| | seconds | documents a second | rounds |\n| --- | ---: | ---: | ---: |")
        ways = sorted(one["ways"].items(), key=lambda item: item[1]["median"])
        for name, way in ways:
            shown = f"{way['median']:,.1f} ± {way['median'] * way['spread']:,.1f}"
            lines.append(f"| {TITLES[name]} | {shown} | {way['documents_a_second']:,} | {way['n']} |")
        lines.append(f"\nDigest of all: `{one['digest']}`\n")
    lines.append("## Against the targets\n\n| | measured | target | |\n| --- | ---: | ---: | --- |")
    for what, one in result["verdicts"].items():
        verdict = "met" if one["met"] else "**missed**"
        lines.append(f"| {what.replace('_', ' ')} | {one['value']:,.2f} | {one['target']} | {verdict} |")
    (DOCS / "benchmarks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (DOCS / "images" / "benchmarks.svg").write_text(drawing(result), encoding="utf-8")


def drawing(result: dict[str, Any]) -> str:
    """Draw the documents a second of each way, by size, as bars."""
    sizes = list(result["sizes"])
    names = sorted(
        {name for one in result["sizes"].values() for name in one["ways"]},
        key=lambda name: -max(_speed(result, size, name) for size in sizes),
    )
    longest = max(_speed(result, size, name) for size in sizes for name in names)
    left, width, row = 290, 420, 16 * len(sizes) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 90} {row * len(names) + 30}" '
        'font-family="sans-serif" font-size="12">'
    ]
    for place, name in enumerate(names):
        title = TITLES[name].replace("*", "").replace("`", "")
        weight = ' font-weight="bold"' if name.startswith("ours") else ""
        top = place * row + 24
        parts.append(
            f'<text x="{left - 8}" y="{top + row / 2 - 3:.0f}" text-anchor="end"{weight}>{escape(title)}</text>'
        )
        for number, size in enumerate(sizes):
            speed = _speed(result, size, name)
            length = max(1.0, speed / longest * width)
            color = (
                ("#2e5f8a", "#8fb4d4")[number % 2]
                if name.startswith("ours")
                else ("#666", "#bbb")[number % 2]
            )
            y = top + number * 16
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="13" fill="{color}"/>')
            parts.append(f'<text x="{left + length + 5:.0f}" y="{y + 11}">{speed:,.0f}</text>')
    shown = ", ".join(f"× {size}" for size in sizes)
    parts.append(f'<text x="{left}" y="14">documents a second; bars from above: sample {shown}</text></svg>')
    return "\n".join(parts) + "\n"


def _speed(result: dict[str, Any], size: str, name: str) -> float:
    way = result["sizes"][size]["ways"].get(name)
    return float(way["documents_a_second"]) if way else 0.0


if __name__ == "__main__":
    write_page(json.loads((BASELINE / "compare.json").read_text()))
    sys.exit(0)

"""The graph of a pipeline as SVG, and a plan or a run as one page of HTML; both stand alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

__all__ = ["page", "svg"]

_CHARACTER, _LINE, _PAD, _GAP_X, _GAP_Y = 7.2, 18, 12, 56, 24
_ENDS = {
    "store": "stored", "group": "in groups", "answer": "the answer", "write": "written", "count": "counted",
}  # fmt: skip
_STYLE = """
svg { font: 13px ui-monospace, Menlo, Consolas, monospace; }
.box { fill: #f8fafc; stroke: #64748b; } .done { fill: #dcfce7; stroke: #16a34a; }
.part { fill: #fef9c3; stroke: #ca8a04; } .source { fill: #e0f2fe; stroke: #0284c7; }
.edge { fill: none; stroke: #64748b; stroke-width: 1.5; } .note { fill: #475569; font-size: 11px; }
.type { fill: #7c3aed; } text { fill: #0f172a; }
"""


@dataclass
class _Box:
    lines: list[tuple[str, str]]
    note: str
    kind: str
    title: str = ""
    column: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        longest = max(len(first) + len(second) + 1 for first, second in [*self.lines, ("", self.note)])
        return longest * _CHARACTER + 2 * _PAD

    @property
    def height(self) -> float:
        return (len(self.lines) + 1) * _LINE + 2 * _PAD


def svg(shown: Mapping[str, Any]) -> str:
    """Draw the stages of a pipeline, from left to right.

    Args:
        shown: What `preview` gives.

    Returns:
        One SVG element, with its styles inside.
    """
    boxes, edges = _boxes(shown)
    width, height = _placed(boxes)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" aria-label={quoteattr(str(shown["pipeline"]))}>',
        f"<style>{_STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#64748b"/></marker></defs>',
    ]
    parts += [_edge(boxes[first], boxes[second]) for first, second in edges]
    parts += [_drawn(box) for box in boxes]
    return "\n".join([*parts, "</svg>"])


def _boxes(shown: Mapping[str, Any]) -> tuple[list[_Box], list[tuple[int, int]]]:
    boxes = [_Box([("", "source")], f"{shown['splits']:,} splits, {_bytes(shown['bytes'])}", "source")]
    edges: list[tuple[int, int]] = []
    for number, stage in enumerate(shown["stages"], 1):
        before = 0 if stage["after"] is None else stage["after"] + 1
        lines = [(one["type"], one["name"]) for one in stage["operators"]] or [("", stage["name"])]
        kind = "done" if not stage["to_run"] else "part" if stage["cached"] else "box"
        note = f"{stage['splits']:,} x {_ENDS[stage['kind']]}: {stage['to_run']:,} to run, {stage['cached']:,} cached"
        title = ", ".join(one["output"] for one in stage["operators"] if "output" in one)
        boxes.append(_Box(lines, note, kind, title, boxes[before].column + 1))
        edges.append((before, number))
    return boxes, edges


def _placed(boxes: Sequence[_Box]) -> tuple[float, float]:
    """Put boxes into columns; give the size of the whole."""
    x, height = _PAD * 1.0, 0.0
    for column in range(max(box.column for box in boxes) + 1):
        own, y = [box for box in boxes if box.column == column], _PAD * 1.0
        for box in own:
            box.x, box.y = x, y
            y += box.height + _GAP_Y
        x += max(box.width for box in own) + _GAP_X
        height = max(height, y)
    return x - _GAP_X + _PAD, height - _GAP_Y + _PAD


def _edge(first: _Box, second: _Box) -> str:
    x1, y1 = first.x + first.width, first.y + first.height / 2
    x2, y2 = second.x, second.y + second.height / 2
    middle = (x1 + x2) / 2
    curve = f"M{x1:.0f} {y1:.0f} C{middle:.0f} {y1:.0f} {middle:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
    return f'<path class="edge" marker-end="url(#tip)" d="{curve}"/>'


def _drawn(box: _Box) -> str:
    texts = []
    for number, (first, second) in enumerate(box.lines):
        y = box.y + _PAD + _LINE * (number + 0.75)
        kind = f'<tspan class="type">{escape(first)}</tspan> ' if first else ""
        texts.append(f'<text x="{box.x + _PAD:.0f}" y="{y:.0f}">{kind}{escape(second)}</text>')
    y = box.y + _PAD + _LINE * (len(box.lines) + 0.75)
    texts.append(f'<text class="note" x="{box.x + _PAD:.0f}" y="{y:.0f}">{escape(box.note)}</text>')
    title = f"<title>{escape(box.title)}</title>" if box.title else ""
    return (
        f'<g>{title}<rect class="{box.kind}" x="{box.x:.0f}" y="{box.y:.0f}" rx="6" '
        f'width="{box.width:.0f}" height="{box.height:.0f}"/>{"".join(texts)}</g>'
    )


def page(shown: Mapping[str, Any]) -> str:
    """Write a plan as one page of HTML that needs nothing else.

    Args:
        shown: What `preview` gives.
    """
    rows = [
        [
            one["name"], one["kind"], one["input"], f"{one['splits']:,}", f"{one['to_run']:,}",
            f"{one['cached']:,}", _bytes(one["bytes"]) if one["bytes"] else "",
        ]
        for one in shown["stages"]
    ]  # fmt: skip
    tables = _table(["stage", "kind", "reads", "splits", "to run", "cached", "bytes to read"], rows)
    expected = shown["expected"]
    if expected is not None:
        rows = [
            [name, f"{one['records']:,}", f"{one['calls']:,}", f"{one['seconds']:,.1f}"]
            for name, one in expected["operators"].items()
        ]
        tables += f"<h2>Expected, from the run of {escape(expected['known_from'])}</h2>"
        tables += _table(["operator", "records", "calls", "seconds of all workers"], rows)
    told = (
        f"{shown['splits']:,} splits, {_bytes(shown['bytes'])}; {shown['tasks_to_run']:,} tasks to run, "
        f"{shown['tasks_cached']:,} cached; {shown['task_runs']:,} Prefect task runs on {escape(shown['backend'])}"
    )
    outputs = "".join(
        f"<li>{escape(name)}: {escape(str(place or 'a function'))}</li>"
        for name, place in shown["outputs"].items()
    )
    name = escape(str(shown["pipeline"]))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>'
        "body{font:15px system-ui,sans-serif;margin:2rem;color:#0f172a}table{border-collapse:collapse;margin:1rem 0}"
        "td,th{padding:.3rem .8rem;border-bottom:1px solid #cbd5e1;text-align:right}td:first-child,th:first-child"
        "{text-align:left}.graph{overflow-x:auto}</style></head><body>"
        f'<h1>{name}</h1><p>{told}</p><div class="graph">{svg(shown)}</div>{tables}<ul>{outputs}</ul></body></html>\n'
    )


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError

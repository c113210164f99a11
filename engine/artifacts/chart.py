"""A chart: what the script of report.html draws, and ``svg`` where no script runs. Next: report.py, and profiled.py for what
--profile has seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from engine.notebook import shown_text

Chart = dict[str, Any]  # title, unit, x, series: [{name, points: [[x, y], ...]}], and stacked or bars; names: of x 0, 1, 2 ...
# parts: [[name, x where it begins], ...], of the x axis
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a7a00", "#7f7f7f")  # Okabe and Ito's, as there
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 380, 210, 52, 10, 8, 36  # of svg(), in pixels
MOST_DOTS = 20  # of a curve whose points are marked
LONGEST_TEXT = 600  # shown, in characters
MOST_CHARTS = 100  # of metrics, or of phases; a task has a handful


def cut(text: str) -> str:
    """At most so many characters as a page can show of one text."""
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " ..."


def drawable(charts: Sequence[Chart]) -> list[Chart]:
    """The charts with something to draw: a single point is no curve (the tiles have its value), and no point no chart.

    A number that JSON does not have would end the page's drawing: such points are left out.
    """
    kept = []
    for each in charts:
        finite = [
            series | {"points": [point for point in series["points"] if None not in point and all(map(math.isfinite, point))]}
            for series in each["series"]
        ]
        kept.append(each | {"series": [series for series in finite if series["points"]]})
    return [chart for chart in kept if any(len(series["points"]) > 1 or chart.get("names") for series in chart["series"])]


def chart(title: str, unit: str, series: Mapping[str, list[list[float]]], **more: Any) -> Chart:
    return {"title": title, "unit": unit, "x": "step", "series": [{"name": n, "points": p} for n, p in series.items()], **more}


def svg(chart: Chart) -> str:
    """The lines of a ``drawable`` chart with its title and legend, as HTML in the colours of the page around it, light or dark.

    It stands still, and knows no bars and no stacks.
    """
    lines = [series["points"] for series in chart["series"]]
    (left, right), (low, high) = (span([point[i] for points in lines for point in points]) for i in (0, 1))
    colours = COLOURS * (1 + len(lines) // len(COLOURS))

    def across(x: float) -> float:
        return LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for at in ticks(low, high, 5):
        parts.append(f'<path d="M{LEFT} {down(at):.1f}H{WIDTH - RIGHT}" stroke="currentColor" opacity="0.2"/>')
        parts.append(text(LEFT - 6, down(at) + 4, "end", f"{at:.4g}"))
    parts += [text(across(at), HEIGHT - BOTTOM + 15, "middle", f"{at:.6g}") for at in ticks(left, right, 5) if at.is_integer()]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, "middle", chart["x"]))
    for points, colour in zip(lines, colours, strict=False):
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in points if len(points) <= MOST_DOTS else ():
            parts.append(f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="2.5" fill="{colour}"/>')
    legend = [
        f'<span style="color: {colour}">&#9632;</span> {shown_text(cut(series["name"]))} &nbsp;'
        for series, colour in zip(chart["series"], colours, strict=False)
        if series["name"]
    ]
    title, unit = (shown_text(cut(chart[name])) for name in ("title", "unit"))
    return (
        f'<div style="font-size: 0.9em; line-height: 1.5"><b>{title}</b> <span style="opacity: 0.7">{unit}</span>'
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}" '
        f'style="display: block; max-width: 100%">{"".join(parts)}</svg>{"".join(legend)}</div>'
    )


def text(x: float, y: float, anchor: str, words: str) -> str:
    """Letters in a picture."""
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {where} font-size="11" font-family="sans-serif" fill="currentColor" opacity="0.8">{shown_text(words)}</text>'


def span(values: Sequence[float]) -> tuple[float, float]:
    """What an axis reaches from and to: more than a point."""
    low, high = min(values), max(values)
    wider = 0.0 if high - low > 1e-12 * max(abs(low), abs(high), 1e-300) else abs(low) / 10 or 1.0
    return low - wider, high + wider


def ticks(low: float, high: float, number: int) -> list[float]:
    """About so many round numbers between the two."""
    rough = (high - low) / number
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999999)
    return [float(f"{i * step:.12g}") for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]

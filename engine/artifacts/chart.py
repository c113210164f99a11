"""A chart of the page: what the script of report.html draws. Next: report.py, and profiled.py for what --profile has seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Chart = dict[str, Any]  # title, unit, x, series: [{name, points: [[x, y], ...]}], and stacked or bars; names: of x 0, 1, 2 ...
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

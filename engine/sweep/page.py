"""What a sweep says at the end: the lines on the terminal, and sweep.html, drawn as a run's report is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engine import atomic
from engine.artifacts.chart import Chart, chart, drawable
from engine.artifacts.report import figure, page
from engine.console import counted, shown
from engine.findings.paired import Paired
from engine.sweep.choice import Candidate, Figure, Reported, ordered
from engine.sweep.document import PAGE, Result, Tests
from engine.sweep.plan import PARTS, Plan, Setting

MOST_LINES, MOST_CURVES = 30, 8
HEADS = ["setting", "mean", "standard error", "runs", "s a run", "less best", "its error", "p, Holm", "note"]


def rows_of(candidates: Sequence[Candidate], tests: Tests, best: Candidate, figure: Figure) -> list[list[str]]:
    """Under HEADS, the best first."""
    places = {id(each): place for place, each in enumerate(candidates)}
    rows = []
    for each in ordered(candidates, figure):
        test, adjusted = tests.get(places[id(each)], (None, None))
        seconds = [run.seconds for run in each.runs.values()]
        rows.append([
            each.setting.name, number(each.mean if each.runs else None), number(each.error), str(len(each.runs)),
            f"{sum(seconds) / len(seconds):.1f}" if seconds else "-", number(test.difference if test else None, "+.4f"),
            number(test.error if test else None), number(adjusted, ".2g"), "best" if each is best else each.dropped,
        ])  # fmt: skip
    return rows


def number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [HEADS, *([shown(row[0], 60), *row[1:-1], shown(row[-1], 60)] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADS))]
    aligned = [
        [cell.ljust(width) if column in (0, len(HEADS) - 1) else cell.rjust(width)
         for column, (cell, width) in enumerate(zip(row, widths, strict=True))]
        for row in cells
    ]  # fmt: skip
    more = [f"  ... and {len(rows) - MOST_LINES} more: sweep.csv has all"] if len(rows) > MOST_LINES else []
    return [f"  {'  '.join(row).rstrip()}" for row in aligned[: MOST_LINES + 1]] + more


def words(
    plan: Plan, figure: Figure, best: Candidate, chosen_on: int, report: Reported, tests: Tests, command: str
) -> list[str]:
    """What was chosen, on which rows, and how well it does on others."""
    where = (
        f"{counted(chosen_on, 'training row')} in {plan.config.folds} folds"
        if plan.config.folds
        else f"{counted(chosen_on, 'row')}, part 1/{PARTS} of the evaluation rows by --data-seed {plan.base[1].data_seed}"
    )
    over = f" ± {best.error:.4f}" if best.error is not None else ""
    errors = [
        f"{error:.4f} over the rows" if what == "rows" else f"{error:.4f} over the runs"
        for what, error in (("rows", report.over_rows), ("runs", report.over_runs))
        if error is not None
    ]
    found = [f"best       {best.setting.name}: {figure.name} {best.mean:.4f}{over}, on the rows that chose it ({where})"]
    beside = f" (standard error: {', '.join(errors)})" if errors else ""
    found.append(
        f"reported   {figure.name} {report.mean:.4f}{beside}, on {counted(report.number, 'row')} that chose nothing: "
        f"the mean of {counted(len(report.values), 'run')}; this is the figure to quote"
    )
    named = sorted({test.test for test, _ in tests.values()})
    if named:
        what = " or ".join(named) + (f", of each row's {figure.of_rows}" if any("runs" not in name for name in named) else "")
        found.append(f"tests      {what}; p by Holm for {len(tests)} comparisons with the best, on the rows that chose it")
    if apart := [test for test, adjusted in tests.values() if adjusted is not None and adjusted >= 0.05]:
        found.append(
            f"undecided  {counted(len(apart), 'setting')} cannot be told from the best by these rows (p at least 0.05)"
        )
    if plan.config.folds:
        found.append("folds      their training rows overlap, so the standard error over runs is smaller than it should be")
    return [*found, f"to train   {command}"]


def write_page(plan: Plan, result: Result) -> None:
    """sweep.html."""
    rows = rows_of(result.candidates, result.tests, result.best, result.figure)
    report = result.report
    tiles = [
        (f"{result.figure.name}, on rows that chose nothing", figure(report.mean)),
        *([("its standard error over the rows", figure(report.over_rows))] if report.over_rows is not None else []),
        *([("its standard error over the runs", figure(report.over_runs))] if report.over_runs is not None else []),
        (f"{result.figure.name}, on the rows that chose it", figure(result.best.mean)),
        ("settings", str(len(result.candidates))),
        ("runs", str(sum(len(each.runs) for each in result.candidates))),
    ]
    shown_tests = [
        [
            result.candidates[place].setting.name,
            test.test,
            str(test.number),
            number(test.difference, "+.4f"),
            *p_of(test, adjusted),
        ]
        for place, (test, adjusted) in result.tests.items()
    ]
    heads = ["setting", "test", "pairs", "less best", "standard error", "p", "p, Holm"]
    tables = [("Settings, the best first", ["number", *HEADS], [[str(i), *row] for i, row in enumerate(rows, 1)])]
    tables += [("Each setting beside the best", heads, shown_tests)] if shown_tests else []
    text = page(
        title=f"{plan.directory}: a sweep of {plan.task}", subtitles=list(result.lines), tiles=tiles,
        sections=[(f"{result.figure.name}, with its standard error over the runs", drawable(charts(result)))], tables=tables,
        commands=[plan.command()],
    )  # fmt: skip
    atomic.write(plan.directory / PAGE, text)


def p_of(test: Paired, adjusted: float | None) -> list[str]:
    return [number(test.error), number(test.p, ".2g"), number(adjusted, ".2g")]


def charts(result: Result) -> list[Chart]:
    """The settings in their order, and a chart for each setting that is a number."""
    ranked = [each for each in ordered(result.candidates, result.figure) if each.runs]
    points = [[float(i), each.mean, each.error or 0.0] for i, each in enumerate(ranked, 1)]
    runs = [[float(i), value] for i, each in enumerate(ranked, 1) for value in each.values]
    found = [
        chart("Settings", f"{result.figure.name}; bars: one standard error", {"mean": points, "each run": runs}, dots=True)
        | {"x": "setting, by its number in the table"}
    ]
    names = dict.fromkeys(name for each in ranked for name in each.setting.values)
    return found + [drawn for name in names if (drawn := along(name, ranked, result.figure)) is not None]


def along(name: str, candidates: Sequence[Candidate], figure: Figure) -> Chart | None:
    """The figure along one setting, a curve for each combination of the others; None: its values are no numbers, or one."""
    values = {each.setting.values[name]: as_number(each.setting.values[name]) for each in candidates}
    if len(values) < 2 or not all(value is not None for value in values.values()):
        return None
    numbers: dict[str, float] = {text: value for text, value in values.items() if value is not None}
    if min(numbers.values()) > 0 and max(numbers.values()) >= 3 * min(numbers.values()):  # on a log scale
        numbers = {text: math.log10(value) for text, value in numbers.items()}
    curves: dict[str, list[list[float]]] = {}
    for each in candidates:
        others = Setting({other: value for other, value in each.setting.values.items() if other != name})
        at = numbers[each.setting.values[name]]
        curves.setdefault(others.name if others.values else "", []).append([at, each.mean, each.error or 0.0])
    marks = sorted((at, text) for text, at in numbers.items())
    how = {"x": name, "marks": [[at, text] for at, text in marks[:: max(1, len(marks) // MOST_CURVES)]]}
    if len(curves) > MOST_CURVES:  # drawn at random, say: no curves, but dots
        return chart(name, figure.name, {"": sorted(point for points in curves.values() for point in points)}, dots=True, **how)
    drawn: dict[str, Any] = {others: sorted(points) for others, points in curves.items()}
    return chart(name, f"{figure.name}; bars: one standard error", drawn, **how)


def as_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None

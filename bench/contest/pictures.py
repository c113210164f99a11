"""Pictures of the newest rows of a results file, as PNG beside it: rates, levers and breakdown, losses, step times.

    python -m bench plot [--results FILE ...]

Drawn are the rows of each track's last run that count.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.contest.contest import say
from bench.contest.label import label
from bench.flags import make_parser
from bench.machine import RESULTS
from engine.errors import UsageError
from engine.installed import install

# Okabe and Ito's palette: told apart with every kind of colour vision; line styles tell a second time.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2, 1, 2)))
Rows = Sequence[Mapping[str, Any]]


def main(argv: list[str]) -> int:
    parser = make_parser("plot", __doc__)
    parser.add_argument("--results", type=Path, nargs="*", help="default: all of bench/results/bench-*.json")
    options = parser.parse_args(argv)
    for path in options.results or sorted(RESULTS.glob("bench-*.json")):
        if not path.exists():
            raise UsageError(f"--results {path}: there is no such file")
        written = draw(path)
        if not written:
            say(f"{path}: no picture, for no row of the last run of a track counts")
        for picture in written:
            print(picture)
    return 0


def draw(results: Path) -> list[Path]:
    """All pictures that the rows have something for; their paths."""
    from bench.contest.report import load

    if importlib.util.find_spec("matplotlib") is None:
        say(f"pictures: skipped, matplotlib is not installed ({install('bench')})")
        return []
    newest = newest_by_track(load(results))
    stem = results.with_suffix("")
    written = []
    for track, rows in newest.items():
        name = f"{stem}-{track.replace(' ', '-')}"
        if track == "levers":
            written.append(save(levers(rows), Path(f"{name}.png")))
            continue
        written.append(save(bars(rows, track), Path(f"{name}.png")))
        if track.startswith("S"):
            written.append(save(losses(rows, track), Path(f"{name}-loss.png")))
        if track != "overhead":
            written.append(save(step_times(rows, track), Path(f"{name}-steps.png")))
    return written


def newest_by_track(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    """Of every track the rows of its last run that count."""
    last = {row["track"]: row["run_id"] for row in rows}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["valid"] and row["run_id"] == last[row["track"]]:
            found.setdefault(row["track"], []).append(row)
    return found


def figure(height: float, columns: int = 1) -> tuple[Any, Any]:
    """800 pixels wide; text of at least 9 points."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    return pyplot.subplots(columns, 1, figsize=(8, height), dpi=100, layout="constrained")


def save(drawn: Any, path: Path) -> Path:
    from matplotlib import pyplot

    drawn.savefig(path)
    pyplot.close(drawn)
    return path


def heading(rows: Rows, what: str) -> str:
    """What, on which model and machine, and whether it may be quoted."""
    row = rows[0]
    machine = row["env"].get("gpu") or f"{row['env']['processor']}, {row['env']['threads']} threads"
    quick = "\nquick: not for quoting" if any(r["quick"] for r in rows) else ""
    return f"{what}\n{row['model']}, batch {row['batch']['size']} x {row['batch']['max_length']}, {machine}{quick}"


def bars(rows: Rows, track: str) -> Any:
    """Median rate of each system, and from its slowest to its fastest window."""
    drawn, axes = figure(1.6 + 0.5 * len(rows))
    if track == "overhead":
        values = [(r["overhead_us"]["median"], r["overhead_us"]["min"], r["overhead_us"]["max"]) for r in rows]
        axes.set_xlabel("microseconds a step beyond forward + backward (median, min-max; less is better)")
    else:
        values = [(r["rate"]["ex_s"], r["rate"]["ex_s_min"], r["rate"]["ex_s_max"]) for r in rows]
        axes.set_xlabel("examples per second (median and min-max of the windows)")
    horizontal_bars(
        axes, [label(r) for r in rows], values, [COLOURS[0] if "lainloop" in r["system"] else COLOURS[5] for r in rows]
    )
    axes.set_title(heading(rows, f"track {track}"), fontsize=10)
    return drawn


def horizontal_bars(
    axes: Any, names: Sequence[str], values: Sequence[tuple[float, float, float]], colours: Sequence[str]
) -> None:
    middles = [value for value, _, _ in values]
    whiskers = [[max(m - low, 0) for m, low, _ in values], [max(high - m, 0) for m, _, high in values]]
    axes.barh(range(len(names)), middles, xerr=whiskers, color=colours, capsize=4)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    top = max(high for _, _, high in values)
    for i, (middle, _, high) in enumerate(values):
        axes.text(max(high, middle) + 0.01 * top, i, f"{middle:,.3g}" if middle < 1000 else f"{middle:,.0f}", va="center")
    axes.set_xlim(0, 1.15 * top)


def levers(rows: Rows) -> Any:
    """Above: the rate with each lever added. Below: the step of the profiled one, part after part, down to the floor."""
    profiled = next((row for row in rows if "breakdown" in row), None)
    drawn, axes = figure(2 + 0.45 * len(rows) + (4 if profiled else 0), 2 if profiled else 1)
    upper = axes[0] if profiled else axes
    values = [(r["rate"]["ex_s"], r["rate"]["ex_s_min"], r["rate"]["ex_s_max"]) for r in rows]
    horizontal_bars(upper, [label(r) for r in rows], values, [COLOURS[0]] * len(rows))
    upper.set_xlabel("examples per second (median, min-max)")
    upper.set_title(heading(rows, "Plainloop, lever by lever"), fontsize=10)
    if profiled:
        waterfall(axes[1], profiled)
    return drawn


def waterfall(axes: Any, row: Mapping[str, Any]) -> None:
    """From the whole step, taking off part after part."""
    parts = row["breakdown"]
    shown = sorted(parts["ms_per_step"].items(), key=lambda item: item[1])
    linear = "linear layers"
    order = [kind for kind in shown if kind[0] != linear] + [kind for kind in shown if kind[0] == linear]
    left = parts["total_ms"]
    names, starts, widths, colours = ["whole step"], [0.0], [left], [COLOURS[6]]
    for kind, ms in order:
        left -= ms
        names.append(kind)
        starts.append(left)
        widths.append(ms)
        colours.append(COLOURS[0] if kind == linear else COLOURS[1])
    if parts["floor_ms"]:
        names.append("floor")
        starts.append(0.0)
        widths.append(parts["floor_ms"])
        colours.append(COLOURS[2])
        axes.axvline(parts["floor_ms"], color=COLOURS[2], linestyle="--", linewidth=1)
    axes.barh(range(len(names)), widths, left=starts, color=colours)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    for i, (start, width) in enumerate(zip(starts, widths, strict=True)):
        axes.text(start + width + 0.01 * parts["total_ms"], i, f"{width:,.2f}", va="center", fontsize=9)
    axes.set_xlim(0, 1.1 * parts["total_ms"])
    axes.set_xlabel("milliseconds of one profiled step (floor: model FLOPs at the best matmul rate)")
    axes.set_title(f"where a step of '{label(row)}' goes", fontsize=10)


def losses(rows: Rows, track: str) -> Any:
    """Left of the gap the check without dropout, where all have to agree; right of it training, with dropout of its own."""
    drawn, axes = figure(4.5)
    for i, row in enumerate(rows):
        check, trained = row["loss"]["check"], row["loss"]["train"]
        style: dict[str, Any] = {"color": COLOURS[i % 8], "linestyle": STYLES[i % 8], "linewidth": 2}
        axes.plot(range(-len(check), 0), check, marker="o", markersize=10 - i, fillstyle="none", **style)
        axes.plot(range(1, len(trained) + 1), trained, label=label(row), **style)
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set_xlabel("optimizer step (left of 0: the check without dropout)")
    axes.set_ylabel("mean loss of the batch (nats)")
    axes.set_title(heading(rows, f"track {track}: losses on the same batches"), fontsize=10)
    axes.legend(frameon=False)
    return drawn


def step_times(rows: Rows, track: str) -> Any:
    """The share of steps that were at least as fast."""
    drawn, axes = figure(4.5)
    for i, row in enumerate(rows):
        times = sorted(row["time"]["step_ms"]["all"])
        shares = [(k + 1) / len(times) for k in range(len(times))]
        axes.step(times, shares, where="post", label=label(row), color=COLOURS[i % 8], linestyle=STYLES[i % 8], linewidth=2)
    everything = [ms for row in rows for ms in row["time"]["step_ms"]["all"]]
    if max(everything) > 5 * min(everything):
        axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("milliseconds a step, as the host sees it")
    axes.set_ylabel("share of steps at most as long")
    axes.set_title(heading(rows, f"track {track}: step times"), fontsize=10)
    axes.legend(frameon=False)
    return drawn

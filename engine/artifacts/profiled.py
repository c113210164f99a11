"""What ``--profile`` has seen, for the page: profile.json read and checked; charts, a table, and the modules as boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from engine.artifacts.chart import MOST_CHARTS, Chart, chart, cut
from engine.checked import expect, expect_each, parse_object, read_bytes
from engine.errors import DataError

MOST_BOXES, LEAST_WIDTH, NUM_COLOURS = 2000, 0.15, 8  # modules of a profile; percent of the page's width
MOST_PARTS = 1000  # phases of a step: three and more for each micro-batch
REST = "activations and all else"


def read_profile(path: Path) -> dict[str, Any] | None:
    """profile/profile.json; None without one. Raises DataError."""
    try:
        return checked_profile(parse_object(read_bytes(path)))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} is not what --profile writes ({error}): remove it") from error


def checked_profile(found: dict[str, Any]) -> dict[str, Any]:
    """The profile, of whose steps each has the same phases. Raises ValueError for what ``--profile`` does not write."""
    expect(found, "device", str)
    steps, rows = (expect(found, name, list) for name in ("steps", "operations"))
    if not steps or not all(isinstance(each, dict) for each in (*steps, *rows)):
        raise ValueError("it has no steps, or not only records")
    for step in steps:
        expect(step, "step", int)
        for name in ("phases", "memory_gb"):
            expect_each(name, expect(step, name, dict), float)
        if step["phases"].keys() != steps[0]["phases"].keys():
            raise ValueError("its steps have other phases each")
    for row in rows:
        expect(row, "name", str)
        for name in ("milliseconds", "calls", "share"):
            expect(row, name, float)
    expect_each("held_gb", expect(found | {"held_gb": found.get("held_gb", {})}, "held_gb", dict), float)
    boxes(found)
    over_time(found)
    if not all(isinstance(line, str) for line in expect(found | {"advice": found.get("advice", [])}, "advice", list)):
        raise ValueError("its advice is not of texts")  # an older profile has none of the four
    return found


def profiled(profile: Mapping[str, Any]) -> list[Chart]:
    """The steps that --profile has looked at, one by one."""
    steps = profile["steps"]
    phases = {name: [[step["step"], 1000 * step["phases"][name]] for step in steps]
              for name in islice(steps[0]["phases"], MOST_CHARTS)}  # fmt: skip
    measured = dict.fromkeys(name for step in steps for name in step["memory_gb"])  # after a step's own: a recorded one has few
    memory = {f"after {name}": [[step["step"], step["memory_gb"].get(name)] for step in steps]
              for name in islice(measured, MOST_CHARTS)}  # fmt: skip
    where = "allocated" if profile["device"] == "cuda" else "resident"
    charts = [
        chart("Profiled steps", "ms, by phase", phases, stacked=True),
        chart("Memory in the profiled steps", f"GiB {where}", memory),
    ]
    if held := profile.get("held_gb"):
        charts.append(
            chart("Memory by what holds it", f"GiB {where}, after each phase", held_over_time(steps, held), stacked=True)
        )
    return charts + over_time(profile)


def over_time(profile: Mapping[str, Any]) -> list[Chart]:
    """The memory of one step, stacked: what is held all the time, gradients, and what is beside them.

    Raises ValueError for what ``--profile`` does not write.
    """
    found = profile.get("memory_over_time")
    if found is None:
        return []
    found = expect(profile, "memory_over_time", dict)
    step, phases = expect(found, "step", int), expect(found, "phases", list)
    if not all(isinstance(each, list) and list(map(type, each)) in ([str, float], [str, int]) for each in phases):
        raise ValueError("its phases are not a name and a time each")
    is_told = found.get("gradients_gb") is not None
    ms, above = (expect(found, name, list) for name in ("ms", "above_gb"))
    gradients = expect(found, "gradients_gb", list) if is_told else [0.0] * len(ms)
    if not len(ms) == len(above) == len(gradients) or not all(type(each) in (int, float) for each in (*ms, *above, *gradients)):
        raise ValueError("its memory over time is not one number for each time")
    held = {name: [[at, gb] for at in ms] for name, gb in profile.get("held_gb", {}).items() if name != "gradients"}
    rest = [[at, max(all_of_it - gradient, 0.0)] for at, all_of_it, gradient in zip(ms, above, gradients, strict=True)]
    told = {"gradients": [[at, gb] for at, gb in zip(ms, gradients, strict=True)]} if is_told else {}
    series = held | told | {REST if is_told else f"gradients, {REST}": rest}
    how = {"x": "ms", "stacked": True, "fractions": True}
    parts = [[cut(name), at] for name, at in phases[:MOST_PARTS] if math.isfinite(at)]
    return [chart(f"Memory over the time of step {step}", "GiB allocated by torch", series, parts=parts, **how)]


def held_over_time(steps: Sequence[Mapping[str, Any]], held: Mapping[str, float]) -> dict[str, list[list[float]]]:
    """Stacked series over the phases of all profiled steps: weights, optimizer state, gradients, and what is beside them."""
    held = dict(sorted(held.items(), key=lambda each: each[0] == "gradients"))  # above what stays, as in over_time()
    series: dict[str, list[list[float]]] = {name: [] for name in (*held, REST)}
    for step in steps:
        phases = list(islice(step["memory_gb"], MOST_CHARTS))
        for i, name in enumerate(phases):
            x = step["step"] + i / len(phases)
            left = step["memory_gb"][name]
            for each, gb in held.items():
                here = 0.0 if each == "gradients" and name not in step.get("with_gradients", ()) else gb
                series[each].append([x, here])
                left -= here
            series[REST].append([x, max(left, 0.0)])
    return series


def boxes(profile: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The modules of the profiled steps as boxes: each below the one that it is a part of, as wide as its share of the whole
    model's time; ``left`` and ``width`` in percent. Raises ValueError for what ``--profile`` does not write."""
    found: list[dict[str, Any]] = []
    places: dict[str, dict[str, Any]] = {}
    colours: dict[str, int] = {}
    rows = [row for row in expect({"modules": profile.get("modules", [])}, "modules", list) if isinstance(row, dict)]
    for row in rows[:MOST_BOXES]:
        name, kind = expect(row, "name", str), expect(row, "kind", str)
        forward, backward, share = (expect(row, key, float) for key in ("forward", "backward", "share"))
        inside, _, last = name.rpartition(".")
        outer = places.get(inside) if name else None
        if name and outer is None:
            continue  # the part of a module that is too small to be shown
        whole = places[""]["time"] if "" in places else forward + backward
        left, depth = (outer["filled"], outer["depth"] + 1) if outer else (0.0, 0)
        width = 100 * (forward + backward) / whole if whole > 0 else 0.0
        if outer:
            outer["filled"] += width
        text = f"{name or kind}: forward {forward:.2f} ms, backward {backward:.2f} ms a step, {share:.1%} of the wall clock"
        what = last if not last.isdecimal() else inside.rpartition(".")[2]
        places[name] = {"time": forward + backward, "filled": left, "depth": depth}
        found.append({"left": left, "width": width, "depth": depth, "name": cut(last or kind), "title": cut(text),
                      "colour": colours.setdefault(what, len(colours) % NUM_COLOURS)})  # fmt: skip
    return [box for box in found if box["width"] >= LEAST_WIDTH]


def operations(profile: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(columns, rows) of the profiled steps."""
    columns = ["own time, without what it calls", "ms a step", "calls a step", "% of the wall clock"]
    return columns, [
        [cut(row["name"]), f"{row['milliseconds']:.2f}", f"{row['calls']:.1f}", f"{100 * row['share']:.1f}"]
        for row in profile["operations"][:MOST_CHARTS]
    ]

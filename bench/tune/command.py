"""``python run.py tune --task imdb``: which settings train this task fastest on this machine, at the same effective batch.

Each variant changes one thing. Windows of steps are measured in turn, one of each, round after round, so that what else the
machine does meets all alike. A variant is named at the end only if the slowest of its windows is faster than the fastest of the
flags as they were given; several such are measured together, too.
"""

from __future__ import annotations

import os
import shlex
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.tune.flags import TuneConfig
from bench.tune.variants import AS_GIVEN, Machine, Variant, together, variants
from bench.tune.window import WARMUP, Window, measure
from engine.commands.output import check_output
from engine.config import TrainConfig
from engine.console import counted, note, say, shown
from engine.data.sources import SourceConfig
from engine.errors import UsageError
from engine.installed import program
from engine.settings.parser import apart, given_names, parse, task_named

NUM_ROUNDS = 3
LEAST_STEPS, MOST_STEPS = 3, 200  # of a window
SHARE = 0.02  # of the budget, that a window's steps are to take
OF_A_RUN = ("output_dir", "resume", "overwrite", "explain", "profile", "push_to_hub", "max_steps", "epochs", "write_to")

Measure = Callable[[Variant, int], Window]


@dataclass
class Tried:
    """A variant and its windows, one of each round."""

    variant: Variant
    windows: list[Window] = field(default_factory=list)
    failed: str = ""

    @property
    def rates(self) -> list[float]:
        return [window.rate for window in self.windows]

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    def is_faster(self, than: Tried) -> bool:
        """Does its interval lie above the other's? Of fewer than NUM_ROUNDS windows, one having failed, nothing is said."""
        return min(len(self.windows), len(than.windows)) >= NUM_ROUNDS and min(self.rates) > max(than.rates)


def tune(config: TuneConfig, argv: Sequence[str], find: Callable[..., Any]) -> None:
    """The command. ``argv``: a training's flags. Raises UsageError, and what the flags as they are given are refused for."""
    if (task := task_named(argv)) is None:
        raise UsageError(f"--task says what to train: {program()} tune --task imdb")
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise UsageError("tune measures one process: without torchrun")
    check_output("--output", config.output, [".json"])
    kind = find(task)
    training = parse(argv, "run.py tune", [TrainConfig, SourceConfig, kind.Options], kind.defaults)[0]
    _, shared = apart(argv, set(OF_A_RUN), bare={"resume", "overwrite", "explain"})

    def measured(variant: Variant, num_steps: int) -> Window:
        _, kept = apart(shared, set(variant.flags), bare={"compile"})
        return measure([*kept, *variant.arguments()], task, find, variant.threads, num_steps)

    from engine.distributed.device import usable_cores

    began = time.monotonic()
    first = measured(AS_GIVEN, LEAST_STEPS)  # it fills the caches, too
    first = first if first.failed else measured(AS_GIVEN, LEAST_STEPS)
    if first.failed:
        raise UsageError(f"with these flags there is nothing to measure: {first.failed}")
    machine = Machine(**first.facts, cores=usable_cores())
    wanted = variants(training, given_names(argv), machine, try_compile=config.try_compile)
    tried = rounds(measured, wanted, first, config.budget_s - (time.monotonic() - began))
    best = conclude(measured, tried)
    for line in [*table(tried, machine), *advice(tried, best, shared)]:
        say(line)
    if config.output:
        from bench.machine import keep

        keep(Path(config.output), {"flags": list(argv), "rows": [row_of(each) for each in tried]})


def rounds(measured: Measure, wanted: Sequence[Variant], first: Window, budget: float) -> list[Tried]:
    """Windows in turn: the flags as they are given, then each variant that there is time for."""
    step = first.seconds / first.num_steps
    num_steps = min(MOST_STEPS, max(LEAST_STEPS, round(SHARE * budget / step)))
    cost = max(first.whole - first.num_steps * step, 0.0) + num_steps * step
    number = max(1, int(budget / (cost * NUM_ROUNDS)) - 1)
    if left := wanted[number:]:
        enough = (len(wanted) + 1) * cost * NUM_ROUNDS
        note(f"no time for {', '.join(each.name for each in left)}: --budget-s {max(1, round(1.2 * enough)):d} would do")
    tried = [Tried(each) for each in (AS_GIVEN, *wanted[:number])]
    how = f"{NUM_ROUNDS} windows of {counted(num_steps, 'step')} each after {WARMUP} of warm-up, in turn"
    say(f"tune       {counted(len(tried), 'variant')}, {how}; about {len(tried) * NUM_ROUNDS * cost:.0f} s", flush=True)
    for _ in range(NUM_ROUNDS):
        one_of_each(measured, tried, num_steps)
    return tried


def one_of_each(measured: Measure, tried: Sequence[Tried], num_steps: int) -> None:
    for each in tried:
        if each.failed:
            continue
        window = measured(each.variant, num_steps)
        if window.failed:
            each.failed = window.failed
        else:
            each.windows.append(window)


def conclude(measured: Measure, tried: list[Tried]) -> Tried | None:
    """The fastest of those that are faster for sure; of several things that are, all together, where that is faster still.
    None: nothing is."""
    base, *others = tried
    faster = sorted((each for each in others if each.is_faster(base)), key=lambda each: -each.median)
    if not faster:
        return None
    of_each = {each.variant.what: each for each in reversed(faster)}  # the fastest of each thing
    if len(of_each) > 1:
        fast = sorted(of_each.values(), key=lambda each: -each.median)
        both = [Tried(together([each.variant for each in fast])), Tried(fast[0].variant), Tried(AS_GIVEN)]
        for _ in range(NUM_ROUNDS):
            one_of_each(measured, both, base.windows[0].num_steps)
        tried.append(both[0])
        if both[0].is_faster(both[2]) and both[0].is_faster(both[1]):
            return both[0]
    return faster[0]


def table(tried: Sequence[Tried], machine: Machine) -> list[str]:
    """A line for each variant."""
    base = tried[0]
    heads = ["", "examples/s", "[min - max]", "x", "peak GiB", "tokens/s", ""]
    rows = []
    for each in tried:
        name = f"{each.variant.name} ({machine.layout}, {machine.precision})" if each is base else each.variant.name
        if each.failed or not each.windows:
            rows.append([name, "-", "", "", "", "", f"not possible: {each.failed}"])
            continue
        tokens = statistics.median(window.num_tokens / window.seconds for window in each.windows)
        rows.append([
            name, f"{each.median:,.2f}", f"[{min(each.rates):,.2f} - {max(each.rates):,.2f}]",
            f"{each.median / base.median:.2f}",
            f"{max(window.peak_gb for window in each.windows):.2f}", f"{tokens:,.0f}",
            "" if each is base else each.variant.note,
        ])  # fmt: skip
    cells = [[shown(cell, 90) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column in (0, len(heads) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def advice(tried: Sequence[Tried], best: Tried | None, shared: Sequence[str]) -> list[str]:
    """The flags to use."""
    if best is None:
        return ["use        the flags as they are: the windows of nothing that was tried lie above theirs"]
    variant = best.variant
    threads = [f"OMP_NUM_THREADS={variant.threads}"] if variant.threads else []
    _, kept = apart(shared, set(variant.flags), bare={"compile"})
    found = [f"use        {variant.name}: {best.median / tried[0].median:.2f} x as fast ({variant.note})"]
    command = f"{program()} {shlex.join(kept)}"
    return [*found, f"           {' '.join([*threads, command, *variant.argv()])}"]


def row_of(tried: Tried) -> dict[str, Any]:
    """For the JSON file."""
    windows = [{name: value for name, value in asdict(each).items() if name != "modules"} for each in tried.windows]
    return {"variant": asdict(tried.variant) | {"name": tried.variant.name}, "windows": windows, "failed": tried.failed}

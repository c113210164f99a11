"""What a profile suggests: a line for each finding, with the flag to try. A pure function of what was measured.

``python -m bench advice`` measures what following each is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.clock import PHASES

PRODUCTS = {
    f"aten::{name}"
    for name in ("mm", "addmm", "addmm_", "bmm", "baddbmm", "_addmm_activation", "convolution_backward", "mkldnn_convolution")
} | {"aten::cudnn_convolution", "mkldnn::_linear_pointwise"}
RANDOM = {"aten::bernoulli_", "aten::native_dropout", "aten::random_"}
WAITING, PADDING, RANDOM_NUMBERS, UPDATE = 0.1, 0.2, 0.1, 0.25  # shares from which they are worth a line
BUSY = 0.7  # the share below which


def kinds(averages: Sequence[Any], wall: float, *, on_device: bool) -> dict[str, float]:
    """Shares of the wall clock (seconds): matrix ``products``, drawing ``random`` numbers. ``averages``: the profiler's."""
    found = {"products": 0.0, "random": 0.0}
    for event in averages:
        if event.device_type.name != "CPU":
            continue  # the kernels themselves, whose times the operations have, too
        own = (event.self_device_time_total if on_device else event.self_cpu_time_total) / 1e6 / wall
        for name, members in (("products", PRODUCTS), ("random", RANDOM)):
            found[name] += own if event.key in members else 0.0
    return found


def advice(profile: Mapping[str, Any], padding: float) -> list[str]:
    """The lines. ``profile``: as in profile.json; ``padding``: the share of the run's computed tokens that were padding."""
    steps, shares, run = profile["steps"], profile["kinds"], profile["run"]
    wall = sum(step["seconds"] for step in steps)
    spent = {name: sum(step["phases"].get(name, 0.0) for step in steps) / wall for name in PHASES}
    update, busy = spent["clip"] + spent["optimizer"], profile["busy"]
    may_pack = run["layout"] != "packed" and run["batching"] != "auto"  # auto packs whatever can be packed
    found = {
        f"a step waits for its batch {spent['data']:.0%} of the time{of_waiting(profile)}": spent["data"] >= WAITING,
        f"{padding:.0%} of the computed tokens are padding: {of_padding(run)}": (
            padding >= PADDING and run["layout"] != "packed"
        ),
        f"drawing dropout's random numbers takes {shares['random']:.0%}: packed batches draw fewer bits, and faster": (
            shares["random"] >= RANDOM_NUMBERS and profile["device"] == "cpu" and may_pack
        ),
        f"clipping and optimizer take {update:.0%}, as long for a small batch as for a large one: a larger --batch-size or "
        "--accumulation-steps has fewer of them, and trains differently; --freeze or --lora makes them small": update >= UPDATE,
    }
    if busy:
        idle = f"the device is idle {1 - busy['share']:.0%} of the time, waiting for kernels: "
        found[idle + of_launches(run, is_recorded=spent["graph"] > 0)] = busy["share"] < BUSY
    if (products := shares["products"]) > 0:
        found[
            f"nothing stands out. Matrix products are {products:.0%} of the time: if all else cost nothing, a step would be "
            f"{1 / products:.2f} times as fast"
        ] = not any(found.values())
    return [line for line, holds in found.items() if holds]


def of_waiting(profile: Mapping[str, Any]) -> str:
    """What to do about it: processes that load data help where a core is free for them."""
    workers, free = profile["run"]["workers"], profile["spare_cores"]
    has_core = profile["device"] != "cpu" or free > workers
    if not workers:
        return (
            ": --workers 2 prepares batches beside the training"
            if has_core
            else ("; --workers would slow it down here, where every core trains")
        )
    if has_core:
        return f", with --workers {workers}: more of them prepare more batches beside the training"
    takes = "; they take cores from the training, and --workers 0 may be faster" if free < workers else ""
    return f", with --workers {workers}, and no core is free for more{takes}"


def of_padding(run: Mapping[str, Any]) -> str:
    """Which batching has less of it: of a run's own way nothing is said, nor of packed batches where auto has made none."""
    if run["batching"] == "auto":
        return "--batching bucketed computes less, and puts other examples into a step"
    if run["batching"] == "bucketed":
        return "--batching packed computes none, where a model can be packed"
    return "--batching packed computes none; where a model cannot be packed, --batching bucketed computes less"


def of_launches(run: Mapping[str, Any], *, is_recorded: bool) -> str:
    """What there is left to try: recording needs packed batches and one rank."""
    ways = ["--cuda-graph on"] * (not is_recorded and run["layout"] == "packed" and run["ranks"] == 1)
    ways += ["--compile"] * (not run["compile"])
    fewer = f"{', or '.join(ways)}{',' * (len(ways) > 1)} launches fewer, " if ways else ""
    return f"{fewer}a larger --batch-size gives each more to do"

"""In which part of the model the time of a profiled step goes: the modules under their names, forward and backward.

While steps are profiled, hooks name the span of each module's forward pass. An operation belongs to the innermost span
around it. The backward pass has no spans: autograd gives each operation that it records a number, and the profiler notes it
with the operation and with its derivative, so the derivative counts for the module whose operation it is of.
https://docs.pytorch.org/docs/stable/autograd.profiler.html (sequence numbers). What is recomputed in the backward pass
(activation checkpointing) counts as backward. Next: advice.py, what follows from a profile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.profiler import record_function

SPAN = "module "  # begins the name of a span, before the module's; of the whole model there is no more
OF_AUTOGRAD = "autograd::engine::evaluate_function"
LEAST_SHARE = 0.0005  # of the whole: smaller modules are left out
MOST_MODULES = 2000


@contextmanager
def spans_of(model: nn.Module) -> Iterator[None]:
    """Inside, the profiler sees a span for each module's forward pass. The modules compute what they compute without."""
    open_spans: list[Any] = []

    def begin(name: str) -> None:
        open_spans.append(record_function(f"{SPAN}{name}"))
        open_spans[-1].__enter__()

    def end() -> None:
        open_spans.pop().__exit__(None, None, None)

    handles: list[Any] = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda _module, _inputs, name=name: begin(name)))
        # always: recomputing ends with an exception, in the middle of a module, as soon as it has all that is needed
        handles.append(module.register_forward_hook(lambda _module, _inputs, _outputs: end(), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def own_times(events: Sequence[Any], *, on_device: bool) -> dict[str, list[float]]:
    """name -> [forward, backward]: microseconds of what ran in each module and in none within it; "" is the model itself.

    ``events``: the profiler's, in the order in which they began. ``on_device``: count the kernels that an operation has
    started, and not the host's time. What is in no module (the loss, clipping, the update) is left out.
    """
    places: dict[int, tuple[str | None, int | None]] = {}  # of an event: the module, and the number in the backward pass

    def place(event: Any) -> tuple[str | None, int | None]:
        chain = []
        found: tuple[str | None, int | None] = (None, None)
        while event is not None:
            if id(event) in places:
                found = places[id(event)]
                break
            chain.append(event)
            event = event.cpu_parent
        for each in reversed(chain):
            if each.name.startswith(SPAN):
                found = (each.name.removeprefix(SPAN), found[1])  # one that is computed again keeps the number of its step back
            elif each.name.startswith(OF_AUTOGRAD):
                found = (None, each.sequence_nr)
            places[id(each)] = found
        return found

    events = [event for event in events if event.device_type.name == "CPU"]
    makers: dict[int, str] = {}  # the last that shows a number has made the derivative: only then the count goes on
    for event in events:
        name, number = place(event)
        if number is None and name is not None and event.sequence_nr >= 0:
            makers[event.sequence_nr] = name
    found: dict[str, list[float]] = {}
    for event in events:
        name, number = place(event)
        of = name if name is not None else makers.get(-1 if number is None else number)
        own = event.self_device_time_total if on_device else event.self_cpu_time_total
        if of is not None and own:
            found.setdefault(of, [0.0, 0.0])[number is not None] += own
    return found


def with_parts(own: Mapping[str, Sequence[float]], model: nn.Module, num_steps: int, wall: float) -> list[dict[str, Any]]:
    """A row for each module, in the model's order: with what is within it (``forward``, ``backward``) and without
    (``own``), milliseconds a step; ``share`` of the wall clock (seconds). The first is the whole model, named ""."""
    totals: dict[str, list[float]] = {}
    for name, times in own.items():
        parts = name.split(".") if name else []
        for depth in range(len(parts) + 1):
            total = totals.setdefault(".".join(parts[:depth]), [0.0, 0.0])
            for i in range(2):
                total[i] += times[i]
    rows = []
    for name, module in model.named_modules():
        forward, backward = totals.get(name, (0.0, 0.0))
        share = (forward + backward) / 1e6 / wall
        if share >= LEAST_SHARE:
            each = {"forward": forward, "backward": backward, "own": sum(own.get(name, (0.0, 0.0)))}
            rows.append({"name": name, "kind": type(module).__name__, "share": share}
                        | {key: value / 1000 / num_steps for key, value in each.items()})  # fmt: skip
    return rows[:MOST_MODULES]


def over_layers(rows: Sequence[Mapping[str, Any]], most: int) -> list[tuple[str, int, float]]:
    """(name with * for the number of a layer, how many modules, own milliseconds a step), the longest first."""
    found: dict[str, list[float]] = {}
    for row in rows:
        name = re.sub(r"(?<![^.])\d+(?![^.])", "*", row["name"]) or "the model itself"
        entry = found.setdefault(name, [0, 0.0])
        entry[0] += 1
        entry[1] += row["own"]
    ordered = sorted(found.items(), key=lambda each: -each[1][1])
    return [(name, int(count), own) for name, (count, own) in ordered[:most] if own > 0]

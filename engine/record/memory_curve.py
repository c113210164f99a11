"""Memory over the time of a profiled step: what torch has allocated, and how much of it is gradients.

The profiler tells of each operation how many bytes more are allocated at its end than at its beginning, and of what is freed
between operations (``profile_memory``, https://docs.pytorch.org/docs/stable/profiler.html). Added up in the order of their
ends that is the memory above what was held when the window began: weights and optimizer state. What an operation allocates
and frees within itself is not seen. A hook after each parameter's accumulation tells when its gradient is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.profiler import record_function

from engine.clock import PHASES

SPAN = "gradient accumulated"  # at whose place in time the next of the noted gradients is there
MOST_POINTS = 400


@contextmanager
def noting_gradients(parameters: Sequence[Tensor], noted: list[tuple[int, int]]) -> Iterator[None]:
    """Inside, ``noted`` gets (number of the parameter, bytes of its gradient) for each span, in their order."""

    def note(number: int, parameter: Tensor) -> None:
        with record_function(SPAN):
            grad: Any = parameter.grad.to_local() if hasattr(parameter.grad, "to_local") else parameter.grad  # type: ignore[union-attr]
            noted.append((number, grad.numel() * grad.element_size()))

    handles = [
        parameter.register_post_accumulate_grad_hook(lambda parameter, number=number: note(number, parameter))
        for number, parameter in enumerate(parameters)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def curve(
    events: Sequence[Any], noted: Sequence[tuple[int, int]], first_step: int, *, on_device: bool
) -> dict[str, Any] | None:
    """Of the step that needed most: its number, and at most 400 points of time in milliseconds since its beginning, with the
    GiB above the window's beginning (``above_gb``) and those of them that are gradients (``gradients_gb``; None where none was
    noted); ``phases``: [name, milliseconds at its beginning] of each, in order. None where the profiler saw no memory.

    ``events``: the profiler's. ``on_device``: memory of the device in place of the host's.
    """
    events = [event for event in events if event.device_type.name == "CPU"]
    begins = sorted(event.time_range.start for event in events if event.name == "data")
    changes = sorted(
        (event.time_range.end, size)
        for event in events
        if (size := event.self_device_memory_usage if on_device else event.self_cpu_memory_usage)
    )
    if not begins or not changes:
        return None
    arrivals = sorted(event.time_range.end for event in events if event.name == SPAN)
    releases = sorted(event.time_range.end for event in events if event.name == "optimizer")
    there = gradients(arrivals, releases, noted)
    above, points = 0, []
    for at, size in changes:
        above += size
        points.append((at, above))
    _, peak = max((above, at) for at, above in points if at >= begins[0])
    number = sum(begin <= peak for begin in begins) - 1
    start, end = begins[number], begins[number + 1] if number + 1 < len(begins) else points[-1][0] + 1
    before = [above for at, above in points if at < start]
    inside = thinned([(start, before[-1] if before else 0), *((at, above) for at, above in points if start <= at < end)])
    phases = [
        [event.name, (event.time_range.start - start) / 1000]
        for event in sorted(events, key=lambda event: event.time_range.start)
        if start <= event.time_range.start < end and event.name in PHASES
    ]
    held = [min(latest(there, at), max(above, 0)) / 2**30 for at, above in inside]
    return {
        "step": first_step + number,
        "ms": [(at - start) / 1000 for at, _ in inside],
        "above_gb": [above / 2**30 for _, above in inside],
        "gradients_gb": held if noted else None,
        "phases": phases,
    }


def with_buckets(found: dict[str, Any], gradients_gb: float) -> dict[str, Any]:
    """The same where gradients are views of buckets that were there before, as DistributedDataParallel's are."""
    all_of_it = [gb + gradients_gb for gb in found["above_gb"]]
    return found | {"above_gb": all_of_it, "gradients_gb": [gradients_gb] * len(all_of_it)}


def gradients(
    arrivals: Sequence[float], releases: Sequence[float], noted: Sequence[tuple[int, int]]
) -> list[tuple[float, int]]:
    """(time, bytes of all gradients from then on); each counts once until the next of ``releases``, where all are freed."""
    found: list[tuple[float, int]] = []
    there: dict[int, int] = {}
    for at, each in sorted([*zip(arrivals, noted, strict=False), *((at, None) for at in releases)], key=lambda pair: pair[0]):
        if each is None:
            there.clear()
        else:
            there[each[0]] = each[1]
        found.append((at, sum(there.values())))
    return found


def latest(values: Sequence[tuple[float, int]], at: float) -> int:
    """The value that holds at this time."""
    found = 0
    for begin, value in values:
        if begin > at:
            break
        found = value
    return found


def thinned(points: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """At most 400 of the points: the highest of each stretch, so that no peak is lost, and the last."""
    length = -(-len(points) // (MOST_POINTS - 1))
    highest = [max(points[i : i + length], key=lambda point: point[1]) for i in range(0, len(points), length)]
    return highest if highest[-1] == points[-1] else [*highest, points[-1]]

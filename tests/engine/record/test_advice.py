"""What a profile suggests, from numbers written by hand: each line on its side of its threshold, and none on the other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from engine.clock import PHASES
from engine.record.advice import advice, kinds

RUN = {"batching": "padded", "layout": "padded", "workers": 0, "compile": False, "ranks": 1}
PACKED, REFUSED = {"batching": "auto", "layout": "packed"}, {"batching": "auto", "layout": "padded"}


def profile(device="cpu", busy=None, random=0.0, products=0.8, spare=1, run=(), **phases):
    steps = [{"step": i, "seconds": 2.0, "phases": dict.fromkeys(PHASES, 0.0) | phases} for i in range(3)]
    return {"device": device, "steps": steps, "kinds": {"products": products, "random": random}, "busy": busy,
            "spare_cores": spare, "run": RUN | dict(run)}  # fmt: skip


@pytest.mark.parametrize(
    ("found", "padding", "wanted"),
    [
        (profile(data=0.2), 0.0, "a step waits for its batch 10% of the time: --workers 2"),
        (profile(data=0.2, spare=0, device="cuda"), 0.0, "a step waits for its batch 10% of the time: --workers 2"),
        (profile(data=0.2, spare=0), 0.0, "a step waits for its batch 10% of the time; --workers would slow it down here"),
        (
            profile(data=0.2, run={"workers": 2}, spare=3),
            0.0,
            "a step waits for its batch 10% of the time, with --workers 2: more",
        ),
        (
            profile(data=0.2, run={"workers": 2}, spare=2),
            0.0,
            "a step waits for its batch 10% of the time, with --workers 2, and no core is free for more",
        ),
        (
            profile(data=0.2, run={"workers": 2}, spare=0),
            0.0,
            "a step waits for its batch 10% of the time, with --workers 2, and no core is free for more; they take cores from",
        ),
        (
            profile(data=0.2, run={"workers": 2}, spare=0, device="cuda"),
            0.0,
            "a step waits for its batch 10% of the time, with --w",
        ),
        (profile(data=0.19), 0.0, None),
        (profile(), 0.2, "20% of the computed tokens are padding: --batching packed"),
        (
            profile(run={"batching": "bucketed"}),
            0.2,
            "20% of the computed tokens are padding: --batching packed computes none, wh",
        ),
        (
            profile(run=REFUSED),
            0.2,
            "20% of the computed tokens are padding: --batching bucketed computes less, and puts other",
        ),
        (profile(run=PACKED), 0.5, None),
        (profile(), 0.19, None),
        (profile(random=0.1), 0.0, "drawing dropout's random numbers takes 10%: packed batches"),
        (profile(random=0.5, device="cuda"), 0.0, None),
        (profile(random=0.5, run=PACKED), 0.0, None),
        (profile(random=0.5, run=REFUSED), 0.0, None),
        (profile(clip=0.1, optimizer=0.4), 0.0, "clipping and optimizer take 25%"),
        (profile(clip=0.1, optimizer=0.39), 0.0, None),
        (
            profile(busy={"share": 0.69}, run=PACKED),
            0.0,
            "the device is idle 31% of the time, waiting for kernels: --cuda-graph on, or --compile, launches fewer, a",
        ),
        (
            profile(busy={"share": 0.69}, run=PACKED | {"ranks": 2}),
            0.0,
            "the device is idle 31% of the time, waiting for kernels: --compile launches fewer, a",
        ),
        (
            profile(busy={"share": 0.69}, run={"compile": True}),
            0.0,
            "the device is idle 31% of the time, waiting for kernels: a larger --batch-size",
        ),
        (
            profile(busy={"share": 0.69}, graph=1.0),
            0.0,
            "the device is idle 31% of the time, waiting for kernels: --compile la",
        ),
        (profile(busy={"share": 0.7}), 0.0, None),
    ],
)
def test_each_line(found, padding, wanted):
    [line] = advice(found, padding)
    assert line.startswith(
        wanted or "nothing stands out. Matrix products are 80% of the time: if all else cost nothing, a step"
    )
    assert wanted or line.endswith("1.25 times as fast")


def test_several_at_once_and_none():
    lines = advice(profile(data=0.4, optimizer=0.6), 0.5)
    assert len(lines) == 3 and not any(line.startswith("nothing") for line in lines)
    assert advice(profile(products=0.0), 0.0) == [], "nothing was seen of products: nothing is said of them"


def test_operations_are_told_apart_by_their_kind():
    def event(key, device, cpu, own):
        where = SimpleNamespace(name=device)
        return SimpleNamespace(key=key, device_type=where, self_cpu_time_total=cpu, self_device_time_total=own)

    events = [event("aten::mm", "CPU", 1e6, 3e6), event("aten::bernoulli_", "CPU", 5e5, 0), event("gemm", "CUDA", 0, 3e6),
              event("aten::copy_", "CPU", 9e6, 9e6)]  # fmt: skip
    assert kinds(events, 4.0, on_device=False) == {"products": 0.25, "random": 0.125}
    assert kinds(events, 4.0, on_device=True) == {"products": 0.75, "random": 0.0}

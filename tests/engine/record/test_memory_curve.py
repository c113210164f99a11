"""Memory over the time of a step: against sizes that are known, and by hand."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch

from bench.toys import tiny
from engine.artifacts.profiled import over_time
from engine.config import TrainConfig
from engine.fit import fit
from engine.record.memory_curve import MOST_POINTS, SPAN, curve, gradients, thinned, with_buckets


def profile_of(folder, **changes) -> dict:
    settings = {"batch_size": 8, "epochs": 2, "device": "cpu", "precision": "fp32", "profile": 3}
    fit(tiny.TokenTask(train=tiny.token_rows(40)), TrainConfig(**settings | changes, output_dir=str(folder)), tiny.bert())
    return json.loads((folder / "profile/profile.json").read_text())


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradients_are_there_after_the_backward_pass_and_gone_after_the_update(tmp_path, accumulation):
    """Their size is that of the trained weights, once however many micro-batches there are; the forward pass allocates before."""
    found = profile_of(tmp_path / "run", batch_size=8 // accumulation, accumulation_steps=accumulation)
    memory, whole = found["memory_over_time"], found["held_gb"]["gradients"]
    assert memory["step"] in (4, 5, 6) and memory["ms"] == sorted(memory["ms"])
    names, begins = zip(*memory["phases"], strict=True)
    assert names[0] == "data" and list(begins) == sorted(begins) and names.count("backward") == accumulation
    first = dict(reversed(memory["phases"]))
    at = dict(zip(memory["ms"], memory["gradients_gb"], strict=True))
    clipping, updating = first["clip"], first["optimizer"]
    assert max(gb for ms, gb in at.items() if ms < first["backward"]) == 0.0
    assert [gb for ms, gb in at.items() if clipping <= ms < updating][-1] == pytest.approx(whole, rel=1e-6)
    assert memory["gradients_gb"][-1] < whole / 100, "zero_grad"
    activations = max(all_ for ms, all_ in zip(memory["ms"], memory["above_gb"], strict=True) if ms < first["backward"])
    assert activations > 0 and abs(memory["above_gb"][-1] - memory["above_gb"][0]) < 0.1 * max(memory["above_gb"])


def test_no_gradient_of_a_frozen_weight(tmp_path):
    found = profile_of(tmp_path / "run", freeze="embeddings")
    assert max(found["memory_over_time"]["gradients_gb"]) == pytest.approx(found["held_gb"]["gradients"], rel=1e-6)


def event(name: str, start: float, end: float, host: int = 0, device: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        name=name, time_range=SimpleNamespace(start=start, end=end), device_type=SimpleNamespace(name="CPU"),
        self_cpu_memory_usage=host, self_device_memory_usage=device,
    )  # fmt: skip


def test_by_hand():
    """Two steps from 0 and 100 us; the second needs more. 2^30 bytes are a GiB, and times are milliseconds."""
    gb = 2**30
    events = [
        event("data", 0, 10), event("forward", 10, 40), event("aten::mm", 12, 20, host=gb), event("[memory]", 50, 50, host=-gb),
        event("data", 100, 110), event("forward", 110, 140), event("aten::mm", 112, 120, host=2 * gb),
        event("backward", 140, 170), event("aten::mm", 142, 150, host=gb), event(SPAN, 151, 152),
        event("[memory]", 160, 160, host=-2 * gb), event("optimizer", 170, 190), event("[memory]", 185, 185, host=-gb),
    ]  # fmt: skip
    found = curve(events, [(0, gb)], 7, on_device=False)
    assert found == {
        "step": 8, "ms": [0.0, 0.02, 0.05, 0.06, 0.085], "above_gb": [0.0, 2.0, 3.0, 1.0, 0.0],
        "gradients_gb": [0.0, 0.0, 0.0, 1.0, 0.0], "phases": [["data", 0.0], ["forward", 0.01], ["backward", 0.04], ["optimizer", 0.07]],
    }  # fmt: skip
    assert curve(events, [], 7, on_device=False)["gradients_gb"] is None, "a step of one's own has no hooks"
    assert curve(events, [(0, gb)], 7, on_device=True) is None, "nothing was allocated on the device"
    assert curve([], [], 7, on_device=False) is None


def test_gradients_in_buckets_are_there_all_the_time():
    found = {"step": 4, "ms": [0.0, 1.0], "above_gb": [0.0, 0.5], "gradients_gb": None, "phases": []}
    expected = found | {"above_gb": [0.25, 0.75], "gradients_gb": [0.25, 0.25]}
    assert with_buckets(found, 0.25) == expected


def test_a_gradient_counts_once_until_it_is_freed():
    assert gradients([1, 2, 3, 5], [4], [(0, 10), (1, 5), (0, 10), (0, 10)]) == [(1, 10), (2, 15), (3, 15), (4, 0), (5, 10)]


@pytest.mark.parametrize("number", [1, 2, MOST_POINTS, 10 * MOST_POINTS + 7])
def test_no_peak_is_lost(number):
    points = [(float(i), i * 7919 % 1009) for i in range(number)]
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS + 1 and max(size for _, size in kept) == max(size for _, size in points)
    assert kept[-1] == points[-1] and kept == sorted(kept) and set(kept) <= set(points)


def test_the_chart():
    memory = {"step": 8, "ms": [0.0, 1.5], "above_gb": [0.0, 3.0], "gradients_gb": [0.0, 1.0], "phases": [["forward", 0.2]]}
    held = {"weights": 0.5, "gradients": 1.0, "optimizer": 1.0}
    [chart] = over_time({"memory_over_time": memory, "held_gb": held})
    assert chart["title"] == "Memory over the time of step 8" and chart["parts"] == [["forward", 0.2]]
    assert chart["x"] == "ms" and chart["stacked"]
    assert {series["name"]: series["points"][1] for series in chart["series"]} == {
        "weights": [1.5, 0.5], "optimizer": [1.5, 1.0], "gradients": [1.5, 1.0], "activations and all else": [1.5, 2.0],
    }  # fmt: skip
    [other] = over_time({"memory_over_time": memory | {"gradients_gb": None}, "held_gb": held})
    assert [series["name"] for series in other["series"]] == ["weights", "optimizer", "gradients, activations and all else"]
    assert over_time({}) == [] == over_time({"memory_over_time": None})


@pytest.mark.parametrize("change", [
    {"ms": [0.0]}, {"ms": "0 1"}, {"above_gb": [0.0, "1"]}, {"gradients_gb": [0.0, None]}, {"step": "8"}, {"phases": [["forward", "x"]]},
    {"phases": 3}, {"phases": [["forward"]]}, {"phases": [[2, 0.2]]}, {"phases": {"forward": 0.2}}, {"gradients_gb": [0.0, True]},
])  # fmt: skip
def test_what_the_profile_does_not_write_is_refused(change):
    memory = {"step": 8, "ms": [0.0, 1.5], "above_gb": [0.0, 3.0], "gradients_gb": [0.0, 1.0], "phases": [["forward", 0.2]]}
    assert over_time({"memory_over_time": memory}) and math.isfinite(memory["ms"][1])
    with pytest.raises(ValueError, match=r"."):
        over_time({"memory_over_time": memory | change})


def test_the_weights_are_the_same_with_the_hooks(tmp_path):
    """Each gradient's hook looks and changes nothing."""
    profile_of(tmp_path / "with")
    task, config = (
        tiny.TokenTask(train=tiny.token_rows(40)),
        {"batch_size": 8, "epochs": 2, "device": "cpu", "precision": "fp32"},
    )
    fit(task, TrainConfig(**config, output_dir=str(tmp_path / "without")), tiny.bert())
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("with", "without"))
    assert one == other and torch.is_grad_enabled()

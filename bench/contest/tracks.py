"""Who takes part in which track, and with which of its tool's choices.

D: the defaults, as each tool's tutorial has them, collating included. S: the same batches and the same precision for all,
so that only the tools differ. B: each at its best. LM: language models, the same batches for all, padded, flattened or
packed. overhead: a model so small that a step is nothing but the loop. On CUDA the batches of S and B are collated before
training begins, for all alike, and those of LM everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.contest.job import Job

if TYPE_CHECKING:
    import torch

SYSTEMS = ("plainloop", "plain_loop", "accelerate", "trainer", "fabric")
MODULES = {
    "plainloop": "bench.contest.contenders.plainloop:train",
    "plain_loop": "bench.contest.contenders.plain_loop:train",
    "accelerate": "bench.contest.contenders.accelerate_loop:train",
    "trainer": "bench.contest.contenders.trainer:train",
    "fabric": "bench.contest.contenders.fabric:train",
}
NAMES = {"plainloop": "Plainloop", "plain_loop": "plain loop", "accelerate": "Accelerate", "trainer": "Trainer",
         "fabric": "Lightning Fabric"}  # fmt: skip
TRACKS = {
    "D": "each tool's defaults",
    "S": "the same batches and precision for all",
    "B": "each at its best",
    "LM": "language models, each as it goes without padding, or with",
    "overhead": "the loop's own cost",
}
USUAL = ("D", "S", "B", "overhead")  # without --track


def jobs_of(
    track: str,
    base: Job,
    device: torch.device,
    *,
    systems: Sequence[str] = SYSTEMS,
    precision: str = "fp32",
    compile: bool = False,
) -> list[Job]:
    """The contenders of a track, Plainloop first. ``precision`` is that of S; ``compile`` adds compiled rows to B."""
    from engine.precision import has_native_bf16

    best = "bf16" if has_native_bf16(device) else "fp32"
    on_cuda = device.type == "cuda"
    found: list[Job] = []

    def add(system: str, suffix: str = "", **choices: Any) -> None:
        if system in systems:
            name = NAMES[system] + (f", {suffix}" if suffix else "")
            label = f"{track} {precision}" if track == "S" else track
            found.append(
                dataclasses.replace(
                    base,
                    system=name,
                    contender=MODULES[system],
                    track=label,
                    device=str(device),
                    task="language" if track == "LM" else base.task,
                    precollated=track == "LM" or (on_cuda and track in "SB"),
                    **choices,
                )
            )

    if track == "D":
        add("plainloop", batching="auto", precision="auto")
        for system in SYSTEMS[1:]:
            add(system)
        add("trainer", "max_length", batching="max_length")
    elif track == "S":
        same: dict[str, Any] = {"precision": precision, "tf32": on_cuda}
        add("plainloop", batching="auto", **same)
        add("plainloop", "padded", batching="padded", **same)
        for system in SYSTEMS[1:]:
            add(system, **same)
    elif track == "B":
        tuned: dict[str, Any] = {"precision": best, "tf32": on_cuda, "tuned": True, "fused": True, "batching": "bucketed"}
        add("plainloop", batching="auto", precision="auto", tf32=on_cuda)
        for system in SYSTEMS[1:]:
            add(system, **tuned)
        if compile or on_cuda:
            add("plainloop", "compiled", batching="auto", precision="auto", tf32=on_cuda, compile=True)
            add("trainer", "compiled", compile=True, **tuned)
        if on_cuda:
            add(
                "plainloop",
                "compiled, CUDA graphs",
                batching="auto",
                precision="auto",
                tf32=True,
                compile=True,
                cuda_graph=True,
            )
            add("plain_loop", "buckets of 64, compiled, CUDA graphs", compile=True, cuda_graph=True, round_to=64, **tuned)
    elif track == "LM":
        alike: dict[str, Any] = {"precision": best, "tf32": on_cuda, "tuned": True, "fused": True}
        add("plainloop", batching="auto", precision=best, tf32=on_cuda)
        add("plain_loop", **alike)  # padded, as the next: what losses are checked against
        add("trainer", **alike)
        add("trainer", "flattened, sdpa", batching="flattened", **alike)
        if on_cuda and has_flex_attention(base.model):
            add("trainer", "flattened, flex_attention", batching="flattened", attention="flex_attention", **alike)
        if compile:
            add("plainloop", "compiled", batching="auto", precision=best, tf32=on_cuda, compile=True)
            add("trainer", "compiled", compile=True, **alike)
    else:
        for system in SYSTEMS:
            add(system, precision="fp32", batching="padded", measure_floor=True)
    return found


def has_flex_attention(model: str) -> bool:
    """Do transformers' models of this kind know it? GPT-2 does not."""
    from transformers import AutoModelForCausalLM

    from bench.contest.workload import model_config

    kind = AutoModelForCausalLM._model_mapping[type(model_config(model, 2))]
    return bool(getattr(kind, "_supports_flex_attn", False))


def overhead_base(base: Job, tokens: str, steps: int) -> Job:
    """Two rows of 8 tokens, two layers of width 32, one thread."""
    return dataclasses.replace(
        base, tokens=tokens, model="random:tiny", batch_size=2, max_length=8, threads=1, warmup=50, steps=steps
    )

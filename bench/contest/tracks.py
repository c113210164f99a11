"""Who takes part in which track, and with which of its tool's choices.

D: the defaults, as each tool's tutorial has them, collating included. S: the same batches and the same precision for all,
so that only the tools differ. B: each at its best. LM: language models, the same batches for all, padded, flattened or
packed. overhead: a model so small that a step is nothing but the loop. On CUDA the batches of S and B are collated before
training begins, for all alike, and those of LM everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
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
    own: Sequence[str] = (),
) -> list[Job]:
    """The contenders of a track, Plainloop first. ``precision`` is that of S; ``compile`` adds compiled rows to B and LM.

    ``own``: ``FILE.py:FUNCTION`` each, which get the choices of the plain loop.
    """
    from engine.precision import has_native_bf16

    best = "bf16" if has_native_bf16(device) else "fp32"
    on_cuda = device.type == "cuda"
    all_of = {"D": defaults, "S": same, "B": tuned, "LM": language, "overhead": overhead}[track]
    found = list(all_of(precision=precision if track == "S" else best, on_cuda=on_cuda, compile=compile, model=base.model))
    as_plain = next(choices for system, _, choices in found if system == "plain_loop")
    common: dict[str, Any] = {
        "track": f"{track} {precision}" if track == "S" else track,
        "device": str(device),
        "task": "language" if track == "LM" else base.task,
        "precollated": track == "LM" or (on_cuda and track in ("S", "B")),
    }
    return [
        dataclasses.replace(
            base, system=NAMES[system] + (f", {suffix}" if suffix else ""), contender=MODULES[system], **common, **choices
        )
        for system, suffix, choices in found
        if system in systems
    ] + [
        dataclasses.replace(base, system=Path(name).name, contender=str(Path(name).resolve()), **common, **as_plain)
        for name in own
    ]


Found = Iterator[tuple[str, str, dict[str, Any]]]  # system, what distinguishes it from others of its tool, choices


def defaults(*, precision: str, **_: Any) -> Found:
    """Track D. Where bf16 is Plainloop's default it is one flag of the others: they take part with it, too."""
    yield "plainloop", "", {"batching": "auto", "precision": "auto"}
    yield from ((system, "", {}) for system in SYSTEMS[1:])
    yield "trainer", "max_length", {"batching": "max_length"}
    if precision == "bf16":
        yield from ((system, "its bf16 flag", {"precision": precision}) for system in SYSTEMS[1:])


def same(*, precision: str, on_cuda: bool, **_: Any) -> Found:
    """Track S."""
    alike = {"precision": precision, "tf32": on_cuda}
    yield "plainloop", "", {"batching": "auto", **alike}
    if on_cuda:
        yield "plainloop", "no CUDA graphs", {"batching": "auto", "cuda_graph": False, **alike}
    yield "plainloop", "padded", {"batching": "padded", **alike}
    yield from ((system, "", alike) for system in SYSTEMS[1:])


def tuned(*, precision: str, on_cuda: bool, compile: bool, **_: Any) -> Found:
    """Track B; on CUDA compiled, too, and a plain loop with CUDA graphs, which are Plainloop's default for small batches."""
    ours = {"batching": "auto", "precision": "auto", "tf32": on_cuda}
    theirs = {"precision": precision, "tf32": on_cuda, "tuned": True, "fused": True, "batching": "bucketed"}
    yield "plainloop", "", ours
    yield from ((system, "", theirs) for system in SYSTEMS[1:])
    if compile or on_cuda:
        yield "plainloop", "compiled", {"compile": True, **ours}
        yield "trainer", "compiled", {"compile": True, **theirs}
    if on_cuda:
        graphs = {"compile": True, "cuda_graph": True, "round_to": 64}
        yield "plain_loop", "buckets of 64, compiled, CUDA graphs", graphs | theirs


def language(*, precision: str, on_cuda: bool, compile: bool, model: str) -> Found:
    """Track LM. Losses are checked against the padded ones."""
    ours = {"batching": "auto", "precision": precision, "tf32": on_cuda}
    theirs = {"precision": precision, "tf32": on_cuda, "tuned": True, "fused": True}
    yield "plainloop", "", ours
    yield "plain_loop", "", theirs
    yield "trainer", "", theirs
    yield "trainer", "flattened, sdpa", theirs | {"batching": "flattened"}
    if on_cuda and has_flex_attention(model):
        yield "trainer", "flattened, flex_attention", theirs | {"batching": "flattened", "attention": "flex_attention"}
    if compile:
        yield "plainloop", "compiled", ours | {"compile": True}
        yield "trainer", "compiled", theirs | {"compile": True}


def overhead(**_: Any) -> Found:
    """The loops alone."""
    yield from ((system, "", {"precision": "fp32", "batching": "padded", "measure_floor": True}) for system in SYSTEMS)


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

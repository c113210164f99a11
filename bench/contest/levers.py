"""What each of Plainloop's levers is worth, one added at a time, and where the time of the last one's step goes.

    python -m bench levers [flags]

A contest like those of the comparison, between configurations of Plainloop alone; the last that is not compiled is profiled.
"""

from __future__ import annotations

import dataclasses
import tempfile
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from bench.contest.contest import say
from bench.contest.flags import add_workload_flags
from bench.contest.job import Job
from bench.contest.label import label
from bench.contest.tracks import MODULES
from bench.flags import make_parser

if TYPE_CHECKING:
    import torch

PROFILE_STEPS = 3
FIRST = "padded, fp32"


def levers(base: Job, device: torch.device) -> tuple[list[Job], dict[str, str]]:
    """The jobs, slowest first, and the levers that this device lacks with the reason."""
    from engine.precision import has_native_bf16

    on_cuda, native = device.type == "cuda", has_native_bf16(device)
    steps: list[tuple[str, dict[str, Any]]] = [
        (FIRST, {"batching": "padded", "precision": "fp32"}),
        ("length buckets, fp32", {"batching": "bucketed", "precision": "fp32"}),
        ("packed, nn.Dropout, fp32", {"batching": "packed", "precision": "fp32", "fast_dropout": False}),
        ("packed, fp32", {"batching": "packed", "precision": "fp32"}),
        ("padded, bf16", {"batching": "padded", "precision": "bf16"}),
        ("packed, bf16", {"batching": "packed", "precision": "bf16"}),
        ("packed, bf16, compiled", {"batching": "packed", "precision": "bf16", "compile": True}),
    ]
    jobs, skipped = [], {}
    for name, choices in steps:
        if on_cuda and choices["batching"] == "packed" and choices["precision"] == "fp32":
            skipped[name] = "the packed attention kernel of CUDA computes in half precision only"
        elif name == "padded, bf16" and not on_cuda:
            continue  # on a CPU the way leads over packing in fp32
        elif choices["precision"] == "bf16" and not native:
            skipped[name] = "this device has no bf16 instructions"
        elif choices.get("compile") and not on_cuda:
            skipped[name] = "measured on CUDA only"
        else:
            jobs.append(dataclasses.replace(base, system=name, contender=MODULES["plainloop"], track="levers", **choices))
    profiled = max(i for i, job in enumerate(jobs) if not job.compile)
    total = base.num_steps + PROFILE_STEPS
    jobs = [
        dataclasses.replace(job, total_steps=total, tf32=on_cuda, profile_steps=PROFILE_STEPS if i == profiled else 0)
        for i, job in enumerate(jobs)
    ]
    return jobs, skipped


def main(argv: list[str]) -> int:
    parser = make_parser("levers", __doc__)
    add_workload_flags(parser)
    run(parser.parse_args(argv))
    return 0


def run(options: Namespace) -> list[dict[str, Any]]:
    """Contest, table, breakdown, picture."""
    from bench.contest import pictures
    from bench.contest.setting import Setting

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        setting = Setting(options, folder)
        jobs, skipped = levers(setting.base(setting.tokens), setting.device)
        for name, reason in skipped.items():
            say(f"  {name}: skipped, {reason}")
        title = f"levers of Plainloop, {options.model}, batch {options.batch_size} x {options.max_length}"
        rows = setting.hold(jobs, setting.workload, title, FIRST)
        for row in rows:
            if "breakdown" in row:
                print(breakdown_text(row))
        if not options.no_pictures:
            pictures.draw(setting.results)
    return rows


def breakdown_text(row: dict[str, Any]) -> str:
    """The profiled step, largest part first, down to the floor."""
    parts = row["breakdown"]
    lines = [f"one step of '{label(row)}' by torch.profiler (it slows small operators down), ms"]
    for kind, ms in sorted(parts["ms_per_step"].items(), key=lambda item: -item[1]):
        lines.append(f"  {kind:<24}{ms:>10.2f}  {ms / parts['total_ms']:>5.0%}")
    lines.append(f"  {'all':<24}{parts['total_ms']:>10.2f}")
    if parts["floor_ms"]:
        share = f"{parts['fraction_of_floor']:>5.0%}  model FLOPs at the best matmul rate"
        lines.append(f"  {'floor':<24}{parts['floor_ms']:>10.2f}  {share}")
    if row["rate"]["frac_gemm_peak"]:
        lines.append(f"unprofiled, the step reaches {row['rate']['frac_gemm_peak']:.0%} of the best matmul rate measured")
    return "\n".join(lines)

"""Where a step's time goes on a GPU: launches, how long the device is busy, and the rate beside what products reach.

    python -m bench gpu launches --tokens FILE.npz

Every row is one way to compute the same batches, which are put together before the clock starts: eager, compiled, recorded
as CUDA graphs, at several batch sizes. The wall time is of steps without a profiler; launches and busy time are of a few
profiled ones.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bench.contest.job import Job
from bench.contest.report import VENDOR_PEAK
from bench.contest.workload import Workload, build_model
from bench.gpu import toys
from engine.build import Setup
from engine.loop import train_step
from engine.memory.usage import peak_memory_gb
from engine.model.flops import FlopCount, count_flops

MODES: dict[str, dict[str, Any]] = {
    "padded": {"batching": "padded"},
    "packed": {"cuda_graph": "off"},
    "packed, graphs": {"cuda_graph": "on"},
    "packed, graphs, deterministic": {"cuda_graph": "on", "deterministic": True},
    "compiled": {"compile": True, "cuda_graph": "off"},
    "compiled, graphs": {"compile": True, "cuda_graph": "on"},
}
PROFILED = 5
LAUNCHES = {"cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch",
            "cudaMemcpyAsync", "cudaMemsetAsync"}  # fmt: skip


def modes_of(device: torch.device) -> list[str]:
    """The packed attention of a CPU is a loop: neither compiled nor recorded."""
    return [
        name
        for name, settings in MODES.items()
        if device.type == "cuda" or (not settings.get("compile") and settings.get("cuda_graph") != "on")
    ]


def rows(
    workload: Workload, device: torch.device, options: Namespace, rate_tflops: float, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """One after the other, as they are measured."""
    for model in options.models:
        for batch_size in options.batch_sizes:
            for mode in options.modes:
                row = {"model": model, "batch_size": batch_size, "mode": mode}
                try:
                    row |= measure(workload, device, model, batch_size, MODES[mode], options, rate_tflops)
                except Exception as error:  # one way that fails does not end the session
                    row |= {"error": " ".join(f"{type(error).__name__}: {error}".split())[:400]}
                finally:
                    torch.use_deterministic_algorithms(False)
                    torch.compiler.reset()
                say(text_of(row))
                yield row


def measure(
    workload: Workload, device: torch.device, model: str, batch_size: int, settings: dict[str, Any], options: Namespace,
    rate_tflops: float,
) -> dict[str, Any]:  # fmt: skip
    """Milliseconds a step, useful TFLOP/s, and what the profiler counts."""
    job = Job(system="", contender="", track="", tokens="", model=model)
    made, task = toys.setup(
        build_model(job, workload.num_labels, dropout=True), workload, device,
        batch_size=batch_size, max_steps=10**6, **settings,
    )  # fmt: skip
    flops = count_flops(made.state.model, task.level)
    batches = toys.steps(made, options.warmup + options.steps)
    began = now(device)
    run(made, task, batches[: options.warmup])
    warm = now(device) - began
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(options.windows):
        began = now(device)
        run(made, task, batches[options.warmup :])
        seconds.append((now(device) - began) / options.steps)
    timed = [b for step in batches[options.warmup :] for b in step]
    work = useful(flops, timed) / options.steps
    tokens = sum(b.num_tokens for b in timed) / options.steps
    best = min(seconds)
    return {
        "ms": [1000 * s for s in seconds],
        "warmup_s": warm,
        "tokens": tokens,
        "ktokens_s": tokens / best / 1000,
        "rows_s": batch_size / best,
        "tflops": work / best / 1e12,
        "mfu": work / best / 1e12 / VENDOR_PEAK,
        "of_matmul": work / best / 1e12 / rate_tflops,
        "floor_ms": work / rate_tflops / 1e9,
        "peak_gb": peak_memory_gb(device),
        "layout": made.layout.kind,
        "profile": profiled(made, task, batches[-PROFILED:], device),
    }


def run(made: Setup, task: Any, batches: list[Any]) -> None:
    made.state.model.train()
    for micro_batches in batches:
        train_step(made.state, task, micro_batches, made.data.config, made.world)


def useful(flops: FlopCount | None, batches: list[Any]) -> float:
    if flops is None:
        return 0.0
    return sum(flops(b.num_tokens, b.sum_squares, b.num_examples, b.num_items) for b in batches)


def profiled(made: Setup, task: Any, batches: list[Any], device: torch.device) -> dict[str, Any]:
    """Launches and busy milliseconds a step, and the hottest kernels."""
    if device.type != "cuda":
        return {}
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run(made, task, batches)
        torch.cuda.synchronize(device)
    kernels = [e for e in profile.key_averages() if e.self_device_time_total > 0 and str(e.device_type).endswith("CUDA")]
    busy = sum(e.self_device_time_total for e in kernels) / 1000 / len(batches)
    hottest = sorted(kernels, key=lambda e: -e.self_device_time_total)[:12]
    launches = sum(e.count for e in profile.key_averages() if e.key in LAUNCHES)
    return {
        "launches": launches / len(batches),
        "kernels": sum(e.count for e in kernels) / len(batches),
        "busy_ms": busy,
        "hottest": [[e.key[:90], e.count / len(batches), e.self_device_time_total / 1000 / len(batches)] for e in hottest],
    }


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def text_of(row: dict[str, Any]) -> str:
    name = f"{row['model']:<18} {row['batch_size']:>4}  {row['mode']:<30}"
    if "error" in row:
        return f"{name} FAILED {row['error']}"
    busy = ""
    if profile := row["profile"]:
        busy = f"busy {profile['busy_ms']:.2f} ms, {profile['launches']:.0f} launches, {profile['kernels']:.0f} kernels, "
    return (
        f"{name} {min(row['ms']):8.2f} ms (floor {row['floor_ms']:.2f}) {row['rows_s']:8.0f} rows/s "
        f"{row['tflops']:6.1f} TFLOP/s {row['of_matmul']:5.0%} of products; {busy}warm-up {row['warmup_s']:.0f} s, "
        f"{row['peak_gb']:.1f} GB"
    )

"""From measurements to rows: the JSON that is kept, and the table that is printed."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench.contest.contest import Contender
from bench.contest.job import Job
from bench.contest.label import label
from bench.contest.validity import reasons
from bench.contest.workload import Workload, batches_sha, model_class, model_config
from bench.machine import RESULTS, processor
from engine.errors import DataError
from engine.model.flops import FlopCount, count_flops
from engine.settings.own import is_own

PACKAGES = ("torch", "transformers", "accelerate", "lightning-fabric", "numpy")
PACKAGE_OF = {"Trainer": "transformers", "Accelerate": "accelerate", "Lightning Fabric": "lightning-fabric"}
VENDOR_PEAK = 989.0  # TFLOP/s of an H100 or H200 in bf16, dense
COUNTED = ("examples", "num_tokens", "executed_tokens", "sum_squares")
KEPT_STEPS = 2000  # step times kept of a row


def environment(device: torch.device, matmul: Mapping[str, float]) -> dict[str, Any]:
    """Machine and versions."""
    found: dict[str, Any] = {
        "device": device.type,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "driver": driver_version()}
    found["versions"] = {"python": platform.python_version()} | {name: version_of(name) for name in PACKAGES}
    return found | {"gemm_tflops": dict(matmul)}


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def driver_version() -> str | None:
    """NVIDIA's, as its own tool tells it."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def results_path(device: torch.device) -> Path:
    """bench-cpu.json, bench-nvidia-h200.json."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return RESULTS / f"bench-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


@cache
def flop_count(model: str, task: str, num_labels: int) -> FlopCount | None:
    """From a model without weights: shapes are enough."""
    with torch.device("meta"):
        of_config = model_class(task).from_config(model_config(model, num_labels))
        return count_flops(of_config, "token" if task == "language" else "sequence")


def flops_of(flops: FlopCount, job: Job, counts: Mapping[str, Any]) -> float:
    """Of these rows; in a language model every token but a row's last is an item."""
    items = counts["num_tokens"] - counts["examples"] if job.task == "language" else 0
    return flops(counts["num_tokens"], counts["sum_squares"], counts["examples"], items)


def make_rows(
    contenders: Sequence[Contender], workload: Workload, env: Mapping[str, Any], *, run_id: str, quick: bool = False
) -> list[dict[str, Any]]:
    """One row a contender, judged against the others of the contest."""
    finished = [c for c in contenders if c.done and not c.error and c.windows]
    for c in finished:
        assert c.done is not None
        c.done |= {"system": c.job.system, "tf32": c.job.tf32 and env["device"] == "cuda"}
        if env["device"] == "cuda" and c.job.contender.startswith("bench.contest.contenders.plainloop"):
            c.done["tf32"] = c.done["precision"] == "fp32"  # Plainloop decides by itself
    first = contenders[0].job
    flops = flop_count(first.model, first.task, workload.num_labels)
    rows = []
    for c in contenders:
        if c not in finished:
            job = c.job
            rows.append(
                {"run_id": run_id, "system": job.system, "track": job.track, "quick": quick, "model": job.model,
                 "batch": {"size": job.batch_size, "max_length": job.max_length}, "flags": job.flags, "valid": False,
                 "why": c.error or "it did not finish"}
            )  # fmt: skip
            continue
        others = [
            o.done
            for o in finished
            if o is not c and o.done and o.done["layout"] != "packed" and not is_own(o.job.contender)  # by which none is judged
        ]
        assert c.done is not None
        why = reasons(c.job, c.done, workload.lengths, others)
        rows.append(make_row(c, workload, env, flops, run_id, quick) | {"valid": not why, "why": "; ".join(why)})
    return rows


def make_row(
    c: Contender, workload: Workload, env: Mapping[str, Any], flops: FlopCount | None, run_id: str, quick: bool
) -> dict[str, Any]:
    """What was measured, without the verdict."""
    job, done, windows = c.job, c.done, c.windows
    assert done is not None
    seconds = sum(w["seconds"] for w in windows)
    work = {name: sum(w[name] for w in windows) for name in COUNTED}
    tflops = flops_of(flops, job, work) / seconds / 1e12 if flops else None
    best = env["gemm_tflops"].get(done["precision"])  # what products of its own precision reach
    per_window = [w["examples"] / w["seconds"] for w in windows]
    useful = [flops_of(flops, job, w) / w["seconds"] / 1e12 for w in windows] if flops else []
    step_ms = [1000 * s for w in windows for s in w["step_s"]]
    row: dict[str, Any] = {
        "run_id": run_id,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "system": job.system,
        "version": version_of(PACKAGE_OF.get(job.system.split(",")[0], "torch")),
        "track": job.track,
        "quick": quick,
        "model": job.model,
        "task": workload.name,
        "batch": {"size": job.batch_size, "max_length": job.max_length},
        "flags": job.flags | {"precision": done["precision"], "layout": done["layout"], "tf32": done["tf32"]},
        "env": dict(env),
        "work": {
            "steps": len(windows) * job.steps, "windows": [len(windows), job.windows],
            "collated": "before training" if job.precollated else "in each step",
            "examples": work["examples"], "real_tokens": work["num_tokens"],
            "executed_tokens": work["executed_tokens"], "sum_s2": work["sum_squares"],
            "batch_sha": batches_sha(done["timed"]["rows"]), "init_sha": done["timed"]["init_sha"],
        },
        "time": {
            "warmup_s": c.ready["warmup_s"], "beside_others": job.compiles and env["device"] == "cuda",
            "windows_s": [w["seconds"] for w in windows], "gpu_busy_s": None,
            "step_ms": {"p50": float(np.percentile(step_ms, 50)), "p95": float(np.percentile(step_ms, 95)),
                        "all": [round(ms, 4) for ms in step_ms[:KEPT_STEPS]]},
        },
        "rate": {
            "steps_per_second": median(job.steps / w["seconds"] for w in windows),
            "ex_s": median(per_window), "ex_s_min": min(per_window), "ex_s_max": max(per_window),
            "tok_s": median(w["num_tokens"] / w["seconds"] for w in windows),
            "tflops": tflops,
            "tflops_median": median(useful) if useful else None,
            "mfu_989": tflops / VENDOR_PEAK if tflops and env["device"] == "cuda" else None,
            "frac_gemm_peak": tflops / best if tflops and best else None,
        },
        "mem_gb": done["memory_gb"],
        "said": c.said, "recompiles": sum(w["recompiles"] for w in windows[-1:]),
        "loss": {"check": done["check"]["losses"], "check_norms": done["check"]["norms"],
                 "clipping_seen": max(done["check"]["norms"], default=0.0) > 0.999 * job.max_grad_norm,
                 "train": done["timed"]["losses"]},
        "eval": None,
    }  # fmt: skip
    if job.measure_floor:
        each = [1e6 * (w["cost_s"] / job.steps - w["floor_s"]) for w in windows]
        row["overhead_us"] = {"median": median(each), "min": min(each), "max": max(each)}
    if done["profile"]:
        row["breakdown"] = breakdown(done["profile"], flops, best)
    return row


def breakdown(profile: Mapping[str, Any], flops: FlopCount | None, best_tflops: float | None) -> dict[str, Any]:
    """Milliseconds a step by kind of work, and the floor: the step's model FLOPs at the best measured matmul rate."""
    total = sum(profile["ms"].values())
    floor = None
    if flops and best_tflops:
        floor = flops(profile["num_tokens"], profile["sum_squares"], profile["examples"]) / best_tflops / 1e9
    return {
        "ms_per_step": profile["ms"],
        "total_ms": total,
        "floor_ms": floor,
        "fraction_of_floor": floor / total if floor else None,
    }


# --------------------------------------------------------------------------------------------------------------- output


def replace(path: Path, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put the rows of a contest into a JSON list, a row a line, in place of older ones; the file is whole at every moment."""
    kept = [row for row in load(path) if row["run_id"] != run_id]
    temporary = path.with_suffix(".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text("[\n" + ",\n".join(json.dumps(row) for row in [*kept, *rows]) + "\n]\n")
    os.replace(temporary, path)


def load(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file; [] without one. Raises DataError for what is none."""
    try:
        rows: Any = json.loads(path.read_text()) if path.exists() else []
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no results file of the bench: {type(error).__name__}: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "run_id" in row for row in rows):
        raise DataError(f"{path} is no results file of the bench: that is a list of rows, each with its run_id")
    return rows


def useful_rate(row: Mapping[str, Any]) -> float:
    """What ratios are made of: the model's FLOPs for real tokens a second, median of the windows.

    Where all have the same batches that is the ratio of examples a second; where lengths are sorted, a window of one
    system may hold other, shorter texts than that of another, and examples a second would compare those.
    """
    rate = row["rate"]
    return float(rate.get("tflops_median") or rate["ex_s"])


def relative_to(rows: Sequence[Mapping[str, Any]], name: str = "Trainer") -> float | None:
    """The median rate that the ratio column divides by, if its row counts."""
    return next((useful_rate(row) for row in rows if row["system"] == name and row["valid"]), None)


def table(rows: Sequence[Mapping[str, Any]], title: str, relative: str = "Trainer") -> str:
    """Examples a second as median [min-max]; the ratio is one of medians of useful_rate. A void row shows why."""
    quick = " (quick: not for quoting)" if any(row.get("quick") for row in rows) else ""
    overhead = any("overhead_us" in row for row in rows)
    last = "us/step beyond fwd+bwd" if overhead else "ktok/s"
    width, of = max([28, *(len(label(row)) + 2 for row in rows)]), max(15, len(relative) + 5)
    lines = [f"{title}{quick}", f"{'system':<{width}}{'examples/s':>24}{'steps/s':>9}{'x ' + relative:>{of}}{last:>24}  valid"]
    base = relative_to(rows, relative)
    for row in rows:
        if "rate" not in row:
            lines.append(f"{label(row):<{width}}{'-':>24}{'-':>9}{'-':>{of}}{'-':>24}  VOID: {row['why']}")
            continue
        rate = row["rate"]
        figures = f"{rate['ex_s']:.2f} [{rate['ex_s_min']:.2f}-{rate['ex_s_max']:.2f}]"
        ratio = f"{useful_rate(row) / base:.2f}" if base and row["valid"] else "-"
        extra = f"{row['overhead_us']['median']:.0f}" if overhead else f"{rate['tok_s'] / 1000:.2f}"
        verdict = "yes" if row["valid"] else f"VOID: {row['why']}"
        lines.append(f"{label(row):<{width}}{figures:>24}{rate['steps_per_second']:>9.3g}{ratio:>{of}}{extra:>24}  {verdict}")
    return "\n".join(lines)

"""A session on a GPU, part after part, each within nine minutes; every row is kept as it comes.

    python -m bench gpu                                   prints the commands of all parts
    python -m bench gpu correctness --results FOLDER      runs one; exit code 1 if a number is wrong

The machine needs torch and transformers, and no network. Models have random weights in the size of known ones: speed
does not depend on what they know.
"""

from __future__ import annotations

import json
import time
import traceback
from argparse import Namespace
from pathlib import Path
from typing import Any

from bench.flags import make_parser
from bench.machine import RESULTS, keep

PARTS = {
    "correctness": "does the device compute what it should? Kernels, whole models, skipped updates, memory, compiled graphs",
    "launches": "launches, busy time and rate of eager, compiled and graphed steps",
}


def main(argv: list[str]) -> int:
    parser = make_parser("gpu", __doc__)
    parser.add_argument("part", nargs="?", choices=tuple(PARTS), help="default: print the commands of all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default: bench/results)")
    parser.add_argument("--tokens", help="an .npz file made by python -m bench tokens (default: random rows)")
    parser.add_argument("--only", nargs="+", help="correctness: these checks")
    parser.add_argument("--models", nargs="+", default=["random:distilbert", "random:bert"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 128])
    parser.add_argument("--modes", nargs="+", help="launches: these ways (default: all)")
    parser.add_argument("--steps", type=int, default=40, help="of a window")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--matmul-size", type=int, default=8192)
    parser.add_argument("--on-device", action="store_true", help="launches: the batches lie on the device beforehand")
    options = parser.parse_args(argv)
    if options.part is None:
        print("\n".join(f"python -m bench gpu {name}  # {what}" for name, what in PARTS.items()))
        return 0
    return {"correctness": correctness, "launches": launches}[options.part](options)


def correctness(options: Namespace) -> int:
    """All checks, one after the other; a failed one does not keep the others from being seen."""
    from bench.gpu.correctness import CHECKS

    document, path = begin(options)
    document["checks"] = found = {}
    for name in options.only or CHECKS:
        began = time.monotonic()
        try:
            row = CHECKS[name](document["on"])
        except Exception as error:
            traceback.print_exc()
            row = {"ok": False, "error": " ".join(f"{type(error).__name__}: {error}".split())[:400]}
        found[name] = row | {"seconds": time.monotonic() - began}
        print(f"{'ok   ' if row['ok'] else 'WRONG'} {name}: {json.dumps(row)}", flush=True)
        write(path, document)
    return int(not all(row["ok"] for row in found.values()))


def launches(options: Namespace) -> int:
    """One row a way."""
    from bench.contest.workload import Workload, random_workload
    from bench.gpu import launches as part

    document, path = begin(options)
    document["rows"] = []
    workload = Workload.load(options.tokens).cut(options.max_length) if options.tokens else None
    workload = workload or random_workload(4000, 50, options.max_length)
    document["workload"] = {"name": workload.name, "mean_length": float(workload.lengths.mean())}
    options.modes = options.modes or list(part.MODES)
    rate = document["rates"]["bf16_tflops"] or document["rates"]["fp32_tflops"]
    for row in part.rows(workload, document["on"], options, rate, lambda text: print(text, flush=True)):
        document["rows"].append(row)
        write(path, document)
    return int(any("error" in row for row in document["rows"]))


def begin(options: Namespace) -> tuple[dict[str, Any], Path]:
    """The document of a part: the device, and the rates that it reaches."""
    import torch

    from bench.contest.matmul import rates
    from engine.distributed.device import choose_device, describe_device

    device = choose_device(options.device)
    found = rates(device, (options.matmul_size,))
    measured: dict[str, Any] = {f"{name}_tflops": found.get(name) for name in ("fp32", "bf16")}
    if device.type == "cuda":
        measured["copy_tb_s"] = copy_rate(device)
    document = {"device": describe_device(device), "torch": torch.__version__, "cuda": torch.version.cuda, "rates": measured}
    print(json.dumps(document), flush=True)
    name = torch.cuda.get_device_name(device).lower().replace(" ", "-") if device.type == "cuda" else "cpu"
    return document | {"on": device}, options.results / f"gpu-{options.part}-{name}.json"


def copy_rate(device: Any) -> float:
    """TB/s of a large copy, bytes read and bytes written."""
    import torch

    a = torch.randn(2**29, device=device)
    b = torch.empty_like(a)
    best = 0.0
    for _ in range(5):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        b.copy_(a)
        torch.cuda.synchronize(device)
        best = max(best, 8 * a.numel() / (time.perf_counter() - began) / 1e12)
    return best


def write(path: Path, document: dict[str, Any]) -> None:
    keep(path, {name: value for name, value in document.items() if name != "on"})

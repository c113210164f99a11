"""A session on a GPU, part after part: each is a command of at most nine minutes, and every row is kept as it comes.

    python -m bench gpu --tokens FILE.npz                 prints the commands of all parts
    python -m bench gpu correctness                       runs one; exit code 1 if a number is wrong
    python -m bench gpu all --tokens FILE.npz             runs all, and stops after a wrong number
    --results FOLDER                                      where everything is kept (default: bench/results)

The machine needs torch and transformers, and no network; without accelerate or lightning-fabric their rows are skipped.
Models have random weights in the size of known ones: speed does not depend on what they know. ``python -m bench --gpu``
is the same. With ``--quick`` all of it runs on a CPU in minutes, to see that it works.
"""

from __future__ import annotations

import json
import shlex
import time
import traceback
from argparse import Namespace
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from bench.contest.flags import add_compare_flags
from bench.flags import at_least, make_parser
from bench.machine import RESULTS, keep
from engine.errors import UsageError
from engine.settings.parser import apart

BUDGET_S = 420.0  # of a contest: what is begun then still ends within nine minutes
PARTS = {
    "correctness": "does the device compute what it should? Kernel, whole models, skipped updates, memory, graphs, compiling",
    "launches": "launches, busy time and rate of padded, packed, graphed and compiled steps; DistilBERT and BERT-base",
    "defaults": "track D, DistilBERT, batch 16: each tool as its tutorial has it",
    "same": "track S in bf16, DistilBERT, batch 16",
    "best": "track B, DistilBERT, batch 32",
    "bert": "track S in bf16, BERT-base, batch 32",
    "language": "track LM, GPT-2 on random tokens, batch 16",
    "levers": "Plainloop's levers and the breakdown, DistilBERT, batch 32",
    "overhead": "the loops' own cost",
}
CONTESTS: dict[str, dict[str, Any]] = {
    "defaults": {"track": ["D"]},
    "same": {"track": ["S"], "precision": ["bf16"]},
    "best": {"track": ["B"], "batch_size": 32},
    "bert": {"track": ["S"], "precision": ["bf16"], "model": "random:bert", "batch_size": 32},
    "language": {"track": ["LM"], "model": "random:gpt2", "max_length": 1024},
    "levers": {"batch_size": 32},
    "overhead": {"track": ["overhead"]},
}
USUAL: dict[str, Any] = {"model": "random:distilbert", "batch_size": 16, "max_length": 512, "budget": BUDGET_S}
QUICK: dict[str, Any] = {"model": "random:tiny", "batch_size": 4, "max_length": 48, "rows": 200, "data": "random",
                         "models": ["random:tiny"], "batch_sizes": [4], "steps": 2, "windows": 1, "warmup": 1,
                         "matmul_sizes": [256]}  # fmt: skip
QUICK_OF: dict[str, dict[str, Any]] = {"language": {"model": "random:tiny-gpt2"}}


def main(argv: list[str]) -> int:
    parser = make_parser("gpu", __doc__)
    parser.add_argument(
        "part", nargs="?", default="print", choices=("print", "all", *PARTS), help="default: print the commands"
    )
    add_compare_flags(parser)
    parser.add_argument("--only", nargs="+", help="correctness: these checks")
    parser.add_argument("--models", nargs="+", default=["random:distilbert", "random:bert"], help="launches")
    parser.add_argument("--batch-sizes", type=at_least(1), nargs="+", default=[16, 32, 128], help="launches")
    parser.add_argument("--modes", nargs="+", help="launches: these ways (default: all)")
    parser.set_defaults(model=None)  # each part has its own
    options = parser.parse_args(argv)
    quick = options.quick
    if options.part == "print":
        _, others = apart(argv, {"tokens", "data"})
        source = ["--tokens", options.tokens] if options.tokens else ["--data", options.data]
        given = shlex.join([*source, *(argument for argument in others if argument != "print")])
        print("\n".join(f"python -m bench gpu {name} {given}  # {what}" for name, what in PARTS.items()))
        return 0
    for part in PARTS if options.part == "all" else [options.part]:
        print(f"# {part}: {PARTS[part]}{' (--quick: of a tiny model)' * quick}", flush=True)
        if quick:
            parser.set_defaults(**QUICK | QUICK_OF.get(part, {}))
        if code := run(part, parser.parse_args(argv)):
            return code
    return 0


def run(part: str, options: Namespace) -> int:
    """One part. What is given on the command line takes the place of the part's own."""
    if part in ("correctness", "launches"):
        return {"correctness": correctness, "launches": launches}[part](options)
    from bench.contest import compare, levers, report
    from engine.distributed.device import choose_device

    if options.results:
        options.results = str(Path(options.results) / report.results_path(choose_device(options.device)).name)
    for name, value in (USUAL | CONTESTS.get(part, {})).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    levers.run(options) if part == "levers" else compare.compare(options)
    return 0


def correctness(options: Namespace) -> int:
    """All checks, one after the other; a failed one does not keep the others from being seen."""
    from bench.gpu.correctness import CHECKS

    refuse_unknown("--only", options.only, CHECKS)
    device, document, path = begin("correctness", options)
    document["checks"] = found = {}
    for name in options.only or CHECKS:
        began = time.monotonic()
        try:
            row = CHECKS[name](device)
        except Exception as error:
            traceback.print_exc()
            row = {"ok": False, "error": " ".join(f"{type(error).__name__}: {error}".split())[:400]}
        found[name] = row | {"seconds": time.monotonic() - began}
        print(f"{'ok   ' if row['ok'] else 'WRONG'} {name}: {json.dumps(row)}", flush=True)
        keep(path, document)
    return int(not all(row["ok"] for row in found.values()))


def launches(options: Namespace) -> int:
    """One row a way; ways that this device does not have are skipped."""
    from bench.contest.workload import Workload, random_workload
    from bench.gpu import launches as part

    refuse_unknown("--modes", options.modes, part.MODES)
    device, document, path = begin("launches", options)
    length = options.max_length or USUAL["max_length"]
    workload = Workload.load(options.tokens).cut(length) if options.tokens else random_workload(4000, length // 10, length)
    document |= {"workload": {"name": workload.name, "mean_length": float(workload.lengths.mean())}, "rows": []}
    rate = document["rates"]["bf16_tflops"] or document["rates"]["fp32_tflops"]
    options.modes = options.modes or part.modes_of(device)
    options.steps, options.windows, options.warmup = options.steps or 40, options.windows or 3, options.warmup or 10
    for row in part.rows(workload, device, options, rate, lambda text: print(text, flush=True)):
        document["rows"].append(row)
        keep(path, document)
    return int(any("error" in row for row in document["rows"]))


def refuse_unknown(flag: str, names: Sequence[str] | None, known: Collection[str]) -> None:
    """Raises UsageError."""
    if other := [name for name in names or () if name not in known]:
        raise UsageError(f"{flag} {other[0]!r}: there are {', '.join(map(repr, known))}")


def begin(part: str, options: Namespace) -> tuple[Any, dict[str, Any], Path]:
    """The device, the document of a part with the rates that the device reaches, and where it is kept."""
    import torch

    from bench.contest.matmul import rates
    from engine.distributed.device import choose_device, describe_device

    device = choose_device(options.device)
    found = rates(device, tuple(options.matmul_sizes))
    measured: dict[str, Any] = {f"{name}_tflops": found.get(name) for name in ("fp32", "bf16")}
    if device.type == "cuda":
        measured["copy_tb_s"] = copy_rate(device)
    document = {"device": describe_device(device), "cuda": torch.version.cuda, "rates": measured}
    print(json.dumps(document), flush=True)
    name = torch.cuda.get_device_name(device).lower().replace(" ", "-") if device.type == "cuda" else "cpu"
    return device, document, Path(options.results or RESULTS) / f"gpu-{part}-{name}.json"


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

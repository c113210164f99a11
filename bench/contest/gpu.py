"""The bench on a GPU, in parts of at most nine minutes: each is a command of its own, and each row is kept at once.

    python -m bench gpu --tokens FILE.npz          prints the commands
    python -m bench gpu same --tokens FILE.npz     runs one part

The machine needs torch and transformers; without accelerate or lightning-fabric their rows are skipped. Models have
random weights in the size of DistilBERT and BERT-base: speed does not depend on what they know. ``python -m bench --gpu``
is the same.
"""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from bench.contest import compare, levers
from bench.contest.contest import say
from bench.contest.flags import add_compare_flags
from bench.flags import make_parser

BUDGET_S = 420.0  # of a contest: what is begun then still ends within nine minutes
PARTS = {
    "kernels": "does the packed kernel compute what the CPU's does; versions; matmul rates",
    "same": "track S, DistilBERT, batch 16",
    "best": "track B, DistilBERT, batch 16",
    "levers": "Plainloop's levers and the breakdown, DistilBERT, batch 32",
    "bert": "track S in bf16, BERT-base, batch 32",
    "language": "track LM, GPT-2 on random tokens, batch 16",
    "overhead": "the loops' own cost",
}


def main(argv: list[str]) -> int:
    parser = make_parser("gpu", __doc__)
    parser.add_argument("part", nargs="?", default="print", choices=("print", *PARTS), help="default: print the commands")
    add_compare_flags(parser)
    options = parser.parse_args(argv)
    run(options.part, options)
    return 0


def commands(options: Namespace) -> list[str]:
    """One line a part."""
    source = f"--tokens {options.tokens}" if options.tokens else f"--data {options.data}"
    return [f"python -m bench gpu {part} {source} --device {options.device}  # {what}" for part, what in PARTS.items()]


def run(part: str, options: Namespace) -> list[dict[str, Any]]:
    """One part. A ``--model`` other than the default takes the place of the part's own."""
    if part == "print":
        print("\n".join(commands(options)))
        return []
    if options.budget is None:
        options.budget = BUDGET_S

    def default(name: str, value: Any) -> None:
        if getattr(options, name) in (None, "minilm"):
            setattr(options, name, value)

    default("model", {"bert": "random:bert", "language": "random:gpt2"}.get(part, "random:distilbert"))
    if part == "language":
        default("max_length", 1024)
    default("batch_size", 32 if part in ("levers", "bert") else 16)
    if part == "kernels":
        return kernels(options)
    if part == "levers":
        return levers.run(options)
    options.track = {"same": ["S"], "bert": ["S"], "best": ["B"], "language": ["LM"], "overhead": ["overhead"]}[part]
    if part == "bert" and options.precision is None:
        options.precision = ["bf16"]
    return compare.compare(options)


def kernels(options: Namespace) -> list[dict[str, Any]]:
    """What everything else stands on."""
    from transformers import BertConfig

    from bench.contest.report import environment
    from bench.contest.setting import matmul_rates
    from engine.distributed.device import choose_device, describe_device
    from engine.model.packing_check import check_kernel
    from engine.precision import choose_precision

    device = choose_device(options.device)
    precision = choose_precision("auto", device)
    say(f"{describe_device(device)}, {precision}")
    if device.type == "cuda":
        print("packed attention kernel: " + (check_kernel(BertConfig(), device, precision) or "agrees with the CPU's"))
    else:
        print("packed attention kernel: the CPU's is the reference")
    print(json.dumps(environment(device, matmul_rates(device, options.matmul_sizes)), indent=1))
    return []

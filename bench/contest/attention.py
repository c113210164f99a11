"""Attention of packed rows on a CPU, by itself and without dropout: by matrix products, and by torch's SDPA.

    python -m bench attention          a table; writes bench/results/attention-cpu.json, or --results FILE

Twelve heads of 32 (MiniLM's) or 64 (BERT's), 16 rows of reviews' lengths, one layer. The ways take turns in every round, and
a ratio is the median over the rounds of the two times of one round. It says which way engine/model/attention.py should take on
this processor: ``by_products`` there decides.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from bench.flags import at_least, make_parser
from bench.machine import RESULTS, keep

if TYPE_CHECKING:
    from torch import Tensor

NUM_HEADS, WIDTHS = 12, (32, 64)
NUM_ROWS, MEAN, SPREAD, LONGEST = 16, 240, 0.55, 512  # of rows, log-normal lengths in tokens


def lengths(seed: int = 0) -> list[int]:
    """Of the rows of a batch, in tokens."""
    import numpy as np

    drawn = np.random.default_rng(seed).lognormal(np.log(MEAN), SPREAD, NUM_ROWS)
    return [int(n) for n in np.minimum(drawn, LONGEST)]


def work(rows: list[int], width: int, dtype: Any, *, causal: bool, training: bool) -> Callable[[], None]:
    """One layer's attention over the rows, with its backward pass if ``training``."""
    import torch

    from engine.model.attention import attend

    offsets = torch.tensor([0, *torch.tensor(rows).cumsum(0).tolist()], dtype=torch.int32)
    q, k, v, gradient = (torch.randn(sum(rows), NUM_HEADS, width).to(dtype) for _ in range(4))
    leaves: list[Tensor] = [t.requires_grad_(training) for t in (q, k, v)]
    options: dict[str, Any] = {"dropout": 0.0, "scale": width**-0.5, "causal": causal, "window": -1}

    def once() -> None:
        out = attend(q, k, v, offsets, max(rows), **options)
        if training:
            torch.autograd.grad(out, leaves, gradient)

    return once


def measure(case: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Milliseconds of both ways in every round."""
    from engine.model import attention

    once = work(lengths(), case["width"], case["dtype"], causal=case["causal"], training=case["training"])
    ways = {"products": True, "sdpa": False}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, answer in ways.items():
            with mock.patch.object(attention, "by_products", lambda *_, answer=answer, **__: answer):
                began = time.perf_counter()
                once()
                if number:  # the first round warms up
                    took[name].append(1e3 * (time.perf_counter() - began))
    ratios = [sdpa / products for sdpa, products in zip(took["sdpa"], took["products"], strict=True)]
    found = {
        name: {"median_ms": statistics.median(some), "min_ms": min(some), "max_ms": max(some)} for name, some in took.items()
    }
    ratio = {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    return case | {"dtype": str(case["dtype"]).removeprefix("torch.")} | found | ratio


def main(argv: list[str]) -> int:
    parser = make_parser("attention", __doc__)
    parser.add_argument("--rounds", type=at_least(1), default=9, help="in each of which both ways take their turn")
    parser.add_argument("--results", type=Path, default=RESULTS / "attention-cpu.json")
    options = parser.parse_args(argv)
    import torch

    from engine.memory.usage import keep_freed_memory
    from engine.precision import has_native_bf16

    keep_freed_memory()
    types = [torch.float32, *([torch.bfloat16] if has_native_bf16(torch.device("cpu")) else [])]
    torch.manual_seed(0)
    print(f"{'':<44}{'products, ms':>14}{'SDPA, ms':>10}   SDPA / products [min - max]")
    rows = []
    for dtype in types:
        for width in WIDTHS:
            for causal, training in ((False, False), (False, True), (True, True)):
                case = {"dtype": dtype, "width": width, "causal": causal, "training": training}
                rows.append(measure(case, options.rounds))
                print(line(rows[-1]), flush=True)
    known = {name: bool(value) for name, value in torch.cpu.get_capabilities().items() if name.startswith(("avx", "amx"))}
    keep(options.results, {"threads": torch.get_num_threads(), "capabilities": known, "lengths": lengths(), "rows": rows})
    print(f"written to {options.results}")
    return 0


def line(row: dict[str, Any]) -> str:
    """Of the table."""
    what = f"{'causal, ' * row['causal']}{'both passes' if row['training'] else 'forward'}"
    name = f"{row['dtype']}, heads of {row['width']}, {what}"
    spread = f"[{row['ratio_min']:.2f} - {row['ratio_max']:.2f}]"
    return f"{name:<44}{row['products']['median_ms']:>14.1f}{row['sdpa']['median_ms']:>10.1f}   {row['ratio']:.2f} {spread}"

"""The best matrix-product rate of the device, measured: what a step is compared with, rather than a data sheet.

    python -m bench matmul --device cpu          TFLOP/s by precision, as JSON

In float32 as Plainloop computes it, TF32 on CUDA, and in bf16 where the device has instructions for it.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from bench.flags import at_least, make_parser

if TYPE_CHECKING:
    import torch

SIZES = (2048, 4096)


def rates(device: torch.device, sizes: tuple[int, ...] = SIZES) -> dict[str, float]:
    """TFLOP/s by precision: the best of a few products of square matrices (fp32 as Plainloop has it: TF32 on CUDA)."""
    import torch

    from engine.precision import allow_tf32, has_native_bf16

    allow_tf32(device, "fp32")
    kinds = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if has_native_bf16(device) else {})
    found = dict.fromkeys(kinds, 0.0)
    for name, dtype in kinds.items():
        for size in sizes:
            a, b, product = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))
            repeats = 20 if device.type == "cuda" else 1
            for _ in range(4):
                began = _now(device)
                for _ in range(repeats):
                    torch.mm(a, b, out=product)  # into memory that is there: touching new pages can take as long as the product
                found[name] = max(found[name], 2 * size**3 * repeats / (_now(device) - began) / 1e12)
    return found


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def main(argv: list[str]) -> int:
    parser = make_parser("matmul", __doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sizes", type=at_least(1), nargs="+", default=list(SIZES), help="of the square matrices")
    options = parser.parse_args(argv)
    from engine.distributed.device import choose_device  # now, for torch takes seconds

    print(json.dumps(rates(choose_device(options.device), tuple(options.sizes))))
    return 0

"""What several GPUs have to tell each other in a step, against what they compute meanwhile: a calculation, not a measurement.

    python -m bench scaling

It prints the tables of docs/scaling.md. A ring of N devices moves 2 (N-1)/N of the gradients for an all-reduce, and
(N-1)/N of a tensor for an all-gather or a reduce-scatter. A token costs 6 FLOPs for each weight, 8 when activations are
computed twice. The rates are assumptions, named in the first line; put your own.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.flags import make_parser

FLOPS = 400e12  # of a GPU, in bf16: 40% of an H100's 989e12
WITHIN, BETWEEN = 300e9, 40e9  # bytes per second and GPU: NVLink within a node of 8; 400 Gbit/s for each GPU between nodes


@dataclass(frozen=True)
class Model:
    name: str
    num_weights: float
    tokens: int  # per GPU and micro-batch
    sharded: bool


MODELS = (
    Model("BERT-base", 110e6, 32 * 128, sharded=False),
    Model("BERT-base", 110e6, 64 * 512, sharded=False),
    Model("7B", 7e9, 4 * 2048, sharded=False),
    Model("7B", 7e9, 4 * 2048, sharded=True),
    Model("7B", 7e9, 16 * 2048, sharded=True),
)


def bytes_moved(model: Model, num_gpus: int) -> float:
    """Received by each GPU in a step of one micro-batch: DDP's gradients in float32; FSDP's weights in bf16, twice, and
    its gradients in float32."""
    share = (num_gpus - 1) / num_gpus
    return share * model.num_weights * ((2 + 2 + 4) if model.sharded else 2 * 4)


def gigabytes_held(model: Model, num_gpus: int) -> float:
    """Weights, gradients and AdamW's state, all float32; activations come on top."""
    return 16 * model.num_weights / (num_gpus if model.sharded else 1) / 1e9


def rows() -> list[str]:
    lines = [
        "| model | tokens per GPU | way | GPUs | held, GB per GPU | moved, GB per step | moving, ms | computing, ms | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        for num_gpus in (8, 64):
            moving = bytes_moved(model, num_gpus) / (WITHIN if num_gpus <= 8 else BETWEEN)
            computing = 6 * model.num_weights * model.tokens / FLOPS
            lines.append(
                f"| {model.name} | {model.tokens:,} | {'FSDP2' if model.sharded else 'DDP'} | {num_gpus} "
                f"| {gigabytes_held(model, num_gpus):.1f} | {bytes_moved(model, num_gpus) / 1e9:.1f} "
                f"| {1e3 * moving:.0f} | {1e3 * computing:.0f} | {moving / computing:.1f} |"
            )
    return lines


def main(argv: list[str]) -> int:
    make_parser("scaling", __doc__).parse_args(argv)
    print(f"assumed: {FLOPS / 1e12:.0f} TFLOP/s a GPU in bf16; {WITHIN / 1e9:.0f} GB/s for each GPU within a node of 8, "
          f"{BETWEEN / 1e9:.0f} GB/s between nodes\n")  # fmt: skip
    print("\n".join(rows()))
    return 0

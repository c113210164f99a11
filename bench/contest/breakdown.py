"""Where the time of a profiled step goes, by kind of work."""

from __future__ import annotations

from typing import Any

import torch

# The first kind that names a part of the operator's name has it; so the order matters.
# aten::addmm_ is what a product of a batch of small matrices comes to on a CPU; linear layers have aten::addmm.
KINDS = {
    "optimizer and clipping": ("adamw", "Optimizer.", "_foreach", "linalg_vector_norm", "clip_grad"),
    "attention products": ("bmm", "aten::addmm_", "_flash_attention", "scaled_dot_product", "_efficient_attention"),
    "linear layers": ("aten::mm", "aten::addmm", "aten::_addmm", "aten::linear", "aten::matmul", "mkldnn"),
    "softmax": ("softmax",),
    "dropout": ("dropout", "Dropout", "_PackedAttention", "random_", "bernoulli", "threshold_backward", "aten::sub_"),
    "activation and norm": ("gelu", "layer_norm", "tanh", "relu", "silu"),
    "copies and fills": ("copy", "fill_", "zero_", "empty", "aten::to", "cat", "clone", "index_select", "contiguous"),
}
REST = "the rest"


def kind_of(name: str) -> str:
    """Of an operator, by its name."""
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), REST)


def by_kind(profile: Any, device: torch.device) -> dict[str, float]:
    """Self time in milliseconds, summed over the operators of each kind; on CUDA that of their kernels."""
    found = dict.fromkeys([*KINDS, REST], 0.0)
    for event in profile.key_averages():
        if event.device_type.name != "CPU":  # a kernel: counted with the operator that started it
            continue
        time = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        found[kind_of(event.key)] += time / 1000
    return found

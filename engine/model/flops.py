"""How much arithmetic a step asks for, and what share of the device's peak that is (MFU).

Counted is what the model must do for real tokens, forward and backward: no padding, no embedding look-ups, nothing
computed twice, the head of a language model for its targets only. A weight matrix costs 2 FLOPs a weight and token
forward, and as much backward for the gradient of the weight, and of what goes in, where there is one: a frozen model below a
trained head has none. Attention costs 4 * width FLOPs a pair of tokens and layer forward, and twice that
backward, summed over the squares of the lengths and never the square of their mean. Equal to torch's FlopCounterMode
(tests/engine/model/test_flops.py). MFU: Chowdhery et al. 2022, PaLM, appendix B.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from engine.precision import Precision

# Dense bf16 and fp16 peaks of the data sheets, in TFLOP/s; the first name that is a word of the device's.
PEAK_TFLOPS = {"H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L40": 181.0, "L4": 121.0,
               "A10G": 70.0, "RTX 4090": 165.0, "V100": 125.0, "T4": 65.0}  # fmt: skip


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of a forward and backward pass: for each token, each pair of tokens of a row, each row, each item."""

    per_token: float
    per_pair: float
    per_row: float
    causal: bool = False
    per_item: float = 0.0

    def __call__(self, num_tokens: int, sum_squares: int, num_rows: int, num_items: float = 0.0) -> float:
        """Over rows with ``num_tokens`` tokens in all; a causal row of n tokens has n (n + 1) / 2 pairs, else n^2."""
        num_pairs = (sum_squares + num_tokens) / 2 if self.causal else sum_squares
        heads = self.per_row * num_rows + self.per_item * num_items
        return self.per_token * num_tokens + self.per_pair * num_pairs + heads


def count_flops(model: nn.Module, level: str | None) -> FlopCount | None:
    """The count, from the model's matrices; None for a model whose cost is not of this form (convolutions, local attention).

    ``level``: the task's: whether the head works on the tokens that are items or on one vector per row.
    """
    config: Any = getattr(model, "config", None)
    body = getattr(model, "base_model", None)
    if config is None or body is None or any(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules()):
        return None
    if getattr(config, "is_encoder_decoder", False) or _has_local_layers(config):
        return None
    if any(parameter.dim() > 2 for parameter in model.parameters()):  # experts: each token passes some of them only
        return None
    layers, width = _layers_and_width(config)
    if not layers:
        return None
    in_body = {id(m) for name, m in body.named_modules() if not name.startswith("pooler")}
    groups = getattr(config, "num_hidden_groups", layers)  # where layers share weights: so many blocks, used again and again
    token = head = 0.0
    has_gradient = False  # of what comes in: does it depend on a trained parameter?
    blocks: dict[str, bool] = {}  # of a list of blocks: has what comes out of it a gradient?
    for name, module in model.named_modules():
        trained = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
        block = re.search(r"\.\d+\.", name)
        if isinstance(module, (nn.Linear, Conv1D)):
            cost = (2.0 + 2.0 * has_gradient + 2.0 * module.weight.requires_grad) * module.weight.numel()
            if id(module) in in_body:
                token += cost * (layers / groups if block else 1)
            elif level == "sequence" or "pooler" not in name:
                head += cost
        has_gradient |= any(trained)
        if block and id(module) in in_body:
            blocks[name[: block.end()]] = has_gradient
    row, item = (head, 0.0) if level == "sequence" else (0.0, head)
    pairs = layers * getattr(config, "inner_group_num", 1)  # of such a block's own layers each
    backward = sum(blocks.values()) / len(blocks) if blocks else float(has_gradient)
    return FlopCount(token, (4.0 + 8.0 * backward) * pairs * width, row, causal=_is_causal(model), per_item=item)


def _has_local_layers(config: Any) -> bool:
    kinds = set(getattr(config, "layer_types", None) or ())
    if getattr(config, "is_heterogeneous", False):  # layers differ: no one number is that of all
        return True
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return bool(kinds - {"full_attention"}) or (not kinds and window is not None)


def _layers_and_width(config: Any) -> tuple[int, int]:
    """Layers, and heads times their width: what a pair of tokens costs in each."""
    layers = getattr(config, "num_hidden_layers", 0)
    heads = getattr(config, "num_attention_heads", 0)
    width = heads * head if (head := getattr(config, "head_dim", None)) else getattr(config, "hidden_size", 0)
    return layers, width


def _is_causal(model: nn.Module) -> bool:
    return any(getattr(module, "is_causal", False) is True for module in model.modules())


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """The vendor's figure in FLOP/s for half precision on a known GPU, else None."""
    if device.type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    return next((tera * 1e12 for known, tera in PEAK_TFLOPS.items() if re.search(rf"\b{known}\b", name)), None)

"""AdamW with the right decay groups, the learning-rate schedule, and the guard that skips an update on the device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from engine.config import TrainConfig


def decay_names(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay applies to: all but those of norms, and biases.

    The rule is Trainer's (trainer.py, get_decay_parameter_names): no parameter of a module whose class is LayerNorm,
    none whose name says bias, layernorm, rmsnorm or norm. Measured on one architecture at a time in
    tests/test_optimizer.py.
    """
    names = set()
    for module_name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            continue
        for name, _ in module.named_parameters(prefix=module_name, recurse=False):
            if not is_norm_or_bias(name):
                names.add(name)
    return names


def is_norm_or_bias(name: str) -> bool:
    """``encoder.layer.0.output.LayerNorm.weight``, ``ln_f.bias``, ``input_layernorm.weight`` ..."""
    lowered = name.lower()
    return any(word in lowered for word in ("bias", "layernorm", "rmsnorm")) or any(
        part == "norm" or part.endswith("_norm") for part in lowered.split(".")
    )


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW (CPU, CUDA and MPS have it): two groups, with decay and without, in the model's order."""
    decay = decay_names(model)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in trained if name in decay], "weight_decay": config.weight_decay},
        {"params": [p for name, p in trained if name not in decay], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(0.9, 0.999),
        eps=1e-8,
        fused=True,
    )


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, num_steps: int) -> LRScheduler:
    """Linear (or cosine) to 0 at ``num_steps`` after a linear rise over ``ceil(warmup_ratio * num_steps)`` steps.

    The learning rate is a function of the step alone: an fp16 step that is skipped for overflow counts, too.
    """
    warmup_steps = math.ceil(config.warmup_ratio * num_steps)
    name = {"constant": "constant_with_warmup"}.get(config.schedule, config.schedule)
    schedule: LRScheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=num_steps)
    return schedule


class Guard:
    """Skips an update without asking the device: weights, Adam state and its step count stay bitwise as they were.

    Fused AdamW leaves everything unchanged when ``optimizer.found_inf`` is 1 (that is how GradScaler skips a step after
    an overflow). The guard adds to it, in a hook before each step: no items in the whole step (a zero gradient would
    still decay the weights), and, outside fp16, a gradient norm that is not finite. The latter sticks: no later update
    happens either, so the weights stay those before the first bad step until the host sees it and stops the run.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, *, sticky: bool):
        self.diverged = torch.zeros((), device=device)
        self.skip = torch.zeros((), device=device)
        self.sticky = sticky
        self.optimizer = optimizer
        optimizer.register_step_pre_hook(self._merge)

    def check(self, grad_norm: Tensor, num_items: Tensor) -> None:
        """Decide for the coming step. ``grad_norm``: () before clipping, ``num_items``: () of the whole step."""
        if self.sticky:
            self.diverged = torch.maximum(self.diverged, (~torch.isfinite(grad_norm)).float())
        self.skip = torch.maximum(self.diverged, (num_items == 0).float())
        if self.skip.device.type == "mps" and bool(self.skip):  # its fused kernel ignores found_inf; the one host wait
            self.optimizer.zero_grad(set_to_none=True)  # without gradients the step below does nothing

    def _merge(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self.skip.device.type == "mps":
            return
        overflow = getattr(optimizer, "found_inf", None) if hasattr(optimizer, "grad_scale") else None
        optimizer.found_inf = self.skip if overflow is None else torch.maximum(overflow, self.skip)  # type: ignore[attr-defined]

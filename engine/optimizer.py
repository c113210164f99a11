"""AdamW with the right decay groups, the learning-rate schedule, and the guard that skips an update on the device."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from engine import lora
from engine.config import TrainConfig
from engine.errors import UsageError


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


def freeze(model: nn.Module, pattern: str) -> None:
    """Parameters whose name the regular expression finds (``re.search``) are not trained, in place. Raises UsageError.

    A layer below the lowest trained one then costs no backward pass; dropout stays on, as in Trainer.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = [name for name in trained if re.search(pattern, name)]
    if not found:
        parts = dict.fromkeys(".".join(name.split(".")[:-1]) or name for name in trained)
        shown = ", ".join(list(parts)[:6] + (["..."] if len(parts) > 8 else []) + list(parts)[6:][-2:])
        raise UsageError(f"--freeze {pattern}: no parameter's name matches; there are {shown}")
    if len(found) == len(trained):
        raise UsageError(f"--freeze {pattern}: that is every parameter, nothing would be trained")
    for name in found:
        trained[name].requires_grad_(False)


def head_of(model: nn.Module) -> set[nn.Parameter]:
    """The parameters outside the model's body (its ``base_model``). Raises UsageError if there are none."""
    plain = lora.plain(model)
    body = set(getattr(plain, "base_model", plain).parameters())
    head = {parameter for parameter in model.parameters() if parameter not in body}
    if not head:
        raise UsageError(f"--head-learning-rate: {type(plain).__name__} has no parameters outside its body")
    return head


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW (CPU, CUDA and MPS have it): groups with decay and without, in the model's order; the head's last.

    The head has groups of its own with ``--head-learning-rate``; then the schedule scales both rates alike.
    """
    decay = decay_names(model)
    head: set[nn.Parameter] = set() if config.head_learning_rate is None else head_of(model)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in trained if (p in head) == is_head and (name in decay) == decays],
         "lr": rate, "weight_decay": config.weight_decay if decays else 0.0}
        for is_head, rate in ((False, config.learning_rate), (True, config.head_learning_rate))
        for decays in (True, False)
    ]  # fmt: skip
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

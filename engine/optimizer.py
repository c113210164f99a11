"""The table of optimizers, their parameter groups, and the guard that skips an update.

An optimizer is one of torch.optim's, and an entry of ``OPTIMIZERS``: to add one, write its entry and its name in config.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.config import TrainConfig
from engine.distributed.wrap import blocks
from engine.errors import UsageError
from engine.model import lora
from engine.muon import MuonWithAdamW

Group = dict[str, Any]


def decay_names(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay applies to: all but those of norms, and biases.

    The rule is Trainer's (trainer.py, get_decay_parameter_names): no parameter of a module whose class is LayerNorm,
    none whose name says bias, layernorm, rmsnorm or norm. Measured on one architecture at a time in
    tests/engine/test_optimizer.py.
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


def outside_body(model: nn.Module) -> set[nn.Parameter]:
    """The parameters outside the model's body (its ``base_model``)."""
    plain = lora.plain(model)
    body = set(getattr(plain, "base_model", plain).parameters())
    return {parameter for parameter in model.parameters() if parameter not in body}


def head_of(model: nn.Module) -> set[nn.Parameter]:
    """The parameters outside the model's body. Raises UsageError if there are none."""
    head = outside_body(model)
    if not head:
        raise UsageError(f"--head-learning-rate: {type(lora.plain(model)).__name__} has no parameters outside its body")
    return head


def depths(model: nn.Module) -> dict[nn.Parameter, int]:
    """How far below the top each parameter lies, for ``--layer-decay``. Raises UsageError for a model without blocks.

    0: the head, and what comes behind the last block; 1: the last block; and so on down to the first; one more: embedding
    tables, and what comes before the first block. What stands between two blocks counts as the one before it.
    """
    found = blocks(model)
    if not found:
        raise UsageError(f"--layer-decay: {type(lora.plain(model)).__name__} has no transformer blocks (no nn.ModuleList)")
    block_of = {p: number for number, block in enumerate(found, start=1) for p in block.parameters()}
    head, tables, top = outside_body(model), embedding_tables(model), len(found) + 1
    depth, level = {}, 0
    for parameter in model.parameters():
        level = block_of.get(parameter, level)
        if parameter in block_of:
            own = level
        elif parameter in head or (level == len(found) and parameter not in tables):
            own = top
        else:
            own = 0 if parameter in tables else level
        depth[parameter] = top - own
    return depth


def embedding_tables(model: nn.Module) -> set[nn.Parameter]:
    return {p for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters(recurse=False)}


def matrices_of(model: nn.Module) -> set[nn.Parameter]:
    """What Muon is for: the trained matrices of the transformer blocks, without embedding tables. Raises UsageError."""
    inside = {p for block in blocks(model) for p in block.parameters() if p.ndim == 2 and p.requires_grad}
    matrices = inside - embedding_tables(model)
    if not matrices:
        raise UsageError(
            f"--optimizer muon: {type(lora.plain(model)).__name__} has no matrix in a transformer block to train; use adamw"
        )
    return matrices


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[Group]:
    """The parameters with weight decay and those without, in the model's order; the head's last if its rate is its own.

    With ``--layer-decay`` there are such groups for each depth, the top first; with Muon, for each of its two halves.
    """
    decay = decay_names(model)
    head: set[nn.Parameter] = set() if config.head_learning_rate is None else head_of(model)
    depth = {} if config.layer_decay is None else depths(model)
    matrices = matrices_of(model) if config.optimizer == "muon" else set()
    found: dict[tuple[bool, int, bool, bool], Group] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        key = (parameter in head, depth.get(parameter, 0), parameter in matrices, name not in decay)
        rate = (config.head_learning_rate if parameter in head else None) or config.learning_rate
        rate = rate if config.layer_decay is None else rate * config.layer_decay ** depth[parameter]
        group: Group = {"params": [], "lr": rate, "weight_decay": config.weight_decay if name in decay else 0.0}
        kind = {"kind": "muon" if parameter in matrices else "adamw"} if config.optimizer == "muon" else {}
        found.setdefault(key, group | kind)["params"].append(parameter)
    return [found[key] for key in sorted(found)]


@dataclass(frozen=True)
class OptimizerEntry:
    """An entry of the table. ``describe`` says its settings, for people; ``state_bytes`` counts what it holds in float32.

    How an update is skipped: an optimizer that obeys ``found_inf`` (torch's mark for that is ``_step_supports_amp_scaling``)
    does it on the device; for any other one the guard reads one number from the device in each step.
    """

    title: str
    make: Callable[[list[Group], TrainConfig], torch.optim.Optimizer]
    state_bytes: Callable[[Sequence[Group], TrainConfig], int]
    describe: Callable[[Mapping[str, Any]], str]


def make_adamw(groups: list[Group], config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, in the fused kernel that CPU, CUDA and MPS have."""
    betas = (config.adam_beta1, config.adam_beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.adam_eps, fused=True)


def make_sgd(groups: list[Group], config: TrainConfig, *, fused: bool | None = None) -> torch.optim.Optimizer:
    """SGD, fused on CUDA, where that skips an update on the device; there is no such kernel for shards.

    On a CPU, where reading costs nothing, it is the plain one, which is Trainer's bit by bit: the fused one rounds otherwise.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    if fused is None:
        fused = all(parameter.is_cuda and not hasattr(parameter, "full_tensor") for parameter in parameters)
    momentum = config.momentum or 0.0
    optimizer = torch.optim.SGD(groups, lr=config.learning_rate, momentum=momentum, fused=fused or None)
    if fused and momentum:  # the kernel would take over memory as it finds it, if the very first update is skipped
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def make_adafactor(groups: list[Group], config: TrainConfig) -> torch.optim.Optimizer:
    """Adafactor of torch.optim; transformers' is another algorithm. It reads two numbers of each tensor from the device."""
    return torch.optim.Adafactor(groups, lr=config.learning_rate)


def make_muon(groups: list[Group], config: TrainConfig) -> torch.optim.Optimizer:
    betas = (config.adam_beta1, config.adam_beta2)
    momentum = MUON_MOMENTUM if config.momentum is None else config.momentum
    return MuonWithAdamW(groups, lr=config.learning_rate, momentum=momentum, betas=betas, eps=config.adam_eps)


def num_averages(groups: Sequence[Group]) -> int:
    """What Adafactor holds: of a matrix a number for each row and each column, of a vector one for each element."""
    shapes = [parameter.shape for group in groups for parameter in group["params"]]
    rows_and_columns = (math.prod(s[:-1]) + math.prod(s[:-2]) * s[-1] if len(s) > 1 else math.prod(s) for s in shapes)
    return sum(rows_and_columns)


def size_of(groups: Sequence[Group], kind: str | None = None) -> int:
    """Elements of the parameters, of one kind of group or of all."""
    return sum(p.numel() for group in groups if kind in (None, group.get("kind")) for p in group["params"])


def text_of_adamw(settings: Mapping[str, Any]) -> str:
    betas = f"{settings.get('adam_beta1', 0.9):g} and {settings.get('adam_beta2', 0.999):g}"
    return f"AdamW (betas {betas}, epsilon {settings.get('adam_eps', 1e-8):g})".replace("e-0", "e-")


def text_of_muon(settings: Mapping[str, Any]) -> str:
    momentum = settings["momentum"] if settings.get("momentum") is not None else MUON_MOMENTUM
    return f"Muon (momentum {momentum:g}) for the matrices of the transformer blocks, {text_of_adamw(settings)} for all else"


MUON_MOMENTUM = 0.95  # torch's default
OPTIMIZERS: dict[str, OptimizerEntry] = {
    "adamw": OptimizerEntry("AdamW", make_adamw, lambda groups, _: 8 * size_of(groups), text_of_adamw),
    "sgd": OptimizerEntry(
        "SGD",
        make_sgd,
        lambda groups, config: 4 * size_of(groups) if config.momentum else 0,
        lambda settings: f"SGD (momentum {settings.get('momentum') or 0:g}; weight decay is added to the gradient)",
    ),
    "adafactor": OptimizerEntry(
        "Adafactor",
        make_adafactor,
        lambda groups, _: 4 * num_averages(groups),
        lambda settings: "Adafactor (that of torch.optim, with its defaults)",
    ),
    "muon": OptimizerEntry(
        "Muon and AdamW",
        make_muon,
        lambda groups, _: 4 * size_of(groups, "muon") + 8 * size_of(groups, "adamw"),
        text_of_muon,
    ),
}


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The entry of ``--optimizer``, for the groups of the trained parameters; the schedule scales the rates of all alike."""
    return OPTIMIZERS[config.optimizer].make(parameter_groups(model, config), config)


def describe_optimizer(settings: Mapping[str, Any]) -> str:
    """The optimizer in words, for the card and ``--explain``; a setting that an older run has not is the default."""
    layers = settings.get("layer_decay")
    return OPTIMIZERS[settings.get("optimizer", "adamw")].describe(settings) + (
        f", the learning rate of each block {layers:g} times that of the one above it" if layers is not None else ""
    )


def state_bytes(model: nn.Module, config: TrainConfig) -> dict[str, int]:
    """What the optimizer, and the average of the weights, hold beside weights and gradients; of a sharded model, in all."""
    entry, groups = OPTIMIZERS[config.optimizer], parameter_groups(model, config)
    average = {} if config.ema_decay is None else {"average": 4 * size_of(groups)}
    return {entry.title: entry.state_bytes(groups, config)} | average


class SkipGuard:
    """Skips an update: weights, the optimizer's state and its step count stay bitwise as they were.

    What obeys ``found_inf`` leaves everything unchanged when that is 1 (it is how GradScaler skips a step after an
    overflow), and nothing is read from the device. The guard adds to it, in a hook before each step: no items in the whole
    step (a zero gradient would still decay the weights), and, outside fp16, a gradient norm that is not finite. The latter
    sticks: no later update happens either, so the weights stay those before the first bad step until the host sees it and
    stops the run. For other optimizers, and on MPS, whose kernels ignore ``found_inf``, the host reads the decision and
    takes the gradients away: without them a step does nothing.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, *, sticky: bool):
        self.diverged = torch.zeros((), dtype=torch.bool, device=device)
        self.skip = torch.zeros((), device=device)
        self.skipped = self.skip  # of the step that is being made, or was made last: with fp16's overflow
        self.sticky = sticky
        self.optimizer = optimizer
        self.by_host = device.type == "mps" or not getattr(optimizer, "_step_supports_amp_scaling", False)
        optimizer.register_step_pre_hook(self._merge)

    def check(self, grad_norm: Tensor, num_items: Tensor) -> None:
        """Decide for the coming step. ``grad_norm``: () before clipping, ``num_items``: () of the whole step."""
        if self.sticky:
            self.diverged = self.diverged | (grad_norm * 0 != 0)  # half the kernels of isfinite: what is not finite gives NaN
        self.skip = (self.diverged | (num_items == 0)).float()
        if self.by_host and bool(self.skip):
            self.optimizer.zero_grad(set_to_none=True)

    def _merge(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        overflow = getattr(optimizer, "found_inf", None) if hasattr(optimizer, "grad_scale") else None
        self.skipped = self.skip if overflow is None else torch.maximum(overflow, self.skip)
        if not self.by_host:
            optimizer.found_inf = self.skipped  # type: ignore[attr-defined]

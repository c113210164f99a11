"""Models with random weights in the sizes of known ones, and rows of random tokens for them: no text is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.contest.workload import TokenTask, Workload, random_workload
from engine.build import Setup, build
from engine.config import TrainConfig
from engine.data.batch import Batch

VOCABULARY = 8000
HEADS, LAYERS = 4, 3
WIDTH, LONGEST = {"cuda": 256, "cpu": 64}, {"cuda": 400, "cpu": 40}  # a CPU does the same in small, to try the programme


def without_dropout(config: Any) -> Any:
    """The configuration with every dropout at 0, in place."""
    for name, value in config.to_dict().items():
        if ("drop" in name or "pdrop" in name) and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def configurations(device: torch.device) -> dict[str, tuple[str, Any]]:
    """Of small models, each with what is special about it; by name, the level of its head and its configuration."""
    from transformers import BertConfig, DistilBertConfig, GPT2Config, LlamaConfig, ModernBertConfig

    width = WIDTH[device.type]
    small = {"hidden_size": width, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 2 * width}
    ids: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0}
    special: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2}
    return {
        "DistilBert": ("sequence", DistilBertConfig(dim=width, n_layers=LAYERS, n_heads=HEADS, hidden_dim=2 * width, **ids)),
        "Bert": ("sequence", BertConfig(**small, **ids)),
        "GPT2": ("token", GPT2Config(n_embd=width, n_layer=LAYERS, n_head=HEADS, **ids, **special)),
        "Llama": ("token", LlamaConfig(num_key_value_heads=2, **small, **ids, **special)),
        "ModernBert": ("sequence", ModernBertConfig(local_attention=64, cls_token_id=1, sep_token_id=2,
                                                    **small, **ids, **special)),
    }  # fmt: skip


def make_model(level: str, config: Any, *, dropout: bool = False, seed: int = 0) -> Any:
    """With a head for two classes, or for the next token."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if level == "sequence" else AutoModelForCausalLM
    torch.manual_seed(seed)
    return kind.from_config(config if dropout else without_dropout(config))


def rows(number: int, device: torch.device, shortest: float = 0.05, seed: int = 0) -> Workload:
    """Of random lengths; the shortest is so much of the longest."""
    longest = LONGEST[device.type]
    return random_workload(number, int(shortest * longest), longest, vocabulary=VOCABULARY, seed=seed)


def setup(model: nn.Module, workload: Workload, device: torch.device, **settings: Any) -> tuple[Setup, TokenTask]:
    """A run of classes put together as run.py does it."""
    chosen: dict[str, Any] = {"device": str(device), "batch_size": 16, "max_steps": 30, "learning_rate": 1e-4} | settings
    task = TokenTask(workload, 512)
    return build(task, task.examples()["train"], TrainConfig(**chosen), model), task


def steps(made: Setup, number: int) -> list[list[Batch]]:
    """The micro-batches of the first steps."""
    found = []
    for _, micro_batches in made.data.steps(made.state.step):
        found.append(micro_batches)
        if len(found) == number:
            break
    return found


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest ||a - b|| / ||b|| over tensors of the same names; a NaN is infinitely far."""
    pairs = [(a[name].detach().double(), b[name].detach().double()) for name in b]
    gaps = [float((x - y).norm() / y.norm().clamp(min=1e-12)) for x, y in pairs]
    return max(np.inf if np.isnan(gap) else gap for gap in gaps)


Check = Callable[[torch.device], dict[str, Any]]

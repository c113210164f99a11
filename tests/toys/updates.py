"""Single updates with each optimizer of the table, and all the bytes that they may change."""

from __future__ import annotations

import dataclasses

import torch

from bench.toys import tiny
from engine.build import build
from engine.config import TrainConfig
from engine.distributed.world import World
from engine.loop import train_step

WORLD = World(torch.device("cpu"))
CONFIG = TrainConfig(
    learning_rate=1e-3, weight_decay=0.1, batch_size=8, epochs=1, device="cpu", schedule="constant", batching="padded",
    precision="fp32",
)  # fmt: skip
KINDS = {
    "adamw": {},
    "sgd": {"optimizer": "sgd"},
    "sgd, momentum": {"optimizer": "sgd", "momentum": 0.9},
    "adafactor": {"optimizer": "adafactor"},
    "muon": {"optimizer": "muon"},
    "average": {"ema_decay": 0.9},
    "muon, layers, average": {"optimizer": "muon", "ema_decay": 0.9, "layer_decay": 0.5, "head_learning_rate": 1e-2},
}


def started(kind: str, *, scaled: bool = False, done: int = 2):
    """A state after some steps, and the micro-batches that follow."""
    config = dataclasses.replace(CONFIG, **KINDS[kind])
    setup = build(tiny.TokenTask(), tiny.token_rows(64), config, tiny.bert(dropout=0.0))
    state = setup.state
    if scaled:
        state.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=1024.0)
        state.guard.sticky = False  # as build() does for fp16
    batches = [micro_batches for _, micro_batches in setup.data.steps()]
    for micro_batches in batches[:done]:
        step(state, micro_batches)
    return state, batches[done:]


def step(state, micro_batches):
    return train_step(state, tiny.TokenTask(), micro_batches, CONFIG, WORLD)


def without_items(micro_batches):
    """The same texts, all labels -100."""
    return [
        dataclasses.replace(batch, targets={"labels": torch.full_like(batch.targets["labels"], -100)}, num_items=0)
        for batch in micro_batches
    ]


def held(state) -> dict[str, bytes]:
    """The bytes of all weights, of everything that the optimizer keeps, and of the average; -0 is not 0 here."""
    found = {f"average {name}": value for name, value in state.average.tensors.items()}
    for name, parameter in state.model.named_parameters():
        found[name] = parameter.detach()
        found |= {f"{name}//{key}": value for key, value in state.optimizer.state.get(parameter, {}).items()}
    return {name: value.numpy().tobytes() for name, value in found.items()}


def spoil(model, value: float):
    """From now on one gradient holds this value."""
    return model.classifier.weight.register_hook(lambda gradient: torch.full_like(gradient, value))

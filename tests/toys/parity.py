"""The same rows through transformers.Trainer and through the loop, step by step; why the two agree: test_parity.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments

from bench.toys import tiny
from engine.build import build
from engine.config import TrainConfig
from engine.loop import train_step

SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "weight_decay": 0.1, "seed": 7, "max_grad_norm": 0.5, "warmup_ratio": 0.1}


class TrainerRows(torch.utils.data.Dataset):
    """The same rows as Trainer wants them."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        row = self.rows[i]
        return {"input_ids": row["input_ids"].tolist(), "label": int(row["labels"])}


class Watch(TrainerCallback):
    """Learning rates as the optimizer uses them, and how often the global generator was drawn from between epochs."""

    def __init__(self):
        self.learning_rates = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        self.learning_rates.append([group["lr"] for group in optimizer.param_groups])


def run_trainer(model, rows, folder: Path, *, batch_size=8, accumulation=1, epochs=2, compute_loss=None, settings=SETTINGS,
                optimizer=None, **more):  # fmt: skip
    """Trainer's log (one line a step) and the learning rates used. ``more``: other TrainingArguments."""
    watch = Watch()
    arguments = TrainingArguments(
        str(folder), num_train_epochs=epochs, per_device_train_batch_size=batch_size, use_cpu=True,
        gradient_accumulation_steps=accumulation, learning_rate=settings["learning_rate"], seed=settings["seed"],
        weight_decay=settings["weight_decay"], max_grad_norm=settings["max_grad_norm"],
        logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
        **{"warmup_steps": settings["warmup_ratio"], **more},
    )  # fmt: skip
    trainer = Trainer(
        model, arguments, train_dataset=TrainerRows(rows), processing_class=tiny.tokenizer(),
        compute_loss_func=compute_loss, callbacks=[watch], optimizers=(optimizer, None),
    )  # fmt: skip
    trainer.train()
    return [line for line in trainer.state.log_history if "grad_norm" in line], watch.learning_rates


def run_ours(model, rows, *, batch_size=8, accumulation=1, epochs=2, settings=SETTINGS, **more):
    """Our losses, gradient norms and learning rates, step by step."""
    config = TrainConfig(
        batch_size=batch_size, accumulation_steps=accumulation, epochs=epochs, device="cpu", precision="fp32", batching="padded",
        **{**settings, **more},
    )  # fmt: skip
    setup = build(tiny.TokenTask(), rows, config, model)
    setup.state.model.train()
    lines, at_epoch = [], None
    for at, micro_batches in setup.data.steps():
        if at.epoch != at_epoch:
            torch.empty((), dtype=torch.int64).random_()  # Trainer's loader draws its base seed here
            at_epoch = at.epoch
        record = train_step(setup.state, tiny.TokenTask(), micro_batches, config, setup.world)
        lines.append((float(record.loss_sum / record.num_items), float(record.grad_norm), record.learning_rate))
    return lines


def summed(outputs, labels, num_items_in_batch=None):
    """For Trainer's compute_loss_func: the loss that a sum over items, divided once, comes to."""
    return F.cross_entropy(outputs.logits.float(), labels, reduction="sum") / num_items_in_batch


def assert_parameters_equal(ours, theirs):
    """Bit for bit; the message names the first that differs and by how much."""
    for (name, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(mine, other), f"{name} differs by {(mine - other).abs().max():.1e}"

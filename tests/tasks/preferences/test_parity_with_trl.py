"""Losses of TRL's RewardTrainer and DPOTrainer, step by step, dropout off. TRL is no extra: pip install trl, then -m slow."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from engine.build import build
from engine.config import TrainConfig
from engine.loop import train_step
from tasks.samples.preferences import preferences
from tests.toys.preferring import as_texts, make_task, model, tokenizer

CHOSEN = {"learning_rate": 1e-3, "weight_decay": 0.1, "seed": 7, "max_grad_norm": 0.5, "max_steps": 30}
THEIRS = {"per_device_train_batch_size": 8, "use_cpu": True, "logging_steps": 1, "save_strategy": "no", "report_to": [],
          "disable_tqdm": True, "max_length": 64, "bf16": False, "gradient_checkpointing": False, "pad_to_multiple_of": None,
          "lr_scheduler_type": "linear"}  # fmt: skip


def rows_as(form: str, number: int) -> list[dict[str, Any]]:
    rows = preferences(number, 3)
    return as_texts(rows) if form == "texts" else rows


def ours(kind: str, rows: list[dict[str, Any]], net: Any, **options: Any) -> tuple[list[float], Any]:
    """Losses; and the rows in the order in which they were learned."""
    task = make_task(kind, tables={"train": rows}, prompt_column="prompt" if "prompt" in rows[0] else "none", **options)
    config = TrainConfig(batch_size=8, device="cpu", precision="fp32", batching="padded", **CHOSEN)
    setup = build(task, task.examples()["train"], config, net)
    order = [row for _, batches in setup.data.steps() for batch in batches for _, row in batch.keys]
    setup.state.model.train()
    records = [train_step(setup.state, task, batches, config, setup.world) for _, batches in setup.data.steps()]
    return [float(record.loss_sum / record.num_items) for record in records], order


def in_order(trainer: type[Any]) -> type[Any]:
    """A trainer that takes the rows as they come."""

    class InOrder(trainer):
        def _get_train_sampler(self, *arguments):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    return InOrder


def losses_of(trainer: Any) -> list[float]:
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "grad_norm" in line]


def compare(found: list[float], theirs: list[float], nets: Any) -> None:
    assert len(found) == len(theirs) == 30
    gap = max((a - b).abs().max().item() for a, b in zip(*(net.parameters() for net in nets), strict=True))
    worst = max(abs(a / b - 1) for a, b in zip(found, theirs, strict=True))
    print(f"first losses {found[0]:.9f} {theirs[0]:.9f}; worst of 30 steps {worst:.1e} relative; weights within {gap:.1e}")
    assert found[0] == pytest.approx(theirs[0], rel=1e-6)
    np.testing.assert_allclose(found, theirs, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["texts", "chats"])
def test_reward_trainers_losses(tmp_path, form):
    trl = pytest.importorskip("trl")
    rows, net = rows_as(form, 120), model("reward")
    theirs = copy.deepcopy(net)
    found, order = ours("reward", rows, net)
    arguments = trl.RewardConfig(str(tmp_path), **THEIRS, **CHOSEN)
    table = Dataset.from_list([rows[row] for row in order])
    trainer = in_order(trl.RewardTrainer)(theirs, arguments, train_dataset=table, processing_class=tokenizer())
    compare(found, losses_of(trainer), (net, theirs))


@pytest.mark.slow
@pytest.mark.parametrize(("form", "smoothing"), [("texts", 0.0), ("chats", 0.0), ("chats", 0.1)])
def test_dpo_trainers_losses(tmp_path, form, smoothing):
    trl = pytest.importorskip("trl")
    rows, net = rows_as(form, 120), model()
    theirs = copy.deepcopy(net)
    found, order = ours("dpo", rows, net, beta=0.3, label_smoothing=smoothing)
    more = {"loss_type": ["robust"], "label_smoothing": smoothing} if smoothing else {}
    arguments = trl.DPOConfig(str(tmp_path), beta=0.3, **more, **THEIRS, **CHOSEN)
    table = Dataset.from_list([rows[row] for row in order])
    trainer = in_order(trl.DPOTrainer)(
        theirs, ref_model=model(), args=arguments, train_dataset=table, processing_class=tokenizer()
    )
    compare(found, losses_of(trainer), (net, theirs))

"""Losses and weights of TRL's RewardTrainer and DPOTrainer, step by step, dropout off. TRL is no extra: pip install trl, then
-m slow. Measured with TRL 1.16."""

from __future__ import annotations

import copy
import types
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F

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


def gap_of(nets: Any) -> tuple[float, float]:
    """The largest difference of a parameter, and of a bias of the keys. Such a bias adds the same to all scores of a query, which
    no softmax sees: its gradient is the rounding of what is 0, of which AdamW makes steps."""
    gaps, of_keys = [0.0], [0.0]
    for (name, one), (_, other) in zip(*(net.named_parameters() for net in nets), strict=True):
        difference = (one - other).detach().abs()
        if name.endswith("c_attn.bias"):  # of queries, keys and values, end to end
            queries, keys, values = difference.chunk(3)
            of_keys.append(keys.max().item())
            difference = torch.cat([queries, values])
        gaps.append(difference.max().item())
    return max(gaps), max(of_keys)


def compare(found: list[float], theirs: list[float], nets: Any, within: float) -> None:
    """``within``: what every parameter must be equal to, the keys' biases aside, which must be within 1e-5."""
    assert len(found) == len(theirs) == 30
    gap, of_keys = gap_of(nets)
    worst = max(abs(a / b - 1) for a, b in zip(found, theirs, strict=True))
    print(
        f"first losses {found[0]:.9f} {theirs[0]:.9f}; worst of 30 steps {worst:.1e} relative; weights within {gap:.1e}, biases "
        f"of the keys within {of_keys:.1e}"
    )
    assert found[0] == pytest.approx(theirs[0], rel=1e-6)
    np.testing.assert_allclose(found, theirs, rtol=1e-6)
    assert gap <= within and of_keys <= (1e-5 if within else 0)


def with_torchs_log_probabilities(net: Any) -> None:
    """In place of those of TRL's fused head, which adds up each row in tiles: torch's cross-entropy, of the same logits."""

    def forward(self: Any, input_ids: Any, attention_mask: Any, labels: Any, fused_lm_head: bool, use_cache: bool) -> Any:
        assert fused_lm_head
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache).last_hidden_state
        following = labels[:, 1:]
        mask = following != -100
        logits = self.lm_head(hidden[:, :-1][mask])
        found = torch.zeros(following.shape)
        found[mask] = -F.cross_entropy(logits, following[mask], reduction="none")
        nothing = torch.zeros(following.shape)
        return types.SimpleNamespace(log_probs=found, label_mask=mask, entropy=nothing, mean_logits=nothing, is_top1=mask)

    net.forward = types.MethodType(forward, net)


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
    compare(found, losses_of(trainer), (net, theirs), within=0)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "smoothing"), [("texts", 0.0), ("chats", 0.0), ("chats", 0.1)])
@pytest.mark.parametrize(("log_probabilities", "within"), [("TRL's", 1e-5), ("torch's", 1e-6)])
def test_dpo_trainers_losses_and_weights(tmp_path, form, smoothing, log_probabilities, within):
    """All weights are within 1e-6 where TRL takes the logarithms of its probabilities from torch, too; with its own kernel a few
    are not, as AdamW divides small gradients by their size."""
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
    if log_probabilities == "torch's":
        for each in (trainer.model, trainer.ref_model):
            with_torchs_log_probabilities(each)
    compare(found, losses_of(trainer), (net, theirs), within)

"""The same examples give the same gradient however they are cut into micro-batches, for every kind of loss.

float32 on the CPU; cutting changes the order of sums, so gradients agree to rounding: 2e-6 of their norm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench.toys import tiny
from engine.build import build
from engine.config import TrainConfig
from engine.data.sources import Source
from engine.data.tokens import TokenDataset
from engine.loop import forward_backward, train_step
from tasks.classification.labels import Labels
from tasks.classification.task import Classification, ClassificationOptions

KINDS = {
    "single_label": {},
    "smoothed": {"label_smoothing": 0.1},
    "weighted": {"class_weights": "0.5,1,3"},
    "multi_label": {"problem": "multi_label"},
    "multi_label, weighted": {"problem": "multi_label", "class_weights": "0.5,1,3"},
    "regression": {"problem": "regression"},
}


def make_task(kind: str) -> Classification:
    task = Classification(ClassificationOptions(**KINDS[kind]), Source())
    task._tokenizer = tiny.tokenizer()
    names = ("value",) if kind == "regression" else ("a", "b", "c")
    task.labels = Labels(names, np.ones(len(names)))
    return task


def make_rows(kind: str, num_rows: int = 12, ignore: int = 0) -> TokenDataset:
    rows = tiny.token_rows(num_rows)
    generator = np.random.default_rng(3)
    if kind.startswith("multi_label"):
        rows.columns["labels"] = generator.integers(0, 2, (num_rows, 3)).astype(np.float32)
    elif kind == "regression":
        rows.columns["labels"] = generator.normal(size=num_rows).astype(np.float32)
    else:
        rows.columns["labels"][:ignore] = -100
    return rows


def gradients(
    kind: str, cuts: list[list[int]], ignore: int = 0, batching: str = "padded"
) -> tuple[dict[str, torch.Tensor], float]:
    """Of one step over the given micro-batches of rows, and the step's mean loss."""
    task, rows = make_task(kind), make_rows(kind, ignore=ignore)
    model = tiny.bert(num_labels=1 if kind == "regression" else 3, dropout=0.0)
    setup = build(task, rows, TrainConfig(device="cpu", batching=batching, precision="fp32"), model)
    assert setup.layout.kind == batching
    batches = [task.collate([rows[i] for i in cut], setup.layout) for cut in cuts]
    num_items = torch.tensor(float(sum(batch.num_items for batch in batches)))
    loss = sum(float(forward_backward(setup.state, task, batch, num_items)) for batch in batches) / float(num_items)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, loss


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    scale = torch.stack([g.norm() for g in one.values()]).norm()
    for name, gradient in one.items():
        difference = (gradient - other[name]).norm() / scale
        assert difference < 2e-6, f"{name}: {difference:.1e}"


CUTS = {
    "2 of 6": [list(range(6)), list(range(6, 12))],
    "4 of 3": [list(range(i, i + 3)) for i in range(0, 12, 3)],
    "ragged": [[0, 1, 2, 3, 4], [5], [6, 7], [8, 9, 10, 11]],
    "other order": [[11, 2, 5, 0], [1, 3, 10, 4], [9, 6, 8, 7]],
}


@pytest.mark.parametrize("batching", ["padded", "packed"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", CUTS)
def test_gradients_do_not_depend_on_the_cut(kind, cut, batching):
    whole, loss = gradients(kind, [list(range(12))])
    parts, loss_of_parts = gradients(kind, CUTS[cut], batching=batching)
    assert_close(whole, parts)
    assert loss == pytest.approx(loss_of_parts, rel=1e-6)


def test_rows_without_a_target_do_not_count():
    """-100 is not an item: cuts that put all such rows into one micro-batch change nothing."""
    whole, _ = gradients("single_label", [list(range(12))], ignore=4)
    parts, _ = gradients("single_label", [[0, 1, 2, 3], list(range(4, 12))], ignore=4)
    assert_close(whole, parts)


def test_a_mean_of_means_would_be_noticed():
    """The usual recipe (each micro-batch's mean, divided by their number) differs on a ragged cut: the test can fail."""
    whole, _ = gradients("single_label", [list(range(12))])
    cuts = CUTS["ragged"]
    means = [gradients("single_label", [cut])[0] for cut in cuts]
    recipe = {name: sum(m[name] for m in means) / len(cuts) for name in whole}
    with pytest.raises(AssertionError):
        assert_close(whole, recipe)


@pytest.mark.parametrize("batching", ["padded", "packed"])
@pytest.mark.parametrize("accumulation", [2, 4])
def test_training_with_accumulation_equals_training_without(accumulation, batching):
    """Whole steps through the plan: 16 examples as 1, 2 or 4 micro-batches; the last step of an epoch is short."""

    def losses(batch_size: int, accumulation_steps: int) -> list[float]:
        config = TrainConfig(
            batch_size=batch_size, accumulation_steps=accumulation_steps, epochs=2, learning_rate=2e-5, device="cpu",
            batching=batching, precision="fp32",
        )  # fmt: skip
        rows = tiny.token_rows(42)  # 16 + 16 + 10
        setup = build(tiny.TokenTask(), rows, config, tiny.bert(dropout=0.0))
        setup.state.model.train()
        records: list[Any] = [
            train_step(setup.state, tiny.TokenTask(), batches, config, setup.world) for _, batches in setup.data.steps()
        ]
        return [float(r.loss_sum / r.num_items) for r in records] + [float(r.grad_norm) for r in records]

    assert losses(16 // accumulation, accumulation) == pytest.approx(losses(16, 1), rel=1e-5)


def test_a_step_without_items_changes_nothing():
    """All targets -100: no division by zero, no decay, no Adam step; the run goes on."""
    rows = tiny.token_rows(8)
    rows.columns["labels"][:] = -100
    config = TrainConfig(batch_size=4, epochs=1, weight_decay=0.5, device="cpu")
    setup = build(tiny.TokenTask(), rows, config, tiny.bert())
    before = {name: p.clone() for name, p in setup.state.model.named_parameters()}
    for _, batches in setup.data.steps():
        record = train_step(setup.state, tiny.TokenTask(), batches, config, setup.world)
        assert float(record.loss_sum) == 0.0 and float(record.num_items) == 0.0
    assert all(torch.equal(before[name], p) for name, p in setup.state.model.named_parameters())
    assert all(not state["exp_avg"].any() for state in setup.state.optimizer.state.values())

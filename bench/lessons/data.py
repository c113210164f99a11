"""What becomes of the rows before the model sees them: joined end to end, sorted by length, and stripped of columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, DataCollatorWithFlattening, Trainer

from bench.contest.pictures import COLOURS
from bench.contest.workload import Workload, random_workload
from bench.lessons import toys
from bench.lessons.gradients import Gradients, gradient_of
from bench.lessons.lesson import Finding, Lesson
from engine.data.batch import Batch
from engine.data.collate import Layout, arrange, per_token
from engine.data.tokens import TokenDataset, Tokens

# ------------------------------------------------------------------------------------------------------------ packing


def masked_lm() -> BertForMaskedLM:
    """An encoder with an answer for each token; its attention looks both ways."""
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(**toys.SIZE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


class PerToken(toys.Classes):
    """An answer for each token: the one behind it in its row, or, of an encoder, the token itself."""

    level = "token"

    def __init__(self, workload: Workload, *, is_shifted: bool):
        super().__init__(workload)
        self.is_shifted = is_shifted

    def collate(self, rows: Sequence[dict[str, Any]], layout: Layout) -> Batch:
        inputs, counts = arrange(rows, layout, self.padding)
        tokens = [row["input_ids"][1:] for row in rows]  # the first one of a row is no target
        labels = per_token([np.append(t, -100) if self.is_shifted else np.insert(t, 0, -100) for t in tokens], layout, -100)
        return Batch(inputs=inputs, targets={"labels": labels}, num_items=int((labels != -100).sum()), **counts)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return cross_entropy(outputs.logits, batch.targets["labels"])


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum", ignore_index=-100)


def joined(rows: toys.Rows) -> dict[str, Tensor]:
    """The usual way to fill a block: all rows in one, end to end; the first token of each is no target."""
    ids = [token for row in rows for token in row["input_ids"]]
    labels = [token if i else -100 for row in rows for i, token in enumerate(row["input_ids"])]
    return {"input_ids": torch.tensor([ids]), "labels": torch.tensor([labels])}


def joined_gradient(model: nn.Module, rows: toys.Rows, folder: str, collate: Any) -> Tensor:
    """Of one step of Trainer over all rows, not clipped."""
    watch = Gradients()
    toys.make_trainer(
        model, rows, folder, collate=collate, callbacks=[watch], per_device_train_batch_size=len(rows), max_grad_norm=0.0,
        num_train_epochs=1,
    ).train()  # fmt: skip
    return watch.seen[0]


def packed_gradient(model: nn.Module, workload: Workload, *, is_shifted: bool) -> Tensor:
    """The same step of ours."""
    setup, task = toys.set_up(
        model, workload, task=PerToken(workload, is_shifted=is_shifted), batch_size=len(workload.labels), batching="packed",
        max_grad_norm=float("inf"),
    )  # fmt: skip
    seen: list[Tensor] = []
    setup.state.optimizer.register_step_pre_hook(lambda *_: seen.append(gradient_of(model)))
    list(toys.our_steps(setup, task))
    return seen[0]


def row_by_row(model: nn.Module, rows: toys.Rows, *, is_shifted: bool) -> Tensor:
    """Each row by itself: the gradient that all others should have."""
    answers = [row["input_ids"][1:] for row in rows]
    for row, answer in zip(rows, answers, strict=True):
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits
        logits = logits[:, :-1] if is_shifted else logits[:, 1:]
        (cross_entropy(logits, torch.tensor([answer])) / sum(map(len, answers))).backward()
    return gradient_of(model)


def packing(folder: str) -> Finding:
    workload = random_workload(6, 4, 12)
    rows = [row | {"labels": row["input_ids"]} for row in toys.features(workload)]
    flatten = DataCollatorWithFlattening()
    models = {"Llama, a decoder": (toys.llama, True), "BERT, an encoder": (masked_lm, False)}
    gaps: dict[str, list[float]] = {"joined in one row": [], "DataCollatorWithFlattening": [], "Plainloop, packed": []}
    for make, is_shifted in models.values():
        exact = row_by_row(make(), rows, is_shifted=is_shifted)
        found = (
            joined_gradient(make(), rows, folder, joined), joined_gradient(make(), rows, folder, flatten),
            packed_gradient(make(), workload, is_shifted=is_shifted),
        )  # fmt: skip
        for name, gradient in zip(gaps, found, strict=True):
            gaps[name].append(float((gradient - exact).norm() / exact.norm()))
    (joined_off, _), (kept_apart, not_apart), ours = gaps.values()

    def draw(axes: Any) -> None:
        shown = {name: [100 * gap for gap in values] for name, values in gaps.items()}
        toys.grouped_bars(axes, list(models), shown, [COLOURS[i] for i in (1, 3, 0)], "{:.0f} %")
        axes.set_ylabel("distance from the gradient of the rows\none by one (% of its length)")

    return Finding(
        holds=joined_off > 0.1 and kept_apart < 1e-4 and not_apart > 0.1 and max(ours) < 1e-4,
        said=f"Rows put end to end see each other: the gradient is {joined_off:.0%} off; for BERT the collator does not help",
        table=toys.in_columns("distance from row by row", list(models), gaps, "{:.2%}"),
        draw=draw,
        note="DataCollatorWithFlattening hands positions over that restart; a decoder's mask is made from them, and "
        "an encoder's is not.",
    )


# ------------------------------------------------------------------------------------------------------------ columns


class Weighted(Trainer):  # type: ignore[misc,no-any-unimported]
    """The override that forums hand around for rows that should count differently."""

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        weights = inputs.pop("weight", None)
        labels = inputs.pop("labels")
        each = F.cross_entropy(model(**inputs).logits, labels, reduction="none")
        return each.mean() if weights is None else (weights * each).sum() / weights.sum()


class WeightedClasses(toys.Classes):
    """The same on our side: collate sees the whole row."""

    def collate(self, rows: Sequence[dict[str, Any]], layout: Layout) -> Batch:
        batch = super().collate(rows, layout)
        weights = torch.tensor([row["weight"] for row in rows], dtype=torch.float32)
        return Batch(**{**vars(batch), "targets": {**batch.targets, "weights": weights}, "num_items": int(weights.sum())})

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        each = F.cross_entropy(outputs.logits.float(), batch.targets["labels"], reduction="none")
        return (batch.targets["weights"] * each).sum()


def columns(folder: str) -> Finding:
    workload = random_workload(64, 4, 24)
    weights = np.arange(64) % 2  # every second row should not count
    rows = [row | {"weight": float(w)} for row, w in zip(toys.features(workload), weights, strict=True)]
    counted = toys.features(workload)[1::2]
    arguments: dict[str, Any] = {"num_train_epochs": 1, "per_device_train_batch_size": 64, "max_grad_norm": 0.0}
    found = {}
    for name, given, more in (
        ("Trainer, the weighted rows alone", counted, {}), ("Trainer", rows, {"kind": Weighted}),
        ("Trainer, remove_unused_columns=False", rows, {"kind": Weighted, "remove_unused_columns": False}),
    ):  # fmt: skip
        trainer = toys.make_trainer(toys.bert(), given, folder, **(arguments | more))
        trainer.train()
        found[name] = float(toys.steps_logged(trainer)[0]["loss"])
    task = WeightedClasses(workload)
    examples = TokenDataset(Tokens(workload.ids, workload.offsets, None, 0), {"labels": workload.labels, "weight": weights})
    setup, _ = toys.set_up(toys.bert(), workload, task=task, examples=examples, batch_size=64)
    [(_, _, record)] = toys.our_steps(setup, task)
    found["Plainloop"] = float(record.loss_sum / record.num_items)
    right, dropped, kept, ours = found.values()

    def draw(axes: Any) -> None:
        names = [name.replace(", ", ",\n") for name in found]
        axes.barh(range(len(names)), found.values(), color=[COLOURS[i] for i in (5, 3, 1, 0)])
        axes.axvline(right, color="#888888", linestyle="--")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        for i, value in enumerate(found.values()):
            axes.text(value, i, f" {value:.4f}", va="center")
        axes.margins(x=0.12)
        axes.set_xlabel("loss of the first step: 64 rows, every second one with weight 0 (nats)")

    return Finding(
        holds=abs(dropped - right) > 0.01 and abs(kept - right) < 1e-5 and abs(ours - right) < 1e-4,
        said=f"A column of weights never arrives: the loss is {dropped:.3f} in place of {right:.3f}, and nothing fails",
        table=[["64 rows, every second with weight 0", "loss of the first step"]]
        + [[name, f"{value:.4f}"] for name, value in found.items()],
        draw=draw,
    )


# ----------------------------------------------------------------------------------------------------------- grouping

MICRO, ACCUMULATED = 4, 4  # rows of a micro-batch, micro-batches of a step


def lengths_of_steps(batches: Sequence[Sequence[int]]) -> list[float]:
    """The mean length of each step's rows, from the lengths in each micro-batch."""
    steps = [batches[i : i + ACCUMULATED] for i in range(0, len(batches), ACCUMULATED)]
    return [float(np.mean(np.concatenate(step))) for step in steps]


def in_trainers_order(rows: toys.Rows, folder: str, **arguments: Any) -> list[float]:
    trainer = toys.make_trainer(toys.bert(), rows, folder, per_device_train_batch_size=MICRO, **arguments)
    return lengths_of_steps([batch["attention_mask"].sum(1).tolist() for batch in trainer.get_train_dataloader()])


def grouping(folder: str) -> Finding:
    workload = random_workload(512, 4, 60)
    rows = toys.features(workload)
    setup, _ = toys.set_up(toys.bert(), workload, batch_size=MICRO, accumulation_steps=ACCUMULATED, batching="bucketed")
    series = {
        "random order": in_trainers_order(rows, folder),
        "Trainer, group_by_length": in_trainers_order(rows, folder, train_sampling_strategy="group_by_length"),
        "Plainloop, bucketed": lengths_of_steps([workload.lengths[batch].tolist() for batch in setup.data.plan.batches(0)]),
    }
    spread = {name: float(np.std(values)) for name, values in series.items()}
    falls = {name: float(np.mean(np.diff(values) < 0)) for name, values in series.items()}
    grouped, ours = (spread[name] for name in ("Trainer, group_by_length", "Plainloop, bucketed"))

    def draw(axes: Any) -> None:
        steps = range(1, len(series["random order"]) + 1)
        for (name, values), colour, mark, style in zip(series.items(), (5, 3, 0), ".os", (":", "-", "--"), strict=True):
            axes.plot(steps, values, color=COLOURS[colour], marker=mark, linestyle=style, linewidth=2, label=name)
        axes.set_xlabel(f"optimizer step ({ACCUMULATED} micro-batches of {MICRO} rows)")
        axes.set_ylabel("mean length of the step's rows (tokens)")
        axes.set_ylim(0, 78)
        axes.legend(frameon=False, ncols=3, loc="upper center")

    return Finding(
        holds=grouped > 1.5 * ours and falls["Trainer, group_by_length"] > 0.8,
        said=f"Grouped by length, steps are long or short: their mean length varies by {grouped:.0f} tokens, not {ours:.0f}",
        table=[["512 rows, 32 steps", "spread of the steps' mean length", "steps shorter than the one before"]]
        + [[name, f"{spread[name]:.1f} tokens", f"{falls[name]:.0%}"] for name in series],
        draw=draw,
    )


LESSONS = [
    Lesson(
        "packing", "rows put end to end see each other, unless the attention is told where each begins",
        ("engine/model/packing.py", "q, k, v, cu_seq_lens_q, max_length_q"),
        ("transformers/masking_utils.py", "packed_sequence_mask = find_packed_sequence_indices(position_ids)"), packing,
    ),
    Lesson(
        "columns", "columns that the model's forward does not name are dropped: the weights that your loss wanted",
        ("engine/task.py", "def collate(self, rows: Sequence[Row], layout: Layout)"),
        ("transformers/trainer.py", "return dataset.remove_columns(ignored_columns)"), columns,
    ),
    Lesson(
        "grouping", "grouped by length, the rows come longest first, and those of one length meet in one step",
        ("engine/data/plan.py", "shuffled = np.random.default_rng((self.seed, epoch)).permutation(len(batches))"),
        ("transformers/trainer_pt_utils.py", "sorted(megabatch, key=lambda i: lengths[i], reverse=True)"), grouping,
    ),
]  # fmt: skip

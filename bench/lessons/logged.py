"""What the arguments and the log say and mean: a warm-up below 1, smoothed labels, the loss that is logged."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertForSequenceClassification

from bench.contest.pictures import COLOURS
from bench.contest.workload import Workload, random_workload
from bench.lessons import toys
from bench.lessons.lesson import Finding, Lesson
from engine.data.batch import Batch

# ------------------------------------------------------------------------------------------------------------- warmup

NUM_STEPS, PEAK = 20, 1e-4


def warmup(folder: str) -> Finding:
    workload = random_workload(8 * NUM_STEPS, 4, 12)
    series: dict[str, list[float]] = {}
    for value in (0.9, 1.0):
        trainer = toys.make_trainer(
            toys.bert(), toys.features(workload), folder, num_train_epochs=1, warmup_steps=value, learning_rate=PEAK
        )
        trainer.train()
        series[f"Trainer, warmup_steps={value:g}"] = [line["learning_rate"] / PEAK for line in toys.steps_logged(trainer)]
    for flag, settings in (("--warmup-steps 1", {"warmup_steps": 1}), ("--warmup-ratio 0.9", {"warmup_ratio": 0.9})):
        setup, task = toys.set_up(toys.bert(), workload, batch_size=8, learning_rate=PEAK, **settings)
        series[f"Plainloop, {flag}"] = [float(record.learning_rate) / PEAK for _, _, record in toys.our_steps(setup, task)]
    peaks = {name: 1 + max(range(NUM_STEPS), key=rates.__getitem__) for name, rates in series.items()}
    below, one, _, _ = peaks.values()

    def draw(axes: Any) -> None:
        styles = ((3, "o", "-"), (1, "s", "-"), (0, "x", "--"), (2, "+", "--"))
        for (name, rates), (colour, mark, style) in zip(series.items(), styles, strict=True):
            axes.plot(range(1, NUM_STEPS + 1), rates, style, color=COLOURS[colour], marker=mark, linewidth=2, label=name)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("learning rate, of its peak")
        axes.set_xticks(range(2, NUM_STEPS + 1, 2))
        axes.set_ylim(-0.03, 1.35)
        axes.legend(frameon=False, ncols=2, loc="upper center")

    return Finding(
        holds=below == 1 + math.ceil(0.9 * NUM_STEPS) and one == 2,
        said=f"warmup_steps=0.9 warms up for {below - 1} of {NUM_STEPS} steps, and warmup_steps=1 for {one - 1}",
        table=[["", "step with the highest rate", "rate of step 5"]]
        + [[name, str(peaks[name]), f"{rates[4]:.3f}"] for name, rates in series.items()],
        draw=draw,
    )


# ---------------------------------------------------------------------------------------------------------- smoothing

WEIGHTS = torch.tensor([1.0, 9.0])  # of the classes: the second one is rare, and matters


class WeighsItsClasses(BertForSequenceClassification):  # type: ignore[misc,no-any-unimported]
    """A model with a loss of its own, as many have: each row weighs what its class does."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, labels: Any = None, **kwargs: Any) -> Any:
        outputs = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        if labels is not None:
            outputs["loss"] = F.cross_entropy(outputs.logits, labels, WEIGHTS)
        return outputs


class WeightedSmoothed(toys.Classes):
    """The same on our side: the loss is in the task, and smoothing is one argument of it."""

    smoothing = 0.0

    def collate(self, rows: Any, layout: Any) -> Batch:
        batch = super().collate(rows, layout)
        return Batch(**{**vars(batch), "num_items": int(WEIGHTS[batch.targets["labels"]].sum())})

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        labels = batch.targets["labels"]
        return F.cross_entropy(outputs.logits.float(), labels, WEIGHTS, reduction="sum", label_smoothing=self.smoothing)


def smoothing(folder: str) -> Finding:
    workload = random_workload(32, 4, 24)
    factors = (0.0, 0.001, 0.01, 0.1)
    theirs, ours = [], []
    for factor in factors:
        trainer = toys.make_trainer(
            WeighsItsClasses(toys.bert().config), toys.features(workload), folder, num_train_epochs=1,
            per_device_train_batch_size=32, label_smoothing_factor=factor,
        )  # fmt: skip
        trainer.model.load_state_dict(toys.bert().state_dict())
        trainer.train()
        theirs.append(float(toys.steps_logged(trainer)[0]["loss"]))
        task = WeightedSmoothed(workload)
        task.smoothing = factor
        setup, _ = toys.set_up(toys.bert(), workload, task=task, batch_size=32)
        [(_, _, record)] = toys.our_steps(setup, task)
        ours.append(float(record.loss_sum / record.num_items))
    jump = theirs[1] / theirs[0] - 1

    def draw(axes: Any) -> None:
        groups = [f"{factor:g}" for factor in factors]
        toys.grouped_bars(axes, groups, {"Trainer": theirs, "Plainloop": ours}, (COLOURS[3], COLOURS[0]), "{:.4f}")
        axes.set_xlabel("label_smoothing_factor, of a model whose own loss weighs its classes 1 : 9")
        axes.set_ylabel("loss of the first step (nats)")
        axes.margins(y=0.25)

    return Finding(
        holds=abs(theirs[0] - ours[0]) < 1e-4 and abs(jump) > 0.05 and abs(ours[1] / ours[0] - 1) < 0.01,
        said=f"A thousandth of smoothing moves the loss by {jump:.0%}: the model's own loss is no longer called",
        table=toys.in_columns("label_smoothing_factor", factors, {"Trainer": theirs, "Plainloop": ours}, "{:.4f}"),
        draw=draw,
    )


# -------------------------------------------------------------------------------------------------------- logged-loss


def logged_loss(folder: str) -> Finding:
    workload: Workload = random_workload(33, 4, 24)
    epochs, steps = 8, 3  # 16 + 16 + 1 rows
    arguments: dict[str, Any] = {"learning_rate": 0.0, "logging_steps": steps, "per_device_train_batch_size": 16}
    trainer = toys.make_trainer(toys.bert(), toys.features(workload), folder, num_train_epochs=epochs, **arguments)
    trainer.train()
    theirs = [float(line["loss"]) for line in toys.steps_logged(trainer)]
    setup, task = toys.set_up(toys.bert(), workload, batch_size=16, learning_rate=1e-30, weight_decay=0.0, epochs=epochs)
    records = [record for _, _, record in toys.our_steps(setup, task)]
    ours = []
    for at in range(0, len(records), steps):
        window = records[at : at + steps]
        ours.append(float(sum(r.loss_sum for r in window) / sum(r.num_items for r in window)))
    spread = {name: max(values) - min(values) for name, values in (("Trainer", theirs), ("Plainloop", ours))}

    def draw(axes: Any) -> None:
        numbers = range(1, epochs + 1)
        axes.plot(numbers, theirs, color=COLOURS[3], marker="o", linewidth=2, label="loss in Trainer's log")
        axes.plot(numbers, ours, color=COLOURS[0], marker="x", linestyle="--", linewidth=2, label="Plainloop's")
        axes.set_xlabel("epoch of the same 33 rows, with learning rate 0")
        axes.set_ylabel("logged loss (nats)")
        axes.margins(y=0.2)
        axes.legend(frameon=False)

    return Finding(
        holds=spread["Trainer"] > 0.02 and spread["Plainloop"] < 1e-4,
        said=f"Nothing is learned, and Trainer's loss moves by {spread['Trainer']:.2f}: of 33 rows one counts as much as 16",
        table=toys.in_columns("epoch", range(1, epochs + 1), {"Trainer": theirs, "Plainloop": ours}, "{:.4f}"),
        draw=draw,
    )


LESSONS = [
    Lesson(
        "warmup", "a warm-up below 1 is a share of all steps: warmup_steps=0.9 warms up for longer than warmup_steps=1",
        ("engine/schedule.py", "math.ceil(config.warmup_ratio * num_steps)"),
        ("transformers/training_args.py", "math.ceil(num_training_steps * self.warmup_steps)"), warmup,
    ),
    Lesson(
        "smoothing", "label smoothing takes the labels away from the model: a loss of its own is not called any more",
        ("engine/data/batch.py", "loss compares with: labels are not passed"),
        ("transformers/trainer.py", 'labels = inputs.pop("labels")'), smoothing,
    ),
    Lesson(
        "logged-loss", "the logged loss is a mean over steps: a short last step weighs as much as a full one",
        ("engine/record/tally.py", "return self.loss_sum / self.num_items if self.num_items"),
        ("transformers/trainer.py", 'logs["loss"] = tr_loss_scalar / ('), logged_loss,
    ),
]  # fmt: skip

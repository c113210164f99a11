"""What an evaluation reports: how batches are weighed, what is left out, and what is kept in memory meanwhile."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import torch
from torch import nn
from transformers import trainer_pt_utils

from bench.contest.pictures import COLOURS
from bench.contest.workload import Workload, padding_tokenizer, random_workload
from bench.lessons import toys
from bench.lessons.gradients import Regression, with_a_missing_label
from bench.lessons.lesson import Finding, Lesson
from engine.loader import eval_loader
from engine.record.evaluate import evaluate
from engine.task import Task


def our_loss(model: nn.Module, task: Task[Any], workload: Workload, size: int) -> float:
    """Ours, of the model as it is."""
    setup, _ = toys.set_up(model, workload, task=task, eval_batch_size=size)
    loader = eval_loader(task, workload.examples(), setup.layout, setup.data.config, setup.world)
    loss = evaluate(model, task, loader, setup.state.autocast, setup.world).figures["loss"]
    assert loss is not None
    return loss


def trainer_loss(model: nn.Module, rows: toys.Rows, folder: str, size: int, **arguments: Any) -> float:
    """Trainer's."""
    trainer = toys.make_trainer(model, rows, folder, evaluation=rows, per_device_eval_batch_size=size, **arguments)
    return float(trainer.evaluate()["eval_loss"])


# --------------------------------------------------------------------------------------------------------- last-batch


def usual_recipe(model: nn.Module, rows: toys.Rows, size: int) -> float:
    """The evaluation of most hand-written loops: the mean of the batches' mean losses."""
    model.eval()
    losses = []
    with torch.no_grad():
        for i in range(0, len(rows), size):
            batch = padding_tokenizer().pad(rows[i : i + size], return_tensors="pt")
            losses.append(float(model(**batch).loss))
    return sum(losses) / len(losses)


def last_batch(folder: str) -> Finding:
    workload = random_workload(33, 4, 24)
    rows = toys.features(workload)
    true = usual_recipe(toys.bert(), rows, 1)
    sizes = (1, 4, 8, 16, 32)
    found = {
        "mean of batch means": [usual_recipe(toys.bert(), rows, size) for size in sizes],
        "Trainer": [trainer_loss(toys.bert(), rows, folder, size) for size in sizes],
        "Plainloop": [our_loss(toys.bert(), toys.Classes(workload), workload, size) for size in sizes],
    }
    off = {name: max(abs(value / true - 1) for value in values) for name, values in found.items()}

    def draw(axes: Any) -> None:
        toys.lines(axes, sizes, found, ((3, "o", "-"), (1, "s", "--"), (0, "x", ":")))
        axes.set_xlabel("rows in an evaluation batch (33 rows in all)")
        axes.set_ylabel("evaluation loss (nats)")

    return Finding(
        holds=off["mean of batch means"] > 0.02 and off["Trainer"] < 1e-5 and off["Plainloop"] < 1e-5,
        said=f"33 rows in batches of 32: the mean of means is {off['mean of batch means']:.0%} off: row 33 counts as 32 do",
        table=toys.in_columns("rows in a batch", sizes, found),
        draw=draw,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------- eval-batch


def eval_batch(folder: str) -> Finding:
    workload = random_workload(24, 3, 60)
    rows, sizes = toys.features(workload), (1, 2, 4, 8, 24)
    task = toys.NextToken(workload)
    found = {
        "Trainer": [trainer_loss(toys.llama(), rows, folder, size, collate=toys.pad_labels) for size in sizes],
        "Plainloop": [our_loss(toys.llama(), task, workload, size) for size in sizes],
    }
    spread = {name: max(values) / min(values) - 1 for name, values in found.items()}

    def draw(axes: Any) -> None:
        toys.lines(axes, sizes, found, ((3, "o", "-"), (0, "x", "--")))
        axes.set_xlabel("per_device_eval_batch_size")
        axes.set_ylabel("evaluation loss of a language model (nats a token)")

    return Finding(
        holds=spread["Trainer"] > 0.005 and spread["Plainloop"] < 1e-5,
        said=f"The same model and rows: Trainer's eval_loss moves by {spread['Trainer']:.1%} with the evaluation's batch size",
        table=toys.in_columns("rows in a batch", sizes, found),
        draw=draw,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- eval-nan


def eval_nan(folder: str) -> Finding:
    workload, labels = with_a_missing_label(32, missing=5)
    rows = [row | {"labels": labels[row["labels"]]} for row in toys.features(workload)]
    sizes = (1, 4, 8, 16)
    found = {
        "Trainer": [trainer_loss(toys.bert(1), rows, folder, size) for size in sizes],
        "Plainloop": [our_loss(toys.bert(1), Regression(workload, labels), workload, size) for size in sizes],
    }

    def draw(axes: Any) -> None:
        shown = [f"batches of {size}:\n{size} of 32 rows left out" for size in sizes]
        toys.grouped_bars(axes, shown, {"Trainer's eval_loss": found["Trainer"]}, (COLOURS[3],), "{:.4f}")
        axes.set_ylabel("evaluation loss (squared error)")
        axes.text(0.5, 0.9, "Plainloop: the loss is NaN", transform=axes.transAxes, ha="center", color=COLOURS[0])
        axes.margins(y=0.35)

    low, high = min(found["Trainer"]), max(found["Trainer"])
    return Finding(
        holds=all(map(math.isfinite, found["Trainer"])) and high > low and all(map(math.isnan, found["Plainloop"])),
        said=f"One NaN label among 32: Trainer leaves out its batch and says nothing; eval_loss is {low:.2f} to {high:.2f}",
        table=toys.in_columns("rows in a batch", sizes, found),
        draw=draw,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- logits


VOCABULARY, LENGTH = 128, 64


def logits_kept_and_copied(num_rows: int, folder: str) -> tuple[int, int]:
    """Bytes of logits that compute_metrics is handed, and that were written to get there, in batches of 8 rows."""
    rows = toys.features(random_workload(num_rows, LENGTH, LENGTH))
    kept, written = [], []
    concatenate = trainer_pt_utils.nested_concat

    def watched(*args: Any, **kwargs: Any) -> Any:
        joined = concatenate(*args, **kwargs)
        if joined.dim() == 3:  # the logits, and not the labels or losses
            written.append(joined.numel() * joined.element_size())
        return joined

    def compute_metrics(prediction: Any) -> dict[str, float]:
        kept.append(prediction.predictions.nbytes)
        return {}

    with mock.patch.object(trainer_pt_utils, "nested_concat", watched):
        trainer_loss(toys.llama(), rows, folder, 8, collate=toys.pad_labels, compute_metrics=compute_metrics)
    return kept[0], sum(written)


def logits(folder: str) -> Finding:
    counts = (16, 32, 64, 128)
    kept, copied = zip(*(logits_kept_and_copied(n, folder) for n in counts), strict=True)
    one_batch = 8 * LENGTH * VOCABULARY * 4
    growth = copied[-1] / max(copied[0], 1)
    series = {
        "copied by Trainer in all": [n / 2**20 for n in copied],
        "kept by Trainer until the end": [n / 2**20 for n in kept],
        "kept by Plainloop (one batch)": [one_batch / 2**20] * len(counts),
    }
    real = 1000 * 512 * 50257 * 4

    def draw(axes: Any) -> None:
        toys.lines(axes, counts, series, ((1, "s", "--"), (3, "o", "-"), (0, "x", ":")))
        axes.set_yscale("log", base=2)
        ticks = [2.0**k for k in range(-2, 7, 2)]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlabel(f"evaluation rows ({LENGTH} tokens, {VOCABULARY} words in the vocabulary, batches of 8)")
        axes.set_ylabel("logits, MiB")

    return Finding(
        holds=all(size == n * LENGTH * VOCABULARY * 4 for size, n in zip(kept, counts, strict=True)) and growth > 20,
        said=f"8 times the rows: {kept[-1] // kept[0]} times the logits kept and {growth:.0f} times the copies",
        table=toys.in_columns("rows", counts, series, "{:.2f} MiB"),
        draw=draw,
        note=f"By this count GPT-2 (50,257 words) on 1,000 rows of 512 tokens keeps {real / 1e9:.0f} GB.",
    )


LESSONS = [
    Lesson(
        "last-batch", "how batches of unequal size are weighed: the loop one writes in its place counts the last one too much",
        ("engine/record/evaluate.py", "loss = loss / num_items if num_items else math.nan"),
        ("transformers/trainer.py", "losses = self.gather_function(losses.repeat(batch_size))"), last_batch,
    ),
    Lesson(
        "eval-batch", "batches are weighed by rows, not by tokens: a language model's eval_loss depends on the batch size",
        ("engine/record/evaluate.py", "loss_sum += task.loss(outputs, moved)"),
        ("transformers/trainer.py", 'metrics[f"{metric_key_prefix}_loss"] = losses.mean().item()'), eval_batch,
    ),
    Lesson(
        "eval-nan", "an evaluation batch whose loss is NaN is left out of eval_loss without a word",
        ("engine/record/figures.py", "None if value is None or not math.isfinite(value) else value"),
        ("transformers/trainer.py", "losses = losses[finite]"), eval_nan,
    ),
    Lesson(
        "logits", "with compute_metrics, all logits of the evaluation are kept, and copied again for every batch",
        ("engine/record/evaluate.py", "metrics.update(model, outputs, moved)"),
        ("transformers/trainer_pt_utils.py", "self.tensors = nested_concat("), logits,
    ),
]  # fmt: skip

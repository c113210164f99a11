"""What is reported of a finished model: probabilities that are too sure, and the figure of the best of many."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench.contest.pictures import COLOURS
from bench.contest.workload import Workload
from bench.lessons import toys
from bench.lessons.checkpoints import noisy
from bench.lessons.lesson import Finding, Lesson
from tasks.classification.calibration import binned, confidences, expected_error, losses, most_likely_temperature

SINGLE = "single_label"


def logits_of(train: Workload, held_out: Workload, folder: str, *, seed: int = 0, **arguments: Any) -> np.ndarray:
    """[N, 2]: what a model that Trainer has trained says of held-out rows. ``seed``: of its weights, and of its order."""
    model = toys.bert()
    if seed:
        torch.manual_seed(seed)
        model = type(model)(model.config)
    trainer = toys.make_trainer(
        model, toys.features(train), folder, seed=seed, learning_rate=2e-3, per_device_train_batch_size=16,
        per_device_eval_batch_size=128, logging_steps=500, **arguments,
    )  # fmt: skip
    trainer.train()
    return np.asarray(trainer.predict(toys.features(held_out)).predictions)


# -------------------------------------------------------------------------------------------------------- calibration


def figures(logits: np.ndarray, labels: np.ndarray, temperature: float) -> tuple[float, float, float, torch.Tensor]:
    """Accuracy, expected calibration error, loss, and the bins of the reliability curve."""
    claimed, is_right = confidences(torch.from_numpy(logits) / temperature, torch.from_numpy(labels), SINGLE)
    bins, accuracy = binned(claimed, is_right), float(is_right.double().mean())
    return accuracy, expected_error(bins), float(losses(logits, labels, SINGLE, temperature).mean()), bins


def calibration(folder: str) -> Finding:
    train, held_out = noisy(192, 0), noisy(1200, 1)
    logits, labels = logits_of(train, held_out, folder, num_train_epochs=8), held_out.labels
    learned_on, shown_on = slice(0, 600), slice(600, 1200)
    temperature = most_likely_temperature(logits[learned_on], labels[learned_on], SINGLE)
    assert temperature is not None
    found = {
        "as they come (temperature 1)": figures(logits[shown_on], labels[shown_on], 1.0),
        f"temperature {temperature:.2f}, of 600 other rows": figures(logits[shown_on], labels[shown_on], temperature),
    }
    (accuracy, before, _, _), (same, after, _, _) = found.values()
    sure = float(torch.from_numpy(logits[shown_on]).softmax(-1).max(-1).values.mean())

    def draw(axes: Any) -> None:
        axes.plot([0.5, 1], [0.5, 1], color="#888888", linestyle=":", label="as sure as right")
        for (name, (*_, bins)), colour, mark in zip(found.items(), (3, 0), "os", strict=True):
            full = bins[bins[:, 0] >= 10]  # rows; of fewer the share says little
            axes.plot(full[:, 1] / full[:, 0], full[:, 2] / full[:, 0], color=COLOURS[colour], marker=mark, markersize=9,
                      linewidth=2, label=name)  # fmt: skip
        axes.set_xlabel("probability of the answer (mean of a bin; bins of at least 10 rows)")
        axes.set_ylabel("share that is right")
        axes.legend(frameon=False, loc="upper left")

    return Finding(
        holds=before > 0.1 and after < before / 2 and accuracy == same,
        said=f"{sure:.0%} sure and {accuracy:.0%} right: error {before:.2f}; with a temperature {after:.2f}, same answers",
        table=[["600 held-out rows", "accuracy", "calibration error (ECE)", "loss (nats)"]]
        + [[name, f"{a:.4f}", f"{e:.4f}", f"{loss:.4f}"] for name, (a, e, loss, _) in found.items()],
        draw=draw,
    )


# ---------------------------------------------------------------------------------------------------------- best-of-n

MODELS, CHOOSING, DRAWS, FRESH = 8, 100, 400, 1000  # rows that choose, how often they are drawn, rows that never do


def chosen(right: np.ndarray, rows: np.ndarray, models: np.ndarray) -> tuple[float, float, float]:
    """Of the model that is best on ``rows``: its accuracy on them, and on fresh ones. Of the one that is best on their first
    half: its accuracy on the second. ``right``: [models, N]."""
    best = models[right[np.ix_(models, rows)].mean(1).argmax()]
    first, second = np.array_split(rows, 2)
    on_half = models[right[np.ix_(models, first)].mean(1).argmax()]
    return float(right[best, rows].mean()), float(right[best, -FRESH:].mean()), float(right[on_half, second].mean())


def best_of_n(folder: str) -> Finding:
    held_out = noisy(600 + FRESH, 1)
    right = np.stack([
        logits_of(noisy(192, 0), held_out, folder, seed=seed, num_train_epochs=3).argmax(-1) == held_out.labels
        for seed in range(1, MODELS + 1)
    ])  # fmt: skip
    counts, generator = (1, 2, 4, MODELS), np.random.default_rng(0)
    means = []
    for n in counts:
        found = []
        for _ in range(DRAWS):
            rows = generator.permutation(600)[:CHOOSING]
            found.append(chosen(right, rows, generator.permutation(MODELS)[:n]))
        means.append(np.mean(found, 0))
    reported, true, halves = (list(map(float, values)) for values in zip(*means, strict=True))
    series = {"reported: the rows that chose": reported, "the same model on fresh rows": true, "other half than chose": halves}
    over = reported[-1] - true[-1]

    def draw(axes: Any) -> None:
        shown = {name: [100 * value for value in values] for name, values in series.items()}
        toys.lines(axes, counts, shown, ((3, "o", "-"), (2, "s", "--"), (0, "x", ":")))
        axes.set_xlabel(f"models, of which the one is kept that is best on {CHOOSING} rows (mean of {DRAWS} draws)")
        axes.set_ylabel("accuracy (%)")

    return Finding(
        holds=over - (reported[0] - true[0]) > 0.015 and abs(halves[-1] - true[-1]) < over / 2,
        said=f"Best of {MODELS} seeds on {CHOOSING} rows: {reported[-1]:.1%} is reported, and fresh rows give {true[-1]:.1%}",
        table=toys.in_columns("best of", counts, series, "{:.2%}"),
        draw=draw,
        note="What is chosen by a figure has been lucky in it. sweep chooses on one half of the evaluation rows and "
        "reports the other.",
    )


LESSONS = [
    Lesson(
        "calibration", "a model's probabilities are handed on as they come, surer than right; one number mends most of it",
        ("tasks/classification/calibration.py", "return logits if self.temperature == 1 else logits / self.temperature"),
        ("transformers/pipelines/text_classification.py", "scores = softmax(outputs)"), calibration,
    ),
    Lesson(
        "best-of-n", "the best of several models is reported on the rows that chose it: it looks better than it is",
        ("engine/sweep/measure.py", 'changes = {"fold": "", "eval_part": "" if plan.config.folds else'),
        ("transformers/trainer.py", "self.state.best_metric = metric_value"), best_of_n,
    ),
]  # fmt: skip

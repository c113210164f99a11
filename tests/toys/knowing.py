"""A classifier that knows its task without training: it sees which of w0 (a), w1 (b), w2 (c) stands in a text, and errs at times.

Its attention is the mean over all tokens, so that words speak less in a longer text; other words speak for a class a little.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import run
from bench.toys import tiny


def model(sharpness: float, noise: float = 0.25, names: Sequence[str] = "abc"):
    """``sharpness``: how large logits are; ``noise``: how much other words say."""
    made = tiny.bert(num_labels=len(names), dropout=0.0)
    made.config.id2label, made.config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    for parameter in made.parameters():
        torch.nn.init.zeros_(parameter)
    for norm in (module for module in made.modules() if isinstance(module, torch.nn.LayerNorm)):
        torch.nn.init.ones_(norm.weight)
    words = torch.randn(100, 32, generator=torch.Generator().manual_seed(0))
    words[:, :3] *= noise
    words[5:8] = 0
    words[5, 0] = words[6, 1] = words[7, 2] = 10.0  # w0, w1, w2: ids 5, 6, 7
    made.bert.embeddings.word_embeddings.weight.data = words
    first = made.bert.encoder.layer[0].attention
    first.self.value.weight.data = torch.eye(32)
    first.output.dense.weight.data = 3 * torch.eye(32)
    made.bert.pooler.dense.weight.data = 0.5 * torch.eye(32)
    made.classifier.weight.data[:, :3] = sharpness * torch.eye(3)[: len(names)]
    return made


def write(path: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = ("text", "label")) -> Path:
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def noisy(number: int, seed: int, share: float = 0.2) -> list[tuple[str, str]]:
    """Rows of which this share has a label drawn at random."""
    generator = np.random.default_rng(seed)
    return [
        (text, label if generator.random() > share else "abc"[generator.integers(3)])
        for text, label in tiny.texts(number, seed)
    ]


def save_run(folder: Path, made, rows: Sequence[Sequence[object]], *more: str) -> Path:
    """The directory of a finished run of this model, trained for one step that moves nothing, with ``rows`` held out."""
    tiny.save_model(folder / "model", made)
    write(folder / "train.csv", rows[:24])
    write(folder / "held.csv", rows)
    assert run.main(["--task", "classification", "--model", str(folder / "model"), "--train-file", str(folder / "train.csv"),
                     "--eval-file", str(folder / "held.csv"), "--max-steps", "1", "--learning-rate", "1e-30", "--weight-decay", "0",
                     "--device", "cpu", "--precision", "fp32", "--output-dir", str(folder / "run"), *more]) == 0  # fmt: skip
    return folder / "run"

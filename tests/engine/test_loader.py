"""What the loaders draw: training by --seed, epoch and row; evaluation always the same."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.toys import tiny
from engine.build import build
from engine.config import TrainConfig
from engine.data.collate import Layout
from engine.distributed.world import World
from engine.errors import DataError
from engine.loader import batches, end_workers, eval_loader


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


@pytest.mark.slow
def test_a_process_whose_worker_has_raised_ends(tmp_path):
    """Workers ignore SIGTERM, with which Python would end them, and then wait for them."""
    code = """
import threading
from bench.toys import tiny
from engine.data.batch import Batch
from engine.data.collate import Layout
from engine.config import TrainConfig
from engine.loader import batches, eval_loader
from engine.distributed.world import World
import torch
class Bad(tiny.TokenTask):
    def prepare(self, row, generator):
        return 1 / 0
kept = batches(eval_loader(Bad(), tiny.token_rows(8), Layout(), TrainConfig(workers=1), World(torch.device("cpu"))))
try:
    next(kept)
except ValueError as error:
    held = error  # and with its traceback the iterator
    print("refused", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "refused\n" and done.returncode == 0, done.stderr


class Fragile(tiny.TokenTask):
    """Refuses a row that has label 0."""

    def prepare(self, row, generator):
        return row if row["labels"] else 1 / 0


def test_workers_end_with_what_they_are_for():
    """Not when the garbage collector comes by, which asks them with a SIGTERM that they ignore, and forgets them."""
    before = set(multiprocessing.active_children())
    for kind in (tiny.TokenTask, Fragile):  # left before its end; and left by an error
        some = batches(eval_loader(kind(), tiny.token_rows(40), Layout(), TrainConfig(workers=2), World(torch.device("cpu"))))
        with contextlib.suppress(DataError):
            next(some)
        assert (kind is Fragile) == (set(multiprocessing.active_children()) == before)
        some.close()
        assert set(multiprocessing.active_children()) == before


def test_workers_are_ended_where_there_is_no_sigchld(monkeypatch):
    """On Windows."""
    ended = []
    iterator = SimpleNamespace(_workers=[], _shutdown_workers=lambda: ended.append(True))
    monkeypatch.delattr(signal, "SIGCHLD")
    end_workers(iterator)
    assert ended == [True]

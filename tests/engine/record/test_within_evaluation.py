"""What dies in an evaluation, or stops it, loses nothing: the step's checkpoint stands before it, and resuming measures it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.toys import tiny
from engine.checkpoint.store import newest, steps_in
from engine.errors import DataError, ResourceError, StoppedError
from engine.fit import fit
from engine.record import stop
from tests.toys.killed import TIMINGS, Killed
from tests.toys.runs import config, make_task


class Deadly(tiny.TokenTask):
    """``fate(number of the evaluation)`` is called in the second batch of each, of three."""

    fate = staticmethod(lambda number: None)
    seen = 0  # batches of evaluations

    def loss(self, outputs, batch):
        if not torch.is_grad_enabled():
            self.seen += 1
            if self.seen % 3 == 2:
                self.fate(self.seen // 3 + 1)
        return super().loss(outputs, batch)


def deadly(fate) -> Deadly:
    task = Deadly(train=tiny.token_rows(40), evaluation=tiny.token_rows(21, seed=5))
    task.fate = fate
    return task


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in found]


def raising(error, at):
    def fate(number):
        if number == at:
            raise error

    return fate


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """10 steps, 5 an epoch, an evaluation at each epoch's end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    fit(make_task(), config(folder, eval_batch_size=8), tiny.bert())
    return folder


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize(
    "error", [DataError("row 3 is damaged"), RuntimeError("a defect"), torch.OutOfMemoryError("gone"), Killed()]
)
@pytest.mark.parametrize("changes", [{}, {"save_steps": 100}, {"async_save": True}], ids=["epoch", "seldom", "async"])
def test_an_evaluation_that_dies_loses_no_step(tmp_path, undisturbed, at, error, changes):
    """With rare checkpoints an error saves one first; only a process that is killed cannot."""
    settings = {"eval_batch_size": 8, **changes}
    expected = ResourceError if isinstance(error, torch.OutOfMemoryError) else type(error)
    with pytest.raises(expected):
        fit(deadly(raising(error, at)), config(tmp_path, **settings), tiny.bert())
    if "save_steps" in changes and isinstance(error, Killed) and at == 1:
        return
    found = newest(tmp_path / "run/checkpoints")
    assert found is not None and json.loads(found["state.json"])["step"] == 5 * at
    fit(make_task(), config(tmp_path, resume=True, **settings), tiny.bert())
    assert lines(tmp_path) == lines(undisturbed), "the evaluation is made up for, and stands once"
    one, other = (load_file(folder / "run/model.safetensors") for folder in (tmp_path, undisturbed))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("at", [1, 2])
def test_being_stopped_leaves_the_evaluation_within(tmp_path, undisturbed, at):
    """Also the last one, after which no step is left."""

    def fate(number):
        if number == at:
            os.kill(os.getpid(), signal.SIGINT)

    task = deadly(fate)
    with pytest.raises(StoppedError, match=f"after step {5 * at} of 10, and saved"):
        fit(task, config(tmp_path, eval_batch_size=8), tiny.bert())
    assert task.seen == 3 * at - 1, "and not the third batch"
    assert steps_in(tmp_path / "run/checkpoints")[-1] == 5 * at
    fit(make_task(), config(tmp_path, resume=True, eval_batch_size=8), tiny.bert())
    evaluated = [line["step"] for line in lines(tmp_path) if line["kind"] == "eval"]
    assert evaluated == [5, 10]


def test_a_run_that_stops_early_does_so_when_the_evaluation_is_made_up_for(tmp_path):
    """The one that died was the one that would have ended the run."""
    settings = {"epochs": 4, "patience": 1, "learning_rate": 1e-12}  # no weight changes, so the second evaluation is not better
    whole = fit(make_task(), config(tmp_path / "whole", **settings), tiny.bert())
    stopped_at = max(line["step"] for line in lines(tmp_path / "whole"))
    assert stopped_at == 10, "the control: patience ends it"
    with pytest.raises(Killed):
        fit(deadly(raising(Killed(), stopped_at // 5)), config(tmp_path / "cut", eval_batch_size=8, **settings), tiny.bert())
    again = fit(make_task(), config(tmp_path / "cut", resume=True, eval_batch_size=8, **settings), tiny.bert())
    assert max(line["step"] for line in lines(tmp_path / "cut")) == stopped_at
    assert again.metrics["num_steps"] == whole.metrics["num_steps"]


def test_ranks_ask_each_other_now_and_then(monkeypatch):
    """All leave at the same batch, whoever is asked."""

    class Two:
        size = 2
        asked = 0

        def gather(self, value):
            self.asked += 1
            return [value, self.asked == 3]

    world, seen = Two(), []
    with pytest.raises(stop.StoppedWithinError):
        for batch in stop.until_stopped(range(100), stop.Stop(), world):
            seen.append(batch)
    assert len(seen) == 2 * stop.ASK_EVERY

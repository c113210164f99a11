"""A fault of one rank is one line of all, and leaves a checkpoint: lost ranks, signals, divergence, other settings, other data."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.toys import tiny
from engine.checkpoint.store import open_checkpoint
from engine.data.batch import Batch
from engine.distributed import join, lost_ranks
from engine.errors import DataError, DistributedError, DivergedError, StoppedError, explain
from engine.fit import fit
from engine.record.run import Run
from tests.toys.ranks import assert_close_runs, config, in_ranks, make, run


def outcome(function: Any) -> tuple[str, str, int, str]:
    """What was raised: its kind, its text, the exit code, and the line that this process would print."""
    try:
        function()
    except Exception as error:
        line, code = explain(error) or ("", 1)
        return type(error).__name__, str(error), code, line
    return "", "", 0, ""


def test_ranks_that_were_told_different_things_refuse_at_the_start(tmp_path):
    def other_rate(rank: int) -> Any:
        return outcome(lambda: run(tmp_path / "run", learning_rate=1e-3 * (1 + rank)))

    first, second = in_ranks(2, other_rate)
    text = "rank 1 has other settings than rank 0 (learning_rate: 0.002, and 0.001 there)"
    for kind, said, code, _ in (first, second):
        assert kind == "DistributedError" and said.startswith(text) and code == 7
    assert first[3].startswith(f"error: {text}") and second[3] == "", "rank 0 alone says it"
    assert not (tmp_path / "run").exists()


def test_ranks_with_other_models_refuse(tmp_path):
    def part(rank: int) -> None:
        with join.join("cpu", 60) as world:
            task, model = make("sequence")
            model = tiny.bert(num_labels=4) if rank else model
            fit(task, config(tmp_path / "run"), model, world)

    for error in in_ranks(2, part):
        assert isinstance(error, DistributedError)
        assert str(error).startswith("rank 1 has other parameters than rank 0 (classifier.weight: [4, 32], and [3, 32] there)")


def test_an_error_of_one_rank_is_that_of_all(tmp_path):
    """Data that only rank 1 cannot read; a directory that only rank 0 looks at; another data set."""

    def faults(rank: int) -> Any:
        with join.join("cpu", 60) as world:
            task, model = make("sequence")
            if rank == 1:
                task.examples = lambda: (_ for _ in ()).throw(DataError("a row is broken"))
            broken = outcome(lambda: fit(task, config(tmp_path / "a"), model, world))
            whole, model = make("sequence")
            if rank == 0:
                (tmp_path / "b").mkdir()
                (tmp_path / "b/mine.txt").touch()
            taken = outcome(lambda: fit(whole, config(tmp_path / "b"), model, world))
            shorter, model = make("sequence", num_rows=50 - rank)
            return broken, taken, outcome(lambda: fit(shorter, config(tmp_path / "c"), model, world))

    for broken, taken, other in in_ranks(2, faults):
        assert broken[:3] == ("DataError", "a row is broken", 3)
        assert taken[0] == "UsageError" and "is not empty and holds no run" in taken[1] and taken[2] == 2
        assert other[0] == "DistributedError" and "other data than rank 0 (train" in other[1]


@pytest.mark.parametrize("how", ["killed", pytest.param("hangs", marks=pytest.mark.slow), "raises"])
def test_a_lost_rank_is_named_and_the_checkpoint_stands(how, tmp_path, monkeypatch):
    monkeypatch.setattr(lost_ranks, "ROLL_CALL_SECONDS", 2.0)

    def part(rank: int) -> Any:
        log = Run.log

        def fatal(self: Run, at: Any, *others: Any) -> None:
            log(self, at, *others)
            if rank == 1 and at.step == 5:
                if how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                if how == "hangs":
                    time.sleep(7)
                    os._exit(0)
                raise KeyError("a defect")

        Run.log = fatal
        return outcome(lambda: run_plain(tmp_path / "run"))

    def run_plain(out: Path) -> None:
        task, model = make("sequence")
        fit(task, config(out, save_steps=2, rank_timeout=2.0), model)

    began = time.monotonic()
    kind, said, code, line = in_ranks(2, part)[0]
    assert (kind, code) == ("DistributedError", 7), said
    assert line == f"error: {said}"
    assert ("rank 1 has ended: KeyError" if how == "raises" else "rank 1 does not answer: it was killed, or it hangs") in said
    assert "The last checkpoint stands" in said
    assert time.monotonic() - began < 60
    alone = tmp_path / "alone"
    run(alone, save_steps=2)
    run(tmp_path / "run", save_steps=2, resume=True)
    assert_close_runs(alone, tmp_path / "run")


def test_a_signal_to_one_rank_stops_all_in_the_same_step(tmp_path):
    def part(rank: int) -> Any:
        log, last = Run.log, []

        def signalled(self: Run, at: Any, *others: Any) -> None:
            if rank == 1 and at.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            log(self, at, *others)
            last.append(at.step)

        Run.log = signalled
        task, model = make("sequence")
        return outcome(lambda: fit(task, config(tmp_path / "run", save_steps=100), model)), last[-1]

    (first, step), (second, other_step) = in_ranks(2, part)
    assert step == other_step == 4, "the step after the one that the signal came in"
    for kind, said, code, _ in (first, second):
        assert (kind, code) == ("StoppedError", 143)
        assert said.startswith("stopped by SIGTERM (rank 1) after step 4 of 8, and saved: --resume continues")
    assert first[3] and not second[3]
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000004"]
    run(tmp_path / "whole", save_steps=100)
    run(tmp_path / "run", save_steps=100, resume=True)
    assert_close_runs(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    "more",
    [{}, {"shard": True}, {"optimizer": "sgd"}, {"optimizer": "adafactor"}, {"optimizer": "muon", "ema_decay": 0.5},
     {"shard": True, "optimizer": "sgd", "momentum": 0.9, "ema_decay": 0.5}],
)  # fmt: skip
def test_divergence_is_the_same_on_all_ranks_and_names_its_rows(more, tmp_path):
    def part(rank: int) -> Any:
        task, model = make("sequence")
        loss = task.loss

        def broken(outputs: Any, batch: Batch) -> Tensor:
            bad = any(key[1] == 13 for key in batch.keys) and model.training
            return loss(outputs, batch) * (float("nan") if bad else 1.0)

        task.loss = broken
        return outcome(lambda: fit(task, config(tmp_path / "run", log_steps=3, save_steps=1, **more), model))

    of_ranks = in_ranks(2, part)
    batches = run(tmp_path / "whole")
    newest = max((tmp_path / "run/checkpoints").iterdir())
    with open_checkpoint(newest).tensors("model") as tensors:
        assert all(torch.isfinite(tensors.full(name)).all() for name in tensors.shapes)
    [step] = [i for i, step in enumerate(batches[:4], start=1) if any(13 in rows for rows in step)]
    for kind, said, code, _ in of_ranks:
        assert (kind, code) == ("DivergedError", 5)
        assert f"the loss is not finite at step {step}" in said and " 13" in said
    assert of_ranks[0][1] == of_ranks[1][1] and not of_ranks[1][3]


def test_parameters_without_a_gradient_are_refused_before_they_are_updated(tmp_path):
    def part(rank: int) -> Any:
        with join.join("cpu", 60) as world:

            def with_flag(flag: bool) -> None:
                task, model = make("sequence")
                model.extra = torch.nn.Linear(3, 3)
                fit(task, config(tmp_path / str(flag), find_unused_parameters=flag), model, world)

            return [outcome(lambda flag=flag: with_flag(flag)) for flag in (False, True)]

    for refused, taken in in_ranks(2, part):
        assert refused[0] == "UsageError" and "--find-unused-parameters" in refused[1]
        assert taken[0] == "", taken


def test_these_errors_have_their_codes():
    assert explain(DistributedError("x")) == ("error: x", 7)
    assert StoppedError("x", 143).shared and DivergedError("x").shared and not DistributedError("x").shared

"""--async-save: training waits for a copy only; what is saved, and what goes wrong, is as without it.

Killed in the midst of a write: tests/bench/test_kill.py.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.reliability.lab import contents
from bench.toys import tiny
from engine.checkpoint import saver as saving
from engine.checkpoint.saver import AsyncSaver, Saver
from engine.checkpoint.snapshot import Snapshot
from engine.checkpoint.store import newest, open_checkpoint, steps_in
from engine.config import TrainConfig
from engine.errors import DivergedError, ResourceError, StoppedError, UserError, explain
from engine.fit import fit
from engine.record.run import Run


def snapshot(step: int = 1) -> Snapshot:
    return Snapshot(step, {"model.safetensors": {"w": torch.ones(3)}}, b'{"step": %d, "progress": {}}' % step)


def task() -> tiny.TokenTask:
    return tiny.TokenTask(train=tiny.token_rows(40), evaluation=tiny.token_rows(21, seed=5))


def config(folder: Path, **changes) -> TrainConfig:
    settings = {"batch_size": 8, "epochs": 2, "save_steps": 1, "log_steps": 3, "device": "cpu", "async_save": True} | changes
    return TrainConfig(output_dir=str(folder), **settings)


def failing(*_):
    raise ResourceError("the disk is full")


def test_the_files_are_those_of_a_synchronous_run(tmp_path):
    """Every checkpoint, with the byte at which metrics.jsonl is cut back, and the finished model."""
    for name, asynchronous in (("sync", False), ("async", True)):
        fit(task(), config(tmp_path / name, async_save=asynchronous, keep_checkpoints=99), tiny.bert())
    sync, other = contents(tmp_path / "sync"), contents(tmp_path / "async")
    assert len(steps_in(tmp_path / "async/checkpoints")) == 10
    assert sync == other
    log = (tmp_path / "async/metrics.jsonl").read_bytes()
    for step in steps_in(tmp_path / "async/checkpoints"):
        state = json.loads(open_checkpoint(tmp_path / f"async/checkpoints/step-{step:08d}")["state.json"])
        lines = [json.loads(line) for line in log[: state["progress"]["metrics_bytes"]].splitlines()]
        rest = [json.loads(line) for line in log[state["progress"]["metrics_bytes"] :].splitlines()]
        assert all(line["step"] <= step for line in lines) and all(line["step"] > step for line in rest)


def test_a_snapshot_of_its_own_does_not_change_with_the_run():
    weights = torch.ones(3)
    taken = Snapshot(1, {"model.safetensors": {"w": weights}}, b"{}")
    copy = taken.copy()
    weights.add_(1)
    assert copy.tensors["model.safetensors"]["w"].tolist() == [1, 1, 1] != weights.tolist()
    assert taken.tensors["model.safetensors"]["w"] is weights


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """The first write ends only when a later step has been trained: a save that waits for it would hang."""
    trained = threading.Event()
    commit, log = saving.commit, Run.log

    def slow(*arguments):
        assert trained.wait(60), "training waits for the write"
        return commit(*arguments)

    def watched(self, at, *arguments):
        log(self, at, *arguments)
        if at.step == 4:
            trained.set()

    monkeypatch.setattr(saving, "commit", slow)
    monkeypatch.setattr(Run, "log", watched)
    fit(task(), config(tmp_path / "run", save_steps=3), tiny.bert())
    assert steps_in(tmp_path / "run/checkpoints")[-1] == 10


def test_one_write_at_a_time(tmp_path, monkeypatch):
    at_once, most, lock = 0, 0, threading.Lock()
    commit = saving.commit

    def counted(*arguments):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        commit(*arguments)
        with lock:
            at_once -= 1

    monkeypatch.setattr(saving, "commit", counted)
    with AsyncSaver(tmp_path, 2) as saver:
        for step in range(1, 30):
            saver.save(snapshot(step))
    assert most == 1 and steps_in(tmp_path) == [28, 29]


def test_an_error_in_the_thread_is_raised_by_the_next_save_or_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "commit", failing)
    with pytest.raises(ResourceError, match="the disk is full"), AsyncSaver(tmp_path, 2) as saver:
        saver.save(snapshot())
        with pytest.raises(ResourceError, match="the disk is full"):
            saver.save(snapshot(2))
        saver.save(snapshot(3))


def test_a_run_whose_last_checkpoint_fails_does_not_end_well(tmp_path, monkeypatch):
    commit = saving.commit
    monkeypatch.setattr(saving, "commit", lambda root, step, *others: (failing if step == 10 else commit)(root, step, *others))
    with pytest.raises(ResourceError) as caught:
        fit(task(), config(tmp_path / "run", save_steps=5), tiny.bert())
    assert explain(caught.value) == ("error: the disk is full", 6)
    assert steps_in(tmp_path / "run/checkpoints") == [5] and not (tmp_path / "run/model.safetensors").exists()
    monkeypatch.undo()
    fit(task(), config(tmp_path / "run", save_steps=5, resume=True), tiny.bert())


def test_an_error_of_training_comes_first_and_that_of_the_thread_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(saving, "commit", failing)
    with pytest.raises(DivergedError), AsyncSaver(tmp_path, 2) as saver:
        saver.save(snapshot())
        raise DivergedError("not finite")
    assert "warning: the disk is full" in capsys.readouterr().err
    with pytest.raises(DivergedError), Saver(tmp_path, 2):
        raise DivergedError("not finite")


def test_a_second_ctrl_c_does_not_wait_for_the_write(tmp_path, monkeypatch):
    never = threading.Event()
    monkeypatch.setattr(saving, "commit", lambda *_: never.wait(60))
    with pytest.raises(KeyboardInterrupt), AsyncSaver(tmp_path, 2) as saver:
        saver.save(snapshot())
        raise KeyboardInterrupt
    assert not never.is_set()
    never.set()
    saver.wait()


def test_stopping_waits_for_the_write(tmp_path, monkeypatch):
    """SIGTERM after step 3: what the exit line says is on the disk."""
    log = Run.log

    def signalled(self, at, *arguments):
        if at.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        log(self, at, *arguments)

    monkeypatch.setattr(Run, "log", signalled)
    with pytest.raises(StoppedError, match="after step 3 of 10, and saved"):
        fit(task(), config(tmp_path / "run", save_steps=5), tiny.bert())
    assert steps_in(tmp_path / "run/checkpoints") == [3]
    assert newest(tmp_path / "run/checkpoints") is not None


def test_the_time_limit_leaves_room_for_what_is_under_way(tmp_path, monkeypatch):
    saver = AsyncSaver(tmp_path, 2)
    assert saver.seconds_behind == Saver(tmp_path, 2).seconds_behind == 0
    now = [0.0]
    monkeypatch.setattr(saving, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(saving, "commit", lambda *_: now.__setitem__(0, 3.0))
    saver.save(snapshot())
    saver.wait()
    assert saver.seconds_behind == 6.0, "one under way, one to come"


def test_an_error_that_is_no_users_is_not_swallowed(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "commit", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), AsyncSaver(tmp_path, 2) as saver:
        saver.save(snapshot())
    assert not issubclass(ZeroDivisionError, UserError)

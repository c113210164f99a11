"""Killed and resumed is the same run: the same bits in the model, each step logged once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.toys import tiny
from engine.build import build, make_run
from engine.checkpoint import snapshot, store
from engine.config import TrainConfig
from engine.loop import train
from engine.record.progress import Progress

ROOT = Path(__file__).parent.parent.parent
TIMINGS = {
    "tflops",
    "mfu",
    "memory_gb",
    "steps_per_second",
    "examples_per_second",
    "tokens_per_second",
    "seconds",
    "runtime_seconds",
}


def lines_of(directory: Path) -> list[dict]:
    """metrics.jsonl without what a clock has measured."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


class Killed(BaseException):
    """Stands for the end of the process."""


def run_to(directory: Path, config: TrainConfig, stop_after: int | None, *, resume: bool = False, restore=True, dropout=0.1):
    """One process's worth of training; ``stop_after`` steps of its own it is killed."""
    directory.mkdir(exist_ok=True)
    task = tiny.TokenTask(train=tiny.token_rows(50), evaluation=tiny.token_rows(20, seed=5))
    setup = build(task, task.train, config, tiny.bert(dropout=dropout))
    run = make_run(directory, task, config, setup, task.examples())
    if resume:
        progress = snapshot.load_state(setup.state, store.newest(directory / "checkpoints"))
        if not restore:
            torch.manual_seed(0)
        run.restore(Progress.from_json(progress))
    done, log = 0, run.log

    def counted(*arguments):
        nonlocal done
        log(*arguments)
        done += 1
        if done == stop_after:
            raise Killed

    run.log = counted
    try:
        train(setup.state, task, setup.data, config, setup.world, run)
    except Killed:
        pass
    finally:
        run.close()
    return setup.state


def assert_same_bits(a, b):
    for (name, one), (_, other) in zip(a.model.named_parameters(), b.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    for one, other in zip(a.optimizer.state.values(), b.optimizer.state.values(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert a.schedule.state_dict()["last_epoch"] == b.schedule.state_dict()["last_epoch"]


SMALL = {"batch_size": 4, "accumulation_steps": 3, "epochs": 3, "learning_rate": 1e-3, "log_steps": 2, "device": "cpu"}


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.bf16)])
@pytest.mark.parametrize("batching", ["padded", "bucketed", "packed"])
@pytest.mark.parametrize(
    "killed_after", [4, pytest.param(7, marks=pytest.mark.slow), 11, pytest.param(14, marks=pytest.mark.slow)]
)
def test_resume_is_bitwise(tmp_path, killed_after, batching, precision):
    """5 steps an epoch, a checkpoint every 3: killed between them, at an epoch's end, in epoch 1, 2 and 3."""
    config = TrainConfig(**SMALL, save_steps=3, eval_steps=5, batching=batching, precision=precision)
    whole = run_to(tmp_path / "whole", config, None)
    run_to(tmp_path / "cut", config, killed_after)
    resumed = run_to(tmp_path / "cut", config, None, resume=True)
    assert_same_bits(whole, resumed)
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "cut")


def test_without_the_saved_rng_the_bits_differ(tmp_path):
    """The comparison can fail: dropout then draws other masks."""
    config = TrainConfig(**SMALL, save_steps=3)
    whole = run_to(tmp_path / "whole", config, None)
    run_to(tmp_path / "cut", config, 4)
    resumed = run_to(tmp_path / "cut", config, None, resume=True, restore=False)
    with pytest.raises(AssertionError):
        assert_same_bits(whole, resumed)


def test_fp16_resume_is_bitwise(tmp_path, monkeypatch):
    """With a loss scale that overflows at first and is adapted; fp16 on a CPU is refused to users, not to this test."""
    monkeypatch.setattr("engine.build.choose_precision", lambda name, device: name)
    config = TrainConfig(**SMALL, save_steps=3, precision="fp16")
    whole = run_to(tmp_path / "whole", config, None)
    run_to(tmp_path / "cut", config, 7)
    resumed = run_to(tmp_path / "cut", config, None, resume=True)
    assert_same_bits(whole, resumed)
    assert whole.scaler.get_scale() == resumed.scaler.get_scale()


def test_resuming_reads_no_skipped_row(tmp_path):
    """Resuming is a slice of the plan."""
    config = TrainConfig(**SMALL, save_steps=3)
    run_to(tmp_path, config, 13)
    read = []

    class Counting(tiny.TokenDataset):
        def __getitem__(self, row):
            read.append(row)
            return super().__getitem__(row)

    rows = tiny.token_rows(50)
    task = tiny.TokenTask(train=rows)
    setup = build(task, Counting(rows.tokens, rows.columns), config, tiny.bert())
    snapshot.load_state(setup.state, store.newest(tmp_path / "checkpoints"))
    assert setup.state.step == 12
    for _ in setup.data.steps(setup.state.step):
        pass
    assert len(read) == 50 - 2 * 12, "epoch 3 has used two steps of 12 examples"


# ---------------------------------------------------------------------------------- through run.py, with a real SIGKILL


def write_project(folder: Path) -> list[str]:
    """A model, data, and the command line over them."""
    tiny.save_model(folder / "model")
    with open(folder / "train.csv", "w") as stream:
        stream.write("text,label\n" + "".join(f"{text},{label}\n" for text, label in tiny.texts(160)))
    return [
        sys.executable, str(ROOT / "run.py"), "--task", "classification", "--train-file", str(folder / "train.csv"),
        "--eval-fraction", "0.2", "--model", str(folder / "model"), "--batch-size", "4", "--epochs", "3", "--save-steps", "5",
        "--log-steps", "1", "--learning-rate", "1e-3", "--device", "cpu",
    ]  # fmt: skip


def kill_in_epoch_two(command: list[str], directory: Path) -> int:
    """SIGKILL as soon as the log says epoch 2 has been under way for some steps; returns the step it was at."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    step = 0
    while process.poll() is None and time.monotonic() < deadline:
        if (directory / "metrics.jsonl").exists():
            whole = [line for line in (directory / "metrics.jsonl").read_bytes().split(b"\n")[:-1] if b'"train"' in line]
            step = json.loads(whole[-1])["step"] if whole else 0
            if step >= 40:
                os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, "the run had ended before it could be killed"
    return step


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_sigkill_in_epoch_two_through_run_py(tmp_path, workers):
    """32 steps an epoch; the model file is bitwise that of the run that was left alone."""
    command = [*write_project(tmp_path), "--workers", workers]
    subprocess.run([*command, "--output-dir", str(tmp_path / "whole")], check=True, stdout=subprocess.DEVNULL)
    cut = [*command, "--output-dir", str(tmp_path / "cut")]
    step = kill_in_epoch_two(cut, tmp_path / "cut")
    assert 40 <= step < 64
    refused = subprocess.run(cut, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "--resume continues it" in refused.stderr
    resumed = subprocess.run([*cut, "--resume"], capture_output=True, text=True, check=True)
    assert "resume: exact, from step" in resumed.stdout
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "cut/model.safetensors").read_bytes()
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "cut")
    steps = [line["step"] for line in lines_of(tmp_path / "cut") if line["kind"] == "train"]
    assert steps == list(range(1, 97))
    weights = load_file(tmp_path / "cut/model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())

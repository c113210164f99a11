"""Training that is killed and resumed, and how the result is compared with a run in one piece.

``killed_after`` stands for the end of the process; ``assert_sigkill_changes_nothing`` sends a real SIGKILL to one, as do
tests/engine/record/test_own_writers.py and tests/bench/test_kill.py.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import run
from bench.toys import tiny
from engine.build import build
from engine.checkpoint import snapshot, store
from engine.config import TrainConfig
from engine.fit import make_run
from engine.loop import train
from engine.record.progress import Progress
from engine.record.run import Run
from engine.resume import finish_evaluation
from engine.state import TrainState

ROOT = Path(__file__).parent.parent.parent
TIMINGS = {
    "tflops", "mfu", "memory_gb", "steps_per_second", "examples_per_second", "tokens_per_second", "seconds", "runtime_seconds",
}  # fmt: skip

SMALL = {"batch_size": 4, "accumulation_steps": 3, "epochs": 3, "learning_rate": 1e-3, "log_steps": 2, "device": "cpu"}


def small_task() -> tiny.TokenTask:
    """50 rows: with SMALL 5 steps an epoch, 15 in all."""
    return tiny.TokenTask(train=tiny.token_rows(50), evaluation=tiny.token_rows(20, seed=5))


class Killed(BaseException):
    """Stands for the end of the process: nothing in the product catches it."""


@contextmanager
def killed_after(step: int | None) -> Iterator[None]:
    """Whatever trains in here ends after that step and its line of the log; with None it does not. It fails if no run came
    to that step."""
    log = Run.log

    def deadly(self: Run, at: Any, *others: Any) -> None:
        log(self, at, *others)
        if at.step == step:
            raise Killed

    Run.log = deadly  # type: ignore[method-assign]
    try:
        if step is None:
            yield
        else:
            with pytest.raises(Killed):
                yield
    finally:
        Run.log = log  # type: ignore[method-assign]


def train_to(
    directory: Path,
    task: Any,
    config: TrainConfig,
    model: nn.Module | None = None,
    *,
    until: int | None = None,
    resume: bool = False,
    restore_rng: bool = True,
) -> TrainState:
    """One process's worth of training; returns the state that it ends with.

    until: the process is killed after this step. resume: it goes on from the newest checkpoint. restore_rng: with False the
    random numbers are not those of the checkpoint, a control of the comparison.
    """
    directory.mkdir(exist_ok=True)
    examples = task.examples()
    setup = build(task, examples["train"], config, model)
    run = make_run(directory, task, config, setup, examples)
    if resume:
        progress = snapshot.load_state(setup.state, store.newest(directory / "checkpoints"))
        if not restore_rng:
            torch.manual_seed(0)
        run.restore(Progress.from_json(progress))
    try:
        with killed_after(until):
            finish_evaluation(run, setup)
            train(setup.state, task, setup.data, config, setup.world, run)
    finally:
        run.close()
    return setup.state


def lines_of(directory: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock has measured."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def assert_same_bits(one: TrainState, other: TrainState) -> None:
    """Weights, the optimizer's state and the schedule's place of two runs."""
    for (name, weight), (_, its) in zip(one.model.named_parameters(), other.model.named_parameters(), strict=True):
        assert torch.equal(weight, its), name
    for values, its in zip(one.optimizer.state.values(), other.optimizer.state.values(), strict=True):
        assert all(torch.equal(values[key], its[key]) for key in values)
    assert one.schedule.state_dict()["last_epoch"] == other.schedule.state_dict()["last_epoch"]


def sigkilled(command: list[str], directory: Path, at_step: int) -> int:
    """SIGKILL as soon as the log has that step; returns the step that it was at. ``command``: a process that trains."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    step = 0
    while process.poll() is None and time.monotonic() < deadline:
        if (directory / "metrics.jsonl").exists():
            whole = [line for line in (directory / "metrics.jsonl").read_bytes().split(b"\n")[:-1] if b'"train"' in line]
            step = json.loads(whole[-1])["step"] if whole else 0
            if step >= at_step:
                os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, "the run had ended before it could be killed"
    return step


def run_main(arguments: list[str]) -> tuple[int, str]:
    """run.py in this process: its exit code and all that it says."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(out):
        return run.main(arguments), out.getvalue()


def assert_sigkill_changes_nothing(arguments: list[str], folder: Path, at_step: int, last: int) -> None:
    """Through run.py: the run that is killed at that step and resumed has the model file, byte for byte, and the log of the
    one that is left alone. ``arguments``: without --output-dir; they log each step. ``last``: the number of steps."""
    assert run_main([*arguments, "--output-dir", str(folder / "whole")])[0] == 0
    cut = [*arguments, "--output-dir", str(folder / "cut")]
    assert at_step <= sigkilled([sys.executable, str(ROOT / "run.py"), *cut], folder / "cut", at_step) < last
    code, said = run_main(cut)
    assert code == 2 and "--resume continues it" in said
    code, said = run_main([*cut, "--resume"])
    assert code == 0 and "resume: exact, from step" in said
    assert (folder / "whole/model.safetensors").read_bytes() == (folder / "cut/model.safetensors").read_bytes()
    assert lines_of(folder / "whole") == lines_of(folder / "cut")
    steps = [line["step"] for line in lines_of(folder / "cut") if line["kind"] == "train"]
    assert steps == list(range(1, last + 1))
    weights = load_file(folder / "cut/model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())

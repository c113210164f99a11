"""Steps per second of one Plainloop configuration: ``python -m bench steps --task imdb --batch-size 16 --steps 20``.

Takes every training flag of run.py, trains for real (its data, its task, its book-keeping) and prints the rate of a
window after warm-up. For a comparison, and for rows to quote, there is ``python -m bench``.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

import torch

from engine import loop
from engine.build import build
from engine.config import TrainConfig
from engine.console import quiet_libraries
from engine.data.batch import Batch
from engine.data.plan import Position
from engine.data.sources import Source, SourceConfig
from engine.model.flops import count_flops, peak_flops
from engine.record.run import Run
from engine.settings.parser import flag_value, parse
from engine.state import StepRecord
from tasks import find


class Counting(Run):
    """Notes the time when the warm-up ends and when the window does."""

    warmup = 0
    began = ended = 0.0
    num_examples = num_tokens = 0

    def log(self, at: Position, micro_batches: list[Batch], record: StepRecord) -> None:
        super().log(at, micro_batches, record)
        if at.step > self.warmup:
            self.num_examples += sum(batch.num_examples for batch in micro_batches)
            self.num_tokens += sum(batch.num_tokens for batch in micro_batches)
        if at.step == self.warmup or at.is_last:
            if self.state.device.type == "cuda":
                torch.cuda.synchronize()
            self.began, self.ended = (time.perf_counter(), 0.0) if at.step == self.warmup else (self.began, time.perf_counter())

    def save(self, at: Position) -> None:
        """Nothing: a checkpoint is no step."""


def main(argv: list[str]) -> int:
    """python -m bench steps"""
    parser = ArgumentParser(prog="python -m bench steps [training flags of run.py]", description=__doc__, allow_abbrev=False)
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps in the window")
    parser.add_argument("--warmup", type=int, default=3, help="steps before it")
    options, rest = parser.parse_known_args(argv)
    if options.steps < 1 or options.warmup < 1:
        parser.error("--steps and --warmup must be at least 1")
    name = flag_value(rest, "task")
    if name is None:
        parser.error("--task is needed, as in run.py")
    kind = find(name)
    config, source, choices = parse(rest, "python -m bench steps", [TrainConfig, SourceConfig, kind.Options], kind.defaults)
    config = dataclasses.replace(config, max_steps=options.warmup + options.steps)
    quiet_libraries()
    task = kind(choices, Source(source))
    examples = task.examples()["train"]
    setup = build(task, examples, config)
    with tempfile.TemporaryDirectory() as folder:
        run = Counting(
            Path(folder), config, setup.state, setup.data.plan.num_steps,
            flops=count_flops(setup.state.model, task.level), peak_flops=peak_flops(setup.state.device, setup.precision),
        )  # fmt: skip
        run.warmup = options.warmup
        try:
            loop.train(setup.state, task, setup.data, config, setup.world, run)
        finally:
            run.close()
    seconds = run.ended - run.began
    rates = {"steps": options.steps, "examples": run.num_examples, "tokens": run.num_tokens}
    text = ", ".join(f"{number / seconds:,.4g} {name}/s" for name, number in rates.items())
    how = f"{setup.state.device}, {setup.precision}, {setup.layout.kind}"
    print(f"{text} over {options.steps} steps after {options.warmup} of warm-up ({how})")
    return 0

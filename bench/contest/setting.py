"""What all contests of one call share: the work, the machine, and where rows go."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bench.contest import contest, report
from bench.contest.job import Job
from bench.contest.workload import Workload, model_config, tokenise
from bench.machine import ROOT
from engine.distributed.device import choose_device
from engine.errors import UsageError

QUICK = {"batch_size": 8, "max_length": 128, "steps": 2, "windows": 2, "warmup": 1}
USUAL = {
    "cpu": {"batch_size": 16, "max_length": 512, "steps": 6, "windows": 3, "warmup": 1},
    "cuda": {"batch_size": 16, "max_length": 512, "steps": 60, "windows": 3, "warmup": 20},
}
SETTLE = {"cpu": 0, "cuda": 3}  # steps of each window before its clock starts


class Setting:
    """What all contests of one call share: the workload on disk, the environment, where rows go."""

    def __init__(self, options: Namespace, folder: str):
        self.options, self.folder = options, Path(folder)
        self.device = choose_device(options.device)
        usual = USUAL.get(self.device.type, USUAL["cpu"])
        for name, value in (QUICK if options.quick else usual).items():
            if getattr(options, name) is None:
                setattr(options, name, value)
        self.results = Path(options.results) if options.results else report.results_path(self.device)
        report.load(self.results)  # before anything is measured: rows are added to it
        self.stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())

    @cached_property
    def env(self) -> dict[str, Any]:
        """Machine, versions, and the rates of products, which are measured when they are first asked for."""
        return report.environment(self.device, matmul_rates(self.device, self.options.matmul_sizes))

    @cached_property
    def workload(self) -> Workload:
        """The texts of the command line; not every track has them. Raises UsageError, DataError."""
        found = make_workload(self.options)
        refuse_foreign(found, self.options.model, self.options.max_length)
        contest.say(f"workload: {found.name}, {found.lengths.mean():.0f} tokens each")
        return found

    @cached_property
    def tokens(self) -> str:
        """The file of the workload."""
        return self.store(self.workload, "workload")

    def store(self, workload: Workload, name: str) -> str:
        path = self.folder / f"{name}.npz"
        workload.save(path)
        return str(path)

    def base(self, tokens: str = "") -> Job:
        """The job that all contenders vary, on this file of tokens."""
        o = self.options
        return Job(
            system="", contender="", track="", tokens=tokens, model=o.model, device=str(self.device),
            allocator=o.allocator, batch_size=o.batch_size, max_length=o.max_length, steps=o.steps, windows=o.windows,
            warmup=o.warmup, settle=SETTLE.get(self.device.type, 0),
        )  # fmt: skip

    def hold(self, jobs: Sequence[Job], workload: Workload, title: str, relative: str = "Trainer") -> list[dict[str, Any]]:
        """One contest: its rows are kept and its table printed."""
        contest.say(title)
        able = contest.split_missing(jobs)
        if not able:
            return []
        env = self.env  # before the contenders compute
        run_id = f"{self.stamp}-{able[0].track.replace(' ', '-')}"
        rows: list[dict[str, Any]] = []

        def keep(contenders: Sequence[contest.Contender]) -> None:
            """What is known so far, in the file: whatever ends this process, no window is lost."""
            rows[:] = report.make_rows(contenders, workload, env, run_id=run_id, quick=self.options.quick)
            report.replace(self.results, run_id, rows)

        budget = self.options.budget
        ready = self.options.ready_budget or (budget / 2 if budget else None)
        keep(contest.run(able, budget_s=budget, ready_s=ready, keep=keep))
        print(report.table(rows, title, relative) + "\n", flush=True)
        return rows


def make_workload(options: Namespace) -> Workload:
    data = options.tokens or options.data
    longest = options.max_length
    return tokenise(data, options.model, longest, options.rows, options.text_column, options.label_column)


def refuse_foreign(workload: Workload, model: str, max_length: int) -> None:
    """Raises UsageError for token ids, or rows as long, as the model does not know: each contender would fail with them."""
    config = model_config(model, workload.num_labels)
    longest, vocabulary = getattr(config, "max_position_embeddings", None), getattr(config, "vocab_size", None)
    if longest is not None and longest < max_length:
        raise UsageError(f"--model {model} has {longest} positions: give it --max-length {longest}, or less")
    if vocabulary is not None and vocabulary <= (largest := int(workload.ids.max())):
        raise UsageError(
            f"--model {model} has a vocabulary of {vocabulary:,} tokens, and the rows hold token {largest:,}: they were made "
            "with another model's tokenizer"
        )


def matmul_rates(device: torch.device, sizes: Sequence[int]) -> Mapping[str, float]:
    """In a process of its own: the parent stays out of the device's memory."""
    command = [sys.executable, "-m", "bench", "matmul", "--device", str(device), "--sizes", *map(str, sizes)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rates: dict[str, float] = json.loads(output)
    contest.say("matmul: " + ", ".join(f"{name} {rate * 1000:,.0f} GFLOP/s" for name, rate in rates.items()))
    return rates

"""The comparison: tracks one after the other, each a contest, its rows kept and printed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.contest import contest, report, tracks
from bench.contest.job import Job
from bench.contest.workload import Workload, random_workload, tokenise
from bench.machine import ROOT
from engine.distributed.device import choose_device

QUICK = {"batch_size": 8, "max_length": 128, "steps": 2, "windows": 2, "warmup": 1}
USUAL = {
    "cpu": {"batch_size": 16, "max_length": 512, "steps": 6, "windows": 3, "warmup": 1},
    "cuda": {"batch_size": 16, "max_length": 512, "steps": 80, "windows": 3, "warmup": 40},
}
OVERHEAD_STEPS = {True: 200, False: 500}


def add_workload_flags(parser: ArgumentParser) -> None:
    """What is trained on what: the same flags in every part of the bench."""
    parser.add_argument(
        "--model", default="minilm", help="minilm (offline extra), folder, Hub name, random:{bert,distilbert,tiny}"
    )
    parser.add_argument("--data", default="imdb", help="imdb, yelp, random, or a CSV file")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--label-column", default="label")
    parser.add_argument(
        "--tokens", help="an .npz file made by python -m bench tokens: neither texts nor a tokenizer are needed"
    )
    parser.add_argument("--rows", type=int, default=4000, help="random subset of the texts")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--steps", type=int, help="optimizer steps in a window")
    parser.add_argument("--windows", type=int)
    parser.add_argument("--warmup", type=int, help="steps before the first window")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--allocator", choices=("default", "mallopt"), default="default", help="of all processes alike")
    parser.add_argument("--results", help="JSON file that rows are added to (default: bench/results/bench-DEVICE.json)")
    parser.add_argument("--budget", type=float, help="seconds after which a contest begins no further window")
    parser.add_argument("--matmul-sizes", type=int, nargs="+", default=[2048, 4096], help="of the measured matrix products")
    parser.add_argument("--quick", action="store_true", help="within ten minutes on two cores; not for quoting")


def add_compare_flags(parser: ArgumentParser) -> None:
    add_workload_flags(parser)
    parser.add_argument("--track", nargs="+", choices=list(tracks.TRACKS), help="default: all")
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "bf16"), help="of track S (default: fp32, and bf16 if native)"
    )
    parser.add_argument("--systems", nargs="+", choices=tracks.SYSTEMS, default=list(tracks.SYSTEMS))
    parser.add_argument("--compile", action="store_true", help="compiled rows in track B on a CPU, too")
    parser.add_argument("--no-pictures", action="store_true")


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
        self.workload = make_workload(options)
        self.tokens = self.store(self.workload, "workload")
        contest.say(f"workload: {self.workload.name}, {self.workload.lengths.mean():.0f} tokens each")
        self.env = report.environment(self.device, matmul_rates(self.device, options.matmul_sizes))
        self.stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())

    def store(self, workload: Workload, name: str) -> str:
        path = self.folder / f"{name}.npz"
        workload.save(path)
        return str(path)

    def base(self) -> Job:
        """The job that all contenders vary."""
        o = self.options
        return Job(
            system="", contender="", track="", tokens=self.tokens, model=o.model, device=str(self.device),
            allocator=o.allocator, batch_size=o.batch_size, max_length=o.max_length, steps=o.steps, windows=o.windows,
            warmup=o.warmup,
        )  # fmt: skip

    def hold(self, jobs: Sequence[Job], workload: Workload, title: str, relative: str = "Trainer") -> list[dict[str, Any]]:
        """One contest: its rows are kept and its table printed."""
        contest.say(title)
        able = contest.split_missing(jobs)
        if not able:
            return []
        contenders = contest.run(able, budget_s=self.options.budget)
        run_id = f"{self.stamp}-{able[0].track.replace(' ', '-')}"
        rows = report.make_rows(contenders, workload, self.env, run_id=run_id, quick=self.options.quick)
        report.append(self.results, rows)
        print(report.table(rows, title, relative) + "\n", flush=True)
        return rows


def make_workload(options: Namespace) -> Workload:
    data = options.tokens or options.data
    longest = options.max_length
    return tokenise(data, options.model, longest, options.rows, options.text_column, options.label_column)


def matmul_rates(device: torch.device, sizes: Sequence[int]) -> Mapping[str, float]:
    """In a process of its own: the parent stays out of the device's memory."""
    command = [sys.executable, "-m", "bench.contest.matmul", "--device", str(device), "--sizes", *map(str, sizes)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rates: dict[str, float] = json.loads(output)
    contest.say("matmul: " + ", ".join(f"{name} {rate * 1000:,.0f} GFLOP/s" for name, rate in rates.items()))
    return rates


def compare(options: Namespace) -> list[dict[str, Any]]:
    """All tracks asked for; returns their rows."""
    from engine.precision import has_native_bf16

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        setting = Setting(options, folder)
        chosen = options.track or (["D", "S", "overhead"] if options.quick else list(tracks.TRACKS))
        native = has_native_bf16(setting.device)
        precisions = options.precision or (["fp32"] if options.quick or not native else ["fp32", "bf16"])
        rows: list[dict[str, Any]] = []
        for track in chosen:
            for precision in precisions if track == "S" else ["fp32"]:
                base, workload = setting.base(), setting.workload
                if track == "overhead":
                    workload = random_workload(400, 8, 8)
                    steps = OVERHEAD_STEPS[options.quick] if options.steps >= 2 else options.steps
                    base = tracks.overhead_base(base, setting.store(workload, "overhead"), steps)
                jobs = tracks.jobs_of(
                    track, base, setting.device, systems=options.systems, precision=precision, compile=options.compile
                )
                what = f"{precision}, " if track == "S" else ""
                title = (
                    f"track {track} ({what}{tracks.TRACKS[track]}), {base.model}, batch {base.batch_size} x {base.max_length}"
                )
                rows += setting.hold(jobs, workload, title)
        if not options.no_pictures:
            from bench.contest import pictures

            pictures.draw(setting.results)
    return rows


def with_defaults(**given: Any) -> Namespace:
    """The options of a comparison from Python."""
    parser = ArgumentParser()
    add_compare_flags(parser)
    options = parser.parse_args([])
    for name, value in given.items():
        setattr(options, name, value)
    return options


def replace_jobs(jobs: Sequence[Job], **changes: Any) -> list[Job]:
    return [dataclasses.replace(job, **changes) for job in jobs]

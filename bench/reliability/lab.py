"""Runs of run.py in processes of their own, undisturbed or killed at some moment, and whether two ends are the same.

Compared are the finished model, every checkpoint that is left (weights, optimizer, random generators, schedule, loss scale,
log window), the figures of run.json, and metrics.jsonl, of which only what a clock has measured may differ.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.reliability import forked

TIMED = frozenset({
    "tflops", "mfu", "memory_gb", "steps_per_second", "examples_per_second", "tokens_per_second", "seconds",
    "runtime_seconds", "train_seconds", "metrics_bytes", "train_runtime", "train_samples_per_second",
    "train_steps_per_second", "wall_seconds", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second",
})  # fmt: skip
Patch = Callable[[], None]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ---------------------------------------------------------------------------------------------------- two finished runs


NOT_COMPARED = {".lock", "report.html", "README.md"}  # the pages are made from run.json and metrics.jsonl, timings and all


def timeless(value: Any) -> Any:
    """JSON without what a clock has measured."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMED}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def contents(directory: Path) -> dict[str, Any]:
    """All that a finished run consists of, by name: bytes, or JSON without timings."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file() and path.name not in NOT_COMPARED):
        name = str(path.relative_to(directory))
        if path.name == "run.json":
            document = json.loads(path.read_bytes())
            found[name] = timeless({key: document[key] for key in ("status", "metrics", "data")})
        elif path.name == "metrics.jsonl":
            found[name] = [timeless(json.loads(line)) for line in path.read_bytes().splitlines()]
        elif path.name == "state.json":
            found[name] = timeless(json.loads(path.read_bytes()))
        elif path.name == "MANIFEST.json":  # it holds the sha256 of state.json, and so of timings
            found[name] = sorted(json.loads(path.read_bytes())["files"])
        else:
            found[name] = path.read_bytes()
    return found


def differences(undisturbed: Path, disturbed: Path) -> list[str]:
    """Names of the files in which two finished runs differ; [] if they are the same."""
    one, other = contents(undisturbed), contents(disturbed)
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


# ------------------------------------------------------------------------------------------------------------- the runs


class Lab:
    """A folder with data, a model and runs over them. ``undisturbed`` runs are made once for each set of flags."""

    def __init__(self, folder: Path, base: Sequence[str]):
        self.folder, self.base = folder, list(base)
        self.seconds: dict[tuple[str, ...], tuple[float, float]] = {}  # of an undisturbed run, of its training
        self.log = folder / "output.txt"

    def run(
        self,
        flags: Sequence[str],
        output: Path,
        patch: Patch = lambda: None,
        kill_after: float | None = None,
        *,
        marks: Callable[[Callable[[], None]], None] | None = None,
        way: str = "--resume",
    ) -> forked.Ended:
        """``run.py``, with ``--resume`` or another ``way``; ``patch`` is called in its process before it starts.

        ``kill_after`` counts from the start of the process or, with ``marks``, from when the function that this is given, in
        that process, is called.
        """

        def work(mark: Callable[[], None]) -> int:
            import run

            patch()
            if marks is not None:
                marks(mark)
            return run.main([*self.base, *flags, "--output-dir", str(output), way])

        return forked.in_child(work, self.log, kill_after, marked=marks is not None)

    def undisturbed(self, flags: Sequence[str], patch: Patch = lambda: None) -> Path:
        """Raises RuntimeError with what it has said, if it fails."""
        output = self.folder / ("undisturbed" + "".join(flags).replace("/", "_"))
        if tuple(flags) not in self.seconds:
            ended = self.run(flags, output, patch)
            if ended.code != 0:
                raise RuntimeError(f"the undisturbed run failed:\n{self.log.read_text()[-2000:]}")
            steps = [line["step"] for line in contents(output)["metrics.jsonl"] if line["kind"] == "train"]
            assert steps == sorted(set(steps)), "each step once"
            self.time(flags, output, ended)
        return output

    def time(self, flags: Sequence[str], output: Path, ended: forked.Ended) -> None:
        """Note how long a run took that nothing has disturbed: the shortest so far, for a machine may be busy at times."""
        training = json.loads((output / "run.json").read_bytes())["metrics"]["wall_seconds"]
        whole, of_it = self.seconds.get(tuple(flags), (ended.seconds, training))
        self.seconds[tuple(flags)] = (min(whole, ended.seconds), min(of_it, training))

    def fresh(self) -> Path:
        output = self.folder / "disturbed"
        shutil.rmtree(output, ignore_errors=True)
        return output


def tiny_lab(folder: Path) -> Lab:
    """DistilBERT of 2 layers of width 32, dropout on; 50 rows, so that the last of 5 steps an epoch is short."""
    tiny = importlib.import_module("bench.toys.tiny")

    def make(_: Any) -> None:
        tiny.save_model(folder / "model", tiny.distilbert().distilbert)
        for name, number, seed in (("train", 50, 0), ("eval", 20, 1)):
            with open(folder / f"{name}.csv", "w", newline="") as stream:
                csv.writer(stream).writerows([("text", "label"), *tiny.texts(number, seed)])

    folder.mkdir(parents=True)
    forked.in_child(make, folder / "output.txt")
    files = ["--train-file", f"{folder}/train.csv", "--eval-file", f"{folder}/eval.csv", "--model", f"{folder}/model"]
    return Lab(folder, ["--task", "classification", *files, "--device", "cpu", "--learning-rate", "1e-3",
                        "--batch-size", "4", "--accumulation-steps", "3", "--epochs", "3"])  # fmt: skip


def imdb_lab(folder: Path) -> Lab:
    """MiniLM of the offline extra on real reviews."""
    folder.mkdir(parents=True)
    return Lab(folder, ["--task", "imdb", "--max-train-examples", "64", "--max-eval-examples", "32", "--max-length", "64",
                        "--epochs", "2", "--learning-rate", "1e-4", "--log-steps", "1", "--device", "cpu"])  # fmt: skip

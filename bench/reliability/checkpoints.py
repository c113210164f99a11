"""How much memory saving and loading a checkpoint take on each rank, above the state itself.

    python -m bench checkpoints [--results FILE]

A BERT of MiniLM's size (a state of 12 bytes a weight: weights and AdamW's two averages), on one rank, and with --shard on two
and four: one step, a save, and a resume. Each number is a rank's own memory (RssAnon) at its peak, looked at every
millisecond, after free memory has been given back: for saving above what it was before, for resuming above what it is after.
"""

from __future__ import annotations

import ctypes
import importlib
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.flags import make_parser
from bench.machine import RESULTS, keep
from bench.reliability.endurance import memory_mb
from bench.reliability.forked import warm_up

CASES = ((1, False, False), (1, False, True), (2, True, False), (2, True, True), (4, True, False), (4, True, True))
SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def own_mb() -> float:
    """This process's memory now, without what it has freed."""
    ctypes.CDLL(None).malloc_trim(0)
    return memory_mb()["own"]


class Watch:
    """The most memory while it is entered."""

    def __enter__(self) -> Watch:
        self.before = self.peak = own_mb()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.001):
            self.peak = max(self.peak, memory_mb()["own"])

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.after = own_mb()


def watched(function: Callable[..., Any], found: Callable[[Watch], None]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        with Watch() as watch:
            result = function(*arguments)
            if hasattr(arguments[0], "saver"):
                getattr(arguments[0].saver, "wait", lambda: None)()  # --async-save: until it is on the disk
        found(watch)
        return result

    return call


def work(folder: Path, *, shard: bool, asynchronous: bool) -> dict[str, float]:
    """One rank: train a step and save; then the same run again, which resumes and has nothing left to do."""
    from transformers import BertConfig, BertForSequenceClassification

    from engine.config import TrainConfig
    from engine.record.run import Run

    fit: Any = importlib.import_module("engine.fit")
    tiny = importlib.import_module("bench.toys.tiny")
    measured: dict[str, float] = {}
    Run.save = watched(Run.save, lambda w: measured.update(saving=w.peak - w.before))  # type: ignore[method-assign]
    fit.resume = watched(fit.resume, lambda w: measured.update(resuming=w.peak - w.after))
    fit.write_model = lambda *_: None  # the run stays unfinished
    for resume in (False, True):
        model = BertForSequenceClassification(BertConfig(num_labels=3, **SIZES))
        config = TrainConfig(batch_size=4, max_steps=1, device="cpu", precision="fp32", output_dir=str(folder), shard=shard,
                             async_save=asynchronous, resume=resume)  # fmt: skip
        fit.fit(tiny.TokenTask(train=tiny.token_rows(8)), config, model)
    return {name: round(value, 1) for name, value in measured.items()}


def measure(folder: Path, size: int, *, shard: bool, asynchronous: bool) -> dict[str, Any]:
    ranks = importlib.import_module("bench.toys.ranks")
    began = time.perf_counter()
    found = ranks.in_ranks(size, lambda rank: work(folder / "run", shard=shard, asynchronous=asynchronous),
                           output=folder / "output.txt")  # fmt: skip
    if not all(isinstance(one, dict) for one in found):
        raise RuntimeError(f"{found}\n{(folder / 'output.txt').read_text()[-3000:]}")
    files = {p.name: p.stat().st_size / 2**20 for p in (folder / "run/checkpoints/step-00000001").glob("*.safetensors")}
    state = sum(megabytes for name, megabytes in files.items() if not name.startswith("rng"))
    row = {
        "ranks": size, "shard": shard, "async_save": asynchronous, "state_mb": round(state, 1),
        "share_mb": round(state / size if shard else state, 1), "saving_mb": [one["saving"] for one in found],
        "resuming_mb": [one["resuming"] for one in found], "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    print(line(row), flush=True)
    return row


def line(row: dict[str, Any]) -> str:
    how = f"{row['ranks']} rank{'s, --shard' if row['shard'] else ''}{', --async-save' if row['async_save'] else ''}"
    saving, resuming = (", ".join(f"{value:.0f}" for value in row[name]) for name in ("saving_mb", "resuming_mb"))
    return f"{how}: {row['share_mb']:.0f} MB of the state on each; saving takes {saving} MB more, resuming {resuming} MB"


def main(argv: list[str]) -> int:
    parser = make_parser("checkpoints", __doc__)
    parser.add_argument(
        "--results", type=Path, default=RESULTS / "checkpoints-cpu.json", help="default: checkpoints-cpu.json of bench/results"
    )
    options = parser.parse_args(argv)
    warm_up()
    rows = []
    for size, shard, asynchronous in CASES:
        with tempfile.TemporaryDirectory(prefix="checkpoints-") as name:
            rows.append(measure(Path(name), size, shard=shard, asynchronous=asynchronous))
    keep(options.results, {"rows": rows})
    return 0

"""Long runs and large files: memory that does not grow with steps, nor with rows.

    python -m bench endurance              all parts, some minutes each
    python -m bench endurance steps        10,000 steps of a tiny model in one process: bytes a step after the warm-up
    python -m bench endurance csv parquet  1,000,000 rows against 10,000: peak memory, time until the first step
    python -m bench endurance saving       how long training waits for a checkpoint of 272 MB, with and without --async-save

Memory is the process's own (RssAnon): pages of mapped files, which the system takes back when it needs them, stand beside it.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.flags import at_least, make_parser, one_of
from bench.machine import RESULTS, keep
from bench.reliability import forked
from bench.reliability.lab import Lab, tiny_lab

PARTS = ("steps", "csv", "parquet", "saving")
MAX_BYTES_PER_STEP = 1024
MAX_EXTRA_MB = 300
SAMPLE_SECONDS = 0.02
FEW_ROWS = 10_000


def memory_mb(process: int | str = "self") -> dict[str, float]:
    """Of a process now: its own, and with what it maps of files."""
    found = dict(re.findall(r"^(RssAnon|VmRSS):\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(), flags=re.MULTILINE))
    return {"own": int(found["RssAnon"]) / 1024, "with_files": int(found["VmRSS"]) / 1024}


class Peak:
    """The most memory of this process while it is entered, looked at every 20 ms."""

    def __init__(self) -> None:
        self.mb = memory_mb()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self.mb = {name: max(value, self.mb[name]) for name, value in memory_mb().items()}

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


# ------------------------------------------------------------------------------------------------------------- steps


def steps(lab: Lab, number: int) -> dict[str, Any]:
    """Memory every 100 steps, and the slope of a line through it after the first fifth."""
    record = lab.folder / "memory.jsonl"

    def watch() -> None:
        run: Any = importlib.import_module("engine.record.run").Run
        log = run.log

        def watched(self: Any, at: Any, *arguments: Any) -> None:
            log(self, at, *arguments)
            if at.step % 100 == 0:
                with open(record, "a") as stream:
                    stream.write(json.dumps([at.step, memory_mb()["own"]]) + "\n")

        run.log = watched

    began = time.perf_counter()
    flags = ["--max-steps", str(number), "--accumulation-steps", "1", "--eval-steps", "500", "--save-steps", "500"]
    base = lab.base[: lab.base.index("--accumulation-steps")]
    ended = Lab(lab.folder, base).run(flags, lab.fresh(), watch)
    assert ended.code == 0, lab.log.read_text()[-2000:]
    points = np.array([json.loads(line) for line in record.read_text().splitlines()])
    late = points[points[:, 0] > number / 5]
    slope = float(np.polyfit(late[:, 0], late[:, 1] * 2**20, 1)[0])
    return {"steps": number, "bytes_per_step": round(slope, 1), "limit": MAX_BYTES_PER_STEP,
            "mb_after_warm_up": float(late[0, 1]), "mb_at_the_end": float(late[-1, 1]),
            "seconds": round(time.perf_counter() - began, 1), "as_it_must": slope < MAX_BYTES_PER_STEP}  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- rows


def rows(lab: Lab, kind: str, number: int) -> dict[str, Any]:
    """run.py on a file with few rows, and on one with many."""
    few, many = (run_on(lab, kind, n) for n in (FEW_ROWS, number))
    extra = {name: round(many["peak_mb"][name] - few["peak_mb"][name], 1) for name in few["peak_mb"]}
    print(f"  {kind}: {extra['own']:.0f} MB more for {number:,} rows, first step after {many['seconds_to_first_step']:.0f} s")
    return {"kind": kind, "runs": [few, many], "extra_mb": extra, "limit_mb": MAX_EXTRA_MB,
            "as_it_must": extra["own"] < MAX_EXTRA_MB}  # fmt: skip


def run_on(lab: Lab, kind: str, number: int) -> dict[str, Any]:
    """20 steps, batch 16, as a user would; its memory is watched from the first line of run.py on."""
    path, record = lab.folder / f"{number}.{kind}", lab.folder / "peak.json"

    def write(_: Callable[[], None]) -> None:
        words, generator = [f"w{i}" for i in range(95)], np.random.default_rng(0)
        texts = [" ".join(words[i] for i in generator.integers(0, 95, 20)) for _ in range(FEW_ROWS)]
        columns = {
            "text": [f"{texts[i % FEW_ROWS]} w{i % 95} {i}" for i in range(number)],
            "label": ["abc"[i % 3] for i in range(number)],
        }
        if kind == "parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.table(columns), path)
        else:
            with open(path, "w", newline="") as stream:
                csv.writer(stream).writerows([("text", "label"), *zip(columns["text"], columns["label"], strict=True)])

    def work(_: Callable[[], None]) -> int:
        os.environ["PLAINLOOP_CACHE"] = str(lab.folder / f"cache-{number}-{kind}")  # the texts of both kinds are the same
        run: Any = importlib.import_module("run")
        fit: Any = importlib.import_module("engine.fit")
        train, began, first = fit.train, time.perf_counter(), []

        def timed(*arguments: Any) -> None:
            first.append(time.perf_counter() - began)
            train(*arguments)

        fit.train = timed
        with Peak() as peak:
            code: int = run.main([
                "--task", "classification", "--train-file", str(path), "--model", str(lab.folder / "model"), "--output-dir",
                str(lab.folder / f"run-{number}-{kind}"), "--max-steps", "20", "--device", "cpu", "--overwrite",
            ])  # fmt: skip
        record.write_text(json.dumps({"peak_mb": peak.mb, "seconds_to_first_step": round(first[0], 1)}))
        return code

    assert forked.in_child(write, lab.log).code == 0
    ended = forked.in_child(work, lab.log)
    assert ended.code == 0, lab.log.read_text()[-2000:]
    megabytes = path.stat().st_size / 2**20
    path.unlink()
    found: dict[str, Any] = json.loads(record.read_text())
    return {"rows": number, "file_mb": round(megabytes, 1), **found}


# ------------------------------------------------------------------------------------------------------------ saving


def saving(folder: Path, saves: int) -> dict[str, Any]:
    """Seconds that training waits for a save, and that a step takes while one is being written."""
    folder.mkdir()
    measured = {}
    for name in ("sync", "async"):
        record = folder / f"{name}.json"

        def work(_: Callable[[], None], name: str = name, record: Path = record) -> None:
            record.write_text(json.dumps(time_saves(folder / name, asynchronous=name == "async", saves=saves)))

        assert forked.in_child(work, folder / "output.txt").code == 0, (folder / "output.txt").read_text()[-2000:]
        measured[name] = json.loads(record.read_text())
    waits = {name: run["wait_s"]["median"] for name, run in measured.items()}
    print(f"  training waits {waits['sync']:.2f} s, with --async-save {waits['async']:.2f} s")
    ratio = waits["sync"] / waits["async"]
    return {**measured, "times_shorter": round(ratio, 1), "as_it_must": ratio > 1}


def time_saves(directory: Path, *, asynchronous: bool, saves: int) -> dict[str, Any]:
    """MiniLM's size with random weights; 20 steps between two saves, so that one is written before the next begins."""
    from transformers import BertConfig, BertForSequenceClassification

    from engine.config import TrainConfig
    from engine.fit import fit
    from engine.record.run import Run

    tiny = importlib.import_module("bench.toys.tiny")
    waits: list[float] = []
    save = Run.save

    def timed(self: Run, at: Any) -> None:
        began = time.perf_counter()
        save(self, at)
        waits.append(time.perf_counter() - began)

    Run.save = timed  # type: ignore[method-assign]
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    model = BertForSequenceClassification(BertConfig(num_labels=3, **sizes))
    task = tiny.TokenTask(train=tiny.token_rows(200))
    config = TrainConfig(batch_size=2, max_steps=20 * saves, save_steps=20, device="cpu", output_dir=str(directory),
                         async_save=asynchronous)  # fmt: skip
    began = time.perf_counter()
    fit(task, config, model)
    size = sum(path.stat().st_size for path in sorted((directory / "checkpoints").glob("step-*"))[-1].iterdir())
    return {"checkpoint_mb": round(size / 1e6), "saves": len(waits), "run_s": round(time.perf_counter() - began, 1),
            "wait_s": {name: round(of(waits), 3) for name, of in (("median", median), ("min", min), ("max", max))}}  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- main


def main(argv: Sequence[str]) -> int:
    """Exit code 0 if every bound held."""
    parser = make_parser("endurance", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", type=one_of(PARTS), help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--steps", type=at_least(1), default=10_000, help="of the part steps")
    parser.add_argument("--rows", type=at_least(1), default=1_000_000, help="of the large files")
    parser.add_argument("--saves", type=at_least(1), default=7, help="that are timed, each way")
    parser.add_argument(
        "--results", type=Path, default=RESULTS / "endurance-cpu.json", help="default: endurance-cpu.json of bench/results"
    )
    options = parser.parse_args(argv)
    forked.warm_up()
    document = json.loads(options.results.read_text()) if options.results.exists() else {}
    with tempfile.TemporaryDirectory(prefix="endurance-") as name:
        folder = Path(name)
        os.environ["PLAINLOOP_CACHE"] = str(folder / "cache")
        lab = tiny_lab(folder / "tiny")
        for part in options.parts or PARTS:
            print(f"{part}:", flush=True)
            if part == "steps":
                document[part] = steps(lab, options.steps)
            elif part == "saving":
                document[part] = saving(folder / "saving", options.saves)
            else:
                document[part] = rows(lab, part, options.rows)
            keep(options.results, document)
    print(summary(document))
    return 0 if all(document[part]["as_it_must"] for part in PARTS if part in document) else 1


def summary(document: dict[str, Any]) -> str:
    """The table."""
    lines = []
    if "steps" in document:
        found = document["steps"]
        lines.append(
            f"{found['steps']:,} steps: {found['bytes_per_step']} bytes a step after the warm-up (at most {found['limit']})"
        )
    for part in ("csv", "parquet"):
        if part in document:
            found = document[part]
            for run in found["runs"]:
                lines.append(f"{part}, {run['rows']:,} rows ({run['file_mb']} MB): peak {run['peak_mb']['own']:.0f} MB, "
                             f"first step after {run['seconds_to_first_step']} s")  # fmt: skip
            lines.append(f"    {found['extra_mb']['own']} MB more (at most {found['limit_mb']})")
    if "saving" in document:
        for name in ("sync", "async"):
            run = document["saving"][name]
            lines.append(f"saving {run['checkpoint_mb']} MB, {name}: training waits {run['wait_s']['median']} s")
    return "\n".join(lines)

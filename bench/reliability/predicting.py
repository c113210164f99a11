"""``predict`` on a file larger than one would hold: memory, rows per second, and SIGKILLs at random moments with --resume.

    python -m bench predict               a million rows with a tiny model, and 20 kills: some twenty minutes on one core
    python -m bench predict kills         the kills alone, of a file of 40,000 rows again and again
    python -m bench predict large         the large file alone, killed so often before it is whole

"at once" is the same command with all rows in one window, as the command was before it had any.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.flags import at_least, make_parser, one_of
from bench.machine import RESULTS, ROOT, keep
from bench.reliability import forked

PARTS = ("memory", "kills", "large")
MAX_ATTEMPTS = 200  # of one file, until it is written
AT_ONCE = "from engine.task import Task; Task.predict_rows = None; "
HOW: dict[str, tuple[tuple[str, ...], bool]] = {  # the flags, and whether all rows are in one window
    "in windows": ((), False), "at once": ((), True), "1 process": (("--num-processes", "1"), False),
    "2 processes": (("--num-processes", "2"), False),
}  # fmt: skip
CALL = """
import sys, run
code = run.main(sys.argv[2:])
[peak] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]  # wait4's figure has the parent's in it
open(sys.argv[1], "w").write(peak.split()[1])
sys.exit(code)
"""


def make_rows(path: Path, number: int) -> Path:
    """Short texts with an id each."""
    from bench.toys.tiny import WORDS

    generator = np.random.default_rng(0)
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "text"])
        for row in range(number):
            writer.writerow(
                [row, " ".join(WORDS[i] for i in generator.integers(0, len(WORDS), int(generator.integers(3, 12))))]
            )
    return path


def make_run(folder: Path) -> Path:
    """A finished run of tiny.py's model, trained by run.py."""
    from bench.toys import tiny

    tiny.save_model(folder / "model")
    tiny.save_texts(folder, train=60, eval=30)
    flags = ["--task", "classification", "--model", folder / "model", "--train-file", folder / "train.csv", "--eval-file",
             folder / "eval.csv", "--epochs", "1", "--device", "cpu", "--output-dir", folder / "run"]  # fmt: skip
    command = [sys.executable, "run.py", *map(str, flags)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder / "run"


def measured(model: Path, rows: Path, output: Path, *more: str, at_once: bool = False) -> dict[str, Any]:
    """Seconds and the peak of resident memory of one call, in a process of its own."""
    flags = ["predict", "--model", str(model), "--input", str(rows), "--output", str(output), "--device", "cpu", *more]
    began = time.perf_counter()
    peak = output.with_suffix(".peak")
    command = [sys.executable, "-c", (AT_ONCE if at_once else "") + CALL, str(peak), *flags]
    code = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode
    if code:
        raise SystemExit(f"predict ended with {code}: {' '.join(flags)}")
    return {"seconds": round(time.perf_counter() - began, 1), "peak_mb": round(int(peak.read_text()) / 1024, 1)}


def memory(folder: Path, number: int, ways: Sequence[str]) -> list[dict[str, Any]]:
    """A few rows, and all of them in each of these ways of HOW; are the files the same?"""
    model = make_run(folder)
    few, many = make_rows(folder / "few.csv", 1000), make_rows(folder / "many.csv", number)
    found: list[dict[str, Any]] = [{"rows": 1000, "how": "in windows"} | measured(model, few, folder / "few-out.csv")]
    for how in ways:
        more, at_once = HOW[how]
        output = folder / f"{how.replace(' ', '-')}.csv"
        one = {"rows": number, "how": how} | measured(model, many, output, *more, at_once=at_once)
        one["rows_per_second"] = round((number - 1000) / max(0.1, one["seconds"] - found[0]["seconds"]))
        one["mb_above_few"] = round(one["peak_mb"] - found[0]["peak_mb"], 1)
        one["same_bytes_as_in_windows"] = output.read_bytes() == (folder / "in-windows.csv").read_bytes()
        found.append(one)
        print(f"  {how}: {one['seconds']} s, {one['mb_above_few']} MB above {few.name}", flush=True)
    return found


def kills(
    folder: Path, rows: int, number: int, seed: int, flags: Sequence[str] = (), whole: tuple[Path, float] | None = None
) -> dict[str, Any]:
    """Kill until ``number`` kills have struck while rows are predicted, and go on with --resume; compare each end.

    ``whole``: the file of a call that was never stopped, and its seconds; then one file may well take all kills, of which each
    strikes in the first tenth of that time, for 20 of them. None: it is predicted first, and kills strike at any time.
    """
    import run

    model, table = make_run(folder), make_rows(folder / "rows.csv", rows)
    generator, struck, files, wrong, before = random.Random(seed), 0, 0, 0, 0

    def call(output: Path, kill_after: float | None, *more: str) -> forked.Ended:
        words = ["predict", "--model", str(model), "--input", str(table), "--output", str(output), "--device", "cpu", *more]
        return forked.in_child(lambda _: run.main(words), folder / "log", kill_after)

    if whole is None:
        ended = call(folder / "whole.csv", None, *flags)
        if ended.code:
            raise SystemExit(f"predict ended with {ended.code}: {(folder / 'log').read_text()[-400:]}")
        expected, latest = folder / "whole.csv", ended.seconds
    else:
        expected, latest = whole[0], whole[1] * 2 / number
    while struck < number:
        output = folder / f"{files}.csv"
        progress = output.with_name(f"{output.name}.progress")
        for _ in range(MAX_ATTEMPTS):
            after = generator.uniform(0, latest) if struck < number else None
            ended = call(output, after, "--resume", *flags)
            if ended.code is not None:
                break
            is_begun = progress.exists()
            struck, before = struck + is_begun, before + (not is_begun)
        files += 1
        is_equal = ended.code == 0 and output.read_bytes() == expected.read_bytes()
        wrong += not (is_equal and not progress.exists() and not output.with_name(f"{output.name}.partial").exists())
        print(f"\r  {struck} kills of {files} files", end="", flush=True)
    print()
    return {"rows": rows, "flags": " ".join(flags), "kills": struck, "kills_before_the_first_row": before, "files": files,
            "equal": files - wrong, "seed": seed}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Exit code 0 if every end was equal, and the memory within ``--most-mb``."""
    parser = make_parser("predict", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", type=one_of(PARTS), help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--rows", type=at_least(1), default=1_000_000, help="of the large file")
    parser.add_argument("--how", nargs="+", choices=HOW, default=[*HOW], help="the ways in which memory reads the large file")
    parser.add_argument("--most-mb", type=float, default=200, help="that it may take above a file of 1,000 rows")
    parser.add_argument(
        "--kills", type=at_least(0), default=20, help="while rows are predicted; as many again with two processes"
    )
    parser.add_argument("--kill-rows", type=at_least(0), default=40_000, help="of the file that is predicted under kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--results", type=Path, default=RESULTS / "predict-cpu.json")
    options = parser.parse_args(argv)
    document = json.loads(options.results.read_text()) if options.results.exists() else {}
    forked.warm_up()
    with tempfile.TemporaryDirectory(prefix="predict-") as name:
        os.environ["PLAINLOOP_CACHE"] = str(Path(name) / "cache")
        for part in options.parts or PARTS:
            print(f"{part}:", flush=True)
            if part == "memory":
                document[part] = memory(
                    Path(name), options.rows, ["in windows", *(way for way in options.how if way != "in windows")]
                )
            elif part == "large":
                document[part] = [
                    kills(Path(name), options.rows, options.kills, options.seed, whole=uninterrupted(Path(name), document))
                ]
            else:
                calls: tuple[tuple[str, ...], ...] = ((), ("--num-processes", "2"))
                document[part] = [kills(Path(name), options.kill_rows, options.kills, options.seed, more) for more in calls]
            keep(options.results, document)
    print(json.dumps({part: document[part] for part in PARTS if part in document}, indent=1))
    return 0 if is_clean(document, options.most_mb) else 1


def uninterrupted(folder: Path, document: dict[str, Any]) -> tuple[Path, float] | None:
    """What memory() has written of the large file in this call, and its seconds; None: nothing."""
    path = folder / "in-windows.csv"
    return (path, document["memory"][1]["seconds"]) if path.exists() else None


def is_clean(document: dict[str, Any], most_mb: float) -> bool:
    """Windows within the memory, processes the same to the byte whatever their number, and every end under kills equal."""
    rows = document.get("memory", ())
    windows = all(row["mb_above_few"] <= most_mb for row in rows if "mb_above_few" in row and row["how"] != "at once")
    processes = all(row.get("same_bytes_as_in_windows", True) for row in rows if "process" in row["how"])
    return (
        windows
        and processes
        and all(part["equal"] == part["files"] for name in ("kills", "large") for part in document.get(name, ()))
    )


def report(document: dict[str, Any]) -> str:
    """For docs/predicting.md."""
    lines = ["| rows | | seconds | rows/s | peak of memory above a file of 1,000 rows |", "|---|---|---|---|---|"]
    for row in document["memory"][1:]:
        how = "all rows at once, as before" if row["how"] == "at once" else row["how"]
        lines.append(
            f"| {row['rows']:,} | {how} | {row['seconds']:.0f} | {row['rows_per_second']:,} | {row['mb_above_few']:.0f} MB |"
        )
    parts = [part for name in ("large", "kills") for part in document[name]]
    lines += ["", "| rows | | kills | files | equal to the byte |", "|---|---|---|---|---|"]
    lines += [f"| {part['rows']:,} | {part['flags']} | {part['kills']} | {part['files']} | {part['equal']} |" for part in parts]
    return "\n".join(lines)

"""Kill one rank of a run at random times until it is done, again and again: is the end that of the undisturbed run?

    python -m bench ranks [--kills 20] [--seed 0] [--shard] [--async-save] [--keep]

The ranks are forked processes with torchrun's environment and gloo between them; what torchrun does when a rank dies, end
the others and start all of them again with the same command, is done here. SIGKILL strikes one rank, drawn at random, at a
time drawn evenly over an undisturbed run. A small DistilBERT, dropout on, a checkpoint every two steps.
"""

from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.flags import at_least, make_parser
from bench.machine import RESULTS, keep
from bench.reliability.forked import warm_up
from bench.reliability.lab import differences, tiny_lab

SIZE = 2
FLAGS = ["--save-steps", "2", "--log-steps", "3", "--rank-timeout", "20", "--resume"]


class Ranks:
    """A run by several ranks, over a folder's data and model."""

    def __init__(self, folder: Path, more: list[str]):
        self.folder, self.log = folder, folder / "output.txt"
        self.arguments = [*tiny_lab(folder).base, *FLAGS, *more]

    def start(self, output: Path) -> list[Any]:
        def work(rank: int) -> int:
            import run

            return run.main([*self.arguments, "--output-dir", str(output)])

        self.log.unlink(missing_ok=True)
        started: list[Any] = importlib.import_module("bench.toys.ranks").start_ranks(SIZE, work, output=self.log)
        return started

    def undisturbed(self, output: Path) -> float:
        """Seconds. Raises RuntimeError with what was said, if it fails."""
        began = time.perf_counter()
        codes = [child.result() for child in self.start(output)]
        if any(codes):
            raise RuntimeError(f"the undisturbed run failed ({codes}):\n{self.log.read_text()[-2000:]}")
        return time.perf_counter() - began

    def killed(self, output: Path, victim: int, after_seconds: float) -> list[Any]:
        """Each rank's exit code; None for one that was killed. The other is asked to end, as torchrun asks it."""
        children = self.start(output)
        time.sleep(after_seconds)
        os.kill(children[victim].process, signal.SIGKILL)
        ended = os.waitid(os.P_PID, children[victim].process, os.WEXITED | os.WNOWAIT)
        if ended is not None and ended.si_code == os.CLD_KILLED:  # and not come to its end before
            time.sleep(0.1)
            os.kill(children[1 - victim].process, signal.SIGTERM)
        return [child.result() for child in children]


def measure(folder: Path, kills: int, seed: int, more: list[str]) -> dict[str, Any]:
    """Until ``kills`` have struck a run that was under way; each run is compared when it has come to its end."""
    ranks, generator = Ranks(folder, more), random.Random(seed)
    whole = folder / "undisturbed"
    seconds = ranks.undisturbed(whole)
    rows: list[dict[str, Any]] = []
    wrong, runs = [], 0
    while len(rows) < kills:
        output = folder / "killed"
        shutil.rmtree(output, ignore_errors=True)
        runs += 1
        while True:
            victim, after = generator.randrange(SIZE), generator.uniform(0, seconds)
            codes = ranks.killed(output, victim, after)
            said = ranks.log.read_text()
            if codes[victim] is not None:  # it had ended before
                break
            resumed = said.partition("resume: exact, from step ")[2].partition(" ")[0] or "0"
            names = f"error: rank {victim} " in said  # does not answer; or, where it had the store, is gone
            rows.append({"run": runs, "victim": victim, "after_seconds": round(after, 2), "resumed_from": int(resumed),
                         "survivor": codes[1 - victim], "named": names})  # fmt: skip
            print(f"  {len(rows):3}  run {runs}  rank {victim} at {after:5.2f} s  resumed from step {resumed:>2}  "
                  f"the other: exit {codes[1 - victim]}{', names it' if names else ''}", flush=True)  # fmt: skip
        found = differences(whole, output) if not any(codes) else [f"exit codes {codes}"]
        wrong += [{"run": runs, "differences": found}] if found else []
        print(f"       run {runs}: {'equal' if not found else ', '.join(found)}", flush=True)
    return {"kills": rows, "runs": runs, "undisturbed_seconds": round(seconds, 2), "wrong": wrong}


def main(argv: list[str]) -> int:
    parser = make_parser("ranks", __doc__)
    parser.add_argument("--kills", type=at_least(0), default=20, help="that strike a run under way")
    parser.add_argument("--seed", type=int, default=0, help="of the victims and the times")
    parser.add_argument("--shard", action="store_true", help="as run.py has it")
    parser.add_argument("--async-save", action="store_true", help="as run.py has it")
    parser.add_argument("--keep", action="store_true", help="write bench/results/ranks-cpu.json, ranks-shard-cpu.json ...")
    options = parser.parse_args(argv)
    more = [*(["--shard"] if options.shard else []), *(["--async-save"] if options.async_save else [])]
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PLAINLOOP_CACHE"] = f"{folder}/cache"
        found = measure(Path(folder) / "lab", options.kills, options.seed, more)
    survivors, named = [row["survivor"] for row in found["kills"]], sum(row["named"] for row in found["kills"])
    print(
        f"{len(survivors)} kills in {found['runs']} runs, {len(found['wrong'])} of which ended differently; the other left "
        f"with exit code 7 {survivors.count(7)} times, naming the lost one {named} times"
    )
    if options.keep:
        keep(RESULTS / f"ranks{''.join(flag[1:] for flag in more)}-cpu.json", found)
    return int(bool(found["wrong"]))

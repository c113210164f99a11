"""Killed with SIGKILL at any moment and resumed, a run ends in the same bits: each part says how often that was tried.

    python -m bench kill                  random, points and controls, about fifteen minutes on one core
    python -m bench kill random points    those parts
    python -m bench kill imdb             the real model on real reviews, some minutes
    python -m bench kill optimizers       random kills with each optimizer, and with an average of the weights
    python -m bench kill phases           random kills within an evaluation, a save, the finish, the cache, --overwrite ...

Every run is ``run.py`` itself in a process of its own (forked.py). The end of a disturbed one is compared with that of
an undisturbed one, file by file (lab.py). Points and controls are in kill_points.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.flags import at_least, make_parser, one_of
from bench.machine import RESULTS, keep
from bench.reliability import forked
from bench.reliability.kill_phases import phase_kills, wrap
from bench.reliability.kill_points import SAVING_POINTS, controls, kill_points, points
from bench.reliability.lab import Lab, differences, imdb_lab, tiny_lab

PARTS = ("random", "points", "controls", "optimizers", "phases", "imdb")
MAX_ATTEMPTS = 100  # of one run, until it ends
RANDOM_SETTINGS = [
    ["--batching", batching, "--save-steps", str(steps), "--log-steps", "2"]
    for steps in (1, 2, 3)
    for batching in ("packed", "padded")
] + [["--async-save", "--save-steps", "1", "--log-steps", "2", "--workers", workers] for workers in ("0", "2")]


OPTIMIZERS = {
    "sgd": ["--optimizer", "sgd", "--momentum", "0.9"],
    "adafactor": ["--optimizer", "adafactor"],
    "muon": ["--optimizer", "muon", "--layer-decay", "0.8"],
    "average": ["--ema-decay", "0.8", "--min-learning-rate", "1e-4", "--warmup-steps", "3"],
}
HOW = [
    ["--precision", precision, "--save-steps", str(steps), "--log-steps", "2", *more]
    for precision, steps, more in (("fp32", 1, []), ("bf16", 2, []), ("fp32", 1, ["--async-save"]))
]


def random_kills(lab: Lab, settings: Sequence[Sequence[str]], number: int, seed: int) -> dict[str, Any]:
    """Kill until ``number`` kills have struck; compare every end.

    Times are drawn evenly over a run's whole life or, by turns, over its training: loading takes longer than that.
    """
    generator = random.Random(seed)
    kills, runs, wrong = 0, 0, []
    struck: Counter[str] = Counter()
    while kills < number:
        flags = settings[runs % len(settings)]
        undisturbed, output = lab.undisturbed(flags), lab.fresh()
        for attempt in range(MAX_ATTEMPTS):
            in_training = attempt % 2 == 0
            kill_after = generator.uniform(0, lab.seconds[tuple(flags)][in_training])
            ended = lab.run(flags, output, kill_after=kill_after, marks=training_marks if in_training else None)
            if ended.code is not None:
                break
            kills += 1
            struck[where(output)] += 1
        runs += 1
        if attempt == 0 and ended.code == 0:
            lab.time(flags, output, ended)
        found = [f"exit code {ended.code}"] if ended.code else differences(undisturbed, output)
        if found:
            wrong.append({"flags": " ".join(flags), "differences": found})
            print(f"  DIFFERS {' '.join(flags)}: {', '.join(found)}", flush=True)
        print(f"\r  {kills} kills in {runs} runs", end="", flush=True)
    print()
    return {
        "kills": kills, "runs": runs, "equal": runs - len(wrong), "wrong": wrong, "seed": seed, "struck": dict(struck),
        "settings": [" ".join(flags) for flags in settings],
    }  # fmt: skip


def training_marks(mark: Callable[[], None]) -> None:
    wrap(("engine.fit", "train"), before=mark)


def where(output: Path) -> str:
    """What a process that has just been killed was doing, by what it has left."""
    for pattern, what in (
        ("checkpoints/.tmp-step-*", "writing a checkpoint"),
        ("checkpoints/.dead-step-*", "deleting an old checkpoint"),
        (".tmp-model-*", "saving the finished model"),
    ):
        if any(output.glob(pattern)):
            return what
    if not (output / "run.json").exists():
        return "before the first step"
    if json.loads((output / "run.json").read_text())["status"] == "finished":
        return "after the end"
    return "loading, training or evaluating"


def main(argv: Sequence[str]) -> int:
    """Exit code 0 if every end was equal and every control was noticed."""
    parser = make_parser("kill", __doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", type=one_of(PARTS), help=f"{', '.join(PARTS)} (default: the first three)"
    )
    parser.add_argument("--kills", type=at_least(0), default=200, help="random kills of the tiny model")
    parser.add_argument(
        "--optimizer-kills", type=at_least(0), default=40, help="random kills of the tiny model with each optimizer"
    )
    parser.add_argument("--phase-kills", type=at_least(0), default=40, help="random kills of the tiny model within each phase")
    parser.add_argument("--imdb-kills", type=at_least(0), default=10, help="random kills of the real model")
    parser.add_argument("--seed", type=int, default=0, help="of the times of the random kills")
    parser.add_argument("--results", type=Path, help="default: kill-cpu.json, or kill-optimizers-cpu.json, of bench/results")
    options = parser.parse_args(argv)
    parts = options.parts or PARTS[:3]
    options.results = options.results or RESULTS / f"kill-{'optimizers-' if parts == ['optimizers'] else ''}cpu.json"
    forked.warm_up()
    document = json.loads(options.results.read_text()) if options.results.exists() else {}
    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        folder = Path(name)
        os.environ["PLAINLOOP_CACHE"] = str(folder / "cache")
        lab = tiny_lab(folder / "tiny")
        for part in parts:
            began = time.perf_counter()
            print(f"{part}:", flush=True)
            document[part] = measure(part, lab, folder, options)
            document[f"{part}_seconds"] = round(time.perf_counter() - began, 1)
            keep(options.results, document)
    print(summary(document))
    return 0 if is_clean(document) else 1


def measure(part: str, lab: Lab, folder: Path, options: argparse.Namespace) -> Any:
    if part == "random":
        return random_kills(lab, RANDOM_SETTINGS, options.kills, options.seed)
    if part == "points":
        return [
            *kill_points(lab, (0, 2), ("fp32", "bf16", "fp16"), list(points())),
            *kill_points(lab, (0, 2), ("fp32",), SAVING_POINTS, ["--async-save"]),
        ]
    if part == "controls":
        return controls(lab)
    if part == "phases":
        return phase_kills(lab, options.phase_kills, options.seed)
    if part == "optimizers":
        return [
            {"optimizer": name} | random_kills(lab, [[*flags, *more] for more in HOW], options.optimizer_kills, options.seed)
            for name, flags in OPTIMIZERS.items()
        ]
    return random_kills(imdb_lab(folder / "imdb"), [["--save-steps", "1"]], options.imdb_kills, options.seed)


def is_clean(document: dict[str, Any]) -> bool:
    randoms = [document[part] for part in ("random", "imdb") if part in document]
    randoms += [*document.get("optimizers", []), *document.get("phases", [])]
    return (
        not any(part["wrong"] for part in randoms)
        and not any(row["differences"] for row in document.get("points", ()))
        and all(row["as_it_must"] for row in document.get("controls", ()))
    )


def summary(document: dict[str, Any]) -> str:
    """The table."""
    lines = []
    for part, what in (("random", "tiny model"), ("imdb", "MiniLM on IMDb reviews")):
        if part in document:
            found = document[part]
            lines.append(
                f"random SIGKILLs, {what}: {found['kills']} in {found['runs']} runs, {found['equal']} ends bitwise equal"
            )
            lines += [
                f"    {number:>4} {place}" for place, number in sorted(found["struck"].items(), key=lambda item: -item[1])
            ]
    for found in document.get("optimizers", []):
        ends = f"{found['kills']} in {found['runs']} runs, {found['equal']} ends bitwise equal"
        lines.append(f"random SIGKILLs, tiny model, {found['optimizer']}: {ends}")
    for found in document.get("phases", []):
        ends = f"{found['kills']} in {found['runs']} runs, {found['equal']} ends bitwise equal"
        lines.append(f"random SIGKILLs, tiny model, within {found['phase']} ({found['phase_seconds']} s): {ends}")
    if "points" in document:
        rows = document["points"]
        lines.append(f"kill points: {len(rows)}, of which {sum(not row['differences'] for row in rows)} bitwise equal")
        for name in dict.fromkeys(row["point"] for row in rows):
            of_it = [row for row in rows if row["point"] == name]
            lines.append(f"    {sum(not row['differences'] for row in of_it):>2} of {len(of_it)}  {name}")
    if "controls" in document:
        lines.append("controls: what a resumed run must not forget")
        for row in document["controls"]:
            verdict = "the check fails" if row["noticed"] else "the check passes"
            lines.append(f"    {row['forgotten']}: {verdict}{'' if row['as_it_must'] else '  WRONG'}")
    return "\n".join(lines)

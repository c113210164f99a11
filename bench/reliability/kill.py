"""Killed with SIGKILL at any moment and resumed, a run ends in the same bits: each part says how often that was tried.

    python -m bench.kill                  random, points and controls, about fifteen minutes on one core
    python -m bench.kill random points    those parts
    python -m bench.kill imdb             the real model on real reviews, some minutes
    python -m bench.kill optimizers       random kills with each optimizer, and with an average of the weights

Every run is ``run.py`` itself in a process of its own (forked.py). The end of a disturbed one is compared with that of
an undisturbed one: the finished model, every checkpoint that is left (weights, AdamW, random generators, schedule, loss
scale, log window), the figures of run.json, and metrics.jsonl, of which only what a clock has measured may differ.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.machine import RESULTS, keep
from bench.reliability import forked

PARTS = ("random", "points", "controls", "optimizers", "imdb")
TIMED = frozenset({
    "tflops", "mfu", "memory_gb", "steps_per_second", "examples_per_second", "tokens_per_second", "seconds",
    "runtime_seconds", "train_seconds", "metrics_bytes", "train_runtime", "train_samples_per_second",
    "train_steps_per_second", "wall_seconds", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second",
})  # fmt: skip
MAX_ATTEMPTS = 100  # of one run, until it ends
Patch = Callable[[], None]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ------------------------------------------------------------------------------------------------- two finished runs


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


# ----------------------------------------------------------------------------------------------------------- the runs


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
        in_training: bool = False,
    ) -> forked.Ended:
        """``run.py`` with ``--resume``; ``patch`` is called in its process before it starts.

        ``kill_after`` counts from the start of the process or, ``in_training``, of training.
        """

        def work(mark: Callable[[], None]) -> int:
            import run

            patch()
            fit: Any = importlib.import_module("engine.fit")
            train = fit.train

            def marked(*arguments: Any) -> None:
                mark()
                train(*arguments)

            fit.train = marked
            return run.main([*self.base, *flags, "--output-dir", str(output), "--resume"])

        return forked.in_child(work, self.log, kill_after, marked=in_training)

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


# --------------------------------------------------------------------------------------------------- at random times


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
            ended = lab.run(flags, output, kill_after=kill_after, in_training=in_training)
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


# ----------------------------------------------------------------------------------------------------- at chosen points


def dies(owner: str, name: str, condition: Callable[..., bool], *, before: bool = False) -> Patch:
    """A patch: the process kills itself in ``owner.name`` (module, or module:class), when the arguments are those."""

    def patch() -> None:
        module, _, kind = owner.partition(":")
        target: Any = importlib.import_module(module)
        target = getattr(target, kind) if kind else target
        original = getattr(target, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            hit = condition(*arguments)
            if hit and before:
                die()
            result = original(*arguments, **named)
            if hit:
                die()
            return result

        setattr(target, name, wrapped)

    return patch


def nth(number: int) -> Callable[..., bool]:
    """True for one call."""
    calls = 0

    def condition(*_: Any) -> bool:
        nonlocal calls
        calls += 1
        return calls == number

    return condition


def step_is(number: int) -> Callable[..., bool]:
    return lambda run, at, *_: at.step == number


def writes(step: int, name: str) -> Callable[..., bool]:
    return lambda path, *_: path.name == name and path.parent.name == f".tmp-step-{step:08d}"


def points() -> dict[str, Patch]:
    """Fresh ones: 5 steps an epoch, 15 in all; a checkpoint every 2 steps, a log line every 3, an evaluation every 5."""
    from engine.checkpoint.store import steps_in

    return {
        "after step 1, before any checkpoint": dies("engine.record.run:Run", "log", step_is(1)),
        "after step 7, in an open log window": dies("engine.record.run:Run", "log", step_is(7)),
        "after the last step of an epoch": dies("engine.record.run:Run", "log", step_is(10)),
        "between two micro-batches of step 9": dies("engine.loop", "forward_backward", nth(23)),
        "in an evaluation": dies("tasks.classification.metrics:ClassificationMetrics", "update", nth(2)),
        "saving: one file written": dies("engine.checkpoint.store", "write_synced", writes(8, "model.safetensors")),
        "saving: all written, not yet renamed": dies(
            "engine.checkpoint.store", "sync_directory", lambda path: path.name == ".tmp-step-00000008"
        ),
        "between commit and rotation": dies(
            "engine.checkpoint.saver", "rotate", lambda root, *_: steps_in(root)[-1] == 8, before=True
        ),
        "rotation: renamed, not yet deleted": dies("os", "rename", lambda _, new: Path(new).name == ".dead-step-00000004"),
        "finish: the model is there, the rest is not": dies(
            "os", "replace", lambda _, new: Path(new).name == "model.safetensors"
        ),
        "finish: all but the last run.json": dies(
            "engine.fit", "write_run", lambda _, document: document.status == "finished", before=True
        ),
    }  # fmt: skip


SAVING_POINTS = (
    "saving: one file written", "saving: all written, not yet renamed", "between commit and rotation",
    "rotation: renamed, not yet deleted",
)  # fmt: skip
POINT_FLAGS = ["--save-steps", "2", "--log-steps", "3"]


def allow_fp16() -> None:
    """Users are refused fp16 on a CPU; this is below that."""
    import engine.build
    import engine.fit

    for module in (engine.build, engine.fit):
        module.choose_precision = lambda name, device: name  # type: ignore[attr-defined]


def kill_points(
    lab: Lab, workers: Sequence[int], precisions: Sequence[str], names: Sequence[str], more: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One kill at each point, and what its resumed end differs in; nor may the number of workers, or ``more``, change it."""
    rows = []
    for number in workers:
        for precision in precisions:
            flags = [*POINT_FLAGS, "--precision", precision, "--workers", str(number), *more]
            first = allow_fp16 if precision == "fp16" else lambda: None
            undisturbed = lab.undisturbed(flags, first)
            alone = lab.undisturbed([*POINT_FLAGS, "--precision", precision, "--workers", str(workers[0])], first)
            for name in names:
                output, patch = lab.fresh(), points()[name]

                def both(first: Patch = first, patch: Patch = patch) -> None:
                    first()
                    patch()

                killed, resumed = lab.run(flags, output, both), lab.run(flags, output, first)
                found = ["it was not killed"] if killed.code is not None else []
                found += [f"exit code {resumed.code}"] if resumed.code else differences(undisturbed, output)
                found += differences(alone, undisturbed)
                rows.append({"workers": number, "precision": precision, "more": " ".join(more), "point": name,
                             "differences": found})  # fmt: skip
                case = f"{number} workers, {precision}{''.join(f', {flag}' for flag in more)}, {name}"
                print(f"  {case}: {'equal' if not found else ', '.join(found)}", flush=True)
    return rows


# ---------------------------------------------------------------------------------------------------------- controls


def forget_rng() -> None:
    import engine.checkpoint.snapshot

    engine.checkpoint.snapshot.set_rng = lambda tensors, numbers: None  # type: ignore[attr-defined, assignment]


def forget_window() -> None:
    from engine.record.progress import Progress
    from engine.record.run import Run
    from engine.record.tally import Tally

    restore = Run.restore

    def forgetful(run: Run, progress: Progress) -> None:
        restore(run, progress)
        run.window = Tally()

    Run.restore = forgetful  # type: ignore[method-assign, assignment]


def forget_position() -> None:
    import engine.loader

    class FromTheStart(engine.loader.MicroBatches):
        def __init__(self, plan: Any, start: int, world: Any):
            super().__init__(plan, 0, world)

    engine.loader.MicroBatches = FromTheStart  # type: ignore[misc]


def forget_optimizer() -> None:
    import engine.resume

    load = engine.resume.load_state  # type: ignore[attr-defined]

    def forgetful(state: Any, *others: Any) -> Any:
        progress = load(state, *others)
        for values in state.optimizer.state.values():
            values["exp_avg_sq"].zero_()
        return progress

    engine.resume.load_state = forgetful  # type: ignore[attr-defined, assignment]


CONTROLS: dict[str, Patch] = {
    "nothing forgotten": lambda: None,
    "random generators not restored": forget_rng,
    "open log window not restored": forget_window,
    "data read from the start": forget_position,
    "AdamW's second moments not restored": forget_optimizer,
}


def controls(lab: Lab) -> list[dict[str, Any]]:
    """Resume with a part of the checkpoint left out: the comparison must notice each."""
    rows = []
    undisturbed = lab.undisturbed(POINT_FLAGS)
    for name, patch in CONTROLS.items():
        output = lab.fresh()
        lab.run(POINT_FLAGS, output, points()["between two micro-batches of step 9"])
        lab.run(POINT_FLAGS, output, patch)
        found = differences(undisturbed, output)
        as_it_must = bool(found) == (patch is not CONTROLS["nothing forgotten"])
        rows.append({"forgotten": name, "noticed": bool(found), "as_it_must": as_it_must, "differences": found})
        print(f"  {name}: {'differs' if found else 'equal'}, {'as it must' if as_it_must else 'AND MUST NOT'}", flush=True)
    return rows


# -------------------------------------------------------------------------------------------------------------- main


def main(argv: Sequence[str]) -> int:
    """Exit code 0 if every end was equal and every control was noticed."""
    parser = argparse.ArgumentParser(prog="python -m bench.kill", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=f"{', '.join(PARTS)} (default: the first three)")
    parser.add_argument("--kills", type=int, default=200, help="random kills of the tiny model")
    parser.add_argument("--optimizer-kills", type=int, default=40, help="random kills of the tiny model with each optimizer")
    parser.add_argument("--imdb-kills", type=int, default=10, help="random kills of the real model")
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
    if part == "optimizers":
        return [
            {"optimizer": name} | random_kills(lab, [[*flags, *more] for more in HOW], options.optimizer_kills, options.seed)
            for name, flags in OPTIMIZERS.items()
        ]
    return random_kills(imdb_lab(folder / "imdb"), [["--save-steps", "1"]], options.imdb_kills, options.seed)


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


def is_clean(document: dict[str, Any]) -> bool:
    randoms = [document[part] for part in ("random", "imdb") if part in document] + document.get("optimizers", [])
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Does packing (and bf16) cost quality? The same runs both ways on real reviews, several seeds, example by example.

    python -m bench quality                   what is missing in bench/results/quality-imdb.json is run; then the table
    python -m bench quality --table           only the table and the picture of what is there
    python -m bench quality --bf16            bf16, too, on a processor that emulates it: ten times slower

1,000 IMDb reviews to train on and 1,000 to test on, 128 tokens, one epoch, MiniLM. Compared is each test review: right in
one run and wrong in the other. The mean difference has two standard errors: over the reviews, for these very runs, and over
the seeds, which counts what another seed would have changed, too; the second is the one to judge by.
"""

from __future__ import annotations

import json
import platform
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bench.flags import make_parser
from bench.machine import RESULTS, processor
from engine.config import TrainConfig
from engine.console import quiet_libraries
from engine.data.sources import Source, SourceConfig
from engine.installed import install
from engine.settings.parser import parse
from tasks import find
from tasks.offline import packaged_minilm

RUN = (
    "--task imdb --data auto --max-train-examples 1000 --max-eval-examples 1000 --max-length 128 --epochs 1 "
    "--learning-rate 1e-4 --device cpu --log-steps 1 --overwrite"
)
VARIANTS = {
    "padded fp32": "--batching padded --precision fp32",
    "packed fp32": "--batching packed --precision fp32",
    "packed bf16": "--batching packed --precision bf16",
}
BASE = "padded fp32"
SEEDS = tuple(range(42, 50))


def run(variant: str, seed: int) -> dict[str, Any]:
    """One fine-tuning: its loss at each step, and for each test review whether it was right."""
    from engine.fit import fit

    model = packaged_minilm()
    if model is None:
        raise SystemExit(f"the offline extra is needed: {install('offline', 'bench')}")
    with tempfile.TemporaryDirectory() as folder:
        argv = [*RUN.split(), *VARIANTS[variant].split(), "--seed", str(seed), "--output-dir", folder, "--model", model]
        kind = find("imdb")
        config, source, options = parse(argv, "python -m bench quality", [TrainConfig, SourceConfig, kind.Options], {})
        task = kind(options, Source(source))
        result = fit(task, config)
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
        document = json.loads((Path(folder) / "run.json").read_text())
    right = correct(task, config, result.model, document["precision"])
    return {
        "variant": variant, "seed": seed, "batching": document["batching"], "precision": document["precision"],
        "accuracy": result.metrics["eval_accuracy"], "eval_loss": result.metrics["eval_loss"],
        "losses": [line["loss"] for line in lines if line["kind"] == "train"], "right": "".join(map(str, right.astype(int))),
    }  # fmt: skip


def correct(task: Any, config: TrainConfig, model: Any, precision: Any) -> np.ndarray:
    """[number of test reviews] bool, in the order of the data."""
    import torch

    from engine.data.collate import Layout
    from engine.distributed.world import World
    from engine.loader import eval_loader
    from engine.precision import make_autocast

    examples = task.examples()["eval"]
    right = np.zeros(len(examples), dtype=bool)
    autocast = make_autocast(precision, torch.device("cpu"))
    for batch in eval_loader(task, examples, Layout(), config, World(torch.device("cpu"))):
        with torch.inference_mode(), autocast():
            predicted = model(**batch.inputs).logits.argmax(-1)
        right[[row for _, row in batch.keys]] = (predicted == batch.targets["labels"]).numpy()
    return right


@dataclass(frozen=True)
class Comparison:
    """A variant beside padded fp32 over S seeds, in shares of the test reviews.

    ``difference``: mean of the paired differences. ``over_reviews``, ``over_seeds``: its standard errors, over the reviews (of
    each, the mean over the seeds) and over the seeds.
    """

    accuracies: list[float]
    difference: float
    over_reviews: float
    over_seeds: float


def compared(rows: list[dict[str, Any]], variant: str) -> Comparison | None:
    """None: the file has no seed, or fewer than two, that both were run with."""
    by = {(row["variant"], row["seed"]): row for row in rows}
    seeds = [seed for seed in SEEDS if (variant, seed) in by and (BASE, seed) in by]
    if len(seeds) < 2:
        return None
    gaps = np.array([bits(by[variant, seed]) - bits(by[BASE, seed]) for seed in seeds])  # [S, reviews]
    return Comparison(
        [by[variant, seed]["accuracy"] for seed in seeds], float(gaps.mean()), error(gaps.mean(0)), error(gaps.mean(1))
    )


def error(values: np.ndarray) -> float:
    """The standard error of the mean of [n] values."""
    return float(values.std(ddof=1) / len(values) ** 0.5)


def table(rows: list[dict[str, Any]]) -> None:
    """Accuracy over the seeds, and the paired difference to padded fp32 with its standard errors."""
    print(f"\n{'':<14}{'seeds':>6}{'accuracy':>10}{'min':>8}{'max':>8}  paired difference +- error over reviews, over seeds")
    for variant in VARIANTS:
        if (c := compared(rows, variant)) is None:
            continue
        text = f"{c.difference:+.4f} +- {c.over_reviews:.4f}, {c.over_seeds:.4f}" if variant != BASE else ""
        numbers = (np.mean(c.accuracies), min(c.accuracies), max(c.accuracies))
        print(f"{variant:<14}{len(c.accuracies):>6}{numbers[0]:>10.3f}{numbers[1]:>8.3f}{numbers[2]:>8.3f}  {text}".rstrip())


def bits(row: dict[str, Any]) -> np.ndarray:
    """[reviews] 1.0 where the run was right."""
    return np.array([float(c) for c in row["right"]])


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Training loss of all runs, a thin line a seed, and each variant's mean."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    colours = dict(zip(VARIANTS, ("#000000", "#0072B2", "#D55E00"), strict=True))  # Okabe and Ito's
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for variant, colour in colours.items():
        losses = [np.convolve(row["losses"], np.ones(5) / 5, mode="valid") for row in rows if row["variant"] == variant]
        steps = np.arange(5, 5 + len(losses[0])) if losses else ()
        for each in losses:
            axes.plot(steps, each, color=colour, linewidth=0.6, alpha=0.35)
        if losses:
            axes.plot(
                steps, np.mean(losses, axis=0), color=colour, linewidth=2.2, label=f"{variant}, mean of {len(losses)} seeds"
            )
    axes.set(xlabel="step", ylabel="training loss (mean of 5 steps)", title="IMDb, MiniLM: packed and padded, dropout on")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    print(f"picture: {path}")


def main(argv: list[str]) -> int:
    parser = make_parser("quality", __doc__)
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--bf16", action="store_true", help="where it is emulated, too")
    options = parser.parse_args(argv)
    import torch  # now, for it takes seconds

    from engine.precision import has_native_bf16

    quiet_libraries()
    variants = [v for v in VARIANTS if options.bf16 or "bf16" not in v or has_native_bf16(torch.device("cpu"))]
    if len(variants) < len(VARIANTS):
        print("packed bf16: skipped, this processor emulates it (--bf16 runs it all the same)")
    path = RESULTS / "quality-imdb.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"run": RUN, "rows": []}
    done = {(row["variant"], row["seed"]) for row in document["rows"]}
    for seed in SEEDS:
        for variant in variants:
            if options.table or (variant, seed) in done:
                continue
            print(f"{variant}, seed {seed}", flush=True)
            row = run(variant, seed)
            row["versions"] = {package: version(package) for package in ("torch", "transformers", "numpy")}
            row["machine"] = {"processor": processor(), "threads": torch.get_num_threads(), "python": platform.python_version()}
            document["rows"].append(row)
            path.write_text(json.dumps(document, indent=1) + "\n")
    table(document["rows"])
    picture(document["rows"], path.with_suffix(".png"))
    return 0

"""Does packing (and bf16) cost quality? The same runs both ways on real reviews, several seeds, example by example.

    python -m bench quality                   what is missing in bench/results/quality-imdb.json is run; then the table
    python -m bench quality --table           only the table and the picture of what is there
    python -m bench quality --bf16            bf16, too, on a processor that emulates it: ten times slower

1,000 IMDb reviews to train on and 1,000 to test on, 128 tokens, one epoch, MiniLM. Compared is each test review: right in
one run and wrong in the other. The standard error is that of the mean paired difference over reviews and seeds.
"""

from __future__ import annotations

import json
import platform
import tempfile
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
SEEDS = (42, 43, 44)


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


def table(rows: list[dict[str, Any]]) -> None:
    """Accuracy by seed, and the paired difference to padded fp32 with its standard error."""
    by = {(row["variant"], row["seed"]): row for row in rows}
    seeds = [seed for seed in SEEDS if ("padded fp32", seed) in by]
    print(
        f"\n{'':<14}" + "".join(f"{f'seed {seed}':>10}" for seed in seeds) + f"{'mean':>10}  paired difference to padded fp32"
    )
    for variant in VARIANTS:
        if any((variant, seed) not in by for seed in seeds):
            continue
        accuracies = [by[variant, seed]["accuracy"] for seed in seeds]
        gaps = np.concatenate([bits(by[variant, s]) - bits(by["padded fp32", s]) for s in seeds])
        error = gaps.std(ddof=1) / len(gaps) ** 0.5
        text = "" if variant == "padded fp32" else f"{gaps.mean():+.4f} +- {error:.4f} (standard error)"
        print(f"{variant:<14}" + "".join(f"{a:>10.3f}" for a in accuracies) + f"{np.mean(accuracies):>10.3f}  {text}")


def bits(row: dict[str, Any]) -> np.ndarray:
    """[reviews] 1.0 where the run was right."""
    return np.array([float(c) for c in row["right"]])


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Training loss of all runs, one line a seed, one colour a variant."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    colours = dict(zip(VARIANTS, ("#000000", "#0072B2", "#D55E00"), strict=True))  # Okabe and Ito's
    styles = dict(zip(SEEDS, ("-", "--", ":"), strict=True))
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for row in rows:
        smooth = np.convolve(row["losses"], np.ones(5) / 5, mode="valid")
        wide = row["variant"] == "packed fp32"  # else bf16, which is nearly equal, would hide it
        axes.plot(np.arange(5, 5 + len(smooth)), smooth, styles[row["seed"]], color=colours[row["variant"]],
                  linewidth=4.0 if wide else 1.4, alpha=0.4 if wide else 1.0,
                  label=f"{row['variant']}, seed {row['seed']}")  # fmt: skip
    axes.set(xlabel="step", ylabel="training loss (mean of 5 steps)", title="IMDb, MiniLM: packed and padded, dropout on")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=3)
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

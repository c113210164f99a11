"""Equal to Trainer on real text, number for number: losses, gradient norms, learning rates, evaluation.

    python -m bench parity imdb                            our run against Trainer's recorded rows (minutes)
    python -m bench parity imdb --record                   measure Trainer's rows again
    python -m bench parity stars --file yelp_reviews.csv   five classes of a CSV file with the columns text and stars

Trainer's rows stand in bench/results/parity-NAME.json with the versions and the machine they were measured on. Both sides
start from the same seed, see the same tokens and batches, in float32, padded. Trainer's loader gets a generator of its own,
as ours has: otherwise it draws one number from torch's global generator at the start of each epoch and shifts the dropout.
"""

from __future__ import annotations

import json
import platform
import re
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

COMMON = (
    "--max-length 128 --epochs 1 --learning-rate 1e-4 --precision fp32 --batching padded --device cpu --log-steps 1 --overwrite"
)
RUNS = {
    "imdb": f"--task imdb --data auto --max-train-examples 1000 --max-eval-examples 1000 {COMMON}",
    "stars": f"--task classification --label-column stars --eval-fraction 0.2 {COMMON}",
}
COLUMNS = ("loss", "grad_norm", "learning_rate")


def settings(name: str, file: str | None, folder: str) -> tuple[Any, TrainConfig]:
    """The task and the config of the run, as the command line would give them, on MiniLM."""
    argv = [*RUNS[name].split(), "--output-dir", folder, *(["--train-file", file] if file else [])]
    model = packaged_minilm()
    if model is None:
        raise SystemExit(f"the offline extra is needed: {install('offline', 'bench')}")
    kind = find(argv[1])
    config, source, options = parse(
        [*argv, "--model", model], "python -m bench parity", [TrainConfig, SourceConfig, kind.Options], {}
    )
    return kind(options, Source(source)), config


def run_ours(name: str, file: str | None) -> dict[str, Any]:
    """Through engine.fit, as run.py does it."""
    from engine.fit import fit

    with tempfile.TemporaryDirectory() as folder:
        task, config = settings(name, file, folder)
        metrics = fit(task, config).metrics
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    steps = [{key: line[key] for key in COLUMNS} for line in lines if line["kind"] == "train"]
    return {"steps": steps, "eval_loss": metrics["eval_loss"], "eval_accuracy": metrics["eval_accuracy"],
            "train_runtime": metrics["train_runtime"]}  # fmt: skip


def run_trainer(name: str, file: str | None) -> dict[str, Any]:
    """transformers.Trainer on the same tokens, from the same seed."""
    import torch
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    from engine.seed import set_seed

    class OwnGenerator(Trainer):  # type: ignore[misc,no-any-unimported]
        def get_train_dataloader(self) -> Any:
            loader = super().get_train_dataloader()
            loader.base_dataloader.generator = torch.Generator()
            return loader

    class Features(torch.utils.data.Dataset[dict[str, Any]]):
        def __init__(self, rows: Any):
            self.rows = rows

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, i: int) -> dict[str, Any]:
            row = self.rows[i]
            return {key: value.tolist() for key, value in row.items() if key != "labels"} | {"label": int(row["labels"])}

    def accuracy(predictions: Any) -> dict[str, float]:
        return {"accuracy": float((np.argmax(predictions.predictions, -1) == predictions.label_ids).mean())}

    with tempfile.TemporaryDirectory() as folder:
        task, config = settings(name, file, folder)
        examples = task.examples()
        set_seed(config.seed)
        arguments = TrainingArguments(
            folder, num_train_epochs=config.epochs, per_device_train_batch_size=config.batch_size, seed=config.seed,
            per_device_eval_batch_size=config.eval_batch_size, learning_rate=config.learning_rate, use_cpu=True,
            weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm, logging_steps=1, save_strategy="no",
            report_to=[], disable_tqdm=False,
        )  # fmt: skip
        trainer = OwnGenerator(
            task.build_model(), arguments, train_dataset=Features(examples["train"]), eval_dataset=Features(examples["eval"]),
            data_collator=DataCollatorWithPadding(task.tokenizer), compute_metrics=accuracy,
        )  # fmt: skip
        runtime = trainer.train().metrics["train_runtime"]
        evaluation = trainer.evaluate()
    steps = [{key: line[key] for key in COLUMNS} for line in trainer.state.log_history if "grad_norm" in line]
    return {"steps": steps, "eval_loss": evaluation["eval_loss"], "eval_accuracy": evaluation["eval_accuracy"],
            "train_runtime": runtime}  # fmt: skip


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """A table of the largest differences. Equal means: to the last digit, or to float32 rounding where a mean is taken."""
    print(f"\n{'':<16}{'steps':>6}  {'bitwise equal':>14}  {'largest relative difference':>28}")
    good = len(ours["steps"]) == len(theirs["steps"])
    for column in COLUMNS:
        a, b = (np.array([step[column] for step in side["steps"]], dtype=np.float64) for side in (ours, theirs))
        gap = np.abs(a - b).max() / np.abs(b).max()
        good &= bool(gap < 1e-6)
        print(f"{column:<16}{len(a):>6}  {int((a == b).sum()):>14}  {gap:>28.1e}")
    for name in ("eval_loss", "eval_accuracy"):
        print(f"{name:<16}  ours {ours[name]:.7f}  Trainer {theirs[name]:.7f}")
        good &= abs(ours[name] - theirs[name]) < 2e-6 * max(1.0, abs(theirs[name]))
    print("EQUAL" if good else "DIFFERENT")
    return good


def main(argv: list[str]) -> int:
    parser = make_parser("parity", __doc__)
    parser.add_argument("name", choices=RUNS)
    parser.add_argument("--file", help="the CSV file of 'stars'")
    parser.add_argument("--record", action="store_true", help="run Trainer, too, and record both sides' rows")
    options = parser.parse_args(argv)
    if options.name == "stars" and not options.file:
        parser.error("stars needs --file, a CSV with the columns text and stars")
    quiet_libraries()
    path = RESULTS / f"parity-{options.name}.json"
    if options.record:
        import torch

        packages = {package: version(package) for package in ("torch", "transformers", "accelerate", "tokenizers", "numpy")}
        machine = {"processor": processor(), "threads": torch.get_num_threads(), "python": platform.python_version()}
        document = {"system": "transformers.Trainer", "run": RUNS[options.name], "versions": packages, "machine": machine}
        path.write_text(as_text(document | run_trainer(options.name, options.file)))
        print(f"recorded in {path}")
    if not path.exists():
        raise SystemExit(f"{path} is not there: run with --record")
    document = json.loads(path.read_text())
    ours = run_ours(options.name, options.file)
    if options.record or "plainloop" not in document:
        path.write_text(as_text(document | {"plainloop": ours}))
    return 0 if compare(ours, document) else 1


def as_text(document: dict[str, Any]) -> str:
    """JSON with a step a line."""
    return (
        re.sub(
            r"\{\s+\"loss\": ([^}]+?)\s+\}",
            lambda m: '{"loss": ' + " ".join(m[1].split()) + "}",
            json.dumps(document, indent=1),
        )
        + "\n"
    )

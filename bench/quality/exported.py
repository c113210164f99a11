"""Exported models beside those that they are of: probabilities, accuracy, speed.

    python -m bench export              bench/results/export-cpu.json

MiniLM and a GPT-2 of two layers, trained on IMDb reviews; each as ONNX for onnxruntime, as a program of torch.export, and as
ONNX in 8 bits. Probabilities and accuracy are what ``run.py export`` has found on held-out reviews. For the speed all forms of
a model take turns in one process, on the same batches of 32 reviews; a ratio is of one round, and the median of all is given.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.flags import at_least, make_parser
from bench.machine import RESULTS, keep
from bench.quality.planted import typed
from engine.errors import UsageError
from engine.installed import install

FORMS = {"ONNX": ("onnx",), "torch.export": ("torch",), "ONNX, int8": ("onnx", "--int8", "--max-loss", "1")}
LENGTH = 128
TRAIN = f"--task imdb --data sample --max-length {LENGTH} --precision fp32 --device cpu"
MODELS = {  # what it is called in the table, and how it is trained
    "minilm": ("all-MiniLM-L6-v2", "--max-train-examples 400 --epochs 2 --learning-rate 1e-4"),
    "gpt2": ("GPT-2, 2 layers of 64", "--max-train-examples 4000 --epochs 3 --batch-size 32 --learning-rate 2e-3"),
}


def main(argv: Sequence[str]) -> int:
    """1 where a probability differs by more than the limit."""
    parser = make_parser("export", __doc__)
    parser.add_argument("--rows", type=at_least(1), default=400, help="held-out reviews")
    parser.add_argument("--rounds", type=at_least(1), default=7, help="of the timing")
    parser.add_argument("--batches", type=at_least(1), default=20, help="of 32 reviews, in each round")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--output", type=Path, default=RESULTS / "export-cpu.json")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        rows = [row for kind in options.models for row in measured(Path(name), kind, options)]
    document = {"train": f"python run.py {TRAIN}", "each": dict(MODELS.values()),
                "held_out": options.rows, "rounds": options.rounds, "batches": options.batches, "rows": rows}  # fmt: skip
    keep(options.output, document)
    print(table(document))
    return 0 if is_as_it_must(document) else 1


def is_as_it_must(document: dict[str, Any]) -> bool:
    """Is each exported model the model, but for those in 8 bits?"""
    from engine.commands.export import CLOSE

    return all(row.get("largest", 0) <= CLOSE for row in document["rows"] if "int8" not in row["form"])


def minilm() -> str:
    """Raises UsageError without the package that has the weights."""
    from tasks.offline import packaged_minilm

    if (path := packaged_minilm()) is None:
        raise UsageError(f"the offline extra is needed: {install('offline', 'export')}")
    return path


def gpt2(folder: Path) -> str:
    """With MiniLM's tokenizer."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2Model

    tokenizer = AutoTokenizer.from_pretrained(minilm())
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=LENGTH, n_embd=64, n_layer=2, n_head=2, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id, eos_token_id=tokenizer.sep_token_id,
    )  # fmt: skip
    GPT2Model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def measured(folder: Path, kind: str, options: Any) -> list[dict[str, Any]]:
    """A row for the model and one for each of its forms."""
    (name, flags), directory = MODELS[kind], folder / kind
    model = minilm() if kind == "minilm" else gpt2(folder / "new")
    held = ["--max-eval-examples", str(options.rows)]
    typed(*TRAIN.split(), *flags.split(), *held, "--model", model, "--output-dir", str(directory))
    folders = {form: directory.with_name(f"{directory.name} {form}") for form in FORMS}
    for form, (format, *more) in FORMS.items():
        typed("export", str(directory), "--format", format, *more, "--output", str(folders[form]))
    records = {form: json.loads((path / "export.json").read_text()) for form, path in folders.items()}
    found = speeds(directory, [(path, records[form]) for form, path in folders.items()], options)
    size = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    own = {"accuracy": records["ONNX"]["checked"]["before"], "rows": records["ONNX"]["checked"]["num_rows"], "mb": size / 1e6}
    rows: list[dict[str, Any]] = [{"model": name, "form": "the model itself", **own}]
    for form, path in folders.items():
        checked = records[form]["checked"]
        rows.append({"model": name, "form": form, "accuracy": checked["after"], "rows": checked["num_rows"],
                     **{key: checked[key] for key in ("largest", "lost", "standard_error")},
                     "mb": sum(each.stat().st_size for each in path.glob("model.*")) / 1e6})  # fmt: skip
    for row, each in zip(rows, found, strict=True):
        threads = records["ONNX"]["rows_per_second"]["threads"]
        ratios = [one / own for one, own in zip(each, found[0], strict=True)]
        row.update({"rows_per_second": [round(one, 1) for one in each], "threads": threads,
                "times_the_model": statistics.median(ratios), "from": min(ratios), "to": max(ratios)})  # fmt: skip
    return rows


def speeds(directory: Path, exported: Sequence[tuple[Path, dict[str, Any]]], options: Any) -> list[list[float]]:
    """Rows a second in each round: of the model as it predicts, and of each exported one."""
    from engine.exporting.compare import rounds
    from engine.exporting.program import FILES, OnnxCalled, TorchCalled
    from engine.finished import open_model
    from engine.model.layout import padded
    from engine.task import held_out
    from tasks import find

    task: Any
    task, model, layout = open_model(str(directory), find, device="cpu")
    examples = held_out(task.examples())["eval"]
    plain = padded(task.load_model(str(directory)).eval(), task.level)
    runs: list[tuple[Any, Any]] = [(model, layout)]
    for path, record in exported:
        kind = OnnxCalled if record["format"] == "onnx" else TorchCalled
        runs.append((kind(path / FILES[record["format"]], record["inputs"], record["outputs"]), plain))
    return rounds(task, runs, examples, options.rounds, options.batches)


def table(document: dict[str, Any]) -> str:
    """For the terminal and for docs/exporting.md."""
    lines = [
        "| model | form | probabilities differ by | accuracy | worse by | on rows | rows/s | times the model | MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        speed = f"{statistics.median(row['rows_per_second']):,.0f}"
        differs, lost, ratio = "", "", "1"
        if "largest" in row:
            differs, lost = f"{row['largest']:.1e}", f"{row['lost']:.4f} ± {row['standard_error']:.4f}"
            ratio = f"{row['times_the_model']:.2f} ({row['from']:.2f} to {row['to']:.2f})"
        figures = (f"{row['accuracy']:.4f}", lost, str(row["rows"]), speed, ratio, f"{row['mb']:.1f}")
        lines.append(f"| {' | '.join((row['model'], row['form'], differs, *figures))} |")
    return "\n".join(lines)

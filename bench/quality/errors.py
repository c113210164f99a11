"""What a model of real reviews gets wrong, by the commands of docs/errors.md: calibration, a threshold, slices, wrong labels.

    python -m bench errors              trains a small BERT on IMDb reviews, and writes bench/results/errors-imdb.json

4,000 reviews to train on, four times, 128 tokens of each; 2,000 held out. 5 in 100 of their labels are then flipped, and
looked for.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import platform
import re
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bench.flags import make_parser
from bench.machine import RESULTS, keep, processor
from engine.installed import install

DATA = "--data sample --max-train-examples 4000 --max-eval-examples 2000"
TRAIN = f"--task imdb {DATA} --max-length 128 --epochs 4 --batch-size 32 --learning-rate 2e-3 --precision fp32 --device cpu"
INSPECT = "--task imdb --data sample --max-train-examples 5000 --max-eval-examples 2000"
FLIPPED = 0.05


def main(argv: Sequence[str]) -> int:
    make_parser("errors", __doc__).parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        document = measured(Path(folder))
    keep(RESULTS / "errors-imdb.json", document)
    print(json.dumps(document, indent=1))
    return 0


def measured(folder: Path) -> dict[str, Any]:
    """All figures; the run and the files go to ``folder``."""
    run = folder / "run"
    typed(*TRAIN.split(), "--model", small_bert(folder / "model"), "--output-dir", str(run))
    of_run = ["evaluate", str(run), "--device", "cpu", "--precision", "fp32"]
    typed(*of_run, "--errors", str(run / "errors.csv"), "--slice", "label", "--output", str(folder / "raw.json"))
    slices = rows_of(run / "errors.slices.csv")
    said = typed(*of_run, "--calibrate", "--threshold", "auto")
    began = time.perf_counter()
    inspected = typed("inspect", *INSPECT.split(), "--output", str(folder / "found.csv"))
    found = [row["finding"] for row in rows_of(folder / "found.csv")]
    return {
        "command": f"python run.py {TRAIN}", "processor": processor(), "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "cleanlab", "datasketch")},
        "figures": figures(folder / "raw.json"),
        "calibrate": lines_of(said, "temperature"), "threshold": lines_of(said, "thresholds"), "num_slices": len(slices),
        "found": [row for row in slices if row["found"]],
        "inspect": {"command": f"python run.py inspect {INSPECT}", "lines": inspected.splitlines()[:-1],
                    "rows": {name: found.count(name) for name in dict.fromkeys(found)},
                    "seconds": round(time.perf_counter() - began, 1)},
        "flipped": flipped(folder, run),
    }  # fmt: skip


def small_bert(folder: Path) -> str:
    """One layer of width 64, with random weights, and MiniLM's tokenizer: trained in minutes, and soon too sure."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from tasks.offline import packaged_minilm

    if (path := packaged_minilm()) is None:
        raise SystemExit(f"the offline extra is needed: {install('offline', 'inspect')}")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    BertModel(BertConfig(**sizes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(path).save_pretrained(folder)
    return str(folder)


def flipped(folder: Path, run: Path) -> dict[str, Any]:
    """Precision and recall of ``inspect --model`` on held-out reviews of which some labels are flipped."""
    from engine.finished import open_model
    from tasks import find

    task: Any = open_model(str(run), find, device="cpu")[0]
    tables = task.splits()
    generator = np.random.default_rng(0)
    for split, table in tables.items():
        is_wrong = generator.random(len(table)) < (FLIPPED if split == "eval" else 0)
        with open(folder / f"{split}.csv", "w", newline="") as stream:
            labels = np.array(table["label"][:]) ^ is_wrong
            csv.writer(stream).writerows([("text", "label"), *zip(table["text"][:], labels, strict=True)])
    data = ["--train-file", str(folder / "train.csv"), "--eval-file", str(folder / "eval.csv")]
    typed("inspect", *data, "--model", str(run), "--near", "0", "--device", "cpu", "--output", str(folder / "suspects.csv"))
    lines = [row for row in rows_of(folder / "suspects.csv") if row["finding"] == "suspected"]
    ours = np.array([int(row["row"].rpartition(" ")[2]) - 1 for row in lines])
    right, surest = is_wrong[ours], is_wrong[ours[: int(is_wrong.sum())]]
    return {
        "rows": len(is_wrong), "flipped": int(is_wrong.sum()), "suspected": len(ours), "precision": float(right.mean()),
        "recall": float(right.sum() / is_wrong.sum()), "precision_of_as_many_as_flipped": float(surest.mean()),
    }  # fmt: skip


def figures(path: Path) -> dict[str, float]:
    found = json.loads(path.read_text())
    return {name: found[f"eval_{name}"] for name in ("accuracy", "loss", "ece", "brier")}


def typed(*argv: str) -> str:
    """What a command prints."""
    import run

    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = run.main(argv)
    if code:
        raise SystemExit(f"python run.py {' '.join(argv)} ended with {code}")
    return out.getvalue()


def lines_of(text: str, start: str) -> list[str]:
    """From the line that begins so to the next that is not indented."""
    found = re.search(rf"(?m)^{start}.*\n(?:  .*\n)*", text)
    return found[0].splitlines() if found else []


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))

"""What a model of real reviews gets wrong, by the commands of docs/errors.md; and whether what is planted is found.

    python -m bench errors              trains a small BERT on IMDb reviews, and writes bench/results/errors-imdb.json

4,000 reviews to train on, four times, 128 tokens of each; 2,000 held out. Then faults are planted (planted.py), and looked for
with evaluate, inspect and monitor. The exit code is 1 where one is not found, or something is where nothing was planted.
"""

from __future__ import annotations

import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.flags import make_parser
from bench.machine import RESULTS, keep, processor
from bench.quality.planted import not_shown, planted, read, typed
from engine.errors import UsageError
from engine.installed import install

DATA = "--data sample --max-train-examples 4000 --max-eval-examples 2000"
TRAIN = f"--task imdb {DATA} --max-length 128 --epochs 4 --batch-size 32 --learning-rate 2e-3 --precision fp32 --device cpu"
INSPECT = "--task imdb --data sample --max-train-examples 5000 --max-eval-examples 2000"


def main(argv: Sequence[str]) -> int:
    """1 where something did not come out as it must."""
    make_parser("errors", __doc__).parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PLAINLOOP_CACHE"] = str(Path(folder) / "cache")
        document = measured(Path(folder))
    keep(RESULTS / "errors-imdb.json", document)
    print(json.dumps(document, indent=1))
    return 1 if document["planted"]["not_shown"] else 0


def measured(folder: Path) -> dict[str, Any]:
    """All figures; the run and the files go to ``folder``."""
    run, model = folder / "run", small_bert(folder / "model")
    typed(*TRAIN.split(), "--model", model, "--output-dir", str(run))
    of_run = ["evaluate", str(run), "--device", "cpu", "--precision", "fp32"]
    typed(*of_run, "--errors", str(run / "errors.csv"), "--slice", "label", "--output", str(folder / "raw.json"))
    slices = read(run / "errors.slices.csv")
    said = typed(*of_run, "--calibrate", "--threshold", "auto")
    began = time.perf_counter()
    inspected = typed("inspect", *INSPECT.split(), "--output", str(folder / "found.csv"))
    seconds = round(time.perf_counter() - began, 1)
    found = [row["finding"] for row in read(folder / "found.csv")]
    faults = planted(folder, run, model)
    return {
        "command": f"python run.py {TRAIN}", "processor": processor(), "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "cleanlab", "datasketch")},
        "figures": figures(folder / "raw.json"),
        "calibrate": lines_of(said, "temperature"), "threshold": lines_of(said, "thresholds"), "num_slices": len(slices),
        "found": [row for row in slices if row["found"]],
        "inspect": {"command": f"python run.py inspect {INSPECT}", "lines": inspected.splitlines()[:-1],
                    "rows": {name: found.count(name) for name in dict.fromkeys(found)}, "seconds": seconds},
        "planted": {**faults, "not_shown": not_shown(faults)},
    }  # fmt: skip


def small_bert(folder: Path) -> str:
    """One layer of width 64, with random weights, and MiniLM's tokenizer: trained in minutes, and soon too sure."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from tasks.offline import packaged_minilm

    if (path := packaged_minilm()) is None:
        raise UsageError(f"the offline extra is needed: {install('offline', 'inspect')}")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    BertModel(BertConfig(**sizes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(path).save_pretrained(folder)
    return str(folder)


def figures(path: Path) -> dict[str, float]:
    found = json.loads(path.read_text())
    return {name: found[f"eval_{name}"] for name in ("accuracy", "loss", "ece", "brier")}


def lines_of(text: str, start: str) -> list[str]:
    """From the line that begins so to the next that is not indented."""
    found = re.search(rf"(?m)^{start}.*\n(?:  .*\n)*", text)
    return found[0].splitlines() if found else []

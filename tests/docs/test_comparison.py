"""docs/comparison.md: each of its figures is computed anew from bench/results, and what it says of others stands in their source."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from engine.optimizer import OPTIMIZERS
from tasks import COMMANDS, TASKS

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "bench/results"
PAGE = (ROOT / "docs/comparison.md").read_text(encoding="utf-8")
MEASURED = PAGE.partition("\n## What was measured\n")[2].partition("\n## ")[0]
CPU, H100, H200 = (
    json.loads((RESULTS / name).read_text())
    for name in ("bench-cpu.json", "gpu-h100/bench-nvidia-h100-80gb-hbm3.json", "gpu-h200/contest-defaults.json")
)
SPEED = {  # heading: the rows of one contest
    "CPU, each tool's defaults": [row for row in CPU if row["run_id"] == "20261121-084828-D"],
    "CPU, the same batches, all of them padded but for the first": [r for r in CPU if r["run_id"] == "20261121-095642-S-fp32"],
    "CPU, each at its best, the allocator as it comes": [row for row in CPU if row["run_id"] == "20261121-084150-B"],
    "CPU, each at its best, `--allocator mallopt` for all": [row for row in CPU if row["run_id"] == "20261121-100836-B"],
    "H100, the same batches in bf16, collated beforehand": [row for row in H100 if row["run_id"] == "20261126-145855-S-bf16"],
    "H200, each tool's defaults": H200,
}
FACTS = {  # what the page says of a package: names that stand in its source
    "transformers": ("DataCollatorWithFlattening", "TrainerCallback", "hyperparameter_search", "neftune_noise_alpha",
                     "use_liger_kernel", "auto_find_batch_size", "enable_jit_checkpoint"),
    "accelerate": ("MegatronLMPlugin", "DeepSpeedPlugin", "FullyShardedDataParallelPlugin", "ParallelismConfig", "LocalSGD",
                   "init_empty_weights"),
    "lightning_fabric": ("DeepSpeedStrategy", "XLAStrategy", "BitsandbytesPrecision", "TransformerEnginePrecision",
                         "ModelParallelStrategy"),
    "sentence_transformers": ("SparseEncoder", "MultiVectorEncoder", "CrossEncoder", "MatryoshkaLoss", "GISTEmbedLoss",
                              "mine_hard_negatives", "NanoBEIREvaluator", "openvino"),
}  # fmt: skip


def useful_rate(row: dict[str, Any]) -> float:
    """FLOPs for real tokens a second: the median of the windows, which the oldest rows do not have; then over all of them."""
    return row["rate"].get("tflops_median") or row["rate"]["tflops"]


def speed_rows(rows: list[dict[str, Any]]) -> list[str]:
    """The table of a contest: examples a second, useful work beside Trainer's, memory."""
    base = next(useful_rate(row) for row in rows if row["system"] == "Trainer")
    assert all(row["valid"] for row in rows)
    found = []
    for row in rows:
        rate, [num, wanted] = row["rate"], row["work"].get("windows") or [len(row["time"]["windows_s"])] * 2
        spread = f" [{rate['ex_s_min']:,.2f} - {rate['ex_s_max']:,.2f}]" if num > 1 else f" (one window of {wanted})"
        found.append(f"| {row['system']} | {rate['ex_s']:,.2f}{spread} | {useful_rate(row) / base:.1f} | {row['mem_gb']:.1f} |")
    return found


def overhead_row(run_id: str) -> str:
    rows = {row["system"]: row["overhead_us"]["median"] / 1000 for row in CPU if row["run_id"] == run_id}
    return "| " + " | ".join(f"{rows[name]:.1f}" for name in OVERHEAD) + " |"


OVERHEAD = ("Plainloop", "plain loop", "Trainer", "Accelerate", "Lightning Fabric")


def expected() -> list[str]:
    """Every line of the section with a figure in it."""
    lines = [line for rows in SPEED.values() for line in speed_rows(rows)]
    lines += [f"| {which} {overhead_row(run)}" for which, run in (("nine windows", "20261121-105051-overhead"),
                                                                  ("three windows, earlier", "20261121-091045-overhead"))]  # fmt: skip
    for name, what in (("imdb", "1,000 IMDb reviews"), ("stars", "2,149 Yelp reviews, five classes")):
        document = json.loads((RESULTS / f"parity-{name}.json").read_text())
        ours, theirs = document["plainloop"]["steps"], document["steps"]
        counts = [sum(a[key] == b[key] for a, b in zip(ours, theirs, strict=True)) for key in ("loss", "grad_norm")]
        both = f"{document['plainloop']['eval_accuracy']:.4f}, {document['eval_accuracy']:.4f}"
        lines.append(f"| {what} | {counts[0]} of {len(theirs)} | {counts[1]} of {len(theirs)} | {both} |")
    return lines


def test_every_figure_is_that_of_the_results():
    left = MEASURED
    for line in expected():
        assert f"{line}\n" in MEASURED, line
        left = left.replace(line, "")
    for heading in SPEED:
        assert f"**{heading}**" in MEASURED
        left = left.replace(heading, "")
    for row in (*CPU[:1], *H100[:1], *H200[:1]):
        for package in ("torch", "transformers", "accelerate"):
            said = f"{package} {row['env']['versions'][package]}"
            assert said in MEASURED, said
            left = left.replace(said, "")
    left = left.replace(f"lightning-fabric {CPU[0]['env']['versions']['lightning-fabric']}", "")
    assert not re.findall(r"\d+\.\d+", left), "a figure that no file of bench/results has"


def test_a_figure_that_is_changed_is_noticed():
    line = expected()[0]
    assert line.replace("1", "2") != line and line.replace("1", "2") not in MEASURED


@pytest.mark.parametrize("package", FACTS)
def test_what_is_said_of_others_stands_in_their_source(package):
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    source = "\n".join(path.read_text(errors="replace") for path in Path(spec.origin).parent.rglob("*.py"))
    for name in FACTS[package]:
        assert f"`{name}`" in PAGE, name
        assert name in source, f"{package} {version(package.replace('_', '-'))} has no {name} any more"


def test_nothing_is_named_of_others_without_being_looked_up():
    """Names of theirs are in FACTS, those of packages aside that are not installed here; and names of ours are ours."""
    section = PAGE.partition("\n## What the others do that Plainloop does not\n")[2].partition("\n## ")[0]
    elsewhere = {"GRPOTrainer", "RLOOTrainer", "PPOTrainer", "KTOTrainer", "OnlineDPOTrainer", "GKDTrainer",  # TRL's
                 "LearningRateFinder", "BatchSizeFinder", "StochasticWeightAveraging"}  # Lightning's  # fmt: skip
    named = set(re.findall(r"`([A-Za-z_]+)`", section)) - {*TASKS, *COMMANDS}
    assert named == {name for names in FACTS.values() for name in names} | elsewhere


def test_what_is_counted_of_ours():
    assert "fifteen tasks" in PAGE and len(TASKS) == 15
    assert "four" in PAGE and len(OPTIMIZERS) == 4
    number = len((ROOT / "engine/loop.py").read_text().splitlines())
    assert f"[the loop](the-loop.md) is {number} lines" in PAGE

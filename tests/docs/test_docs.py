"""docs/from-trainer.md against what is installed and what there is: fields, flags, defaults, and its example run both ways."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

import run
from bench import scaling
from bench.quality import seeds
from bench.quality.planted import report
from bench.reliability import predicting
from bench.toys import tiny
from engine.config import TrainConfig
from engine.data.sources import SourceConfig
from engine.errors import UsageError
from engine.settings.hints import ROWS, hint
from engine.settings.parser import parse
from tasks.classification.task import ClassificationOptions

PAGE = (Path(__file__).parent.parent.parent / "docs/from-trainer.md").read_text(encoding="utf-8")
FLAG = re.compile(r"--([a-z][a-z0-9-]*)")
NAMES_OF_OURS = {
    field.name for kind in (TrainConfig, SourceConfig, ClassificationOptions) for field in dataclasses.fields(kind)
}


def table(heading: str) -> list[tuple[str, str]]:
    """The rows of the table under a heading, as (left, right)."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    rows = [line.strip("|").split("|") for line in lines]
    assert all(len(row) == 2 for row in rows), "two cells in every row"
    return [(left.strip(), right.strip()) for left, right in rows]


def names_in(cells: list[str]) -> list[str]:
    """What stands alone between backticks, with or without a value behind it."""
    return [name for cell in cells for name in re.findall(r"`([a-z_0-9]+)`", cell)]


def defaults_of(*kinds: type) -> dict[str, Any]:
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for kind in kinds
        for field in dataclasses.fields(kind)
    }


def same(written: str, value: Any) -> bool:
    """``5e-5`` is 5e-05; an enum is written as its value."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(written) == value
    return written == str(getattr(value, "value", value))


def needs_the_version_of_the_page() -> None:
    measured = re.search(r"transformers (\d+\.\d+)\b", PAGE)
    assert measured is not None
    if not version("transformers").startswith(f"{measured[1]}."):
        pytest.skip(f"the page describes transformers {measured[1]}")


def test_every_field_of_training_arguments_has_one_row():
    named = names_in([left for left, _ in table("TrainingArguments")])
    assert len(named) == len(set(named)), "a field stands in two rows"
    missing = [field.name for field in dataclasses.fields(TrainingArguments) if field.name not in named]
    assert not missing, f"docs/from-trainer.md does not say what becomes of {missing}"


def test_the_table_is_that_of_the_hints():
    assert table("TrainingArguments") == list(ROWS), "engine/settings/hints.py is the source of the table"


def test_every_field_of_training_arguments_gets_a_hint_on_the_command_line():
    """Or is a flag here, too, or is said to have no counterpart."""
    for field in dataclasses.fields(TrainingArguments):
        here = hint(f"--{field.name.replace('_', '-')}")
        assert here is not None and hint(field.name) == here, field.name
        assert "`" not in here and "](" not in here
        if field.name not in NAMES_OF_OURS:
            flag = f"--{field.name.replace('_', '-')}"
            with pytest.raises(UsageError) as caught:
                parse(["--task", "yelp", flag, "1"], "run.py", [TrainConfig, SourceConfig, ClassificationOptions], {})
            assert str(caught.value) == f"unknown argument {flag!r}, of Trainer's; here: {here}"


def test_no_row_is_of_a_field_that_does_not_exist():
    needs_the_version_of_the_page()
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert set(names_in([left for left, _ in table("TrainingArguments")])) <= known


def test_every_row_gives_a_flag_or_says_why_there_is_none():
    for left, right in table("TrainingArguments"):
        assert FLAG.search(right) or right.startswith(("not needed: ", "not yet")), left


def test_every_flag_on_the_page_exists():
    flags = {flag.replace("-", "_") for flag in FLAG.findall(re.sub(r"^\|[-|]+$", "", PAGE, flags=re.M))}
    assert flags
    assert flags <= NAMES_OF_OURS, f"no such flag: {sorted(flags - NAMES_OF_OURS)}"


@pytest.mark.parametrize("kind", [TrainConfig, SourceConfig])
def test_every_setting_is_on_the_page(kind):
    flags = set(FLAG.findall(PAGE))
    missing = [field.name for field in dataclasses.fields(kind) if field.name.replace("_", "-") not in flags]
    assert not missing, f"docs/from-trainer.md leaves out {missing}"


def test_our_defaults_are_as_written():
    ours = defaults_of(TrainConfig, SourceConfig, ClassificationOptions)
    written = re.findall(r"`--([a-z-]+)` \(([^)]*)\)", PAGE)
    assert len(written) > 5
    for flag, value in written:
        assert same(value, ours[flag.replace("-", "_")]), f"--{flag} is {ours[flag.replace('-', '_')]}, not {value}"


def test_trainers_defaults_are_as_written():
    needs_the_version_of_the_page()
    theirs = defaults_of(TrainingArguments)
    written = [pair for left, _ in table("TrainingArguments") for pair in re.findall(r"`([a-z_0-9]+)` \(([^)]*)\)", left)]
    assert len(written) > 5
    for name, value in written:
        assert same(value, theirs[name]), f"{name} is {theirs[name]}, not {value}"


def test_every_argument_of_trainer_is_on_the_page():
    named = names_in([left for left, _ in table("Other arguments of Trainer")])
    assert set(inspect.signature(Trainer.__init__).parameters) - {"self"} <= set(named)


def test_the_gain_of_embeddings_is_that_of_the_results():
    root = Path(__file__).parent.parent.parent
    document = json.loads((root / "bench/results/embeddings-imdb.json").read_text())
    page = (root / "docs/tasks-embeddings.md").read_text(encoding="utf-8")
    assert f"{document['train_pairs']:,} pairs of passages" in page and f"on {document['pairs']:,} pairs" in page
    for name, f in document["figures"].items():
        assert f"| {name} | {f['start']:.4f} | {f['trained']:.4f} | {f['gain']:+.4f} ± {f['standard_error']:.4f} |" in page


def test_packing_and_bf16_cost_no_quality():
    """Within two standard errors over the seeds, and a point and a half."""
    rows = json.loads((Path(__file__).parent.parent.parent / "bench/results/quality-imdb.json").read_text())["rows"]
    for variant in seeds.VARIANTS:
        found = seeds.compared(rows, variant)
        assert found is not None and len(found.accuracies) == len(seeds.SEEDS)
        assert abs(found.difference) <= min(2 * found.over_seeds, 0.015), variant


def test_the_same_run_both_ways(tmp_path, monkeypatch):
    """The script and the command as they stand there, with a small model without a head, dropout off, and on the CPU."""
    section = PAGE.split("\n## The same run, both ways\n")[1]
    script, command = (section.split(f"```{language}\n")[1].split("```")[0] for language in ("python", "bash"))
    assert len(script.splitlines()) == 12
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    tiny.save_model(tmp_path / "model", tiny.distilbert(num_labels=2, dropout=0.0).distilbert)
    for name, number, seed in (("train", 53, 0), ("eval", 41, 1)):
        with open(f"{name}.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([("text", "label"), *((text, int(w == "a")) for text, w in tiny.texts(number, seed))])

    script = script.replace("distilbert-base-uncased", "model").replace(
        "learning_rate=2e-5", "learning_rate=2e-5, use_cpu=True"
    )
    assert "use_cpu" in script
    exec(compile(script, "from-trainer.md", "exec"), {})
    program, *arguments = shlex.split(command.replace("\\\n", " ").replace("distilbert-base-uncased", "model"))[1:]
    assert program == "run.py"
    assert run.main([*arguments, "--device", "cpu"]) == 0

    theirs, ours = (load_file(f"runs/{name}/model.safetensors") for name in ("trainer", "plainloop"))
    start = load_file("model/model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    moved = [name for name in start if not torch.equal(start[name], ours[f"distilbert.{name}"])]
    assert moved, "training must have changed something"


def test_the_calculation_on_the_scaling_page_is_what_the_command_prints():
    page = (Path(__file__).parent.parent.parent / "docs/scaling.md").read_text(encoding="utf-8")
    assert "\n".join(scaling.rows()) in page


def test_the_errors_of_real_reviews_are_those_of_the_results():
    root = Path(__file__).parent.parent.parent
    found = json.loads((root / "bench/results/errors-imdb.json").read_text())
    page = (root / "docs/errors.md").read_text(encoding="utf-8")
    for lines in (found["calibrate"] + found["threshold"], found["inspect"]["lines"]):
        assert "```\n" + "\n".join(lines) + "\n```" in page
    figures = found["figures"]
    assert ", ".join(f"{name} {figures[name]:.3f}" for name in ("accuracy", "loss", "ece", "brier")) in page
    assert report(found["planted"]) in page
    assert sum(row["found"] == "worse" for row in found["found"]) == 1 and f"Of {found['num_slices']:,} parts" in page


def test_the_predicting_page_is_that_of_the_results():
    root = Path(__file__).parent.parent.parent
    found = json.loads((root / "bench/results/predict-cpu.json").read_text())
    assert predicting.report(found) in (root / "docs/predicting.md").read_text(encoding="utf-8")
    assert predicting.is_clean(found, 200)
    assert max(row["rows"] for row in found["memory"]) >= 1_000_000
    [large] = found["large"]
    assert large["rows"] >= 1_000_000 and large["kills"] >= 20

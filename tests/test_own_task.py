"""The task of docs/your-own-task.md as it stands there: trained, predicted and evaluated from a file outside the project."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import run
from engine.errors import UsageError
from engine.sources import Source, SourceConfig
from tasks.classification import Classification, ClassificationOptions
from tests import tiny

PAGE = (Path(__file__).parent.parent / "docs/your-own-task.md").read_text(encoding="utf-8")


def test_the_example_runs_end_to_end(tmp_path, monkeypatch, capsys):
    code, commands = (PAGE.split(f"```{language}\n")[1].split("```")[0] for language in ("python", "bash"))
    assert len(code.splitlines()) <= 40
    monkeypatch.chdir(tmp_path)
    Path("my_task.py").write_text(code)
    tiny.save_model(tmp_path / "model", tiny.distilbert(num_labels=2).distilbert)
    generator = np.random.default_rng(0)
    rows = {}
    for name, number, seed in (("train", 60, 0), ("eval", 30, 1)):
        votes = generator.integers(1, 9, number)
        rows[name] = [
            (text, generator.integers(0, v + 1), v) for (text, _), v in zip(tiny.texts(number, seed), votes, strict=True)
        ]
        with open(f"{name}.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([("text", "likes", "judges"), *rows[name]])

    train, predict = (shlex.split(line)[2:] for line in commands.strip().splitlines())
    assert run.main([*train, "--model", "model", "--epochs", "2", "--device", "cpu", "--learning-rate", "1e-3"]) == 0
    capsys.readouterr()
    assert run.main(predict) == 0
    line = capsys.readouterr().out
    assert line.startswith(("like (", "dislike (")) and line.endswith("Great tacos, slow service.\n")
    assert run.main(["evaluate", "--model", "runs/likes", "--output", "figures.json"]) == 0

    model, tokenizer = (kind.from_pretrained("runs/likes") for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    texts, likes, votes = zip(*rows["eval"], strict=True)
    with torch.no_grad():
        logits = model.eval()(**tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")).logits
    p, likes, votes = logits.softmax(-1).double(), torch.tensor(np.array(likes)), torch.tensor(np.array(votes))
    expected = -(likes * p[:, 1].log() + (votes - likes) * p[:, 0].log()).sum() / votes.sum()
    assert json.loads(Path("figures.json").read_text())["eval_loss"] == pytest.approx(float(expected), rel=1e-5)
    assert pipeline("text-classification", model="runs/likes", device="cpu")("w0")[0]["label"] in ("like", "dislike")
    assert "--task my_task.py:Likes" in Path("runs/likes/README.md").read_text()


def test_every_method_of_a_task_is_named():
    from engine.task import Task

    methods = {name for name in vars(Task) if not name.startswith("_") and callable(getattr(Task, name))}
    have_a_default = {"Options", "forward", "inputs_of", "describe"}
    missing = [name for name in methods - have_a_default if f"`{name}(" not in PAGE]
    assert not missing


def test_what_is_asked_before_its_turn_is_one_line():
    """examples() finds out what the data hold; the model's head and the metrics depend on it."""
    for ask in (lambda task: task.build_model(), lambda task: task.metrics("eval")):
        with pytest.raises(UsageError, match=r"Classification: call examples\(\) before build_model\(\) and metrics\(\)"):
            ask(Classification(ClassificationOptions(), Source(SourceConfig(model="none"))))

"""Long texts as windows: every token has a part in the answer, and the answer is the library's, window by window."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

import run
from bench.toys import tiny
from engine.config import TrainConfig
from engine.data.collate import Layout
from engine.data.sources import Source
from engine.errors import ModelError, UsageError
from engine.finished import open_model
from engine.loop import accumulate
from engine.state import TrainState
from tasks import find
from tasks.classification.task import Classification
from tasks.classification.windows import check_stride, documents, pooled
from tasks.options import ClassificationOptions
from tests.toys.cli import fails
from tests.toys.killed import assert_same_bits, train_to

PACKED = Layout("packed")


def long_texts(number: int, seed: int = 0, longest: int = 70) -> list[tuple[str, str]]:
    """The last word decides the label, which no window but the last one of a long text holds."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        label = int(generator.integers(0, 3))
        words = generator.integers(3, tiny.NUM_WORDS, int(generator.integers(2, longest)))
        rows.append((" ".join([*(tiny.WORDS[i] for i in words), tiny.WORDS[label]]), "abc"[label]))
    return rows


def make_task(number: int = 20, seed: int = 0, **options: Any) -> Classification:
    rows = long_texts(number, seed)
    table = Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
    options = {"max_length": 16, "stride": 4, **options}
    task = Classification(ClassificationOptions(**options), Source(tables={"train": table, "eval": table.select(range(7))}))
    task._tokenizer, task._config = tiny.tokenizer(), tiny.bert().config
    return task


def library(model: Any, text: str, pooling: str, stride: int = 4) -> torch.Tensor:
    """The answer of transformers: each window by itself."""
    found = tiny.tokenizer()(text, truncation=True, max_length=16, stride=stride, return_overflowing_tokens=True)["input_ids"]
    with torch.no_grad():
        logits = torch.cat([model(torch.tensor([ids])).logits for ids in found])
    return logits.mean(0) if pooling == "mean" else logits.max(0).values


# ------------------------------------------------------------------------------------------------------------ windows


def test_every_token_is_in_a_window_and_neighbours_share_the_stride():
    texts, tokenizer = [text for text, _ in long_texts(1500, longest=90)], tiny.tokenizer()
    windows, first = documents(texts, tokenizer, 16, 4, "here", str)
    assert len(first) == 1501
    for i, text in enumerate(texts):
        rows = [windows[at]["input_ids"].tolist() for at in range(first[i], first[i + 1])]
        assert all(row[0] == 2 and row[-1] == 3 and len(row) <= 16 for row in rows)
        whole = rows[0][1:-1]
        for row in rows[1:]:
            assert row[1:5] == whole[-4:]
            whole += row[5:-1]
        assert whole == tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("layout", [Layout(), PACKED], ids=["padded", "packed"])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_logits_are_those_of_the_library_window_by_window(layout, pooling):
    task, model = make_task(window_pooling=pooling), tiny.bert(dropout=0.0).eval()
    rows = task.examples()["train"]
    if layout is PACKED:
        model.set_attn_implementation("sdpa")
        layout = as_built(task, model)
    expected = torch.stack([library(tiny.bert(dropout=0.0).eval(), text, pooling) for text, _ in long_texts(20)])
    with torch.no_grad():
        found = task.forward(model, task.collate([rows[i] for i in range(20)], layout)).logits
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def as_built(task: Classification, model: Any) -> Layout:
    """The model made ready for packed batches, as training makes it."""
    from engine.build import build

    setup = build(task, task.examples()["train"], TrainConfig(device="cpu", precision="fp32"), model)
    assert setup.layout.kind == "packed"
    model.eval()
    return setup.layout


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_the_pool_by_hand_and_its_gradient(pooling):
    logits = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float().requires_grad_()
    found = pooled(logits, torch.tensor([0, 1, 1, 1, 2]), 3, pooling)
    parts = [logits[:1], logits[1:4], logits[4:]]
    expected = torch.stack([part.mean(0) if pooling == "mean" else part.max(0).values for part in parts])
    torch.testing.assert_close(found, expected)
    weights = torch.arange(9.0).view(3, 3)
    [ours] = torch.autograd.grad((found * weights).sum(), logits, retain_graph=True)
    [theirs] = torch.autograd.grad((expected * weights).sum(), logits)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_in_half_precision_the_pool_is_no_coarser_than_the_logits(pooling):
    """Autocast would multiply the logits of windows in bf16, and round their mean to 8 bits."""
    logits, text = torch.randn(9, 3).bfloat16(), torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        found = pooled(logits, text, 3, pooling)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, pooled(logits.float(), text, 3, pooling), rtol=1e-6, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------- training


def gradients(cut: int, layout: str) -> tuple[float, list[torch.Tensor]]:
    """The mean loss of 12 texts in ``cut`` micro-batches, and its gradients."""
    from engine.build import build

    task, model = make_task(12), tiny.bert(dropout=0.0)
    rows = task.examples()["train"]
    config = TrainConfig(device="cpu", precision="fp32", batching=layout, batch_size=12 // cut, accumulation_steps=cut)
    setup = build(task, rows, config, model)
    batches = [task.collate([rows[i] for i in range(at, at + 12 // cut)], setup.layout) for at in range(0, 12, 12 // cut)]
    state: TrainState = setup.state
    state.model.train()
    loss = accumulate(state, task, batches, torch.tensor(12.0))
    return float(loss) / 12, [parameter.grad.clone() for parameter in model.parameters()]


def test_the_loss_and_its_gradient_are_those_of_a_loop_by_hand():
    loss, found = gradients(1, "auto")
    model, total = tiny.bert(dropout=0.0), torch.zeros(())
    for text, label in long_texts(12):
        ids = tiny.tokenizer()(text, truncation=True, max_length=16, stride=4, return_overflowing_tokens=True)["input_ids"]
        logits = torch.cat([model(torch.tensor([window])).logits for window in ids]).mean(0)
        total = total + F.cross_entropy(logits[None], torch.tensor(["abc".index(label)])) / 12
    total.backward()
    assert loss == pytest.approx(total.item(), rel=1e-5)
    for ours, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("cut", "layout"), [(2, "auto"), (4, "auto"), (1, "padded"), (3, "padded")])
def test_accumulated_or_padded_it_is_the_same_gradient(cut, layout):
    (loss, whole), (its, parts) = gradients(1, "auto"), gradients(cut, layout)
    assert its == pytest.approx(loss, rel=1e-5)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_short_texts_are_trained_as_without_windows(tmp_path):
    config = TrainConfig(device="cpu", precision="fp32", batching="padded", batch_size=4, max_steps=6)
    rows = [(text, label) for text, label in long_texts(60) if len(text.split()) <= 14]
    table = Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
    states = []
    for stride in (None, 4):
        task = make_task(stride=stride)
        task.source = Source(tables={"train": table})
        states.append(train_to(tmp_path / str(stride), task, config, tiny.bert()))
    for (name, one), (_, other) in zip(states[0].model.named_parameters(), states[1].model.named_parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-6, msg=name)


def test_resume_is_bitwise(tmp_path):
    config = TrainConfig(device="cpu", batch_size=4, epochs=2, save_steps=3, output_dir=str(tmp_path))
    whole = train_to(tmp_path / "whole", make_task(), config, tiny.bert())
    train_to(tmp_path / "cut", make_task(), config, tiny.bert(), until=7)
    assert_same_bits(whole, train_to(tmp_path / "cut", make_task(), config, tiny.bert(), resume=True))


# --------------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, texts, and two runs: one that reads the texts whole, one that cuts them."""
    found = tmp_path_factory.mktemp("windows")
    tiny.save_model(found / "model", tiny.bert(dropout=0.0))
    for seed, (name, number) in enumerate({"train": 96, "eval": 90}.items()):
        with open(found / f"{name}.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([("text", "label"), *long_texts(number, seed, longest=40)])
    for name, more in (("whole", ["--stride", "4", "--window-pooling", "max"]), ("cut", [])):
        assert run.main([*command(found), *more, "--output-dir", str(found / name)]) == 0
    return found


def command(folder: Path, model: str = "model") -> list[str]:
    return ["--task", "classification", "--model", str(folder / model), "--train-file", str(folder / "train.csv"), "--device",
            "cpu", "--eval-file", str(folder / "eval.csv"), "--max-length", "16", "--epochs", "2", "--learning-rate",
            "1e-2", "--precision", "fp32", "--batching", "padded"]  # fmt: skip


def test_what_stands_behind_the_cut_has_a_part_in_the_answer(folder):
    """Long texts that differ in their last word alone: to a model that cuts them they are the same."""
    long = [" ".join(["w9"] * 30 + [word]) for word in tiny.WORDS[:3]]
    scores = {}
    for name in ("whole", "cut"):
        task, model, layout = open_model(str(folder / name), find, device="cpu")
        scores[name] = np.array([list(found["probabilities"].values()) for found in task.predict(model, long, layout)])
    assert (scores["cut"] == scores["cut"][0]).all()
    assert all(np.abs(scores["whole"][i] - scores["whole"][j]).max() > 1e-4 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_predict_and_evaluate_read_them_whole(folder, tmp_path, capsys):
    texts = [text for text, _ in long_texts(90, 1, longest=40)]
    output = tmp_path / "found.jsonl"
    arguments = ["--model", str(folder / "whole"), "--device", "cpu"]
    assert run.main(["predict", *arguments, "--input", str(folder / "eval.csv"), "--output", str(output)]) == 0
    said = capsys.readouterr().err
    assert "of 90 texts are several windows" in said and "cut to" not in said
    model = AutoModelForSequenceClassification.from_pretrained(folder / "whole").eval()
    for text, line in zip(texts, output.read_text().splitlines(), strict=True):
        expected = library(model, text, "max").softmax(-1)
        found = json.loads(line)["probabilities"]
        assert [found[name] for name in "abc"] == pytest.approx(expected.tolist(), abs=1e-5)
    assert run.main(["evaluate", *arguments, "--output", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    kept = json.loads((folder / "whole/run.json").read_text())["metrics"]
    assert figures["eval_loss"] == pytest.approx(kept["eval_loss"], rel=1e-5)
    right = [json.loads(line)["predicted_label"] == label
             for line, (_, label) in zip(output.read_text().splitlines(), long_texts(90, 1, longest=40), strict=True)]  # fmt: skip
    assert figures["eval_accuracy"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--stride", "14"], "--stride 14: a window of 16 tokens has room for 14 of a text, so each would hold nothing new"),
        (["--stride", "-1"], "stride must be at least 0"),
        (["--window-pooling", "max"], "--window-pooling max is of windows: give --stride, too"),
        (
            ["--stride", "2", "--text-pair-column", "more"],
            "cuts one text into windows, and --text-pair-column makes rows of two",
        ),
    ],
)
def test_a_stride_that_does_not_fit_is_one_line(folder, more, said, capsys):
    code, line = fails([*command(folder), *more, "--output-dir", str(folder / "none")], capsys)
    assert code == 2 and said in line
    if "14" in more:  # the way in
        short = ["--stride", "13", "--max-steps", "1", "--output-dir", str(folder / "thirteen")]
        assert run.main([*command(folder), *short]) == 0


def test_tokenizers_and_models_that_cannot_are_refused(tmp_path):
    with pytest.raises(ModelError, match="needs a fast tokenizer, and SimpleNamespace is none"):
        check_stride(SimpleNamespace(is_fast=False), 16, 4, "here")
    task = make_task()
    rows = task.examples()["train"]
    with pytest.raises(ModelError, match="answers otherwise beside a longer text"):
        task.collate([rows[0], rows[1]], Layout(sides=()))
    task.counts_ends = True  # a head such as BART's
    with pytest.raises(ModelError, match="reads the vector of an end token"):
        task.examples()
    with pytest.raises(UsageError, match="has room for 14"):
        check_stride(tiny.tokenizer(), 16, 20, "here")


def test_a_text_without_a_token_is_named():
    bare = tiny.tokenizer()
    bare.backend_tokenizer.post_processor = None
    with pytest.raises(Exception, match=r"here, 1: there is no token \(its text is empty\)"):
        documents(["w1 w2", "", "w3"], bare, 16, 4, "here", str)


@pytest.mark.slow
def test_an_exported_model_reads_a_window_and_that_is_said(folder, tmp_path, capsys):
    """With the pooling of ours around it, it is the model."""
    pytest.importorskip("onnxruntime")
    assert run.main(["export", str(folder / "whole"), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "checked on 90 rows" in said.out and "the exported model reads a window" in said.err


def test_open_model_knows_the_windows(folder):
    task, _, _ = open_model(str(folder / "whole"), find, device="cpu")
    assert task.options.stride == 4 and task.options.window_pooling == "max" and not task.one_text
    assert task.longest_input is None and open_model(str(folder / "cut"), find, device="cpu")[0].longest_input == 16

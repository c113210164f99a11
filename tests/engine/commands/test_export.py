"""``export``: what is written is the model, or nothing is."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, FNetConfig, FNetForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

import run
from bench.toys import tiny
from engine.commands import export as command_module
from engine.commands.flags import ExportConfig
from engine.data.tables import called
from engine.errors import ModelError
from engine.exporting import compare, program
from tests.toys.architectures import ENCODER
from tests.toys.cli import command, fails

CLOSE = 1e-4


def call(model: Path, output: Path, *more: str) -> list[str]:
    return ["export", str(model), "--output", str(output), *more]


@pytest.fixture
def fake(monkeypatch):
    """An exported model that is the model itself, for what surrounds it; ``int8`` and ``noise`` change what it says."""
    change = SimpleNamespace(noise=0.0, int8=0.0)

    class Fake(program.Called):
        def __init__(self, model: Any, factor: float):
            super().__init__(["input_ids", "attention_mask"], ["logits"])
            self.model, self.factor = model, factor

        def run(self, inputs: Any) -> Any:
            logits = self.model(input_ids=inputs[0], attention_mask=inputs[1]).logits
            return [logits + self.factor * torch.arange(logits.shape[-1])]

    def write(kind: str, model: Any, inputs: Any, outputs: Any, folder: Path) -> Any:
        (folder / program.FILES[kind]).write_bytes(b"graph")
        return Fake(model, change.noise)

    monkeypatch.setattr("engine.commands.export.write", write)
    monkeypatch.setattr("engine.commands.export.quantise", lambda folder, called: Fake(called.model, change.int8))
    return change


def test_a_folder_with_all_that_is_used(project, tmp_path, capsys, fake):
    assert run.main(call(project / "run", tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert "checked on 30 rows: probabilities differ by at most" in said and "rows a second, the model itself" in said
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.onnx", "config.json", "export.json", "tokenizer.json", "tokenizer_config.json"}
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert record["checked"]["num_rows"] == 30 and record["checked"]["lost"] == 0 and record["padding"] == "right"
    assert "where" not in record["checked"] and str(project) not in (tmp_path / "out/export.json").read_text()
    assert str(tmp_path) not in (tmp_path / "out/export.json").read_text() + (tmp_path / "out/config.json").read_text()
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("w1").input_ids == tiny.tokenizer()("w1").input_ids


def test_what_is_left_to_whoever_calls_it_is_said(project, tmp_path, capsys, fake):
    """A calibrated model's temperature stands in config.json and not in the graph; what evaluation says, it says once."""
    shutil.copytree(project / "run", tmp_path / "run")
    assert run.main(["evaluate", str(tmp_path / "run"), "--calibrate"]) == 0
    capsys.readouterr()
    assert run.main(call(tmp_path / "run", tmp_path / "out")) == 0
    said = capsys.readouterr().err
    assert said.count("calibrated: loss, ece and brier") == 1
    assert "the exported model gives logits: temperature and thresholds" in said and "reads a window" not in said
    assert json.loads((tmp_path / "out/config.json").read_text())["calibration"]["temperature"] > 0


@pytest.mark.parametrize("noise", [1e-2, math.nan])
def test_what_is_not_the_model_is_refused_and_nothing_is_left(project, tmp_path, capsys, fake, noise):
    fake.noise = noise
    code, line = fails(call(project / "run", tmp_path / "out"), capsys)
    assert code == 4 and "what was exported is not the model: a probability differs by" in line and "eval.csv, row" in line
    assert list(tmp_path.iterdir()) == []


def test_int8_that_loses_more_than_is_allowed_is_refused_with_its_numbers(project, tmp_path, capsys, fake):
    fake.int8 = -50.0  # always the first class; the model itself always says the last
    code, line = fails(call(project / "run", tmp_path / "out", "--int8", "--max-loss", "0.001"), capsys)
    labels = [line.split(",")[1] for line in (project / "eval.csv").read_text().splitlines()[1:]]
    before, after = labels.count("c") / 30, labels.count("a") / 30
    assert code == 4 and f"--int8 makes accuracy worse by {before - after:.4f} ± 0." in line
    assert f"({before:.4f} to {after:.4f} on 30 rows), above --max-loss 0.001; nothing is written" in line
    assert list(tmp_path.iterdir()) == []
    assert run.main(call(project / "run", tmp_path / "out", "--int8", "--max-loss", "0.9")) == 0


def test_too_few_rows_to_tell_are_said(project, tmp_path, capsys, fake):
    """Where the loss is allowed, and the loss with two standard errors is not."""
    fake.int8 = -50.0
    code, line = fails(call(project / "run", tmp_path / "out", "--int8", "--max-loss", "0"), capsys)
    lost, error = (float(each) for each in re.search(r"worse by ([\d.]+) ± ([\d.]+)", line).groups())
    assert code == 4 and error > 0
    for limit, is_said in ((lost + error, True), (lost + 2.1 * error, False)):
        assert run.main(call(project / "run", tmp_path / f"{limit}", "--int8", "--max-loss", str(limit))) == 0
        assert ("the rows are too few to say that this is below --max-loss" in capsys.readouterr().err) == is_said


def test_int8_that_gives_no_numbers_is_refused_whatever_it_may_lose(project, tmp_path, capsys, fake):
    fake.int8 = math.nan
    code, line = fails(call(project / "run", tmp_path / "out", "--int8", "--max-loss", "1"), capsys)
    assert code == 4 and "what was exported is not the model: a probability differs by nan" in line
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_checked_nothing_is_written(project, tmp_path, capsys, fake):
    given = command(project, "--output-dir", str(tmp_path / "alone"))
    at = given.index("--eval-file")
    assert run.main(given[:at] + given[at + 2 :]) == 0
    code, line = fails(call(tmp_path / "alone", tmp_path / "out"), capsys)
    assert code == 3 and "has no evaluation data, on which what is exported is checked: give --file" in line
    assert not (tmp_path / "out").exists()
    assert run.main(call(tmp_path / "alone", tmp_path / "out", "--file", str(project / "eval.csv"))) == 0


def test_a_model_that_padding_changes_is_refused(project, tmp_path, capsys, fake):
    """A Fourier transform over all tokens: beside a longer text the exported one would say something else."""
    tiny.save_model(tmp_path / "model", FNetForSequenceClassification(FNetConfig(**ENCODER)))
    given = command(project, "--output-dir", str(tmp_path / "run"), "--max-steps", "1")
    given[given.index("--model") + 1] = str(tmp_path / "model")
    assert run.main(given) == 0
    code, line = fails(call(tmp_path / "run", tmp_path / "out"), capsys)
    assert code == 4 and "padding changes what FNetForSequenceClassification computes" in line and line.endswith("not exported")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [(RuntimeError("no such operator\nand many lines"), 4, "BertForSequenceClassification cannot be exported as onnx: RuntimeError: no such operator ("),
     (OSError(28, "No space left on device"), 6, "cannot be written: No space left on device; nothing is left there")],
)  # fmt: skip
def test_what_the_exporter_raises_is_one_line_and_nothing_is_left(project, tmp_path, capsys, monkeypatch, error, code, words):
    def fails_with(*_, **__):
        raise error

    monkeypatch.setattr(torch.onnx, "export", fails_with)
    found, line = fails(call(project / "run", tmp_path / "out"), capsys)
    assert found == code and words in line and list(tmp_path.iterdir()) == []


def test_inputs_that_an_exported_model_has_none_of_are_refused(tmp_path):
    with pytest.raises(ModelError, match="the model reads pixel_values, and what is exported reads input_ids"):
        program.write("onnx", tiny.bert(), dict.fromkeys(("input_ids", "pixel_values"), torch.ones(2, 4)), ["logits"], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def graph(tmp_path):
    """model.onnx that negates."""
    from onnx import TensorProto, helper, save

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Neg", ["a"], ["b"])], "g", values[:1], values[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_graph_without_a_matrix_product_has_nothing_to_quantise(graph, tmp_path):
    with pytest.raises(ModelError, match="--int8: onnxruntime found no matrix product"):
        program.quantise(tmp_path, program.Called(["a"], ["b"]))


def test_the_loss_and_its_error_are_those_of_the_rows(project, monkeypatch):
    """Of an accuracy the jackknife over single rows is the standard error of a mean of differences, of each row."""
    from engine.finished import open_model
    from engine.model.layout import padded
    from engine.task import held_out
    from tasks import find

    task, model, layout = open_model(str(project / "run"), find, device="cpu")
    examples = held_out(task.examples())["eval"]
    weights = torch.randn(3, generator=torch.Generator().manual_seed(1)) * 0.05

    class Other(program.Called):
        def run(self, inputs: Any) -> Any:
            return [stock(input_ids=inputs[0], attention_mask=inputs[1]).logits + weights]

    stock = task.load_model(str(project / "run")).eval()
    plain = padded(stock, task.level)
    monkeypatch.setattr(compare, "MOST_GROUPS", 30)
    other = Other(["input_ids", "attention_mask"], ["logits"])
    found = compare.compare(task, model, layout, other, plain, examples, "eval", "accuracy")
    right = []
    with torch.inference_mode():
        for row in range(30):
            batch = task.collate([examples[row]], plain)
            label = int(batch.targets["labels"][0])
            logits = stock(**batch.inputs).logits[0]
            right.append((int(logits.argmax()) == label, int((logits + weights).argmax()) == label))
    difference = np.array([float(a) - float(b) for a, b in right])
    assert difference.std() > 0, "the test must see something"
    assert found.lost == pytest.approx(difference.mean(), abs=1e-6)
    assert found.standard_error == pytest.approx(difference.std(ddof=1) / math.sqrt(30), rel=1e-4)
    assert (found.before, found.after) == pytest.approx(
        (np.mean([a for a, _ in right]), np.mean([b for _, b in right])), abs=1e-6
    )


def test_the_metric_is_the_runs_or_the_first_of_its_task():
    def task(best, *names):
        return SimpleNamespace(best_metric=best, metrics=lambda split: SimpleNamespace(names=names))

    assert compare.chosen_metric(task("loss", "accuracy", "f1"), "eval", "f1") == "f1"
    assert compare.chosen_metric(task("f1", "accuracy", "f1"), "eval", None) == "f1"
    assert compare.chosen_metric(task("loss", "accuracy", "f1"), "eval", None) == "accuracy"
    assert compare.chosen_metric(task("loss", "accuracy", "f1"), "eval", "test/f1") == "f1"
    assert compare.chosen_metric(task("loss"), "eval", "loss") == "loss"


def test_worse_is_what_the_metric_calls_so(project, monkeypatch):
    """A loss that rises is worse, an accuracy that falls is; of one batch there is no standard error."""
    from engine.finished import open_model
    from engine.model.layout import padded
    from engine.task import held_out
    from tasks import find

    task, model, layout = open_model(str(project / "run"), find, device="cpu")
    plain, examples = padded(model, task.level), held_out(task.examples())["eval"]

    class Other(program.Called):
        def run(self, inputs: Any) -> Any:
            return [torch.zeros(len(inputs[0]), 3)]

    other = Other(["input_ids", "attention_mask"], ["logits"])
    found = compare.compare(task, model, layout, other, plain, examples, "eval", "loss")
    assert found.after == pytest.approx(math.log(3)) and found.lost == found.after - found.before != 0
    first = compare.compare(task, model, layout, other, plain, examples, "eval", "accuracy")
    worse = compare.compare(task, model, layout, other, plain, examples, "eval", "brier")
    assert worse.lost == worse.after - worse.before != 0 and compare.Sums(task, "eval", 1).figure("loss") == 0
    assert [len(found) for found in compare.rounds(task, [(model, layout), (other, plain)], examples, 2)] == [2, 2]
    assert first.lost == first.before - first.after and first.standard_error is not None
    monkeypatch.setattr(compare, "batches_of", lambda number: [list(range(number))])
    asked, figure = [], compare.Sums.figure
    monkeypatch.setattr(
        compare.Sums, "figure", lambda sums, name, left_out=-1: asked.append(left_out) or figure(sums, name, left_out)
    )
    whole = compare.compare(task, model, layout, other, plain, examples, "eval", "accuracy")
    assert {*asked} == {-1}, "without the only group there are no rows"
    with torch.inference_mode():
        alone = [task.forward(model, task.collate([examples[row]], plain)).logits.softmax(-1) for row in range(30)]
    farthest = int(np.argmax([float((each - 1 / 3).abs().max()) for each in alone]))
    assert whole.standard_error is None and farthest > 0 and whole.where == called(examples, [farthest])


def test_a_loss_that_is_no_number_is_refused_and_not_written():
    """Of a metric that is not defined on these rows; and one batch has no standard error to speak of."""
    config = ExportConfig(output="x", int8=True, max_loss=1.0)
    known = compare.Difference(30, 0.1, "row 1", "mcc", 0.5, 0.5, 0.0, None)
    command_module.judge(config, known)
    unknown = dataclasses.replace(known, after=math.nan, lost=math.nan)
    with pytest.raises(ModelError, match="--int8 makes mcc worse by nan"):
        command_module.judge(config, unknown)
    record = command_module.record_of(config, program.Called(["a"], ["b"]), unknown, [1.0, 2.0], left=False)
    assert record["checked"]["lost"] is None and record["checked"]["before"] == 0.5 and json.dumps(record, allow_nan=False)


def test_the_runs_metric_is_that_of_its_settings(project, tmp_path):
    assert run.main(command(project, "--best-metric", "f1", "--max-steps", "1", "--output-dir", str(tmp_path / "run"))) == 0
    assert command_module.metric_of(ExportConfig(model=str(tmp_path / "run"), output="x")) == "f1"
    assert command_module.metric_of(ExportConfig(model=str(project / "model"), output="x")) is None


def test_fewer_rows_and_a_model_without_a_run(project, tmp_path, capsys, fake):
    assert run.main(call(project / "run", tmp_path / "few", "--max-eval-examples", "7")) == 0
    assert "checked on 7 rows" in capsys.readouterr().out
    rows = (project / "eval.csv").read_text().replace(",a", ",0").replace(",b", ",1").replace(",c", ",2")
    (tmp_path / "ids.csv").write_text(rows)
    more = ["--task", "classification", "--file", str(tmp_path / "ids.csv")]
    assert run.main(call(project / "model", tmp_path / "plain", *more)) == 0


def test_a_graph_is_computed_by_as_many_threads_as_the_model(graph):
    assert program.OnnxCalled(graph, ["a"], ["b"]).session.get_session_options().intra_op_num_threads == torch.get_num_threads()


def test_groups_hold_every_row_once():
    for number in (1, 2, 19, 20, 21, 30, 1000, 12345):
        batches = compare.batches_of(number)
        assert [row for rows in batches for row in rows] == list(range(number))
        assert max(map(len, batches)) <= compare.ROWS and (len(batches) >= min(number, 20))


def test_an_output_that_is_there_is_left_alone(project, tmp_path, capsys, fake):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, words in (("out", "is there already"), ("link", "is there already"), ("none/out", "there is no such directory")):
        code, line = fails(call(project / "run", tmp_path / name), capsys)
        assert code == 2 and words in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [(["--int8", "--format", "torch"], 2, "--int8 is for --format onnx"), (["--max-loss", "-1"], 2, "--max-loss must be"),
     (["--task", "reranker"], 2, "models of this task are not exported; those of classification, yelp, imdb, ner, embeddings are"),
     (["a text"], 2, "export takes no texts")],
)  # fmt: skip
def test_what_is_refused(project, tmp_path, capsys, more, code, words):
    found, line = fails(["export", "--model", str(project / "run"), "--output", str(tmp_path / "out"), *more], capsys)
    assert found == code and words in line and list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_is_named_with_its_extra(project, tmp_path, capsys, monkeypatch):
    real = program.importlib.util.find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "onnxruntime" else real(name, *a))
    code, line = fails(call(project / "run", tmp_path / "out"), capsys)
    assert code == 2 and "needs the package onnxruntime" in line and "'.[export]'" in line


def test_the_tasks_that_are_listed_are_those_that_can():
    from tasks import TASKS, find
    from tasks.flags import ExportFlags

    assert {name for name in TASKS if find(name).exported} == set(ExportFlags.tasks)


# ------------------------------------------------------------------------------------------------------- the real thing


def gpt2() -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    return GPT2ForSequenceClassification(
        GPT2Config(
            vocab_size=100,
            n_positions=32,
            n_embd=32,
            n_layer=2,
            n_head=2,
            num_labels=3,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
        )
    )


def trained(folder: Path, model: Any, epochs: int = 1) -> Path:
    tiny.save_model(folder / "model", model)
    tiny.save_texts(folder, train=200, eval=60)
    flags = command(
        folder, "--learning-rate", "5e-3", "--batch-size", "8", "--precision", "fp32", "--output-dir", str(folder / "run")
    )
    flags[flags.index("--epochs") + 1] = str(epochs)
    assert run.main(flags) == 0
    return folder / "run"


def texts_and_probabilities(folder: Path, model: Path) -> tuple[list[str], list[list[float]]]:
    texts = [text for text, _ in tiny.texts(17, 9)]
    (folder / "in.txt").write_text("".join(f"{text}\n" for text in texts))
    assert (
        run.main(
            ["predict", str(model), "--input", str(folder / "in.txt"), "--output", str(folder / "p.jsonl"), "--device", "cpu"]
        )
        == 0
    )
    lines = [json.loads(line) for line in (folder / "p.jsonl").read_text().splitlines()]
    return texts, [list(line["probabilities"].values()) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny.bert, tiny.distilbert, gpt2])
def test_another_program_gives_the_probabilities_of_predict(tmp_path, make):
    """onnxruntime and the tokenizer that lies beside the model, in batches of any size and length; and torch's own program."""
    import onnxruntime

    model = trained(tmp_path, make())
    assert run.main(call(model, tmp_path / "onnx")) == 0 and run.main(call(model, tmp_path / "torch", "--format", "torch")) == 0
    texts, expected = texts_and_probabilities(tmp_path, model)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx/model.onnx"), providers=["CPUExecutionProvider"])
    graph = torch.export.load(tmp_path / "torch/model.pt2").module()
    names = [each.name for each in session.get_inputs()]
    for size in (1, 4, 17):
        for start in range(0, 17, size):
            inputs = tokenizer(texts[start : start + size], padding=True, truncation=True, return_tensors="pt")
            [logits] = session.run(["logits"], {name: inputs[name].numpy() for name in names})
            [others] = graph(*(inputs[name] for name in names))
            for found in (torch.from_numpy(logits), others):
                p = found.softmax(-1)
                assert (p - torch.tensor(expected[start : start + size])).abs().max() < CLOSE


@pytest.mark.slow
def test_real_int8_is_written_and_one_that_loses_more_is_refused(tmp_path, capsys):
    """A weight so large that the steps of 8 bits between it and zero leave nothing of the others; its input is always 0."""
    from safetensors.torch import load_file, save_file

    model = trained(tmp_path, tiny.bert(dropout=0.0), 8)
    assert run.main(call(model, tmp_path / "small", "--int8")) == 0
    record = json.loads((tmp_path / "small/export.json").read_text())["checked"]
    assert record["before"] > 0.8 and record["lost"] <= 0.01 and record["largest"] > 0
    shutil.copytree(model, tmp_path / "odd", ignore=shutil.ignore_patterns("checkpoints"))
    weights = load_file(tmp_path / "odd/model.safetensors")
    for name in ("weight", "bias"):
        weights[f"bert.encoder.layer.1.output.LayerNorm.{name}"][3] = 0
    weights["bert.pooler.dense.weight"][:, 3] = 1e6
    save_file(weights, tmp_path / "odd/model.safetensors", metadata={"format": "pt"})
    assert run.main(call(tmp_path / "odd", tmp_path / "whole")) == 0, "the model itself is as good as it was"
    code, line = fails(call(tmp_path / "odd", tmp_path / "lost", "--int8"), capsys)
    assert code == 4 and "--int8 makes accuracy worse by 0." in line and "above --max-loss 0.01; nothing is written" in line
    assert not (tmp_path / "lost").exists() and not list(tmp_path.glob(".tmp*"))
    assert run.main(call(tmp_path / "odd", tmp_path / "lost", "--int8", "--max-loss", "1")) == 0


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--int8", "--max-loss", "1")])
def test_weights_of_a_large_model_lie_beside_its_graph(project, tmp_path, monkeypatch, more):
    """As one file of this form holds 2 GB at most; the folder may be moved, and holds nothing that is not used."""
    import onnx
    import onnxruntime

    monkeypatch.setattr(program, "MOST_BYTES", 0)
    assert run.main(call(project / "run", tmp_path / "out", *more)) == 0
    folder = (tmp_path / "out").rename(tmp_path / "moved")
    onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    weights = onnx.load(folder / "model.onnx", load_external_data=False).graph.initializer
    used = {entry.value for each in weights for entry in each.external_data if entry.key == "location"}
    assert {path.name for path in folder.iterdir() if "onnx" in path.name} == {"model.onnx"} | used and (used or more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "label"), [("multi_label", "a|b"), ("regression", "1.5")],
)  # fmt: skip
def test_other_problems(tmp_path, problem, label):
    tiny.save_model(tmp_path / "model", tiny.distilbert())
    for name in ("train", "eval"):
        rows = "".join(f"{text},{'b' if problem == 'multi_label' and i % 2 else label if problem == 'multi_label' else i / 7}\n"
                       for i, (text, _) in enumerate(tiny.texts(40, 1)))  # fmt: skip
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}")
    assert (
        run.main([*command(tmp_path, "--problem", problem, "--label-separator", "|", "--output-dir", str(tmp_path / "run"))])
        == 0
    )
    assert run.main(call(tmp_path / "run", tmp_path / "onnx")) == 0
    assert json.loads((tmp_path / "onnx/export.json").read_text())["checked"]["largest"] < CLOSE


@pytest.mark.slow
def test_tags_and_vectors(tmp_path):
    """Of ner the tags of words, of embeddings the vectors that sentence-transformers' files make of the last hidden state."""
    from transformers import BertConfig, BertForTokenClassification, BertModel

    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 100,
        "max_position_embeddings": 32,
    }
    tiny.save_model(tmp_path / "tagger", BertForTokenClassification(BertConfig(**sizes)))
    tiny.save_model(tmp_path / "encoder", BertModel(BertConfig(**sizes)))
    rows = [
        {"tokens": text.split(), "ner_tags": ["B-X" if word == "w0" else "O" for word in text.split()]}
        for text, _ in tiny.texts(40)
    ]
    (tmp_path / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [{"anchor": a, "positive": b} for (a, _), (b, _) in zip(tiny.texts(40, 1), tiny.texts(40, 2), strict=True)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    for task, model, name, more in (
        ("ner", "tagger", "tags", ["--text-column", "tokens", "--label-column", "ner_tags"]),
        ("embeddings", "encoder", "pairs", []),
    ):
        flags = [
            "--train-file",
            f"{tmp_path}/{name}.jsonl",
            "--eval-file",
            f"{tmp_path}/{name}.jsonl",
            "--max-steps",
            "3",
            "--device",
            "cpu",
        ]
        assert (
            run.main(["--task", task, "--model", f"{tmp_path}/{model}", *flags, *more, "--output-dir", f"{tmp_path}/{task}"])
            == 0
        )
        assert run.main(call(tmp_path / task, tmp_path / f"{task}-onnx")) == 0
        assert json.loads((tmp_path / f"{task}-onnx/export.json").read_text())["checked"]["largest"] < CLOSE
    assert (tmp_path / "embeddings-onnx/1_Pooling/config.json").exists()

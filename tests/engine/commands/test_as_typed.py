"""What people type: a model without its flag, texts from standard input; and figures of each class."""

from __future__ import annotations

import io
import json
import sys

import pytest
from sklearn.metrics import precision_recall_fscore_support

import run
from bench.toys import tiny
from engine.record.figures import figure_text
from tests.toys.cli import command, fails
from tests.toys.language import gpt2, masked_bert


def test_a_model_may_stand_first_without_its_flag(project, tmp_path, capsys):
    model = str(project / "run")
    assert run.main(["predict", "--model", model, "w1 w2", "w3"]) == 0
    with_flag = capsys.readouterr().out
    assert run.main(["predict", model, "w1 w2", "w3"]) == 0
    assert capsys.readouterr().out == with_flag
    assert run.main(["evaluate", model]) == 0
    assert "eval_accuracy" in capsys.readouterr().out
    assert run.main(["predict", model, "w1 w2", "--device", "cpu", "w3"]) == 0, "flags may stand anywhere"
    assert capsys.readouterr().out == with_flag
    tiny.save_model(tmp_path / "clm", gpt2())
    tiny.save_model(tmp_path / "mlm", masked_bert())
    assert run.main(["generate", str(tmp_path / "clm"), "w1 w2", "--max-new-tokens", "2"]) == 0
    assert run.main(["fill", str(tmp_path / "mlm"), "w1 [MASK] w2"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict"], 'name a model: python run.py predict runs/mine "a text"'),
        (["evaluate"], "name a model: python run.py evaluate runs/mine"),
        (["predict", "w1 w2"], "'w1 w2' is no model, and the model comes first"),
        (["generate", "The food was"], "'The food was' is no model, and the model comes first"),
        (["fill", "a [MASK] b"], "is no model, and the model comes first"),
    ],
)
def test_without_a_model_the_way_to_name_one_is_said(arguments, words, capsys):
    code, line = fails(arguments, capsys)
    assert code == 2 and words in line


def test_two_models_are_refused(project, capsys):
    code, line = fails(["evaluate", "--model", str(project / "run"), str(project / "run")], capsys)
    assert code == 2 and "evaluate takes no texts" in line


def stdin(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_texts_come_from_standard_input_a_line_each(project, tmp_path, monkeypatch, capsys):
    stdin(monkeypatch, "w1 w2\r\nw3 – w4\u2028w5\n\nw6".encode())
    output = tmp_path / "found.jsonl"
    assert run.main(["predict", str(project / "run"), "--input", "-", "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text().split("\n")[:-1]]
    assert [row["text"] for row in rows] == ["w1 w2", "w3 – w4\u2028w5", "", "w6"]
    stdin(monkeypatch, "w1 w2\n".encode("utf-16"))
    assert run.main(["predict", str(project / "run"), "--input", "-", "--encoding", "utf-16"]) == 0
    assert capsys.readouterr().out.endswith("\tw1 w2\n")


@pytest.mark.parametrize(
    ("content", "more", "code", "words"),
    [
        (b"", [], 3, "standard input has no line"),
        (b"\xff\xfe", [], 3, "standard input is not UTF-8"),
        (b"w1\nw\0\n", ["--output", "{d}/o.csv"], 3, "standard input, row 2, column 'text': the text holds a NUL"),
        (b"w1\n", ["--encoding", "no-such"], 2, "there is no such encoding"),
        (b"w1\n", ["--text-column", "x"], 2, "a column, 'x', can only be named with --input FILE"),
        (b"w1\n", ["w2"], 2, "give either texts to predict, or --input FILE"),
    ],
)
def test_what_standard_input_cannot_be(content, more, code, words, project, tmp_path, monkeypatch, capsys):
    stdin(monkeypatch, content)
    more = [flag.format(d=tmp_path) for flag in more]
    found, line = fails(["predict", str(project / "run"), "--input", "-", *more], capsys)
    assert found == code and words in line and not [*tmp_path.iterdir()]


def test_evaluate_shows_the_figures_of_each_class(project, tmp_path, capsys):
    """Those of scikit-learn, on the terminal and in --output."""
    model, output, errors = str(project / "run"), tmp_path / "e.json", tmp_path / "errors.csv"
    assert run.main(["evaluate", model, "--output", str(output), "--errors", str(errors)]) == 0
    out = capsys.readouterr().out
    classes = json.loads(output.read_text())["classes"]
    labels = [label for _, label in tiny.texts(30, 1)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text, _ in tiny.texts(30, 1)))
    assert run.main(["predict", model, "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "p.jsonl")]) == 0
    found = [json.loads(line)["predicted_label"] for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    theirs = precision_recall_fscore_support(labels, found, labels=list(classes), zero_division=0)
    for i, name in enumerate(classes):
        assert list(classes[name].values())[:4] == pytest.approx([column[i] for column in theirs])
        line = next(line for line in out.splitlines() if line.split()[:1] == [name])
        assert line.split()[1:] == [*(f"{float(column[i]):.4f}" for column in theirs[:3]), str(theirs[3][i])]


def test_evaluate_says_in_which_precision(project, tmp_path, capsys):
    assert run.main(["evaluate", str(project / "run"), "--precision", "fp32"]) == 0
    assert "predict computes in fp32" not in capsys.readouterr().err
    assert run.main(["evaluate", str(project / "run"), "--precision", "bf16"]) == 0
    assert "evaluated in bf16, as in training; predict computes in fp32" in capsys.readouterr().err


def test_a_figure_that_is_not_defined_is_called_so_everywhere(tmp_path, capsys):
    assert [figure_text(value) for value in (None, float("nan"), float("inf"), 0.5, 3)] == [*["undefined"] * 3, "0.5000", "3"]
    tiny.save_model(tmp_path / "model")
    (tmp_path / "t.jsonl").write_text("".join(f'{{"text": "w{i}", "label": 1.5}}\n' for i in range(8)))
    arguments = ["--task", "classification", "--problem", "regression", "--model", str(tmp_path / "model"), "--device", "cpu",
                 "--train-file", str(tmp_path / "t.jsonl"), "--eval-file", str(tmp_path / "t.jsonl"), "--max-steps", "1",
                 "--output-dir", str(tmp_path / "out")]  # fmt: skip
    assert run.main(arguments) == 0
    out = capsys.readouterr().out
    assert run.main(["evaluate", str(tmp_path / "out")]) == 0
    out += capsys.readouterr().out
    assert "pearson undefined" in out and out.count("eval_pearson             = undefined") == 1
    assert out.count("= undefined") == 4 and not {"nan", "None"} & set(out.split())


def test_the_best_model_is_called_best_by_what(project, tmp_path, capsys):
    flags = command(project, "--output-dir", str(tmp_path / "out"), "--best-metric", "f1")
    assert run.main(flags) == 0
    assert "(best f1 so far)" in capsys.readouterr().out


def test_rows_longer_than_the_tokens_of_a_batch_are_counted(project, tmp_path, capsys):
    flags = command(project, "--output-dir", str(tmp_path / "out"), "--tokens-per-batch", "12", "--max-steps", "1")
    assert run.main(flags) == 0
    longer = sum(len(text.split()) + 2 > 12 for text, _ in tiny.texts(60))
    assert f"warning: {longer} of 60 training rows have more tokens than --tokens-per-batch 12" in capsys.readouterr().err

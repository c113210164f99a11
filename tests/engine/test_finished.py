"""A finished run is a model directory like any other: pipelines and Auto classes give what predict gives."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import run
import tasks
from bench.toys import tiny
from engine.console import shown
from engine.data.sources import Source
from engine.finished import open_model
from engine.task import Task
from tasks.classification.task import Classification, ClassificationOptions
from tasks.embeddings.task import Embeddings
from tests.toys.cli import command, fails

TEXTS = ["w0 w7 w9", "w3 w1 w44 w50 w6", "w2", "w9 w8 w7 w6 w5 w4 w3 w0"]


def predictions(folder: Path) -> list[dict]:
    task, model, layout = open_model(str(folder), tasks.find, device="cpu")
    return list(task.predict(model, TEXTS, layout))


def test_pipeline_gives_the_same_probabilities_and_names(project):
    classify = pipeline("text-classification", model=str(project / "run"), top_k=None, device="cpu")
    for ours, theirs in zip(predictions(project / "run"), classify(TEXTS), strict=True):
        assert {row["label"] for row in theirs} == {"a", "b", "c"}
        for row in theirs:  # rows are padded differently: float32 rounding
            assert ours["probabilities"][row["label"]] == pytest.approx(row["score"], abs=1e-6)
        assert ours["label"] == theirs[0]["label"] and ours["score"] == pytest.approx(theirs[0]["score"], abs=1e-6)


def test_auto_classes_give_the_same_probabilities(project):
    model = AutoModelForSequenceClassification.from_pretrained(project / "run")
    tokenizer = AutoTokenizer.from_pretrained(project / "run")
    with torch.no_grad():
        expected = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.softmax(-1)
    got = torch.tensor([list(row["probabilities"].values()) for row in predictions(project / "run")])
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"} and model.config.problem_type == "single_label_classification"


def test_predict_prints_label_and_confidence(project, capsys):
    assert run.main(["predict", "--model", str(project / "run"), "--device", "cpu", *TEXTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, text, expected in zip(lines, TEXTS, predictions(project / "run"), strict=True):
        assert line == f"{expected['label']} ({expected['score']:.2f})\t{text}"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_predict_a_file(project, tmp_path, kind, capsys):
    """The input's columns stay as they are, "007" and quoted newlines included; order is kept."""
    with open(tmp_path / "in.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(
            [["id", "text", "label"], *([f"00{i}", text + "\nw5", "x"] for i, text in enumerate(TEXTS))]
        )
    output = tmp_path / f"out.{kind}"
    arguments = ["predict", "--model", str(project / "run"), "--input", str(tmp_path / "in.csv"), "--output", str(output)]
    assert run.main(arguments) == 0
    with open(output, newline="") as stream:
        rows = list(csv.DictReader(stream)) if kind == "csv" else [json.loads(line) for line in stream]
    assert [row["id"] for row in rows] == ["000", "001", "002", "003"]
    assert [row["text"] for row in rows] == [text + "\nw5" for text in TEXTS] and {row["label"] for row in rows} == {"x"}
    for row in rows:
        p = {k.removeprefix("probability_"): float(v) for k, v in row.items() if k.startswith("probability_")} or row[
            "probabilities"
        ]
        assert row["predicted_label"] == max(p, key=p.get) and sum(p.values()) == pytest.approx(1, abs=1e-5)


def test_predicting_into_a_file_of_predictions_keeps_both(project, tmp_path):
    (tmp_path / "0.csv").write_text("text,predicted_label\nw5 w6,other\n")
    for i in range(2):
        files = ["--input", str(tmp_path / f"{i}.csv"), "--output", str(tmp_path / f"{i + 1}.csv")]
        assert run.main(["predict", "--model", str(project / "run"), *files]) == 0
    with open(tmp_path / "2.csv", newline="") as stream:
        [row] = csv.DictReader(stream)
    assert row["predicted_label"] == "other"
    assert row["predicted_predicted_label"] == row["predicted_predicted_predicted_label"] != "other"
    assert row["probability_a"] == row["predicted_probability_a"]


def test_the_columns_of_an_output_are_those_that_the_task_names():
    """In a CSV file cells are single values. The default keeps the keys; a classifier's stand beside the label of the data."""
    found = {"label": ["a", "b"], "score": 0.5, "parts": {"x": 1}}
    plain: Task = tiny.TokenTask()
    assert plain.columns_of(found, flat=False) == found
    assert plain.columns_of(found, flat=True) == {"predicted_label": "a|b", "score": 0.5, "parts_x": 1}
    classifier = Classification(ClassificationOptions(), Source())
    found = {"label": ["a", "b"], "score": 0.5, "probabilities": {"a": 0.5, "b": 0.25}}
    flat = classifier.columns_of(found, flat=True)
    assert flat == {"predicted_label": "a|b", "score": 0.5, "probability_a": 0.5, "probability_b": 0.25}
    assert [*flat] == ["predicted_label", "score", "probability_a", "probability_b"]
    assert classifier.columns_of(found, flat=False) == {"predicted_label": ["a", "b"]} | {k: found[k] for k in list(found)[1:]}
    assert classifier.columns_of({"value": 1.5}, flat=True) == {"predicted_value": 1.5}


def test_the_task_of_a_model_that_does_not_say_which_is_whatever_find_has_for_none(tmp_path):
    """The engine knows none: tasks/ does."""
    tiny.save_model(tmp_path / "m", tiny.bert())
    assert isinstance(open_model(str(tmp_path / "m"), tasks.find)[0], Classification)
    asked = []

    def find(name):
        asked.append(name)
        return Embeddings

    assert isinstance(open_model(str(tmp_path / "m"), find)[0], Embeddings) and asked == [None]


def test_predict_a_text_file(project, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS))
    assert run.main(["predict", "--model", str(project / "run"), "--input", str(tmp_path / "in.txt")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(TEXTS)


def test_what_predict_refuses(project, tmp_path, capsys):
    model = ["predict", "--model", str(project / "run")]
    assert fails(model, capsys)[0] == 2
    (tmp_path / "x.txt").write_text("a\n")
    assert fails([*model, "text", "--input", str(tmp_path / "x.txt")], capsys)[0] == 2
    assert fails([*model, "--input", str(tmp_path / "none.csv")], capsys) == (
        3,
        f"error: {tmp_path / 'none.csv'} does not exist",
    )
    assert ".csv or .jsonl" in fails([*model, "text", "--output", "x.xls"], capsys)[1]
    (tmp_path / "i.csv").write_text("id,body\n1,w0\n")
    code, line = fails([*model, "--input", str(tmp_path / "i.csv")], capsys)
    assert code == 3 and "it has: id, body" in line and "--text-column" in line
    assert run.main([*model, "--input", str(tmp_path / "i.csv"), "--text-column", "body"]) == 0


def test_an_unfinished_run_is_not_a_model(tmp_path, capsys):
    (tmp_path / "run.json").write_text(json.dumps({"status": "running", "settings": {}, "data": {}}))
    code, line = fails(["predict", "--model", str(tmp_path), "w0"], capsys)
    assert code == 2 and "--resume" in line


def test_a_model_that_no_run_of_ours_has_made(tmp_path, capsys):
    tiny.save_model(tmp_path / "m", tiny.distilbert(num_labels=2))
    assert run.main(["predict", "--model", str(tmp_path / "m"), "w0 w1"]) == 0
    assert "LABEL_" in capsys.readouterr().out


def test_evaluate_repeats_the_figures_of_training(project, tmp_path):
    figures = json.loads((project / "run/run.json").read_text())["metrics"]
    evaluate = ["evaluate", "--model", str(project / "run"), "--device", "cpu"]
    assert run.main([*evaluate, "--output", str(tmp_path / "e.json")]) == 0
    again = json.loads((tmp_path / "e.json").read_text())
    for name in ("eval_loss", "eval_accuracy", "eval_f1", "eval_mcc"):
        assert again[name] == pytest.approx(figures[name], rel=1e-6)
    assert run.main([*evaluate, "--file", str(project / "eval.csv"), "--output", str(tmp_path / "f.json")]) == 0
    assert json.loads((tmp_path / "f.json").read_text())["eval_loss"] == pytest.approx(figures["eval_loss"], rel=1e-6)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.bf16)])
def test_evaluate_computes_in_the_precision_of_the_run(project, tmp_path, precision, capsys):
    """On every processor, whatever it would choose by itself; where the precision cannot be had, its own."""
    arguments = command(project, "--precision", precision, "--output-dir", str(tmp_path / "run"))
    assert run.main(arguments) == 0
    trained = json.loads((tmp_path / "run/run.json").read_text())
    evaluate = ["evaluate", "--model", str(tmp_path / "run"), "--device", "cpu"]
    assert run.main([*evaluate, "--output", str(tmp_path / "e.json")]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["eval_loss"] == trained["metrics"]["eval_loss"]
    (tmp_path / "run/run.json").write_text(json.dumps({**trained, "precision": "fp16"}))
    assert run.main(evaluate) == 0


def test_evaluate_a_file_with_a_label_the_model_does_not_know(project, tmp_path, capsys):
    (tmp_path / "e.csv").write_text("text,label\nw0,z\n")
    code, line = fails(["evaluate", "--model", str(project / "run"), "--file", str(tmp_path / "e.csv")], capsys)
    assert code == 3 and "label 'z' is none of the 3 labels (a, b, c)" in line


def test_texts_cannot_drive_the_terminal():
    assert "\x1b" not in shown("\x1b]0;title\x07 text\nmore") and "\n" not in shown("a\nb")


def test_train_further_from_a_finished_model(project, tmp_path, capsys):
    """The tutorial's "train further": the finished model is the start of another run."""
    arguments = command(project, "--output-dir", str(tmp_path / "further"))
    arguments[3] = str(project / "run")
    assert run.main(arguments) == 0
    captured = capsys.readouterr()
    assert "new, to be trained" not in captured.err, "the head is the finished model's"
    assert (project / "run/model.safetensors").read_bytes() != (tmp_path / "further/model.safetensors").read_bytes()


def further(project, folder: Path, labels: str, *more: str) -> list[str]:
    """Another run from the finished one (labels a, b, c), with these labels in its data."""
    with open(folder / "more.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *((f"w{i} w7", labels[i % len(labels)]) for i in range(24))])
    return ["--task", "classification", "--model", str(project / "run"), "--train-file", str(folder / "more.csv"),
            "--epochs", "1", "--device", "cpu", "--output-dir", str(folder / "further"), *more]  # fmt: skip


def test_the_labels_of_the_model_stay_when_the_data_have_fewer(project, tmp_path, capsys):
    assert run.main(further(project, tmp_path, "cb")) == 0
    err = capsys.readouterr().err
    assert f"labels: those of {project / 'run'}: a, b, c" in err and "new, to be trained" not in err
    config = json.loads((tmp_path / "further/config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "b", "2": "c"}


def test_other_labels_are_refused_and_named_they_are_taken(project, tmp_path, capsys):
    """As many labels of other names would have kept the head, and turned its meaning around."""
    code, line = fails(further(project, tmp_path, "xyz"), capsys)
    assert code == 3 and "label 'x' is none of the 3 labels (a, b, c)" in line
    assert run.main(further(project, tmp_path, "xy", "--label-names", "x,y")) == 0
    assert "new, to be trained: classifier" in capsys.readouterr().err


def test_a_task_with_names_of_its_own_is_compared_with_the_model(project, tmp_path, capsys):
    arguments = ["--task", "yelp", "--data", "sample", "--model", str(project / "run"), "--output-dir", str(tmp_path / "y")]
    code, line = fails(arguments, capsys)
    assert code == 3 and "are a, b, c, those of the data are Negative, Positive: --label-names" in line


def test_another_kind_of_problem_is_refused(project, tmp_path, capsys):
    code, line = fails(further(project, tmp_path, "123", "--problem", "regression"), capsys)
    assert code == 2 and "single_label_classification" in line


@pytest.mark.parametrize(
    ("argv", "flag"),
    [(["predict", "x", "--n-best", "3"], "--n-best"), (["evaluate", "--no-answer", "yes"], "--no-answer"),
     (["evaluate", "--allow-urls"], "--allow-urls")],
)  # fmt: skip
def test_a_flag_that_the_models_task_does_not_have_is_refused(project, capsys, argv, flag):
    code, line = fails([argv[0], "--model", str(project / "run"), "--device", "cpu", *argv[1:]], capsys)
    assert code == 2 and line == f"error: {flag} is no setting of --task classification, which this model is of: leave it out"

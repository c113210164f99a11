"""evaluate --errors against predict, row by row, and against scikit-learn's confusion matrix."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import confusion_matrix

import run
import tasks
from bench.toys import tiny
from engine.data.batch import Batch
from engine.finished import open_model
from tasks.classification.mistakes import MAX_PAIRS, Mistakes
from tests.toys.cli import fails


def rows_of(path) -> list[dict]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("more", [[], ["--file"]])
def test_the_wrong_rows_are_those_that_predict_gets_wrong(project, tmp_path, capsys, more):
    file = [*more, *([str(project / "eval.csv")] if more else [])]
    arguments = ["evaluate", "--model", str(project / "run"), "--device", "cpu", *file]
    assert run.main([*arguments, "--errors", str(tmp_path / "errors.csv"), "--eval-batch-size", "7"]) == 0
    out = capsys.readouterr().out
    truth = rows_of(project / "eval.csv")
    task, model, layout = open_model(str(project / "run"), tasks.find, device="cpu")
    predictions = list(task.predict(model, [row["text"] for row in truth], layout))
    wrong = {i + 1: p for i, (row, p) in enumerate(zip(truth, predictions, strict=True)) if p["label"] != row["label"]}
    found = rows_of(tmp_path / "errors.csv")
    assert wrong and {int(row["row"]) for row in found} == wrong.keys() and len(found) == len(wrong)
    for row in found:
        number = int(row["row"])
        assert (row["text"], row["label"]) == (truth[number - 1]["text"], truth[number - 1]["label"])
        assert row["prediction"] == wrong[number]["label"]
        assert float(row["confidence"]) == pytest.approx(wrong[number]["score"], abs=1e-4)
    confidences = [float(row["confidence"]) for row in found]
    assert confidences == sorted(confidences, reverse=True)
    expected = confusion_matrix([row["label"] for row in truth], [p["label"] for p in predictions], labels=["a", "b", "c"])
    table = out[out.index("label / prediction") :].splitlines()
    assert table[0].split()[-3:] == ["a", "b", "c"]
    assert [[int(cell) for cell in line.split()[1:]] for line in table[1:4]] == expected.tolist()
    assert "may have a wrong label (cleanlab)" in table[4]
    assert table[5] == f"{len(wrong)} wrong rows written to {tmp_path / 'errors.csv'}, the surest first"


def test_mistakes_in_the_run_are_in_its_report(project, tmp_path, capsys):
    """Written there, the report is drawn again; written elsewhere, it is left alone."""
    shutil.copytree(project / "run", tmp_path / "run")
    before = (tmp_path / "run/report.html").read_text()
    arguments = ["evaluate", "--model", str(tmp_path / "run"), "--errors"]
    assert run.main([*arguments, str(tmp_path / "errors.csv")]) == 0
    assert (tmp_path / "run/report.html").read_text() == before and "mistakes" not in before
    assert run.main([*arguments, str(tmp_path / "run/errors.csv")]) == 0
    page = (tmp_path / "run/report.html").read_text()
    surest = rows_of(tmp_path / "run/errors.csv")[0]
    assert "Most confident mistakes" in page and surest["text"] in page and "open it in a browser" in capsys.readouterr().out


def test_many_classes_are_shown_as_pairs():
    names = [f"class {i}" for i in range(30)]
    mistakes = Mistakes(names, Dataset.from_dict({"text": ["x"] * 100}))
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, 30, 100), generator.integers(0, 30, 100)
    labels[:9], predicted[:9] = 4, 5
    counts = {"num_items": 100, "num_examples": 100, "num_tokens": 0, "executed_tokens": 0, "sum_squares": 0, "longest": 0}
    batch = Batch(inputs={}, targets={"labels": torch.tensor(labels)}, keys=[(0, i) for i in range(100)], **counts)
    mistakes.update(type("Outputs", (), {"logits": torch.eye(30)[torch.tensor(predicted)]}), batch)
    lines = mistakes.table().splitlines()
    assert (
        len(lines) == 1 + MAX_PAIRS + 1
        and "cleanlab" in lines[-1]
        and lines[1].split() == ["9", *["class", "4", "taken", "for", "class", "5"]]
    )
    assert len(mistakes.rows()[1]) == (labels != predicted).sum()


def test_what_is_refused(project, tmp_path, capsys):
    arguments = ["evaluate", "--model", str(project / "run"), "--errors"]
    for name, words in (("errors.txt", "must end in .csv"), ("nowhere/errors.csv", "there is no such directory")):
        code, line = fails([*arguments, str(tmp_path / name)], capsys)
        assert code == 2 and words in line


def trained(project, tmp_path, problem, labels):
    """A run on texts w0, w1 ... with these labels: the labels, the wrong rows, and what predict says, each by text."""
    rows = [(f"w{i}", label) for i, label in enumerate(labels)]
    with open(tmp_path / "t.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    data, out = str(tmp_path / "t.csv"), str(tmp_path / "run")
    given = ["--task", "classification", "--model", str(project / "model"), "--train-file", data, "--eval-file", data]
    assert run.main([*given, "--problem", problem, "--epochs", "1", "--device", "cpu", "--output-dir", out]) == 0
    assert run.main(["evaluate", out, "--device", "cpu", "--precision", "fp32", "--errors", f"{out}/errors.csv"]) == 0
    task, model, layout = open_model(out, tasks.find, device="cpu")
    said = dict(zip(dict(rows), task.predict(model, list(dict(rows)), layout), strict=True))
    return dict(rows), rows_of(f"{out}/errors.csv"), said


def test_rows_with_wrong_labels_are_those_that_predict_gets_wrong(project, tmp_path, capsys):
    labels = [["a", "a|b", "", "b|c"][i % 4] for i in range(24)]
    truth, found, said = trained(project, tmp_path, "multi_label", labels)
    wrong = {text for text, label in truth.items() if set(filter(None, label.split("|"))) != set(said[text]["label"])}
    assert wrong and [*found[0]] == ["row", "text", "label", "prediction", "confidence", "suspected"]
    assert {row["text"] for row in found} == wrong and len(found) == len(wrong)
    for row in found:
        p, its = said[row["text"]]["probabilities"], truth[row["text"]].split("|")
        assert (row["label"], row["prediction"]) == (truth[row["text"]], "|".join(said[row["text"]]["label"]))
        off = [max(x, 1 - x) for name, x in p.items() if (name in its) != (x >= 0.5)]
        assert float(row["confidence"]) == pytest.approx(max(off), abs=1e-4)
    out = capsys.readouterr().out
    for line in out[out.index("missing  too many") :].splitlines()[1:4]:
        name, gone, extra = line.split()
        sets = [(name in truth[text].split("|"), name in said[text]["label"]) for text in truth]
        assert (int(gone), int(extra)) == (sets.count((True, False)), sets.count((False, True)))
    assert f"{len(wrong)} wrong rows written to" in out and "the surest first" in out


def test_values_that_are_off_stand_in_the_order_of_their_errors(project, tmp_path, capsys):
    truth, found, said = trained(project, tmp_path, "regression", [i / 2 for i in range(24)])
    assert [*found[0]] == ["row", "text", "value", "prediction", "error"] and len(found) == 24
    for row in found:
        assert float(row["error"]) == pytest.approx(said[row["text"]]["value"] - truth[row["text"]], abs=1e-3)
    sizes = [abs(float(row["error"])) for row in found]
    assert sizes == sorted(sizes, reverse=True)
    assert f"the worst by {sizes[0]:.3g}"[:-1] in capsys.readouterr().out
    assert (
        "Largest errors (the first 10 of errors.csv; they hold texts of the data" in (tmp_path / "run/report.html").read_text()
    )


def test_formulas_are_made_texts_if_asked(project, tmp_path):
    """Of the texts, which are a stranger's; the numbers stay."""
    rows = [("text", "label"), *((f"=HYPERLINK(w{i})", "abc"[i % 3]) for i in range(9))]
    with open(tmp_path / "e.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    for flags, start in (([], "="), (["--excel-safe"], "'=")):
        out = tmp_path / f"errors{len(flags)}.csv"
        arguments = ["evaluate", "--model", str(project / "run"), "--device", "cpu", "--file", str(tmp_path / "e.csv")]
        assert run.main([*arguments, "--errors", str(out), *flags]) == 0
        with open(out, newline="") as stream:
            [header, *wrong] = csv.reader(stream)
        assert wrong and all(row[header.index("text")].startswith(start) for row in wrong)


def test_texts_are_in_the_page_only_if_asked_for_ten_at_most_and_escaped(project, tmp_path, capsys):
    """The report of a training, and that after an evaluation without --errors, have no text of the data."""
    shutil.copytree(project / "run", tmp_path / "run")
    texts = [f"<img src=x onerror=alert({i})> w{i} secret" for i in range(40)]
    with open(tmp_path / "e.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *((text, "abc"[i % 3]) for i, text in enumerate(texts))])
    arguments = ["evaluate", str(tmp_path / "run"), "--device", "cpu", "--file", str(tmp_path / "e.csv")]
    for more in ([], ["--errors", str(tmp_path / "errors.csv")]):
        assert run.main([*arguments, *more]) == 0
        assert not any("secret" in (tmp_path / "run" / name).read_text() for name in ("report.html", "README.md", "run.json"))
    assert run.main([*arguments, "--errors", str(tmp_path / "run/errors.csv")]) == 0
    page = (tmp_path / "run/report.html").read_text()
    surest = [row["text"] for row in rows_of(tmp_path / "run/errors.csv")]
    assert len(surest) > 10 and page.count(" secret</td>") == 10 and "<img" not in page
    assert all((f"alert({text.split('alert(')[1].split(')')[0]})&gt; w" in page) == (i < 10) for i, text in enumerate(surest))
    assert "they hold texts of the data, which others may not be meant to see" in page


# ------------------------------------------------------------------------------------- labels that may be wrong


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_labels_that_may_be_wrong_are_those_that_cleanlab_finds(tmp_path, capsys, problem):
    """Called directly on what predict says: the same rows in the same order; those that are wrong stand in errors.csv."""
    from cleanlab.filter import find_label_issues
    from cleanlab.multilabel_classification.filter import find_label_issues as of_several

    from tests.toys import knowing

    truth = knowing.noisy(300, 5, share=0.3)
    if problem == "multi_label":
        truth = [(text, "|".join(sorted({label, "b"})) if i % 3 else label) for i, (text, label) in enumerate(truth)]
    knowing.write(tmp_path / "held.csv", truth)
    made = knowing.model(6.0)
    if problem == "multi_label":
        made.config.problem_type = "multi_label_classification"
    tests_folder = tmp_path / "model"
    tiny.save_model(tests_folder, made)
    file = tmp_path / "errors.csv"
    given = ["evaluate", str(tests_folder), "--task", "classification", "--file", str(tmp_path / "held.csv"), "--device", "cpu"]
    assert run.main([*given, "--precision", "fp32", "--eval-batch-size", "7", "--errors", str(file)]) == 0
    said = capsys.readouterr().out
    task, model, layout = open_model(str(tests_folder), tasks.find, device="cpu", task="classification")
    answers = list(task.predict(model, [text for text, _ in truth], layout))
    p = np.array([[each["probabilities"][name] for name in "abc"] for each in answers])
    if problem == "multi_label":
        expected = of_several(
            [["abc".index(name) for name in label.split("|")] for _, label in truth],
            p,
            return_indices_ranked_by="self_confidence",
        )
    else:
        labels = np.array(["abc".index(label) for _, label in truth])
        expected = find_label_issues(labels, p, return_indices_ranked_by="self_confidence")
    assert len(expected) > 5
    rows = rows_of(file)
    marked = {int(row["row"]) - 1: int(row["suspected"]) for row in rows if row["suspected"]}
    wrong = {int(row["row"]) - 1 for row in rows}
    places = {int(row): place for place, row in enumerate(expected, start=1)}
    assert marked == {row: place for row, place in places.items() if row in wrong} and marked
    share = f"{100 * len(expected) / 300:.1f}%"
    assert (
        f"{len(expected)} rows ({share}) may have a wrong label (cleanlab), {len(marked)} of them among the wrong rows" in said
    )


def test_without_cleanlab_or_with_few_rows_there_is_no_such_column(project, tmp_path, capsys, monkeypatch):
    import sys

    few = tmp_path / "few.csv"
    few.write_text("".join((project / "eval.csv").read_text().splitlines(keepends=True)[:19]))
    arguments = ["evaluate", str(project / "run"), "--device", "cpu", "--errors"]
    assert run.main([*arguments, str(tmp_path / "few-errors.csv"), "--file", str(few)]) == 0
    assert "suspected" not in (tmp_path / "few-errors.csv").read_text()
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    assert run.main([*arguments, str(tmp_path / "errors.csv")]) == 0
    assert "suspected" not in (tmp_path / "errors.csv").read_text() and "may have a wrong label" not in capsys.readouterr().out


def test_too_many_probabilities_are_not_kept(monkeypatch, capsys):
    from tasks.classification import suspects

    monkeypatch.setattr(suspects, "MOST_CELLS", 100)
    said = suspects.Said()
    for start in range(0, 60, 20):
        batch = Batch({}, {}, 20, 20, 0, 0, 0, 0, keys=[(0, start + i) for i in range(20)])
        said.add(batch, torch.full((20, 3), 1 / 3), np.zeros(20, dtype=np.int64))
    assert said.found is None and said.suspected() is None
    assert "were not looked for: more than 100 probabilities" in capsys.readouterr().err

"""evaluate --threshold auto against scikit-learn, and what predict does with what it keeps."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

import run
import tasks
from bench.toys import tiny
from engine.finished import open_model
from tasks.classification.adjusted import best_threshold, bootstrap, halves, macro, micro
from tasks.classification.calibration import Calibration
from tests.toys import knowing
from tests.toys.cli import fails


@pytest.mark.parametrize("seed", range(6))
def test_the_threshold_is_that_of_the_highest_f1(seed):
    """Among all that part the rows in another way; probabilities that are equal are never parted."""
    generator = np.random.default_rng(seed)
    labels = generator.random(80) < 0.2
    p = np.round(np.clip(generator.normal(0.2 + 0.2 * labels, 0.15), 0, 1), 2)
    found = best_threshold(p, labels)
    scores = {t: f1_score(labels, p > t) for t in np.arange(-0.005, 1.0, 0.01)}
    best = f1_score(labels, p > found)
    assert best == pytest.approx(max(scores.values())) and best > f1_score(labels, p > 0.5)
    assert 0 < found < 1 and not np.isclose(p, found).any()


def test_a_label_that_no_row_has_gets_none():
    assert best_threshold(np.array([0.1, 0.9]), np.array([False, False])) is None
    assert best_threshold(np.array([0.3, 0.2]), np.array([True, True])) == 0.1, "all rows count, as they should"
    assert best_threshold(np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False])) == 0.5, (
        "the nearest to one half"
    )


def test_thresholds_between_neighbours_in_float32_part_them():
    low = torch.tensor(0.3)
    high = torch.nextafter(low, torch.tensor(1.0))
    logits = torch.tensor([[float(torch.logit(low))], [float(torch.logit(high))], [0.0]])
    p = logits.sigmoid().double()
    t = float((p[0] + p[1]) / 2)
    if p[0] < p[1]:
        assert Calibration(1.0, (t,)).chosen(logits)[:, 0].tolist() == [False, True, True]
    assert Calibration(1.0, (float(p[2]),)).chosen(logits)[:, 0].tolist() == [False, False, False], "more than the threshold"


def test_the_standard_error_is_that_of_other_draws():
    """Of 150 other samples of the same size, each measured by scikit-learn, the spread of the change is as estimated from one."""

    def sample(seed):
        generator = np.random.default_rng(seed)
        is_so = generator.random((400, 2)) < [0.3, 0.15]
        p = 1 / (1 + np.exp(-generator.normal(2.0 * is_so - 2.0, 1.2)))
        return p, is_so

    changes = []
    for seed in range(150):
        p, is_so = sample(seed)
        changes.append(f1_score(is_so, p > 0.25, average="macro") - f1_score(is_so, p > 0.5, average="macro"))
    p, is_so = sample(1000)
    counts = [np.stack([a & is_so, a & ~is_so, ~a & is_so], -1).astype(float) for a in (p > 0.5, p > 0.25)]
    assert bootstrap(counts, macro, 0) == pytest.approx(np.std(changes, ddof=1), rel=0.25)
    for figure, average in ((micro, "micro"), (macro, "macro")):
        assert float(figure(counts[1].sum(0))) == pytest.approx(f1_score(is_so, p > 0.25, average=average))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_shown_thresholds_are_on_the_scale_of_what_predict_gives(temperature):
    logits = torch.linspace(-6, 6, 101)[:, None]
    calibration = Calibration(temperature, (0.2,))
    [shown] = calibration.shown(calibration.thresholds)
    assert torch.equal(calibration.scaled(logits).sigmoid() > shown, calibration.chosen(logits))


# ------------------------------------------------------------------------------------------------- as a user types it


def shifted(made, bias):
    """Its labels are less probable than they should be."""
    made.classifier.bias.data[:] = bias
    return made


def learned(folder, made, rows, *more, threshold="auto"):
    directory = knowing.save_run(folder, made, rows, *more)
    return directory, ["evaluate", str(directory), "--device", "cpu", "--threshold", threshold]


def said_of(directory, rows):
    task, model, layout = open_model(str(directory), tasks.find, device="cpu")
    return task, list(task.predict(model, [text for text, _ in rows], layout))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A run of three labels at once, of which each is said too seldom: the command, its rows, and what predict said before."""
    folder = tmp_path_factory.mktemp("several")
    rows = [
        (text, "" if i % 5 == 0 else label if i % 3 else "|".join(sorted({label, "b"})))
        for i, (text, label) in enumerate(tiny.texts(200, 3))
    ]
    made = shifted(knowing.model(12.0, noise=0.6), -6.0)
    directory, command = learned(folder, made, rows, "--problem", "multi_label", "--label-names", "a,b,c")
    return directory, command, rows, said_of(directory, rows)[1]


def test_each_of_several_labels_gets_its_threshold(several, capsys):
    directory, command, rows, before = several
    capsys.readouterr()
    assert run.main(command) == 0
    out = capsys.readouterr().out
    names = ["a", "b", "c"]
    p = np.array([[each["probabilities"][name] for name in names] for each in before])
    labels = np.array([[name in label.split("|") for name in names] for _, label in rows])
    first, second = halves(labels.astype(float), 42)
    kept = json.loads((directory / "config.json").read_text())["calibration"]["thresholds"]
    assert kept == pytest.approx([best_threshold(p[first, i], labels[first, i]) for i in range(3)], abs=1e-5)
    for name, average in (("f1_micro", "micro"), ("f1_macro", "macro")):
        at_half, chosen, change, error = map(
            float, re.search(rf"{name} +([\d.]+) +([\d.]+)  \(([-+\d.]+) \+- ([\d.]+)\)\n +(?:f1_macro|rows)", out).groups()
        )
        expected = [f1_score(labels[second], p[second] > t, average=average, zero_division=0) for t in (0.5, np.array(kept))]
        assert [at_half, chosen] == pytest.approx(expected, abs=1e-4) and change == pytest.approx(
            expected[1] - expected[0], abs=1e-4
        )
        assert chosen > at_half + 2 * error > at_half
    assert f"thresholds, chosen on {len(first)} rows; on {len(second)} others:" in out
    _, after = said_of(directory, rows)
    assert [each["label"] for each in after] == [
        [n for n, x in zip(names, row, strict=True) if x] for row in p > np.array(kept)
    ]
    assert [each["probabilities"] for each in after] == [each["probabilities"] for each in before]


def test_evaluate_and_errors_answer_as_predict_does(several, tmp_path, capsys):
    directory, command, rows, _ = several
    assert run.main(command) == 0
    assert (
        run.main(
            [*command[:4], "--precision", "fp32", "--errors", str(tmp_path / "e.csv"), "--output", str(tmp_path / "e.json")]
        )
        == 0
    )
    _, said = said_of(directory, rows)
    with open(tmp_path / "e.csv", newline="") as stream:
        found = {int(row["row"]): row["prediction"] for row in csv.DictReader(stream)}
    assert found == {
        i + 1: "|".join(s["label"])
        for i, (s, (_, label)) in enumerate(zip(said, rows, strict=True))
        if {*s["label"]} != {*filter(None, label.split("|"))}
    }
    figures = json.loads((tmp_path / "e.json").read_text())
    labels, answers = (
        np.array([[name in each for name in "abc"] for each in part])
        for part in ([r[1].split("|") for r in rows], [s["label"] for s in said])
    )
    assert figures["eval_f1_macro"] == pytest.approx(f1_score(labels, answers, average="macro"), abs=1e-6)
    assert figures["classes"]["a"]["f1"] == pytest.approx(f1_score(labels[:, 0], answers[:, 0]))


def test_a_temperature_leaves_thresholds_and_answers(several, capsys):
    directory, command, rows, _ = several
    assert run.main(command) == 0
    _, before = said_of(directory, rows)
    assert run.main([*command[:4], "--calibrate"]) == 0
    task, after = said_of(directory, rows)
    assert task.calibration.temperature != 1 and task.calibration.thresholds is not None
    assert [each["label"] for each in before] == [each["label"] for each in after]
    shown = dict(zip("abc", task.calibration.shown(task.calibration.thresholds), strict=True))
    assert all(each["label"] == [n for n, p in each["probabilities"].items() if p > shown[n]] for each in after)
    card = (directory / "README.md").read_text()
    assert "each label counts was chosen on held-out rows" in card and "a temperature fitted on held-out rows" in card.replace(
        "\n", " "
    )
    assert run.main([*command[:4], "--threshold", "none"]) == 0
    kept = json.loads((directory / "config.json").read_text())["calibration"]
    assert [*kept] == ["temperature"] and kept["temperature"] == task.calibration.temperature


def test_of_two_classes_the_second_gets_one(tmp_path, capsys):
    """It is rare and said too seldom; the accuracy is shown, too, since a higher F1 may cost some."""
    rows = [(text, "no" if label != "b" else "yes") for text, label in tiny.texts(400, 3)]
    made = shifted(knowing.model(12.0, noise=0.6, names=["no", "yes"]), torch.tensor([5.0, 0.0]))
    directory, command = learned(tmp_path, made, rows)
    _, before = said_of(directory, rows)
    capsys.readouterr()
    assert run.main(command) == 0
    out = capsys.readouterr().out
    p, labels = np.array([each["probabilities"]["yes"] for each in before]), np.array([label == "yes" for _, label in rows])
    first, second = halves(labels.astype(int), 42)
    [kept] = json.loads((directory / "config.json").read_text())["calibration"]["thresholds"]
    assert kept == pytest.approx(best_threshold(p[first], labels[first]), abs=1e-5)
    at_half, chosen = map(float, re.search(r"f1 of yes +([\d.]+) +([\d.]+)", out).groups())
    assert [at_half, chosen] == pytest.approx([f1_score(labels[second], p[second] > t) for t in (0.5, kept)], abs=1e-4)
    assert chosen > at_half
    _, after = said_of(directory, rows)
    assert [each["label"] == "yes" for each in after] == (p > kept).tolist() != (p > 0.5).tolist()
    assert all(each["score"] == each["probabilities"][each["label"]] for each in after)


def test_what_threshold_refuses(project, capsys):
    code, line = fails(["evaluate", str(project / "run"), "--threshold", "auto"], capsys)
    assert code == 2 and "this model tells 3 classes apart, and answers with the most probable one" in line
    code, line = fails(["evaluate", str(project / "run"), "--threshold", "0.3"], capsys)
    assert code == 2 and "--threshold" in line and "auto" in line

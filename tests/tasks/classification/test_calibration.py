"""Calibration against torchmetrics, scikit-learn and SciPy; and what evaluate --calibrate leaves, as a user types it."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error
from transformers import AutoConfig

import run
import tasks
from bench.toys import tiny
from engine.artifacts.model_config import with_section
from engine.data.batch import Batch
from engine.errors import ModelError
from engine.finished import open_model
from tasks.classification.adjusted import halves
from tasks.classification.calibration import Calibration, binned, confidences, expected_error, losses, most_likely_temperature
from tasks.classification.metrics import ClassificationMetrics
from tests.toys import knowing
from tests.toys.as_typed import library
from tests.toys.cli import command, fails

NUM_ROWS = 600


def drawn(problem, seed=0, sharpness=4.0):
    """Logits that are ``sharpness`` times too sure, and labels drawn as the logits before that say: [N, 4]."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(size=(3000, 4)) * 1.5
    if problem == "multi_label":
        labels = (generator.random(honest.shape) < 1 / (1 + np.exp(-honest))).astype(np.float32)
    else:
        labels = np.array([generator.choice(4, p=p) for p in softmax(honest, 1)])
    return (honest * sharpness).astype(np.float32), labels


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
@pytest.mark.parametrize("cuts", [(), (1, 4, 2000)])
def test_ece_and_brier_equal_the_libraries(problem, cuts):
    """A confidence of exactly 1, which torchmetrics puts into a bin of its own, does not occur at this sharpness."""
    logits, labels = drawn(problem, sharpness=1.5)
    metrics = ClassificationMetrics(problem, "abcd", Calibration())
    for start, stop in zip([0, *cuts], [*cuts, len(labels)], strict=True):
        part = torch.as_tensor(labels[start:stop])
        batch = Batch({}, {"labels": part}, part.numel(), len(part), 0, 0, 0, 0)
        metrics.update(None, SimpleNamespace(logits=torch.as_tensor(logits[start:stop])), batch)
    found, wide = metrics.compute(), torch.as_tensor(logits).double()
    if problem == "single_label":
        ece = multiclass_calibration_error(wide.softmax(-1), torch.as_tensor(labels), 4, n_bins=15, norm="l1")
        brier = brier_score_loss(labels, wide.softmax(-1).numpy(), scale_by_half=False, labels=range(4))
    else:
        p = wide.sigmoid().flatten()
        ece = binary_calibration_error(p, torch.as_tensor(labels).flatten().long(), n_bins=15, norm="l1")
        brier = brier_score_loss(labels.flatten(), p.numpy())
    assert (
        found["ece"] == pytest.approx(float(ece), abs=1e-4) and found["ece"] > 0.02
    )  # rounding moves single rows over an edge
    assert found["brier"] == pytest.approx(brier, abs=1e-6)
    assert {"ece", "brier"} <= {*metrics.names} & {*metrics.lower_is_better}


def test_a_confidence_of_one_is_in_the_last_bin():
    bins = binned(torch.tensor([1.0, 0.95, 0.0, 1 / 15]), torch.tensor([True, False, False, True]))
    assert bins[14].tolist() == pytest.approx([2, 1.95, 1]) and bins[0].tolist() == [1, 0, 0] and bins[1, 0] == 1
    assert expected_error(bins) == pytest.approx((0.95 + (1 - 1 / 15)) / 4)


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
@pytest.mark.parametrize("sharpness", [0.3, 4.0])
def test_the_temperature_is_the_most_likely_one(problem, sharpness):
    """SciPy minimises the loss that it computes itself."""
    logits, labels = drawn(problem, sharpness=sharpness)
    z = logits.astype(np.float64)

    def loss(t):
        if problem == "multi_label":
            return -np.where(labels > 0, -np.logaddexp(0, -z / t), -np.logaddexp(0, z / t)).mean()
        return -log_softmax(z / t, 1)[np.arange(len(z)), labels].mean()

    expected = minimize_scalar(loss, bounds=(0.01, 50), method="bounded", options={"xatol": 1e-9})
    found = most_likely_temperature(logits, labels, problem)
    assert found == pytest.approx(expected.x, rel=1e-5) and found == pytest.approx(sharpness, rel=0.1)
    assert losses(logits, labels, problem, found).mean() == pytest.approx(expected.fun, abs=1e-9)


def test_no_temperature_is_most_likely_where_all_is_right_or_nothing_is_said():
    sure = np.eye(3, dtype=np.float32)
    assert most_likely_temperature(sure, np.arange(3), "single_label") is None
    assert most_likely_temperature(sure[[1, 2, 0]], np.arange(3), "single_label") is None
    assert most_likely_temperature(np.zeros((3, 3), np.float32), np.arange(3), "single_label") is None


def test_halves_part_the_rows_with_the_same_share_of_each_label():
    labels = np.array([0] * 40 + [1] * 11 + [2] * 2)
    first, second = halves(labels, 42)
    assert sorted([*first, *second]) == [*range(53)]
    assert all(abs((labels[first] == label).sum() - (labels[second] == label).sum()) <= 1 for label in range(3))
    assert first.tolist() == halves(labels, 42)[0].tolist() != halves(labels, 43)[0].tolist()


def test_a_temperature_changes_no_answer():
    """Nor do labels that lie within a rounding of the threshold."""
    generator = np.random.default_rng(0)
    logits = torch.as_tensor(
        generator.normal(size=(2000, 3)).astype(np.float32) * np.logspace(-9, 1, 2000)[:, None].astype(np.float32)
    )
    for t in (0.013, 0.7, 3.3, 77.7):
        assert torch.equal(Calibration(t).best(logits), Calibration().best(logits))
        assert torch.equal(Calibration(t).chosen(logits), Calibration().chosen(logits))


@pytest.mark.parametrize(
    "field",
    [3, [], {"temperature": 0}, {"temperature": -1.0}, {"temperature": "2"}, {"temperature": True}, {"temperature": None},
     {"thresholds": 3}, {"thresholds": [0.5]}, {"thresholds": [0.5, 0.5, 1.5]}, {"thresholds": [0.5, 0.5, None]}],
)  # fmt: skip
def test_what_evaluate_does_not_write_is_refused(field):
    with pytest.raises(ModelError, match=r"config\.json of the model"):
        Calibration.of(SimpleNamespace(calibration=field), "multi_label", 3)


def test_a_model_without_the_field_has_temperature_one():
    assert Calibration.of(SimpleNamespace(), "single_label", 3) == Calibration(1.0, None)
    assert Calibration.of(SimpleNamespace(calibration={"temperature": 2}), "single_label", 3) == Calibration(2.0)


# ------------------------------------------------------------------------------------------------- as a user types it


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The folder, the arguments, and the run as it was before. The model is far too sure."""
    folder = tmp_path_factory.mktemp("calibrated")
    directory = knowing.save_run(folder, knowing.model(40.0, noise=1.0), knowing.noisy(NUM_ROWS, 7, share=0.05))
    arguments = ["evaluate", str(directory), "--device", "cpu", "--file", str(folder / "held.csv")]
    shutil.copytree(folder / "run", folder / "before")
    assert run.main([*arguments, "--calibrate"]) == 0
    return folder, arguments


def rows_of(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def figures(folder, arguments, name):
    assert run.main([*arguments, "--output", str(folder / f"{name}.json")]) == 0
    return json.loads((folder / f"{name}.json").read_text())


def answers(directory, texts):
    task, model, layout = open_model(str(directory), tasks.find, device="cpu")
    return task, list(task.predict(model, texts, layout))


def test_a_temperature_lowers_ece_and_loss_and_changes_no_answer(calibrated, capsys):
    folder, arguments = calibrated
    before = figures(folder, [arguments[0], str(folder / "before"), *arguments[2:]], "raw")
    after = figures(folder, arguments, "mended")
    assert "calibrated: loss, ece and brier are those of the logits divided by" in capsys.readouterr().err
    for name in ("eval_accuracy", "eval_f1", "eval_mcc", "classes"):
        assert before[name] == after[name]
    for name in ("eval_loss", "eval_ece", "eval_brier"):
        assert after[name] < before[name] * 0.9, name
    texts = [text for text, _ in tiny.texts(40, 9)]
    (raw, old), (mended, new) = answers(folder / "before", texts), answers(folder / "run", texts)
    assert [each["label"] for each in old] == [each["label"] for each in new]
    t = mended.calibration.temperature
    assert t > 1.5 and raw.calibration == Calibration()
    for was, now in zip(old, new, strict=True):
        p = np.array([*was["probabilities"].values()], dtype=np.float64)
        assert [*now["probabilities"].values()] == pytest.approx((p ** (1 / t) / (p ** (1 / t)).sum()).tolist(), abs=1e-5)
        assert now["score"] == max(now["probabilities"].values())


def test_what_is_reported_is_of_rows_that_did_not_choose(calibrated, capsys):
    """The lines, recomputed from predict's logits by other means."""
    folder, arguments = calibrated
    capsys.readouterr()
    assert run.main([*arguments, "--calibrate"]) == 0  # again: the same numbers, whatever was kept before
    out = capsys.readouterr().out
    rows = rows_of(folder / "held.csv")
    _, said = answers(folder / "before", [row["text"] for row in rows])
    logits = np.log(np.array([[*each["probabilities"].values()] for each in said], dtype=np.float64))
    labels = np.array(["abc".index(row["label"]) for row in rows])
    first, second = halves(labels, 42)
    t = float(re.search(r"temperature ([\d.]+), fitted on 300 rows; on 300 others:", out)[1])

    def loss(t):
        return -log_softmax(logits[first] / t, 1)[np.arange(len(first)), labels[first]].mean()

    assert t == pytest.approx(minimize_scalar(loss, bounds=(0.1, 50), method="bounded").x, rel=1e-3)
    before, after, gain, error = map(float, re.search(r"loss +([\d.]+) +([\d.]+)  \(([-+\d.]+) \+- ([\d.]+)\)", out).groups())
    each = [-log_softmax(logits[second] / u, 1)[np.arange(len(second)), labels[second]] for u in (1, t)]
    assert [before, after] == pytest.approx([each[0].mean(), each[1].mean()], abs=2e-4)
    assert [gain, error] == pytest.approx([(each[1] - each[0]).mean(), (each[1] - each[0]).std(ddof=1) / 300**0.5], abs=2e-4)
    ece = [float(word) for word in re.search(r"ece +([\d.]+) +([\d.]+)", out).groups()]
    for u, found in zip((1, t), ece, strict=True):
        p = torch.as_tensor(logits[second] / u)
        assert found == pytest.approx(
            expected_error(binned(*confidences(p, torch.as_tensor(labels[second]), "single_label"))), abs=1e-3
        )
    assert ece[1] < ece[0] - 0.05


def test_what_is_kept_is_pushed_and_the_library_ignores_it(calibrated, capsys):
    folder, _ = calibrated
    kept = AutoConfig.from_pretrained(folder / "run").calibration
    assert [*kept] == ["temperature"]
    assert run.main(["push", "--model", str(folder / "run"), "--dry-run"]) == 0, "its hash stands in run.json"
    assert "findings.json" in re.search("not pushed: (.*)", capsys.readouterr().out)[1]
    text = tiny.texts(1, 9)[0][0]
    assert library(folder / "run", text) == pytest.approx(library(folder / "before", text), abs=1e-7)
    card = (folder / "run/README.md").read_text()
    assert card.count("## Calibration\n") == 1 and "which transformers does not read" in card
    assert card.index("## Calibration") < card.index("## Training")


def test_the_report_draws_the_curves(calibrated):
    folder, arguments = calibrated
    assert run.main([*arguments, "--calibrate"]) == 0
    page = (folder / "run/report.html").read_text()
    charts = {each["title"]: each for each in (json.loads(html.unescape(t)) for t in re.findall(r"data-chart='([^']*)'", page))}
    assert [series["name"] for series in charts["Reliability"]["series"]] == ["as claimed", "before", "after"]
    assert "How sure it may be (held.csv)" in page
    assert sum(y for _, y in charts["Confidence, after"]["series"][0]["points"]) == NUM_ROWS / 2
    assert run.main([*arguments, "--errors", str(folder / "run/errors.csv")]) == 0
    page = (folder / "run/report.html").read_text()
    charts = {each["title"]: each for each in (json.loads(html.unescape(t)) for t in re.findall(r"data-chart='([^']*)'", page))}
    assert [s["name"] for s in charts["Reliability"]["series"]] == ["as claimed", "model", "before", "after"], (
        "and keeps the others"
    )
    rows = sum(y for _, y in charts["Confidence, model"]["series"][0]["points"])
    assert rows == NUM_ROWS and "Most confident mistakes" in page
    found = rows_of(folder / "run/errors.csv")
    _, said = answers(folder / "run", [row["text"] for row in found])
    assert [float(row["confidence"]) for row in found] == pytest.approx([each["score"] for each in said], abs=1e-4)


def test_training_on_from_a_calibrated_model_begins_anew(calibrated, project, tmp_path, capsys):
    folder, _ = calibrated
    arguments = command(project, "--output-dir", str(tmp_path / "run"), "--max-steps", "1")
    arguments[arguments.index("--model") + 1] = str(folder / "run")
    assert run.main(arguments) == 0
    assert "calibration" not in json.loads((tmp_path / "run/config.json").read_text())
    assert " is calibrated, and this model will not be: run evaluate --calibrate" in capsys.readouterr().err


def test_killed_between_the_two_files_the_command_mends_it(calibrated, tmp_path):
    folder, arguments = calibrated
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run/run.json").write_bytes((folder / "before/run.json").read_bytes())
    again = [arguments[0], str(tmp_path / "run"), *arguments[2:]]
    assert run.main(["push", "--model", str(tmp_path / "run"), "--dry-run"]) == 2, "changed since it was saved"
    assert run.main([*again, "--calibrate"]) == 0
    assert run.main(["push", "--model", str(tmp_path / "run"), "--dry-run"]) == 0


def test_what_calibrate_refuses(calibrated, project, tmp_path, capsys):
    folder, arguments = calibrated
    shutil.copytree(folder / "run", tmp_path / "run")
    again = [arguments[0], str(tmp_path / "run"), *arguments[2:]]
    code, line = fails([*again, "--calibrate", "--errors", str(tmp_path / "e.csv")], capsys)
    assert code == 2 and "give it first, and then evaluate --errors" in line
    code, line = fails([*again[:-1], f"a={again[-1]},b={project / 'eval.csv'}", "--calibrate"], capsys)
    assert code == 2 and "--calibrate learns from one set, and there are a, b" in line
    few = tmp_path / "few.csv"
    few.write_text("\n".join((folder / "held.csv").read_text().splitlines()[:9]) + "\n")
    code, line = fails([*again[:-1], str(few), "--calibrate"], capsys)
    assert code == 3 and "at least 20 held-out rows are needed to learn from, found 8" in line
    config = json.loads((tmp_path / "run/config.json").read_text())
    (tmp_path / "run/config.json").write_text(json.dumps(config | {"note": "mine"}))
    before = (tmp_path / "run/run.json").read_text()
    code, line = fails([*again, "--calibrate"], capsys)
    assert "has been changed since it was saved: put back" in line and code == 3 + 1
    assert (tmp_path / "run/run.json").read_text() == before
    (tmp_path / "run/config.json").rename(tmp_path / "run/other.json")
    (tmp_path / "run/config.json").symlink_to("other.json")
    code, line = fails([*again, "--calibrate"], capsys)
    assert code == 2 and "config.json is a link" in line


@pytest.mark.slow
def test_a_temperature_mends_a_model_that_has_been_trained_for_too_long(tmp_path, capsys):
    """Forty epochs on 160 rows of which a fifth has another label: it knows them by heart, and is too sure of all others."""
    tiny.save_model(tmp_path / "model", tiny.bert(dropout=0.0))
    knowing.write(tmp_path / "train.csv", knowing.noisy(160, 0))
    knowing.write(tmp_path / "held.csv", knowing.noisy(1000, 1))
    assert run.main(["--task", "classification", "--model", str(tmp_path / "model"), "--train-file", str(tmp_path / "train.csv"),
                     "--epochs", "40", "--learning-rate", "3e-3", "--device", "cpu", "--output-dir", str(tmp_path / "run")]) == 0  # fmt: skip
    capsys.readouterr()
    assert (
        run.main(["evaluate", str(tmp_path / "run"), "--file", str(tmp_path / "held.csv"), "--device", "cpu", "--calibrate"])
        == 0
    )
    out = capsys.readouterr().out
    before, after = (float(word) for word in re.search(r"ece +([\d.]+) +([\d.]+)", out).groups())
    gain, error = (float(word) for word in re.search(r"\(([-+\d.]+) \+- ([\d.]+)\)", out).groups())
    assert before > 0.15 and after < before / 2 and gain < -5 * error


def test_sections_of_the_card():
    card = "# x\n\n## Use\n\na\n\n## Training\n\nb\n"
    once = with_section(card, "Found", "one")
    assert once == "# x\n\n## Use\n\na\n\n## Found\n\none\n\n## Training\n\nb\n"
    assert with_section(once, "Found", "two") == once.replace("one", "two")
    assert with_section(once, "Found", "") == card
    assert with_section("# x\n", "Found", "one").endswith("# x\n\n## Found\n\none\n\n")

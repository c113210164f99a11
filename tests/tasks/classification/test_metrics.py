"""Figures equal those of scikit-learn and SciPy on the whole data, however the batches are cut.

Most of ours come from torchmetrics in float32, fed in uneven batches: 1e-6 is its rounding, unless a test says more.
"""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

import run
from bench.toys import tiny
from engine.config import TrainConfig
from engine.data.batch import Batch
from engine.data.sources import Source, SourceConfig
from engine.fit import fit
from tasks.classification.metrics import ClassificationMetrics
from tasks.classification.mistakes import WrongLabels
from tasks.classification.task import Classification, ClassificationOptions
from tasks.language.task import LanguageMetrics

ROUNDING = 1e-6


def batch_of(labels) -> Batch:
    labels = torch.as_tensor(labels)
    return Batch({}, {"labels": labels}, int((labels != -100).sum()), len(labels), 0, 0, 0, 0)


def figures(problem, num_labels, logits, labels, cuts=()):
    """Fed in pieces that end at ``cuts``."""
    metrics = ClassificationMetrics(problem, list(map(str, range(num_labels))))
    for start, stop in zip([0, *cuts], [*cuts, len(labels)], strict=True):
        outputs = SimpleNamespace(logits=torch.as_tensor(logits[start:stop]))
        metrics.update(None, outputs, batch_of(labels[start:stop]))
    found = metrics.compute()
    assert set(found) == set(metrics.names)
    assert all(type(value) is float for value in found.values())
    return found


def classes(seed, n=203, num_labels=5):
    """Logits that are right more often than by chance; classes of different size."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(num_labels, n, p=np.arange(1, num_labels + 1) / (num_labels * (num_labels + 1) / 2))
    logits = generator.normal(size=(n, num_labels)).astype(np.float32)
    logits[np.arange(n), labels] += 1
    return logits, labels


def several(seed, n=203, num_labels=4):
    generator = np.random.default_rng(seed)
    labels = (generator.random((n, num_labels)) < [0.5, 0.3, 0.2, 0.05][:num_labels]).astype(np.float32)
    labels[0] = 1  # every label stands somewhere
    logits = (generator.normal(size=(n, num_labels)) * 1.5 + 2 * labels - 1).astype(np.float32)
    return logits, labels


def values(seed, n=203):
    generator = np.random.default_rng(seed)
    labels = (generator.normal(size=n) * 2 + 3).astype(np.float32)
    logits = (labels + generator.normal(size=n)).astype(np.float32)
    logits[:20] = logits[20:40]  # ties, for the ranks
    return logits[:, None], labels


CUTS = [1, 4, 100, 101, 160]


# ----------------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_labels", [2, 5])
def test_classes_equal_scikit_learn(seed, num_labels):
    logits, labels = classes(seed, num_labels=num_labels)
    predicted = logits.argmax(1)
    found = figures("single_label", num_labels, logits, labels, CUTS)
    assert found == pytest.approx({
        "accuracy": reference.accuracy_score(labels, predicted),
        "f1": reference.f1_score(labels, predicted, average="macro"),
        "mcc": reference.matthews_corrcoef(labels, predicted),
    }, abs=ROUNDING)  # fmt: skip
    assert abs(found["accuracy"] - found["f1"]) > 1e-3, "macro and micro can be told apart here"


def test_a_class_that_is_neither_there_nor_predicted_does_not_count():
    """As in scikit-learn without a list of labels: its F1 would be 0 / 0."""
    logits, labels = classes(0, num_labels=4)
    logits = np.concatenate([logits, np.full((len(logits), 1), -9, np.float32)], axis=1)
    found = figures("single_label", 5, logits, labels, CUTS)
    assert found["f1"] == pytest.approx(reference.f1_score(labels, logits.argmax(1), average="macro"), abs=ROUNDING)


@pytest.mark.parametrize(("rows", "positives"), [(30, 1), (100, 10), (1, 1), (12, 12), (12, 0)])
@pytest.mark.parametrize("always", [0, 1])
def test_a_classifier_of_two_classes_that_always_says_one_has_no_mcc(rows, positives, always):
    """torchmetrics gives 0.9493 for one positive of 30, and 0.267 for 10 of 100."""
    labels = np.arange(rows) < positives
    logits = np.tile(np.eye(2, dtype=np.float32)[always], (rows, 1))
    assert reference.matthews_corrcoef(labels, np.full(rows, always)) == 0
    assert figures("single_label", 2, logits, labels.astype(int), range(1, rows))["mcc"] == 0


def test_predicting_one_class_only_is_no_correlation():
    labels = np.array([0, 1, 2, 0, 1, 2])
    logits = np.tile(np.array([[1, 0, 0]], np.float32), (6, 1))
    assert reference.matthews_corrcoef(labels, logits.argmax(1)) == 0
    assert figures("single_label", 3, logits, labels)["mcc"] == 0


def test_labels_of_minus_100_are_ignored():
    logits, labels = classes(1)
    ignored = np.random.default_rng(0).random(len(labels)) < 0.3
    ignored[[0, 1, 100]] = False  # CUTS makes batches of few rows
    found = figures("single_label", 5, logits, np.where(ignored, -100, labels), CUTS)
    assert found == figures("single_label", 5, logits[~ignored], labels[~ignored])
    assert found != figures("single_label", 5, logits, labels)


def test_a_batch_without_any_label_is_ignored():
    logits, labels = classes(1)
    labels = labels.copy()
    labels[1:4] = -100
    real = labels != -100
    assert figures("single_label", 5, logits, labels, CUTS) == figures("single_label", 5, logits[real], labels[real])


# --------------------------------------------------------------------------------------------------- several labels


@pytest.mark.parametrize("seed", range(5))
def test_several_labels_equal_scikit_learn(seed):
    """F1 at a probability of one half. Average precision over 1,001 thresholds: some ties in place of an order, 2e-3."""
    logits, labels = several(seed)
    found = figures("multi_label", 4, logits, labels, CUTS)
    assert {name: found[name] for name in ("f1_micro", "f1_macro")} == pytest.approx({
        "f1_micro": reference.f1_score(labels, logits >= 0, average="micro"),
        "f1_macro": reference.f1_score(labels, logits >= 0, average="macro"),
    }, abs=ROUNDING)  # fmt: skip
    assert abs(found["f1_micro"] - found["f1_macro"]) > 1e-3
    expected = reference.average_precision_score(labels, logits, average="macro")
    assert found["average_precision"] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("positives", ["some", "none", "all"])
@pytest.mark.parametrize("cuts", [(), CUTS])
def test_a_single_label_equals_scikit_learn(positives, cuts):
    """torchmetrics takes two or more; micro and macro F1 are then both that of the label."""
    logits, labels = several(0, num_labels=1)
    labels = {"some": labels, "none": np.zeros_like(labels), "all": np.ones_like(labels)}[positives]
    expected = reference.f1_score(labels[:, 0], logits[:, 0] > 0, zero_division=0)
    found = figures("multi_label", 1, logits, labels, cuts)
    assert found == pytest.approx({
        "f1_micro": expected, "f1_macro": expected,
        "average_precision": reference.average_precision_score(labels[:, 0], logits[:, 0]) if positives != "none" else 0,
    }, abs=ROUNDING)  # fmt: skip
    assert positives != "some" or 0.1 < expected < 0.95, "a figure that says something"


def test_a_run_with_a_single_label_ends(tmp_path, capsys):
    """A traceback once: from the command line, with the label found in the data or named."""
    tiny.save_model(tmp_path / "model")
    texts = [f"{text},{'toxic' if label == 'a' else ''}\n" for text, label in tiny.texts(40)]
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(texts))
    common = ["--task", "classification", "--problem", "multi_label", "--model", str(tmp_path / "model"), "--train-file",
              str(tmp_path / "t.csv"), "--eval-file", str(tmp_path / "t.csv"), "--device", "cpu", "--max-steps", "2"]  # fmt: skip
    for number, more in enumerate([[], ["--label-names", "toxic"]]):
        assert run.main([*common, *more, "--output-dir", str(tmp_path / str(number))]) == 0, capsys.readouterr().err
        metrics = json.loads((tmp_path / str(number) / "run.json").read_text())["metrics"]
        assert metrics["eval_f1_micro"] == metrics["eval_f1_macro"] and 0 < metrics["eval_average_precision"] <= 1
        capsys.readouterr()
        assert run.main(["predict", "--model", str(tmp_path / str(number)), "w0"]) == 0
        assert capsys.readouterr().out.startswith(("toxic (0.", "(no label)\t"))


def test_a_label_that_is_never_there_nor_predicted_has_no_f1():
    logits, labels = several(0)
    logits[:, 3], labels[:, 3] = -9, 0
    expected = reference.f1_score(labels, logits >= 0, average="macro", zero_division=0)
    assert figures("multi_label", 4, logits, labels, CUTS)["f1_macro"] == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize(("offset", "spread"), [(-7, 0.3), (0, 3)], ids=["rare labels", "a confident model"])
def test_average_precision_holds_where_probabilities_crowd(offset, spread):
    """Rare labels (toxic comments: one in a thousand) have all probabilities near 0; a confident model's lie near 0 and 1."""
    logits, labels = several(1)
    logits = logits * spread + offset
    expected = reference.average_precision_score(labels, logits, average="macro")
    assert figures("multi_label", 4, logits, labels, CUTS)["average_precision"] == pytest.approx(expected, abs=2e-3)


# -------------------------------------------------------------------------------------------------------- regression


@pytest.mark.parametrize("seed", range(5))
def test_values_equal_scikit_learn_and_scipy(seed):
    logits, labels = values(seed)
    found = figures("regression", 1, logits, labels, CUTS)
    assert found == pytest.approx({
        "rmse": reference.root_mean_squared_error(labels, logits[:, 0]),
        "pearson": stats.pearsonr(logits[:, 0], labels).statistic,
        "spearman": stats.spearmanr(logits[:, 0], labels).statistic,
    }, abs=1e-5)  # fmt: skip  # sums of squares in float32
    assert abs(found["pearson"] - found["spearman"]) > 1e-4


def test_correlation_holds_far_from_nought():
    """The mean is taken away as the batches come in: sums of squares of 1,000 would have swallowed it."""
    logits, labels = values(0)
    found = figures("regression", 1, logits + 1000, labels + 1000, range(1, len(labels)))
    assert found["pearson"] == pytest.approx(stats.pearsonr(logits[:, 0], labels).statistic, abs=1e-4)


@pytest.mark.parametrize("constant", ["predictions", "labels", "both"])
@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
def test_constants_have_no_correlation(constant, value):
    """Neither 0 nor what rounding leaves: it is not defined, which run.json has as null."""
    logits, labels = values(0)
    logits = np.full_like(logits, value) if constant != "labels" else logits
    labels = np.full_like(labels, value) if constant != "predictions" else labels
    found = figures("regression", 1, logits, labels, CUTS)
    assert np.isnan([found["pearson"], found["spearman"]]).all()
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(labels, logits[:, 0]), rel=1e-6, abs=1e-6)


def test_one_row_has_no_correlation():
    assert np.isnan(
        [figures("regression", 1, *(part[:1] for part in values(0)))[name] for name in ("pearson", "spearman")]
    ).all()


# -------------------------------------------------------------------------------------- whatever somebody may evaluate on

DRAWN = settings(max_examples=200, deadline=None, derandomize=True, database=None)
FLOATS = st.floats(-1000, 1000, width=32)


@st.composite
def several_rows(draw, cell, least=1):
    """Some rows, each two cells of ``cell`` (of the labels, of the predictions), and where they are cut into batches."""
    rows = draw(st.lists(st.tuples(*cell), min_size=least, max_size=24))
    cuts = draw(st.sets(st.integers(1, max(len(rows) - 1, 1)), max_size=4))
    return rows, sorted(cut for cut in cuts if cut < len(rows))


def some(of):
    """One or a few that are drawn first: what is drawn from them is often constant, and others are absent."""
    return st.lists(of, min_size=1, max_size=4, unique=True).map(st.sampled_from)


@DRAWN
@given(st.data(), st.integers(2, 5))
@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
def test_any_classes_equal_scikit_learn(data, num_labels):
    classes = st.integers(0, num_labels - 1)
    rows, cuts = data.draw(several_rows((data.draw(some(classes)), data.draw(some(classes)))))
    labels, predicted = np.array(rows).T
    found = figures("single_label", num_labels, np.eye(num_labels, dtype=np.float32)[predicted], labels, cuts)
    assert found == pytest.approx({
        "accuracy": reference.accuracy_score(labels, predicted),
        "f1": reference.f1_score(labels, predicted, average="macro", zero_division=0),
        "mcc": reference.matthews_corrcoef(labels, predicted),
    }, abs=ROUNDING)  # fmt: skip


@DRAWN
@given(st.data(), st.integers(2, 4))
@pytest.mark.filterwarnings("ignore:No positive:UserWarning")
def test_any_labels_equal_scikit_learn(data, num_labels):
    """A label that stands nowhere counts 0, as there. Ranked by probability, since logits far from 0 become equal ones."""
    columns = [(data.draw(some(st.integers(0, 1))), data.draw(some(FLOATS))) for _ in range(num_labels)]
    rows, cuts = data.draw(several_rows(tuple(st.tuples(*cells) for cells in zip(*columns, strict=True))))
    labels, logits = (np.array(part, np.float32).reshape(len(rows), -1) for part in zip(*rows, strict=True))
    probabilities = torch.as_tensor(logits).sigmoid().numpy()
    found = figures("multi_label", num_labels, logits, labels, cuts)
    assert found == pytest.approx({
        "f1_micro": reference.f1_score(labels, probabilities > 0.5, average="micro", zero_division=0),
        "f1_macro": reference.f1_score(labels, probabilities > 0.5, average="macro", zero_division=0),
        "average_precision": reference.average_precision_score(labels, probabilities, average="macro"),
    }, abs=ROUNDING)  # fmt: skip


@DRAWN
@given(st.data())
@pytest.mark.filterwarnings("ignore:An input array is")
def test_any_values_equal_scikit_learn_and_scipy(data):
    rows, cuts = data.draw(several_rows((data.draw(some(FLOATS)), data.draw(some(FLOATS))), least=2))
    labels, predicted = np.array(rows, np.float32).T
    found = figures("regression", 1, predicted[:, None], labels, cuts)
    wide = predicted.astype(np.float64), labels.astype(np.float64)
    assert found == pytest.approx({
        "rmse": reference.root_mean_squared_error(wide[1], wide[0]),
        "pearson": stats.pearsonr(*wide).statistic,
        "spearman": stats.spearmanr(*wide).statistic,
    }, rel=1e-6, abs=ROUNDING, nan_ok=True)  # fmt: skip


# ------------------------------------------------------------------------------------------------------- the batches


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_the_cut_into_batches_does_not_matter(problem):
    """Counts are the same to the last bit; means and moments are merged in another order: 1e-5."""
    make, num_labels = {"single_label": (classes, 5), "multi_label": (several, 4), "regression": (values, 1)}[problem]
    logits, labels = make(3)
    whole = figures(problem, num_labels, logits, labels)
    generator = np.random.default_rng(0)
    cuts = [range(2, len(labels), 2), range(50, len(labels), 50), [1], [len(labels) - 1]]
    cuts += [sorted(generator.choice(np.arange(1, len(labels)), 6, replace=False).tolist()) for _ in range(5)]
    for cut in cuts:
        found = figures(problem, num_labels, logits, labels, cut)
        assert found == (whole if problem != "regression" else pytest.approx(whole, abs=1e-5)), cut


def test_a_mean_of_batch_figures_would_be_noticed():
    logits, labels = classes(3)
    edges = [0, *CUTS, len(labels)]
    pieces = [figures("single_label", 5, logits[a:b], labels[a:b]) for a, b in pairwise(edges)]
    whole = figures("single_label", 5, logits, labels, CUTS)
    for name in whole:
        assert abs(np.mean([piece[name] for piece in pieces]) - whole[name]) > 1e-3, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_half_precision_are_taken(dtype):
    for problem, make, num_labels in (("single_label", classes, 5), ("multi_label", several, 4), ("regression", values, 1)):
        logits, labels = make(2)
        half = torch.as_tensor(logits).to(dtype)
        assert figures(problem, num_labels, half, labels) == figures(problem, num_labels, half.float(), labels)


def test_each_problem_has_its_figures_and_fresh_ones_start_at_nothing():
    assert ClassificationMetrics("single_label", "abc").names == ("accuracy", "f1", "mcc")
    assert ClassificationMetrics("multi_label", "abc").names == ("f1_micro", "f1_macro", "average_precision")
    assert ClassificationMetrics("regression", ["value"]).names == ("rmse", "pearson", "spearman")
    logits, labels = classes(0)
    assert figures("single_label", 5, logits, labels) == figures("single_label", 5, logits, labels)


@pytest.mark.parametrize("num_labels", [1, 4])
@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_figures_of_each_class(problem, num_labels):
    """As scikit-learn has them, of a class that is absent, or never predicted, 0."""
    if problem == "single_label":
        logits, labels = classes(3, num_labels=5)
        labels[labels == 2], logits[:, 3] = 4, -100  # one that is not there, one that is never predicted
        predicted, names = logits.argmax(1), "abcde"
    else:
        logits, labels = several(3, num_labels=num_labels)
        predicted, names = (logits > 0).astype(int), "abcd"[:num_labels]
    metrics = ClassificationMetrics(problem, names)
    for start, stop in ((0, 50), (50, 51), (51, len(labels))):
        metrics.update(None, SimpleNamespace(logits=torch.as_tensor(logits[start:stop])), batch_of(labels[start:stop]))
    found = metrics.classes()
    assert list(found) == list(names)
    which = {"labels": range(len(names))} if problem == "single_label" else {"labels": [1]} if num_labels == 1 else {}
    wanted = reference.precision_recall_fscore_support(labels, predicted, zero_division=0, average=None, **which)
    for i, figures_of_it in enumerate(found.values()):
        assert list(figures_of_it.values())[:4] == pytest.approx([float(row[i]) for row in wanted], abs=1e-12)
    if problem == "single_label":
        taken = [[row[f"as {name}"] for name in names] for row in found.values()]
        assert taken == reference.confusion_matrix(labels, predicted, labels=range(len(names))).tolist()
    else:
        assert all(len(row) == 4 for row in found.values())
    assert ClassificationMetrics("regression", ["value"]).classes() == {}


def test_of_many_classes_no_pairs_are_counted():
    """The matrix of 30,000 classes would take 7 GB."""
    logits, labels = classes(3, num_labels=21)
    metrics = ClassificationMetrics("single_label", [str(i) for i in range(21)])
    metrics.update(None, SimpleNamespace(logits=torch.as_tensor(logits)), batch_of(labels))
    wanted = reference.precision_recall_fscore_support(
        labels, logits.argmax(1), zero_division=0, average=None, labels=range(21)
    )
    for i, row in enumerate(metrics.classes().values()):
        assert list(row.values()) == pytest.approx([float(each[i]) for each in wanted], abs=1e-12)


def test_the_metrics_say_of_which_figures_less_is_better():
    """The best model is chosen by it; a figure that is named there exists."""
    for kind, lower in (("single_label", set()), ("multi_label", set()), ("regression", {"rmse"})):
        metrics = ClassificationMetrics(kind, "a" if kind == "regression" else "abc")
        assert {*metrics.lower_is_better} & {*metrics.names} == lower
    language = LanguageMetrics(tokens_per_byte=0.3)
    assert {*language.lower_is_better} == {"perplexity", "bits_per_byte"} < {*language.names}


@pytest.mark.parametrize(("metric", "kept"), [("rmse", 0), ("accuracy", 1)])
def test_the_direction_of_the_metric_decides_which_model_is_kept(metric, kept, tmp_path):
    """Two evaluations of which the second has the higher figure."""

    class Rising:
        names, lower_is_better, values = ("rmse", "accuracy"), ("rmse",), iter([0.1, 0.2])

        def update(self, *_) -> None: ...
        def sync(self, *_) -> None: ...
        def compute(self) -> dict[str, float]:
            value = next(Rising.values)
            return {"rmse": value, "accuracy": value}

    task = tiny.TokenTask(train=tiny.token_rows(16), evaluation=tiny.token_rows(8, seed=5))
    task.metrics = lambda split: Rising()
    config = TrainConfig(batch_size=8, epochs=2, best_metric=metric, output_dir=str(tmp_path), device="cpu", learning_rate=1e-3)
    fit(task, config, tiny.bert())
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = [line for line in log if line["kind"] == "eval"][kept]
    assert json.loads((tmp_path / "run.json").read_text())["metrics"]["eval_rmse"] == best["rmse"]


def test_a_probability_of_one_half_is_none_everywhere():
    """Logits of 0, as a fresh head of zeros gives: predict, the metrics and --errors all say that the label is not there."""
    logits, labels = torch.tensor([[0.0, 1.0]]), np.array([[1, 1]], dtype=np.float32)
    metrics = ClassificationMetrics("multi_label", "ab")
    metrics.update(None, SimpleNamespace(logits=logits), batch_of(labels))
    assert metrics.classes()["a"]["recall"] == 0
    task = Classification(ClassificationOptions(problem="multi_label"), Source(SourceConfig()))
    assert task.prediction(logits[0], ["a", "b"])["label"] == ["b"]
    wrong = WrongLabels(["a", "b"], Dataset.from_dict({"text": ["x"]}))
    wrong.update(SimpleNamespace(logits=logits), dataclasses.replace(batch_of(labels), keys=[(0, 0)]))
    assert wrong.rows()[1][0][-3:-1] == ["a|b", "b"]

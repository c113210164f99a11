"""--contains, and --class-weights of several labels at once, through the command line."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F

import run
from bench.toys import tiny
from engine.data.sources import Source, SourceConfig
from engine.errors import DataError
from engine.finished import open_model
from tasks import find
from tasks.classification.yelp import Yelp
from tasks.options import YelpOptions
from tasks.text import containing


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    tiny.save_model(folder / "model")
    for name, number in (("train", 40), ("eval", 12)):
        with open(folder / f"{name}.csv", "w", newline="") as stream:
            rows = [(f"w{i} {('Tacos', 'w3')[i % 4 > 0]} w{i + 1}", ("a", "a|b", "c")[i % 3]) for i in range(number)]
            csv.writer(stream).writerows([("text", "label"), *rows])
    return folder


def train(project, *flags):
    arguments = ["--task", "classification", "--model", str(project / "model"), "--train-file", str(project / "train.csv")]
    arguments += ["--eval-file", str(project / "eval.csv"), "--problem", "multi_label", "--device", "cpu", "--epochs", "1"]
    return run.main([*arguments, *flags])


def test_rows_that_contain_a_word_are_trained_and_evaluated_on(project, tmp_path, capsys):
    output = tmp_path / "o"
    assert train(project, "--contains", "tacos", "--output-dir", str(output)) == 0
    said = capsys.readouterr().err
    assert "train data: 10 of 40 rows contain 'tacos'" in said and "eval data: 3 of 12 rows contain 'tacos'" in said
    document = json.loads((output / "run.json").read_text())
    assert document["data"]["num_examples"] == {"train": 10, "eval": 3}
    assert run.main(["evaluate", str(output), "--device", "cpu", "--output", str(tmp_path / "own.json")]) == 0
    own = json.loads((tmp_path / "own.json").read_text())
    assert own["eval_loss"] == pytest.approx(document["metrics"]["eval_loss"], rel=1e-5)
    capsys.readouterr()
    assert run.main(["evaluate", str(output), "--device", "cpu", "--file", str(project / "eval.csv")]) == 0
    assert "rows contain" not in capsys.readouterr().err, "a file that is named is measured as it is"
    assert train(project, "--contains", "pizza", "--output-dir", str(tmp_path / "none")) == 3
    assert "no row contains 'pizza' in column 'text': change --contains" in capsys.readouterr().err
    assert train(project, "--contains", " ", "--output-dir", str(tmp_path / "none")) == 2


@pytest.mark.parametrize(
    ("other", "cell"),
    [
        (["Tac", "os"], ["We", "like", "TACOS"]),
        ([{"role": "tacos", "content": "none"}], [{"role": "user", "content": "tacos?"}]),
        ("none", "the tacos"),
    ],
)
def test_what_a_cell_says_may_be_a_text_words_or_messages(other, cell):
    table = Dataset.from_dict({"text": [other, cell]})
    assert containing(table, "Tacos", "text", "train")[:]["text"] == [cell]
    with pytest.raises(DataError, match="no row contains"):
        containing(table, "burger", "text", "train")


@pytest.mark.parametrize("stars", [False, True])
def test_the_polarity_is_of_restaurants_and_the_stars_are_of_all(stars, monkeypatch):
    rows = Dataset.from_dict({"text": ["A Restaurant.", "A garage.", "A hotel."], "label": [0, 1, 1]})
    monkeypatch.setattr(Source, "tables", lambda *_: {"train": rows})
    task = Yelp(YelpOptions(stars=stars), Source(SourceConfig()))
    assert len(task.tables()["train"]) == (3 if stars else 1)


def test_weights_of_several_labels_are_those_of_their_examples_and_stay_with_the_model(project, tmp_path):
    output = tmp_path / "o"
    assert train(project, "--class-weights", "balanced", "--output-dir", str(output)) == 0
    with open(project / "train.csv", newline="") as stream:
        labels = [row["label"].split("|") for row in csv.DictReader(stream)]
    counts = torch.tensor([sum(name in row for row in labels) for name in "abc"])
    task, _, _ = open_model(str(output), find, device="cpu")
    logits, targets = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    expected = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=(40 - counts) / counts, reduction="sum")
    outputs, batch = type("Outputs", (), {"logits": logits}), type("Batch", (), {"targets": {"labels": targets}})
    torch.testing.assert_close(task.loss(outputs, batch), expected)

"""Through the command line: the right reading, or one line whose way in is then taken."""

from __future__ import annotations

import csv
import json
import re

import pytest
from datasets import ClassLabel, Dataset, Features, Value

import run
from bench.toys import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def at(model, tmp_path, monkeypatch, capsys):
    """``at(*flags) -> (exit code, what stderr says)``, on the files that ``write`` has made."""
    monkeypatch.chdir(tmp_path)

    def call(*flags, command=(), base=model):
        training = () if command else ("--model", str(base), "--epochs", "1", "--overwrite", "--task", "classification")
        code = run.main([*command, *training, "--device", "cpu", *flags])
        return code, capsys.readouterr().err

    return call


def write(name, *columns, header=("text", "label")):
    rows = zip([f"w{i}" for i in range(len(columns[0]))], *columns, strict=True)
    with open(name, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def labels_of(folder):
    names = json.loads((folder / "config.json").read_text())["id2label"]
    return [names[str(i)] for i in range(len(names))]


def test_a_model_of_1_to_5_is_not_measured_or_trained_on_0_to_4_in_silence(at, tmp_path):
    """F2. The line says what 0 would be under either reading; --label-values ids, which it names, is taken."""
    write("train.csv", [1, 2, 3, 4, 5] * 2)
    write("ids.csv", [0, 1, 2, 3, 4])
    write("names.csv", [1, 2, 3, 4, 5])
    assert at("--train-file", "train.csv", "--output-dir", "stars")[0] == 0
    measure = {"command": ("evaluate", "--model", "stars")}
    code, said = at("--file", "ids.csv", **measure)
    assert code == 3 and "0 would be '1'" in said and "--label-values ids" in said
    code, said = at("--train-file", "ids.csv", "--output-dir", "more", base="stars")
    assert code == 3 and "--label-values ids" in said
    assert at("--train-file", "ids.csv", "--output-dir", "more", "--label-values", "ids", base="stars")[0] == 0
    assert labels_of(tmp_path / "more") == ["1", "2", "3", "4", "5"]
    _, by_name = at("--file", "names.csv", **measure)
    assert at("--file", "ids.csv", "--label-values", "ids", **measure) == (0, by_name), "counts and baseline as those of 1 to 5"
    code, said = at("--train-file", "train.csv", "--eval-file", "ids.csv", "--output-dir", "one")
    mend = re.search(r"--label-names (\S+)", said)[1]
    assert (
        code == 3
        and at("--train-file", "train.csv", "--eval-file", "ids.csv", "--label-names", mend, "--output-dir", "one")[0] == 0
    )


def test_ids_without_a_nought_are_asked_about(at):
    """F2: 1 and 2 of three names are neu and pos counted from 0, neg and neu from 1."""
    write("t.csv", [1, 2, 1, 2])
    flags = ("--train-file", "t.csv", "--label-names", "neg,neu,pos", "--output-dir", "o")
    code, said = at(*flags)
    assert code == 3 and "1 would be 'neu'" in said and "1 would be 'neg'" in said
    code, said = at(*flags, "--label-values", "ids")
    assert code == 0 and "neg (0), neu (2), pos (2)" in said


def test_minus_one_is_a_class_if_named(at, tmp_path):
    write("t.csv", [-1, 0, 1, -1])
    code, said = at("--train-file", "t.csv", "--output-dir", "o")
    mend = re.search(r"--label-names=\S+", said)[0]
    assert code == 3 and at("--train-file", "t.csv", mend, "--output-dir", "o")[0] == 0
    assert labels_of(tmp_path / "o") == ["-1", "0", "1"]


@pytest.mark.parametrize("empty", ["-1", ""])
def test_an_unlabelled_split_names_another_one(at, empty):
    write("t.csv", ["a", "b"])
    write("e.csv", [empty] * 3)
    code, said = at("--train-file", "t.csv", "--eval-file", "e.csv", "--label-names", "a,b", "--output-dir", "o")
    assert code == 3 and "no row of the eval data has one" in said and "--eval-split" in said


def test_the_names_of_a_class_label_come_with_a_parquet_file(at, tmp_path):
    """In training and in evaluate --file, where another file has them in another order."""
    for name, names, ids in (("t", ["1", "0"], [0, 1, 0]), ("e", ["0", "1"], [1, 0, 1])):
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        Dataset.from_dict({"text": ["w1", "w2", "w3"], "label": ids}, features=features).to_parquet(f"{name}.parquet")
    assert at("--train-file", "t.parquet", "--output-dir", "o")[0] == 0
    assert labels_of(tmp_path / "o") == ["1", "0"]
    for file in ("t.parquet", "e.parquet"):
        code, said = at("--file", file, command=("evaluate", "--model", "o"))
        assert code == 0 and "1 (2), 0 (1)" in said


def test_a_rare_label_outlives_a_subset(at, tmp_path):
    """Names come from all training data; the evaluation data may have a label of which the subset has no row."""
    write("t.csv", ["a", "b"] * 60 + ["rare"] * 2)
    code, said = at("--train-file", "t.csv", "--eval-fraction", "0.5", "--max-train-examples", "6", "--output-dir", "o")
    assert code == 0 and "rare (0)" in said
    assert labels_of(tmp_path / "o") == ["a", "b", "rare"]


MULTI = ("--train-file", "t.csv", "--problem", "multi_label", "--output-dir", "o")


def test_one_hot_columns(at, tmp_path):
    """F6. One of them alone is refused, and its way in is theirs."""
    write("t.csv", [1, 0, 1], [0, 0, 1], header=("text", "toxic", "insult"))
    code, said = at(*MULTI, "--label-column", "toxic")
    assert code == 3 and "--label-column A,B,C" in said
    assert at(*MULTI[:2], *MULTI[4:], "--label-column", "toxic,insult")[0] == 2, "needs multi_label"
    code, said = at(*MULTI, "--label-column", "toxic,insult")
    assert code == 0 and "toxic (2), insult (1); 1 of 3 rows have none" in said
    assert labels_of(tmp_path / "o") == ["toxic", "insult"]
    assert "toxic (2), insult (1)" in at("--file", "t.csv", command=("evaluate", "--model", "o"))[1]


def test_the_wrong_separator_learns_nothing(at):
    write("t.csv", ["a, b", "a", "b, c", ""])
    code, said = at(*MULTI)
    assert code == 3 and "--label-separator ','" in said
    code, said = at(*MULTI, "--label-separator", ",")
    assert code == 0 and "a (2), b (2), c (1); 1 of 4 rows have none" in said
    code, said = at(*MULTI, "--label-values", "names")
    assert code == 0 and "a, b (1)" in said


def test_explain_prints_labels_and_the_trivial_baseline(at):
    write("t.csv", ["a", "b", "b"])
    write("e.csv", ["a", "b", "a", "a", "b"])
    code, said = at("--train-file", "t.csv", "--eval-file", "e.csv", "--output-dir", "o", "--explain")
    assert code == 0 and "labels of the train data: a (1), b (2)\n" in said
    assert "to beat on the evaluation data: always b: accuracy 0.40\n" in said


def test_a_column_of_another_name(at):
    """The error names the flag; of a competition's train.csv, say."""
    write("t.csv", ["a", "b", "b"], header=("text", "target"))
    code, said = at("--train-file", "t.csv", "--output-dir", "o", "--explain")
    assert code == 3 and "has no column 'label' (it has: 'text', 'target'); another column: --label-column NAME" in said
    code, said = at("--train-file", "t.csv", "--output-dir", "o", "--explain", "--label-column", "target")
    assert code == 0 and "a (1), b (2)" in said

"""inspect: planted faults are found, and nothing else is; labels that may be wrong are those of cleanlab, called directly."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pytest
from cleanlab.filter import find_label_issues

import run
import tasks
from bench.toys import tiny
from engine.findings.repeats import near, normal, shingles
from engine.finished import open_model
from tests.toys import knowing
from tests.toys.cli import fails

WORDS = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in "nrst"]


def texts(number, seed, length=40):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, length)) for _ in range(number)]


def inspected(arguments, out):
    assert run.main(["inspect", *map(str, arguments), "--output", str(out)]) == 0
    with open(out, newline="") as stream:
        return list(csv.DictReader(stream))


def of(found, what):
    return [row for row in found if row["finding"] == what]


def test_near_duplicates_across_splits_are_found_and_no_others(tmp_path, capsys):
    """3 in 100 evaluation texts are training texts with one word changed; those with every third word changed are others."""
    generator = np.random.default_rng(0)
    train, held = texts(300, 1), texts(200, 2)
    planted = {int(i): int(generator.integers(300)) for i in generator.choice(200, 6, replace=False)}
    for i, source in planted.items():
        words = train[source].split()
        words[int(generator.integers(40))] = "zzz"
        held[i] = " ".join(words).upper()
    other = next(i for i in range(200) if i not in planted)
    held[other] = " ".join("zzz" if k % 3 == 0 else word for k, word in enumerate(train[0].split()))
    for name, rows in (("train", train), ("held", held)):
        knowing.write(tmp_path / f"{name}.csv", [(text, "ab"[i % 2]) for i, text in enumerate(rows)])
    found = inspected(["--train-file", tmp_path / "train.csv", "--eval-file", tmp_path / "held.csv"], tmp_path / "found.csv")
    pairs = {(row["row"].rpartition(" ")[2], row["other_row"].rpartition(" ")[2]) for row in of(found, "nearly")}
    assert pairs == {(str(i + 1), str(source + 1)) for i, source in planted.items()} and len(found) == 6
    for row in found:
        i = int(row["row"].rpartition(" ")[2]) - 1
        a, b = shingles(held[i]), shingles(train[planted[i]])
        assert float(row["score"]) == pytest.approx(len(a & b) / len(a | b), abs=1e-4)
        assert (row["split"], row["other_split"], row["text"]) == ("eval", "train", held[i])
    captured = capsys.readouterr()
    assert (
        "eval: 6 of 200 rows (3.0%) nearly have the text of a row of train" in captured.out and "will flatter" in captured.err
    )
    none = inspected(
        ["--train-file", tmp_path / "train.csv", "--eval-file", tmp_path / "held.csv", "--near", "0"], tmp_path / "none.csv"
    )
    assert none == [] and "nothing was found" in capsys.readouterr().out


@pytest.mark.parametrize("least", [0.5, 0.8])
def test_near_pairs_are_those_that_comparing_all_finds(least):
    """Texts of every similarity: each pair above the limit is claimed, but where hashing may miss it, and none below is."""
    generator = np.random.default_rng(3)
    some = []
    for text in texts(30, 4):
        words = text.split()
        for changed in (0, 1, 2, 4, 8):
            copy = list(words)
            for k in generator.choice(40, changed, replace=False):
                copy[k] = f"x{generator.integers(1e6)}"
            some.append(" ".join(copy))
    sets = [shingles(text) for text in some]
    best = {}
    for i, a in enumerate(sets):
        similar = [(len(a & b) / len(a | b), -j) for j, b in enumerate(sets[:i]) if normal(some[i]) != normal(some[j])]
        if similar and max(similar)[0] >= least:
            best[i] = max(similar)[0]
    found = {pair.row: pair.similarity for pair in near(some, ["all"] * len(some), least)}
    assert found.keys() <= best.keys() and len(found) >= 0.95 * len(best) > 20
    assert sum(found[i] != pytest.approx(best[i]) for i in found) <= 2, "of which hashing missed the nearest"


def test_empty_repeated_and_disagreeing_rows(tmp_path, capsys):
    train = [
        ("good film", "p"),
        ("bad film", "n"),
        ("Good  film", "n"),
        (" ", "p"),
        ("", "n"),
        ("bad film", "n"),
        ("long one", "p"),
    ]
    held = [("BAD FILM", "p"), ("new", "n"), ("new", "n")]
    knowing.write(tmp_path / "t.csv", train)
    knowing.write(tmp_path / "h.csv", held)
    found = inspected(["--train-file", tmp_path / "t.csv", "--eval-file", f"dev={tmp_path / 'h.csv'}"], tmp_path / "found.csv")
    number = lambda row, key="row": int(row[key].rpartition(" ")[2] or 0)  # noqa: E731
    assert [number(row) for row in of(found, "empty")] == [4, 5]
    repeats = {(row["split"], number(row), row["other_split"], number(row, "other_row")) for row in of(found, "repeated")}
    assert repeats == {("train", 3, "train", 1), ("train", 6, "train", 2), ("dev", 1, "train", 2), ("dev", 3, "dev", 2)}
    assert {(row["split"], number(row), row["label"], row["other_label"]) for row in of(found, "disagreeing")} == {
        ("train", 3, "n", "p"),
        ("dev", 1, "p", "n"),
    }
    assert len(found) == 2 + 4 + 2
    out = capsys.readouterr().out
    assert "train: 7 rows, 0 to 2 words (median 2, 95% have at most 2)" in out and "train: labels n 57.1%, p 42.9%" in out
    assert (
        "train: 2 of 7 rows (28.6%) have no text" in out and "dev: 1 of 3 rows (33.3%) have the text of a row of train" in out
    )
    assert "labels: 2 of 10 rows (20.0%) have another label than an earlier row with their text" in out


@pytest.mark.parametrize("problem", ["multi_label", "regression"])
def test_other_labels(problem, tmp_path, capsys):
    rows = [(f"w{i}", ["", "a", "a|b"][i % 3] if problem == "multi_label" else i / 2) for i in range(9)] + [
        ("w1", "b" if problem == "multi_label" else 9)
    ]
    knowing.write(tmp_path / "t.csv", rows)
    found = inspected(["--train-file", tmp_path / "t.csv", "--problem", problem], tmp_path / "found.csv")
    [row] = of(found, "disagreeing")
    assert (row["label"], row["other_label"]) == (("b", "a") if problem == "multi_label" else ("9", "0.5"))
    assert (
        "labels a 60.0%, b 40.0%" if problem == "multi_label" else "values from 0 to 9, mean 2.7"
    ) in capsys.readouterr().out


@pytest.fixture(scope="module")
def flipped(tmp_path_factory):
    """A model that knows its task, and held-out rows of which 5 in 100 have another label: folder, run, rows, which are flipped."""
    folder = tmp_path_factory.mktemp("flipped")
    generator = np.random.default_rng(0)
    rows = tiny.texts(600, 11)
    wrong = {int(i) for i in generator.choice(600, 30, replace=False)}
    rows = [
        (text, "abc"[("abc".index(label) + 1 + int(generator.integers(2))) % 3] if i in wrong else label)
        for i, (text, label) in enumerate(rows)
    ]
    directory = knowing.save_run(folder, knowing.model(12.0, noise=0.6), rows)
    return folder, directory, rows, wrong


def test_wrong_labels_are_those_that_cleanlab_finds(flipped, tmp_path, capsys):
    """The same precision and recall on the planted ones, since the same rows are found, in the same order."""
    folder, directory, rows, wrong = flipped
    found = inspected(
        ["--model", directory, "--train-file", folder / "train.csv", "--eval-file", folder / "held.csv", "--near", "0"],
        tmp_path / "f.csv",
    )
    task, model, layout = open_model(str(directory), tasks.find, device="cpu")
    p = np.array([[*each["probabilities"].values()] for each in task.predict(model, [text for text, _ in rows], layout)])
    labels = np.array(["abc".index(label) for _, label in rows])
    direct = find_label_issues(labels, p, return_indices_ranked_by="self_confidence", n_jobs=1).tolist()
    ours = [int(row["row"].rpartition(" ")[2]) - 1 for row in of(found, "suspected")]
    assert ours == direct
    precision, recall = len(wrong & {*ours}) / len(ours), len(wrong & {*ours}) / len(wrong)
    assert precision > 0.3 and recall > 0.7, "beyond chance, which is 0.05"
    for row, i in zip(of(found, "suspected"), ours, strict=True):
        assert (row["split"], row["label"], row["other_label"]) == ("eval", rows[i][1], "abc"[p[i].argmax()])
        assert float(row["score"]) == pytest.approx(p[i, labels[i]], abs=1e-4)
    captured = capsys.readouterr()
    assert f"eval: {len(ours)} of 600 rows" in captured.out and "the training rows' labels are not looked at" in captured.err


def test_wrong_labels_among_several(flipped, tmp_path):
    """Of several labels at once, too: here each row has one, of which some are flipped."""
    _, _, rows, wrong = flipped
    directory = knowing.save_run(
        tmp_path, knowing.model(12.0, noise=0.3), rows, "--problem", "multi_label", "--label-names", "a,b,c"
    )
    found = inspected(
        ["--model", directory, "--train-file", tmp_path / "train.csv", "--eval-file", tmp_path / "held.csv", "--near", "0"],
        tmp_path / "f.csv",
    )
    ours = {int(row["row"].rpartition(" ")[2]) - 1 for row in of(found, "suspected")}
    assert len(ours & wrong) > 0.7 * len(wrong)


@pytest.mark.parametrize(
    ("package", "more"), [("datasketch", []), ("cleanlab", ["--near", "0", "--model"])], ids=["datasketch", "cleanlab"]
)
def test_a_missing_package_is_one_line(package, more, flipped, monkeypatch, capsys):
    folder, directory, _, _ = flipped
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    arguments = ["inspect", "--train-file", str(folder / "train.csv"), "--eval-file", str(folder / "held.csv"), *more]
    code, line = fails([*arguments, str(directory)] if more else arguments, capsys)
    assert code == 2 and package in line and "pip install -c constraints.txt '.[inspect]'" in line


def test_what_inspect_refuses(flipped, tmp_path, capsys):
    folder, directory, _, _ = flipped
    data = ["inspect", "--train-file", str(folder / "train.csv")]
    for more, code, words in (
        (["--near", "0.1"], 2, "--near must lie between 0.3 and 1, or be 0, found 0.1"),
        (["--tokenizer", "x"], 2, "--tokenizer has no effect on inspect"),
        (["--task", "qa"], 2, "inspect looks at texts with labels"),
        (["--model", str(directory)], 2, "rows that it has not been trained on: name them with --eval-file"),
        (["--text-column", "body"], 3, "has no column 'body'"),
        (["--output", str(folder / "train.csv")], 2, "is the input"),
        (["--output", str(tmp_path / "x.json")], 2, "must end in .csv"),
        (["a text"], 2, "inspect takes no texts"),
        (["--eval-file", "nowhere.csv"], 3, "nowhere.csv"),
    ):
        found, line = fails([*data, *more], capsys)
        assert found == code and words in line, (more, line)
    code, line = fails(["inspect"], capsys)
    assert code == 2 and "give --train-file" in line


@pytest.mark.slow
@pytest.mark.slow
def test_the_shipped_reviews_can_be_inspected(capsys):
    """The task's own data: those of yelp, embedded."""
    assert (
        run.main(["inspect", "--task", "yelp", "--data", "sample", "--max-train-examples", "200", "--max-eval-examples", "50"])
        == 0
    )
    assert "train: 200 rows" in capsys.readouterr().out

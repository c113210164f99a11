"""Paired tests against SciPy, who is best, and which rows are in which part."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from scipy import stats

from bench.toys import tiny
from engine.data.held_out import part_of, parts
from engine.data.sources import Source, SourceConfig
from engine.errors import DataError, UsageError
from engine.findings import paired as tests_of
from engine.findings import rows as row_files
from engine.findings.rows import RowFigures
from engine.sweep.choice import Candidate, Figure, Ran, best_of, compared, drop_losers, ordered, paired, reported
from engine.sweep.plan import Repeat, Setting
from tasks.classification.task import Classification
from tasks.options import ClassificationOptions

ACCURACY, LOSS = Figure("accuracy", "eval", False), Figure("loss", "eval", True)


def candidate(name: str, values: list[float], right: np.ndarray | None = None, data: str = "d", folds: int = 0) -> Candidate:
    found = Candidate(Setting({"learning_rate": name}))
    for i, value in enumerate(values):
        rows = None if right is None else RowFigures(data, right.shape[1], right[i] * 1.0, right[i])
        found.runs[Repeat(42 + (i // folds if folds else i), 1 + i % folds if folds else None)] = Ran(value, 1.0, rows)
    return found


def drawn(seed: int, runs: int, rows: int = 60, share: float = 0.7) -> np.ndarray:
    return np.random.default_rng(seed).random((runs, rows)) < share


def test_one_run_each_is_mcnemars_exact_test():
    one, other = drawn(1, 1), drawn(2, 1, share=0.9)
    found = paired(candidate("a", [one.mean()], one), candidate("b", [other.mean()], other), "accuracy")
    only = (one & ~other).sum(), (other & ~one).sum()
    assert found.test == tests_of.MCNEMAR and found.p == pytest.approx(stats.binomtest(int(only[0]), int(sum(only))).pvalue)
    assert found.difference == pytest.approx(one.mean() - other.mean())
    assert paired(candidate("a", [1.0], one), candidate("b", [1.0], one), "accuracy").p == 1.0


def test_folds_are_laid_end_to_end_and_seeds_are_averaged():
    one, other = drawn(1, 4), drawn(2, 4, share=0.8)
    found = paired(candidate("a", [0.0] * 4, one, folds=2), candidate("b", [0.0] * 4, other, folds=2), "accuracy")
    a, b = (np.concatenate([(each[0] * 1.0 + each[2]) / 2, (each[1] * 1.0 + each[3]) / 2]) for each in (one, other))
    assert found.number == 120 and found.p == pytest.approx(stats.ttest_rel(a, b).pvalue)


@pytest.mark.parametrize("how", ["no rows", "other rows", "another number"])
def test_without_the_same_rows_runs_are_paired_by_seed(how):
    right, values, others = drawn(1, 3), [0.5, 0.6, 0.65], [0.7, 0.72, 0.8]
    two = {"no rows": (None, "d"), "other rows": (right, "e"), "another number": (right[:, :50], "d")}[how]
    found = paired(candidate("a", values, right), candidate("b", others, *two), "accuracy")
    assert found.test == tests_of.T_SEEDS and found.number == 3
    assert found.p == pytest.approx(stats.ttest_rel(values, others).pvalue)


def test_equal_differences_are_no_certainty():
    """Two seeds, each worse by one row in 50: the standard error is 0, and p is not."""
    found = paired(candidate("a", [0.5, 0.6]), candidate("b", [0.52, 0.62]), "accuracy")
    assert found.p is None and found.difference == pytest.approx(-0.02)
    assert paired(candidate("a", [0.5, 0.6]), candidate("b", [0.5, 0.6]), "accuracy").p == 1.0
    assert paired(candidate("a", [0.5]), candidate("b", [0.6]), "accuracy").p is None


def test_the_direction_is_the_figures():
    low, high, out = candidate("low", [0.1, 0.2]), candidate("high", [0.8, 0.9]), candidate("out", [0.99, 0.99])
    out.dropped = "failed"
    none = Candidate(Setting({"learning_rate": "none"}), dropped="failed")
    assert best_of([low, high, out, none], ACCURACY) is high and best_of([low, high, out], LOSS) is low
    assert ordered([none, low, out, high], ACCURACY) == [high, low, out, none] and best_of([none], LOSS) is None
    assert ordered([none, out, high, low], LOSS) == [low, high, out, none]
    assert compared([low, high, none], high, ACCURACY).keys() == {0}


@pytest.mark.parametrize("figure", [ACCURACY, LOSS])
def test_losers_are_worse_by_more_than_the_limit(figure):
    sign = -1 if figure.lower_is_better else 1
    best, near, far = ([0.9 * sign, 0.8 * sign], [0.85 * sign, 0.82 * sign], [0.5 * sign, 0.41 * sign])
    made = [candidate(name, values) for name, values in (("best", best), ("near", near), ("far", far))]
    assert [each.setting.values["learning_rate"] for each in drop_losers(made, figure, 2.0, 5)] == ["far"]
    assert made[2].dropped == "stopped after 2 of 5 runs" and best_of(made, figure) is made[0]
    assert drop_losers([candidate("best", best[:1]), candidate("far", far[:1])], figure, 2.0, 5) == [], (
        "of one run nothing is known"
    )


def test_the_reports_error_over_rows_needs_the_figure_to_be_their_mean():
    right = drawn(1, 3)
    rows = [RowFigures("d", 60, each * 1.0, each) for each in right]
    values = [float(each.mean()) for each in right]
    found = reported(values, rows, ACCURACY)
    assert found.over_rows == pytest.approx(stats.sem(right.mean(0))) and found.over_runs == pytest.approx(stats.sem(values))
    assert found.number == 60 and reported(values, rows, Figure("f1", "eval", False)).over_rows is None


# ------------------------------------------------------------------------------------------------------------------ parts


def table(rows: int) -> Dataset:
    return Dataset.from_dict({"text": [f"t{i}" for i in range(rows)], "who": [f"p{i % 7}" for i in range(rows)]})


@pytest.mark.parametrize("number", [2, 5])
def test_parts_are_disjoint_of_one_size_and_of_each_stratum(number):
    strata = ["a"] * 40 + ["b"] * 23
    found = parts(table(63), number, np.random.default_rng(1), strata, None)
    assert sorted(np.bincount(found))[-1] - min(np.bincount(found)) <= 1
    for rows in (range(40), range(40, 63)):
        counts = Counter(found[list(rows)])
        assert len(counts) == number and max(counts.values()) - min(counts.values()) <= 1
    assert (found != parts(table(63), number, np.random.default_rng(2), strata, None)).any(), "drawn"


def test_parts_of_groups_part_none():
    found = parts(table(63), 3, np.random.default_rng(1), None, "who")
    assert all(len(set(found[i::7])) == 1 for i in range(7)) and set(found) == {0, 1, 2}
    with pytest.raises(DataError, match="63 rows, in groups of 'who', do not fill 8 parts"):
        parts(table(63), 8, np.random.default_rng(1), None, "who")


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/1", "1/101", "a/b", "1/2/3", "-1/2"])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="--fold names one of 2 to 100 parts"):
        part_of(text, "--fold")


@pytest.fixture
def folder(tmp_path):
    tiny.save_model(tmp_path / "model")
    tiny.save_texts(tmp_path, train=60, eval=30)
    return tmp_path


def texts_of(folder, **settings) -> dict[str, list[str]]:
    source = Source(SourceConfig(model=str(folder / "model"), train_file=str(folder / "train.csv"), **settings))
    return {split: list(part["text"]) for split, part in Classification(ClassificationOptions(), source).splits().items()}


def test_folds_and_parts_of_a_task(folder):
    whole = texts_of(folder, eval_file=str(folder / "eval.csv"))
    folds = [texts_of(folder, eval_file=str(folder / "eval.csv"), fold=f"{k}/4") for k in range(1, 5)]
    assert sorted(text for fold in folds for text in fold["eval"]) == sorted(whole["train"])
    assert all(sorted([*fold["train"], *fold["eval"]]) == sorted(whole["train"]) for fold in folds)
    halves = [texts_of(folder, eval_file=str(folder / "eval.csv"), eval_part=f"{k}/2") for k in (1, 2)]
    assert sorted([*halves[0]["eval"], *halves[1]["eval"]]) == sorted(whole["eval"]) and halves[0]["train"] == whole["train"]
    held = [texts_of(folder, eval_fraction=0.5, eval_part=f"{k}/2") for k in (1, 2)]
    assert held[0]["train"] == held[1]["train"] and not {*held[0]["eval"]} & {*held[1]["eval"]}
    assert abs(len(held[0]["eval"]) - len(held[1]["eval"])) <= 1
    with pytest.raises(UsageError, match="--eval-part 1/2: there are no evaluation data"):
        texts_of(folder, eval_part="1/2")
    with pytest.raises(UsageError, match="give one of them"):
        texts_of(folder, eval_part="1/2", fold="1/2")


# ------------------------------------------------------------------------------------------------------------------- rows


def test_rows_are_read_as_they_were_written(tmp_path):
    sets = {"eval": RowFigures("d", 3, np.array([0.5, np.nan, 2.0]), np.array([True, False, True])), "dev": RowFigures("e", 2)}
    (tmp_path / "run.json").write_text("{}")
    row_files.write(tmp_path / "rows.json", sets)
    found = row_files.read(tmp_path)
    assert found["eval"].right.tolist() == [True, False, True] and np.allclose(
        found["eval"].loss, sets["eval"].loss, equal_nan=True
    )
    assert found["dev"].loss is None and found["dev"].number == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"number": 4},
        {"number": -1},
        {"data": 3},
        {"loss": ["x", 1, 2]},
        {"loss": [True, 1, 2]},
        {"right": [1, 0]},
        {"right": {}},
    ],
)
def test_rows_that_are_none_are_refused(tmp_path, damage):
    (tmp_path / "run.json").write_text("{}")
    figures = {"data": "d", "number": 3, "loss": [1, 2, 3], "right": [1, 0, 1]} | damage
    (tmp_path / "rows.json").write_text(json.dumps({"sets": {"eval": figures}}))
    with pytest.raises(DataError, match=r"rows\.json is not what evaluate --rows writes"):
        row_files.read(tmp_path)


def test_the_hash_is_of_the_rows_not_of_their_tokens():
    short, long = tiny.token_rows(4, seed=1), tiny.token_rows(4, seed=2)
    rows = table(4)
    assert (
        row_files.hash_of(short, rows)
        == row_files.hash_of(long, rows)
        != row_files.hash_of(long, table(5).select([0, 1, 2, 4]))
    )
    assert row_files.hash_of(short, None) != row_files.hash_of(long, None)
    assert row_files.hash_of(short, table(5)) != row_files.hash_of(long, table(5)), "an example is no row of the table"

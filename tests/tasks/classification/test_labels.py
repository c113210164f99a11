"""From labels in the data to numbers: right ones get their ids, wrong ones are refused with split and row.

Rows of BAD_INPUTS: 46-56 and 65. Balanced weights are scikit-learn's.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from sklearn.utils.class_weight import compute_class_weight

from bench.toys import tiny
from engine.data.sources import Source, SourceConfig
from engine.errors import DataError, UsageError
from tasks.classification.column import Rule
from tasks.classification.labels import Labels, read_labels
from tasks.classification.task import Classification, ClassificationOptions

NAN = float("nan")


def read(train, evaluation=None, *, problem="single_label", given=None, separator="|", features=None, values="auto"):
    """``(names, counts, ids of train, ids of eval)``; the ids as lists."""
    cells = {"train": train} | ({} if evaluation is None else {"eval": evaluation})
    tables = {split: Dataset.from_dict({"label": values}, features=features) for split, values in cells.items()}
    labels, arrays = read_labels(tables, Rule(("label",), problem, separator, values, given))
    ids = {split: array.tolist() for split, array in arrays.items()}
    return labels.names, np.asarray(labels.counts).tolist(), ids["train"], ids.get("eval")


def refusal(*arguments, **options) -> str:
    with pytest.raises(DataError) as caught:
        read(*arguments, **options)
    assert caught.value.exit_code == 3
    return str(caught.value)


# --------------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("kind", [str, int])
def test_whole_numbers_are_ordered_as_numbers(kind):
    """As text, 10 comes before 9."""
    names, counts, ids, _ = read([kind(n) for n in (10, 9, 2, 9)])
    assert (names, counts, ids) == (("2", "9", "10"), [1, 2, 1], [2, 1, 0, 1])


def test_names_are_ordered_as_text():
    names, counts, ids, held = read(["neutral", "bad", "good", "bad"], ["good", "bad"])
    assert (names, counts) == (("bad", "good", "neutral"), [2, 1, 1])
    assert (ids, held) == ([2, 0, 1, 0], [1, 0])


def test_given_names_keep_their_order_and_accept_their_numbers():
    names, counts, ids, held = read(["pos", "neg", "neg", "pos"], [0, 1], given=("pos", "neg", "mixed"))
    assert (names, counts) == (("pos", "neg", "mixed"), [2, 2, 0])
    assert (ids, held) == ([0, 1, 1, 0], [0, 1])
    assert "label '1' is none of" in refusal(["pos", "neg", "1", "pos"], given=("pos", "neg", "mixed")), "one way as a whole"


def test_given_names_that_are_numbers_are_names_first():
    """Stars 1 to 5 have the ids 0 to 4: the label 1 is the name, not the id."""
    assert read([1, 5, 3], given=("1", "2", "3", "4", "5"))[2] == [0, 4, 2]


def test_a_hub_data_sets_own_names_are_taken():
    features = Features({"label": ClassLabel(names=["world", "sports", "tech"])})
    assert read([2, 0, 2], features=features)[:3] == (("world", "sports", "tech"), [1, 0, 2], [2, 0, 2])
    features = Features({"label": Sequence(ClassLabel(names=["joy", "anger"]))})
    names, counts, matrix, _ = read([[1], [], [0, 1]], problem="multi_label", features=features)
    assert (names, counts, matrix) == (("joy", "anger"), [1, 2], [[0, 1], [0, 0], [1, 1]])


def test_booleans_are_two_classes():
    assert read([True, False, True])[:3] == (("False", "True"), [1, 2], [1, 0, 1])


def test_ids_are_what_the_loss_takes():
    tables = {"train": Dataset.from_dict({"label": ["a", "b"]})}
    assert read_labels(tables, Rule(("label",), "single_label"))[1]["train"].dtype == np.int64
    assert read_labels(tables, Rule(("label",), "multi_label"))[1]["train"].dtype == np.float32
    tables = {"train": Dataset.from_dict({"label": [1, 2]})}
    assert read_labels(tables, Rule(("label",), "regression"))[1]["train"].dtype == np.float32


@pytest.mark.parametrize("missing", [None, NAN, "", "  "])
def test_a_missing_label_is_refused_with_its_row(missing):
    """NaN as an integer is -9223372036854775808."""
    good = 1.0 if missing is NAN else "a" if isinstance(missing, str) else 1
    message = refusal([good, missing] if missing is not NAN else [missing, 1.0])
    assert message == f"train data, row {1 if missing is NAN else 2}: the label is missing (column 'label')"
    assert refusal(["a", "b"], ["a", None]) == "eval data, row 2: the label is missing (column 'label')"


def test_a_label_out_of_range_is_refused_with_its_row():
    message = refusal([0, 1, 2], given=("neg", "pos"))
    assert message.startswith("train data, row 3: label 2 is none of the 2 labels (neg, pos)")


@pytest.mark.parametrize("labels", [[0, 1, -1], ["0", "1", "-1"], [0, 1, -100]])
@pytest.mark.parametrize("given", [None, ("neg", "pos")])
def test_a_negative_label_is_refused_with_its_row(labels, given):
    """-1 marks the rows without a label in many Hub data sets; -100 would be left out of the loss in silence."""
    assert refusal(labels, given=given).startswith(f"train data, row 3: label {labels[2]!r} is negative")


def test_numbers_and_names_do_not_mix():
    assert refusal(["1", "2", "good"]).startswith("column 'label' mixes numbers and names ('1', 'good')")


@pytest.mark.parametrize("labels", [[0.5, 1.5], [0.25, 1.0]])
def test_decimal_numbers_are_no_classes(labels):
    assert f"label {labels[0]} is not a class" in refusal(labels)
    assert "--problem regression" in refusal(labels)


@pytest.mark.parametrize("labels", [[1.0, 0.0, 3.0], ["1.0", "0.0", "3.0"], [Decimal("1.0"), Decimal("0.0"), Decimal("3.0")]])
def test_whole_numbers_may_be_written_with_a_point(labels):
    """As pandas writes them where a cell of the column was once empty."""
    assert read(labels, [3, 0])[:1] == (("0", "1", "3"),)
    assert read(labels, ["3", "1.0"])[2:] == ([1, 0, 2], [2, 1])


def test_decimal_numbers_in_a_csv_file_are_no_classes_either():
    """Ratings without --problem regression would become one class for each value."""
    assert "--problem regression" in refusal(["0.5", "1.5", "4.0"])


def test_decimal_numbers_may_be_names_when_they_are_given():
    assert read(["3.11", "3.9"], given=("3.9", "3.11"))[2] == [1, 0]


@pytest.mark.parametrize("labels", [["a", "a"], [1, 1], ["7"]])
def test_one_class_only_is_refused(labels):
    assert refusal(labels) == f"all training labels are '{labels[0]}': at least two classes are needed"


@pytest.mark.parametrize(("labels", "given"), [(["pos", "pos"], ("neg", "pos")), (["a", "a"], ("a",))])
def test_one_class_only_is_refused_with_given_names_too(labels, given):
    """Yelp and IMDb give names: a file sorted by label, cut off, holds one class."""
    assert "at least two classes are needed" in refusal(labels, given=given)


def test_a_name_given_twice_is_refused_for_that():
    with pytest.raises((DataError, UsageError), match="twice"):
        read(["a", "b"], given=("a", "b", "a"))


def test_an_evaluation_label_unseen_in_training_is_refused():
    message = refusal(["a", "b"], ["a", "b", "c"])
    assert message.startswith("eval data, row 3: label 'c' is none of the 2 labels (a, b) of the training data")
    assert message.endswith("name all: --label-names a,b,c")
    assert read(["a", "b"], ["a", "b", "c"], given=("a", "b", "c"))[3] == [0, 1, 2], "the way in"
    assert refusal([0, 1], [2]).startswith("eval data, row 1: label 2 is none of the 2 labels (0, 1)")


def test_many_names_are_shortened_in_the_message():
    message = refusal([f"n{i:02}" for i in range(30)], ["other"])
    assert "none of the 30 labels (n00, n01, n02, n03, n04, n05, n06, n07, n08, n09 ...)" in message


def test_a_list_is_no_class():
    assert "a list of labels needs --problem multi_label" in refusal([["a"], ["b"]])


# -------------------------------------------------------------------------------------------------- several labels


@pytest.mark.parametrize(
    "cells",
    [[["toxic", "threat"], [], ["insult"]], ["toxic|threat", "", " insult "], ["threat | toxic|", "|", "insult"]],
    ids=["lists", "cells", "cells with blanks"],
)
def test_lists_and_cells_of_names_are_the_same(cells):
    names, counts, matrix, held = read(cells, cells[::-1], problem="multi_label")
    assert (names, counts) == (("insult", "threat", "toxic"), [1, 1, 1])
    assert matrix == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert held == matrix[::-1]


def test_another_separator_may_be_given():
    assert read(["a;b|c", "a"], problem="multi_label", separator=";")[0] == ("a", "b|c")


def test_a_list_of_zeros_and_ones_is_a_value_for_every_label():
    names, counts, matrix, _ = read([[1, 0, 1], [0, 0, 0]], problem="multi_label")
    assert (names, counts, matrix) == (("label_0", "label_1", "label_2"), [1, 0, 1], [[1, 0, 1], [0, 0, 0]])
    assert read([[1, 0], [0, 1]], problem="multi_label", given=("x", "y"))[0] == ("x", "y")
    assert read([[1.0, 0.0], [0.0, 1.0]], problem="multi_label")[2] == [[1, 0], [0, 1]]


def test_lists_of_ids_count_from_nought():
    """[0, 2] and [1] are ids, not values: their lengths differ and 2 is no value."""
    assert read([[0, 2], [1], []], problem="multi_label")[2] == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert read([[0, 2], [1]], problem="multi_label", given=("x", "y", "z"))[2] == [[1, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize("cells", [[[2], [10, 3]], ["2", "10|3"]])
def test_ids_of_several_labels_are_ordered_as_numbers(cells):
    names, _, matrix, _ = read(cells, problem="multi_label")
    assert names == ("2", "3", "10")
    assert matrix == [[1, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize(("train", "held", "where"), [
    ([[0, 1, 0], [1, 0]], None, "train data, row 2"),
    ([[0, 1, 0], [1, 0, 0]], [[0, 1, 0, 1]], "eval data, row 1"),
    ([[0, 1, 0], [1, 0, 0]], [[0, 1, 0], [0, 1, 2]], "eval data, row 2"),
])  # fmt: skip
def test_the_wrong_number_of_values_is_refused_with_its_row(train, held, where):
    assert refusal(train, held, problem="multi_label").startswith(f"{where}: 3 values of 0 or 1 are needed, found [")


def test_values_that_do_not_fit_the_given_names_are_refused():
    assert "row 1: 3 values of 0 or 1 are needed" in refusal([[0, 1], [1, 0]], problem="multi_label", given=("x", "y", "z"))


def test_a_value_that_is_neither_0_nor_1_is_refused_in_training_too():
    message = refusal([[0, 1, 0], [0, 0, 0], [0, 2, 0], [1, 1, 1]], problem="multi_label")
    assert message.startswith("train data, row 3: 3 values of 0 or 1 are needed")


def test_an_unknown_label_of_several_is_refused_with_its_row():
    assert refusal([["a"], ["b"]], [["a", "c"]], problem="multi_label").startswith("eval data, row 1: label 'c' is none of")
    assert refusal([["a"], ["c"]], problem="multi_label", given=("a", "b")).startswith("train data, row 2: label 'c'")


def test_missing_lists_and_single_values_are_refused():
    assert refusal([["a"], None], problem="multi_label").startswith("train data, row 2: the labels are missing")
    assert refusal([1, 2], problem="multi_label").startswith("train data, row 1: a list of labels is needed, found 1")
    assert "no training row has a label" in refusal([[], []], problem="multi_label")


@pytest.mark.parametrize("cells", [[["a", None], ["b"]], [[0], [-1], [1, 0]]])
def test_a_missing_or_negative_label_inside_a_list_is_refused(cells):
    refusal(cells, problem="multi_label")


# ------------------------------------------------------------------------------------------------------ regression


def test_numbers_are_read_from_numbers_and_text():
    assert read([1, 2.5], [-3.0], problem="regression") == (("value",), [2], [1.0, 2.5], [-3.0])
    assert read(["1", " 2.5 ", "-3e-1"], problem="regression")[2] == pytest.approx([1.0, 2.5, -0.3])


@pytest.mark.parametrize("cell", ["good", "", "1,5"])
def test_text_for_regression_is_refused_with_its_row(cell):
    assert refusal(["1", cell], problem="regression") == f"train data, row 2: {cell!r} (column 'label') is not a number"


@pytest.mark.parametrize("cell", ["nan", "inf", "-inf"])
def test_values_that_are_not_finite_are_refused(cell):
    assert refusal(["1", "2"], [cell], problem="regression").endswith("(column 'label') is not a finite number")
    assert refusal(["1", "2"], [cell], problem="regression").startswith("eval data, row 1: ")


def test_values_missing_or_too_large_are_refused():
    assert "row 2: None (column 'label') is not a number" in refusal([1.0, None], problem="regression")
    with pytest.warns(RuntimeWarning, match="overflow"):
        assert "is not a finite number" in refusal([1.0, 1e39], problem="regression")


# --------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("seed", range(5))
def test_balanced_weights_are_those_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    y = np.concatenate([np.arange(4), generator.choice(4, 50, p=[0.7, 0.2, 0.08, 0.02])])
    names, counts, ids, _ = read(y.tolist())
    expected = compute_class_weight("balanced", classes=np.arange(4), y=y)
    weights = Labels(names, np.array(counts)).weights("balanced")
    assert weights == expected.tolist()
    assert np.mean([weights[i] for i in ids]) == pytest.approx(1), "so the learning rate keeps its meaning"


def test_balanced_weights_need_every_class():
    with pytest.raises(DataError, match="no training example has the label 'b'"):
        Labels(("a", "b"), np.array([3, 0])).weights("balanced")


def test_balanced_weights_of_several_labels_let_both_sides_weigh_the_same():
    counts = np.array([3.0, 50.0, 90.0])
    weights = np.array(Labels(("a", "b", "c"), counts, 100).weights("balanced"))
    np.testing.assert_allclose(weights * counts, 100 - counts)
    with pytest.raises(DataError, match="every training example has the label 'b'"):
        Labels(("a", "b"), np.array([3.0, 5.0]), 5).weights("balanced")


def test_weights_may_be_given_as_numbers():
    assert Labels(("a", "b"), np.array([1, 1])).weights("1, 2.5") == [1.0, 2.5]


@pytest.mark.parametrize("asked", ["1", "1,2,3", "1,-1", "1,nan", "1,inf", "balance", "1;2", ""])
def test_weights_that_do_not_fit_are_refused(asked):
    with pytest.raises(UsageError, match="--class-weights"):
        Labels(("a", "b"), np.array([1, 1])).weights(asked)


# ----------------------------------------------------------------------------------------------- in the whole task


FEATURES = Features({"text": Value("string"), "label": Value("string")})
FULL, EMPTY = {"text": ["w1", "w2"], "label": ["a", "b"]}, {"text": [], "label": []}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("model"))


def examples(model_folder, splits, **options):
    tables = {split: Dataset.from_dict(columns, features=FEATURES) for split, columns in splits.items()}
    source = Source(SourceConfig(model=str(model_folder)), tables)
    return Classification(ClassificationOptions(**options), source).examples()


def test_the_labels_stand_beside_their_texts(model_folder):
    rows = examples(model_folder, {"train": {"text": ["w1", "w2 w3", "w4"], "label": ["b", "a", "b"]}})["train"]
    assert [int(rows[i]["labels"]) for i in range(3)] == [1, 0, 1]
    assert [rows[i]["input_ids"].tolist() for i in range(3)] == [[2, 6, 3], [2, 7, 8, 3], [2, 9, 3]]


@pytest.mark.parametrize("options", [{}, {"label_names": "a,b"}, {"problem": "regression"}, {"problem": "multi_label"}])
def test_training_data_of_which_nothing_is_left_are_refused(model_folder, options):
    """All rows filtered out: Yelp keeps only those about restaurants."""
    with pytest.raises(DataError):
        examples(model_folder, {"train": EMPTY}, **options)


def test_evaluation_data_of_which_nothing_is_left_are_refused(model_folder):
    with pytest.raises(DataError):
        examples(model_folder, {"train": FULL, "eval": EMPTY})

"""The rule of docs/data.md on drawn names, ids, types, orders and subsets, beside a reading of it that shares no code with ours.

The other reading goes cell by cell over all that a column could mean, and is sure only where one meaning is left.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Json, Sequence, Value
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.errors import DataError
from tasks.classification.column import Rule, pieces_of
from tasks.classification.labels import read_labels

MANY = settings(max_examples=100, deadline=None, derandomize=True)
WORDS = st.sampled_from(["neg", "neu", "pos", "Sports", "a b", "é", "no", "x1", "-", "nan", "None"])
NUMBERS = st.integers(0, 12).map(str)
NAMES = st.one_of(
    st.lists(WORDS, min_size=2, max_size=6, unique=True),
    st.lists(NUMBERS, min_size=2, max_size=6, unique=True),
    st.lists(st.one_of(WORDS, NUMBERS), min_size=2, max_size=6, unique=True),
)
WRITTEN = {
    "text": str, "int": int, "float": float, "decimal": lambda text: Decimal(text) / 1, "with a point": lambda text: f"{text}.0",
}  # fmt: skip


def column(cells, names=None, lists=False):
    feature = ClassLabel(names=names) if names else None
    features = Features({"label": Sequence(feature) if lists else feature}) if names else None
    return Dataset.from_dict({"label": cells}, features=features)


def ids(tables, **rule):
    """Names and ids as lists; None where refused."""
    try:
        labels, arrays = read_labels(tables, Rule(("label",), **rule))
    except DataError:
        return None
    return labels.names, {split: array.tolist() for split, array in arrays.items()}


def is_number(text):
    try:
        return Decimal(text).is_finite()
    except InvalidOperation:
        return False


def is_same(name, cell):
    return name == str(cell) or (is_number(name) and is_number(str(cell)) and Decimal(name) == Decimal(str(cell)))


def meanings(cells, names):
    """All that a column could mean: lists of positions in ``names``."""
    found = []
    by_name = [[i for i, name in enumerate(names) if is_same(name, cell)] for cell in cells]
    if all(by_name):
        return [[hits[0] for hits in by_name]]
    if all(is_number(str(cell)) for cell in cells):
        values = [Decimal(str(cell)) for cell in cells]
        for start in (0, 1):
            places = [int(value) - start for value in values]
            if all(0 <= place < len(names) and place + start == value for place, value in zip(places, values, strict=True)):
                found.append(places)
    return found


@MANY
@given(NAMES, st.data())
def test_a_class_labels_ids_are_ids(names, data):
    """F1: whatever its names are, in training and in evaluation, in one split or in both, in lists, in any subset."""
    cells = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=2, max_size=12))
    held = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=6))
    lists = data.draw(st.lists(st.lists(st.integers(0, len(names) - 1), unique=True, max_size=4), min_size=1, max_size=6))
    found = ids({"train": column(lists, names, True)}, problem="multi_label")
    assert found == (tuple(names), {"train": [[float(i in row) for i in range(len(names))] for row in lists]})
    assume(len(set(cells)) > 1)
    assert ids({"train": column(cells, names), "eval": column(held, names)}) == (tuple(names), {"train": cells, "eval": held})
    order = data.draw(st.permutations(names))
    theirs = [order.index(names[i]) for i in held]  # the same names in another order: the same labels
    assert ids({"train": column(cells, names), "eval": column(theirs, order)}) == (tuple(names), {"train": cells, "eval": held})
    assert ids({"eval": column(theirs, order)}, names=tuple(names)) == (tuple(names), {"eval": held}), (
        "evaluate, further training"
    )


@MANY
@given(NAMES, st.sampled_from(list(WRITTEN)), st.integers(0, 1), st.booleans(), st.data())
def test_a_column_is_names_or_ids_as_a_whole(names, kind, start, as_ids, data):
    """F2: cells are names, ids from 0 or ids from 1, of all classes or of some, written as text, int, float or decimal."""
    chosen = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=10))
    texts = [str(i + start) if as_ids else names[i] for i in chosen]
    assume(kind == "text" or all(is_number(text) for text in texts))
    cells = [WRITTEN[kind](text) for text in texts]
    found = ids({"eval": column(cells)}, names=tuple(names))
    could = meanings(cells, names)
    some_name_is_a_number = any(is_number(name) for name in names)
    has_zero = any(is_number(str(cell)) and Decimal(str(cell)) == 0 for cell in cells)
    if could and all(is_same(names[i], cell) for i, cell in zip(could[0], cells, strict=True)):
        assert found == (tuple(names), {"eval": could[0]})
    elif some_name_is_a_number or not has_zero:
        assert found is None, "two readings, or none"
    else:
        assert found == (tuple(names), {"eval": could[0]})


@MANY
@given(
    st.lists(st.one_of(WORDS, NUMBERS), min_size=2, max_size=10),
    st.sampled_from(["text", "int", "float", "decimal"]),
    st.data(),
)
def test_what_training_says_a_label_is_holds_in_every_other_reading(texts, kind, data):
    """Trained, evaluated with the run, evaluated alone, trained further: a cell gets the id of its name, or nothing is read."""
    numeric = [text for text in texts if text.isdecimal()]
    texts = numeric if kind != "text" or data.draw(st.booleans()) else [text for text in texts if not text.isdecimal()]
    assume(len(set(texts)) > 1)
    names = sorted(set(texts), key=int) if texts is numeric else sorted(set(texts))
    train = column([WRITTEN[kind](text) for text in texts])
    held = data.draw(st.lists(st.sampled_from([*texts, "0", "13", "other"]), min_size=1, max_size=6))
    other = data.draw(st.sampled_from(list(WRITTEN) if all(text.isdecimal() for text in held) else ["text"]))
    cells = column([WRITTEN[other](text) for text in held])
    assert ids({"train": train}) == (tuple(names), {"train": [names.index(text) for text in texts]})
    expected = [names.index(text) for text in held] if set(held) <= set(names) else None
    whole, alone = ids({"train": train, "eval": cells}), ids({"eval": cells}, names=tuple(names))
    further = ids({"train": cells}, names=tuple(names)) if len(set(held)) > 1 else alone
    for found, split in ((whole, "eval"), (alone, "eval"), (further, "eval" if further is alone else "train")):
        if expected is not None:
            assert found is not None and found[1][split] == expected
        elif found is not None:  # ids of names that are no numbers
            assert texts is not numeric and "0" in held and found[1][split] == [int(text) for text in held]


@MANY
@given(
    st.lists(WORDS, min_size=2, max_size=5, unique=True),
    st.sampled_from(["list", "json", "python", "numpy", "cells", "onehot"]),
    st.data(),
)
def test_several_labels_are_the_same_however_they_are_written(names, form, data):
    """F6: lists, lists as text, cells with a separator, one-hot columns."""
    rows = data.draw(st.lists(st.lists(st.sampled_from(names), unique=True), min_size=1, max_size=8))
    used = sorted({name for row in rows for name in row})
    assume(used)
    if form == "onehot":
        one = data.draw(st.sampled_from([str, int, float, bool]))
        table = Dataset.from_dict({name: [one(int(name in row)) for row in rows] for name in names})
        used = names
    else:
        write = {
            "list": list, "json": json.dumps, "python": repr, "cells": "|".join,
            "numpy": lambda row: str(np.array(row)) if row else "[]",
        }[form]  # fmt: skip
        kind = Value("string") if form != "list" else Sequence(Value("string"))
        table = Dataset.from_dict({"label": [write(row) for row in rows]}, features=Features({"label": kind}))
    columns = tuple(names) if form == "onehot" else ("label",)
    labels, arrays = read_labels({"train": table}, Rule(columns, "multi_label"))
    assert labels.names == tuple(used)
    assert arrays["train"].tolist() == [[float(name in row) for name in used] for row in rows]


@pytest.mark.parametrize("form", ["ints", "floats", "bools", "json", "numpy"])
@MANY
@given(data=st.data())
def test_values_of_0_and_1_keep_their_places(form, data):
    width = data.draw(st.integers(2, 5))
    rows = data.draw(st.lists(st.lists(st.integers(0, 1), min_size=width, max_size=width), min_size=1, max_size=8))
    write = {
        "ints": list, "floats": lambda r: [float(v) for v in r], "bools": lambda r: [bool(v) for v in r],
        "json": str, "numpy": lambda r: str(np.array(r)),
    }[form]  # fmt: skip
    table = Dataset.from_dict({"label": [write(row) for row in rows]})
    labels, arrays = read_labels({"train": table}, Rule(("label",), "multi_label"))
    assert labels.names == tuple(f"label_{i}" for i in range(width))
    assert arrays["train"].tolist() == rows


@pytest.mark.parametrize("kind", ["string", "large_string", "int8", "bool", "float64", "json"])
def test_however_a_column_is_kept_its_cells_are_those_that_it_shows(kind):
    """Arrow finds equal cells of some types, Python of the others; the order is that of the first rows, an empty cell is one."""
    cells = {"int8": [3, None, 0, 3], "bool": [True, None, False, True], "float64": [2.0, None, 0.5, 2.0]}
    values = cells.get(kind, ["b", None, "a", "b"]) * 6000
    feature = Json() if kind == "json" else Value(kind)
    table = Dataset.from_dict({"label": values}, features=Features({"label": feature})).select(range(2, 24_000))
    words, which = [], []
    for start, some, rows in pieces_of(table, ["label"]):
        assert start == len(which)
        words += [cell for cell in some if cell not in words]
        which += [words.index(some[row]) for row in rows]
    assert [words[i] for i in which] == values[2:] and words == [values[2], values[3], None]

"""What is planted in real reviews is found (``python -m bench errors``); and what would not be is named."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest

from bench.machine import RESULTS
from bench.quality import errors
from bench.quality.planted import misspelt, not_shown, similarity

KEPT = json.loads((RESULTS / "errors-imdb.json").read_text())["planted"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_planted_fault_is_found(tmp_path):
    """A model trained anew on real reviews: each claim of not_shown() holds."""
    assert errors.measured(tmp_path)["planted"]["not_shown"] == []


def test_what_was_measured_shows_every_claim():
    assert not_shown(KEPT) == KEPT["not_shown"] == []
    assert KEPT["halves"]["halves"] == 100 and KEPT["flipped"]["rows"] == KEPT["near"]["rows"] == 2000


@pytest.mark.parametrize(
    ("path", "value", "claim"),
    [
        ("flipped recall", 0.1, "flipped labels are found as by cleanlab itself"),
        ("flipped same_rows", False, "flipped labels are found as by cleanlab itself"),
        ("near found", 1, "near duplicates are found"),
        ("near others", 7, "near duplicates are found"),
        ("slice worse", [], "the harder source is found, and no other"),
        ("slice worse", ["forum", "app"], "the harder source is found, and no other"),
        ("slice before", ["app"], "the harder source is found, and no other"),
        ("temperature ece", [0.1, 0.2], "a temperature lowers ECE on rows that chose nothing"),
        ("temperature gain", 0.0, "a temperature lowers ECE on rows that chose nothing"),
        ("halves drifts", 2, "halves are called a drift as rarely as stated"),
        ("halves below_alpha", 2, "halves are called a drift as rarely as stated"),
        ("halves below_0.05", 30, "halves are called a drift as rarely as stated"),
        ("drift shorter p tokens", 0.002, "drift of shorter is found"),
        ("drift other words drifts", [], "drift of other words is found"),
        ("drift other labels p label", 0.5, "drift of other labels is found"),
        ("drift as they are drifts", ["label"], "nothing drifts where nothing was planted"),
    ],
)
def test_what_does_not_come_out_is_named(path: str, value: Any, claim: str):
    changed: Any = copy.deepcopy(KEPT)
    inner, rest = changed, path
    while rest not in inner:  # names may hold blanks
        name = next(name for name in inner if rest.startswith(f"{name} "))
        inner, rest = inner[name], rest.removeprefix(f"{name} ")
    inner[rest] = value
    assert not_shown(changed) == [claim]


def test_what_is_planted():
    assert similarity("A b c d e", "a b c d e") == 1 and similarity("a b c d e", "a b c d f") == 2 / 4
    text = "the film was wonderful and everybody in it plays well " * 20
    found = misspelt(text, np.random.default_rng(0))
    words = list(zip(text.split(), found.split(), strict=True))
    assert all(sorted(one) == sorted(other) and one[0] == other[0] and one[-1] == other[-1] for one, other in words)
    assert 0.2 < np.mean([one != other for one, other in words]) < 0.6

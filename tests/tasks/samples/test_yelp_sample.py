"""The synthetic reviews are no toy: lengths like real ones, balanced, and not to be solved by counting words.

How a model trained on them alone does on real reviews is measured by bench/quality/sample.py; figures in bench/results/sample.json.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from bench.quality.sample import bag_of_words
from tasks.samples.yelp import VERSION, generate_reviews

ROOT = Path(__file__).parent.parent.parent.parent


def test_the_same_seed_gives_the_same_reviews_and_others_do_not():
    """A review depends on the seed and its place only, and no global generator is touched."""
    state = random.getstate()
    reviews = generate_reviews(50, seed=3)
    assert reviews == generate_reviews(200, seed=3)[:50] and reviews != generate_reviews(50, seed=4)
    assert random.getstate() == state
    assert len({review.text for review in generate_reviews(2000, seed=5)}) > 1990


def test_lengths_and_balance_are_like_real_ones():
    """data of 2,687 real Yelp reviews: median 88 words, 90% below 237, longest 891."""
    reviews = generate_reviews(4000, seed=1)
    words = np.array([len(review.text.split()) for review in reviews])
    assert 75 <= np.median(words) <= 100 and 200 <= np.percentile(words, 90) <= 270
    assert words.min() >= 3 and 400 <= words.max() <= 1000
    assert np.bincount([review.stars for review in reviews])[1:].min() > 700
    share = np.mean(["restaurant" in review.text.lower() for review in reviews])
    assert 0.4 < share < 0.65


@pytest.mark.slow
def test_counting_words_does_not_solve_it():
    """Logistic regression on a bag of words stays at or below 0.92, and learns something."""
    figures = bag_of_words(num_train=5000, num_test=2000)
    assert all(0.7 < accuracy <= 0.92 for accuracy in figures.values()), figures


def test_the_recorded_figures_are_those_of_this_version():
    """A model trained on the sample alone reaches a balanced accuracy of 0.75 on real reviews."""
    recorded = json.loads((ROOT / "bench/results/sample.json").read_text())
    assert recorded["sample_version"] == VERSION, "measure again: python -m bench sample --model runs/yelp --file ..."
    assert recorded["real_reviews"]["balanced_accuracy"] >= 0.75
    assert max(recorded["bag_of_words_accuracy"].values()) <= 0.92

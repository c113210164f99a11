"""Is the synthetic Yelp sample a toy? How hard it is for counting words, and what a model trained on it knows of real text.

    python -m bench sample                                             bag of words on the sample itself
    python -m bench sample --model runs/yelp --file yelp_reviews.csv   and a model trained on it alone, on real reviews

The file has the columns text and stars; one and two stars are negative, four and five positive. Such files are skewed, so
the figure is the balanced accuracy: the mean of the two classes' recalls.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bench.flags import make_parser
from engine.console import quiet_libraries
from engine.data.files import read_table
from tasks import find
from tasks.samples.yelp import VERSION, Review, generate_reviews


def polarity(reviews: list[Review]) -> tuple[list[str], np.ndarray]:
    """Texts about restaurants, and 1 for four and five stars, 0 for one and two: [N]."""
    kept = [r for r in reviews if r.stars != 3 and "restaurant" in r.text.lower()]
    return [r.text for r in kept], np.array([int(r.stars > 3) for r in kept])


def bag_of_words(num_train: int = 5000, num_test: int = 2000) -> dict[str, float]:
    """Accuracy of logistic regression on word counts and on tf-idf: the best over its regularisation."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts, labels = polarity(generate_reviews(3 * num_train, seed=1))
    test_texts, test_labels = polarity(generate_reviews(3 * num_test, seed=2))
    texts, labels, test_texts, test_labels = (
        texts[:num_train],
        labels[:num_train],
        test_texts[:num_test],
        test_labels[:num_test],
    )
    result = {}
    for name, vectorizer in (("counts", CountVectorizer()), ("tfidf", TfidfVectorizer())):
        features, test_features = vectorizer.fit_transform(texts), vectorizer.transform(test_texts)
        scores = [
            LogisticRegression(C=c, max_iter=2000).fit(features, labels).score(test_features, test_labels)
            for c in (0.1, 0.3, 1.0, 3.0, 10.0)
        ]
        result[name] = float(max(scores))
    return result


def transfer(model: str, file: str) -> dict[str, Any]:
    """Balanced accuracy of a finished polarity model on real reviews."""
    from engine.finished import open_model

    rows = read_table(Path(file), ["text", "stars"])
    stars = np.array([int(cell) for cell in rows["stars"]])
    kept = np.flatnonzero(stars != 3)
    task, module, layout = open_model(model, find)
    predictions = task.predict(module, [rows["text"][i] for i in kept], layout)
    is_positive = np.array([prediction["label"] == "Positive" for prediction in predictions])
    truth = stars[kept] > 3
    recalls = [float((is_positive == truth)[truth == side].mean()) for side in (False, True)]
    return {"balanced_accuracy": float(np.mean(recalls)), "recall_negative": recalls[0], "recall_positive": recalls[1],
            "num_negative": int((~truth).sum()), "num_positive": int(truth.sum())}  # fmt: skip


def main(argv: list[str]) -> int:
    parser = make_parser("sample", __doc__)
    parser.add_argument("--model", help="a finished run of --task yelp --data sample")
    parser.add_argument("--file", help="real reviews: a CSV with the columns text and stars")
    parser.add_argument("--output", help="JSON file for the figures")
    options = parser.parse_args(argv)
    quiet_libraries()
    figures: dict[str, Any] = {"sample_version": VERSION, "bag_of_words_accuracy": bag_of_words()}
    if options.model and options.file:
        figures["real_reviews"] = transfer(options.model, options.file)
    print(json.dumps(figures, indent=2))
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=1) + "\n")
    return 0

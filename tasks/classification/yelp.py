"""Reviews of Yelp: those of restaurants, positive or negative, or (--stars) of all kinds, one to five stars.

    {"text": "Great tacos at this restaurant, slow service.", "label": 1}

As the tutorial of the polarity does it: of fancyzhx/yelp_polarity, rows that contain "restaurant", 5,000 of them from the
training split; evaluated on 1,000 such rows of the test split. As those of the stars do it: of Yelp/yelp_review_full,
rows about anything; ``--contains restaurant`` leaves the others out. Without a Hub: reviews that this project generates
(samples/yelp.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from engine.data.sources import Source
from engine.data.taken import HubData
from tasks.classification.task import Classification
from tasks.options import DEFAULTS, YelpOptions
from tasks.samples import yelp

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE_ROWS = {"train": (12_000, 1), "eval": (4_000, 2)}  # reviews generated, and the seed of each split
POLARITY = ("Negative", "Positive")
STARS = ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")


class Yelp(Classification):
    """Polarity with DistilBERT, stars with BERT."""

    Options = YelpOptions
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS["yelp"]
    best_metric = "accuracy"
    try_it = (
        "The food was delicious and the staff were so friendly. We will definitely be back!",
        "Cold food, rude waiter, and we waited an hour. Never again.",
    )

    def __init__(self, options: YelpOptions, source: Source):
        super().__init__(options, source)
        self.stars = options.stars
        self.hub_data = HubData("Yelp/yelp_review_full" if self.stars else "fancyzhx/yelp_polarity", eval="test")
        self.hub_model = "bert-base-cased" if self.stars else "distilbert-base-uncased"
        self.default_names = STARS if self.stars else POLARITY

    def tables(self) -> dict[str, Dataset]:
        """For the polarity only rows about restaurants; a user's own rows as they are."""
        if self.stars or self.source.is_replaced or self.source.config.train_file:
            return super().tables()
        column = self.options.text_column
        return {
            split: table.filter(lambda rows: ["restaurant" in str(text).lower() for text in rows[column]], batched=True)
            for split, table in super().tables().items()
        }

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Generated reviews; the polarity leaves out three stars, as the real data set does."""
        from datasets import Dataset

        tables = {}
        for split, (number, seed) in SAMPLE_ROWS.items():
            reviews = yelp.generate_reviews(number, seed)
            if self.stars:
                rows = [(review.text, review.stars - 1) for review in reviews]
            else:
                rows = [(review.text, int(review.stars > 3)) for review in reviews if review.stars != 3]
            texts, labels = zip(*rows, strict=True)
            tables[split] = Dataset.from_dict({"text": list(texts), "label": list(labels)})
        return tables, f"embedded sample (synthetic reviews made by this project, version {yelp.VERSION})"

"""Embed texts: vectors whose cosine says how near two texts are in meaning.

    {"anchor": "A man plays a guitar", "positive": "Someone makes music"}                            --loss contrastive
    {"anchor": "...", "positive": "...", "negative": "A man repairs a guitar"}    --negative-column negative
    {"sentence1": "...", "sentence2": "...", "score": 0.72}                       --loss cosine --text-column sentence1 ...

Contrastive: each anchor has to find its positive among all positives (and negatives) of its micro-batch: cross-entropy over
cosines times ``scale`` (InfoNCE, van den Oord et al. 2018; MultipleNegativesRankingLoss of sentence-transformers). Other
micro-batches do not enter, so this loss is not additive: 4 x 16 is another, easier problem than 64. ``--chunk-size`` is the
way to a large batch in little memory: the texts are embedded in chunks that are computed again in the backward pass, and the
gradient is that of the whole (Gao et al. 2021, GradCache, here as one checkpoint for each chunk).
Cosine: the squared error of the cosine against a score from -1 to 1, an ordinary sum over pairs.

Offline the pairs are passages of IMDb reviews: near the beginning, and behind the middle of the same review.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.console import note
from engine.data.batch import Batch
from engine.data.collate import Layout, arrange
from engine.data.sources import Source
from engine.data.tables import RowName, names_of_rows, plain_row
from engine.data.taken import HubData
from engine.data.tokens import TokenDataset
from engine.errors import DataError, UsageError
from engine.task import Examples, Metrics, Row
from tasks.classification.imdb import packaged_imdb
from tasks.embeddings.embedder import Embedder
from tasks.embeddings.retrieval import RetrievalMetrics, ScoreMetrics
from tasks.options import EmbeddingsOptions
from tasks.pairs import Pairs, of_pairs, one_after_the_other
from tasks.text import checked_texts

if TYPE_CHECKING:
    from datasets import Dataset

PASSAGE_WORDS = 64


class Embeddings(Embedder):
    """Pairs of texts; the model is a transformer without a head."""

    Options = EmbeddingsOptions
    hub_model = "sentence-transformers/all-MiniLM-L6-v2"
    one_text = False

    def __init__(self, options: EmbeddingsOptions, source: Source):
        super().__init__(options, source)
        self.is_contrastive = options.loss == "contrastive"
        self.additive = not self.is_contrastive
        self.best_metric = "mrr" if self.is_contrastive else "spearman"
        self.hub_data = HubData("sentence-transformers/all-nli", "pair", eval="dev") if self.is_contrastive else None

    # ---------------------------------------------------------------------------------------------------------- data

    def columns(self) -> list[str]:
        return self.options.columns

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Two passages of each review; the word "positive" in the flags means a text that belongs to another."""
        from datasets import Dataset

        o = self.options
        if o.negative_column:
            raise UsageError("the embedded sample has pairs only: leave out --negative-column, or give --train-file FILE")
        pairs = [pair for text in packaged_imdb() if (pair := passages(text)) is not None]
        table = Dataset.from_dict({name: list(part) for name, part in zip(o.texts, zip(*pairs, strict=True), strict=True)})
        return self.source.hold_out(table, None, 0.5), (
            f"pairs of passages of real IMDb reviews of the offline extra ({len(pairs)}, halved)"
        )

    def examples(self) -> dict[str, Examples]:
        return {split: self.pairs(table, split) for split, table in self.splits().items()}

    def pairs(self, table: Dataset, split: str) -> Pairs:
        """Token ids of each column of texts. Raises DataError."""
        o = self.options
        row = names_of_rows(table)
        texts = {name: checked_texts(table[name][:], f"{split} data, column {name!r}", row) for name in o.texts}
        scores = np.zeros(len(table), np.float32)
        if not self.is_contrastive:
            scores = read_scores(table[o.label_column][:], f"{split} data, column {o.label_column!r}", row)
        elif repeated := len(table) - len(set(texts[o.text_pair_column])):
            note(f"{split} data: {repeated} of {len(table)} texts in column {o.text_pair_column!r} repeat another: "
                 "where both meet, each counts as wrong for the other's row")  # fmt: skip
        return Pairs(
            [
                TokenDataset(self.tokenize(self.pooling.prepared(part), None, f"{split} data, {name}", row), {})
                for name, part in texts.items()
            ],
            {"score": scores},
            row,
        )

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        """All first texts, then all second, then all third: n B rows."""
        number = len(rows[0]["texts"])
        inputs, counts = arrange(one_after_the_other(rows), layout, self.tokenizer)
        scores = torch.tensor(np.stack([row["score"] for row in rows]))
        return of_pairs(Batch(inputs=inputs, targets={"scores": scores}, num_items=len(rows), **counts), number)

    # --------------------------------------------------------------------------------------------------------- model

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        number = len(batch.targets["scores"])  # a rank's filler has rows, too
        anchors, positives, *_ = outputs.split(number)  # [B, H] each
        if not self.is_contrastive:
            return F.mse_loss((anchors * positives).sum(-1), batch.targets["scores"], reduction="sum")
        with torch.autocast(outputs.device.type, enabled=False):  # half precision would blur near cosines
            scores = self.options.scale * anchors @ outputs[number:].T  # [B, B], or [B, 2 B] with negatives
        return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device), reduction="sum")

    def metrics(self, split: str) -> Metrics:
        return RetrievalMetrics() if self.is_contrastive else ScoreMetrics()


def read_scores(values: Sequence[Any], where: str, row_name: RowName = plain_row) -> np.ndarray:
    """[N] float32 from -1 to 1, or DataError with the row."""
    scores = np.zeros(len(values), np.float32)
    for row, value in enumerate(values):
        try:
            scores[row] = float(value)
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}, {row_name(row)}: a number is needed, found {value!r}") from error
        if not -1 <= scores[row] <= 1:
            raise DataError(
                f"{where}, {row_name(row)}: {value!r} does not lie between -1 and 1, as a cosine does: rescale the column"
            )
    return scores


def passages(review: str, words: int = PASSAGE_WORDS) -> tuple[str, str] | None:
    """The first words of each half; None for a review that is too short to have two."""
    found = review.replace("<br />", " ").split()
    half = len(found) // 2
    return (" ".join(found[: min(words, half)]), " ".join(found[half : half + words])) if half >= words // 4 else None

"""Rank passages by how well they answer a query: a cross-encoder, which reads both together.

    {"query": "how tall is K2", "passage": "K2 rises to 8,611 metres.", "label": 1}             or a "score" from 0 to 1
    {"query": "...", "positive": "...", "negatives": ["...", "..."]}    --text-pair-column positive --negatives-column negatives

The loss is the binary cross-entropy of the model's one output, a sum over pairs (BinaryCrossEntropyLoss of
sentence-transformers). The saved directory is a CrossEncoder of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout
from engine.data.form import Columns
from engine.data.sources import Source
from engine.data.taken import HubData
from engine.data.tokens import TokenDataset, tokenize_now
from engine.errors import UsageError
from engine.task import Examples, Row
from tasks.inputs import pairs_in
from tasks.options import RerankerOptions
from tasks.reranker.metrics import RankingMetrics
from tasks.reranker.mistakes import RankingMistakes
from tasks.reranker.predicted import activation, asked, cells, described, in_order, take_activation, typed
from tasks.reranker.rows import OWN, Form, Pairs, form_of, known_names, pairs_of, refuse_parted
from tasks.samples import candidates
from tasks.scoring import Scorer
from tasks.text import names_of_pieces

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE = {"train": (2000, 0, 1), "eval": (300, 1, 3)}  # questions, seed, and wrong sentences of each of three sorts
HELD_OUT = 0.002  # share of the Hub's rows, of which it has but one split: a thousand queries


class Reranker(Scorer[RerankerOptions]):
    """A small cross-encoder on queries and passages."""

    Options = RerankerOptions
    hub_data = HubData("sentence-transformers/msmarco-bm25", "triplet")
    hub_model = "cross-encoder/ms-marco-MiniLM-L6-v2"
    predicts_apart = False  # the rank is among the passages of a query
    best_metric = "ndcg@10"
    pipeline_tag = "text-ranking"
    library = "sentence-transformers"
    loading = "from sentence_transformers import CrossEncoder", "CrossEncoder(name)"

    def __init__(self, options: RerankerOptions, source: Source):
        super().__init__(options, source)
        self._held_out: dict[str, tuple[Dataset, Pairs]] = {}

    @property
    def form(self) -> Form:
        """The columns: those asked for, or of the task's own data its own."""
        return form_of(self.options, self.source)

    def columns(self) -> list[str]:
        return self.form.columns

    def way_in(self, found: Sequence[str]) -> str:
        return known_names(found)

    def tables(self) -> dict[str, Dataset]:
        tables = super().tables()
        if self.form is OWN and "eval" not in tables:  # the Hub's
            return self.source.hold_out(tables["train"], None, HELD_OUT)
        return tables

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Questions made by this project, and sentences to rank for each."""
        from datasets import Dataset

        tables = {split: Dataset.from_list(candidates.questions(*each)) for split, each in SAMPLE.items()}
        return tables, "embedded sample (synthetic questions, each with sentences to rank, made by this project, version 1)"

    def examples(self) -> dict[str, Examples]:
        found = {split: self.pairs(table, split) for split, table in self.splits_to_make().items()}
        if self._held_out and "ndcg@10" not in self.metrics(next(iter(self._held_out))).names:
            self.best_metric = "average_precision"
        return found

    def pairs(self, table: Dataset, split: str) -> Examples:
        """Token ids of each pair, and its label. Raises DataError, and UsageError where a query's passages were parted."""
        pairs = pairs_of(table, self.form, f"{split} data")
        name = names_of_pieces(table, pairs.rows)
        if split != "train":
            self._held_out[split] = table, pairs
            if not self.form.negatives:
                refuse_parted(self.source, self.unlimited[split], len(table), self.form.query)
        tokens = self.tokenize(pairs.queries, pairs.passages, f"{split} data", name)
        return TokenDataset(tokens, {"labels": np.array(pairs.labels, np.float32)}, row_name=name)

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        labels = torch.tensor([float(row["labels"]) for row in rows])
        return self.arranged(rows, layout, {"labels": labels}, len(rows))

    def fitted(self, model: Any, path: str) -> nn.Module:
        return super().fitted(take_activation(model, self.source, path), path)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        logits = outputs.logits.float().squeeze(-1)  # [B]
        return F.binary_cross_entropy_with_logits(logits, batch.targets["labels"], reduction="sum")

    def metrics(self, split: str) -> RankingMetrics:
        _, pairs = self._held_out[split]
        return RankingMetrics(*pairs.numbers(), np.array(pairs.labels))

    def review(self, split: str) -> RankingMistakes:
        if "map" not in self.metrics(split).names:
            raise UsageError("--errors: no query of these data has passages of both kinds, so none comes first by mistake")
        return RankingMistakes(*self._held_out[split])

    predict_rows = None  # a passage's rank is among all of its query's

    def inputs_of(self, rows: Columns) -> list[Any]:
        return pairs_in(rows, (self.form.query, self.form.passage), "--text-column, --text-pair-column")

    def inputs_typed(self, texts: Sequence[str]) -> list[Any]:
        return typed(texts)

    def served(self) -> list[dict[str, Any]]:
        query, passages = "how tall is K2", ["K2 rises to 8,611 metres.", "K2 is a mountain bike."]
        return [{self.form.query: query, self.form.passage: each} for each in (passages, passages[0])]

    def predict(self, model: nn.Module, inputs: Iterable[Any], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        """For each pair ``{"score", "rank"}``, 1 for the best of its query's; for a query with a list of passages
        ``{"passages"}``: ``{"passage", "score", "index"}`` each, the best first."""
        if not (items := list(inputs)):
            return
        found = [asked(item, number) for number, item in enumerate(items, start=1)]
        rows = [(query, each, number) for number, (query, passages) in enumerate(found) for each in passages]
        queries, given, of = zip(*rows, strict=True)
        tokens = tokenize_now(queries, given, self.tokenizer, self.max_length, "the input")
        yield from in_order(items, found, activation(model.config)(self.numbers(model, tokens, layout, of)))

    def describe(self, prediction: Mapping[str, Any]) -> str:
        return described(prediction)

    def columns_of(self, prediction: Mapping[str, Any], flat: bool) -> dict[str, Any]:
        return cells(prediction, flat)

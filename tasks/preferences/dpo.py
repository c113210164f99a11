"""Answer as people prefer: direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290).

    {"prompt": "What is the opposite of hot?", "chosen": "cold", "rejected": "old"}         texts, or lists of messages

The loss is -log sigmoid(beta * d), a sum over pairs; d is by how much more the model prefers the better answer than the
reference does: (log p(chosen) - log p(rejected)) - (log q(chosen) - log q(rejected)). The reference q is the model that
training starts from (reference.py). ``python run.py generate`` uses the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer

from engine.data.batch import Batch
from engine.data.collate import Layout
from engine.errors import ModelError, UsageError
from engine.settings.fields import user_path
from engine.task import Examples, Row
from tasks.language.decoder import Decoder
from tasks.language.generate import chat_prompt
from tasks.options import DEFAULTS, DPOOptions
from tasks.pairs import of_pairs, one_after_the_other
from tasks.preferences.metrics import PreferenceMetrics
from tasks.preferences.reference import Referenced, of_labels, refer
from tasks.preferences.task import OnPreferences

BETA = 0.1


class DPO(OnPreferences[DPOOptions], Decoder[DPOOptions]):
    """A causal language model that learns to tell better answers from worse ones."""

    Options = DPOOptions
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS["dpo"]

    def __init__(self, options: DPOOptions, source: Any):
        super().__init__(options, source)
        self.reference_name = options.reference_model
        self._examples: dict[str, Any] = {}

    def examples(self) -> dict[str, Examples]:
        self._examples = dict(super().examples())
        for pairs in self._examples.values():
            pairs.parts = [Referenced(part.tokens, token_columns=part.token_columns) for part in pairs.parts]
        if self.is_finished and self._examples:
            self.refer_to(self.reference(self.reference_name))
        return self._examples

    def reference(self, name: str | None) -> nn.Module:
        """The model of that name. Raises UsageError, ModelError."""
        if name is None:
            raise UsageError("the model does not say which it was to stay near: --reference-model FOLDER")
        model: Any = self.with_room_for_the_tokens(self.from_pretrained(name)[0], name)
        vocabulary = self.tokenizer.get_vocab()
        its = self.source.load(AutoTokenizer.from_pretrained, name).get_vocab()
        if any(vocabulary.get(token) != number for token, number in its.items()):
            raise ModelError(f"--reference-model {name}: its tokenizer has another vocabulary than the model's")
        positions = getattr(model.config, "max_position_embeddings", None) or self.max_length
        if positions < self.max_length:
            raise ModelError(f"--reference-model {name} takes {positions} tokens: --max-length {positions}")
        return model  # type: ignore[no-any-return]

    def refer_to(self, model: nn.Module) -> None:
        """All rows learn what this model thinks of them."""
        for split, pairs in self._examples.items():
            for part in pairs.parts:
                refer(part, model, super().collate, f"{split} data")

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        """``targets``, of each of N target tokens: "labels", "reference", and "text", which of the 2 B texts it belongs to;
        "pair": the numbers of the B pairs."""
        texts = one_after_the_other(rows)
        if "reference" not in texts[0]:
            raise UsageError("a model given in Python has no reference yet: call task.refer_to(model) behind task.examples()")
        batch = super().collate(texts, layout)
        real = [text["labels"] != -100 for text in texts]
        of = torch.from_numpy(np.repeat(np.arange(len(texts)), [int(each.sum()) for each in real]))
        known = torch.from_numpy(np.concatenate([text["reference"][each] for text, each in zip(texts, real, strict=True)]))
        tail = (0, len(batch.targets["labels"]) - len(of))
        more = {"text": F.pad(of, tail), "reference": F.pad(known, tail), "pair": torch.arange(len(rows))}
        return dataclasses.replace(of_pairs(batch), num_items=len(rows), targets=batch.targets | more)

    def build_model(self) -> nn.Module:
        model: Any = super().build_model()
        name = self.options.reference_model or self.path
        self.refer_to(model if self.options.reference_model is None else self.reference(name))
        model.config.reference_model = None if Path(name).is_dir() else name  # saved with the model: no folder of this machine
        return model  # type: ignore[no-any-return]

    def adopt(self, model: nn.Module) -> None:
        super().adopt(model)
        name = getattr(model.config, "reference_model", None)
        if not isinstance(name, str | None):
            raise ModelError(f"config.json of the model: reference_model must be a name, found {name!r:.60}")
        self.reference_name = self.options.reference_model or name or self.started_from()

    def started_from(self) -> str | None:
        """The folder that the finished run started from, if it is still there. A pushed run.json has its last name alone."""
        name = self.source.started_from
        return name if isinstance(name, str) and user_path(name).is_dir() else None

    def ratios(self, outputs: Any, batch: Batch) -> Tensor:
        """[N]: how much more probable each target token is than for the reference, as a logarithm."""
        return of_labels(outputs.logits.squeeze(0), batch.targets["labels"]) - batch.targets["reference"]

    def margins(self, outputs: Any, batch: Batch) -> Tensor:
        sums = torch.zeros(2 * len(batch.targets["pair"]), device=outputs.logits.device)
        chosen, rejected = sums.index_add(0, batch.targets["text"], self.ratios(outputs, batch)).chunk(2)
        return (BETA if self.options.beta is None else self.options.beta) * (chosen - rejected)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        margins, wrong = self.margins(outputs, batch), self.options.label_smoothing or 0.0
        losses = -(1 - wrong) * F.logsigmoid(margins) + wrong * F.logsigmoid(-margins)
        return losses.sum() / (1 - 2 * wrong)

    def metrics(self, split: str) -> PreferenceMetrics:  # type: ignore[override]
        return PreferenceMetrics(self.margins, kl=self.divergence)

    def divergence(self, outputs: Any, batch: Batch) -> Tensor:
        """Of each answer token half the square of its log-ratio. For tokens drawn from the model their mean estimates the KL
        divergence from the reference (Schulman's k2, 2020); these are the data's, so it says how far it has moved on them."""
        return self.ratios(outputs, batch)[batch.targets["labels"] != -100] ** 2 / 2

    def prompt(self, text: str) -> list[int]:
        return chat_prompt(self, text) if self.tokenizer.chat_template else super().prompt(text)

"""Score answers: a reward model, learned from pairs of a better and a worse answer.

    {"prompt": "What is the opposite of hot?", "chosen": "cold", "rejected": "old"}         texts, or lists of messages
    {"chosen": [{"role": "user", ...}, {"role": "assistant", ...}], "rejected": [...]}      --prompt-column none

The loss is -log sigmoid(r(chosen) - r(rejected)) (Bradley and Terry 1952; RewardTrainer of TRL), a sum over pairs. Both answers
of a pair lie in one batch, all better ones before all worse ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout
from engine.data.form import Columns
from engine.task import Row
from tasks.inputs import text_column
from tasks.options import DEFAULTS, RewardOptions
from tasks.pairs import of_pairs, one_after_the_other
from tasks.preferences.encoded import scored_tokens
from tasks.preferences.task import OnPreferences
from tasks.scoring import Scorer


class Reward(OnPreferences[RewardOptions], Scorer[RewardOptions]):
    """A decoder, or an encoder, whose head gives one number."""

    Options = RewardOptions
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS["reward"]

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        return of_pairs(self.arranged(one_after_the_other(rows), layout, {}, len(rows)))

    def margins(self, outputs: Any, batch: Batch) -> Tensor:
        chosen, rejected = outputs.logits.float().squeeze(-1).chunk(2)  # [B] each
        return chosen - rejected  # type: ignore[no-any-return]

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return -F.logsigmoid(self.margins(outputs, batch)).sum()

    def inputs_of(self, rows: Columns) -> list[Any]:
        return list(rows[text_column(rows, self.options.text_column, "the input")])

    def served(self) -> list[dict[str, Any]]:
        name, asked, answer = self.options.text_column or "text", "What is the opposite of hot?", "cold"
        chat = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return [{name: f"{asked} {answer}"}, *([{name: chat}] if self.tokenizer.chat_template else [])]

    def predict(self, model: nn.Module, inputs: Iterable[Any], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        """For each text, or list of messages, ``{"score"}``; a meaning has the difference of two answers to a prompt."""
        items = list(inputs)
        if items:
            for score in self.numbers(model, scored_tokens(items, self.tokenizer, self.max_length), layout):
                yield {"score": float(score)}

    def describe(self, prediction: Mapping[str, Any]) -> str:
        return f"{prediction['score']:.4f}"

"""Find the answer to a question in a text: extractive question answering.

    {"question": "Who flew?", "context": "Ada flew to Lima.", "answers": {"text": ["Ada"], "answer_start": [0]}}

The loss is half the cross-entropy of the answer's first token and half that of its last, each over the tokens of one window,
summed over windows: what lies beside a window in its batch, padding included, has no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from engine.console import note
from engine.data.batch import Batch
from engine.data.tables import names_of_rows
from engine.data.taken import HubData
from engine.data.tokens import TokenDataset
from engine.task import Examples
from tasks.options import DEFAULTS, QAOptions
from tasks.qa.answerer import Answerer
from tasks.qa.metrics import AnswerMetrics
from tasks.qa.mistakes import AnswerMistakes
from tasks.qa.rows import Question, questions_of
from tasks.qa.spans import of_windows
from tasks.qa.windows import Windows, encode
from tasks.samples import passages
from tasks.text import names_of_pieces

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN, EVAL = 2000, 500  # questions of the sample


class QuestionAnswering(Answerer):
    """Questions, each with a text and the places of its answers."""

    Options = QAOptions
    hub_data = HubData("rajpurkar/squad")
    hub_model = "distilbert/distilbert-base-uncased"
    best_metric = "f1"
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS["qa"]

    def __init__(self, options: QAOptions, source: Any):
        super().__init__(options, source)
        self._held_out: dict[str, tuple[Dataset, list[Question], Windows]] = {}

    # ---------------------------------------------------------------------------------------------------------- data

    def columns(self) -> list[str]:
        return [*self.options.texts, self.options.answers_column]

    @property
    def text_column(self) -> str:
        return self.options.texts[1]

    def sample(self) -> tuple[dict[str, Dataset], str]:
        """Passages and questions made by this project."""
        from datasets import Dataset

        tables = {
            split: Dataset.from_list(passages.questions(n, seed)) for split, n, seed in (("train", TRAIN, 0), ("eval", EVAL, 1))
        }
        return tables, "embedded sample (synthetic passages with questions, made by this project, version 1)"

    def examples(self) -> dict[str, Examples]:
        tables = self.splits_to_make()
        questions = {split: questions_of(table, self.options, f"{split} data") for split, table in tables.items()}
        if self.may_be_none is None:
            first = next(iter(questions.values()))
            trained = bool(getattr(self.config, "no_answer", False))  # the model that is trained on
            self.may_be_none = self.told(trained or any(not question.answers for question in first))
        for split, some in questions.items():
            self.say_what_there_is(some, split)
        return {split: self.on_tokens(some, tables[split], split) for split, some in questions.items()}

    def say_what_there_is(self, questions: Sequence[Question], split: str) -> None:
        """How many have no answer, and what that means."""
        if without := sum(not question.answers for question in questions):
            means = "" if self.may_be_none else ": counted as wrong, as this model always gives one (--no-answer yes)"
            note(f"{split} data: {without} of {len(questions)} questions have no answer{means}")

    def on_tokens(self, questions: Sequence[Question], table: Dataset, split: str) -> Examples:
        """Windows, with the first and the last token of the answer in each."""
        name, where = names_of_rows(table), f"{split} data"
        windows = encode(questions, self.tokenizer, self.max_length, self.stride, where, name)
        if (number := len(windows.ids)) > len(questions):
            note(f"{where}: {len(questions)} questions in {number} windows of at most {self.max_length} tokens")
        spans = windows.spans(questions, where)
        if split != "train":
            self._held_out[split] = table, list(questions), windows
        columns = {"first": spans[:, 0].astype(np.int64), "last": spans[:, 1].astype(np.int64)}
        return TokenDataset(windows.tokens(), columns, row_name=names_of_pieces(table, windows.question))

    # --------------------------------------------------------------------------------------------------------- model

    def build_model(self) -> nn.Module:
        model = self.with_new_head(num_labels=2)
        model.config.no_answer = self.known(self.may_be_none)  # and so it is saved
        return self.with_room_for_the_tokens(model, self.path)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        both = (outputs.start_logits, "first"), (outputs.end_logits, "last")
        losses = [F.cross_entropy(of_windows(logits, batch), batch.targets[at], reduction="sum") for logits, at in both]
        return (losses[0] + losses[1]) / 2

    def metrics(self, split: str) -> AnswerMetrics:  # type: ignore[override]
        _, questions, windows = self._held_out[split]
        return AnswerMetrics(questions, windows, self.longest, may_be_none=self.known(self.may_be_none))

    def review(self, split: str) -> AnswerMistakes:
        return AnswerMistakes(*self._held_out[split], self.longest, may_be_none=self.known(self.may_be_none))

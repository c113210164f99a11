"""Find the answer to a question in a text: extractive question answering.

    {"question": "Who flew?", "context": "Ada flew to Lima.", "answers": {"text": ["Ada"], "answer_start": [0]}}

The loss is half the cross-entropy of the answer's first token and half that of its last, each over the tokens of one window,
summed over windows: what lies beside a window in its batch, padding included, has no part in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForQuestionAnswering

from engine.console import note, shown
from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout, arrange
from engine.data.form import Columns
from engine.data.tables import names_of_rows, plain_row
from engine.data.taken import HubData
from engine.data.tokens import TokenDataset
from engine.errors import ModelError
from engine.task import Examples, Row
from tasks.language.task import LanguageModel
from tasks.options import DEFAULTS, QAOptions
from tasks.qa.metrics import AnswerMetrics
from tasks.qa.mistakes import AnswerMistakes
from tasks.qa.predicted import ROWS, asked, described, found_in, pairs, typed
from tasks.qa.rows import Question, questions_of
from tasks.qa.spans import MAX_ANSWER_LENGTH, answers, of_windows
from tasks.qa.windows import NOT_AN_ITEM, Windows, encode, places
from tasks.samples import passages
from tasks.text import check_loaded, names_of_pieces

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN, EVAL = 2000, 500  # questions of the sample


class QuestionAnswering(LanguageModel[QAOptions]):
    """An encoder whose head gives two logits for each token: that the answer begins here, and that it ends here."""

    Options = QAOptions
    hub_data = HubData("rajpurkar/squad")
    hub_model = "distilbert/distilbert-base-uncased"
    auto_class = AutoModelForQuestionAnswering
    pipeline_tag = "question-answering"
    loading = "from transformers import AutoModelForQuestionAnswering", "AutoModelForQuestionAnswering.from_pretrained(name)"
    kind = "model that answers questions"
    best_metric = "f1"
    default_length = 384
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS["qa"]
    try_it = (
        ("Where does Maria Dalton work?", "Olga Kelton works in Norbury. Maria Dalton, who was born there, works in Kelsey."),
    )

    def __init__(self, options: QAOptions, source: Any):
        super().__init__(options, source)
        self.may_be_none: bool | None = None  # may the text hold no answer?
        self.is_finished = False
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

    @property
    def stride(self) -> int:
        """Tokens that neighbouring windows share."""
        return self.max_length // 3 if self.options.stride is None else self.options.stride

    def examples(self) -> dict[str, Examples]:
        tables = self.splits()
        if self.is_finished:  # only what is measured is made
            tables.pop("train", None)
        questions = {split: questions_of(table, self.options, f"{split} data") for split, table in tables.items()}
        if self.may_be_none is None:
            first = next(iter(questions.values()))
            trained = bool(getattr(self.config, "no_answer", False))  # the model that is trained on
            self.may_be_none = self.told(trained or any(not question.answers for question in first))
        for split, some in questions.items():
            self.say_what_there_is(some, split)
        return {split: self.on_tokens(some, tables[split], split) for split, some in questions.items()}

    def told(self, otherwise: bool | None) -> bool | None:
        """May there be no answer, by --no-answer, or else as it is?"""
        return otherwise if self.options.no_answer is None else self.options.no_answer == "yes"

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

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        """``targets``: "tokens" [B, T], where in the batch the tokens of each window are, -1 behind its end; and in which of
        these the answer begins and ends, "first" and "last" [B], -100 in a window that is no item."""
        inputs, counts = arrange(rows, layout, self.tokenizer)
        tokens = places([len(row["input_ids"]) for row in rows], inputs["input_ids"].shape[1], layout, self.tokenizer)
        targets = {name: torch.tensor([int(row[name]) for row in rows]) for name in ("first", "last")}
        items = int((targets["first"] != NOT_AN_ITEM).sum())
        return Batch(inputs=inputs, targets=targets | {"tokens": tokens}, num_items=items, **counts)

    # --------------------------------------------------------------------------------------------------------- model

    def build_model(self) -> nn.Module:
        model, report = self.from_pretrained(self.path, num_labels=2, ignore_mismatched_sizes=True)
        check_loaded(model, report, self.path)
        model.config.no_answer = self.known(self.may_be_none)  # and so it is saved
        return self.with_room_for_the_tokens(model, self.path)

    def adopt(self, model: nn.Module) -> None:
        learned = getattr(model.config, "no_answer", None)
        if not isinstance(learned, bool | None):
            raise ModelError(f"config.json of the model: no_answer must be true or false, found {learned!r:.60}")
        self.may_be_none, self.is_finished = self.told(learned), True

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        both = (outputs.start_logits, "first"), (outputs.end_logits, "last")
        losses = [F.cross_entropy(of_windows(logits, batch), batch.targets[at], reduction="sum") for logits, at in both]
        return (losses[0] + losses[1]) / 2

    @property
    def longest(self) -> int:
        """Tokens of an answer, at most."""
        return self.options.max_answer_length or MAX_ANSWER_LENGTH

    def metrics(self, split: str) -> AnswerMetrics:  # type: ignore[override]
        _, questions, windows = self._held_out[split]
        return AnswerMetrics(questions, windows, self.longest, may_be_none=self.known(self.may_be_none))

    def review(self, split: str) -> AnswerMistakes:
        return AnswerMistakes(*self._held_out[split], self.longest, may_be_none=self.known(self.may_be_none))

    # ----------------------------------------------------------------------------------------------------- inference

    def inputs_of(self, rows: Columns) -> list[Any]:
        return pairs(rows, self.options.texts)

    def inputs_typed(self, texts: Sequence[str]) -> list[Any]:
        return typed(texts)

    def served(self) -> list[dict[str, Any]]:
        return [dict(zip(self.options.texts, self.try_it[0], strict=True))]

    def predict(self, model: nn.Module, inputs: Iterable[Any], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        """For each question and its text ``{"answer", "start", "end", "score"}``: characters from ``start`` to before ``end``.

        No answer is "". With ``n_best`` "answers", too: a list of such, the best first.
        """
        if not self.is_finished:
            self.adopt(model)
        questions = [asked(item, number) for number, item in enumerate(inputs, start=1)]
        for start in range(0, len(questions), ROWS):
            some = questions[start : start + ROWS]
            names = [plain_row(start + row) for row in range(len(some))]
            windows = encode(some, self.tokenizer, self.max_length, self.stride, "the input", names.__getitem__)
            for found, question in zip(found_in(self, model, windows, len(some), layout), some, strict=True):
                listed = answers(found, question, may_be_none=bool(self.may_be_none))
                yield listed[0] | ({"answers": listed[: self.options.n_best]} if self.options.n_best else {})

    def describe(self, prediction: Mapping[str, Any]) -> str:
        return described(prediction.get("answers", [prediction]), "; ", shown)

    def columns_of(self, prediction: Mapping[str, Any], flat: bool) -> dict[str, Any]:
        """In a CSV file the answers are one cell: ``Lima (0.93)|Norbury (0.04)``."""
        in_one = {"answers": described(prediction["answers"], "|")} if flat and "answers" in prediction else {}
        return dict(prediction) | in_one

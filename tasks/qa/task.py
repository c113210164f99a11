"""Find the answer to a question in a text: extractive question answering.

    {"question": "Who flew?", "context": "Ada flew to Lima.", "answers": {"text": ["Ada"], "answer_start": [0]}}

The loss is half the cross-entropy of the answer's first token and half that of its last, each over the tokens of one window,
summed over windows: what lies beside a window in its batch, padding included, has no part in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
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
from engine.data.plan import eval_batches
from engine.data.tables import plain_row, row_name
from engine.data.taken import HubData
from engine.data.tokens import TokenDataset
from engine.errors import DataError, ModelError, UsageError
from engine.task import Examples, Row
from tasks.language.task import LanguageModel
from tasks.options import DEFAULTS, QAOptions
from tasks.qa.metrics import AnswerMetrics
from tasks.qa.mistakes import AnswerMistakes
from tasks.qa.rows import Question, asked, questions_of
from tasks.qa.spans import MAX_ANSWER_LENGTH, N_BEST, Found, answers, best_spans, of_windows
from tasks.qa.windows import NOT_AN_ITEM, Windows, encode
from tasks.samples import passages
from tasks.text import check_loaded, name_of_piece

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN, EVAL = 2000, 500  # questions of the sample
PREDICT_ROWS = 32


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
        name, where = partial(row_name, table), f"{split} data"
        windows = encode(questions, self.tokenizer, self.max_length, self.stride, where, name)
        if (number := len(windows.ids)) > len(questions):
            note(f"{where}: {len(questions)} questions in {number} windows of at most {self.max_length} tokens")
        spans = windows.spans(questions, where)
        if split != "train":
            self._held_out[split] = table, list(questions), windows
        columns = {"first": spans[:, 0].astype(np.int64), "last": spans[:, 1].astype(np.int64)}
        return TokenDataset(windows.tokens(), columns, row_name=partial(name_of_piece, table, windows.question))

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        """``targets``: "tokens" [B, T], where in the batch the tokens of each window are, -1 behind its end; and in which of
        these the answer begins and ends, "first" and "last" [B], -100 in a window that is no item."""
        inputs, counts = arrange(rows, layout, self.tokenizer)
        lengths = np.array([len(row["input_ids"]) for row in rows])
        width = inputs["input_ids"].shape[1]
        begins = np.cumsum(lengths) - lengths if layout.kind == "packed" else np.arange(len(rows)) * width
        if layout.kind != "packed" and layout.pads_left(self.tokenizer):
            begins += width - lengths
        within = np.arange(layout.max_length or lengths.max())
        tokens = np.where(within < lengths[:, None], begins[:, None] + within, -1)
        targets = {name: torch.tensor([int(row[name]) for row in rows]) for name in ("first", "last")}
        items = int((targets["first"] != NOT_AN_ITEM).sum())
        return Batch(inputs=inputs, targets=targets | {"tokens": torch.from_numpy(tokens)}, num_items=items, **counts)

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
        """Pairs of two columns; or of one, ``text``, lines with a tab between question and text."""
        columns = [rows.get(name) for name in self.options.texts]
        if list(rows) == ["text"]:
            return list(rows["text"])
        if None in columns:
            missing = self.options.texts[columns.index(None)]
            raise DataError(
                f"the input has no column {missing!r} (it has: {', '.join(rows)}): --question-column, --context-column"
            )
        return list(zip(*columns, strict=True))

    def inputs_typed(self, texts: Sequence[str]) -> list[Any]:
        """Questions, and last the text that all of them are asked of; or each with its text behind a tab."""
        if all("\t" in text for text in texts):
            return list(texts)
        if len(texts) < 2:
            raise UsageError(
                'an answer is found in a text: give it behind the question: predict runs/mine "Who flew?" "Ada flew to Lima."'
            )
        return [(question, texts[-1]) for question in texts[:-1]]

    def predict(self, model: nn.Module, inputs: Iterable[Any], layout: Layout = PADDED) -> Iterator[dict[str, Any]]:
        """For each question and its text ``{"answer", "start", "end", "score"}``: characters from ``start`` to before ``end``.

        No answer is "". With ``n_best`` "answers", too: a list of such, the best first.
        """
        if not self.is_finished:
            self.adopt(model)
        questions = [asked(item, number) for number, item in enumerate(inputs, start=1)]
        for start in range(0, len(questions), PREDICT_ROWS):
            some = questions[start : start + PREDICT_ROWS]
            names = [plain_row(start + row) for row in range(len(some))]
            windows = encode(some, self.tokenizer, self.max_length, self.stride, "the input", names.__getitem__)
            for found, question in zip(self.found(model, windows, len(some), layout), some, strict=True):
                listed = answers(found, question, may_be_none=bool(self.may_be_none))
                yield listed[0] | ({"answers": listed[: self.options.n_best]} if self.options.n_best else {})

    def found(self, model: nn.Module, windows: Windows, number: int, layout: Layout) -> list[list[Found]]:
        """The best spans of all windows of each question. Raises ModelError for a model that gives no finite numbers."""
        of_each: list[list[Found]] = [[] for _ in range(number)]
        tokens, device = windows.tokens(), next(model.parameters()).device
        examples = TokenDataset(tokens, dict.fromkeys(("first", "last"), np.zeros(len(windows.ids), np.int64)))
        for keys in eval_batches(tokens.lengths, PREDICT_ROWS, same_length=layout.padding_matters):
            rows = [row for _, row in keys]
            batch = self.collate([examples[row] for row in rows], layout).to(device)
            with torch.inference_mode():
                outputs = self.forward(model, batch)
            if not (outputs.start_logits.isfinite().all() and outputs.end_logits.isfinite().all()):
                raise ModelError("the model gives no finite numbers for these inputs: its weights have diverged")
            for row, its in zip(rows, best_spans(outputs, batch, windows, rows, self.longest, N_BEST), strict=True):
                of_each[windows.question[row]].append(its)
        return of_each

    def describe(self, prediction: Mapping[str, Any]) -> str:
        listed = prediction.get("answers", [prediction])
        return "; ".join(f"{shown(each['answer']) or '(no answer)'} ({each['score']:.2f})" for each in listed)

    def columns_of(self, prediction: Mapping[str, Any], flat: bool) -> dict[str, Any]:
        """In a CSV file the answers are one cell: ``Lima (0.93)|Norbury (0.04)``."""
        cells = dict(prediction)
        if flat and "answers" in cells:
            cells["answers"] = "|".join(f"{each['answer']} ({each['score']:.2f})" for each in cells["answers"])
        return cells

"""A model that answers questions from a text: what it takes, and how it answers. Next: task.py, which trains it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForQuestionAnswering

from engine.console import shown
from engine.data.batch import Batch
from engine.data.collate import PADDED, Layout, arrange
from engine.data.form import Columns
from engine.data.plan import eval_batches
from engine.data.tables import plain_row
from engine.data.tokens import TokenDataset
from engine.errors import ModelError
from engine.task import Row
from tasks.inputs import pairs_in
from tasks.language.task import LanguageModel
from tasks.options import QAOptions
from tasks.qa.predicted import asked, described, typed
from tasks.qa.spans import MAX_ANSWER_LENGTH, N_BEST, Found, answers, best_spans
from tasks.qa.windows import NOT_AN_ITEM, Windows, encode, places

ROWS = 32  # questions, and windows, at a time


class Answerer(LanguageModel[QAOptions]):
    """An encoder whose head gives two logits for each token: that the answer begins here, and that it ends here."""

    auto_class = AutoModelForQuestionAnswering
    pipeline_tag = "question-answering"
    loading = "from transformers import AutoModelForQuestionAnswering", "AutoModelForQuestionAnswering.from_pretrained(name)"
    kind = "model that answers questions"
    default_length = 384
    try_it = (
        ("Where does Maria Dalton work?", "Olga Kelton works in Norbury. Maria Dalton, who was born there, works in Kelsey."),
    )

    def __init__(self, options: QAOptions, source: Any):
        super().__init__(options, source)
        self.may_be_none: bool | None = None  # may the text hold no answer?

    @property
    def stride(self) -> int:
        """Tokens that neighbouring windows share."""
        return self.max_length // 3 if self.options.stride is None else self.options.stride

    @property
    def longest(self) -> int:
        """Tokens of an answer, at most."""
        return self.options.max_answer_length or MAX_ANSWER_LENGTH

    def told(self, otherwise: bool | None) -> bool | None:
        """May there be no answer, by --no-answer, or else as it is?"""
        return otherwise if self.options.no_answer is None else self.options.no_answer == "yes"

    def adopt(self, model: nn.Module) -> None:
        super().adopt(model)
        learned = getattr(model.config, "no_answer", None)
        if not isinstance(learned, bool | None):
            raise ModelError(f"config.json of the model: no_answer must be true or false, found {learned!r:.60}")
        self.may_be_none = self.told(learned)

    def collate(self, rows: Sequence[Row], layout: Layout) -> Batch:
        """``targets``: "tokens" [B, T], where in the batch the tokens of each window are, -1 behind its end; and in which of
        these the answer begins and ends, "first" and "last" [B], -100 in a window that is no item."""
        inputs, counts = arrange(rows, layout, self.tokenizer)
        tokens = places([len(row["input_ids"]) for row in rows], inputs["input_ids"].shape[1], layout, self.tokenizer)
        targets = {name: torch.tensor([int(row[name]) for row in rows]) for name in ("first", "last")}
        items = int((targets["first"] != NOT_AN_ITEM).sum())
        return Batch(inputs=inputs, targets=targets | {"tokens": tokens}, num_items=items, **counts)

    # ----------------------------------------------------------------------------------------------------- inference

    def inputs_of(self, rows: Columns) -> list[Any]:
        return pairs_in(rows, self.options.texts, "--question-column, --context-column")

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
            for found, question in zip(self.found_in(model, windows, len(some), layout), some, strict=True):
                listed = answers(found, question, may_be_none=bool(self.may_be_none))
                yield listed[0] | ({"answers": listed[: self.options.n_best]} if self.options.n_best else {})

    def found_in(self, model: nn.Module, windows: Windows, number: int, layout: Layout) -> list[list[Found]]:
        """The best spans of all windows of each of ``number`` questions. Raises ModelError where its numbers are not finite."""
        of_each: list[list[Found]] = [[] for _ in range(number)]
        tokens, device = windows.tokens(), next(model.parameters()).device
        examples = TokenDataset(tokens, dict.fromkeys(("first", "last"), np.zeros(len(windows.ids), np.int64)))
        for keys in eval_batches(tokens.lengths, ROWS, same_length=layout.padding_matters):
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
        return described(prediction.get("answers", [prediction]), "; ", shown)

    def columns_of(self, prediction: Mapping[str, Any], flat: bool) -> dict[str, Any]:
        """In a CSV file the answers are one cell: ``Lima (0.93)|Norbury (0.04)``."""
        in_one = {"answers": described(prediction["answers"], "|")} if flat and "answers" in prediction else {}
        return dict(prediction) | in_one

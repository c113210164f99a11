"""From what ``predict`` is given to questions, from a model to what their windows hold, and from answers to what is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from engine.data.collate import Layout
from engine.data.form import Columns
from engine.data.plan import eval_batches
from engine.data.tables import plain_row
from engine.data.tokens import TokenDataset
from engine.errors import DataError, ModelError, UsageError
from tasks.qa.rows import Question
from tasks.qa.spans import N_BEST, Found, best_spans
from tasks.qa.windows import Windows
from tasks.text import checked_texts

if TYPE_CHECKING:
    from tasks.qa.task import QuestionAnswering

ROWS = 32  # questions, and windows, at a time


def pairs(rows: Columns, texts: Sequence[str]) -> list[Any]:
    """Of two columns; or of one, ``text``, lines with a tab between question and text. Raises DataError."""
    if list(rows) == ["text"]:
        return list(rows["text"])
    if missing := [name for name in texts if name not in rows]:
        found = ", ".join(rows)
        raise DataError(f"the input has no column {missing[0]!r} (it has: {found}): --question-column, --context-column")
    return list(zip(*(rows[name] for name in texts), strict=True))


def typed(texts: Sequence[str]) -> list[Any]:
    """Questions, and last the text that all of them are asked of; or each with its text behind a tab. Raises UsageError."""
    if all("\t" in text for text in texts):
        return list(texts)
    if len(texts) < 2:
        example = 'predict runs/mine "Who flew?" "Ada flew to Lima."'
        raise UsageError(f"an answer is found in a text: give it behind the question: {example}")
    return [(question, texts[-1]) for question in texts[:-1]]


def asked(item: Any, number: int) -> Question:
    """What ``predict`` is given: question and text as a pair, by name, or in a line with a tab between. Raises DataError."""
    if isinstance(item, Mapping) and {"question", "context"} <= item.keys():
        item = (item["question"], item["context"])
    pair: Sequence[Any] = item.split("\t", 1) if isinstance(item, str) else item
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise DataError(
            f"the input, {plain_row(number - 1)}: a question and, behind a tab, the text it is asked of, found {item!r:.60}"
        )
    question, context = checked_texts(pair, f"the input, {plain_row(number - 1)}", ("question", "context").__getitem__)
    return Question(question, context)


def found_in(task: QuestionAnswering, model: nn.Module, windows: Windows, number: int, layout: Layout) -> list[list[Found]]:
    """The best spans of all windows of each of ``number`` questions. Raises ModelError where its numbers are not finite."""
    of_each: list[list[Found]] = [[] for _ in range(number)]
    tokens, device = windows.tokens(), next(model.parameters()).device
    examples = TokenDataset(tokens, dict.fromkeys(("first", "last"), np.zeros(len(windows.ids), np.int64)))
    for keys in eval_batches(tokens.lengths, ROWS, same_length=layout.padding_matters):
        rows = [row for _, row in keys]
        batch = task.collate([examples[row] for row in rows], layout).to(device)
        with torch.inference_mode():
            outputs = task.forward(model, batch)
        if not (outputs.start_logits.isfinite().all() and outputs.end_logits.isfinite().all()):
            raise ModelError("the model gives no finite numbers for these inputs: its weights have diverged")
        for row, its in zip(rows, best_spans(outputs, batch, windows, rows, task.longest, N_BEST), strict=True):
            of_each[windows.question[row]].append(its)
    return of_each


def described(answers: Sequence[Mapping[str, Any]], separator: str, text: Callable[[str], str] = str) -> str:
    """``Lima (0.93); Norbury (0.04)``; ``text``: of an answer."""
    return separator.join(f"{text(each['answer']) or '(no answer)'} ({each['score']:.2f})" for each in answers)

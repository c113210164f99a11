"""From what ``predict`` is given to questions, and from answers to what is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.data.tables import plain_row
from engine.errors import DataError, UsageError
from tasks.qa.rows import Question
from tasks.text import checked_texts


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


def described(answers: Sequence[Mapping[str, Any]], separator: str, text: Callable[[str], str] = str) -> str:
    """``Lima (0.93); Norbury (0.04)``; ``text``: of an answer."""
    return separator.join(f"{text(each['answer']) or '(no answer)'} ({each['score']:.2f})" for each in answers)

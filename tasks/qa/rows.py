"""From rows of data to questions, each with its text and where in that its answers stand. Next: windows.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.console import shown
from engine.data.tables import names_of_rows
from engine.data.tokens import cells_of
from engine.errors import DataError
from tasks.text import checked_texts

if TYPE_CHECKING:
    from datasets import Dataset

    from tasks.options import QAOptions

FORM = "answers are {text: [...], answer_start: [...]}, where no answer is two empty lists"


class Question(NamedTuple):
    """``answers``: texts, and their first characters in the context; of several the first is learned. (): there is none."""

    question: str
    context: str
    answers: tuple[tuple[str, int], ...] = ()

    @property
    def texts(self) -> list[str]:
        """What is right; no answer is the empty text, as in SQuAD 2.0."""
        return [text for text, _ in self.answers] or [""]


def questions_of(table: Dataset, options: QAOptions, where: str) -> list[Question]:
    """One for each row. Raises DataError with the row and its question."""
    name, found = names_of_rows(table), []
    asked, contexts = (checked_texts(table[column], where, name) for column in options.texts)
    cells = zip(cells_of(asked), cells_of(contexts), cells_of(table[options.answers_column]), strict=True)
    for number, (question, context, answers) in enumerate(cells):
        try:
            found.append(Question(question, context, answers_of(answers, context)))
        except ValueError as error:
            raise DataError(f"{where}, {name(number)} ({shown(question, 60)}): {error}") from error
    return found


def answers_of(cell: Any, context: str) -> tuple[tuple[str, int], ...]:
    """A row's answers, in any of their forms, without blanks around them. Raises ValueError."""
    if isinstance(cell, list | tuple) and all(isinstance(each, Mapping) for each in cell):
        cell = {key: [each.get(key) for each in cell] for key in ("text", "answer_start")}
    if not isinstance(cell, Mapping) or not {"text", "answer_start"} <= cell.keys():
        raise ValueError(f"{FORM}, found {shown(repr(cell), 60)}")
    texts, starts = (each if isinstance(each, list | tuple) else [each] for each in (cell["text"], cell["answer_start"]))
    if len(texts) != len(starts):
        raise ValueError(f"{len(texts)} answers with {len(starts)} places: {FORM}")
    return tuple(placed(text, start, context) for text, start in zip(texts, starts, strict=True))


def placed(text: Any, start: Any, context: str) -> tuple[str, int]:
    """The answer, which stands where it is said to. Raises ValueError."""
    if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
        raise ValueError(f"an answer is a text, and its place a number, found {text!r:.60} and {start!r:.20}")
    if not text.strip():
        raise ValueError(f"an answer is blank: {FORM}")
    if start < 0 or context[start : start + len(text)] != text:
        there = context[max(start, 0) : max(start, 0) + len(text)]
        first = context.find(text)
        hint = f"it stands at {first}" if first >= 0 else "it stands nowhere in it"
        raise ValueError(
            f"the answer {shown(text, 60)!r} is not at {start} of its context, where {shown(there, 60)!r} is: {hint}"
        )
    return text.strip(), start + len(text) - len(text.lstrip())

"""What a model answers wrong: which questions, what it said in place of what, and how sure it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.data.batch import Batch
from engine.data.form import Columns
from engine.data.tables import origin_of, row_name, row_number
from tasks.qa.metrics import score
from tasks.qa.rows import Question
from tasks.qa.spans import N_BEST, Found, answers, best_spans, by_question
from tasks.qa.windows import Windows

if TYPE_CHECKING:
    from datasets import Dataset


class AnswerMistakes:
    """Gathered batch by batch. ``table``: the one that was evaluated, of which ``questions`` are the rows."""

    order = "the surest first"

    def __init__(self, table: Dataset, questions: Sequence[Question], windows: Windows, longest: int, *, may_be_none: bool):
        self.table_, self.questions, self.windows = table, questions, windows
        self.longest, self.may_be_none = longest, may_be_none
        self.found: dict[int, Found] = {}

    def update(self, outputs: Any, batch: Batch) -> None:
        rows = [row for _, row in batch.keys]
        self.found |= zip(rows, best_spans(outputs, batch, self.windows, rows, self.longest, N_BEST), strict=True)

    def columns(self) -> Columns:
        return {"question": [question.question for question in self.questions]}

    def judged(self) -> list[tuple[int, dict[str, Any], float, float]]:
        """Of each question: its number, the answer given, exact match, F1."""
        judged = []
        for number, found in by_question(self.found, self.windows).items():
            [best, *_] = answers(found, self.questions[number], may_be_none=self.may_be_none)
            judged.append((number, best, *score(best["answer"], self.questions[number].texts)))
        return judged

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows, the surest mistake first; ``row`` is that of the file, from 1; between right answers stands |."""
        where = row_name if len(origin_of(self.table_).files) > 1 else row_number
        wrong = sorted(
            ((n, best, f1) for n, best, exact, f1 in self.judged() if not exact), key=lambda w: (-w[1]["score"], w[0])
        )
        found = [[where(self.table_, n), self.questions[n].question, "|".join(dict.fromkeys(self.questions[n].texts)),
                  best["answer"], round(f1, 4), round(best["score"], 4)] for n, best, f1 in wrong]  # fmt: skip
        return ["row", "question", "answers", "prediction", "f1", "confidence"], found

    def table(self) -> str:
        """How many of each kind."""
        kinds = Counter(self.kind(n, best["answer"], exact, f1) for n, best, exact, f1 in self.judged())
        return "\n".join(f"  {kind:<40}{number:>7,}" for kind, number in kinds.most_common())

    def kind(self, number: int, answer: str, exact: float, f1: float) -> str:
        """In words, what an answer is."""
        if exact:
            return "right"
        if not self.questions[number].answers:
            return "an answer where there is none"
        return (
            "no answer where there is one" if not answer else "another place" if not f1 else "too much, too little, or beside"
        )

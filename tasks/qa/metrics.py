"""Exact match and F1 of answers, as the SQuAD script counts them: torchmetrics' ``squad``, question by question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from engine.data.batch import Batch
from engine.distributed.world import World
from tasks.qa.rows import Question
from tasks.qa.spans import Found, answers, best_spans, by_question
from tasks.qa.windows import Windows


def score(answer: str, right: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 of words, from 0 to 1: with that of the right answers which is nearest. "" is no answer."""
    from torchmetrics.functional.text import squad

    figures = squad([{"id": "", "prediction_text": answer}], [{"id": "", "answers": {"text": [*right], "answer_start": []}}])
    return float(figures["exact_match"]) / 100, float(figures["f1"]) / 100


class AnswerMetrics:
    """The best span of each window is kept until all windows of a question have been seen, on all ranks."""

    names = ("f1", "exact_match")
    lower_is_better = ()

    def __init__(self, questions: Sequence[Question], windows: Windows, longest: int, *, may_be_none: bool):
        self.questions, self.windows, self.longest, self.may_be_none = questions, windows, longest, may_be_none
        self.found: dict[int, Found] = {}

    def update(self, model: nn.Module, outputs: Any, batch: Batch) -> None:
        rows = [row for _, row in batch.keys]
        self.found |= zip(rows, best_spans(outputs, batch, self.windows, rows, self.longest, 1), strict=True)

    def sync(self, world: World) -> None:
        """Every rank's windows."""
        for others in world.gather(self.found):
            self.found |= others

    def judged(self) -> list[tuple[int, float, float]]:
        """Of each question: its number, exact match, F1."""
        judged = []
        for number, found in by_question(self.found, self.windows).items():
            question = self.questions[number]
            best = answers(found, question, may_be_none=self.may_be_none, number=1)[0]
            judged.append((number, *score(best["answer"], question.texts)))
        return judged

    def compute(self) -> dict[str, float]:
        """nan where no question was asked."""
        judged = [figures for _, *figures in self.judged()]
        exact, f1 = (sum(each) / len(judged) for each in zip(*judged, strict=True)) if judged else (float("nan"),) * 2
        return {"f1": f1, "exact_match": exact}

    def classes(self) -> dict[str, dict[str, float]]:
        """Of questions that have an answer and of those that have none, where there are both."""
        parts: dict[str, list[tuple[float, float]]] = {"answer": [], "no answer": []}
        for number, exact, f1 in self.judged():
            parts["answer" if self.questions[number].answers else "no answer"].append((exact, f1))
        means = {name: [sum(each) / len(some) for each in zip(*some, strict=True)] for name, some in parts.items() if some}
        figures = {name: {"exact_match": e, "f1": f, "questions": len(parts[name])} for name, (e, f) in means.items()}
        return figures if len(figures) == 2 else {}

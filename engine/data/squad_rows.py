"""Questions in articles, as the files of SQuAD have them: {"data": [{"title", "paragraphs": [{"context", "qas": [...]}]}]}.

Each question becomes a row of its own: id, title, context, question, and answers as {text: [...], answer_start: [...]}, as
the Hub has them. One that is marked as impossible has two empty lists; one without the field "answers", as in a test set,
has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.errors import DataError


def are_articles(rows: Sequence[Any], columns: Sequence[str] | None) -> bool:
    """Do paragraphs with questions make up the rows, and does nobody ask for the paragraphs themselves?"""
    first = rows[0] if rows else None
    paragraphs = first.get("paragraphs") if isinstance(first, dict) else None
    is_nested = isinstance(paragraphs, list) and all(isinstance(each, dict) and "qas" in each for each in paragraphs)
    return is_nested and "paragraphs" not in (columns or ())


def questions_in(path: Path, articles: Sequence[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What errors call a row, and the row. Raises DataError with the article and the question."""
    number = 0
    for at, article in enumerate(articles, start=1):
        where = f"{path} article {at}"
        for paragraph in listed(article, "paragraphs", where):
            for question in listed(paragraph, "qas", where):
                number += 1
                try:
                    yield f"row {number}", row_of(question, paragraph, article)
                except (KeyError, TypeError, AttributeError) as error:
                    reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
                    raise DataError(f"{where}, question {number}, is not as in SQuAD: {reason}") from error
                except ValueError as error:
                    raise DataError(f"{where}, question {number}: {error}") from error


def listed(value: Any, name: str, where: str) -> list[Any]:
    """The list of that name. Raises DataError."""
    if not isinstance(value, dict) or not isinstance(value.get(name), list):
        raise DataError(f"{where}: an object with a list {name!r} is needed, as in SQuAD, found {value!r:.60}")
    return value[name]  # type: ignore[no-any-return]


def row_of(question: Any, paragraph: Any, article: Any) -> dict[str, Any]:
    """Raises ValueError for a question that has answers and is impossible, KeyError for a field that is missing."""
    if not isinstance(question, dict):
        raise TypeError(f"a question is an object, found {question!r:.60}")
    row = {
        "id": question.get("id"),
        "title": article.get("title"),
        "context": paragraph["context"],
        "question": question["question"],
    }
    if "answers" not in question:
        return row
    answers = question["answers"]
    if answers and question.get("is_impossible"):
        raise ValueError("it is marked as impossible, and has answers")
    return row | {"answers": {name: [answer[name] for answer in answers] for name in ("text", "answer_start")}}

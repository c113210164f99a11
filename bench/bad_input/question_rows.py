"""Row 58, and rows F of questions whose answers stand in a text: SQuAD's forms, what is wrong in them, and windows of texts."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

from bench.bad_input.case import Attempts, Place, row
from bench.bad_input.file_rows import NUMBER
from bench.bad_input.forms import each, flags

NONE: dict[str, list[Any]] = {"text": [], "answer_start": []}
GOOD = {"question": "w1?", "context": "w2 w3", "answers": {"text": ["w3"], "answer_start": [3]}}
USE = ("--task", "qa", "--max-length", "16")


def on_rows(at: Place, *rows: dict[str, Any], more: Sequence[str] = ()) -> list[str]:
    """Train on a good question and these, in a file of their own."""
    content = "".join(json.dumps(each) + "\n" for each in (GOOD, *rows))
    return at.on(f"{zlib.crc32(content.encode())}.jsonl", content, *USE, *more)


def refused(number: int | str, what: str, words: str, *rows: dict[str, Any]) -> None:
    """A row of second questions that are refused: ``rows`` are what is other than in a good one."""
    each(number, what, 3, words, lambda at: [on_rows(at, GOOD | other) for other in rows])


def nested(name: str, code: int, words: str, *paragraphs: Any, more: Sequence[str] = ()) -> None:
    """A row of files in SQuAD's own form, each with one article of one paragraph."""
    each(f"F{next(NUMBER)}", name, code, words, lambda at: [
        at.on("q.json", json.dumps({"data": [{"title": "t", "paragraphs": [one]}]}), *USE, *more) for one in paragraphs])  # fmt: skip


refused(58, "QA answer not in the context", "row 2 (w1?): the answer 'w9' is not at 3 of its context, where 'w3' is: it stands ",
        *({"context": context, "answers": {"text": ["w9"], "answer_start": [3]}} for context in ("w2 w3", "w9 w3")))  # fmt: skip
refused(f"F{next(NUMBER)}", "an answer at no place, and one of bytes", "row 2 (w1?): the answer ",
        *({"context": "é w2", "answers": {"text": ["w2"], "answer_start": [start]}} for start in (-1, 3, 10**9)))  # fmt: skip
refused(f"F{next(NUMBER)}", "answers that are none", "row 2 (w1?): ", *({"answers": answers} for answers in (
    None, {"text": ["w3"], "answer_start": []}, {"text": [""], "answer_start": [0]}, {"text": [None], "answer_start": [3]})))  # fmt: skip
refused(f"F{next(NUMBER)}", "a question that fills the window", "row 2: beside its question a window of 16 tokens has room for 0",
        {"question": "w1 " * 30})  # fmt: skip
each(f"F{next(NUMBER)}", "a stride as large as the window", 3, "a smaller --stride", lambda at: [
    on_rows(at, GOOD | {"context": "w2 " * 40, "answers": NONE}, more=("--stride", "15"))])  # fmt: skip
each(f"F{next(NUMBER)}", "an answer longer than any window", 0, "1 of 2 answers are whole in no window, so they are not learned",
     lambda at: [on_rows(at, GOOD | {"context": "w2 " * 40, "answers": {"text": ["w2 " * 30], "answer_start": [0]}})])  # fmt: skip
each(f"F{next(NUMBER)}", "an empty context, and ids that repeat", 0, "saved to", lambda at: [
    on_rows(at, {"id": 1, "question": "w1", "context": "", "answers": NONE}, GOOD | {"id": 1})])  # fmt: skip
QUESTION = {"question": "w1?", "answers": [{"text": "w3", "answer_start": 3}]}
nested("SQuAD's own form", 0, "saved to", {"context": "w2 w3", "qas": [QUESTION, QUESTION]})
nested("SQuAD's form with fields missing", 3, "article 1, question 1, is not as in SQuAD", {"qas": [QUESTION]},
       {"context": "w2", "qas": [{"answers": []}]}, {"context": "w2", "qas": [7]})  # fmt: skip
nested("answers to an impossible question", 3, "question 1: it is marked as impossible, and has answers",
       {"context": "w2 w3", "qas": [QUESTION | {"is_impossible": True}]})  # fmt: skip
nested("SQuAD's form without answers", 3, "has no column 'answers'", {"context": "w2", "qas": [{"question": "w1"}]})


@row(f"F{next(NUMBER)}", "a question to predict without its text", 2, "an answer is found in a text")
def _(at: Place) -> Attempts:
    yield at.predict("w1?", "--task", "qa", model=trained(at))


@row(f"F{next(NUMBER)}", "a line to predict without a tab", 3, "row 2: a question and, behind a tab, the text it is asked of")
def _(at: Place) -> Attempts:
    yield at.predict("--input", at.write("i.txt", "w1?\tw2 w3\nw1?\n"), model=trained(at))


def trained(at: Place) -> Any:
    """A model that answers questions."""
    from bench.bad_input.case import call

    assert call(on_rows(at)).code == 0
    return at.out


flags(f"F{next(NUMBER)}", "windows of long texts that hold nothing new", "has room for 14 of a text, so each would hold nothing new",
      "--max-length 16 --stride 14", "--max-length 16 --stride 99")  # fmt: skip
flags(f"F{next(NUMBER)}", "windows where there are none", "--window-pooling mean is of windows: give --stride",
      "--window-pooling mean")  # fmt: skip

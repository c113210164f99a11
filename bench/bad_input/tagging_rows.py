"""Rows F of words and their tags: tags that make up no names, spans of texts, CoNLL files, and sentences longer than a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bench.bad_input.case import Place
from bench.bad_input.file_rows import NUMBER
from bench.bad_input.forms import each

GOOD = {"tokens": ["w1", "w2", "w3"], "tags": ["B-x", "I-x", "O"]}
TEXT = {"text": "w1 w2", "spans": [{"start": 0, "end": 2, "label": "x"}]}
SPANS = ("--text-column", "text", "--label-column", "spans")


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def on_rows(at: Place, *rows: dict[str, Any], more: Sequence[str] = ()) -> list[str]:
    return at.on("n.jsonl", lines(*rows), "--task", "ner", "--max-length", "16", *more)


def conll(at: Place, content: str) -> list[str]:
    return at.on("n.conll", content, "--task", "ner")


def refused(what: str, words: str, *others: dict[str, Any], good: dict[str, Any] = GOOD, more: Sequence[str] = ()) -> None:
    """A row of second sentences that are refused: ``others`` are what is other than in a good one."""
    each(f"F{next(NUMBER)}", what, 3, words, lambda at: [on_rows(at, good, good | other, more=more) for other in others])


each(f"F{next(NUMBER)}", "a tag that the evaluation data alone have", 3, "row 2: the tag 'B-z' is none of those trained: ",
     lambda at: [at.train("--task", "ner", "--train-file", at.write("t.jsonl", lines(GOOD)), "--eval-file",
                          at.write("e.jsonl", lines(GOOD, GOOD | {"tags": ["O", "O", "B-z"]})))])  # fmt: skip
refused("tags that are no B-, I- and O", "is no part of a name, as ", {"tags": ["x", "O", "O"]}, {"tags": ["B_x", "O", "O"]})
refused("tags that are numbers without names", "row 1: the tag 1 is a number, and nothing names it: --label-names", {},
        good=GOOD | {"tags": [1, 1, 0]})  # fmt: skip
refused("tags that are none", "row 2: a tag is a name", {"tags": ["O", "", "O"]}, {"tags": [None, "O", "O"]})
refused("spans that overlap", "row 2: spans overlap at 1",
        {"spans": [{"start": 0, "end": 2, "label": "x"}, {"start": 1, "end": 5, "label": "y"}]}, good=TEXT, more=SPANS)  # fmt: skip
refused("spans that mark no word", "row 2: there is no word from", *({"spans": [{"start": start, "end": end, "label": "x"}]}
        for start, end in ((2, 3), (3, 3), (0, 9), (-2, 2))), good=TEXT, more=SPANS)  # fmt: skip
each(f"F{next(NUMBER)}", "a line of a CoNLL file without a tag", 3, "line 2: ", lambda at: [
    conll(at, "w1 B-x\nw2\n\nw3 O\n"), conll(at, "w1\tB-x\nw2\t\n")])  # fmt: skip
each(f"F{next(NUMBER)}", "one tag for all words", 3, "one tag only, 'O'", lambda at: [conll(at, "w1 O\nw2 O\n\nw3 O\n")])
each(f"F{next(NUMBER)}", "a sentence longer than a row", 0, "1 of 2 sentences have more than 16 tokens: cut between words",
     lambda at: [on_rows(at, GOOD, {"tokens": ["w1"] * 40, "tags": ["B-x", *["O"] * 39]})])  # fmt: skip
each(f"F{next(NUMBER)}", "names that begin with I-, and change their kind within", 0, "saved to", lambda at: [
    conll(at, "w1 I-x\nw2 I-y\nw3 O\n\nw4 B-x\nw5 I-y\n")])  # fmt: skip

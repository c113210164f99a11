"""Rows F of queries and passages to rank: what is no label, lists that were written as texts, passages of a query that are parted."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

from bench.bad_input.case import Attempts, Place, call, row
from bench.bad_input.file_rows import NUMBER, worked
from bench.bad_input.forms import each

GOOD = {"query": "w1", "passage": "w2 w3", "label": 1}
OTHER = {"query": "w1", "passage": "w4", "label": 0}
LIST = {"query": "w1", "positive": "w2", "negatives": ["w3", "w4"]}
USE = ("--task", "reranker", "--max-length", "16")
LISTS = ("--text-pair-column", "positive", "--negatives-column", "negatives")


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(each) + "\n" for each in rows)


def on_rows(at: Place, *rows: dict[str, Any], more: Sequence[str] = ()) -> list[str]:
    """Train on these pairs, or lists, in a file of their own."""
    content = lines(*rows)
    return at.on(f"{zlib.crc32(content.encode())}.jsonl", content, *USE, *more)


each(f"F{next(NUMBER)}", "labels of passages that are none", 3, "row 2: a label is a number from 0 (no answer) to 1", lambda at: [
    on_rows(at, GOOD, OTHER | {"label": label}) for label in (2, -1, None)])  # fmt: skip
each(f"F{next(NUMBER)}", "passages that are none", 3, "row 2: a text is needed, found ", lambda at: [
    on_rows(at, GOOD, OTHER | {"passage": passage}) for passage in (None,)])  # fmt: skip
each(f"F{next(NUMBER)}", "a list of passages written as a text", 3, "row 2: a list of texts, written as one", lambda at: [
    on_rows(at, LIST | {"negatives": "w5"}, LIST | {"negatives": '["w3", "w4"]'}, more=LISTS)])  # fmt: skip
each(f"F{next(NUMBER)}", "as many labels as passages", 3, "row 1: 2 passages need a list of as many labels", lambda at: [
    on_rows(at, {"query": "w1", "passage": ["w2", "w3"], "label": labels}) for labels in ([1], [1, 0, 0])])  # fmt: skip


@row(f"F{next(NUMBER)}", "lists of negatives without their flag", 3, "--text-pair-column positive --negatives-column negatives")
def _(at: Place) -> Attempts:
    yield on_rows(at, LIST)
    yield from worked(at, "q.jsonl", lines(LIST), *USE, *LISTS)


@row(f"F{next(NUMBER)}", "--eval-fraction that parts a query", 2, "--group-column query holds out whole queries")
def _(at: Place) -> Attempts:
    rows = [each | {"query": f"w{i}"} for i in range(4) for each in (GOOD, OTHER)]
    yield on_rows(at, *rows, more=("--eval-fraction", "0.5"))
    yield from worked(at, "q.jsonl", lines(*rows), *USE, "--eval-fraction", "0.5", "--group-column", "query")


@row(f"F{next(NUMBER)}", "a query to predict without a passage", 2, "a query is given with the passages to rank")
def _(at: Place) -> Attempts:
    yield at.predict("w1", model=trained(at))


@row(f"F{next(NUMBER)}", "a line to rank without a tab", 3, "row 2: a query and, behind a tab, a passage")
def _(at: Place) -> Attempts:
    yield at.predict("--input", at.write("i.txt", "w1\tw2 w3\nw1\n"), model=trained(at))


@row(f"F{next(NUMBER)}", "a classifier that is to rank", 4, "does not give one number for a text: its head has 3 outputs")
def _(at: Place) -> Attempts:
    yield at.predict("w1", "w2", "--task", "reranker", model=at.home / "model")


def trained(at: Place) -> Any:
    """A model that ranks."""
    assert call(on_rows(at, GOOD, OTHER)).code == 0
    return at.out

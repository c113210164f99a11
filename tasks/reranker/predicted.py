"""From what ``predict`` is given to queries with passages, and from the model's numbers to scores and places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import cached_file

from engine.checked import parse_object, read_bytes
from engine.console import shown
from engine.data.sources import Source
from engine.data.tables import plain_row
from engine.errors import DataError, ModelError, UsageError
from tasks.text import checked_texts

SETTINGS = "config_sentence_transformers.json"


def typed(texts: Sequence[str]) -> list[Any]:
    """A query and the passages to rank; or each with its query before a tab. Raises UsageError."""
    if all("\t" in text for text in texts):
        return list(texts)
    if len(texts) < 2:
        example = 'predict runs/reranker "how tall is K2" "K2 rises to 8,611 metres." "K2 is a mountain bike."'
        raise UsageError(f"a query is given with the passages to rank: {example}")
    return [tuple(texts)]


def is_list(item: Any) -> bool:
    """A query with passages to rank: all in a row, or the passages in a list."""
    return isinstance(item, list | tuple) and (len(item) > 2 or isinstance(item[-1], list))


def asked(item: Any, number: int) -> tuple[str, list[str]]:
    """A query and its passages, of which there may be one. Raises DataError."""
    pair: Sequence[Any] = item.split("\t", 1) if isinstance(item, str) else item
    if not isinstance(pair, list | tuple) or len(pair) < 2:
        raise DataError(f"the input, {plain_row(number - 1)}: a query and, behind a tab, a passage, found {item!r:.60}")
    query, *passages = pair
    if isinstance(passages[0], list):
        passages = passages[0]
    if not passages:
        raise DataError(f"the input, {plain_row(number - 1)}: a query without a passage: {query!r:.60}")
    checked_texts([query, *passages], f"the input, {plain_row(number - 1)}", lambda i: f"passage {i}" if i else "the query")
    return query, passages


def in_order(items: Sequence[Any], found: Sequence[tuple[str, list[str]]], scores: np.ndarray) -> list[dict[str, Any]]:
    """What is said of each item. ``scores``: of all passages, one item after the other.

    Of a list the passages, the best first; of a pair its score and its rank among those of the same query.
    """
    said: list[dict[str, Any]] = []
    of_query: dict[str, list[float]] = {}
    starts = np.cumsum([0, *(len(passages) for _, passages in found)])
    for item, (query, passages), start in zip(items, found, starts, strict=False):
        its = [float(score) for score in scores[start : start + len(passages)]]
        if is_list(item):
            order = sorted(range(len(its)), key=lambda i, its=its: -its[i])  # type: ignore[misc]
            said.append({"passages": [{"passage": passages[i], "score": its[i], "index": i} for i in order]})
        else:
            said.append({"score": its[0]})
            of_query.setdefault(query, []).append(its[0])
    for (query, _), each in zip(found, said, strict=True):
        if "score" in each:
            each["rank"] = 1 + sum(other > each["score"] for other in of_query[query])
    return said


def described(prediction: Mapping[str, Any]) -> str:
    """One line for the terminal."""
    if "rank" in prediction:
        return f"{prediction['score']:.4f} (rank {prediction['rank']})"
    return "; ".join(f"{shown(each['passage'])} ({each['score']:.4f})" for each in prediction["passages"])


def cells(prediction: Mapping[str, Any], flat: bool) -> dict[str, Any]:
    """Columns for a file; in a CSV file, ``flat``, a ranking is one cell: ``0.9813 K2 rises ...|0.0124 K2 is ...``."""
    if "rank" in prediction:
        return dict(prediction)
    in_one = "|".join(f"{each['score']:.4f} {each['passage']}" for each in prediction["passages"])
    return {"ranking": in_one if flat else prediction["passages"]}


def activation(config: Any) -> Callable[[np.ndarray], np.ndarray]:
    """What makes a score of the model's number, as CrossEncoder of sentence-transformers reads it. Raises ModelError."""
    told = getattr(config, "sentence_transformers", None) or {}
    name = told.get("activation_fn") or getattr(config, "sbert_ce_default_activation_function", None) or "Sigmoid"
    match str(name).rpartition(".")[2]:
        case "Sigmoid":
            return lambda numbers: 1 / (1 + np.exp(-numbers))
        case "Identity":
            return lambda numbers: numbers
    raise ModelError(f"config.json of the model makes scores with {name!r:.80}, and known are Sigmoid and Identity")


def take_activation(model: Any, source: Source, path: str) -> Any:
    """The model, whose settings hold what CrossEncoder keeps in a file of its own."""
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    file = source.load(cached_file, path, filename=SETTINGS, **quiet)
    told: Mapping[str, Any] = parse_object(read_bytes(Path(file))) if file else {}
    if told.get("activation_fn"):
        model.config.sentence_transformers = {"activation_fn": told["activation_fn"]}
    activation(model.config)  # refused now, if it is not known
    return model

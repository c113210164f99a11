"""What transformers' run_qa and the SQuAD script do, written anew from their descriptions, for tests to compare with."""

from __future__ import annotations

import collections
import math
import re
import string
from typing import Any

import torch


def features(
    tokenizer: Any, rows: list[dict[str, Any]], max_length: int, stride: int, *, pad: bool = False
) -> list[dict[str, Any]]:
    """run_qa's prepare_train_features: windows with labels; "chars" are offsets, None outside the context. The one change: its
    search for the first token runs on behind the context where the answer begins in the last token; here it stops."""
    found = []
    for number, row in enumerate(rows):
        encoded = tokenizer(
            [row["question"]], [row["context"]], truncation="only_second", max_length=max_length, stride=stride,
            return_overflowing_tokens=True, return_offsets_mapping=True, padding="max_length" if pad else False,
        )  # fmt: skip
        for window, ids in enumerate(encoded["input_ids"]):
            offsets, parts = encoded["offset_mapping"][window], encoded.sequence_ids(window)
            cls = ids.index(tokenizer.cls_token_id)
            start = end = cls
            if row["answers"]["text"]:
                begins = row["answers"]["answer_start"][0]
                ends = begins + len(row["answers"]["text"][0])
                low, high = parts.index(1), len(parts) - 1 - parts[::-1].index(1)
                if offsets[low][0] <= begins and offsets[high][1] >= ends:
                    while low <= high and offsets[low][0] <= begins:
                        low += 1
                    while offsets[high][1] >= ends:
                        high -= 1
                    start, end = low - 1, high + 1
            inputs = {
                name: encoded[name][window] for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded
            }
            chars = [offset if part == 1 else None for offset, part in zip(offsets, parts, strict=True)]
            found.append({**inputs, "start_positions": start, "end_positions": end, "row": number, "chars": chars})
    return found


def predictions(some: list[dict[str, Any]], logits: list[tuple[list[float], list[float]]], rows: list[dict[str, Any]], *,
                v2: bool, n_best: int = 20, pool: int = 20, longest: int = 30) -> list[dict[str, Any]]:  # fmt: skip
    """run_qa's postprocess_qa_predictions: for each row its text and that one's probability. ``pool``: how many first and last
    tokens are combined; run_qa has as many as ``n_best``."""
    answered = []
    for number, row in enumerate(rows):
        candidates: list[dict[str, Any]] = []
        null: dict[str, Any] | None = None
        for feature, (starts, ends) in zip(some, logits, strict=True):
            if feature["row"] != number:
                continue
            none = starts[0] + ends[0]
            if null is None or none < null["score"]:
                null = {"score": none, "text": ""}
            order = [sorted(range(len(values)), key=lambda i, v=values: -v[i])[:pool] for values in (starts, ends)]
            for first in order[0]:
                for last in order[1]:
                    inside = first < len(feature["chars"]) and last < len(feature["chars"])
                    if not inside or feature["chars"][first] is None or feature["chars"][last] is None:
                        continue
                    if last < first or last - first + 1 > longest:
                        continue
                    text = row["context"][feature["chars"][first][0] : feature["chars"][last][1]]
                    candidates.append({"score": starts[first] + ends[last], "text": text})
        best = sorted(candidates, key=lambda each: -each["score"])[:n_best]
        if v2:
            best.append(null)
        if not best:
            best = [{"score": 0.0, "text": ""}]
        top = max(each["score"] for each in best)
        total = sum(math.exp(each["score"] - top) for each in best)
        for each in best:
            each["p"] = math.exp(each["score"] - top) / total
        spans = [each for each in best if each["text"]]
        chosen = spans[0] if spans else best[0]
        if v2 and (not spans or null["score"] > spans[0]["score"]):
            chosen = next(each for each in best if not each["text"])
        answered.append(chosen)
    return answered


def logits_of(model: torch.nn.Module, some: list[dict[str, Any]]) -> list[tuple[list[float], list[float]]]:
    """Of each window by itself."""
    found = []
    for feature in some:
        names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in feature]
        with torch.inference_mode():
            outputs = model(**{name: torch.tensor([feature[name]]) for name in names})
        found.append((outputs.start_logits[0].tolist(), outputs.end_logits[0].tolist()))
    return found


def plain(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks."""
    letters = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", letters).split())


def figures(answer: str, right: list[str]) -> tuple[float, float]:
    """Exact match and F1 of words of the evaluation script of SQuAD 2.0, with the nearest of the right answers."""

    def f1(one: str, other: str) -> float:
        a, b = plain(one).split(), plain(other).split()
        if not a or not b:
            return float(a == b)
        same = sum((collections.Counter(a) & collections.Counter(b)).values())
        return 2 * same / (len(a) + len(b)) if same else 0.0

    right = right or [""]
    return max(float(plain(answer) == plain(each)) for each in right), max(f1(answer, each) for each in right)

"""From logits to answers: the best spans of each window, and of all windows of a question.

The rule of transformers' run_qa: a span's score is the logit of its first token plus that of its last; [CLS] twice means that
there is no answer, and counts as in the window where it is least likely; a softmax over the best spans makes a probability.
run_qa looks for spans among the 20 best first and last tokens of a window; here all spans are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.data.batch import Batch
from tasks.qa.rows import Question
from tasks.qa.windows import Windows

N_BEST = 20  # spans that share the probability, as in run_qa
MAX_ANSWER_LENGTH = 30  # tokens


@dataclass(frozen=True)
class Found:
    """Of a window: the best spans as (score, first character, character behind the last), and the score of no answer."""

    spans: list[tuple[float, int, int]]
    none: float


def of_windows(logits: Tensor, batch: Batch) -> Tensor:
    """[B, T] float32 from a logit for each token, however the windows lie in the batch; -inf behind a window's end."""
    index = batch.targets["tokens"]
    picked = logits.float().flatten().index_select(0, index.clamp(min=0).flatten()).view(index.shape)
    return picked.masked_fill(index < 0, -torch.inf)


def best_spans(outputs: Any, batch: Batch, windows: Windows, rows: Sequence[int], longest: int, number: int) -> list[Found]:
    """The ``number`` best spans of the text in each window of a batch, of at most ``longest`` tokens; ``rows``: the windows."""
    starts, ends = (of_windows(logits, batch).cpu() for logits in (outputs.start_logits, outputs.end_logits))
    none = [float(starts[i, at] + ends[i, at]) for i, at in enumerate(windows.first[row] for row in rows)]
    chars = torch.full((*starts.shape, 2), -1)
    for i, row in enumerate(rows):
        chars[i, : len(windows.chars[row])] = torch.from_numpy(windows.chars[row])
    outside = chars[..., 1] <= chars[..., 0]
    starts, ends = starts.masked_fill(outside, -torch.inf), ends.masked_fill(outside, -torch.inf)
    scores = starts[..., None] + F.pad(ends, (0, longest - 1), value=-torch.inf).unfold(-1, longest, 1)  # [B, T, longest]
    best, at = scores.flatten(1).topk(min(number, scores[0].numel()))
    first, last = at // longest, at // longest + at % longest
    found = []
    for i in range(len(rows)):
        some = [(score, f, la) for score, f, la in zip(best[i].tolist(), first[i].tolist(), last[i].tolist(), strict=True)
                if score > -torch.inf]  # fmt: skip
        found.append(Found([(score, int(chars[i, f, 0]), int(chars[i, la, 1])) for score, f, la in some], none[i]))
    return found


def answers(found: Sequence[Found], question: Question, *, may_be_none: bool, number: int = N_BEST) -> list[dict[str, Any]]:
    """Of all windows of a question, the best first: {"answer", "start", "end", "score"}; no answer is "", at None.

    A span that two windows hold counts as two when probabilities are made, as in run_qa, and is listed once.
    """
    spans = sorted((span for each in found for span in each.spans), key=lambda span: (-span[0], *span[1:]))[:number]
    if not spans and not may_be_none:  # a text without a word
        return [{"answer": "", "start": None, "end": None, "score": 0.0}]
    if may_be_none:
        none = (min(each.none for each in found), -1, -1)
        spans = sorted([*spans, none], key=lambda span: -span[0])  # stable: of two as good, a span comes before none
    scores = np.array([score for score, *_ in spans])
    p = np.exp(scores - scores.max())
    listed: dict[tuple[int, int], dict[str, Any]] = {}
    for (_, start, end), share in zip(spans, (p / p.sum()).tolist(), strict=True):
        text = question.context[start:end] if start >= 0 else ""
        begin = start + len(text) - len(text.lstrip())  # some tokens begin with the blank before a word
        place = (begin, begin + len(text.strip()))
        answer = {
            "answer": text.strip(),
            "start": place[0] if text else None,
            "end": place[1] if text else None,
            "score": share,
        }
        listed.setdefault(place, answer)
    return list(listed.values())


def by_question(found: Mapping[int, Found], windows: Windows) -> dict[int, list[Found]]:
    """What the windows of each question hold, of those that were looked at."""
    of_each: dict[int, list[Found]] = {}
    for window in sorted(found):
        of_each.setdefault(windows.question[window], []).append(found[window])
    return of_each

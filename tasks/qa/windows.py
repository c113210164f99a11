"""From questions to rows of tokens: a question and a window of its text, and which characters each token stands for.

    [CLS] question [SEP] window of the text [SEP]

A text that does not fit beside its question becomes several windows, and neighbours share ``stride`` tokens, as in
transformers' run_qa, so that an answer of up to so many tokens lies whole in one of them. Next: spans.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.console import note
from engine.data.collate import Layout
from engine.data.tables import RowName
from engine.data.tokens import CHUNK_ROWS, Tokens, left_as_found
from engine.errors import DataError, ModelError
from tasks.qa.rows import Question

NOT_AN_ITEM = -100


@dataclass
class Windows:
    """``chars``: of each window [T, 2], from which character of the context to before which a token is; (-1, -1) outside it.

    ``question``: which each window is of; ``first``: where its [CLS] is, which stands for "no answer".
    """

    ids: list[np.ndarray] = field(default_factory=list)
    types: list[np.ndarray] = field(default_factory=list)
    chars: list[np.ndarray] = field(default_factory=list)
    question: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)

    def add(self, encoding: Any, row: int, question: int, tokenizer: Any) -> None:
        """One row of what a fast tokenizer returns."""
        ids = np.asarray(encoding["input_ids"][row], dtype=np.int32)
        in_context = np.array([part == 1 for part in encoding.sequence_ids(row)])
        chars = np.asarray(encoding["offset_mapping"][row], dtype=np.int32).reshape(-1, 2)
        marks = (np.flatnonzero(ids == mark) for mark in (tokenizer.cls_token_id, tokenizer.bos_token_id) if mark is not None)
        self.first.append(next((int(at[0]) for at in marks if len(at)), 0))
        self.ids.append(ids)
        self.chars.append(np.where(in_context[:, None], chars, -1))
        self.question.append(question)
        if "token_type_ids" in encoding:
            self.types.append(np.asarray(encoding["token_type_ids"][row], dtype=np.int8))

    def tokens(self) -> Tokens:
        return Tokens.of_rows(self.ids, self.types)

    def spans(self, questions: Sequence[Question], where: str) -> np.ndarray:
        """[windows, 2]: the first and the last token of the answer; [CLS] twice where a window has none, or a part of one.

        An answer that no window holds whole is not learned: -100 in the windows that hold a part of it, which is said.
        """
        spans = [self.span(window, questions[q]) for window, q in enumerate(self.question)]
        found = np.array([span or (self.first[window],) * 2 for window, span in enumerate(spans)])
        whole = {q for q, span in zip(self.question, spans, strict=True) if span}
        cut = sorted({q for q in self.question if questions[q].answers} - whole)
        for window, q in enumerate(self.question):
            if q in cut and self.touches(window, questions[q]):
                found[window] = NOT_AN_ITEM
        if cut:
            note(
                f"{where}: {len(cut)} of {len(questions)} answers are whole in no window, so they are not learned: "
                "a larger --stride, or --max-length, holds more"
            )
        return found

    def span(self, window: int, question: Question) -> tuple[int, int] | None:
        """The tokens of the first answer, or None if it is not whole in this window."""
        inside = np.flatnonzero(self.chars[window][:, 1] > self.chars[window][:, 0])
        if not question.answers or not len(inside):
            return None
        begins, ends = self.chars[window][inside].T
        text, start = question.answers[0]
        if begins[0] > start or ends[-1] < start + len(text):
            return None
        first = np.searchsorted(begins, start, side="right") - 1
        return int(inside[first]), int(inside[np.searchsorted(ends, start + len(text))])

    def touches(self, window: int, question: Question) -> bool:
        """Has this window a token of the first answer?"""
        text, start = question.answers[0]
        begins, ends = self.chars[window].T
        return bool(((begins < start + len(text)) & (ends > start)).any())


def places(lengths: Sequence[int], width: int, layout: Layout, tokenizer: Any) -> Tensor:
    """[B, T]: where the tokens of each window are in a batch, all rows of ``width`` end to end; -1 behind its end."""
    sizes = np.asarray(lengths)
    begins = np.cumsum(sizes) - sizes if layout.kind == "packed" else np.arange(len(sizes)) * width
    if layout.kind != "packed" and layout.pads_left(tokenizer):
        begins += width - sizes
    within = np.arange(layout.max_length or sizes.max())
    return torch.from_numpy(np.where(within < sizes[:, None], begins[:, None] + within, -1))


def encode(
    questions: Sequence[Question], tokenizer: Any, max_length: int, stride: int, where: str, row_name: RowName
) -> Windows:
    """The windows of each question, in order. Raises DataError for a question that leaves no room for its text, ModelError."""
    if not tokenizer.is_fast:
        raise ModelError(f"answers need a fast tokenizer, which knows where a token stands; {type(tokenizer).__name__} is none")
    found = Windows()
    with left_as_found(tokenizer):
        for start in range(0, len(questions), CHUNK_ROWS):
            chunk = questions[start : start + CHUNK_ROWS]
            pairs = [question.question for question in chunk], [question.context for question in chunk]
            whole = tokenizer(*pairs, return_offsets_mapping=True, verbose=False)
            for i, question in enumerate(chunk):
                if len(whole["input_ids"][i]) <= max_length:
                    found.add(whole, i, start + i, tokenizer)
                    continue
                room = max_length - sum(part != 1 for part in whole.sequence_ids(i))
                if room <= stride:
                    raise DataError(
                        f"{where}, {row_name(start + i)}: beside its question a window of {max_length} tokens has room for "
                        f"{max(room, 0)} of its text, of which {stride} are the last window's: "
                        + ("a smaller --stride, or a larger --max-length" if room > 0 else "shorten it, or --max-length")
                    )
                parts = tokenizer(
                    [question.question], [question.context], truncation="only_second", max_length=max_length, stride=stride,
                    return_overflowing_tokens=True, return_offsets_mapping=True,
                )  # fmt: skip
                for row in range(len(parts["input_ids"])):
                    found.add(parts, row, start + i, tokenizer)
    return found

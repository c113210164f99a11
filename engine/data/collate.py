"""From rows of different length to tensors: padded to rectangles, or packed end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Layout:
    """How rows lie in a batch.

    ``padded``: one below the other, to the longest; ``max_length``: to ``max_length``, always; ``packed``: end to end in
    one row, positions restarting at ``position_start``: where that is not 0, the id of padding is one less, and its position,
    too, wherever it stands; it is not counted. ``round_to``: a packed row is filled up to a multiple (``filled``) by segments
    that nobody reads, so that few shapes occur. ``sides``: those on which padding leaves the model's answer as it is
    (engine/model/padding_check.py); the tokenizer's own side counts if it is one of them, or if there is none: then
    ``padding_matters``, and a text's answer is that of its rows of equal length alone. ``shortest``: the least tokens that the
    model takes, to which shorter rows are padded in any case.
    """

    kind: Literal["padded", "max_length", "packed"] = "padded"
    max_length: int = 0
    position_start: int = 0
    round_to: int = 1
    sides: tuple[str, ...] = ("right", "left")
    shortest: int = 1

    def filled(self, number: int) -> int:
        """So many tokens, or targets, filled up to a multiple of ``round_to``.

        Where lengths may be of any number, the multiple is at most 1/32 of them; a recorded step (``max_length``) has few.
        """
        step = self.round_to if self.max_length else min(self.round_to, 1 << max((number // 32).bit_length() - 1, 0))
        return -(-number // step) * step

    def pads_left(self, tokenizer: Any) -> bool:
        side = tokenizer.padding_side
        return bool((side if side in self.sides or not self.sides else self.sides[0]) == "left")

    @property
    def padding_matters(self) -> bool:
        """Does a text get another answer beside a longer one, wherever the padding stands?"""
        return self.kind == "padded" and not self.sides


PADDED = Layout()


def arrange(rows: Rows, layout: Layout, tokenizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's inputs and the batch's counts (keyword arguments of Batch).

    Padded: ``[B, T]`` int64, padding where tokenizer and layout want it; the attention mask is made from lengths, never from
    token ids, so a real token that equals the padding token is attended to. Packed: ``[1, T]`` int64, with
    ``position_ids``, ``cu_seq_lens_q`` [segments + 1] int32, ``max_length_q``, and the first and last token of each of the
    B rows.
    """
    each = [len(row["input_ids"]) for row in rows]
    lengths = np.asarray(each)
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    left = layout.pads_left(tokenizer)
    inputs: dict[str, Any] = {
        name: per_token([row[name] for row in rows], layout, fill[name], left=left) for name in fill if name in rows[0]
    }
    ids = inputs["input_ids"]
    inputs |= _packed_inputs(lengths, layout, ids[0].numpy()) if layout.kind == "packed" else _mask(lengths, ids.shape[1], left)
    return inputs, {
        "num_examples": len(rows),
        "num_tokens": sum(each),
        "executed_tokens": ids.numel(),
        "sum_squares": sum(n * n for n in each),
        "longest": max(each),
    }


def per_token(values: Sequence[np.ndarray], layout: Layout, fill: int, *, left: bool = False) -> Tensor:
    """One int64 tensor from a value per token of each row: [B, T], or [1, T] if packed. For targets, ``fill`` is -100."""
    lengths = [len(row) for row in values]
    if layout.kind == "packed":
        packed = np.full((1, layout.filled(sum(lengths))), fill, dtype=np.int64)
        packed[0, : sum(lengths)] = np.concatenate(values)
        return torch.from_numpy(packed)
    width = layout.max_length if layout.kind == "max_length" else max(*lengths, layout.shortest)
    array = np.full((len(values), width), fill, dtype=np.int64)
    for i, (row, length) in enumerate(zip(values, lengths, strict=True)):
        array[i, width - length if left else 0 : width if left else length] = row
    return torch.from_numpy(array)


def _mask(lengths: np.ndarray, width: int, left: bool) -> dict[str, Tensor]:
    columns, real = np.arange(width), lengths[:, None]
    return {"attention_mask": torch.from_numpy((columns >= width - real if left else columns < real).astype(np.int64))}


def _tail(num_tokens: int, longest: int, round_to: int) -> np.ndarray:
    """Lengths of the segments that fill up a row; always as many, empty ones too: their number is a shape as well."""
    if round_to == 1:
        return np.empty(0)
    ends = np.minimum(np.arange(1, -(-round_to // longest) + 1) * longest, num_tokens)
    return np.diff(ends, prepend=0)


def _packed_inputs(lengths: np.ndarray, layout: Layout, ids: np.ndarray) -> dict[str, Any]:
    longest = layout.max_length or int(lengths.max())
    tail = layout.filled(int(lengths.sum())) - int(lengths.sum())
    segments = np.concatenate([lengths, _tail(tail, longest, layout.round_to)])
    offsets = np.concatenate([[0], np.cumsum(segments)]).astype(np.int64)
    is_counted = ids != layout.position_start - 1 if layout.position_start else np.ones(len(ids), dtype=bool)
    counted = np.concatenate([[0], np.cumsum(is_counted)])  # before each token
    within = np.where(is_counted, counted[:-1] - np.repeat(counted[offsets[:-1]], segments.astype(np.int64)), -1)
    return {
        "position_ids": torch.from_numpy(within + layout.position_start)[None],
        "cu_seq_lens_q": torch.from_numpy(offsets.astype(np.int32)),
        "max_length_q": longest,
        "segment_first": torch.from_numpy(offsets[: len(lengths)].copy()),
        "segment_last": torch.from_numpy(offsets[1 : len(lengths) + 1] - 1),
    }

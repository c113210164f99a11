"""From rows of different length to rectangular tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How rows lie in a batch. ``padded``: to its longest row; ``max_length``: to ``max_length``, always."""

    kind: Literal["padded", "max_length"] = "padded"
    max_length: int = 0


def pad(rows: Sequence[dict[str, Any]], layout: Layout, tokenizer: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The model's inputs ``[B, T]`` int64 and the batch's counts (keyword arguments of Batch).

    Padding goes where the tokenizer wants it; the attention mask is made from lengths, never from token ids, so a real
    token that equals the padding token is attended to.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    width = layout.max_length if layout.kind == "max_length" else max(lengths)
    left = tokenizer.padding_side == "left"
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    inputs: dict[str, Tensor] = {}
    for name in ("input_ids", "token_type_ids"):
        if name in rows[0]:
            array = np.full((len(rows), width), fill[name], dtype=np.int64)
            for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                array[i, width - length if left else 0 : width if left else length] = row[name]
            inputs[name] = torch.from_numpy(array)
    columns = np.arange(width)
    real = np.asarray(lengths)[:, None]
    inputs["attention_mask"] = torch.from_numpy((columns >= width - real if left else columns < real).astype(np.int64))
    return inputs, {
        "num_examples": len(rows),
        "num_tokens": sum(lengths),
        "executed_tokens": len(rows) * width,
        "sum_squares": sum(length * length for length in lengths),
    }

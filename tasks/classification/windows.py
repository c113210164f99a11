"""Texts that are read whole, however long: each is one window of tokens or several, which have one answer together.

    [CLS] first tokens [SEP]    [CLS] tokens, the first ``stride`` of them again [SEP]    ...

The model reads each window as it reads a text; the logits of a text are the mean, or for each class the largest, of those of
its windows, in training as in evaluation. Every token has a part in the answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from engine.data.tables import RowName
from engine.data.tokens import CHUNK_ROWS, TokenDataset, Tokens, cells_of, left_as_found
from engine.errors import DataError, ModelError, UsageError
from engine.task import Row

Pooling = Literal["mean", "max"]


class Documents(torch.utils.data.Dataset[Row]):
    """Rows ``{"windows": [{"input_ids": ...}, ...], <column>: value}``; an example's length is that of its windows together.

    ``first``: [N + 1], the number of each text's first window; ``columns`` have a value for each text: [N].
    """

    def __init__(
        self,
        windows: TokenDataset,
        first: np.ndarray,
        columns: Mapping[str, np.ndarray] | None = None,
        row_name: RowName | None = None,
    ):
        self.windows, self.first, self.columns, self.row_name = windows, first, columns or {}, row_name

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, row: int) -> Row:
        windows = [self.windows[i] for i in range(self.first[row], self.first[row + 1])]
        return {"windows": windows} | {name: column[row] for name, column in self.columns.items()}

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per text, with those that its windows share: [N]."""
        return np.add.reduceat(self.windows.lengths, self.first[:-1])

    @property
    def tokens(self) -> Tokens:
        """Of each text those of all its windows."""
        found = self.windows.tokens
        return Tokens(found.ids, found.offsets[self.first], None, 0)

    @property
    def num_cut(self) -> int:
        """Texts of more than one window."""
        return int((np.diff(self.first) > 1).sum())

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.windows.fingerprint().encode() + self.first.tobytes())
        for name, column in self.columns.items():
            digest.update(f"{name} {column.dtype} {column.shape};".encode())
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()


def check_stride(tokenizer: Any, max_length: int, stride: int, path: str) -> None:
    """Raises UsageError where a window would hold nothing new; ModelError for a tokenizer that makes no windows."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"model {path}: --stride needs a fast tokenizer, and {type(tokenizer).__name__} is none: leave it out, or name "
            "another with --tokenizer"
        )
    room = max_length - tokenizer.num_special_tokens_to_add()
    if stride >= room:
        raise UsageError(
            f"--stride {stride}: a window of {max_length} tokens has room for {room} of a text, so each would hold nothing "
            f"new: a stride below {room}, or a larger --max-length"
        )


def documents(
    texts: Iterable[str], tokenizer: Any, max_length: int, stride: int, where: str, row_name: RowName
) -> tuple[TokenDataset, np.ndarray]:
    """The windows of all texts, and the number of each text's first one: [N + 1]. Raises DataError for one without tokens."""
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    counts: list[int] = []
    with left_as_found(tokenizer):
        for chunk in chunks(texts):
            found = tokenizer(
                chunk, truncation=True, max_length=max_length, stride=stride, return_overflowing_tokens=True, verbose=False
            )
            if (empty := next((i for i, row in enumerate(found["input_ids"]) if not row), None)) is not None:
                row = len(counts) + found["overflow_to_sample_mapping"][empty]
                raise DataError(f"{where}, {row_name(row)}: there is no token (its text is empty): remove or fill it")
            ids += [np.asarray(row, dtype=np.int32) for row in found["input_ids"]]
            types += [np.asarray(row, dtype=np.int8) for row in found.get("token_type_ids") or ()]
            counts += np.bincount(found["overflow_to_sample_mapping"], minlength=len(chunk)).tolist()
    return TokenDataset(Tokens.of_rows(ids, types)), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def chunks(texts: Iterable[str]) -> Iterable[list[str]]:
    """A thousand at a time."""
    chunk: list[str] = []
    for text in cells_of(texts) if isinstance(texts, Sequence) else texts:
        chunk.append(text)
        if len(chunk) == CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def texts_of(rows: Sequence[Row]) -> Tensor:
    """[W]: which row of the batch each of its windows is of."""
    counts = torch.tensor([len(row["windows"]) for row in rows])
    return torch.repeat_interleave(torch.arange(len(rows)), counts)


def pooled(logits: Tensor, text: Tensor, number: int, pooling: Pooling) -> Tensor:
    """From the logits of windows, [W, C], to those of texts: [N, C] float32. ``text``: [W], which each window is of."""
    belongs = text == torch.arange(number, device=text.device)[:, None]  # [N, W]
    if pooling == "mean":
        with torch.autocast(logits.device.type, enabled=False):  # which would multiply in half precision
            return belongs.float() @ logits.float() / belongs.sum(1, keepdim=True)
    return logits.float().masked_fill(~belongs[..., None], float("-inf")).amax(1)


def of_whole_texts(rows: Sequence[Row]) -> dict[str, int]:
    """What a batch counts otherwise than its windows: the texts, and the most that one of them takes."""
    return {
        "num_examples": len(rows),
        "longest": max(sum(len(window["input_ids"]) for window in row["windows"]) for row in rows),
    }

"""On which side may rows be padded? Where a row's answer beside a longer one is that of the row alone, for one architecture.

Most models mask the padding. Those that look positions up by their number want it on the right, one whose head reads the last
vector on the left; and some let it in, in transformers itself (convolutions over tokens, Fourier transforms, landmarks made
from all of them). It is tried on a small copy (packing_check.py), or, where there can be none, on the model itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from engine.data.collate import Layout, arrange
from engine.model.packing_check import fingerprint, first_output, small_copy, some_rows

TOLERANCE = 1e-4  # of logits, relative to the largest of them where that is above 1
POSITIONS = ("position_embeddings", "positions_embed", "embed_positions", "wpe")  # tables of a vector for each position
LENGTHS = (5, 8, 11, 14, 17, 20, 23, 26, 30)  # of the rows; some models take no shorter one, and some differ at few lengths
SHORT: tuple[int, ...] = (*range(1, 17), 24, 32)
COPIES = 3  # with other weights: where the best keys are chosen, padding matters where some are as good
DECODED = [5, 7, 6, 8, 5, 6, 7]  # tokens of a decoder: of each row as many as its length leaves over
BOTH: tuple[str, ...] = ("right", "left")


def harmless_sides(model: nn.Module, level: str | None) -> tuple[str, ...]:
    """Of "right" and "left" those on which padding changes nothing; (): neither. Draws nothing from the global generators.

    ``level``: what the head reads. Of a model that cannot be tried, those of its kind of positions.
    """
    if isinstance(model, transformers.PreTrainedModel) and takes_text(model, level):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            for copies in ((small_copy(model) for _ in range(COPIES)), iter([model])):  # one at a time: they may be wide
                try:
                    return sides_of(copies, level)
                except MemoryError:
                    raise
                except Exception:  # whatever a model does with rows that it was not written for
                    continue
    by_number = any(
        isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITIONS for name, module in model.named_modules()
    )
    return ("right",) if by_number else BOTH


def takes_text(model: transformers.PreTrainedModel, level: str | None) -> bool:
    """Can it be tried on text alone? One whose batches hold more than a text, only where that is a text to write."""
    return level is not None or (model.config.is_encoder_decoder and model.main_input_name == "input_ids")


def shortest_row(model: nn.Module, level: str | None) -> int:
    """The least tokens that the model takes in a row: one that halves rows, or looks through windows, fails with fewer."""
    if isinstance(model, transformers.PreTrainedModel) and takes_text(model, level):
        tokenizer = SimpleNamespace(pad_token_id=0, pad_token_type_id=0, padding_side="right")
        was_training = model.training
        try:
            with torch.random.fork_rng(devices=[]):
                for length in SHORT:
                    with suppress(Exception):  # whatever a model does with a row that is too short
                        rows = some_rows(model.config.get_text_config(), (length,))
                        logits(model.eval(), rows, tokenizer, level)
                        return length
        finally:
            model.train(was_training)
    return 1


def sides_of(models: Iterator[transformers.PreTrainedModel], level: str | None) -> tuple[str, ...]:
    """Those that change nothing in any of the models."""
    sides = BOTH
    for model in models:
        sides = tuple(side for side in sides if difference(model, level, side) < TOLERANCE)
    return sides


def key(model: transformers.PreTrainedModel, level: str | None) -> str:
    """Of all that the answer depends on, this module included."""
    source = Path(__file__).read_bytes()
    return hashlib.sha256(f"{fingerprint(model, str(level))}\0".encode() + source).hexdigest()[:32]


def difference(model: transformers.PreTrainedModel, level: str | None, side: str) -> float:
    """The largest, between the logits of rows in one padded batch and those of each alone.

    ``level`` None: the rows are what an encoder reads, and the logits those of a few tokens of its decoder, padded on
    the right.
    """
    config = model.config.get_text_config()
    rows = some_rows(config, LENGTHS)
    end = getattr(config, "eos_token_id", None)
    if isinstance(end, int):  # some heads look for it
        for row in rows:
            row["input_ids"][-1] = end
    pad = getattr(config, "pad_token_id", None)
    tokenizer = SimpleNamespace(pad_token_id=pad if isinstance(pad, int) else 0, pad_token_type_id=0, padding_side=side)
    was_training = model.training
    try:
        together, mask = logits(model.eval(), rows, tokenizer, level)
        largest = 0.0
        for i, row in enumerate(rows):
            alone = logits(model, [row], tokenizer, level)[0][0]
            beside = together[i] if level == "sequence" else together[i][mask[i].bool()]
            gap = (beside - alone).abs().max() / alone.abs().max().clamp(min=1.0)
            largest = max(largest, float(gap.nan_to_num(nan=float("inf"))))
        return largest
    finally:
        model.train(was_training)


def logits(model: nn.Module, rows: Any, tokenizer: Any, level: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's first output, in float32, and the mask of its rows."""
    inputs, _ = arrange(rows, Layout(), tokenizer)
    mask = inputs["attention_mask"]
    if level is None:
        decoded = [{"input_ids": np.array(DECODED[: 1 + len(row["input_ids"]) % len(DECODED)])} for row in rows]
        behind = SimpleNamespace(**vars(tokenizer) | {"padding_side": "right"})
        written, _ = arrange(decoded, Layout(sides=("right",)), behind)
        inputs |= {"decoder_input_ids": written["input_ids"], "use_cache": False}  # as in training
        mask = written["attention_mask"]
    with torch.inference_mode():
        return first_output(model(**inputs)), mask

"""Which layout a run gets, and why: ``--batching auto`` packs wherever packed is proven equal to padded.

The verdict of the proof (packing_check.py) is kept in the cache folder. Next: packing.py.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from engine.checked import parse_object, read_bytes
from engine.console import note
from engine.data.cache import entry
from engine.data.collate import Layout
from engine.errors import UsageError
from engine.model import packing, padding_check
from engine.model.packing_check import check_kernel, compare_small_copy, fingerprint
from engine.precision import Precision


def choose_layout(
    name: str, model: nn.Module, level: str | None, max_length: int | None, device: torch.device, precision: Precision
) -> Layout:
    """The layout for ``--batching name``; a model that packed batches suit is enabled for them, in place.

    ``level``: what the head reads, "sequence" or "token". Raises UsageError for ``packed`` where it does not work.
    """
    if name == "max_length":
        if max_length is None:
            raise UsageError("--batching max_length: this task has no length to pad to")
        return padded(model, level, max_length)
    if name in ("padded", "bucketed"):
        return with_warning(padded(model, level), model)
    reason = why_not_packed(model, level, device, precision)
    if reason is None:
        return pack(model, level)
    if name == "packed":
        raise UsageError(f"--batching packed: {reason}; use padded or bucketed")
    note(f"batching: padded, because {reason}")
    return with_warning(padded(model, level), model)


def padded(model: nn.Module, level: str | None, max_length: int = 0) -> Layout:
    """The padded layout that suits the model; ``max_length``: that all rows are padded to, 0: to the longest."""

    def find() -> dict[str, Any]:
        sides, shortest = padding_check.harmless_sides(model, level), padding_check.shortest_row(model, level)
        return {"model": type(model).__name__, "sides": sides, "shortest": shortest}

    is_known_kind = isinstance(model, transformers.PreTrainedModel)
    found = verdict("padding", padding_check.key(model, level), find) if is_known_kind else find()
    sides, shortest = tuple(found["sides"]), found["shortest"]
    return Layout("max_length" if max_length else "padded", max_length, sides=sides, shortest=shortest)


def verdict(kind: str, key: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``find`` finds out, from the cache if it is there."""
    found = functools.cache(find)
    folder = entry(kind, key, lambda folder: (folder / "verdict.json").write_text(json.dumps(found())))
    return found() if folder is None else parse_object(read_bytes(folder / "verdict.json"))


def with_warning(layout: Layout, model: nn.Module) -> Layout:
    """The layout; where padding matters, that is said with the way to train without."""
    if layout.padding_matters:
        note(
            f"warning: padding changes what {type(model).__name__} computes, in transformers itself: a text has another answer "
            "beside a longer one. Evaluation and predict put texts of equal length together; --batch-size 1 with "
            "--accumulation-steps trains without padding"
        )
    return layout


def pack(model: nn.Module, level: str | None) -> Layout:
    """Enable the model for packed batches, in place; returns their layout."""
    packing.enable(model, level)
    return Layout("packed", position_start=packing.position_start(model))


def why_not_packed(model: nn.Module, level: str | None, device: torch.device, precision: Precision) -> str | None:
    """None if packed batches are the same as padded ones for this model on this device, else the reason."""
    if level is None:
        is_text = isinstance(model, transformers.PreTrainedModel) and padding_check.takes_text(model, level)
        return f"{type(model).__name__} has an encoder and a decoder" if is_text else "this task's batches hold more than text"
    if device.type == "mps" or (device.type == "cuda" and precision == "fp32"):
        return f"the packed attention kernel for {device.type} computes in " + (
            "half precision only (--precision bf16)" if device.type == "cuda" else "nothing: there is none"
        )
    if not isinstance(model, transformers.PreTrainedModel):
        return f"{type(model).__name__} is not a transformers model"

    def find() -> dict[str, Any]:
        return {"model": type(model).__name__, "reason": compare_small_copy(model, level)}

    reason = verdict("packing", fingerprint(model, level), find)["reason"]
    return reason or (check_kernel(model.config, device, precision) if device.type == "cuda" else None)

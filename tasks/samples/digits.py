"""Handwritten digits, which scikit-learn carries, and a small model to learn them: for where neither data nor checkpoint can
be had.

1,797 pictures of 8 x 8 points by 13 people, of whom both splits have digits (E. Alpaydin and C. Kaynak, Optical Recognition of
Handwritten Digits, UCI Machine Learning Repository, 1998).
"""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

from engine.data.cache import entry_or_temporary
from engine.errors import UsageError
from engine.installed import install

VERSION = 1
BRIGHTEST, SEED, HELD_OUT = 16, 0, 450
SIZES = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 8,
         "patch_size": 2}  # fmt: skip
POSITION_STD = 0.5  # as large as the patches', as in shapes.py


def splits() -> dict[str, tuple[list[bytes], list[int]]]:
    """PNG files and digits, of ``train`` and of ``eval``. Raises UsageError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        mend = install("image-classification")
        raise UsageError(f"the digits are scikit-learn's, which is not installed: {mend}, or give --data") from error
    known = load_digits()
    order = np.random.default_rng(SEED).permutation(len(known.target))
    parts = {"train": order[HELD_OUT:], "eval": order[:HELD_OUT]}
    return {split: ([as_png(known.images[i]) for i in rows], known.target[rows].tolist()) for split, rows in parts.items()}


def as_png(values: np.ndarray) -> bytes:
    """[8, 8] of 0 to 16, grey."""
    stream = BytesIO()
    Image.fromarray(np.round(values * (255 / BRIGHTEST)).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def small_vit() -> tuple[str, str]:
    """The folder of a small ViT, and what to call it. The weights are random: a learning rate near 1e-3 suits it."""
    digest = hashlib.sha256(repr((VERSION, SIZES, POSITION_STD)).encode()).hexdigest()[:16]
    folder = entry_or_temporary("models", f"vit-{digest}", save_small_vit)
    return str(folder), "a small ViT with random weights (--learning-rate 1e-3 suits it)"


def save_small_vit(folder: Path) -> None:
    """0.1 M parameters, without a head."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = ViTModel(ViTConfig(**SIZES), add_pooling_layer=False)
        torch.nn.init.normal_(model.embeddings.position_embeddings, std=POSITION_STD)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIZES["image_size"], "width": SIZES["image_size"]}).save_pretrained(folder)

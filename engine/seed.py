"""All random state: one way to set it, and one to read it and put it back.

PyTorch's notes on reproducibility say what a seed does and does not promise:
https://pytorch.org/docs/stable/notes/randomness.html
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def set_seed(seed: int, rank: int = 0) -> None:
    """Seed every generator that a step may draw from, on each rank otherwise: ranks drop different units."""
    if rank:
        seed = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # CUDA and MPS too


def get_generators(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's generators, from which a forward pass draws; nothing waits for the device.

    For a step that may be tried again. Python's and numpy's are left out: to read them takes 30 microseconds, torch's less than
    one. What a model of one's own draws from them goes on where it was.
    """
    states = {"torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_generators(states: Mapping[str, Tensor]) -> None:
    """Put back what ``get_generators`` gave; CUDA's is that of the current device, which ``choose_device`` has set."""
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def get_rng() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of every random generator a step may draw from. Where nothing has used CUDA yet, its generator is left out:
    to read it would start CUDA, which takes seconds and GPU memory from a run on the CPU."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
    }
    if torch.cuda.is_initialized():
        tensors["cuda"] = torch.cuda.get_rng_state()  # of this rank's device, which choose_device has made the current one
    if torch.backends.mps.is_available():
        tensors["mps"] = torch.mps.get_rng_state()
    return tensors, {"python": [version, gauss], "numpy": [kind, int(position), int(has_gauss), float(cached)]}


def set_rng(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Put back what ``get_rng`` gave."""
    torch.set_rng_state(tensors["torch"])
    version, gauss = numbers["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    kind, position, has_gauss, cached = numbers["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    if "cuda" in tensors and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(tensors["cuda"])
    if "mps" in tensors and torch.backends.mps.is_available():
        torch.mps.set_rng_state(tensors["mps"])


@contextmanager
def rng_untouched() -> Iterator[None]:
    """Random numbers that are drawn inside do not move the generators of the training."""
    before = get_rng()
    try:
        yield
    finally:
        set_rng(*before)

"""Which device computes, and what the devices of a run add up. One device for now; its sums are identities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import UsageError


@dataclass(frozen=True)
class World:
    """The devices of a run, seen from one of them."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def sum(self, values: Sequence[float]) -> Tensor:
        """The values added up over all devices: [len(values)] float32 on the device, not to be read in a step."""
        return torch.stack([torch.full((), float(value), device=self.device) for value in values])  # no copy, no waiting


def choose_device(name: str) -> torch.device:
    """``auto``: CUDA, else Apple's MPS, else the CPU. Raises UsageError when the device is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device must be auto, cpu, cuda, cuda:N or mps, found {name!r}") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise UsageError(f"--device {name}: torch {torch.__version__} sees no CUDA device; use --device cpu")
        if (device.index or 0) >= count:
            raise UsageError(f"--device {name}: there are {count} CUDA devices, numbered from 0")
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)  # events and pinned memory belong to the current device
        return device
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: torch sees no Apple GPU; use --device cpu")
    if device.type not in ("cpu", "mps") or device.index:
        raise UsageError(f"--device must be auto, cpu, cuda, cuda:N or mps, found {name!r}")
    return device


def describe_device(device: torch.device) -> str:
    """``cuda:0 (NVIDIA H200)``, ``cpu (2 threads)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)

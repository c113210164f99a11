"""Which device computes: ``--device auto, cpu, cuda, cuda:N or mps``, one for each rank."""

from __future__ import annotations

import os

import torch

from engine.errors import UsageError


def device_of(name: str, local_rank: int, local_size: int) -> str:
    """The device of one of the ranks of a node: a GPU each. Raises UsageError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if 0 < torch.cuda.device_count() < local_size:
            raise UsageError(f"{local_size} ranks on a node with {torch.cuda.device_count()} CUDA devices: one rank for each")
        return f"cuda:{local_rank}"
    if name != "cpu" and local_size > 1:
        raise UsageError(f"--device {name} is for one rank: give cuda or cpu, each rank takes its own")
    return name


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


def usable_cores() -> int:
    """Of the processor, for this process: where the system does not say it, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""Memory that is in use: measured, and kept by the process on a CPU.

Freed memory stays with the process, so that a step on a CPU does not page-fault its tensors anew: glibc gives large blocks
back to the system as soon as they are freed, and gets them zeroed, page by page, the next time (counted in
tests/engine/memory/test_usage.py).
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Serve every block from the heap and never shrink it, for the rest of the process; False without glibc."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, -1) == 1


def memory_gb(device: torch.device) -> float:
    """GiB in use now: allocated on CUDA; else what the process has resident."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**30
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * mmap.PAGESIZE / 2**30
    import psutil

    return float(psutil.Process().memory_info().rss / 2**30)


def peak_memory_gb(device: torch.device) -> float:
    """The most memory so far in GiB: the device's allocations on CUDA, else the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ModuleNotFoundError:  # Windows, where psutil tells the peak
        import psutil

        found = psutil.Process().memory_info()
        return float(getattr(found, "peak_wset", found.rss) / 2**30)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

"""Freed memory stays with the process, so that a step on a CPU does not page-fault its tensors anew.

glibc gives large blocks back to the system as soon as they are freed, and gets them zeroed, page by page, the next time
(counted in tests/test_memory.py).
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Serve every block from the heap and never shrink it, for the rest of the process; False without glibc."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, -1) == 1

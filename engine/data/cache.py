"""The folder of what Plainloop may need again, and of what it needs for a while.

Nothing about it may ever stop a run: a folder that cannot be written is done without.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

SCRATCH = ".tmp-rows-"
STALE_SECONDS = 24 * 3600


def cache_folder() -> Path:
    """``$PLAINLOOP_CACHE``, else ``$XDG_CACHE_HOME/plainloop``, else ``~/.cache/plainloop``."""
    given = os.environ.get("PLAINLOOP_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else Path(base or os.path.expanduser("~/.cache")) / "plainloop"  # noqa: PTH111 - without a home it stays as it is


def scratch_folder() -> Path | None:
    """For folders named ``SCRATCH...`` that go with their process; None, the system's own, where the cache cannot be written.

    What a killed process has left of them goes after a day.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{SCRATCH}*"):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None

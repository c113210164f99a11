"""The command ``plainloop``, and ``python -m plainloop``: what ``python run.py`` does, from any folder.

A project may have an ``engine.py`` or a folder ``tasks`` of its own on sys.path: Plainloop's come first in this process, and in
those that it starts.
"""

from __future__ import annotations

import sys

from plainloop import ROOT


def main() -> int:
    """Run one command of ``sys.argv``; returns the exit code."""
    sys.path.insert(0, str(ROOT))
    import run

    return run.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

"""Pictures that commands draw, by matplotlib, which an extra brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.commands.output import writing
from engine.errors import UsageError
from engine.installed import install

PICTURES = (".png", ".svg", ".pdf")


def check_matplotlib(flag: str) -> None:
    """Raises UsageError without it, before a model is loaded."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{flag} needs matplotlib: {install('bench')}") from error


def save_figure(flag: str, path: Path, figure: Any) -> None:
    """Write a figure of matplotlib as the file's name says, and close it. Raises ResourceError."""
    from matplotlib import pyplot as plt

    try:
        with writing(flag, path, binary=True) as stream:
            figure.savefig(stream, dpi=160, format=path.suffix.lower()[1:])
    finally:
        plt.close(figure)

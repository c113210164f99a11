"""A notebook without a kernel: what IPython is asked for, and what its front end would show in the end."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class FrontEnd:
    """``outputs``: what stands below the cell, in order. ``num_shown``: how often something was shown or changed."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, str]] = []
        self.num_shown = 0

    def display(self, shown: dict[str, str], *, raw: bool, display_id: bool) -> SimpleNamespace:
        """As IPython.display.display: a new output; with its handle it can be changed."""
        assert raw and display_id
        self.outputs.append(shown)
        self.num_shown += 1
        place = len(self.outputs) - 1

        def update(shown: dict[str, str], *, raw: bool) -> None:
            assert raw
            self.outputs[place] = shown
            self.num_shown += 1

        return SimpleNamespace(update=update)


def ipython(patch: pytest.MonkeyPatch, kernel: Any = "a kernel") -> FrontEnd:
    """From here on IPython seems to run here; ``kernel`` None: at a terminal."""
    front_end = FrontEnd()
    python, shown = ModuleType("IPython"), ModuleType("IPython.display")
    python.get_ipython = lambda: SimpleNamespace(**({} if kernel is None else {"kernel": kernel}))
    shown.display = front_end.display
    python.display = shown
    patch.setitem(sys.modules, "IPython", python)
    patch.setitem(sys.modules, "IPython.display", shown)
    return front_end

"""What ``fit`` returns, and how a notebook shows it. Next: report.py, which has the whole of a run as a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from engine.artifacts.chart import drawable, svg
from engine.artifacts.directory import read_run
from engine.artifacts.report import Record, figure, sections, subtitles
from engine.errors import UsageError, UserError
from engine.notebook import Frame, shown_text, table
from engine.record.log import read_log

MOST_CHARTS = 6  # shown of a result; its report has all


@dataclass(frozen=True)
class Result:
    """What a run came to. ``metrics``: those of the model that was kept; ``model``: in eval mode, on its device.

    Of a run with ``--shard``, rank 0 alone has the model, in full and on the CPU. A notebook shows the metrics and the curves.
    """

    directory: Path
    metrics: dict[str, Any]
    model: nn.Module | None
    skipped: bool = False

    def report(self, height: int = 700) -> Frame:
        """report.html, for a notebook to show below its cell, ``height`` pixels high. Raises UsageError where there is none."""
        path = self.directory / "report.html"
        if not path.is_file():
            raise UsageError(f"{path} is not there: a run writes it when it is finished")
        return Frame(path.read_text(encoding="utf-8"), height)

    def _repr_html_(self) -> str:
        """Metrics and curves, for a notebook: no script, nothing that is loaded."""
        how = "finished before, not trained again" if self.skipped else "finished" if self.metrics else "nothing was trained"
        about, charts = [f"{self.directory}: {how}"], []
        try:
            document = read_run(self.directory)
            about += subtitles(document)[:-1]
            [(_, learning), *_] = sections([Record(str(self.directory), document, read_log(self.directory / "metrics.jsonl"))])
            charts = [svg(each) for each in drawable(learning)[:MOST_CHARTS]]
        except (OSError, UserError):
            pass  # it was moved, or there is none: what is known here is shown
        metrics = table([], [[name, figure(value)] for name, value in self.metrics.items()], first="left")
        parts = "".join(f"<div>{part}</div>" for part in [metrics] * bool(self.metrics) + charts)
        lines = "".join(f'<div style="opacity: 0.8">{shown_text(line)}</div>' for line in about)
        return f'{lines}<div style="display: flex; flex-wrap: wrap; gap: 1em 2em; margin-top: 0.5em">{parts}</div>'

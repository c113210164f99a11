"""Settings of the commands ``report``, ``compare`` and ``env``. No torch in here: ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config import setting


@dataclass(frozen=True)
class ReportConfig:
    """Settings of ``report``."""

    model: str = setting("", "directory of a run, finished or not")
    output: str | None = setting(None, "HTML file (default: report.html in the directory)")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")


@dataclass(frozen=True)
class CompareConfig:
    """Settings of ``compare``."""

    output: str = setting("compare.html", "HTML file")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")


@dataclass(frozen=True)
class EnvConfig:
    """Settings of ``env``."""

    output_dir: str = setting("runs", "the directory whose disk is looked at")
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form")

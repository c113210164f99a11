"""``python run.py report`` draws report.html again, ``python run.py compare`` lays runs over each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engine.artifacts.directory import run_in
from engine.artifacts.report import Record, comparison, record_in, render
from engine.commands.flags import CompareConfig, ReportConfig
from engine.commands.output import check_output, writing
from engine.console import note, say, shown
from engine.errors import UsageError
from engine.installed import install, program
from engine.settings.fields import user_path

PAGES = (".html", ".htm")


def report(config: ReportConfig, texts: Sequence[str], find: Callable[..., Any]) -> None:
    """Write the page of one run, named by ``--model`` or bare. Raises UsageError, ResourceError."""
    names = [config.model, *texts] if config.model else [*texts]
    if len(names) != 1:
        raise UsageError(f"report draws one run, and {len(names)} are named: {program()} report --model runs/a")
    directory = user_path(names[0])
    check_output("--output", config.output, PAGES, model=names[0], own="report.html")
    write(Path(config.output) if config.output else directory / "report.html", [record_of(directory)])


def compare(config: CompareConfig, texts: Sequence[str], find: Callable[..., Any]) -> None:
    """Print the figures side by side, and write the page with the curves laid over each other."""
    if len(texts) < 2:
        raise UsageError(f"compare needs the directories of two or more runs: {program()} compare runs/a runs/b")
    if len(set(texts)) < len(texts):
        raise UsageError("compare was given the same directory twice")
    for name in texts:
        check_output("--output", config.output, PAGES, model=name)
    records = [record_of(user_path(name)) for name in texts]
    without = [record.name for record in records if not record.rows]
    if len(without) < len(records):
        for name in without:
            note(f"{name} has no rows of its evaluation to pair: {program()} evaluate {name} --rows {name}/rows.json")
        if not find_spec("scipy"):
            note(f"no paired tests: they are scipy's, which is not installed: {install('sweep')}")
    for heading, columns, rows in comparison(records):
        say(heading)
        for row in [columns, *rows]:
            say("  " + "  ".join(f"{shown(cell):<28}" for cell in row).rstrip())
    write(Path(config.output), records)


def record_of(directory: Path) -> Record:
    """Raises UsageError when there is no run."""
    run = run_in(directory)
    if run is None:
        raise UsageError(f"{directory} holds no run (there is no run.json)")
    return record_in(directory, run, str(directory))


def write(path: Path, records: Sequence[Record]) -> None:
    """Draw the page. Raises ResourceError."""
    page = render(records)
    with writing("the page", path) as stream:
        stream.write(page)
    say(f"{path}: open it in a browser")

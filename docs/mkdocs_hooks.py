"""What mkdocs asks while it builds the site: links that lead out of docs/, and two pages that are made from the code.

A file of the repository is no page: in the site it is named in place of being linked to. No torch in here.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

OUTSIDE = re.compile(r"(!?)\[([^\]]*)\]\(\.\./([^)#\s]+)(?:#[^)]*)?\)")
CSS = "td:first-child code { white-space: nowrap; }\n"  # a flag in one piece
OF_PYTHON = {
    "A run": ["engine.fit.fit", "engine.artifacts.result.Result", "engine.config.TrainConfig"],
    "Data": ["engine.data.sources.Source", "engine.data.sources.SourceConfig", "engine.data.batch.Batch"],
    "A task of your own": ["engine.task.Task", "tasks.find"],
    "A finished model": ["engine.finished.open_model"],
    "What goes wrong": ["engine.errors.UsageError", "engine.errors.DataError", "engine.errors.ModelError",
                        "engine.errors.DivergedError", "engine.errors.ResourceError", "engine.errors.StoppedError"],
}  # fmt: skip


def on_files(files: Any, config: Any) -> Any:
    """The pages that are made, and the pictures that pages show."""
    made = {"flags.md": flags(), "python-api.md": python_api(), "site.css": CSS}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    pages = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
    for picture in sorted({path for page in pages for is_picture, _, path in OUTSIDE.findall(page) if is_picture}):
        files.append(File.generated(config, f"pictures/{Path(picture).name}", abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files of the repository become their names."""
    return OUTSIDE.sub(named, markdown)


def named(link: re.Match[str]) -> str:
    """What stands in the site where a page links to a file outside docs/. Raises FileNotFoundError where there is none."""
    is_picture, text, path = link.groups()
    if not (ROOT / path).exists():
        raise FileNotFoundError(f"{link[0]} leads nowhere")
    if is_picture:
        return f"![{text}](pictures/{Path(path).name})"
    return f"`{path}`" if text.strip("`") in (path, Path(path).name) else f"{text} (`{path}`)"


def flags() -> str:
    """Every flag of training, of each task and of each command, from the dataclasses that the parser is made of."""
    from engine.config import TrainConfig
    from engine.data.sources import SourceConfig
    from tasks import COMMANDS, TASKS, attribute, flags_of

    parts = ["# Every flag\n\nMade from the code. `--help` of a task or a command shows the same.\n"]
    for title, kind in (("Of every training", TrainConfig), ("Of its data and model", SourceConfig)):
        parts.append(f"## {title}\n\n{table(kind, {})}")
    for name in TASKS:
        parts.append(f"## `--task {name}`\n\n{TASKS[name][2]}\n\n{table(*flags_of(name))}")
    for name, (place, _, text) in COMMANDS.items():
        parts.append(f"## `{name}`\n\n{text}\n\n{table(attribute(place), {})}")
    return "\n".join(parts)


def table(kind: type, defaults: Any) -> str:
    """A row for each field: its flag, its default, what it does; then the defaults of others that a task changes."""
    from engine.settings.fields import in_order

    lines = ["| flag | default | |", "|---|---|---|"]
    for field in in_order(kind):
        default = defaults.get(field.name, field.default if field.default is not dataclasses.MISSING else None)
        shown = "" if default in (None, False) else f"`{default}`"
        text = field.metadata.get("help", "").replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `--{field.name.replace('_', '-')}` | {shown} | {text} |")
    of_others = {
        name: value for name, value in defaults.items() if name not in {field.name for field in dataclasses.fields(kind)}
    }
    changed = ", ".join(f"`--{name.replace('_', '-')} {value}`" for name, value in of_others.items())
    return "\n".join(lines) + (f"\n\nIts own defaults of others: {changed}.\n" if changed else "\n")


def python_api() -> str:
    """What a program calls; mkdocstrings fills it from the docstrings."""
    begin = "[From Python](from-python.md) has a complete program. All of these but the errors: `from plainloop import ...`."
    parts = [f"# The Python API\n\n{begin}\n"]
    for title, names in OF_PYTHON.items():
        parts += [f"## {title}\n", *(f"::: {name}\n    options:\n      heading_level: 3\n" for name in names)]
    return "\n".join(parts)

"""What mkdocs asks while it builds the site: links that lead out of docs/, and two pages that are made from the code.

A file of the repository is no page: in the site it is named in place of being linked to. No torch in here.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from html import unescape
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

OUTSIDE = re.compile(r"(!?)\[([^\]]*)\]\(\.\./([^)#\s]+)(?:#[^)]*)?\)")
INSIDE = re.compile(r"\[([\w-]+\.md)\]\(\1((?:#[^)]*)?)\)")  # a page that is called by its file
CODE = re.compile(r"<code>([^<]*(?<![\w-])--?[a-z][^<]*)</code>")
OPTION = re.compile(r"<[^>]*>|(?<![\w-])--?[a-z][a-z0-9-]*")  # a tag, or an option
BLOCK = re.compile(r'<div class="language-(console|bash|text) highlight">(.*?)</div>', re.DOTALL)
LONGEST_LINE = 160  # of an output whose columns are kept: longer lines are messages, and wrapped
CSS = """
.md-typeset h1 { color: var(--md-default-fg-color); }
.language-console .go { color: var(--md-code-fg-color); }
.wrapped code { white-space: pre-wrap; overflow-wrap: anywhere; }
.wrapped code > span[id] { display: block; padding-left: 2em; text-indent: -2em; }
.wrapped code[data-md-copying] > span[id] { display: contents; }
.wrapped .c1 { display: inline-block; text-indent: 0; }
.md-typeset .option { white-space: nowrap; }
.md-typeset .headerlink { position: absolute; }
.md-typeset table:not([class]) code { word-break: normal; }
@media screen and (max-width: 44.98em) {
  .md-typeset table:not([class]) :is(th, td) { min-width: 0; padding: 0.6em 0.8em; }
}
@media screen and (min-width: 100em) {
  .md-grid { max-width: 80rem; }
  .md-content__inner > :is(p, ul, ol) { max-width: 44rem; }
}
[data-md-color-scheme="slate"] .md-typeset img { background: white; }
"""
FIRST_FOUND = {"troubleshooting.md": 2}  # pages that the search names before others
OF_PYTHON = {
    "A run": ["engine.fit.fit", "engine.artifacts.result.Result", "engine.config.TrainConfig",
              "engine.console.quiet_libraries"],
    "Data": ["engine.data.sources.Source", "engine.data.sources.SourceConfig", "engine.data.batch.Batch"],
    "A task of your own": ["engine.task.Task", "engine.task.Examples", "engine.task.Metrics", "engine.data.collate.Layout",
                           "tasks.find"],
    "A finished model": ["engine.finished.open_model"],
    "A log writer of your own": ["engine.record.writers.Writer"],
    "What goes wrong": ["engine.errors.UserError", "engine.errors.UsageError", "engine.errors.DataError",
                        "engine.errors.MissingColumnError", "engine.errors.ModelError", "engine.errors.DivergedError",
                        "engine.errors.ResourceError", "engine.errors.DistributedError", "engine.errors.DriftError",
                        "engine.errors.StoppedError"],
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


def on_page_markdown(markdown: str, page: Any = None, **_: Any) -> str:
    """Links to files of the repository become their names, and pages that are called by their file get their title."""
    if page is not None:
        page.meta |= {"search": {"boost": FIRST_FOUND.get(page.file.src_uri, 1)}}
        page.meta |= {"hide": ["navigation"]} if page.file.src_uri == "README.md" else {}  # it is the list of all pages
    return INSIDE.sub(lambda link: f"[{title_of(link[1])}]({link[1]}{link[2]})", OUTSIDE.sub(named, markdown))


def on_page_content(html: str, **_: Any) -> str:
    """An option stays in one line, and a long message or command takes several."""
    html = CODE.sub(lambda code: f"<code>{whole_options(code[1])}</code>", html)
    return BLOCK.sub(block, html)


def whole_options(html: str) -> str:
    return OPTION.sub(lambda found: found[0] if found[0][0] == "<" else f'<span class="option">{found[0]}</span>', html)


def block(found: re.Match[str]) -> str:
    """Commands and messages, with lines that are wrapped; an output keeps its columns, and has a bar to move them by."""
    language, code = found.groups()
    if language == "text" and max(map(len, unescape(re.sub(r"<[^>]*>", "", code)).split("\n"))) <= LONGEST_LINE:
        return found[0]
    return f'<div class="language-{language} highlight wrapped">{whole_options(code)}</div>'


def title_of(name: str) -> str:
    """The first heading of a page, as text."""
    path = ROOT / "docs" / name
    return path.read_text(encoding="utf-8").split("\n")[0].removeprefix("# ") if path.exists() else name


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
    """A row for each field, under the headings of ``--help``: its flag, what it does, what it takes, its default; then the
    defaults of others that a task changes."""
    from engine.settings.fields import in_order, traits_of

    types, lines, head = get_type_hints(kind), list[str](), "| flag | what it does |\n|---|---|"
    for field in in_order(kind):
        if (title := traits_of(field).heading) is not None:
            lines += [f"\n### {title[0].upper()}{title[1:]}\n", head]
        lines += [] if lines else [head]
        default = defaults.get(field.name, field.default if field.default is not dataclasses.MISSING else None)
        what = [takes(types[field.name]), "" if default in (None, False) else f"default: `{default}`"]
        text = field.metadata.get("help", "").replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `--{field.name.replace('_', '-')}` | {text}<br><small>{'; '.join(filter(None, what))}</small> |")
    of_others = {
        name: value for name, value in defaults.items() if name not in {field.name for field in dataclasses.fields(kind)}
    }
    changed = ", ".join(f"`--{name.replace('_', '-')} {value}`" for name, value in of_others.items())
    return "\n".join(lines or ["It has no flags of its own."]) + (
        f"\n\nIts own defaults of others: {changed}.\n" if changed else "\n"
    )


def takes(kind: Any) -> str:
    """What a flag takes, by the type of its field: one of some words, a whole number, a number, text; a truth takes nothing."""
    if get_origin(kind) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(kind))
    if get_origin(kind) in (list, tuple):
        return f"{takes(get_args(kind)[0])}, several"
    words = {int: "a whole number", float: "a number", str: "text", bool: ""}
    kinds = [part for part in (get_args(kind) or (kind,)) if part is not type(None)]
    return " or ".join(words[part] if part in words else takes(part) for part in kinds)


def python_api() -> str:
    """What a program calls; mkdocstrings fills it from the docstrings."""
    import plainloop

    names = ", ".join(plainloop.__all__)
    begin = (
        f"[From Python](from-python.md) has a complete program. From one place: `from plainloop import {names}`. The fields of "
        "`TrainConfig` and `SourceConfig` are the [flags](flags.md) of every training, with underscores."
    )
    parts = [f"# The Python API\n\n{begin}\n"]
    for title, names in OF_PYTHON.items():
        parts += [f"## {title}\n", *(f"::: {name}\n    options:\n      heading_level: 3\n" for name in names)]
    return "\n".join(parts)

"""The site: every page has its place, and it builds without a dead link or a missing anchor."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import plainloop
from engine.config import TrainConfig
from engine.errors import UserError
from tasks import COMMANDS, TASKS

ROOT = Path(__file__).parent.parent.parent
SETTINGS = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
MADE = {"flags.md", "python-api.md"}


def test_every_page_stands_behind_a_door():
    nav = SETTINGS.partition("\nnav:\n")[2]
    assert sorted(re.findall(r"([\w-]+\.md)$", nav, flags=re.MULTILINE)) == sorted(
        {path.name for path in (ROOT / "docs").glob("*.md")} | MADE
    )
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    doors = re.findall(r"^  - ([A-Z].*):$", nav, flags=re.MULTILINE)
    assert doors == [title for title in re.findall(r"^## (.*)$", index, flags=re.MULTILINE) if title != "Examples"]
    for door, pages in zip(doors, re.split(r"^  - [A-Z].*:$", nav, flags=re.MULTILINE)[1:], strict=True):
        of_index = set(re.findall(r"\]\(([\w-]+\.md)\)", index.partition(f"\n## {door}\n")[2].partition("\n## ")[0]))
        assert set(re.findall(r"([\w-]+\.md)$", pages, flags=re.MULTILINE)) - MADE == of_index, door


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_what_is_within_a_list_is_indented_by_four(path):
    """mkdocs takes less for a part of the line before, or for a list of its own; GitHub takes both."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"^ {1,3}(?:\||`{3}|[-*] |\d+\. ).*", text, flags=re.MULTILINE) == []


@pytest.mark.slow
def test_it_builds_strictly_and_says_what_there_is(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    flags = (tmp_path / "flags.html").read_text(encoding="utf-8")
    assert all(f">--{name.replace('_', '-')}</span></code>" in flags for name in TrainConfig.__dataclass_fields__)
    assert all(f"<code>{name}</code>" in flags for name in COMMANDS) and all(
        f">--task</span> {name}</code>" in flags for name in TASKS
    )
    api = (tmp_path / "python-api.html").read_text(encoding="utf-8")
    assert 'id="engine.fit.fit"' in api and 'id="engine.task.Task.loss"' in api
    for page in tmp_path.glob("*.html"):
        assert not re.search(r'href="\.\./(engine|tasks|bench|examples|README)', page.read_text(encoding="utf-8")), page.name
    assert "<code>fp32</code>" in flags and "default: <code>16</code>" in flags and ">Optimizer and learning rates" in flags
    assert all(f'id="{place.replace(":", ".")}"' in api for place in plainloop._PLACES.values() if place != "engine:VERSION")
    assert all(f'id="engine.errors.{kind.__name__}"' in api for kind in kinds_below(UserError))
    hidden = (ROOT / "docs/what-trainer-hides.md").read_text(encoding="utf-8")
    begins = re.findall(r"^## .*\n+(\d+)\. ", hidden, flags=re.MULTILINE)  # numbers that xray names
    shown = re.findall(r"<ol(?: start=\"(\d+)\")?>", (tmp_path / "what-trainer-hides.html").read_text(encoding="utf-8"))
    assert [number or "1" for number in shown] == begins and len(begins) > 5
    assert "mlm" in (tmp_path / "search/search_index.json").read_text(encoding="utf-8")


def kinds_below(kind):
    return [
        kind,
        *(each for below in kind.__subclasses__() if below.__module__ == "engine.errors" for each in kinds_below(below)),
    ]


@pytest.fixture
def hooks():
    pytest.importorskip("mkdocs")
    spec = spec_from_file_location("docs_site", ROOT / "docs/mkdocs_hooks.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_link_that_leads_out_becomes_a_name(hooks):
    turn = hooks.on_page_markdown
    assert turn("see [engine/loop.py](../engine/loop.py) and [a](data.md)") == "see `engine/loop.py` and [a](data.md)"
    assert turn("[the rows](../bench/bad_input)") == "the rows (`bench/bad_input`)"
    assert turn("![a](../bench/results/quality-imdb.png)") == "![a](pictures/quality-imdb.png)"
    assert turn("see [data.md](data.md#labels), or [data](data.md)") == "see [Data](data.md#labels), or [data](data.md)"
    with pytest.raises(FileNotFoundError):
        turn("[x](../engine/no_such.py)")


def test_a_line_is_never_broken_within_an_option(hooks):
    turn, option = hooks.on_page_content, '<span class="option">{}</span>'.format
    assert turn("<code>--eval-file</code>, <code>a --eval-file b-c.csv</code>") == (
        f"<code>{option('--eval-file')}</code>, <code>a {option('--eval-file')} b-c.csv</code>"
    )
    assert turn("<code>half-weights</code> --no-code") == "<code>half-weights</code> --no-code"
    command = '<div class="language-bash highlight"><pre><code><span id="__span-0-1">a<span class="w"> </span>--b-c 1\n</span></code></pre></div>'
    assert turn(command) == command.replace("highlight", "highlight wrapped").replace("--b-c", option("--b-c"))


@pytest.mark.parametrize(("longest", "is_wrapped"), [(160, False), (161, True)])
def test_an_output_keeps_its_columns_unless_a_line_is_very_long(hooks, longest, is_wrapped):
    block = f'<div class="language-text highlight"><pre><code><span>{"&lt;" * longest}\n</span>short\n</code></pre></div>'
    assert ("wrapped" in hooks.on_page_content(block)) == is_wrapped

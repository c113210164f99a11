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


@pytest.mark.slow
def test_it_builds_strictly_and_says_what_there_is(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    flags = (tmp_path / "flags.html").read_text(encoding="utf-8")
    assert all(f">--{name.replace('_', '-')}</code>" in flags for name in TrainConfig.__dataclass_fields__)
    assert all(f"<code>{name}</code>" in flags for name in COMMANDS) and all(f"--task {name}</code>" in flags for name in TASKS)
    api = (tmp_path / "python-api.html").read_text(encoding="utf-8")
    assert 'id="engine.fit.fit"' in api and 'id="engine.task.Task.loss"' in api
    for page in tmp_path.glob("*.html"):
        assert not re.search(r'href="\.\./(engine|tasks|bench|examples|README)', page.read_text(encoding="utf-8")), page.name
    assert "<code>fp32</code>" in flags and "default: <code>16</code>" in flags and ">Optimizer and learning rates" in flags
    assert all(f'id="{place.replace(":", ".")}"' in api for place in plainloop._PLACES.values() if place != "engine:VERSION")
    assert all(f'id="engine.errors.{kind.__name__}"' in api for kind in kinds_below(UserError))
    assert "mlm" in (tmp_path / "search/search_index.json").read_text(encoding="utf-8")


def kinds_below(kind):
    return [
        kind,
        *(each for below in kind.__subclasses__() if below.__module__ == "engine.errors" for each in kinds_below(below)),
    ]


def test_a_link_that_leads_out_becomes_a_name():
    pytest.importorskip("mkdocs")
    spec = spec_from_file_location("docs_site", ROOT / "docs/mkdocs_hooks.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    turn = module.on_page_markdown
    assert turn("see [engine/loop.py](../engine/loop.py) and [a](data.md)") == "see `engine/loop.py` and [a](data.md)"
    assert turn("[the rows](../bench/bad_input)") == "the rows (`bench/bad_input`)"
    assert turn("![a](../bench/results/quality-imdb.png)") == "![a](pictures/quality-imdb.png)"
    assert turn("see [data.md](data.md#labels), or [data](data.md)") == "see [Data](data.md#labels), or [data](data.md)"
    assert module.on_page_content("<code>--eval-file</code>, <code>--eval-file a.csv</code>") == (
        '<code class="flag">--eval-file</code>, <code>--eval-file a.csv</code>'
    )
    assert module.on_page_content('<div class="language-bash highlight">') == '<div class="language-bash highlight wrapped">'
    with pytest.raises(FileNotFoundError):
        turn("[x](../engine/no_such.py)")

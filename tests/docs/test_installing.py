"""docs/installing.md: its extras are those of pyproject.toml, its table of versions is that of the results."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from bench import versions

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/installing.md").read_text(encoding="utf-8")


def test_every_extra_is_listed_once_in_the_order_of_pyproject():
    section = PAGE.partition("\n## The extras\n")[2].partition("\n## ")[0]
    firsts = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = [name for cell in firsts for name in re.findall(r"`([a-z0-9-]+)`", cell)]
    assert listed == list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def test_the_versions_are_those_that_were_tried():
    found = versions.table(json.loads((ROOT / "bench/results/versions-cpu.json").read_text()))
    assert found == (ROOT / "bench/results/versions-cpu.md").read_text() and found.partition("\n\n")[2] in PAGE

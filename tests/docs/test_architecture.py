"""The map of the code is that of the code: the tree, and the order of imports."""

from __future__ import annotations

import re
from pathlib import Path

from tests.toys.layers import LAYERS

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
TREE = re.search(r"```\n(run\.py .*?)```", PAGE, re.DOTALL)[1]


def test_every_line_of_the_tree_is_there_and_every_room_of_the_engine_has_its_line():
    folder, named = Path(), set()
    for line in TREE.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = Path() if name == "run.py" else Path(name)
            path = ROOT / name
        else:
            path = ROOT / folder / name
            named.add(path.name.removesuffix(".py"))
        assert path.exists(), line
    rooms = {name for names in LAYERS for name in names}
    assert rooms - named == {"muon", "average"}, "each has a line of its own, or stands beside optimizer.py"


def test_the_order_of_imports_is_the_one_that_is_held():
    written = re.search(r"```\n(atomic .*?)```", PAGE, re.DOTALL)[1].split("< tasks")[0]
    assert [set(step.split()) for step in written.split("<") if step.strip()] == LAYERS


def test_the_tree_of_the_readme_names_what_is_there():
    found = re.findall(r"^\| \[`([\w/.]+)`\]\(([\w/.]+)\) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) >= 10
    for name, target in found:
        assert (ROOT / name).exists() and (ROOT / target).exists(), name

"""What README.md says is so: its two commands, the step it quotes, the flags it names, the figures it gives."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from bench.lessons.command import all_lessons
from bench.quality import tutorials
from engine.config import TrainConfig
from engine.data.sources import SourceConfig
from tasks import COMMANDS, TASKS, attribute, find

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


def test_the_quick_start_is_two_lines():
    lines = README.split("```bash\n")[1].split("```")[0].strip().splitlines()
    assert len(lines) == 2
    set_up = "python3 -m venv --without-pip .venv && python3 -m pip --python .venv install -c constraints.txt '.["
    assert lines[0].startswith(set_up + "offline]' && .venv/bin/python run.py --task yelp ")
    assert lines[1] == set_up + "offline,dev]' && .venv/bin/python -m pytest -n logical"


def test_the_site_begins_with_the_first_line():
    """README.md is no page of the site."""
    first = README.split("```bash\n")[1].split("\n")[0]
    assert f"```bash\n{first}\n```" in (ROOT / "docs/README.md").read_text(encoding="utf-8")


def test_ci_runs_the_second_line():
    """The line .ci/run looks for is there, once."""
    pattern = re.search(r"-E '([^']+)' README.md", (ROOT / ".ci/run").read_text())
    assert pattern is not None
    assert len(re.findall(pattern[1].replace(" .* ", " [^\n]* "), README, flags=re.MULTILINE)) == 1


def test_the_step_is_quoted_as_it_stands():
    from engine import loop

    quoted = README.split("```python\n")[1].split("```")[0]
    assert quoted.strip() == "\n\n\n".join(
        inspect.getsource(part).strip() for part in (loop.forward_backward, loop.accumulate, loop.update, loop.train_step)
    )
    said = re.search(r"is (\d+) lines", README)
    assert said is not None and int(said[1]) == len((ROOT / "engine/loop.py").read_text().splitlines())


def test_what_is_counted_is_counted_right():
    said = re.search(r"The second lists (\d+) experiments", README)
    assert said is not None and int(said[1]) == len(all_lessons())
    said = re.search(r"has all (\d+) things", README)
    things = re.findall(r"^(\d+)\. \*\*", (ROOT / "docs/what-trainer-hides.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert said is not None and int(said[1]) == len(things) == int(things[-1])


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_every_link_leads_to_a_file_and_a_heading(name):
    """Pages of docs/ are checked by mkdocs; these are not among them."""
    for path, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", (ROOT / name).read_text(encoding="utf-8")):
        target = ROOT / (path or name)
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], (path, anchor)


def test_the_tutorials_are_as_they_were_measured():
    """The commands, and what came out: at least 200 held-out rows, three standard errors above an answer that is always the same."""
    rows = json.loads((tutorials.RESULTS / "tutorials-cpu.json").read_text())["rows"]
    assert {name: (row["train"], row["use"]) for name, row in rows.items()} == {
        name: (tutorial.train, tutorial.use) for name, tutorial in tutorials.TUTORIALS.items()
    }
    assert all(row["above_trivial"] and row["rows"] >= 200 for row in rows.values())
    assert tutorials.table(rows) in README
    assert f"describes {rows['captioning']['value']:.1%} of the 324" in (ROOT / "docs/tasks-captioning.md").read_text()


def test_the_lesson_shown_points_to_the_line_that_it_quotes():
    [(file, line, quoted)] = re.findall(r"^  here     (\S+):(\d+)   (.+)$", README, flags=re.MULTILINE)
    assert quoted in (ROOT / file).read_text().splitlines()[int(line) - 1]


def test_every_flag_named_is_a_flag():
    kinds = [TrainConfig, SourceConfig, *(find(task).Options for task in TASKS), *(attribute(c[0]) for c in COMMANDS.values())]
    known = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    known |= {
        "config",
        "save_config",
        "print_completion",
        "help",
        "without_pip",
        "python",
        "nproc_per_node",
    }  # the parser's own, venv's, pip's, torchrun's
    named = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]+)", README)}
    assert named <= known, named - known


def test_the_parity_figures_come_from_the_results():
    for name in ("imdb", "stars"):
        document = json.loads((ROOT / f"bench/results/parity-{name}.json").read_text())
        theirs, ours = document["steps"], document["plainloop"]["steps"]
        row = next(line for line in README.splitlines() if line.startswith(f"| {name}"))
        for column in ("loss", "grad_norm", "learning_rate"):
            equal = sum(a[column] == b[column] for a, b in zip(ours, theirs, strict=True))
            assert f"{equal} of {len(theirs)}" in row, (name, column, equal)
        assert f"{document['eval_accuracy']:.4f}" in row and f"{document['plainloop']['eval_accuracy']:.4f}" in row


def test_constraints_pin_what_pyproject_allows():
    pins = dict(
        line.replace("_", "-").lower().split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    for requirement in [*project["dependencies"], *extras]:
        name = re.split(r"[\[<>=]", requirement)[0]
        assert name == "plainloop" or name in pins, f"{name} is not pinned"
    assert pins["torch"] == "2.13.0", "no local version: the same pin brings CUDA where there is one"


def test_every_dependency_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text()
    for line in re.findall(r'^    "[a-z].*$', text.split("[project.scripts]")[0], flags=re.MULTILINE):
        if "ruff" not in line and "mypy" not in line and "pre-commit" not in line and "pytest>=" not in line:
            assert "#" in line, line


def test_the_repository_names_no_machine():
    """No paths of a developer's machine in tracked files."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in listed:
        text = (ROOT / name).read_text(errors="replace")
        assert "/root/" not in text.replace("'/root/'", "").replace('"/root/"', ""), name

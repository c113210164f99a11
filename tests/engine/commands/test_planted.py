"""An escape sequence and a script in each text of each file of a stranger's run: neither reaches the terminal or a page raw."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import run
from bench.reliability.mutations import ESCAPE, leaves
from tests.toys.cli import command
from tests.toys.pages import parsed

SCRIPT = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'"
PLANT = ESCAPE + SCRIPT
READERS = {  # the commands that read each file
    "run.json": ("report", "compare", "predict", "evaluate", "push"), "metrics.jsonl": ("report", "compare"),
    "errors.csv": ("report", "compare"), "profile/profile.json": ("report", "compare"),
    "config.json": ("predict", "evaluate", "push"), "generation_config.json": ("predict", "push"),
    "tokenizer_config.json": ("predict", "evaluate", "push"), "adapter_config.json": ("predict", "push"),
    "README.md": ("push",),
}  # fmt: skip


def in_texts(document: Any) -> Iterator[Any]:
    """The JSON value with the plant in each text, one after the other, and then in each name."""
    for *above, key in leaves(document):
        for as_name in (False, True):
            changed = json.loads(json.dumps(document))
            inner = changed
            for step in above:
                inner = inner[step]
            if not as_name and isinstance(inner[key], str):
                inner[key] += PLANT
                yield changed
            elif as_name and isinstance(inner, dict):
                inner[f"{key}{PLANT}"] = inner.pop(key)
                yield changed


def in_cells(text: str) -> Iterator[str]:
    """The CSV text with the plant in each cell of its header and its first row."""
    rows = list(csv.reader(io.StringIO(text, newline="")))[:3]
    for row in range(2):
        for column in range(len(rows[row])):
            changed = [[*cells] for cells in rows]
            changed[row][column] += PLANT
            stream = io.StringIO(newline="")
            csv.writer(stream).writerows(changed)
            yield stream.getvalue()


def planted(path: Path) -> Iterator[str]:
    """The contents of the file with the plant in one place each."""
    text = path.read_text()
    if path.suffix == ".csv":
        yield from in_cells(text)
    elif path.suffix == ".md":
        yield text + PLANT
    elif path.suffix == ".jsonl":
        lines = text.splitlines()
        for at in (0, len(lines) - 1):
            yield from (
                "\n".join([*lines[:at], json.dumps(line), *lines[at + 1 :]]) + "\n" for line in in_texts(json.loads(lines[at]))
            )
    else:
        yield from (json.dumps(changed) for changed in in_texts(json.loads(text)))


@pytest.fixture(scope="module")
def runs(project, tmp_path_factory) -> Path:
    """A finished run with a page of mistakes and a profile, and an adapter's."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAINLOOP_CACHE", str(folder / "cache"))
        assert run.main(command(project, "--output-dir", str(folder / "finished"), "--profile", "1", "--batch-size", "4")) == 0
        assert run.main(command(project, "--output-dir", str(folder / "adapter"), "--lora", "--batch-size", "60")) == 0
        errors = ["--errors", str(folder / "finished/errors.csv")]
        assert run.main(["evaluate", "--model", str(folder / "finished"), "--device", "cpu", *errors]) == 0
    for name in ("finished", "adapter"):
        shutil.rmtree(folder / name / "checkpoints")
    (folder / "finished/generation_config.json").write_text('{"_from_model_config": true, "transformers_version": "5.23.0"}')
    return folder


def commands(folder: Path, other: Path, page: Path) -> dict[str, list[str]]:
    """The command lines by their names; ``page``: what compare writes."""
    model = ["--model", str(folder), "--device", "cpu"]
    return {
        "report": ["report", "--model", str(folder)], "compare": ["compare", str(other), str(folder), "--output", str(page)],
        "predict": ["predict", *model, "w0 w1"], "evaluate": ["evaluate", *model, "--max-eval-examples", "2"],
        "push": ["push", "--model", str(folder), "--dry-run"],
    }  # fmt: skip


def harms(page: Path) -> list[str]:
    """What a page must not hold: another script than its own, a handler, a picture, a control character."""
    text = page.read_text()
    tags = parsed(text)
    found = [
        f"{tag} {attributes}"
        for tag, attributes in tags
        if tag == "img" or any(name.startswith("on") for name in dict(attributes))
    ]
    found += ["scripts"] if sum(tag == "script" for tag, _ in tags) != 1 else []
    return found + [repr(c) for c in set(text) if (unicodedata.category(c) == "Cc" and c not in "\n\t") or c == "\u202e"]


@pytest.mark.parametrize("every", [15, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", READERS)
def test_nothing_planted_in_a_file_reaches_the_terminal_or_a_page_raw(name, every, runs, tmp_path, capsys):
    """Each place is tried by the slow tests; one in fifteen, and the first and the last, by all."""
    source = runs / ("adapter" if name == "adapter_config.json" else "finished")
    folder = Path(shutil.copytree(source, tmp_path / "run"))
    lines = commands(folder, runs / "finished", tmp_path / "compare.html")
    document = json.loads((source / "run.json").read_text())
    tried = 0
    places = list(planted(source / name))
    for content in places if every == 1 or len(places) < 20 else [*places[::every], places[-1]]:
        (folder / name).write_text(content)
        if name in document["files"]:  # as if it had been saved so: a push looks into it
            document["files"][name] = hashlib.sha256(content.encode()).hexdigest()
            (folder / "run.json").write_text(json.dumps(document))
        for reader in READERS[name]:
            capsys.readouterr()
            code = run.main(lines[reader])
            said = capsys.readouterr()
            what = f"{reader}: {content[max(0, content.find('owned') - 90) :][:150]!r}"
            assert code in (0, 2, 3, 4), what
            assert all(c.isprintable() or c in "\n\t\r" for c in said.out + said.err), what
            page = {"report": folder / "report.html", "compare": tmp_path / "compare.html"}.get(reader)
            if page is not None and code == 0:
                assert harms(page) == [], what
        tried += 1
    assert tried >= {"README.md": 1, "errors.csv": 8, "generation_config.json": 2}.get(name, 3)


def test_the_search_for_harm_finds_it(tmp_path):
    for harm in (
        "<script>1</script><script>2</script>",
        "<script>1</script><img src=x>",
        "<script>1</script><p onclick=x>",
        "<script>1</script>\x1b",
    ):
        (tmp_path / "page.html").write_text(harm)
        assert harms(tmp_path / "page.html"), harm

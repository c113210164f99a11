"""examples/ are settings that are taken as they stand, and docs/README.md lists every page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import run
from bench.toys import tiny
from engine.config import TrainConfig
from engine.data.sources import SourceConfig
from engine.settings.parser import parse, read_settings, task_named
from tasks import flags_of

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = sorted((ROOT / "examples").iterdir())


def test_there_are_five():
    assert len(EXAMPLES) == 5 and {path.suffix for path in EXAMPLES} == {".yaml"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_is_taken_and_says_only_what_is_no_default(path):
    name = task_named(["--config", str(path)])
    flags, defaults = flags_of(name)
    kinds = [TrainConfig, SourceConfig, flags]
    filled = parse(["--config", str(path)], "run.py", kinds, defaults)
    plain = parse(["--task", name], "run.py", kinds, defaults)
    merged, before = ({key: value for part in parts for key, value in vars(part).items()} for parts in (filled, plain))
    columns = {"text_column", "label_column"}  # said for whoever reads it
    for key, value in read_settings(path).values.items():
        assert key in ("task", *columns) or merged[key] != before[key], f"{key}: {value} is the default"
    told = re.findall(r"--config \S+.*$", path.read_text(), flags=re.MULTILINE)
    assert told and all(shlex.split(words)[1] == f"examples/{path.name}" for words in told)
    assert all(shlex.split(words)[2:4] == ["--train-file", merged["train_file"]] for words in told if "--train-file" in words)


def test_the_first_plans_a_run(tmp_path, monkeypatch, capsys):
    """On a file with rare classes, and a tiny model: --explain goes through all that comes before training."""
    monkeypatch.chdir(tmp_path)
    tiny.save_model(tmp_path / "model")
    tiny.save_texts(tmp_path, mine=80)
    path = str(ROOT / "examples/own-classes.yaml")
    assert run.main(["--config", path, "--model", "model", "--device", "cpu", "--explain"]) == 0
    assert "10 epochs" in capsys.readouterr().out and not (tmp_path / "runs").exists()


def test_the_index_lists_every_page_once():
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    listed = re.findall(r"\]\(([\w-]+\.md)\)", index)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md")
    assert set(re.findall(r"\]\(\.\./examples/([\w-]+\.yaml)\)", index)) == {path.name for path in EXAMPLES}

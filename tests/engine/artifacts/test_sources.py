"""A finished run is not taken for another one's: the model that it began with, or the code of its task, replaced in place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import run
from bench.toys import tiny
from engine.artifacts.describe import sources_of
from engine.data.model_files import weights_fingerprint
from engine.data.sources import Source, SourceConfig
from engine.data.taken import TakenModel
from engine.errors import ModelError
from engine.settings.own import code_fingerprint
from engine.task import NoOptions
from tasks.classification.task import Classification
from tests.toys.cli import command, fails

TASK = """
from tasks.classification.task import Classification, ClassificationOptions

class Mine(Classification):
    Options = ClassificationOptions

    def loss(self, outputs, batch):
        return super().loss(outputs, batch) * {factor}
"""


@pytest.fixture
def place(tmp_path) -> Path:
    tiny.save_model(tmp_path / "model")
    tiny.save_texts(tmp_path, train=24, eval=12)
    (tmp_path / "mine.py").write_text(TASK.format(factor=1.0))
    return tmp_path


def arguments(place: Path) -> list[str]:
    return [*command(place, "--output-dir", str(place / "run"))[2:], "--task", f"{place / 'mine.py'}:Mine"]


def assert_skipped(place: Path, capsys) -> None:
    assert run.main(arguments(place)) == 0
    assert "training skipped" in capsys.readouterr().out


def test_a_replaced_model_or_task_is_not_skipped(place, capsys):
    assert run.main(arguments(place)) == 0
    assert set(json.loads((place / "run/run.json").read_text())["sources"]) == {"model", "task"}
    assert_skipped(place, capsys)
    weights = place / "model/model.safetensors"
    for path, other in ((weights, weights.read_bytes()[:-1] + b"\x3f"), (place / "mine.py", TASK.format(factor=2.0).encode())):
        before = path.read_bytes()
        path.write_bytes(other)
        code, line = fails(arguments(place), capsys)
        assert code == 2 and "holds a run with other files of the model, or of the task, than those there now (" in line
        assert f"({'model' if path == weights else 'task'}: '" in line and "--overwrite" in line
        path.write_bytes(before)
        assert_skipped(place, capsys)


def test_what_is_not_the_model_may_change(place, capsys):
    """A finished run's directory, from which another starts: its card, its report, its log."""
    assert run.main(arguments(place)) == 0
    for name in ("README.md", "report.html", "metrics.jsonl", "run.json"):
        (place / "model" / name).write_text("{}")
    (place / "model/run.json").unlink()
    assert_skipped(place, capsys)


def test_a_run_of_an_older_version_says_nothing_of_its_sources(place, capsys):
    assert run.main(arguments(place)) == 0
    document = json.loads((place / "run/run.json").read_text())
    del document["sources"]
    (place / "run/run.json").write_text(json.dumps(document))
    (place / "mine.py").write_text(TASK.format(factor=2.0))
    assert_skipped(place, capsys)


def test_a_resumed_run_whose_task_has_changed_says_so(place, capsys):
    assert run.main([*arguments(place), "--max-minutes", "0.0001"]) == 143
    capsys.readouterr()
    (place / "mine.py").write_text(TASK.format(factor=2.0))
    assert run.main([*arguments(place), "--resume"]) == 0
    assert "warning: the file of the task has changed since the run began" in capsys.readouterr().err


def source(**settings) -> SimpleNamespace:
    return SimpleNamespace(source=Source(SourceConfig(**settings)))


def test_each_file_of_a_model_counts(tmp_path):
    folder = tiny.save_model(tmp_path / "m")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text("{}")
    found = {sources_of(source(model=str(folder)))["model"]}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 4
    for path in files:
        before = path.read_bytes()
        path.write_bytes(before + b" ")
        found.add(sources_of(source(model=str(folder)))["model"])
        path.write_bytes(before)
    assert len(found) == 1 + len(files)
    (folder / "broken.json").symlink_to("nowhere")
    with pytest.raises(ModelError, match="cannot be read"):
        sources_of(source(model=str(folder)))


def test_a_model_of_the_hub_is_known_by_its_commit(monkeypatch):
    task = source(model="some/name")
    assert sources_of(task) == {}
    task.source.taken_model = TakenModel("some/name", "Hub model some/name", "some/name")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    assert sources_of(task) == {}
    cached = "/hub/models--some--name/snapshots/abc/config.json"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: cached)
    assert sources_of(task) == {"model": "abc"}


def test_only_code_that_is_not_ours_has_a_fingerprint():
    assert code_fingerprint(Classification) == code_fingerprint(torch.nn.Linear) == code_fingerprint(dict) == ""
    assert code_fingerprint(NoOptions) == "" != code_fingerprint(type("Mine", (Classification,), {"__module__": __name__}))


def test_weights_are_read_once_for_all_that_is_said_of_them(tmp_path, monkeypatch):
    """What a run starts from, and what an adapter stands on: one hash of each file, as long as it stays as it is."""
    folder = tiny.save_model(tmp_path / "m")
    read = []
    whole = hashlib.file_digest
    monkeypatch.setattr(
        "hashlib.file_digest", lambda stream, kind: (read.append(Path(stream.name).name), whole(stream, kind))[1]
    )
    first = sources_of(source(model=str(folder)))["model"], weights_fingerprint(str(folder), None)
    assert sorted(read) == sorted(path.name for path in folder.iterdir())
    assert (sources_of(source(model=str(folder)))["model"], weights_fingerprint(str(folder), None)) == first
    assert len(read) == len([*folder.iterdir()])
    tiny.bert(seed=1).save_pretrained(folder)
    again = sources_of(source(model=str(folder)))["model"], weights_fingerprint(str(folder), None)
    assert again[0] != first[0] and again[1] != first[1]
    (folder / "config.json").write_text("{}")
    assert weights_fingerprint(str(folder), None) == again[1], "of the weights alone"

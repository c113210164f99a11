"""The model is saved first, and nothing beside it can keep it from being saved."""

from __future__ import annotations

import json
import os
import shutil
import stat

import pytest

from bench.toys import tiny
from engine.artifacts import card
from engine.checkpoint.store import sha256
from engine.errors import ResourceError, UsageError
from engine.fit import fit
from engine.record.run import Run
from tests.toys.cli import command, fails
from tests.toys.runs import config, make_task

NAMES = ["README.md", "errors.csv", "report.html", "config.json", "model.safetensors", "metrics.jsonl", "run.json", ".lock"]


def at_the_end(monkeypatch, do):
    """``do`` happens when all is trained and nothing is saved."""
    close = Run.close
    monkeypatch.setattr(Run, "close", lambda self: (close(self), do()))


def is_finished(folder) -> bool:
    return json.loads((folder / "run/run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_in_the_way_is_told_before_the_first_step(tmp_path, monkeypatch, name, kind):
    fit(make_task(), config(tmp_path, max_steps=1), tiny.bert())
    path, victim = tmp_path / "run" / name, tmp_path / "victim"
    path.unlink(missing_ok=True)
    victim.write_text("mine")
    {"folder": path.mkdir, "link": lambda: path.symlink_to(victim), "pipe": lambda: os.mkfifo(path)}[kind]()
    monkeypatch.setattr("engine.fit.train_all", lambda *_: pytest.fail("it trains"))
    for flags in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(UsageError, match=f"{name} is (a link|no regular file), and the run writes a file of this name"):
            fit(make_task(), config(tmp_path, max_steps=1, **flags), tiny.bert())
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["checkpoints", "profile", "tensorboard"])
def test_a_link_where_a_folder_of_the_run_stands_is_told_too(tmp_path, name):
    (tmp_path / "victim").mkdir()
    (tmp_path / "run").mkdir()
    fit(make_task(), config(tmp_path, max_steps=1), tiny.bert())
    shutil.rmtree(tmp_path / "run" / name, ignore_errors=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "victim")
    with pytest.raises(UsageError, match=f"{name} is a link, and the run writes a folder of this name"):
        fit(make_task(), config(tmp_path, max_steps=1, overwrite=True), tiny.bert())


def test_a_name_that_is_not_utf_8_is_told_before_the_first_step(tmp_path, monkeypatch):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    monkeypatch.setattr("engine.fit._fit", lambda *_: pytest.fail("it begins"))
    with pytest.raises(UsageError, match=r"--output-dir .* is not UTF-8"):
        fit(make_task(), config(folder), tiny.bert())
    monkeypatch.chdir(folder)  # it stands in no setting then
    with pytest.raises(UsageError, match=r"--output-dir .* is not UTF-8"):
        fit(make_task(), config(tmp_path).__class__(output_dir="run", device="cpu"), tiny.bert())


@pytest.mark.parametrize("flag", ["--train-file", "--eval-file"])
def test_nor_are_data_of_such_a_name_trained_on(project, tmp_path, capsys, flag):
    file = shutil.copy(project / "train.csv", tmp_path / os.fsdecode(b"\xff.csv"))
    arguments = command(project, "--output-dir", str(tmp_path / "run"))
    arguments[arguments.index(flag) + 1] = str(file)
    code, line = fails(arguments, capsys)
    assert code == 2 and f"{flag} " in line and "is not UTF-8" in line and not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["folder", "link"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_what_comes_to_stand_in_the_way_is_moved_aside(tmp_path, monkeypatch, capsys, name, kind):
    victim, path = tmp_path / "victim", tmp_path / "run" / name
    victim.write_text("mine")

    def block():
        path.mkdir() if kind == "folder" else path.symlink_to(victim)

    at_the_end(monkeypatch, block)
    result = fit(make_task(), config(tmp_path), tiny.bert())
    assert is_finished(tmp_path) and path.is_file() and not path.is_symlink() and victim.read_text() == "mine"
    assert result.model is not None and f"{name}.moved-" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [lambda run: (run / "README.md").mkdir(), lambda run: (run / "report.html").mkdir(), lambda run: (run / "errors.csv").mkdir(),
     lambda run: (run / "errors.csv").write_bytes(b"a,\xff\n"), lambda run: (run / "metrics.jsonl").unlink() or (run / "metrics.jsonl").mkdir(),
     lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\n"),
     lambda run: (run / "metrics.jsonl").write_text("3\n[]\n")],
    ids=["README", "report", "errors", "broken errors", "a folder for a log", "bytes for a log", "numbers for a log"],
)  # fmt: skip
def test_no_page_can_keep_the_model_from_being_saved(tmp_path, monkeypatch, capsys, damage):
    at_the_end(monkeypatch, lambda: damage(tmp_path / "run"))
    fit(make_task(), config(tmp_path), tiny.bert())
    assert is_finished(tmp_path) and (tmp_path / "run/model.safetensors").is_file()
    assert "could not be written" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".tmp")]


def test_the_model_is_there_when_the_pages_are_made(tmp_path, monkeypatch):
    seen = []
    make = card.make
    monkeypatch.setattr(card, "make", lambda *given: (seen.append(is_finished(tmp_path)), make(*given))[1])
    fit(make_task(), config(tmp_path), tiny.bert())
    assert seen == [True]
    files = json.loads((tmp_path / "run/run.json").read_text())["files"]
    assert files == {name: sha256(tmp_path / "run" / name) for name in files} and "model.safetensors" in files


def test_the_weights_have_the_mode_of_the_other_files(tmp_path):
    """safetensors makes its file for its user alone, and another would be told that there is none."""
    fit(make_task(), config(tmp_path), tiny.bert())
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert len(modes) == 1 and modes.pop() & 0o004


def test_a_disk_that_is_full_at_the_end_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.atomic.os.replace", full)
    at_the_end(monkeypatch, lambda: None)
    with pytest.raises((ResourceError, OSError)):
        fit(make_task(), config(tmp_path), tiny.bert())
    assert not list(tmp_path.rglob(".tmp*"))

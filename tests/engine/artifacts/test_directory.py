"""Whose a directory is: the same run again, another one, somebody else's files, two runs at once."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

import run
from bench.toys import tiny
from engine.errors import DataError, UsageError
from engine.fit import fit
from tests.toys.cli import command, fails
from tests.toys.runs import config, make_task, unfinish


def test_the_same_again_is_skipped_and_another_is_refused(tmp_path, capsys):
    fit(make_task(), config(tmp_path), tiny.bert())
    weights = (tmp_path / "run/model.safetensors").stat().st_mtime_ns
    again = fit(make_task(), config(tmp_path, log_steps=5, workers=1), tiny.bert())
    assert again.skipped and "training skipped" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"learning_rate: 0.001 -> 0.002.*--overwrite"):
        fit(make_task(), config(tmp_path, learning_rate=2e-3), tiny.bert())
    with pytest.raises(DataError, match=r"train: other rows \(40 then, 41 now\)"):
        fit(tiny.TokenTask(train=tiny.token_rows(41), evaluation=tiny.token_rows(21, seed=5)), config(tmp_path), tiny.bert())
    assert weights == (tmp_path / "run/model.safetensors").stat().st_mtime_ns
    fit(make_task(), config(tmp_path, learning_rate=2e-3, overwrite=True), tiny.bert())
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["learning_rate"] == 2e-3


def test_a_directory_that_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").write_text("nine years of work")
    with pytest.raises(UsageError, match="not empty"):
        fit(make_task(), config(tmp_path), tiny.bert())
    with pytest.raises(UsageError, match="not empty"):
        fit(make_task(), config(tmp_path, overwrite=True), tiny.bert())
    assert (tmp_path / "run/thesis.tex").read_text() == "nine years of work"


OTHERS = {
    "metrics.jsonl": '{"acc": 1}\n',
    "model.safetensors": "weights",
    "config.json": "{}",
    "README.md": "of another program",
}


@pytest.mark.parametrize("marker", ["metrics.jsonl", ".lock", "run.json", "checkpoints/step-00000001/weights"])
def test_the_folder_of_another_program_is_not_taken_for_a_run(tmp_path, marker):
    """A log, a lock or a run.json of somebody else, and a model beside it: nothing is replaced, with --overwrite or without."""
    contents = OTHERS | {marker: OTHERS.get(marker, '{"mine": 1}')}
    for name, content in contents.items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text(content)
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(UsageError, match="not empty and holds no run"):
            fit(make_task(), config(tmp_path, **flags), tiny.bert())
    found = {str(p.relative_to(tmp_path / "run")): p.read_text() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert found == contents


def test_overwrite_deletes_only_what_the_run_wrote(tmp_path):
    fit(make_task(), config(tmp_path, write_to="tensorboard"), tiny.bert())
    run = tmp_path / "run"
    kept = [
        "my_embeddings.safetensors",
        "errors.csv",
        "vocab_of_mine.txt",
        "tensorboard/notes.txt",
        "profile/mine.json",
        "thesis.tex",
    ]
    for name in kept:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(name)
    (run / "model-00001-of-00002.safetensors").write_text("of an older, larger run")
    fit(make_task(), config(tmp_path, learning_rate=2e-3, overwrite=True), tiny.bert())
    assert {name: (run / name).read_text() for name in kept} == {name: name for name in kept}
    assert not (run / "model-00001-of-00002.safetensors").exists() and not list(run.glob("tensorboard/events*"))
    assert "mistakes" not in (run / "report.html").read_text(), "errors.csv is of the model before"


@pytest.mark.parametrize("at", ["discard_all", "make_run", "write_run"])
def test_killed_while_it_overwrites_it_is_still_a_run(tmp_path, monkeypatch, at):
    """And never one that goes on from the checkpoints of the one before."""
    from engine import fit as module
    from engine.artifacts import directory

    fit(make_task(), config(tmp_path), tiny.bert())
    new = config(tmp_path, learning_rate=2e-3, overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(directory if at == "discard_all" else module, at, killed)
        with pytest.raises(KeyboardInterrupt):
            fit(make_task(), new, tiny.bert())
    if at == "discard_all":  # nothing has gone yet: it is the older run, not finished
        with pytest.raises(UsageError, match="unfinished run"):
            fit(make_task(), config(tmp_path, learning_rate=2e-3), tiny.bert())
        fit(make_task(), config(tmp_path, resume=True), tiny.bert())
        assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["learning_rate"] == 1e-3
    fit(make_task(), new if at == "discard_all" else config(tmp_path, learning_rate=2e-3), tiny.bert())
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["learning_rate"] == 2e-3
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])["step"] == 3


def killed(*_):
    raise KeyboardInterrupt


def test_killed_before_run_json_is_written_leaves_nothing_in_the_way(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("engine.fit.write_run", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(make_task(), config(tmp_path, write_to="tensorboard"), tiny.bert())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "metrics.jsonl"}
    fit(make_task(), config(tmp_path), tiny.bert())


def test_a_folder_named_checkpoints_is_not_taken_for_a_run(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/mine.pt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        fit(make_task(), config(tmp_path, overwrite=True), tiny.bert())
    assert (tmp_path / "run/checkpoints/mine.pt").exists()


def test_overwrite_removes_nothing_before_everything_else_is_right(tmp_path):
    fit(make_task(), config(tmp_path), tiny.bert())
    with pytest.raises(UsageError, match="is not computed"):
        fit(make_task(), config(tmp_path, overwrite=True, best_metric="bleu"), tiny.bert())
    assert fit(make_task(), config(tmp_path), tiny.bert()).skipped, "the finished run is still there"


def test_two_runs_cannot_share_a_directory(tmp_path):
    """The lock is the process's own, so the other run is another process."""
    import subprocess
    import sys

    from engine.artifacts.directory import locked

    code = (
        "import fcntl, sys; stream = open('.lock', 'a'); fcntl.lockf(stream, fcntl.LOCK_EX); print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="is in use by another run"), locked(tmp_path):
            pass
        other.communicate("\n")
    with (
        locked(tmp_path),
        subprocess.Popen(
            [sys.executable, "-c", code.replace("LOCK_EX", "LOCK_EX | fcntl.LOCK_NB")],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        ) as other,
    ):
        assert "BlockingIOError" in other.communicate()[1]


def test_what_a_killed_process_has_left_half_done_goes_at_the_start(tmp_path):
    fit(make_task(), config(tmp_path), tiny.bert())
    unfinish(tmp_path)
    left = [
        tmp_path / "run" / name
        for name in ("checkpoints/.tmp-step-00000099", "checkpoints/.dead-step-00000001", ".tmp-model-x")
    ]
    for folder in left:
        folder.mkdir()
        (folder / "half").write_bytes(b"half")
    kept = tmp_path / "run/.of-the-user"
    kept.mkdir()
    fit(make_task(), config(tmp_path, resume=True), tiny.bert())
    assert not any(folder.exists() for folder in left) and kept.exists()


def test_the_output_directory_may_lie_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fit(make_task(), dataclasses.replace(config(tmp_path, epochs=1), output_dir="~/run"), tiny.bert())
    assert (tmp_path / "run/run.json").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "README.md"])
def test_data_that_the_run_would_write_anew_are_refused(project, tmp_path, capsys, name):
    """--overwrite empties the log, and what was trained on would be gone."""
    shutil.copytree(project / "run", tmp_path / "run")
    before = (tmp_path / "run" / name).read_bytes()
    flags = ["--train-file", f"{tmp_path / 'run' / name}:0.5,{project / 'train.csv'}:0.5"]
    arguments = command(project, "--output-dir", str(tmp_path / "run"), "--overwrite")
    at = arguments.index("--train-file")
    code, line = fails([*arguments[:at], *flags, *arguments[at + 2 :]], capsys)
    assert code == 2 and f"{name} is a file of the run that is written anew there: copy it first" in line
    assert (tmp_path / "run" / name).read_bytes() == before


def test_the_mistakes_that_are_trained_on_outlive_overwrite(project, tmp_path):
    """errors.csv of a run, mended by hand, is what the next one in its place learns from."""
    shutil.copytree(project / "run", tmp_path / "run")
    mistakes = shutil.copy(project / "train.csv", tmp_path / "run/errors.csv")
    arguments = command(project, "--output-dir", str(tmp_path / "run"), "--max-steps", "1", "--overwrite")
    arguments[arguments.index("--train-file") + 1] = str(mistakes)
    assert run.main(arguments) == 0
    assert (tmp_path / "run/errors.csv").read_bytes() == (project / "train.csv").read_bytes()

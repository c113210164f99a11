"""--write-to: what arrives there is what metrics.jsonl holds. TensorBoard's files are read back by TensorBoard; W&B and trackio
are stand-ins that take the calls their documentation names, and refuse others."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

import run
from bench.toys import tiny
from engine.config import TrainConfig
from engine.errors import StoppedError, UsageError
from engine.fit import fit
from engine.record.writers import Writers, names_in, numbers_of
from tests.toys.killed import killed_after

SECRET = "hf_" + "s" * 34


def make(folder, name="run", **changes) -> list[dict]:
    """A run of 10 steps; its metrics.jsonl."""
    settings = {"batch_size": 8, "epochs": 2, "learning_rate": 1e-3, "device": "cpu", "log_steps": 2}
    task = tiny.TokenTask(train=tiny.token_rows(40), evaluation=tiny.token_rows(21, seed=5))
    fit(task, TrainConfig(**settings | changes, output_dir=str(folder / name)), tiny.bert())
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def expected(lines: list[dict], tag: str) -> list[tuple[int, float]]:
    kind, name = tag.split("/")
    if kind == "seconds":
        return [(line["step"], line["seconds"][name]) for line in lines if "seconds" in line]
    return [(line["step"], line[name]) for line in lines if line["kind"] == kind and line.get(name) is not None]


def in_tensorboard(folder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_every_number(tmp_path):
    pytest.importorskip("tensorboard")
    lines = make(tmp_path, write_to="tensorboard")
    found = in_tensorboard(tmp_path / "run")
    assert {
        "train/loss",
        "train/learning_rate",
        "train/padding_waste",
        "eval/accuracy",
        "epoch/loss",
        "seconds/forward",
    } <= set(found)
    for tag, values in found.items():
        wanted = expected(lines, tag)
        assert [step for step, _ in values] == [step for step, _ in wanted], tag
        assert [value for _, value in values] == pytest.approx([value for _, value in wanted], rel=1e-6), tag


def test_a_resumed_run_stands_there_once(tmp_path):
    """Killed at step 9, after its lines of steps 6 and 8: the checkpoint of step 5 is what it continues from."""
    pytest.importorskip("tensorboard")
    with killed_after(9):
        make(tmp_path, write_to="tensorboard")
    lines = make(tmp_path, write_to="tensorboard", resume=True)
    for tag in ("train/loss", "eval/accuracy", "epoch/loss"):
        assert [step for step, _ in in_tensorboard(tmp_path / "run")[tag]] == [step for step, _ in expected(lines, tag)], tag


def test_overwriting_begins_anew(tmp_path):
    pytest.importorskip("tensorboard")
    make(tmp_path, write_to="tensorboard")
    make(tmp_path, overwrite=True, learning_rate=2e-3)
    assert not (tmp_path / "run/tensorboard").exists()


class WandBStandIn(ModuleType):
    """wandb.init(project, name, dir, config, settings) gives a run with log(data, step) and finish()."""

    def __init__(self):
        super().__init__("wandb")
        self.begun, self.logged, self.finished = None, [], 0

    def Settings(self, *, console, disable_git, disable_code):
        return SimpleNamespace(console=console, disable_git=disable_git, disable_code=disable_code)

    def init(self, *, project, name, dir, config, settings):
        assert (settings.console, settings.disable_git, settings.disable_code) == ("off", True, True)
        self.begun = {"project": project, "name": name, "dir": dir, "config": config}
        return SimpleNamespace(log=self.log, finish=self.finish)

    def log(self, data, *, step):
        assert not self.logged or step >= self.logged[-1][0], "W&B drops steps that go back"
        self.logged.append((step, data))

    def finish(self):
        self.finished += 1


class TrackioStandIn(ModuleType):
    """trackio.init(project, name, config, resume), trackio.log(metrics, step), trackio.finish()."""

    def __init__(self):
        super().__init__("trackio")
        self.begun, self.logged, self.finished = None, [], 0

    def init(self, *, project, name, config, resume):
        assert resume in ("must", "allow", "never")
        self.begun = {"project": project, "name": name, "config": config, "resume": resume}

    def log(self, metrics, *, step):
        assert self.begun, "init comes first"
        self.logged.append((step, metrics))

    def finish(self):
        self.finished += 1


@pytest.mark.parametrize(("name", "kind"), [("wandb", WandBStandIn), ("trackio", TrackioStandIn)])
def test_what_the_packages_are_told(tmp_path, monkeypatch, name, kind):
    stand_in = kind()
    monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    lines = make(tmp_path, write_to=name)
    assert stand_in.logged == [(line["step"], numbers_of(line)) for line in lines] and stand_in.finished == 1
    assert (stand_in.begun["project"], stand_in.begun["name"]) == ("plainloop", "run")
    told = json.dumps(stand_in.begun["config"])
    assert stand_in.begun["config"]["learning_rate"] == 1e-3
    assert str(tmp_path) not in told and SECRET not in told + json.dumps(stand_in.logged)
    assert not any(SECRET.encode() in path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())


def test_one_that_fails_is_not_worth_the_run(tmp_path, monkeypatch, capsys):
    stand_in = TrackioStandIn()
    stand_in.log = lambda metrics, step: 1 / 0
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    lines = make(tmp_path, write_to="trackio")
    assert len(lines) == 5 + 2 + 2
    assert capsys.readouterr().err.count("warning: trackio takes no more: ZeroDivisionError") == 1


def test_one_that_cannot_begin_is_refused(tmp_path, monkeypatch):
    stand_in = TrackioStandIn()
    stand_in.init = lambda **settings: 1 / 0
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    with pytest.raises(UsageError, match="--write-to trackio: ZeroDivisionError"):
        make(tmp_path, write_to="trackio")


def test_a_run_is_overwritten_when_nothing_else_can_be_refused(tmp_path, monkeypatch):
    make(tmp_path)
    stand_in = TrackioStandIn()
    stand_in.init = lambda **settings: 1 / 0
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    with pytest.raises(UsageError):
        make(tmp_path, write_to="trackio", overwrite=True)
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"
    assert (tmp_path / "run/model.safetensors").exists()


def test_a_run_that_begins_anew_is_a_new_one_there(tmp_path, monkeypatch):
    stand_in = TrackioStandIn()
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    make(tmp_path, write_to="trackio")
    assert stand_in.begun["resume"] == "never"
    with pytest.raises(StoppedError):
        make(tmp_path, "stopped", write_to="trackio", max_minutes=1e-9)
    make(tmp_path, "stopped", write_to="trackio", resume=True)
    assert stand_in.begun["resume"] == "allow"


def test_tensorboard_forgets_a_run_that_came_to_no_checkpoint(tmp_path):
    pytest.importorskip("tensorboard")
    for step, loss in ((4, 0.5), (2, 0.7)):  # the second process has come less far
        writer = Writers(TrainConfig(write_to="tensorboard"), tmp_path, 0)
        writer.log({"kind": "train", "step": step, "loss": loss})
        writer.close()
    assert in_tensorboard(tmp_path)["train/loss"] == [(2, pytest.approx(0.7))]


def test_what_is_not_installed_is_refused_before_anything_happens(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trackio", None)  # the import fails
    arguments = ["--task", "yelp", "--data", "sample", "--output-dir", str(tmp_path / "run")]
    assert run.main([*arguments, "--write-to", "trackio"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "error: --write-to trackio needs the package trackio, which is not installed: pip install trackio"
    assert run.main([*arguments, "--write-to", "trackio,tensorbord"]) == 2
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="no such writer; there are: tensorboard, wandb, trackio"):
        names_in("tensorbord")


def test_off_by_default(tmp_path):
    assert names_in(None) == [] and Writers(TrainConfig(), tmp_path, 0).open == {}
    make(tmp_path)
    assert not (tmp_path / "run/tensorboard").exists()


def test_only_numbers_go():
    line = {"kind": "train", "step": 3, "loss": 0.5, "mfu": None, "seconds": {"forward": 0.1}, "split": "eval", "done": True}
    assert numbers_of(line) == {"train/loss": 0.5, "seconds/forward": 0.1}

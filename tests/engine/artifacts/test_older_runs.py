"""Runs of Plainloop 0.1.0 (tests/fixtures/run-0.1.0): the code of today resumes, recognises and uses them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import run
from engine.artifacts import report
from engine.commands.push import contents_of
from engine.config import TrainConfig
from engine.settings.fields import setting
from tests.toys.cli import fails

FIXTURE = Path(__file__).parent.parent.parent / "fixtures/run-0.1.0"
EXPECTED = json.loads((FIXTURE / "resumed.json").read_text())
COMMAND = EXPECTED["command"]


@pytest.fixture
def older(tmp_path, monkeypatch) -> Path:
    """A copy, as the working directory: the paths in the runs are relative to it."""
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def grown(monkeypatch) -> type:
    """The engine's settings in some years: two more, neither with the default None."""
    fields = [("boldness", float, setting(0.5, "of later days")), ("echo", bool, setting(False, "", changes_weights=False))]
    kind = dataclasses.make_dataclass("Grown", fields, bases=(TrainConfig,), frozen=True)
    monkeypatch.setattr(run, "TrainConfig", kind)
    monkeypatch.setattr(report, "TrainConfig", kind)
    return kind


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_resumed_as_it_was(older: Path, capsys) -> None:
    """To the same bits as 0.1.0 reached, where numbers come out alike: a whole run of today then equals the finished one.

    That is on Intel's processors with AVX-512, one thread, the same versions. Elsewhere the last bits of float32 differ, and 3
    steps after a checkpoint the weights are within 1e-5; so are those of a whole run, whose first 15 steps are another
    processor's. 0.1.0 did not record the processor, so nothing is called exact.
    """
    before = read(older / "killed/run.json")
    assert before["status"] == "running" and not (older / "killed/model.safetensors").exists()
    assert run.main([*COMMAND, "--output-dir", "killed", "--resume"]) == 0
    said = capsys.readouterr().out
    after = read(older / "killed/run.json")
    assert run.main([*COMMAND, "--output-dir", "whole"]) == 0
    assert "resume: same data order, not bitwise" in said and "processor: 'not recorded' -> " in said
    whole, finished = weights(older / "whole"), weights(older / "finished")
    is_same = all(torch.equal(whole[name], finished[name]) for name in finished)
    is_alike = all(before["versions"][name] == after["versions"][name] for name in before["versions"])
    assert is_same or not is_alike or "Intel" not in after["versions"]["processor"]
    tolerance = {"rtol": 0, "atol": 0 if is_same else 1e-5}
    expected = load_file(older / "resumed.safetensors")
    for other in (expected, whole):
        torch.testing.assert_close(weights(older / "killed"), other, **tolerance)
    assert after["status"] == "finished"
    for name in ("train_loss", "eval_loss", "eval_accuracy", "num_steps"):
        assert after["metrics"][name] == pytest.approx(EXPECTED["metrics"][name], rel=0 if is_same else 1e-5)
    lines = [json.loads(line) for line in (older / "killed/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [4, 8, 12, 16, 18]
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [6, 12, 18]


def test_a_killed_run_is_resumed_to_the_same_bits(older, capsys):
    assert_resumed_as_it_was(older, capsys)


def test_a_killed_run_is_resumed_though_there_are_new_settings(older, grown, capsys):
    assert_resumed_as_it_was(older, capsys)
    assert read(older / "killed/run.json")["settings"]["boldness"] == 0.5


def test_a_finished_run_is_recognised(older, capsys):
    before = (older / "finished/run.json").read_bytes()
    assert run.main([*COMMAND, "--output-dir", "finished"]) == 0
    assert "finished model found in finished, training skipped" in capsys.readouterr().out
    assert (older / "finished/run.json").read_bytes() == before


def test_a_new_setting_with_another_value_is_another_run(older, grown, capsys):
    """At its default it is the older run's; so is one that does not change the weights, at any value."""
    again = [*COMMAND, "--output-dir", "finished"]
    assert run.main(again) == 0 and run.main([*again, "--echo"]) == 0
    assert capsys.readouterr().out.count("training skipped") == 2
    code, line = fails([*again, "--boldness", "0.7"], capsys)
    assert code == 2 and "finished holds a run with other settings (boldness: 0.5 -> 0.7)" in line
    code, line = fails([*COMMAND, "--output-dir", "killed", "--resume", "--boldness", "0.7"], capsys)
    assert code == 2 and "boldness: 0.5 -> 0.7" in line


def test_a_finished_run_is_used(older, capsys):
    """Predict, evaluate, report, compare with a run of today, and what a push would upload."""
    assert run.main(["predict", "--model", "finished", "w0 w7", "w1 w8"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert run.main(["evaluate", "--model", "finished", "--device", "cpu", "--output", "figures.json"]) == 0
    figures, kept = read(older / "figures.json"), read(older / "finished/run.json")["metrics"]
    for name in ("eval_loss", "eval_accuracy", "eval_f1", "eval_mcc"):
        assert figures[name] == pytest.approx(kept[name], rel=1e-5)
    (older / "finished/report.html").unlink()
    assert run.main(["report", "finished"]) == 0
    assert "eval_accuracy" in (older / "finished/report.html").read_text().replace("eval accuracy", "eval_accuracy")
    contents, refused = contents_of(older / "finished", with_metrics=True)
    assert refused == []
    pushed = json.loads(contents["run.json"])
    assert pushed["metrics"] == kept and pushed["status"] == "finished"
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl"} <= contents.keys()


def test_an_older_run_is_compared_with_one_of_today(older, grown, capsys):
    """The settings that it does not have are no difference; those that were changed are."""
    assert run.main([*COMMAND, "--output-dir", "today", "--seed", "7"]) == 0
    capsys.readouterr()
    assert run.main(["compare", "finished", "today"]) == 0
    said = capsys.readouterr().out
    assert "eval_loss" in said.split("Settings that differ")[0]
    changed = said.split("Settings that differ")[1].splitlines()[2:]
    assert [line.split()[0] for line in changed if line.startswith("  ")] == ["seed", "output_dir"]

"""A model put in the place of another: killed at each step, a whole one is in use, and the next call tidies up."""

from __future__ import annotations

import errno
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import run
from engine import atomic
from engine.artifacts.directory import read_run
from engine.checkpoint.store import sha256
from engine.errors import ResourceError, UsageError
from engine.updating import swap


@pytest.fixture
def places(project, tmp_path):
    """runs/x and a trained runs/x.update, which answer otherwise; beside them the model before an earlier update."""
    directory = tmp_path / "x"
    for name, bias in (("x", 0.0), ("x.update", 9.0), ("x.before", -9.0)):
        shutil.copytree(project / "run", tmp_path / name, ignore=shutil.ignore_patterns("checkpoints"))
        weights = load_file(tmp_path / name / "model.safetensors")
        weights["classifier.bias"] = weights["classifier.bias"] + torch.tensor([bias, 0.0, 0.0])
        save_file(weights, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        document = json.loads((tmp_path / name / "run.json").read_text())
        document["files"]["model.safetensors"] = sha256(tmp_path / name / "model.safetensors")
        (tmp_path / name / "run.json").write_text(json.dumps(document))
    return directory


def bias_of(directory):
    """Which of the three models it is; it has to be whole."""
    assert read_run(directory).status == "finished"
    return round(float(load_file(directory / "model.safetensors")["classifier.bias"][0]))


VERDICT = {"kept": "new", "rule": "", "margin": 0.0, "sets": []}
STEPS = ((atomic, "exchange"), (os, "rename"), (os, "replace"), (shutil, "rmtree"))


def killed_at(directory, number, *, behind):
    """A process that dies, without a word, before its step of that number, or behind it. False: it had fewer steps."""
    if (child := os.fork()) == 0:
        done = 0

        def counted(step):
            def call(*arguments, **more):
                nonlocal done
                done += 1
                if done == number and not behind:
                    os._exit(9)
                step(*arguments, **more)
                if done == number:
                    os._exit(9)

            return call

        try:
            for module, name in STEPS:
                setattr(module, name, counted(getattr(module, name)))
            swap.put_in_place(directory, VERDICT)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("number", range(1, 8))
def test_killed_at_any_step_a_model_is_in_use(places, number, behind):
    names = {path.name for path in places.parent.iterdir()}
    was_killed = killed_at(places, number, behind=behind)
    assert was_killed == (number <= 6), "the steps: a verdict, an exchange, run.json, two names, what is deleted"
    in_use = bias_of(places)
    assert in_use == (9 if (number, behind) >= (2, True) else 0)
    swap.finish(places)  # as the next call does
    assert bias_of(places) == in_use
    if in_use == 9:
        assert {path.name for path in places.parent.iterdir()} == {"x", "x.before"} and bias_of(swap.kept_in(places)) == 0
        assert read_run(places).settings["model"] == str(swap.kept_in(places)) and read_run(places).settings[
            "output_dir"
        ] == str(places)
        swap.finish(places)
        swap.roll_back(places)
        assert (bias_of(places), bias_of(swap.kept_in(places))) == (0, 9)
        swap.finish(places)
        assert (bias_of(places), bias_of(swap.kept_in(places))) == (0, 9), "rolled back, it stays so"
    else:
        assert {path.name for path in places.parent.iterdir()} == names
        assert (bias_of(swap.trained_in(places)), bias_of(swap.kept_in(places))) == (9, -9)
        swap.put_in_place(places, VERDICT)
        assert (bias_of(places), bias_of(swap.kept_in(places))) == (9, 0)


def test_what_is_no_run_is_never_deleted(places):
    shutil.rmtree(swap.kept_in(places))
    swap.kept_in(places).mkdir()
    (swap.kept_in(places) / "thesis.tex").write_text("nine years of work")
    with pytest.raises(UsageError, match="is no run: move it away"):
        swap.put_in_place(places, VERDICT)
    assert (swap.kept_in(places) / "thesis.tex").exists() and bias_of(places) == 0
    with pytest.raises(UsageError, match="holds no finished run"):
        swap.roll_back(places)


def test_nor_when_it_came_between_a_kill_and_the_next_call(places):
    assert killed_at(places, 2, behind=True), "behind the exchange"
    shutil.rmtree(swap.kept_in(places))
    swap.kept_in(places).mkdir()
    (swap.kept_in(places) / "thesis.tex").write_text("nine years of work")
    with pytest.raises(UsageError, match="is no run: move it away"):
        swap.finish(places)
    assert (swap.kept_in(places) / "thesis.tex").exists()
    assert (bias_of(places), bias_of(swap.trained_in(places))) == (9, 0)
    shutil.rmtree(swap.kept_in(places))
    swap.finish(places)
    assert (bias_of(places), bias_of(swap.kept_in(places))) == (9, 0)


def test_where_names_cannot_be_exchanged_nothing_changes(places, monkeypatch):
    def refused(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(atomic, "exchange", refused)
    with pytest.raises(ResourceError, match=r"cannot be exchanged in one step \(Invalid argument\); both are whole"):
        swap.put_in_place(places, VERDICT)
    swap.finish(places)
    assert (bias_of(places), bias_of(swap.trained_in(places)), bias_of(swap.kept_in(places))) == (0, 9, -9)


def test_a_strangers_verdict_moves_nothing(places):
    """update.json of a run that was fetched: it names weights that are not those beside it, or is none."""
    for text in (
        json.dumps({"kept": "new", "replaces": "0" * 32}),
        '{"kept": 1}',
        "[",
        json.dumps({"kept": "new", "replaces": None}),
    ):
        (places / "update.json").write_text(text)
        swap.finish(places)
        assert (bias_of(places), bias_of(swap.trained_in(places)), bias_of(swap.kept_in(places))) == (0, 9, -9)
    assert run.main(["predict", str(places), "w1 w2", "--device", "cpu"]) == 0


def test_exchange_says_what_the_system_says(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="No such file or directory"):
        atomic.exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").is_dir()

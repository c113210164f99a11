"""What a checkpoint says of the book-keeping: the same on the disk as ever, and checked in one place when it is read."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from engine.record.progress import Best, Progress
from engine.record.tally import Tally

OLDER = Path(__file__).parent.parent.parent / "fixtures/run-0.1.0/killed/checkpoints"
SAVED = json.loads((OLDER / "step-00000015/state.json").read_text())["progress"]


def test_a_checkpoint_of_0_1_0_is_read_and_written_as_it_was():
    """Every key, in its order: older checkpoints load, and older code would load these."""
    for path in sorted(OLDER.glob("*/state.json")):
        saved = json.loads(path.read_text())["progress"]
        assert json.dumps(Progress.from_json(saved).to_json()) == json.dumps(saved)
    progress = Progress.from_json(SAVED)
    assert progress.window.num_steps == 3 and progress.total.num_steps == 15 and progress.epoch.num_steps == 3
    assert progress.best.step == 12 and progress.best.value == progress.best.evaluation.figures["loss"]


def test_without_an_evaluation_and_from_before_there_were_ranks():
    saved = {name: value for name, value in SAVED.items() if name != "ranks"} | {"best": None, "last_evaluation": None}
    progress = Progress.from_json(saved)
    assert progress.best is None and progress.last_evaluation is None and progress.ranks == {}
    assert progress.to_json() == {"ranks": {}, **saved}


def test_what_is_saved_does_not_go_on_counting():
    tally = Tally(num_steps=1)
    progress = Progress({}, tally, tally, tally, None, None, 0, 1.0, 0)
    saved = progress.to_json()
    tally.num_steps = 2
    assert saved["window"]["num_steps"] == 1


WRONG = [
    (("window",), [], "window cannot be []"),
    (("window", "loss_sum"), "x", "window.loss_sum cannot be 'x'"),
    (("total", "num_steps"), None, "total.num_steps cannot be None"),
    (("epoch", "num_items"), float("inf"), "epoch.num_items cannot be inf"),
    (("best",), [1], "best cannot be [1]"),
    (("best", "step"), "12", "step cannot be '12'"),
    (("best", "value"), None, "value cannot be None"),
    (("best", "evaluation"), [], "evaluation cannot be []"),
    (("last_evaluation", "num_steps"), "x", "num_steps cannot be 'x'"),
    (("num_worse",), -1, "num_worse cannot be -1"),
    (("num_worse",), True, "num_worse cannot be True"),
    (("train_seconds",), "long", "train_seconds cannot be 'long'"),
    (("metrics_bytes",), -1, "metrics_bytes cannot be -1"),
    (("ranks",), None, "ranks cannot be None"),
]


@pytest.mark.parametrize(("where", "value", "words"), WRONG, ids=[words for *_, words in WRONG])
def test_what_no_run_saves_is_refused(where, value, words):
    saved = copy.deepcopy(SAVED)
    *folders, name = where
    inner = saved
    for folder in folders:
        inner = inner[folder]
    inner[name] = value
    with pytest.raises(ValueError, match="cannot be") as refused:
        Progress.from_json(saved)
    assert str(refused.value) == words


@pytest.mark.parametrize("name", ["window", "epoch", "total", "num_worse", "train_seconds", "metrics_bytes"])
def test_what_is_missing_is_named(name):
    with pytest.raises(ValueError, match=f"{name} is missing"):
        Progress.from_json({key: value for key, value in SAVED.items() if key != name})
    with pytest.raises(ValueError, match="no progress"):
        Progress.from_json([])
    with pytest.raises(ValueError, match="evaluation is missing"):
        Best.from_json({"step": 1, "metric": "loss", "value": 1.0})

"""What an evaluation has found, in each of its files: one definition of what is a figure."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench.toys import tiny
from engine.artifacts.card import figures_of
from engine.artifacts.directory import read_run
from engine.artifacts.report import tiles
from engine.config import TrainConfig
from engine.errors import UsageError
from engine.fit import fit
from engine.record.figures import RESERVED, Evaluation, figures_in_line, figures_in_metrics
from engine.record.log import read_log

OLDER = Path(__file__).parent.parent.parent / "fixtures/run-0.1.0"
FIGURES = {"loss": 0.5, "accuracy": 0.25, "words_per_second": 3.0}  # the last is a metric, whatever its name looks like
FOUND = Evaluation(FIGURES, num_examples=20, num_steps=4, seconds=2.0)


def test_the_names_in_each_file():
    assert FOUND.line() == {
        **FIGURES, "num_examples": 20, "runtime_seconds": 2.0, "examples_per_second": 10.0, "steps_per_second": 2.0
    }  # fmt: skip
    assert FOUND.metrics() == {
        "eval_loss": 0.5, "eval_accuracy": 0.25, "eval_words_per_second": 3.0, "eval_runtime": 2.0,
        "eval_samples_per_second": 10.0, "eval_steps_per_second": 2.0,
    }  # fmt: skip
    assert FOUND.to_json() == {**FIGURES, "num_examples": 20, "num_steps": 4, "runtime_seconds": 2.0}


def test_the_figures_are_found_again_in_each_file():
    assert Evaluation.from_json(FOUND.to_json()) == FOUND
    line = {"kind": "eval", "split": "eval", "step": 3, "epoch": 1.0, **FOUND.line()}
    assert figures_in_line(line) == figures_in_metrics({"train_loss": 1.0, **FOUND.metrics()}) == FIGURES


def test_the_files_of_an_older_run_hold_the_same_figures():
    """Log, checkpoint and run.json of 0.1.0, and what card and report take from them."""
    document = read_run(OLDER / "finished")
    [*_, last] = [line.values for line in read_log(OLDER / "finished/metrics.jsonl").lines if line.kind == "eval"]
    names = ["loss", "accuracy", "f1", "mcc"]
    assert list(figures_in_line(last)) == list(figures_in_metrics(document.metrics)) == list(figures_of(document)) == names
    assert figures_in_line(last) == figures_of(document)
    assert [name for name, _ in tiles(document.metrics)][:4] == [f"eval {name}" for name in names]
    state = json.loads((OLDER / "killed/checkpoints/step-00000012/state.json").read_text())
    assert list(Evaluation.from_json(state["progress"]["last_evaluation"]).figures) == names


def test_what_is_not_finite_becomes_none_and_no_time_divides():
    found = Evaluation({"loss": math.nan, "accuracy": math.inf, "f1": None, "mcc": 1.0}, 3, 1, 0.0)
    assert found.finite().figures == {"loss": None, "accuracy": None, "f1": None, "mcc": 1.0}
    assert math.isfinite(found.line()["examples_per_second"])


@pytest.mark.parametrize("changes", [{"num_steps": -1}, {"num_examples": "x"}, {"runtime_seconds": None}, {"loss": "low"}])
def test_what_no_run_saves_is_refused(changes):
    with pytest.raises(ValueError, match="cannot be"):
        Evaluation.from_json(FOUND.to_json() | changes)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_metric_cannot_have_a_name_that_means_something_else_in_the_log(tmp_path, name):
    """``step`` as a metric would have replaced the step of every evaluation's line."""

    class Odd(tiny.TokenTask):
        def metrics(self, split):
            found = super().metrics(split)
            found.names = ["accuracy", name]
            return found

    task = Odd(train=tiny.token_rows(16), evaluation=tiny.token_rows(8))
    with pytest.raises(UsageError, match=f"the task has a metric called {name}, .*: rename it"):
        fit(task, TrainConfig(output_dir=str(tmp_path / "run"), epochs=1, device="cpu"), tiny.bert())

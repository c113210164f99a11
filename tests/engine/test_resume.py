"""Killed and resumed is the same run: the same bits in the model, each step logged once."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import run
from bench.toys import tiny
from engine.build import build
from engine.checkpoint import snapshot, store
from engine.config import TrainConfig
from engine.errors import DataError, UsageError
from engine.fit import fit
from tests.toys.killed import (
    SMALL,
    assert_same_bits,
    assert_sigkill_changes_nothing,
    killed_after,
    lines_of,
    small_task,
    train_to,
)
from tests.toys.runs import config, kinds, make_task, unfinish


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.bf16)])
@pytest.mark.parametrize("batching", ["padded", pytest.param("bucketed", marks=pytest.mark.slow), "packed"])
@pytest.mark.parametrize("until", [4, pytest.param(7, marks=pytest.mark.slow), 11, pytest.param(14, marks=pytest.mark.slow)])
def test_resume_is_bitwise(tmp_path, until, batching, precision):
    """5 steps an epoch, a checkpoint every 3: killed between them, at an epoch's end, in epoch 1, 2 and 3."""
    config = TrainConfig(**SMALL, save_steps=3, eval_steps=5, batching=batching, precision=precision)
    whole = train_to(tmp_path / "whole", small_task(), config, tiny.bert())
    train_to(tmp_path / "cut", small_task(), config, tiny.bert(), until=until)
    resumed = train_to(tmp_path / "cut", small_task(), config, tiny.bert(), resume=True)
    assert_same_bits(whole, resumed)
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "cut")


def test_without_the_saved_rng_the_bits_differ(tmp_path):
    """The comparison can fail: dropout then draws other masks."""
    config = TrainConfig(**SMALL, save_steps=3)
    whole = train_to(tmp_path / "whole", small_task(), config, tiny.bert())
    train_to(tmp_path / "cut", small_task(), config, tiny.bert(), until=4)
    resumed = train_to(tmp_path / "cut", small_task(), config, tiny.bert(), resume=True, restore_rng=False)
    with pytest.raises(AssertionError):
        assert_same_bits(whole, resumed)


def test_fp16_resume_is_bitwise(tmp_path, monkeypatch):
    """With a loss scale that overflows at first and is adapted; fp16 on a CPU is refused to users, not to this test."""
    monkeypatch.setattr("engine.build.choose_precision", lambda name, device: name)
    config = TrainConfig(**SMALL, save_steps=3, precision="fp16")
    whole = train_to(tmp_path / "whole", small_task(), config, tiny.bert())
    train_to(tmp_path / "cut", small_task(), config, tiny.bert(), until=7)
    resumed = train_to(tmp_path / "cut", small_task(), config, tiny.bert(), resume=True)
    assert_same_bits(whole, resumed)
    assert whole.scaler.get_scale() == resumed.scaler.get_scale()


def test_resuming_reads_no_skipped_row(tmp_path):
    """Resuming is a slice of the plan."""
    config = TrainConfig(**SMALL, save_steps=3)
    train_to(tmp_path, small_task(), config, tiny.bert(), until=13)
    read = []

    class Counting(tiny.TokenDataset):
        def __getitem__(self, row):
            read.append(row)
            return super().__getitem__(row)

    rows = tiny.token_rows(50)
    task = tiny.TokenTask(train=rows)
    setup = build(task, Counting(rows.tokens, rows.columns), config, tiny.bert())
    snapshot.load_state(setup.state, store.newest(tmp_path / "checkpoints"))
    assert setup.state.step == 12
    for _ in setup.data.steps(setup.state.step):
        pass
    assert len(read) == 50 - 2 * 12, "epoch 3 has used two steps of 12 examples"


# ------------------------------------------------------------------------------------------------ what is compared


def test_resuming_past_a_damaged_checkpoint_sets_it_aside(tmp_path, capsys):
    """Else it would stand in the way of the one that takes its place."""
    first = fit(make_task(), config(tmp_path, epochs=3), tiny.bert())
    checkpoints = tmp_path / "run/checkpoints"
    latest = sorted(checkpoints.iterdir())[-1]
    (latest / "model.safetensors").write_bytes(b"damaged")
    unfinish(tmp_path)
    weights = (tmp_path / "run/model.safetensors").read_bytes()
    again = fit(make_task(), config(tmp_path, epochs=3, resume=True), tiny.bert())
    assert "warning: " in capsys.readouterr().err
    assert weights == (tmp_path / "run/model.safetensors").read_bytes()
    assert first.metrics["eval_loss"] == again.metrics["eval_loss"]
    assert (checkpoints / f".bad-{latest.name}/model.safetensors").read_bytes() == b"damaged"
    fit(make_task(), config(tmp_path, epochs=3, overwrite=True), tiny.bert())
    assert not list(checkpoints.glob(".bad-*")), "--overwrite removes all of the earlier run"


def test_resuming_without_a_checkpoint_starts_and_says_so(tmp_path, capsys):
    fit(make_task(), config(tmp_path, resume=True), tiny.bert())
    assert "resume: there is no checkpoint, starting at step 0" in capsys.readouterr().out


def test_changes_that_mean_nothing_do_not_stop_a_resumed_run(tmp_path, capsys):
    fit(make_task(), config(tmp_path), tiny.bert())
    unfinish(tmp_path)
    others = {"log_steps": 1, "save_steps": 2, "eval_batch_size": 3, "workers": 1, "keep_checkpoints": 5, "async_save": True}
    fit(make_task(), config(tmp_path, resume=True, **others), tiny.bert())
    assert "resume: exact, from step 10 of 10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "rows", "dropout", "words"),
    [({"learning_rate": 1e-4}, 40, 0.1, "other settings (learning_rate: 0.001 -> 0.0001)"), ({}, 39, 0.1, "train: other rows (40 then, 39 now)"),
     ({}, 40, 0.2, "other model (attention_probs_dropout_prob: 0.1 -> 0.2; hidden_dropout_prob: 0.1 -> 0.2)"),
     ({"batching": "padded"}, 40, 0.1, "other settings (batching: 'auto' -> 'padded')")],
)  # fmt: skip
def test_what_would_be_another_run_is_shown_and_refused(tmp_path, changes, rows, dropout, words):
    fit(make_task(), config(tmp_path), tiny.bert())
    unfinish(tmp_path)
    task = tiny.TokenTask(train=tiny.token_rows(rows), evaluation=tiny.token_rows(21, seed=5))
    with pytest.raises((UsageError, DataError)) as refused:
        fit(task, config(tmp_path, resume=True, **changes), tiny.bert(dropout=dropout))
    assert words in str(refused.value) and "--overwrite" in str(refused.value)


def test_another_tokenizer_is_other_data(tmp_path, capsys):

    tiny.save_model(tmp_path / "model")
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in tiny.texts(40)))
    command = ["--task", "classification", "--train-file", f"{tmp_path}/t.csv", "--model", f"{tmp_path}/model", "--epochs", "1",
               "--output-dir", f"{tmp_path}/run", "--device", "cpu"]  # fmt: skip
    assert run.main(command) == 0
    unfinish(tmp_path)
    vocabulary = tmp_path / "model/tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace('"w3"', '"x"').replace('"w4"', '"w3"').replace('"x"', '"w4"'))
    capsys.readouterr()
    assert run.main([*command, "--resume"]) == 3
    assert "the data, or the tokenizer, have changed" in capsys.readouterr().err


def test_a_resumed_run_says_what_makes_it_not_bitwise(tmp_path, capsys):
    fit(make_task(), config(tmp_path), tiny.bert())
    versions = json.loads((tmp_path / "run/run.json").read_text())["versions"]
    unfinish(tmp_path, device="cpu (64 threads)", versions=versions | {"torch": "2.0"})
    fit(make_task(), config(tmp_path, resume=True), tiny.bert())
    expected = (
        "resume: same data order, not bitwise (runs on: 'cpu (64 threads)' -> 'cpu (1 threads)'; "
        f"torch: '2.0' -> '{versions['torch']}'), from step 10 of 10"
    )
    assert expected in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------ more epochs


@pytest.mark.parametrize("batching", ["padded", pytest.param("bucketed", marks=pytest.mark.slow)])
def test_a_finished_run_goes_on_to_more_epochs(tmp_path, capsys, batching):
    """Where the rate does not depend on the length of the run, the bits are those of the longer run."""
    settings = {"schedule": "constant", "batching": batching}
    whole = fit(make_task(), config(tmp_path / "whole", epochs=4, **settings), tiny.bert())
    fit(make_task(), config(tmp_path / "on", epochs=2, **settings), tiny.bert())
    capsys.readouterr()
    longer = fit(make_task(), config(tmp_path / "on", epochs=4, resume=True, **settings), tiny.bert())
    said = capsys.readouterr().out
    assert "from step 10 of 20" in said and "until here it was a run of 2 epochs; the learning rate goes on at 0.001" in said
    for ours, theirs in zip(longer.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert [line["step"] for line in kinds(tmp_path / "on") if line["kind"] == "epoch"] == [5, 10, 15, 20]
    document = json.loads((tmp_path / "on/run/run.json").read_text())
    assert (document["status"], document["settings"]["epochs"], document["plans"]) == ("finished", 4, {"10": 2})
    assert "Up to step 10 it was a run of 2 epochs" in (tmp_path / "on/run/README.md").read_text()
    assert fit(make_task(), config(tmp_path / "on", epochs=4, **settings), tiny.bert()).skipped


def test_the_learning_rate_goes_on_as_in_the_middle_of_the_longer_run(tmp_path):
    """Step s of n has the rate 1e-3 * (n - s + 1) / n: of 10 steps at first, of 20 from the eleventh on, which is not 0."""
    fit(make_task(), config(tmp_path, log_steps=1), tiny.bert())
    with killed_after(13):
        fit(make_task(), config(tmp_path, log_steps=1, save_steps=2, epochs=4, resume=True), tiny.bert())
    fit(make_task(), config(tmp_path, log_steps=1, epochs=4, resume=True), tiny.bert())
    rates = [line["learning_rate"] for line in kinds(tmp_path) if line["kind"] == "train"]
    expected = [1e-3 * (10 - s) / 10 for s in range(10)] + [1e-3 * (20 - s) / 20 for s in range(10, 20)]
    assert rates == pytest.approx(expected)
    assert json.loads((tmp_path / "run/run.json").read_text())["plans"] == {"10": 2}, "it outlives the kill"


def test_more_epochs_without_resume_name_the_way(tmp_path):
    fit(make_task(), config(tmp_path), tiny.bert())
    with pytest.raises(UsageError, match="a run of 2 epochs: --resume continues it to 3, --overwrite starts again"):
        fit(make_task(), config(tmp_path, epochs=3), tiny.bert())
    for changes in ({"epochs": 1}, {"epochs": 3, "learning_rate": 1e-4}, {"epochs": 3, "max_steps": 12}):
        with pytest.raises(UsageError, match="other settings"):
            fit(make_task(), config(tmp_path, resume=True, **changes), tiny.bert())


def test_more_epochs_need_a_checkpoint_and_a_run_that_did_not_stop_early(tmp_path):
    fit(make_task(), config(tmp_path), tiny.bert())
    shutil.rmtree(tmp_path / "run/checkpoints")
    with pytest.raises(UsageError, match="no whole checkpoint to continue from: train its model further with --model"):
        fit(make_task(), config(tmp_path, epochs=3, resume=True), tiny.bert())
    settings = {"patience": 1, "learning_rate": 1e-9, "eval_steps": 1, "best_metric": "loss", "epochs": 2}
    task = make_task()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.record.progress.BestSoFar.is_better", lambda *_: False)
        fit(task, config(tmp_path / "early", **settings), tiny.bert())
    before = (tmp_path / "early/run/run.json").read_bytes()
    with pytest.raises(UsageError, match="stopped early, after 1 evaluation without a better loss"):
        fit(task, config(tmp_path / "early", **settings | {"epochs": 3}, resume=True), tiny.bert())
    assert (tmp_path / "early/run/run.json").read_bytes() == before, "it is finished as it was"


# ---------------------------------------------------------------------------------- through run.py, with a real SIGKILL


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_sigkill_in_epoch_two_through_run_py(tmp_path, workers):
    """32 steps an epoch; the model file is bitwise that of the run that was left alone."""
    tiny.save_model(tmp_path / "model")
    with open(tmp_path / "train.csv", "w") as stream:
        stream.write("text,label\n" + "".join(f"{text},{label}\n" for text, label in tiny.texts(160)))
    arguments = [
        "--task", "classification", "--train-file", str(tmp_path / "train.csv"), "--eval-fraction", "0.2",
        "--model", str(tmp_path / "model"), "--batch-size", "4", "--epochs", "3", "--save-steps", "5", "--log-steps", "1",
        "--learning-rate", "1e-3", "--device", "cpu", "--workers", workers,
    ]  # fmt: skip
    assert_sigkill_changes_nothing(arguments, tmp_path, at_step=40, last=96)

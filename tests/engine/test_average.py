"""The moving average of the weights: torch's own, seen by evaluation and by the model that is saved, not by training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.toys import tiny
from engine.build import build
from engine.checkpoint import snapshot, store
from engine.config import TrainConfig
from engine.fit import fit
from engine.loader import batches as batches_of
from engine.loader import eval_loader
from engine.record.evaluate import evaluate
from tests.toys.killed import SMALL, small_task, train_to
from tests.toys.updates import WORLD, held, started, step, without_items


def finished(folder: Path, **more):
    config = TrainConfig(**{**SMALL, "precision": "fp32", "output_dir": str(folder), **more})
    return fit(small_task(), config, tiny.bert())


def test_the_average_is_torchs_bitwise_and_training_does_not_see_it():
    """AveragedModel copies the weights when it is first updated; ours begins with those at the start, so it is told so."""
    state, batches = started("average", done=0)
    plain, _ = started("adamw", done=0)
    theirs = AveragedModel(state.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.n_averaged += 1
    for number, full in enumerate(batches[:6]):
        micro_batches = without_items(full) if number == 3 else full
        step(state, micro_batches)
        step(plain, micro_batches)
        if number != 3:
            theirs.update_parameters(state.model)
    for name, p in theirs.module.named_parameters():
        assert torch.equal(state.average.tensors[name], p), name
    assert all(torch.equal(a, b) for a, b in zip(state.model.parameters(), plain.model.parameters(), strict=True))


def test_an_average_in_place_is_what_is_evaluated_and_the_weights_come_back():
    state, _ = started("average")
    before = held(state)
    with pytest.raises(RuntimeError, match="in the middle"), state.average.in_place():
        for name, p in state.model.named_parameters():
            assert p.detach().numpy().tobytes() == before[f"average {name}"]
        raise RuntimeError("in the middle")
    assert held(state) == before


@pytest.mark.parametrize("eval_steps", [2, 15])
def test_the_average_is_saved_and_is_what_the_figures_are_of(tmp_path, eval_steps):
    """Best in the middle (its checkpoint is read) or at the end (it is taken from memory)."""
    result = finished(tmp_path / "run", ema_decay=0.8, eval_steps=eval_steps, save_steps=1, keep_checkpoints=20)
    saved = load_file(tmp_path / "run/model.safetensors")
    matching = [
        path for path in sorted((tmp_path / "run/checkpoints").iterdir())
        if all(torch.equal(saved[name], tensor) for name, tensor in load_file(path / "average.safetensors").items())
    ]  # fmt: skip
    assert len(matching) == 1
    assert not torch.equal(load_file(matching[0] / "model.safetensors")["classifier.weight"], saved["classifier.weight"])
    model = tiny.bert()
    model.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), result.model.parameters(), strict=True))
    task = small_task()
    setup = build(task, task.train, TrainConfig(**{**SMALL, "precision": "fp32"}), model)
    loader = eval_loader(task, task.evaluation, setup.layout, TrainConfig(), WORLD)
    found = evaluate(model, task, batches_of(loader), setup.state.autocast, WORLD)
    assert found.figures["loss"] == result.metrics["eval_loss"]


def test_without_a_decay_there_is_no_file_of_averages(tmp_path):
    finished(tmp_path / "run", max_steps=2)
    names = {path.name for path in next((tmp_path / "run/checkpoints").iterdir()).iterdir()}
    assert names == {"MANIFEST.json", "model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"}


def test_an_average_that_remembers_more_than_the_run_is_said(tmp_path, capsys):
    finished(tmp_path / "short", max_steps=2, ema_decay=0.99)
    assert "--ema-decay 0.99 remembers 100 steps, and the run has 2" in capsys.readouterr().err
    finished(tmp_path / "long", ema_decay=0.9)
    assert "remembers" not in capsys.readouterr().err


def test_a_checkpoint_without_the_average_is_refused(tmp_path):
    train_to(tmp_path / "run", small_task(), TrainConfig(**SMALL, save_steps=3, precision="fp32"), tiny.bert(), until=4)
    setup = build(tiny.TokenTask(), tiny.token_rows(50), TrainConfig(**SMALL, precision="fp32", ema_decay=0.9), tiny.bert())
    with pytest.raises(ValueError, match="averaged weights are not those of this run"):
        snapshot.load_state(setup.state, store.newest(tmp_path / "run/checkpoints"))

"""What cannot go well is refused before the first step, and a disk or a device that fills up is one line."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from bench.toys import tiny
from engine.errors import ResourceError, UsageError
from engine.errors import explain as explain_error
from engine.fit import fit
from tests.toys.runs import config, make_task


def test_a_model_inside_the_output_directory_is_refused(tmp_path):
    from engine.data.sources import Source, SourceConfig

    task = make_task()
    (tmp_path / "run/inner").mkdir(parents=True)
    task.source = Source(SourceConfig(model=str(tmp_path / "run/inner")))
    with pytest.raises(UsageError, match="lies inside --output-dir"):
        fit(task, config(tmp_path), tiny.bert())


def test_a_disk_without_room_is_refused_at_the_start(tmp_path, monkeypatch):
    model = tiny.bert()
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    moments = 2 * sum(parameter.nbytes for parameter in model.parameters())
    needed = weights + 2 * (weights + moments)  # two epochs: two checkpoints
    for free in (needed - 1, needed):
        monkeypatch.setattr("engine.checks.shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        if free < needed:
            with pytest.raises(ResourceError, match=r"needs \d+ MiB for checkpoints and the model, and \d+ MiB are free"):
                fit(make_task(), config(tmp_path), model)
            assert not (tmp_path / "run/run.json").exists()
    fit(make_task(), config(tmp_path), tiny.bert())


def test_no_room_for_the_finished_model_is_one_line_and_the_checkpoints_stand(tmp_path):
    from safetensors import SafetensorError

    class Full(tiny.TokenTask):
        def save(self, model, directory):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    full = Full(train=tiny.token_rows(40), evaluation=tiny.token_rows(21, seed=5))
    with pytest.raises(ResourceError, match=r"could not be saved in .*No space left on device.*the checkpoints stand"):
        fit(full, config(tmp_path), tiny.bert())
    assert fit(make_task(), config(tmp_path, resume=True), tiny.bert()).metrics["num_steps"] == 10


def test_a_device_without_room_is_one_line_wherever_it_shows():
    """Outside of training, too: while a model is put there, in --explain, in predict and evaluate."""
    line, code = explain_error(torch.OutOfMemoryError("CUDA out of memory. TrialSteps to allocate 2.00 GiB"))
    assert code == 6 and line.startswith("error: out of memory: lower --batch-size, --eval-batch-size")


@pytest.mark.parametrize(("keep", "number"), [(1, 4), (2, 4), ("best", 3)])
def test_room_for_two_checkpoints_is_asked_for_whatever_is_kept(tmp_path, monkeypatch, keep, number):
    """Two are kept at least, beside the best and the new one, or the newest alone; each evaluation may make one."""
    model = tiny.bert()
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    needed = weights + number * (weights + 2 * sum(parameter.nbytes for parameter in model.parameters()))
    monkeypatch.setattr("engine.checks.shutil.disk_usage", lambda _: type("Usage", (), {"free": needed - 1}))
    with pytest.raises(ResourceError, match="for checkpoints and the model"):
        fit(make_task(), config(tmp_path, eval_steps=1, save_steps=1000, keep_checkpoints=keep), model)


def test_a_read_only_file_system_is_no_matter_of_usage(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.setattr("os.statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(ResourceError, match="lies on a read-only file system"):
        fit(make_task(), config(tmp_path), tiny.bert())

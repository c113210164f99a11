"""Checkpoints are there in full or not at all, damage is noticed, and the best one outlives the newest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

from bench.reliability.checkpoints import Watch
from bench.toys import tiny
from engine.build import build
from engine.checkpoint import store
from engine.checkpoint.snapshot import load_state, model_tensors, take_snapshot
from engine.checkpoint.store import (
    DamagedError,
    amended,
    clean,
    commit,
    discard_all,
    newest,
    open_checkpoint,
    rotate,
    sealed,
    steps_in,
)
from engine.checkpoint.tensor_file import TensorFile
from engine.config import TrainConfig
from engine.errors import ModelError, ResourceError
from engine.seed import get_rng, set_rng


def files(step: int, best: int | None = None) -> dict[str, bytes]:
    progress = {"best": {"step": best} if best else None}
    return {"weights": os.urandom(300), "state.json": json.dumps({"step": step, "progress": progress}).encode()}


def rewrite_manifest(directory, **changes) -> None:
    """By someone who knows how it is sealed."""
    manifest = json.loads((directory / "MANIFEST.json").read_text())
    del manifest["sha256"]
    (directory / "MANIFEST.json").write_bytes(sealed(manifest | changes))


def test_what_is_committed_is_read(tmp_path):
    content = files(3)
    commit(tmp_path, 3, content)
    assert open_checkpoint(tmp_path / "step-00000003") == content == newest(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003"], "nothing temporary stays"


def test_any_flipped_bit_or_missing_byte_is_noticed(tmp_path):
    commit(tmp_path, 1, files(1))
    generator = np.random.default_rng(0)
    for _ in range(100):
        path = tmp_path / "step-00000001" / ["weights", "state.json", "MANIFEST.json"][generator.integers(3)]
        whole = path.read_bytes()
        damaged = bytearray(whole)
        if generator.integers(4) == 0:
            damaged = damaged[: generator.integers(len(damaged))]
        else:
            damaged[generator.integers(len(damaged))] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(damaged))
        with pytest.raises(DamagedError, match="damaged"):
            open_checkpoint(tmp_path / "step-00000001")
        path.write_bytes(whole)


def test_a_damaged_newest_one_falls_back_with_a_warning(tmp_path, capsys):
    older = files(1)
    commit(tmp_path, 1, older)
    commit(tmp_path, 2, files(2))
    (tmp_path / "step-00000002" / "weights").write_bytes(b"")
    assert newest(tmp_path) == older
    assert "warning: " in capsys.readouterr().err
    (tmp_path / "step-00000001" / "MANIFEST.json").unlink()
    with pytest.raises(ModelError, match="--overwrite"):
        newest(tmp_path)


def test_a_checkpoint_amended_after_its_evaluation_stands_at_every_moment(tmp_path, monkeypatch):
    """Killed between the two renames, the one that was to be replaced has its name again; it may be the only one."""
    model = TensorFile({"weight": torch.ones(2)})
    before, after = ({"model.safetensors": model, "state.json": files(1)["state.json"] + end} for end in (b"", b" "))
    commit(tmp_path, 1, before)
    with monkeypatch.context() as patch:
        patch.setattr(store.os, "rename", once_then_die(os.rename))
        with pytest.raises(KeyboardInterrupt):
            commit(tmp_path, 1, amended(tmp_path, 1, after))
    assert steps_in(tmp_path) == []
    clean(tmp_path)
    found = newest(tmp_path)
    assert found is not None and found["state.json"] == before["state.json"]
    commit(tmp_path, 1, amended(tmp_path, 1, after))
    assert newest(tmp_path)["state.json"] == after["state.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_what_was_to_be_replaced_goes_with_the_rest(tmp_path):
    commit(tmp_path, 1, files(1))
    (tmp_path / "step-00000001").rename(tmp_path / ".replaced-step-00000001")
    commit(tmp_path, 2, files(2))
    discard_all(tmp_path)
    assert list(tmp_path.iterdir()) == []


def once_then_die(rename):
    calls = iter([rename])

    def renamed(*paths):
        call = next(calls, None)
        if call is None:
            raise KeyboardInterrupt
        call(*paths)

    return renamed


def test_none_is_none(tmp_path):
    assert newest(tmp_path / "nothing") is None


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", ".", "", "/etc/passwd", "a/b", ".hidden", "a\\b"])
def test_a_manifest_cannot_name_files_elsewhere(tmp_path, name):
    commit(tmp_path, 1, files(1))
    rewrite_manifest(tmp_path / "step-00000001", files={name: {"bytes": 1, "sha256": "0"}})
    with pytest.raises(DamagedError, match="not a plain file name"):
        open_checkpoint(tmp_path / "step-00000001")


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"null", b"[]", b'{"format": {}}', b"\xff"])
def test_a_manifest_of_any_other_kind_is_damage(tmp_path, content):
    commit(tmp_path, 1, files(1))
    (tmp_path / "step-00000001/MANIFEST.json").write_bytes(content)
    with pytest.raises(DamagedError, match="damaged"):
        open_checkpoint(tmp_path / "step-00000001")


def test_a_newer_format_is_refused_and_not_taken_for_damage(tmp_path):
    """Falling back to an older one, and setting this one aside, would throw away what a newer version has done."""
    commit(tmp_path, 1, files(1))
    commit(tmp_path, 2, files(2))
    rewrite_manifest(tmp_path / "step-00000002", format=99)
    with pytest.raises(ModelError, match="format 99, this version reads up to 2: update"):
        newest(tmp_path)
    assert steps_in(tmp_path) == [1, 2]


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for step, best in ((1, 1), (2, 1), (3, 1), (4, 1)):
        commit(tmp_path, step, files(step, best))
        rotate(tmp_path, 2, {})
    assert steps_in(tmp_path) == [1, 3, 4]
    commit(tmp_path, 5, files(5, best=5))
    rotate(tmp_path, 3, {})
    assert steps_in(tmp_path) == [1, 3, 4, 5]


def test_rotation_keeps_two_whatever_is_asked(tmp_path):
    for step in (1, 2, 3):
        commit(tmp_path, step, files(step))
        rotate(tmp_path, 1, {})
    assert steps_in(tmp_path) == [2, 3]


def test_rotation_reads_only_what_this_process_has_neither_written_nor_read(tmp_path, monkeypatch):
    commit(tmp_path, 1, files(1))
    commit(tmp_path, 2, files(2))
    read_ones = []
    monkeypatch.setattr(store, "open_checkpoint", lambda path: read_ones.append(path.name) or open_checkpoint(path))
    whole: dict[int, int] = {}
    for step in (3, 4, 5):
        commit(tmp_path, step, files(step))
        whole[step] = step
        rotate(tmp_path, 3, whole)
    assert read_ones == ["step-00000002"] and steps_in(tmp_path) == [3, 4, 5]


def test_what_stands_where_a_checkpoint_goes_is_set_aside(tmp_path, capsys):
    commit(tmp_path, 2, files(2))
    damaged = tmp_path / "step-00000002/weights"
    damaged.write_bytes(b"damaged")
    content = files(2)
    commit(tmp_path, 2, content)
    assert open_checkpoint(tmp_path / "step-00000002") == content
    assert (tmp_path / ".bad-step-00000002/weights").read_bytes() == b"damaged"
    assert "set aside as .bad-step-00000002" in capsys.readouterr().err


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_failing_disk_leaves_the_older_one(tmp_path, monkeypatch, failing):
    older = files(1)
    commit(tmp_path, 1, older)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(ResourceError, match="No space left"):
        commit(tmp_path, 2, files(2))
    monkeypatch.undo()
    assert newest(tmp_path) == older
    assert steps_in(tmp_path) == [1]
    commit(tmp_path, 2, files(2))
    assert steps_in(tmp_path) == [1, 2]


def test_rng_state_round_trips():
    import random

    tensors, numbers = get_rng()
    draws = [random.random(), np.random.rand(), torch.rand(())]
    set_rng(tensors, json.loads(json.dumps(numbers)))
    assert draws == [random.random(), np.random.rand(), torch.rand(())]


def test_random_states_are_read_and_put_back_without_starting_cuda(monkeypatch):
    """A run on the CPU of a machine with a GPU, also one that goes on from a checkpoint that was made on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    for name in ("get_rng_state", "set_rng_state"):
        monkeypatch.delattr(torch.cuda, name)
    tensors, numbers = get_rng()
    set_rng({**tensors, "cuda": torch.zeros(16, dtype=torch.uint8)}, numbers)
    assert "cuda" not in tensors
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(AttributeError, match="get_rng_state"):
        get_rng()


def test_a_manifest_without_a_state_is_damage(tmp_path, capsys):
    older = files(1)
    commit(tmp_path, 1, older)
    commit(tmp_path, 2, files(2))
    rewrite_manifest(tmp_path / "step-00000002", files={})
    assert newest(tmp_path) == older
    assert "names no state.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["state.json", "weights", "MANIFEST.json"])
def test_a_damaged_checkpoint_is_not_counted_by_the_rotation(tmp_path, name):
    """Of five, the newest damaged in whichever file: two whole ones stay, and the damaged one is not deleted."""
    for step in (1, 2, 3, 4, 5):
        commit(tmp_path, step, files(step))
    (tmp_path / "step-00000004" / name).write_bytes(b"")
    rotate(tmp_path, 2, {5: 5})
    assert steps_in(tmp_path) == [3, 5]
    assert (tmp_path / ".bad-step-00000004" / name).exists()


def test_what_fails_after_the_commit_is_a_warning(tmp_path, capsys, monkeypatch):
    commit(tmp_path, 1, files(1))

    def fail(path, *_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("engine.checkpoint.store.sync", lambda path: fail(path) if path == tmp_path else None)
    content = files(2)
    commit(tmp_path, 2, content)
    assert open_checkpoint(tmp_path / "step-00000002") == content
    assert "may not outlive a power cut (Input/output error)" in capsys.readouterr().err
    monkeypatch.setattr("engine.checkpoint.store.os.rename", fail)
    rotate(tmp_path, 2, {1: 1, 2: 2})
    assert not capsys.readouterr().err, "nothing to delete"
    monkeypatch.setattr("engine.checkpoint.store.MIN_KEPT", 1)
    rotate(tmp_path, 1, {1: 1, 2: 2})
    assert "could not be deleted" in capsys.readouterr().err and steps_in(tmp_path) == [1, 2]


@pytest.mark.parametrize("error", [24, 13])
def test_what_cannot_be_read_now_is_not_taken_for_damaged(tmp_path, monkeypatch, capsys, error):
    """Too many open files, permission denied: no older one is taken, nothing is set aside, a run that saves goes on."""
    for step in (1, 2, 3):
        commit(tmp_path, step, files(step))

    def fail(path, most):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("engine.checkpoint.store.read_bytes", fail)
    with pytest.raises(ResourceError, match=f"cannot be read: {os.strerror(error)}"):
        newest(tmp_path)
    rotate(tmp_path, 2, {3: 3})
    assert f"could not be deleted (checkpoint {tmp_path}/step-00000002 cannot be read" in capsys.readouterr().err
    assert steps_in(tmp_path) == [1, 2, 3]


def test_a_checkpoint_of_the_first_format_loads_for_ever_and_is_written_alike(tmp_path):
    """Made by commit df41346 after two steps: every bit is loaded, and what is saved then are the same files."""
    path = Path(__file__).parent.parent.parent / "fixtures/checkpoint-format-1/step-00000002"
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 100}
    model = BertForSequenceClassification(BertConfig(num_labels=3, max_position_embeddings=32, **sizes))
    task = tiny.TokenTask(train=tiny.token_rows(40))
    setup = build(task, task.train, TrainConfig(batch_size=8, learning_rate=1e-2, device="cpu", precision="fp32"), model)
    assert load_state(setup.state, open_checkpoint(path)) == {"best": None} and setup.state.step == 2
    saved = load_file(path / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in model_tensors(model).items())
    again = commit(tmp_path, 2, take_snapshot(setup.state, {"best": None}).files())
    has_others = torch.cuda.is_initialized() or torch.backends.mps.is_available()  # random streams of their own
    for name in ("model.safetensors", "optimizer.safetensors", *([] if has_others else ["rng.safetensors"])):
        assert (again / name).read_bytes() == (path / name).read_bytes(), name
    assert json.loads((again / "MANIFEST.json").read_text())["format"] == 1


def test_with_the_word_best_the_newest_and_the_best_are_kept(tmp_path):
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 5)):
        commit(tmp_path, step, files(step, best))
        rotate(tmp_path, "best", {step: best})
        assert steps_in(tmp_path) == sorted({step, best})


def test_verifying_and_rotating_hold_no_file_in_memory(tmp_path):
    """Files of 64 MiB, of which one piece at a time is read."""
    large = {"weights": bytes(64 << 20)}
    for step in (1, 2, 3):
        commit(tmp_path, step, files(step) | large)
    with Watch() as watch:
        open_checkpoint(tmp_path / "step-00000003")
        rotate(tmp_path, 2, {3: 3})
    assert steps_in(tmp_path) == [2, 3] and watch.peak - watch.before < 8
    with Watch() as control:
        held = open_checkpoint(tmp_path / "step-00000003")["weights"]
    assert control.peak - control.before > 60 and len(held) == 64 << 20

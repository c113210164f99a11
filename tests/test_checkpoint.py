"""Checkpoints are there in full or not at all, damage is noticed, and the best one outlives the newest."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from engine.checkpoint import commit, get_rng, newest, read, rotate, set_rng, steps_in
from engine.errors import ModelError, ResourceError


def files(step: int, best: int | None = None) -> dict[str, bytes]:
    progress = {"best": {"step": best} if best else None}
    return {"weights": os.urandom(300), "state.json": json.dumps({"step": step, "progress": progress}).encode()}


def test_what_is_committed_is_read(tmp_path):
    content = files(3)
    commit(tmp_path, 3, content)
    assert read(tmp_path / "step-00000003") == content == newest(tmp_path)
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
        if path.name == "MANIFEST.json":  # a flip in white space or in a key that is not used is no damage
            try:
                assert read(tmp_path / "step-00000001").keys() == {"weights", "state.json"}
            except ModelError:
                pass
        else:
            with pytest.raises(ModelError, match="damaged"):
                read(tmp_path / "step-00000001")
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


def test_none_is_none(tmp_path):
    assert newest(tmp_path / "nothing") is None


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    commit(tmp_path, 1, files(1))
    path = tmp_path / "step-00000001" / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../../etc/passwd"] = {"bytes": 1, "sha256": "0"}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="not a plain file name"):
        read(tmp_path / "step-00000001")


def test_a_newer_format_is_refused_by_name(tmp_path):
    commit(tmp_path, 1, files(1))
    path = tmp_path / "step-00000001" / "MANIFEST.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(ModelError, match="format 99"):
        read(tmp_path / "step-00000001")


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for step, best in ((1, 1), (2, 1), (3, 1), (4, 1)):
        commit(tmp_path, step, files(step, best))
        rotate(tmp_path, keep=2)
    assert steps_in(tmp_path) == [1, 3, 4]
    commit(tmp_path, 5, files(5, best=5))
    rotate(tmp_path, keep=1)
    assert steps_in(tmp_path) == [5]


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

    import torch

    tensors, numbers = get_rng()
    draws = [random.random(), np.random.rand(), torch.rand(())]
    set_rng(tensors, json.loads(json.dumps(numbers)))
    assert draws == [random.random(), np.random.rand(), torch.rand(())]


def test_a_manifest_without_a_state_is_damage(tmp_path, capsys):
    older = files(1)
    commit(tmp_path, 1, older)
    commit(tmp_path, 2, files(2))
    (tmp_path / "step-00000002/MANIFEST.json").write_text('{"format": 1, "step": 2, "files": {}}')
    assert newest(tmp_path) == older
    assert "names no state.json" in capsys.readouterr().err


def test_an_unreadable_checkpoint_is_not_counted_by_the_rotation(tmp_path):
    """Of three, the newest damaged: two whole ones stay."""
    for step in (1, 2, 3, 4):
        commit(tmp_path, step, files(step))
    (tmp_path / "step-00000004/state.json").write_bytes(b"")
    rotate(tmp_path, keep=2)
    assert steps_in(tmp_path) == [2, 3]


def test_what_fails_after_the_commit_is_a_warning(tmp_path, capsys, monkeypatch):
    commit(tmp_path, 1, files(1))

    def fail(path, *_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("engine.checkpoint.sync_directory", lambda path: fail(path) if path == tmp_path else None)
    content = files(2)
    commit(tmp_path, 2, content)
    assert read(tmp_path / "step-00000002") == content
    assert "may not outlive a power cut (Input/output error)" in capsys.readouterr().err
    monkeypatch.setattr("engine.checkpoint.os.rename", fail)
    rotate(tmp_path, keep=1)
    assert "could not be deleted" in capsys.readouterr().err and steps_in(tmp_path) == [1, 2]

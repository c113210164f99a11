"""``python -m bench faults`` with the functions of ``os`` in place of system calls, which needs no strace; and that it can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.reliability import damage, faults, forked, save_calls
from engine.checkpoint import store
from engine.data import cache

ROOT = Path(__file__).parent.parent.parent


def program(folder: Path, control: bool) -> dict:
    """A process of its own forks: see test_kill.py."""
    forked.warm_up()
    if not control:
        return {"good": save_calls.strike_calls(folder, save_calls.InPython(folder))}

    def careless(root, step, files):
        """Writes where the checkpoint is to be, and tells nobody of what goes wrong."""
        try:
            (root / f"step-{step:08d}").mkdir()
            manifest = {name: store.write_synced(root / f"step-{step:08d}" / name, data) for name, data in files.items()}
            document = store.sealed({"format": 1, "step": step, "files": manifest})
            store.write_synced(root / f"step-{step:08d}" / "MANIFEST.json", document)
        except OSError:
            pass

    save_calls.commit = careless
    return {"careless": save_calls.strike_calls(folder, save_calls.InPython(folder))}


@pytest.fixture
def document(request, tmp_path) -> dict:
    folder = tmp_path
    command = [sys.executable, "-m", "tests.bench.test_faults", str(folder), request.param]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads((folder / "document.json").read_text())


@pytest.mark.parametrize("document", ["good"], indirect=True)
def test_a_save_that_is_killed_or_fails_anywhere_leaves_a_whole_checkpoint(document):
    good = document["good"]
    assert good["kills"] == sum(good["calls"].values()) > 20 and good["errors"] > 60
    assert good["wrong"] == []


@pytest.mark.slow
@pytest.mark.parametrize("document", ["careless"], indirect=True)
def test_a_careless_save_is_found_out(document):
    faults_found = {row["fault"] for row in document["careless"]["wrong"]}
    assert "it said that it had saved, and had not" in faults_found
    assert "the next save does not work" in faults_found


def test_random_damage_is_noticed(tmp_path):
    save_calls.two_older(tmp_path)
    found = damage.damage(tmp_path, 150, seed=1)
    assert found["wrong"] == [] and found["detected"] == 150 and found["all_damaged_is_refused"]
    assert {name.split(",")[0] for name in found["struck"]} == {*save_calls.content(1), "MANIFEST.json"}


@pytest.fixture
def entries():
    for name in ("one", "two"):
        cache.entry("tokens", name, lambda folder: (folder / "ids.npy").write_bytes(b"12345678" * 9))


def test_random_damage_of_the_cache_is_noticed(entries):
    found = damage.damage_cache(60, seed=1)
    assert found["wrong"] == [] and found["detected"] == 60
    assert {name.split(",")[0] for name in found["struck"]} == {"tokens: ids.npy", "tokens: manifest"}


def test_damage_of_the_cache_that_is_not_noticed_is_counted(entries, monkeypatch):
    monkeypatch.setattr(cache, "is_whole", lambda folder: True)
    found = damage.damage_cache(5, seed=1)
    assert len(found["wrong"]) == 5 and not faults.is_clean({"cache": found})


def test_damage_that_is_not_noticed_is_counted(tmp_path, monkeypatch):
    save_calls.two_older(tmp_path)
    monkeypatch.setattr(save_calls, "newest", lambda root: save_calls.content(2))
    monkeypatch.setattr(damage, "newest", lambda root: save_calls.content(2))
    found = damage.damage(tmp_path, 5, seed=1)
    assert len(found["wrong"]) == 5 and not found["all_damaged_is_refused"]
    assert not faults.is_clean({"damage": found})


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / "document.json").write_text(json.dumps(program(target, sys.argv[2] == "careless")))

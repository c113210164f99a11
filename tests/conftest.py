"""One thread (the models are tiny: more threads only wait for each other), and every test leaves things as they were."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the runs that tests start
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
pytest.register_assert_rewrite("tests.toys")  # so that what a rank ended with is said


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A model directory, a training and an evaluation file, and a finished run over them; the tests only read it."""
    import run
    from bench.toys import tiny
    from tests.toys.cli import command

    folder = tmp_path_factory.mktemp("project")
    tiny.save_model(folder / "model")
    tiny.save_texts(folder, train=60, eval=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAINLOOP_CACHE", str(tmp_path_factory.mktemp("cache")))
        assert run.main(command(folder, "--output-dir", str(folder / "run"))) == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    yield folder
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    changed = {str(path) for path in before.keys() ^ after.keys()} | {
        str(p) for p in before.keys() & after.keys() if before[p] != after[p]
    }
    assert not changed, f"a test has changed the project that all share: {changed}"


@pytest.fixture(autouse=True)
def clean(tmp_path_factory, monkeypatch):
    """Restores the RNGs, the kernels and the environment, gives each test a token cache of its own, fails on left-over threads."""
    monkeypatch.setenv("PLAINLOOP_CACHE", str(tmp_path_factory.mktemp("cache")))
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    matmuls, deterministic = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    environment, folder = dict(os.environ), Path.cwd()
    threads = set(threading.enumerate())
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    torch.set_float32_matmul_precision(matmuls)  # a run on CUDA switches TF32 on
    torch.use_deterministic_algorithms(deterministic)
    os.chdir(folder)
    changed = {name for name in os.environ if os.environ[name] != environment.get(name)} - {"PYTEST_CURRENT_TEST"}
    for name in changed:
        os.environ.pop(name)
    os.environ.update(environment)
    left = [thread for thread in set(threading.enumerate()) - threads if not thread.daemon]
    for thread in left:
        thread.join(10)  # transformers' loaders of weights end a moment after their work
    alive = [thread.name for thread in left if thread.is_alive()]
    assert not alive, f"threads left running: {alive}"

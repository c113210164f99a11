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


@pytest.fixture(autouse=True)
def clean(tmp_path_factory, monkeypatch):
    """Restores the RNGs and the environment, gives each test a token cache of its own, fails on left-over threads."""
    monkeypatch.setenv("PLAINLOOP_CACHE", str(tmp_path_factory.mktemp("cache")))
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    environment, folder = dict(os.environ), Path.cwd()
    threads = set(threading.enumerate())
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
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

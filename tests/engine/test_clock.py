"""The phases add up to the run, and timing them costs next to nothing."""

from __future__ import annotations

import time
from contextlib import nullcontext
from itertools import count
from types import SimpleNamespace

import pytest
import torch

import engine.clock
from bench.toys import tiny
from engine import fit
from engine.clock import BETWEEN_STEPS, PHASES, STREAM, Clock
from engine.config import TrainConfig
from engine.loop import train

CPU = torch.device("cpu")


def share_in_phases(folder, monkeypatch) -> float:
    """Of a tiny run's time from the first step to the last, evaluations and checkpoints among them: what has a phase.

    In processor time of one thread, so that what else the machine does is not counted.
    """
    monkeypatch.setattr(engine.clock, "time", SimpleNamespace(perf_counter=time.process_time))
    shares = []

    def timed(state, *others) -> None:
        began = time.process_time()
        train(state, *others)
        shares.append(sum(state.clock.read().values()) / (time.process_time() - began))

    monkeypatch.setattr(fit, "train", timed)
    task = tiny.TokenTask(train=tiny.token_rows(640), evaluation=tiny.token_rows(200, seed=5))
    config = TrainConfig(output_dir=str(folder / "run"), batch_size=32, epochs=2, log_steps=3, device="cpu")
    fit.fit(task, config, tiny.bert())
    return shares[0]


def test_the_phases_add_up_to_the_run(tmp_path, monkeypatch):
    """The best of three: a run of a third of a second has one per cent of chance in it; a phase that is missing has more."""
    shares = []
    while not shares or (max(shares) < 0.98 and len(shares) < 3):
        shares.append(share_in_phases(tmp_path / str(len(shares)), monkeypatch))
    assert 0.98 <= max(shares) <= 1.0


@pytest.mark.parametrize("missing", ["optimizer", "evaluation"])
def test_a_phase_that_is_missing_is_missed(tmp_path, monkeypatch, missing):
    """The control of the test above: none of the other phases takes over what is not timed."""
    phase = Clock.phase
    monkeypatch.setattr(Clock, "phase", lambda self, name: nullcontext() if name == missing else phase(self, name))
    assert share_in_phases(tmp_path, monkeypatch) < 0.98


def test_what_is_taken_is_what_has_passed_since(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(engine.clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    clock = Clock(CPU)

    def spend(name: str, seconds: float) -> None:
        with clock.phase(name):
            now[0] += seconds

    spend("forward", 1.0)
    spend("forward", 2.0)
    spend("evaluation", 8.0)
    assert clock.take() == dict.fromkeys(PHASES, 0.0) | {"forward": 3.0}
    with pytest.raises(MemoryError), clock.phase("forward"):
        now[0] += 4.0
        raise MemoryError
    assert clock.take()["forward"] == 4.0, "what was spent on an attempt that failed is spent"
    assert clock.read() == dict.fromkeys((*PHASES, *BETWEEN_STEPS), 0.0) | {"forward": 7.0, "evaluation": 8.0}


def test_on_a_stream_nothing_waits_before_the_reading(monkeypatch):
    """Two events a phase of the device, none of the host's; the last one is waited for when the seconds are read."""
    waited = []

    class Event:
        made = 0

        def __init__(self, enable_timing: bool):
            assert enable_timing
            self.number, Event.made = Event.made, Event.made + 1

        def record(self) -> None: ...

        def synchronize(self) -> None:
            waited.append(self.number)

        def elapsed_time(self, end: Event) -> float:
            return 1000.0 * (end.number - self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(engine.clock, "time", SimpleNamespace(perf_counter=count().__next__))
    clock = Clock(torch.device("cuda"))
    for name in ("data", *STREAM, "log"):
        with clock.phase(name):
            pass
    assert Event.made == 2 * len(STREAM) and not waited
    seconds = clock.take()
    assert waited == [2 * len(STREAM) - 1]
    assert [seconds[name] for name in STREAM] == [1.0] * len(STREAM)
    assert seconds["data"] == seconds["log"] == 1, "read from the host's clock: twice for each of the two"


def test_every_phase_of_the_run_is_one_of_these(tmp_path, monkeypatch):
    entered = set()
    monkeypatch.setattr(Clock, "phase", lambda self, name: entered.add(name) or nullcontext())
    task = tiny.TokenTask(train=tiny.token_rows(8), evaluation=tiny.token_rows(8))
    fit.fit(task, TrainConfig(output_dir=str(tmp_path / "run"), epochs=1, batch_size=4, device="cpu"), tiny.bert())
    assert entered == {*PHASES, *BETWEEN_STEPS} - {"profiling", "graph"}  # these: record/test_profiling.py, test_cuda_graph.py


@pytest.mark.slow
def test_timing_the_phases_costs_less_than_a_hundredth_of_a_step_of_minilm():
    """Forward and backward alone of 16 rows of 64 tokens: a step is more. Smallest of several, so that pauses do not count."""
    from transformers import AutoModel

    from tasks.offline import packaged_minilm

    clock = Clock(CPU)

    def seconds_of(work, times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - began) / times

    def phase() -> None:
        with clock.phase("forward"):
            pass

    model = AutoModel.from_pretrained(packaged_minilm(), dtype=torch.float32)
    ids = torch.randint(1000, 2000, (16, 64))

    def step() -> None:
        model(input_ids=ids)[0].sum().backward()

    cost = min(seconds_of(phase, 2000) for _ in range(5)) * len(PHASES)
    whole = min(seconds_of(step, 1) for _ in range(3))
    print(f"{1e6 * cost:.1f} microseconds of {1e3 * whole:.0f} ms: {cost / whole:.5%}")
    assert cost < 0.01 * whole

"""--profile: the window holds the steps it says, what is written is what happened, and the run stays the same."""

from __future__ import annotations

import errno
import json
import time
from types import SimpleNamespace

import pytest
import torch

from bench.toys import tiny
from engine.artifacts.directory import read_run
from engine.artifacts.report import record_in, render
from engine.clock import BETWEEN_STEPS, PHASES, Clock
from engine.config import TrainConfig
from engine.errors import DataError, DivergedError, UsageError
from engine.fit import fit
from engine.precision import has_native_bf16
from engine.record import profiling, stopwatch
from engine.record.evaluate import evaluate
from engine.record.profiling import WARM_UP, busy, hottest

EAGER = tuple(name for name in PHASES if name != "graph")  # both passes, recorded, on CUDA


def make(folder, name="run", task=None, **changes) -> dict | None:
    """A run of 10 steps in two epochs; its profile."""
    settings = {"batch_size": 8, "epochs": 2, "learning_rate": 1e-3, "device": "cpu", "save_steps": 100, "eval_steps": 100}
    task = task or tiny.TokenTask(train=tiny.token_rows(40), evaluation=tiny.token_rows(21, seed=5))
    fit(task, TrainConfig(**settings | changes, output_dir=str(folder / name)), tiny.bert())
    path = folder / name / "profile/profile.json"
    return json.loads(path.read_text()) if path.exists() else None


HOUR = 3600.0


def with_hours(monkeypatch, module) -> list[float]:
    """What is added to the list has passed by the clock of the module."""
    passed: list[float] = []
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: time.perf_counter() + sum(passed)))
    return passed


def an_hour(function, passed: list[float]):
    """The function, which takes an hour."""

    def slow(*given, **named):
        passed.append(HOUR)
        return function(*given, **named)

    return slow


def outermost(spans: list[dict]) -> list[dict]:
    """Those that no other span of the list has called: aten::sum calls aten::sum."""
    found, ends = [], {}
    for span in sorted(spans, key=lambda span: (span["ts"], -span["dur"])):
        if span["ts"] + span["dur"] > ends.get(span["tid"], 0.0):
            found.append(span)
            ends[span["tid"]] = span["ts"] + span["dur"]
    return found


def test_the_window(tmp_path, capsys):
    found = make(tmp_path, profile=4)
    assert [step["step"] for step in found["steps"]] == [WARM_UP + 1 + i for i in range(4)]
    for step in found["steps"]:
        assert tuple(step["phases"]) == PHASES and tuple(step["memory_gb"]) == EAGER
        assert all(0.05 < gb < 64 for gb in step["memory_gb"].values())
        assert 0.5 * step["seconds"] < sum(step["phases"].values()) <= step["seconds"]
    trace = json.loads((tmp_path / "run/profile/trace.json").read_text())["traceEvents"]
    for phase in EAGER:
        assert sum(event.get("name") == phase for event in trace) == 4, "each phase once in each step"
    assert not any(event.get("name") in BETWEEN_STEPS for event in trace)
    assert found["busy"] is None, "that is for devices beside the processor"
    run = {"batching": "auto", "layout": "packed", "workers": 0, "compile": False, "ranks": 1}
    precision = "bf16" if has_native_bf16(torch.device("cpu")) else "fp32"
    assert found["run"] == run | {"threads": torch.get_num_threads(), "precision": precision}
    out = capsys.readouterr().out
    assert "profile    steps 4 to 7: " in out
    for row in found["operations"]:
        assert row["name"][:58] in out, "longer ones are cut"
        spans = [event for event in trace if event.get("name") == row["name"] and event.get("cat") == "cpu_op"]
        counted = (
            4 * row["calls"]
        )  # of two of one name the profiler drops the inner one, unless the outer one calls others, too
        assert len(outermost(spans)) <= counted <= len(spans)
        assert 1000 * 4 * row["milliseconds"] <= sum(event["dur"] for event in spans) * 1.001, "own time is no more than all"
    whole, *parts = found["modules"]
    assert whole["name"] == "" and {"bert.encoder.layer.0.attention", "bert.encoder.layer.1.attention", "classifier"} <= {
        row["name"] for row in parts
    }
    assert min(whole["forward"], whole["backward"]) > 0 and whole["share"] < 1
    assert "bert.encoder.layer.*.attention.self " in out, "of all layers together"
    assert found["held_gb"]["optimizer"] == pytest.approx(2 * found["held_gb"]["gradients"], rel=1e-3), "AdamW's two moments"
    assert all(step["with_gradients"] == ["backward", "clip"] for step in found["steps"])
    assert found["advice"] and all(f"  advice: {line}" in out for line in found["advice"])
    page = render([record_in(tmp_path / "run", read_run(tmp_path / "run"), "run")])
    assert 'title="bert.encoder.layer.1.attention: forward ' in page and "What the profile suggests" in page
    assert "Memory by what holds it" in page and "Memory over the time of step " in page
    times = [row["milliseconds"] for row in found["operations"]]
    assert len(times) == 10 and times == sorted(times, reverse=True)


def test_the_same_bits_and_the_training_time_without_it(tmp_path, monkeypatch):
    """Rates and train_runtime leave out the profiler's own work: each part of it takes an hour here."""
    passed = with_hours(monkeypatch, stopwatch)
    for name in ("prepare_trace", "start_trace", "stop_trace", "export_chrome_trace"):
        monkeypatch.setattr(torch.profiler.profile, name, an_hour(getattr(torch.profiler.profile, name), passed))
    make(tmp_path, "with", profile=4)
    assert make(tmp_path, "without") is None
    assert (tmp_path / "with/model.safetensors").read_bytes() == (tmp_path / "without/model.safetensors").read_bytes()
    logs = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("with", "without")
    ]
    losses = [[line["loss"] for line in log] for log in logs]
    assert losses[0] == losses[1]
    assert len(passed) == 4 and json.loads((tmp_path / "with/run.json").read_text())["metrics"]["train_runtime"] < HOUR


@pytest.mark.slow
def test_an_evaluation_ends_the_window(tmp_path, monkeypatch, capsys):
    """At the end of the first epoch, step 5: it would be among the hottest operations otherwise. It takes an hour here."""
    passed = with_hours(monkeypatch, profiling)
    monkeypatch.setattr("engine.build.evaluate", an_hour(evaluate, passed))
    found = make(tmp_path, profile=6, eval_steps=0)
    assert [step["step"] for step in found["steps"]] == [4, 5]
    said = capsys.readouterr().out
    assert (
        "profile    steps 4 to 5 (2 of 6: an evaluation, a save or the end of the run came then): " in said
        and "ms each" in said
    )
    late = make(tmp_path, "late", profile=3, eval_steps=3)  # after step 3, when the profiler is ready and has not begun
    assert [step["step"] for step in late["steps"]] == [4, 5, 6]
    assert passed and sum(step["seconds"] for step in late["steps"]) < HOUR


@pytest.mark.slow
def test_a_short_run_and_a_run_that_fails(tmp_path, capsys):
    assert make(tmp_path, "short", profile=2, max_steps=2) is None
    assert "nothing to see: it begins after 3 steps" in capsys.readouterr().out

    class Poisoned(tiny.TokenTask):
        def loss(self, outputs, batch):
            return super().loss(outputs, batch) * (float("nan") if batch.keys[0][0] == 1 else 1.0)

    with pytest.raises(DivergedError):
        make(tmp_path, "bad", Poisoned(train=tiny.token_rows(40)), profile=50, eval_steps=0)
    assert not (tmp_path / "bad/profile").exists(), "it ended in the middle of a step"
    assert make(tmp_path, "again", profile=1) is not None, "no profiler is left running"

    with pytest.raises(DivergedError):
        make(tmp_path, "later", Poisoned(train=tiny.token_rows(40)), profile=1, eval_steps=0)
    assert (tmp_path / "later/profile/trace.json").exists(), "the window had ended before"


def test_a_profile_that_cannot_be_written_is_not_worth_the_run(tmp_path, monkeypatch, capsys):
    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", full)
    assert make(tmp_path, profile=1) is None and (tmp_path / "run/model.safetensors").exists()
    assert "warning: the profile could not be written in " in capsys.readouterr().err


def test_half_a_profile_is_refused(tmp_path):
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/profile.json").write_text('{"device": "c')
    with pytest.raises(DataError, match=r"profile.json is not what --profile writes .*remove it"):
        record_in(tmp_path, {}, "run")


def test_it_is_stopped_once(tmp_path, monkeypatch, capsys):
    """The second time it would wait for the device again."""
    calls = []
    stop = torch.profiler.profile.stop_trace
    monkeypatch.setattr(torch.profiler.profile, "stop_trace", lambda self: (calls.append(1), stop(self))[1])
    make(tmp_path, profile=1)
    assert calls == [1]
    said = capsys.readouterr().out
    assert "profile    step 4: " in said and "ms each" not in said, "one step"


@pytest.mark.slow
def test_overwriting_a_run_removes_its_profile(tmp_path):
    make(tmp_path, profile=1)
    assert make(tmp_path, overwrite=True, learning_rate=2e-3) is None


def test_a_resumed_run_counts_on(tmp_path):
    with pytest.raises(ValueError, match="stopped by"):
        make(tmp_path, max_minutes=1e-9, save_steps=1)
    done = len(list((tmp_path / "run/checkpoints").iterdir()))
    found = make(tmp_path, save_steps=1, resume=True, profile=1)
    assert done == 1 and found["steps"][0]["step"] == done + WARM_UP + 1


def test_zero_steps_are_refused():
    with pytest.raises(UsageError, match="--profile must be at least 1"):
        TrainConfig(profile=0)


def test_off_is_the_identity():
    clock = Clock(torch.device("cpu"))
    with clock.watch("forward") as nothing:
        assert nothing == "forward"


def test_how_busy_a_device_was():
    """By hand: kernels that overlap count once; pauses are between the unions."""
    kernels = [(0.0, 100.0), (50.0, 150.0), (400.0, 500.0), (160.0, 200.0), (410.0, 420.0)]
    found = busy(kernels, wall=1e-3)
    assert found == {"share": pytest.approx(0.29), "num_gaps": 2, "longest_gap_ms": 0.2}
    assert busy([], 1.0) == {"share": 0.0, "num_gaps": 0, "longest_gap_ms": 0.0}


def test_on_a_device_its_own_operations_count():
    def event(key: str, device: str, cpu: float, own: float, is_name: bool = False) -> SimpleNamespace:
        return SimpleNamespace(key=key, count=4, device_type=SimpleNamespace(name=device), self_cpu_time_total=cpu,
                               self_device_time_total=own, is_user_annotation=is_name)  # fmt: skip

    events = [event("gemm", "CUDA", 0, 6000), event("aten::mm", "CPU", 900, 0), event("forward", "CUDA", 0, 9000, True)]
    [gemm] = hottest(events, num_steps=2, wall=0.01, on_device=True)
    assert gemm == {"name": "gemm", "milliseconds": 3.0, "calls": 2.0, "share": 0.6}
    [mm] = hottest(events, num_steps=2, wall=0.01, on_device=False)
    assert mm["name"] == "aten::mm" and mm["share"] == pytest.approx(0.09)

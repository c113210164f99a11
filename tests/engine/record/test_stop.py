"""Asked to stop, a run finishes its step, saves, and says how to go on; a second Ctrl-C leaves at once.

Real signals to real processes; that what follows is the same run, bit by bit, is compared with one that nobody stopped.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from safetensors.torch import load_file

import run
from bench.toys import tiny
from engine.config import TrainConfig
from engine.errors import ResourceError, StoppedError, explain
from engine.fit import fit
from engine.record.figures import Evaluation
from engine.record.stop import Stop

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A model and a file of texts."""
    folder = tmp_path_factory.mktemp("data")
    tiny.save_model(folder / "model", tiny.distilbert().distilbert)
    tiny.save_texts(folder, train=200, eval=40)
    return folder


def command(data: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "run.py", "--task", "classification", "--train-file", str(data / "train.csv"), "--eval-file",
            str(data / "eval.csv"), "--model", str(data / "model"), "--output-dir", str(out), "--batch-size", "4", "--epochs", "4",
            "--learning-rate", "1e-3", "--log-steps", "1", "--device", "cpu", *more]  # fmt: skip


def start(data: Path, out: Path, *more: str) -> subprocess.Popen:
    """A run that has done ten steps."""
    process = subprocess.Popen(
        command(data, out, *more), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() or (out / "metrics.jsonl").read_bytes().count(b"\n") < 10:
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.01)
    return process


def steps(out: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines if line["kind"] == "train"]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert run.main(command(data, out)[2:]) == 0
    return out


def also(*values):
    """Another case of the same: with the slow tests, for each starts a process of its own."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(("number", "code", "workers"), [("SIGTERM", 143, 2), also("SIGINT", 130, 0), also("SIGHUP", 129, 2)])
def test_a_signal_saves_and_resuming_is_the_same_run(number, code, workers, data, undisturbed, tmp_path):
    """Sent to the whole group, as a terminal and a scheduler do: workers must not die of it."""
    out = tmp_path / "run"
    process = start(data, out, "--workers", str(workers))
    os.killpg(process.pid, getattr(signal, number))
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    done = steps(out)[-1][0]
    assert f"after step {done} of 200, and saved: --resume continues" in said and "Traceback" not in said
    assert (out / f"checkpoints/step-{done:08d}/MANIFEST.json").exists()
    assert json.loads((out / "run.json").read_text())["status"] == "running"
    assert run.main(command(data, out, "--resume")[2:]) == 0
    assert steps(out) == steps(undisturbed)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, undisturbed))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


LOST = {  # how stdout is lost, and the exit code
    "its reader goes": ("read -r _; read -r _", 141), "2>&1, and its reader goes": ("read -r _; read -r _", 141), "a full disk": ("", 6),
}  # fmt: skip


@pytest.mark.parametrize("how", [also(how) for how in LOST])
def test_a_stdout_that_takes_no_more_stops_as_a_signal_does(how, data, undisturbed, tmp_path):
    """``| head -2`` and ``> /dev/full``: the step is finished and saved, nothing is a traceback, and --resume goes on."""
    out = tmp_path / "run"
    reader, code = LOST[how]
    line = shlex.join(command(data, out))
    line = f"{line} > /dev/full" if how == "a full disk" else f"{line}{' 2>&1' * ('2>&1' in how)} | ({reader})"
    done = subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert "2>&1" in how or "stopped by its output, which cannot be written" in done.stderr
    assert list(out.glob("checkpoints/step-*/MANIFEST.json"))
    assert run.main(command(data, out, "--resume")[2:]) == 0
    assert steps(out) == steps(undisturbed)


@pytest.mark.parametrize("closed", [also(">&-"), also("2>&-"), also(">&- 2>&- <&-")])
def test_streams_that_are_closed_from_the_start_are_nobodys(closed, data, tmp_path):
    """And no file of the run gets their numbers."""
    out = tmp_path / "run"
    line = f"{shlex.join(command(data, out, '--max-steps', '2'))} {closed}"
    assert subprocess.run(["bash", "-c", line], cwd=ROOT, timeout=120, check=False).returncode == 0
    assert json.loads((out / "run.json").read_text())["status"] == "finished" and len(steps(out)) == 2


@pytest.mark.slow
def test_a_terminal_that_is_not_utf_8(data, tmp_path):
    out = tmp_path / "é"
    done = subprocess.run(
        command(data, out, "--max-steps", "1"), cwd=ROOT, capture_output=True, check=False, timeout=120,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert done.returncode == 0 and b"saved to" in done.stdout and rb"\xe9" in done.stdout, done
    from engine.console import Unfailing

    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print("é", file=Unfailing(stream), flush=True)
    assert stream.buffer.getvalue() == b"\\xe9\n"


def test_nohup_is_heeded():
    """Who has said that SIGHUP is to be ignored is not asked again."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.reason is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("how", [also("moved"), also("replaced")])
def test_a_directory_that_is_moved_away_is_found_and_not_made_again(how, data, undisturbed, tmp_path):
    out = tmp_path / "run"
    process = start(data, out, "--save-steps", "7")
    out.rename(tmp_path / "elsewhere")
    if how == "replaced":
        out.mkdir()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 6, said
    assert "was moved, replaced or removed while the run went on" in said and "and saved" not in said
    assert not out.exists() or not list(out.iterdir())
    subprocess.run(
        command(data, tmp_path / "elsewhere", "--resume", "--save-steps", "7"), cwd=ROOT, check=True, capture_output=True
    )
    assert steps(tmp_path / "elsewhere") == steps(undisturbed)


class Moving(tiny.TokenTask):
    """Its directory is moved away in the middle of a step."""

    move: ClassVar[Callable[[], None]]

    def loss(self, outputs, batch):
        type(self).calls = getattr(type(self), "calls", 0) + 1
        if self.calls == 3:
            type(self).move()
        return super().loss(outputs, batch)


@pytest.mark.parametrize("how", ["moved", "replaced"])
def test_what_was_moved_in_the_middle_of_a_step_goes_on_where_it_is(how, tmp_path, monkeypatch):
    """In one process: the error names the place, nothing is made anew there, and --resume ends in the same weights."""
    rows, out = tiny.token_rows(40), tmp_path / "run"

    def settings(folder: str, **more) -> TrainConfig:
        return TrainConfig(batch_size=8, max_steps=6, save_steps=2, device="cpu", output_dir=str(tmp_path / folder), **more)

    def move() -> None:
        out.rename(tmp_path / "elsewhere")
        if how == "replaced":
            out.mkdir()

    monkeypatch.setattr(Moving, "move", staticmethod(move), raising=False)
    monkeypatch.setattr(Moving, "calls", 0, raising=False)
    with pytest.raises(ResourceError, match="was moved, replaced or removed while the run went on"):
        fit(Moving(train=rows), settings("run"), tiny.bert())
    assert not out.exists() or not list(out.iterdir())
    fit(tiny.TokenTask(train=rows), settings("elsewhere", resume=True), tiny.bert())
    fit(tiny.TokenTask(train=rows), settings("undisturbed"), tiny.bert())
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("elsewhere", "undisturbed"))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


class Interrupted(tiny.TokenTask):
    """Somebody interrupts the process, or the kernel that it is, in the middle of the third step."""

    calls = 0

    def loss(self, outputs, batch):
        self.calls += 1
        if self.calls == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return super().loss(outputs, batch)


def test_an_interrupt_saves_from_python_too(tmp_path):
    """fit raises what the command prints, Python's own handler is back, and resume=True ends in the weights of one piece."""
    rows, handler = tiny.token_rows(40), signal.getsignal(signal.SIGINT)

    def settings(folder: str, **more) -> TrainConfig:
        return TrainConfig(batch_size=8, max_steps=6, log_steps=1, device="cpu", output_dir=str(tmp_path / folder), **more)

    with pytest.raises(StoppedError, match="stopped by Ctrl-C after step 3 of 6, and saved: --resume continues") as caught:
        fit(Interrupted(train=rows), settings("run"), tiny.bert())
    assert caught.value.exit_code == 130 and caught.value._render_traceback_() == [str(caught.value)]
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "run/checkpoints/step-00000003/MANIFEST.json").exists()
    fit(tiny.TokenTask(train=rows), settings("run", resume=True), tiny.bert())
    fit(tiny.TokenTask(train=rows), settings("undisturbed"), tiny.bert())
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "undisturbed"))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert steps(tmp_path / "run") == steps(tmp_path / "undisturbed")


def test_a_second_ctrl_c_leaves_at_once(data, tmp_path):
    """With a step that never ends: the first one waits for it, the second does not."""
    code = (
        "import time; from engine.record.stop import Stop\n"
        "with Stop() as stop:\n    print('ready', flush=True)\n    while True: time.sleep(0.01)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    first = [process.stderr.readline() for _ in range(2)]
    assert first == ["\n", "Ctrl-C: finishing this step and saving; Ctrl-C again leaves at once\n"] and process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in said


def test_a_time_limit_stops_before_it_and_says_so(tmp_path):
    """Of half a second, in a run of 5,000 steps, which take longer; its checkpoint, and the exit code of a terminated run."""
    task = tiny.TokenTask(train=tiny.token_rows(40))
    config = TrainConfig(batch_size=8, max_steps=5000, device="cpu", output_dir=str(tmp_path / "run"), max_minutes=0.5 / 60)
    with pytest.raises(StoppedError, match=r"stopped by --max-minutes 0.00833333 after step \d+ of 5000") as caught:
        fit(task, config, tiny.bert())
    assert explain(caught.value) == (str(caught.value), 143)
    stopped_after = int(re.search(r"after step (\d+)", str(caught.value))[1])
    assert (tmp_path / f"run/checkpoints/step-{stopped_after:08d}/MANIFEST.json").exists()


def test_time_for_another_step_and_the_saving_is_kept():
    stop = Stop(max_minutes=1)
    assert not stop.wanted(50.0) and stop.wanted(61.0) and stop.reason == "--max-minutes 1"
    assert not Stop().wanted(1e9)


def test_time_for_an_evaluation_is_kept_too(tmp_path, monkeypatch):
    """It comes before the saving: after the first one, of 300 ms, every step leaves room for another."""
    asked = []
    monkeypatch.setattr(Stop, "wanted", lambda self, seconds: asked.append(seconds))
    monkeypatch.setattr(
        "engine.build.evaluate", lambda *_, **__: time.sleep(0.3) or Evaluation({"loss": 1.0, "accuracy": 0.5}, 1, 1, 0.3)
    )
    task = tiny.TokenTask(train=tiny.token_rows(8), evaluation=tiny.token_rows(4))
    settings = {"batch_size": 4, "epochs": 2, "device": "cpu", "max_minutes": 9.0, "output_dir": str(tmp_path / "run")}
    fit(task, TrainConfig(**settings), tiny.bert())
    assert len(asked) == 4 and asked[2] - asked[1] >= 0.3, "the room for steps only grows, however slow the machine is"


def test_handlers_are_put_back_and_other_threads_are_left_alone():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Stop():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    failed = []

    def elsewhere():
        try:
            with Stop():
                pass
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert not failed


def test_sigterm_twice_still_saves():
    """A scheduler may repeat itself; only a second Ctrl-C means now."""
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == "SIGTERM" and stop.exit_code == 143

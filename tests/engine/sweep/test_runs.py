"""The processes of a sweep: what they come to, how many at once, and that none outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.errors import StoppedError
from engine.sweep import runs

ROOT = Path(__file__).parents[3]
STANDS_FOR = """
import os, pathlib, signal, sys, time
what, place = sys.argv[1], pathlib.Path(sys.argv[2])
if what == "save":
    signal.signal(signal.SIGTERM, lambda *_: (place.with_suffix(".saved").touch(), sys.exit(143)))
place.write_text(str(os.getpid()))
if what in ("save", "long"):
    time.sleep(60)
if what.startswith("with"):  # as many, itself among them, have been started
    deadline = time.monotonic() + 60
    while sum(path.suffix == "" for path in place.parent.glob("[0-9]")) < int(what[4:]):
        if time.monotonic() > deadline:
            sys.exit(1)
        time.sleep(0.02)
if what == "fail":
    print("error: it is wrong", file=sys.stderr)
    print("and more")
    sys.exit(5)
if what == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    (tmp_path / "run.py").write_text(STANDS_FOR)
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    return tmp_path


def commands(folder: Path, *what: str) -> list[tuple[list[str], Path]]:
    return [([each, str(folder / f"{i}")], folder / f"{i}.log") for i, each in enumerate(what)]


def test_outcomes_are_recorded(program):
    found = {}
    runs.run_all(commands(program, "well", "fail", "kill"), 2, found.__setitem__)
    assert {i: (each.code, each.line) for i, each in found.items()} == {
        0: (0, ""), 1: (5, "error: it is wrong"), 2: (137, "it said nothing"),
    }  # fmt: skip


@pytest.mark.parametrize("at_once", [1, 3])
def test_so_many_go_on_at_once(program, at_once, monkeypatch):
    most, begin, found = [0], runs.start, {}
    going: list[runs.Started] = []

    def counted(*given):
        going.append(begin(*given))
        most[0] = max(most[0], sum(each.process.poll() is None for each in going))
        return going[-1]

    monkeypatch.setattr(runs, "start", counted)
    runs.run_all(commands(program, *[f"with{at_once}"] * 4), at_once, found.__setitem__)
    assert most[0] <= at_once and [found[i].code for i in range(4)] == [0] * 4


def pid_in(path: Path) -> int:
    deadline = time.monotonic() + 20
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(path.read_text())


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_sweep_that_is_stopped_lets_its_runs_save(program):
    killer = threading.Thread(target=lambda: (pid_in(program / "0"), os.kill(os.getpid(), signal.SIGTERM)))
    killer.start()
    with pytest.raises(StoppedError, match="stopped by SIGTERM") as error:
        runs.run_all(commands(program, "save"), 1, lambda *_: None)
    killer.join()
    assert error.value.exit_code == 143 and (program / "0.saved").exists()


def test_a_run_that_is_stopped_stops_the_sweep(program):
    (program / "run.py").write_text("import sys\nprint('stopped, and saved')\nsys.exit(130)")
    with pytest.raises(StoppedError, match=r"a run was asked to stop \(stopped, and saved\)"):
        runs.run_all(commands(program, "x", "x"), 1, lambda *_: None)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_run_does_not_outlive_a_sweep_that_is_killed(program):
    code = f"from pathlib import Path\nfrom engine.sweep import runs\nruns.ROOT = Path({str(program)!r})\n" + (
        f"runs.run_all([(['long', {str(program / '0')!r}], Path({str(program / 'log')!r}))], 1, print)"
    )
    sweep = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    pid = pid_in(program / "0")
    assert is_there(pid)
    sweep.kill()
    sweep.wait()
    deadline = time.monotonic() + 10
    while is_there(pid):
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.02)

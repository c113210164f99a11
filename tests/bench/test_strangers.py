"""A small version of python -m bench strangers, and that it finds what it looks for."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bench.bad_input.case import Result
from bench.machine import ROOT
from bench.reliability import watched
from bench.reliability.mutations import changed_json, leaves
from bench.reliability.strangers import PLACE, faults_of, try_all


@pytest.mark.slow
def test_a_few_strangers():
    """In a process of its own, which forks one for each case."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "strangers", "--runs", "6", "--seed", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and "6 cases with seed 1: 0 went wrong" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("result", "fault"),
    [(Result(1, "", "", "Traceback\nKeyError: 1"), "KeyError"), (Result(1, "", "error: x\n"), "exit code 1"),
     (Result(2, "", "x\n"), "not one error line"), (Result(2, "", "error: x\nerror: y\n"), "not one error line"),
     (Result(0, "\x1b[2J", ""), "control characters")],
)  # fmt: skip
def test_what_is_wrong_is_found(result, fault, monkeypatch):
    monkeypatch.setattr("bench.bad_input.case.call", lambda argv: result)
    [found] = faults_of(["predict"])
    assert found.startswith("predict: ") and fault in found


def test_without_strace_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("bench.reliability.watched.shutil.which", lambda name: None)
    monkeypatch.setattr("bench.reliability.strangers.strangers", lambda numbers, seed, home: ({4: ["x"]}, 1.25))
    found = try_all(range(150), 0, tmp_path)
    said = capsys.readouterr().out
    assert "strace is not here" in said and "case 4: 'x'" in said
    assert found["watched_by"] == "Python's events" and found["wrong"] == {4: ["x"]} and found["cases"] == 150


PLANTED = """
import os, socket, subprocess, sys
from pathlib import Path
place = Path(sys.argv[1])
for number, does in enumerate([
    lambda: None,
    lambda: open(place / "stranger-1-x/mine", "w").close(),
    lambda: open(place / "outside", "w").close(),
    lambda: subprocess.run(["true"]),
    lambda: socket.socket().connect_ex(("127.0.0.1", 9)),
    lambda: (place / "stranger-5-x/link").symlink_to("/etc/hostname") or open(place / "stranger-5-x/link").read(),
    lambda: os.rename(place / "outside", place / "elsewhere"),
    lambda: os.path.exists("/etc/hostname") and open("/etc/no-such-file") if False else None,
    lambda: os.fork() or (open("/etc/hostname").read(), os._exit(0)),
    lambda: os.mkdir("here"),
]):
    (place / f"stranger-{number}-x").mkdir()
    child = os.fork()
    if child == 0:
        open(place / f"stranger-{number}-x/output.txt", "w").close()
        does()
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not watched.is_there(), reason="strace is not here, or may not trace")
def test_strace_sees_what_each_case_must_not_do(tmp_path):
    log = tmp_path / "log"
    subprocess.run(watched.command(log, [sys.executable, "-c", PLANTED, str(tmp_path)]), check=True, cwd=tmp_path)
    seen = watched.Watch(PLACE, [str(ROOT)])
    seen.read(log.read_text().splitlines())
    found = {Path(place).name: [fault.split()[:2] for fault in faults[:1]] for place, faults in seen.faults.items()}
    assert found == {
        "stranger-2-x": [["openat", "changes"]], "stranger-3-x": [["execve", found["stranger-3-x"][0][1]]],
        "stranger-4-x": [["connect", found["stranger-4-x"][0][1]]], "stranger-5-x": [["openat", "reads"]],
        "stranger-6-x": [["rename", "changes"]], "stranger-8-x": [["openat", "reads"]], "stranger-9-x": [["mkdir", "changes"]],
    }  # fmt: skip
    assert seen.calls["openat"] > 8 and not seen.waiting


def test_interrupted_calls_are_put_together():
    lines = ['7 openat(AT_FDCWD</a>, "b\\33", O_WRONLY <unfinished ...>', "8 +++ exited with 0 +++", '9 unlink("/x") = 0',
             "7 <... openat resumed>|O_CREAT, 0666) = 3</a/b\\33>"]  # fmt: skip
    calls = list(watched.whole_calls(lines))
    assert calls == [
        ("9", "unlink", '"/x") = 0'),
        ("7", "openat", 'AT_FDCWD</a>, "b\\33", O_WRONLY |O_CREAT, 0666) = 3</a/b\\33>'),
    ]
    assert watched.unescaped(r"b\33") == "b\x1b"


def test_every_value_of_a_file_can_be_changed():
    content = json.dumps({"a": [1, {"b": None}], "c": "x"}).encode()
    assert leaves(json.loads(content)) == [("a",), ("a", 0), ("a", 1), ("a", 1, "b"), ("c",)]
    assert len({changed_json(content, random.Random(i)) for i in range(300)}) > 60
    assert any(b"quantization_config" in changed_json(content, random.Random(i), "config.json") for i in range(300))


def test_what_a_case_must_not_do_is_seen(tmp_path):
    code = """
import os, socket, subprocess, sys
from pathlib import Path
from bench.reliability.strangers import watch
found = []
watch(Path(sys.argv[1]), found)
open(sys.argv[1] + "/mine", "w").close()
open("/dev/null", "w").close()
assert not found, found
open(sys.argv[1] + "-not", "w").close()
subprocess.run(["true"])
try:
    socket.create_connection(("127.0.0.1", 9))
except OSError:
    pass
print("\\n".join(found))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True)
    for words in (f"writes {tmp_path}-not", "subprocess.Popen", "socket.connect"):
        assert words in done.stdout


def test_the_cases_on_the_page_are_those_of_the_result():
    found = json.loads((ROOT / "bench/results/rooms/strangers.json").read_text())
    page = " ".join((ROOT / "docs/security.md").read_text().split())
    assert (
        f"{found['cases']:,} cases are kept in `bench/results/rooms/strangers.json`: {len(found['wrong'])} went wrong" in page
    )
    assert found["again"]["wrong"] == {} and {int(number) for number in found["wrong"]} <= {*found["again"]["numbers"]}

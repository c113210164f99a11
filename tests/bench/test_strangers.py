"""A small version of python -m bench strangers, and that it finds what it looks for."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from bench.bad_input.case import Result
from bench.machine import ROOT
from bench.reliability.strangers import changed_json, faults_of, leaves


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


def test_every_value_of_a_file_can_be_changed():
    content = json.dumps({"a": [1, {"b": None}], "c": "x"}).encode()
    assert leaves(json.loads(content)) == [("a",), ("a", 0), ("a", 1), ("a", 1, "b"), ("c",)]
    assert len({changed_json(content, random.Random(i)) for i in range(300)}) > 60


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

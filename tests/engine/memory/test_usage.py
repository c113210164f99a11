"""Memory that is freed stays with the process: counted in page faults, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource, torch
from engine.memory.usage import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    torch.ones(9 << 20)
for _ in range(10):  # until the heap has found its size
    step()
before = faults()
for _ in range(5):
    step()
print((faults() - before) / 5)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.slow
def test_no_page_faults_after_the_first_steps():
    """36 MiB, more than glibc ever keeps by itself, are 9,216 pages: all of them fault in each step without it, which is how
    this test can fail."""

    def faults_per_step(keep: bool) -> float:
        command = [sys.executable, "-c", CODE.replace("{keep}", str(keep))]
        root = Path(__file__).parent.parent.parent.parent
        return float(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout)

    assert faults_per_step(keep=True) < 100
    assert faults_per_step(keep=False) > 1000

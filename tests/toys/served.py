"""A model behind HTTP, in this process or in one of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

import tasks
from engine.finished import open_model
from engine.serving.app import Service
from engine.serving.requests import Limits

ROOT = Path(__file__).parents[2]
LIMITS = {"body": 1 << 20, "texts": 128, "characters": 50_000, "seconds": 30.0}


@contextmanager
def served(
    folder: Path,
    changes: dict[str, Any] | None = None,
    task: str | None = None,
    settings: dict[str, Any] | None = None,
    **more: Any,
) -> Iterator[tuple[TestClient, Service]]:
    """A client of the model in the folder. ``changes``: to the limits; ``settings``: of the task; ``more``: for Service."""
    kind, model, layout = open_model(str(folder), tasks.find, device="cpu", task=task, changes=settings)
    service = Service(kind, model, layout, limits=Limits(**LIMITS | (changes or {})), **{"name": "toy", "logs": False} | more)
    try:
        with TestClient(service, base_url="http://localhost", raise_server_exceptions=False) as client:
            yield client, service
    finally:
        service.batcher.close()


@contextmanager
def server(folder: Path, *flags: str, **environment: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """``run.py serve`` on a port of its own; its stderr is read when it has ended."""
    command = [sys.executable, "run.py", "serve", str(folder), "--port", "0", "--device", "cpu", *flags]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    try:
        found = re.search(r":(\d+) ", process.stdout.readline())
        assert found, process.communicate()[1]
        yield process, int(found[1])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()


def ended(process: subprocess.Popen, number: int = signal.SIGTERM) -> tuple[int, str]:
    """Exit code and stderr, after a signal."""
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def until(condition: Any, seconds: float = 10) -> None:
    """Wait for it."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come about"
        time.sleep(0.005)

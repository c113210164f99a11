"""Rows 91 to 110: devices, workers, ranks, the loss, signals and the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import torch

from bench.bad_input.case import Attempts, Place, Result, row, spawn
from bench.bad_input.forms import flags
from bench.machine import ROOT
from bench.toys import ranks
from engine.checkpoint.store import steps_in


@row(91, "--device cuda without CUDA", 2, "sees no CUDA device; use --device cpu")
def _(at: Place) -> Attempts:
    with patch("torch.cuda.device_count", return_value=0):
        yield at.train("--device", "cuda")
        yield at.predict("w1", "--device", "cuda")


flags(92, "a device that is not there", "--device", "--device cuda:99", "--device toaster", "--device cuda:-1", "--device meta")
flags(93, "fp16 on a CPU", "--precision fp16 is not for CPUs", "--precision fp16")


@row(94, "bf16 on a GPU without it", 2, "does not compute in it; use fp16")
def _(at: Place) -> Attempts:
    with (
        patch("engine.distributed.join.choose_device", return_value=torch.device("cuda", 0)),
        patch("torch.cuda.is_bf16_supported", return_value=False),
        patch("torch.cuda.get_device_name", return_value="Tesla T4"),
    ):
        yield at.train("--precision", "bf16")


@row(95, "out of memory", 6, "out of memory", begun=True)
def _(at: Place) -> Attempts:
    with patch("tasks.classification.task.Classification.loss", side_effect=torch.OutOfMemoryError("CUDA out of memory.")):
        yield at.train()


@row(96, "a worker is killed", 6, "memory", begun=True)
def _(at: Place) -> Attempts:
    body = "def prepare(self, row, generator):\n    os.kill(os.getpid(), signal.SIGKILL)"
    yield at.train("--task", at.task(body), "--workers", "1")


@row(97, "a worker raises", 3, "ZeroDivisionError: division by zero", begun=True)
def _(at: Place) -> Attempts:
    body = "def prepare(self, row, generator):\n    return row if row['labels'] else 1 / 0"
    for workers in ("0", "1"):
        result = yield at.train("--task", at.task(body), "--workers", workers)
        assert "row " in result.err, result.err
    body = "def collate(self, rows, layout):\n    return 1 / 0"
    result = yield at.train("--task", at.task(body), "--workers", "1", "--batching", "padded")
    assert "rows " in result.err, result.err


@row(98, "a worker hangs", 6, "no batch within 1 seconds", begun=True, slow=True)
def _(at: Place) -> Attempts:
    body = "def prepare(self, row, generator):\n    time.sleep(999)"
    with patch("engine.loader.WORKER_SECONDS", 1):
        yield at.train("--task", at.task(body), "--workers", "1")


@row(99, "torchrun's variables missing", 7, "RANK LOCAL_RANK are set and WORLD_SIZE", slow=True)
def _(at: Place) -> Attempts:
    yield spawn(at.train(), env=os.environ | {"RANK": "0", "LOCAL_RANK": "0"})


@row(100, "port in use", 7, "is in use: give another MASTER_PORT", slow=True)
def _(at: Place) -> Attempts:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield spawn(at.train(), env=os.environ | ranks.environment(0, 2, taken.getsockname()[1]))


@row(101, "ranks with different configs", 7, "rank 1 has other settings than rank 0 (learning_rate: 0.5, and ", slow=True)
def _(at: Place) -> Attempts:
    first, second = two_ranks(at.train(), at.train("--learning-rate", "0.5"))
    yield first
    assert second.code == 7 and not second.raised, second


@row(102, "a rank dies or hangs", 7, "rank 1 does not answer: it was killed, or it hangs", slow=True, begun=True)
def _(at: Place) -> Attempts:
    mine = at.task(
        "def loss(self, outputs, batch):\n    if os.environ['RANK'] == '1':\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return super().loss(outputs, batch)"
    )
    first, second = two_ranks(*[at.train("--task", mine, "--rank-timeout", "5")] * 2)
    yield first
    assert second.code == -signal.SIGKILL, second


@row(103, "loss or gradient not finite", 5, "is not finite at step", begun=True)
def _(at: Place) -> Attempts:
    result = yield at.train("--learning-rate", "1e30", "--epochs", "9", "--log-steps", "1")
    assert ", rows " in result.err, result.err


@row(104, "fp16 loss scale collapses", 5, "the fp16 loss scale has collapsed", begun=True)
def _(at: Place) -> Attempts:
    task = at.task(
        "def loss(self, outputs, batch):\n    return super().loss(outputs, batch) + 0 * (outputs.logits.sum() * 0).sqrt()"
    )
    with patch("engine.fit.choose_precision", return_value="fp16"), patch("engine.build.choose_precision", return_value="fp16"):
        yield at.train("--task", task, "--epochs", "20", "--batching", "padded")


@row(105, "the loss jumps", 0, "warning: the loss has jumped to")
def _(at: Place) -> Attempts:
    body = (
        "calls = 0\n"
        "def loss(self, outputs, batch):\n"
        "    if outputs.logits.requires_grad:\n        Mine.calls += 1\n"
        "    return super().loss(outputs, batch) * (50 if Mine.calls == 9 else 1)"
    )
    yield at.train("--task", at.task(body), "--epochs", "4", "--log-steps", "1")


@row(106, "Ctrl-C once, and twice", 130, "", slow=True, begun=True)
def _(at: Place) -> Attempts:
    result = yield signalled(at, signal.SIGINT)
    assert "and saved: --resume continues" in result.err and steps_in(at.out / "checkpoints"), result.err
    shutil.rmtree(at.out)
    yield signalled(at, signal.SIGINT, again=True)


@row(107, "SIGTERM", 143, "and saved: --resume continues", slow=True, begun=True)
def _(at: Place) -> Attempts:
    yield signalled(at, signal.SIGTERM)


@row(108, "stdout closed (| head)", 141, "", slow=True)
def _(at: Place) -> Attempts:
    command = [sys.executable, "run.py", *at.predict_file("i.csv", "text\n" + "w1 w2\n" * 3000)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None and process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert said == "", said
    yield Result(process.returncode, "", said)


@row(109, "no terminal", 0, "saved to", slow=True)
def _(at: Place) -> Attempts:
    environment = {name: value for name, value in os.environ.items() if name not in ("TERM", "COLUMNS", "LINES")}
    result = yield spawn(at.train(), stdin=subprocess.DEVNULL, start_new_session=True, env=environment)
    assert "step 3/3" in result.out and "\r" not in result.out + result.err, "lines take the bar's place"


@row(110, "the clock jumps", 0, "from step 6 of 6")
def _(at: Place) -> Attempts:
    arguments = at.resume()
    for path in sorted((at.out / "checkpoints").rglob("*")):
        os.utime(path, (2e9, 2e9) if "00004" in str(path) else (1e9, 1e9))  # the older one looks newer
    with patch("time.time", side_effect=lambda: next(backwards)):
        yield arguments
    lines = [json.loads(line) for line in (at.out / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps) and all(line.get("steps_per_second", 1) > 0 for line in lines)


backwards = iter(range(2_000_000_000, 0, -1000))


# ---------------------------------------------------------------------------------------------------------- helpers


def two_ranks(first: list[str], second: list[str]) -> list[Result]:
    """Two command lines as the ranks of one run."""
    port = ranks.free_port()
    with ThreadPoolExecutor(2) as pool:
        waiting = [
            pool.submit(spawn, argv, env=os.environ | ranks.environment(rank, 2, port))
            for rank, argv in enumerate((first, second))
        ]
    return [each.result() for each in waiting]


def signalled(at: Place, number: int, again: bool = False) -> Result:
    """A run in a new process that gets a signal after some steps."""
    command = [sys.executable, "run.py", *at.train("--epochs", "400", "--log-steps", "1", "--save-steps", "5")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **pipes) as process:  # type: ignore[call-overload]
        until = time.monotonic() + 120
        while not steps_in(at.out / "checkpoints") and time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        if again:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
        out, err = process.communicate(timeout=60)
    return Result(process.returncode, out, err)

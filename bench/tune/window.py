"""One window of steps, in a process of its own: what it takes is then its own, memory and threads, too."""

from __future__ import annotations

import dataclasses
import importlib
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from engine.config import TrainConfig
from engine.data.sources import Source, SourceConfig
from engine.errors import explain
from engine.settings.parser import parse

WARMUP = 2  # steps


@dataclass(frozen=True)
class Window:
    """``seconds``: of the steps; ``whole``: from the start of the process to its end; ``failed``: why there is nothing else."""

    num_steps: int = 0
    num_examples: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    whole: float = 0.0
    peak_gb: float = 0.0
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    modules: Sequence[str] = dataclasses.field(default=(), repr=False)
    failed: str = ""

    @property
    def rate(self) -> float:
        """Examples a second."""
        return self.num_examples / self.seconds


def measure(argv: Sequence[str], task: str, find: Callable[..., Any], threads: int | None, num_steps: int) -> Window:
    """In a new process: where the system can, forked from this one, which has imported all and computed nothing."""
    how = "fork" if sys.platform == "linux" else "spawn"
    context: Any = multiprocessing.get_context(how)
    receiver, sender = context.Pipe(duplex=False)
    began = time.perf_counter()
    process: Any = context.Process(target=in_child, args=(sender, list(argv), task, find, threads, num_steps))
    process.start()
    sender.close()
    try:
        found: Window = receiver.recv()
    except EOFError:
        found = Window(failed="")
    process.join()
    if how == "fork":
        import_all(found.modules)
    if not found.num_steps and not found.failed:
        found = Window(failed=f"its process ended with {process.exitcode}: out of memory, most often")
    return dataclasses.replace(found, whole=time.perf_counter() - began)


def import_all(modules: Sequence[str]) -> None:
    """What a window has imported beside what is here: the next one then begins with it."""
    for name in modules:
        if name not in sys.modules:
            with suppress(Exception):  # made while it ran, and no file
                importlib.import_module(name)


def in_child(
    sender: Connection, argv: list[str], task: str, find: Callable[..., Any], threads: int | None, num_steps: int
) -> None:
    """Send the window, or why there is none."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            found = window(argv, task, find, threads, num_steps)
        except BaseException as error:
            explained = explain(error)
            found = Window(failed=explained[0].removeprefix("error: ") if explained else traceback.format_exc()[-300:])
    sender.send(found)
    sender.close()


def window(argv: Sequence[str], name: str, find: Callable[..., Any], threads: int | None, num_steps: int) -> Window:
    """Train, with the run's own book-keeping, and look at the clock around so many steps."""
    import torch

    from bench.window import Counting
    from engine import loop
    from engine.build import build
    from engine.memory.usage import peak_memory_gb
    from engine.precision import has_native_bf16

    if threads is not None:
        torch.set_num_threads(threads)
    kind = find(name)
    config, source, options = parse(argv, "run.py tune", [TrainConfig, SourceConfig, kind.Options], kind.defaults)
    config = dataclasses.replace(config, max_steps=WARMUP + num_steps)
    task = kind(options, Source(source))
    setup = build(task, task.examples()["train"], config)
    device = setup.state.device
    with tempfile.TemporaryDirectory() as folder:
        run = Counting(Path(folder), config, setup.state, setup.data.plan.num_steps)
        run.warmup = WARMUP
        try:
            loop.train(setup.state, task, setup.data, config, setup.world, run)
        finally:
            run.close()
    facts = {
        "device": device.type, "layout": setup.layout.kind, "precision": setup.precision, "threads": torch.get_num_threads(),
        "has_bf16": has_native_bf16(device), "is_additive": task.additive,
    }  # fmt: skip
    seconds = run.ended - run.began
    return Window(num_steps, run.num_examples, run.num_tokens, seconds, 0.0, peak_memory_gb(device), facts, [*sys.modules])

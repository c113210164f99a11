"""A training step of your own under the same glass as ``--profile``: phases, hottest operations, memory, a trace, report.html.

    python -m bench step my_loop.py:make_step
    python -m bench step my_loop.py:make_step --steps 5 --output runs/by-hand --beside runs/imdb

FUNCTION() returns a callable. It is called again and again if each call makes one optimizer step, or once if it makes many,
as ``trainer.train`` of a Trainer does; it is stopped when enough steps were seen. A step ends with ``optimizer.step()``. The
file is your own code, and is run. docs/profiling.md has an example, and says how the phases are told apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from bench.flags import at_least, make_parser
from engine.console import shown
from engine.errors import UsageError
from engine.settings.own import is_own, object_in_file

if TYPE_CHECKING:
    from engine.clock import Clock

MOST_CALLS = 1000  # without an optimizer step: then it is none


class EnoughError(BaseException):
    """All steps of the window were seen. No Exception, so that nobody's loop takes it for a mistake of its own."""


class Phases:
    """Tells the clock when each phase begins and ends, seen from outside: by hooks of torch that every loop comes through.

    One phase at a time: what happens within another (a forward pass that gradient checkpointing repeats) belongs to that. The
    forward pass goes on until the backward pass begins, so that the loss is part of it, as it is in our loop.
    """

    def __init__(self, clock: Clock, step_done: Callable[[], None]):
        self.clock, self.step_done = clock, step_done
        self.open = ExitStack()
        self.name = ""
        self.depth = 0
        self.precision = ""  # that the model was last called in
        self.optimizer: Any = None  # the first that was seen: of several, a step ends with this one's

    def begin(self, name: str) -> bool:
        """Is it a phase of its own, and not part of the one that is going on?"""
        if self.name and self.name != "forward":
            return False
        if self.name == name or (self.name == "forward" and self.depth):
            return False
        self.end()
        self.open.enter_context(self.clock.phase(name))
        self.name = name
        return True

    def end(self) -> None:
        self.name = ""
        self.open.close()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        mine = self.begin(name)
        try:
            yield
        finally:
            if mine:
                self.end()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return wrapped

    def enter_module(self, module: Any, *_: Any) -> None:
        if not self.depth:
            self.precision = precision_of(module) or self.precision
            self.begin("forward")
        self.depth += 1

    def leave_module(self, *_: Any) -> None:
        self.depth -= 1

    def enter_optimizer(self, *_: Any) -> None:
        self.begin("optimizer")

    def leave_optimizer(self, optimizer: Any, *_: Any) -> None:
        if self.name == "optimizer":
            self.end()
            self.optimizer = self.optimizer or optimizer
            if optimizer is self.optimizer:
                self.step_done()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The hooks, as long as this lasts."""
        import torch
        from torch.nn.modules import module
        from torch.nn.utils import clip_grad
        from torch.optim import optimizer
        from torch.utils.data.dataloader import _BaseDataLoaderIter as Loader

        with ExitStack() as hooks:
            hooks.callback(module.register_module_forward_pre_hook(self.enter_module).remove)
            hooks.callback(module.register_module_forward_hook(self.leave_module, always_call=True).remove)
            hooks.callback(optimizer.register_optimizer_step_pre_hook(self.enter_optimizer).remove)
            hooks.callback(optimizer.register_optimizer_step_post_hook(self.leave_optimizer).remove)
            hooks.enter_context(patch.object(torch.autograd, "backward", self.around("backward", torch.autograd.backward)))
            hooks.enter_context(patch.object(Loader, "__next__", loading(self, Loader.__next__)))
            for name in ("clip_grad_norm_", "clip_grad_value_"):
                clip = self.around("clip", getattr(clip_grad, name))
                for place in (clip_grad, torch.nn.utils):
                    hooks.enter_context(patch.object(place, name, clip))
            hooks.callback(self.end)
            yield


def precision_of(module: Any) -> str:
    """What a call of it computes in: autocast's type, else that of its weights; "" where it has none."""
    import torch

    first = next(module.parameters(), None)
    if first is None:
        return ""
    kind = first.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else first.dtype
    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    return names.get(dtype, str(dtype).removeprefix("torch."))


def loading(phases: Phases, next_batch: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The loader's next, with its time as waiting for data."""

    def wrapped(loader: Any) -> Any:
        with phases.phase("data"):
            return next_batch(loader)

    return wrapped


def profile(make: Callable[[], Any], folder: Path, num_steps: int, device: Any) -> None:
    """Look at so many steps after three to get warm, and write ``profile/`` and report.html. Raises UsageError."""
    import torch
    from torch.profiler import record_function

    from engine.clock import PHASES, Clock
    from engine.memory.usage import memory_gb
    from engine.record.profiling import WARM_UP, Window

    class OwnWindow(Window):
        """Its steps end where the optimizer's do, and not where data are waited for."""

        @contextmanager
        def phase(self, name: str) -> Iterator[None]:
            with record_function(name):
                yield
            if self.began and name in PHASES:
                self.memory[name] = memory_gb(self.clock.device)

        def held_gb(self) -> dict[str, float]:
            return {}  # whose weights and gradients there are is not known

        def advised(self, found: dict[str, Any]) -> list[str]:
            return []  # it speaks of Plainloop's flags

        def settings(self) -> dict[str, Any]:
            return {"threads": torch.get_num_threads(), "precision": phases.precision}

        def next_step(self) -> None:
            self.end_step()
            run.state.step += 1
            if self.is_over:
                raise EnoughError
            self.begin_step()

    clock = Clock(device)
    run = SimpleNamespace(
        state=SimpleNamespace(clock=clock, step=1, device=device), directory=folder,
        paused=clock.phase, say=lambda text: print(text, flush=True),
    )  # fmt: skip
    window = OwnWindow(run, num_steps, None, {})  # type: ignore[arg-type]
    clock.watch = window.phase
    phases = Phases(clock, window.next_step)
    with phases.watching():
        step = make()
        if not callable(step):
            raise UsageError(f"it returned {type(step).__name__}, and has to return a callable that makes an optimizer step")
        window.begin_step()
        try:
            with suppress(EnoughError):
                call_until_enough(step, run, WARM_UP + num_steps)
        finally:
            window.close()


def call_until_enough(step: Callable[[], Any], run: Any, needed: int) -> None:
    """Raises EnoughError from within a step; UsageError if there are too few."""
    calls_without = 0
    while True:
        before = run.state.step
        try:
            step()
        except StopIteration as error:
            raise too_few(run, needed, "its data ended") from error
        made = run.state.step - before
        if made > 1:
            raise too_few(run, needed, "the one call of it ended")
        calls_without = 0 if made else calls_without + 1
        if calls_without == MOST_CALLS:
            raise UsageError(f"{MOST_CALLS} calls of it made no optimizer step: it has to call optimizer.step()")


def too_few(run: Any, needed: int, why: str) -> UsageError:
    return UsageError(
        f"{why} after {run.state.step - 1} optimizer steps, and {needed} are needed: give it more, or lower --steps"
    )


# ------------------------------------------------------------------------------------------------------------- side by side


def read(folder: Path) -> dict[str, Any]:
    """The profile in a directory that this command or a run with ``--profile`` wrote. Raises UsageError, DataError."""
    from engine.artifacts.profiled import read_profile
    from engine.artifacts.report import PROFILE

    if (found := read_profile(folder / PROFILE)) is None:
        raise UsageError(
            f"--beside {folder}: there is no {PROFILE} (a run with --profile, or an earlier call of this, has one)"
        )
    return found


def side_by_side(profiles: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Milliseconds a step in each phase, a column for each profile; a phase that none has is left out.

    Below it what should be alike: precision and threads, "-" where an older profile does not say.
    """
    columns = {}
    for name, found in profiles.items():
        steps = found["steps"]
        spent = {phase: 1000 * sum(step["phases"][phase] for step in steps) / len(steps) for phase in steps[0]["phases"]}
        whole = 1000 * sum(step["seconds"] for step in steps) / len(steps)
        columns[name] = spent | {"other": max(whole - sum(spent.values()), 0.0), "a step": whole}
    rows = [phase for phase in dict.fromkeys(phase for spent in columns.values() for phase in spent)
            if phase != "a step" and any(spent.get(phase, 0.0) >= 0.005 for spent in columns.values())]  # fmt: skip
    return [
        ["ms a step", *columns],
        *([row, *(f"{spent.get(row, 0.0):.2f}" for spent in columns.values())] for row in [*rows, "a step"]),
        *([fact, *(told(found, fact) for found in profiles.values())] for fact in ("precision", "threads")),
    ]


def told(found: Mapping[str, Any], fact: str) -> str:
    """Of how a profile was made; the file may be anybody's."""
    run = found.get("run")
    return shown(str(run[fact]), 20) if isinstance(run, dict) and run.get(fact) else "-"


def draw(folder: Path, name: str) -> None:
    """report.html, with what there is to draw: the phases of each step, the memory, the operations."""
    from engine import atomic
    from engine.artifacts.document import RunDocument
    from engine.artifacts.report import Record, render

    found = read(folder)
    versions = {package: version(package) for package in ("torch", "transformers")}
    document = RunDocument(
        model=name, command=f"python -m bench step {name}", versions=versions, device=found["device"], status="finished"
    )
    atomic.write(folder / "report.html", render([Record(name, document, profile=found)]))


def main(argv: Sequence[str]) -> int:
    parser = make_parser("step", __doc__)
    parser.add_argument(
        "step", metavar="FILE.py:FUNCTION", help="your own code: it returns a callable that makes optimizer steps"
    )
    parser.add_argument(
        "--steps", type=at_least(1), default=3, help="optimizer steps to look at, after three to get warm (default: 3)"
    )
    parser.add_argument("--output", metavar="DIR", help="profile/ and report.html go there (default: runs/step-FUNCTION)")
    parser.add_argument("--beside", metavar="DIR", action="append", default=[], help="another profile to stand beside it")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where your step computes (default: cpu)")
    options = parser.parse_args(list(argv))
    if not is_own(options.step):
        parser.error(f"{options.step!r}: name a file and a function in it, FILE.py:FUNCTION")
    folder = Path(options.output or f"runs/step-{options.step.rpartition(':')[2]}")
    if any((folder / name).exists() for name in ("run.json", "config.json")):
        raise UsageError(f"--output {folder} holds a run or a model: name another directory")
    beside = {name: read(Path(name)) for name in options.beside}
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as run.py has it: torch warns of memory while it is profiled
    import torch

    from bench.lessons.command import as_table

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no such device here")
    make = object_in_file(options.step, "step", options.step)
    if not callable(make):
        raise UsageError(f"{options.step}: the file defines no function of that name")
    folder.mkdir(parents=True, exist_ok=True)
    profile(make, folder, options.steps, torch.device(options.device))
    draw(folder, options.step)
    print(f"  {folder / 'report.html'}: open it in a browser")
    if beside:
        print(as_table(side_by_side({options.step: read(folder), **beside})))
    return 0

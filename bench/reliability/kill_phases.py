"""Random kills within one phase of a run, each of which is a small part of its life: random kills of a whole run miss them.

The evaluation of an epoch and what is written around it, the finish (the best model, the files of the model, the pages), the
making of the token cache, and ``--overwrite`` while the run before goes. Next: kill.py, which counts and compares.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.reliability.lab import Lab, differences

MAX_ATTEMPTS = 100  # of one run, until it ends


@dataclass(frozen=True)
class Phase:
    """From when one function is called, the first time or one of the first ``times``, to when ``ends`` returns, or that call.

    Functions are given by module, or module:class, and name. ``flags``: those of the runs it is tried in.
    """

    begins: tuple[str, str]
    ends: tuple[str, str] | None = None
    times: int = 1
    flags: tuple[str, ...] = ()

    def watch(self, nth: int, mark: Callable[[], None], seconds: Path) -> None:
        """Patch this process: ``mark`` is called when the ``nth`` such phase begins; ``seconds`` then gets how long it took."""
        calls, began = 0, 0.0

        def begin() -> None:
            nonlocal calls, began
            calls += 1
            if calls == nth:
                began = time.perf_counter()
                mark()

        def end() -> None:
            nonlocal began
            if began:
                seconds.write_text(json.dumps(time.perf_counter() - began))
                began = 0.0

        wrap(self.begins, before=begin)
        wrap(self.ends or self.begins, after=end)


def nothing() -> None:
    pass


def wrap(place: tuple[str, str], before: Callable[[], None] = nothing, after: Callable[[], None] = nothing) -> None:
    owner, name = place
    module, _, kind = owner.partition(":")
    target: Any = importlib.import_module(module)
    target = getattr(target, kind) if kind else target
    original = getattr(target, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        before()
        result = original(*arguments, **named)
        after()
        return result

    setattr(target, name, wrapped)


PHASES = {
    "evaluation": Phase(("engine.record.run:Run", "evaluate"), times=3),
    "saving": Phase(("engine.checkpoint.saver:Saver", "write"), times=8, flags=("--keep-checkpoints", "best")),
    "finish": Phase(("engine.fit", "publish")),
    "pages": Phase(("engine.artifacts.publish", "write_pages")),
    "cache": Phase(("engine.data.cache", "is_whole"), ends=("engine.data.cache", "seal"), times=6),
    "overwrite": Phase(("engine.fit", "remove_run"), ends=("engine.fit", "write_run")),
}
COMMON = ("--save-steps", "2", "--log-steps", "2")
OTHER = ("--seed", "5")  # of a run that --overwrite replaces


def phase_kills(lab: Lab, number: int, seed: int) -> list[dict[str, Any]]:
    """For each phase ``number`` kills that struck within it; each run is brought to its end and compared."""
    return [{"phase": name} | kills_within(lab, name, number, random.Random(f"{seed} {name}")) for name in PHASES]


def kills_within(lab: Lab, name: str, number: int, generator: random.Random) -> dict[str, Any]:
    """``later``: kills that came when the phase was over, on top."""
    phase, seconds = PHASES[name], lab.folder / "seconds.json"
    flags = (*COMMON, *phase.flags)
    undisturbed = lab.undisturbed(flags)
    kills, later, runs, longest, wrong = 0, 0, 0, 0.0, []
    while kills < number:
        runs += 1
        output = prepared(lab, name)
        for _ in range(MAX_ATTEMPTS):
            nth = generator.randint(1, phase.times)
            seconds.unlink(missing_ok=True)
            ended = lab.run(
                flags, output, kill_after=generator.uniform(0, longest) if longest else None,
                marks=partial(phase.watch, nth, seconds=seconds), way=way(name, output, generator),
            )  # fmt: skip
            longest = max(longest, json.loads(seconds.read_text())) if seconds.exists() else longest
            if ended.code is not None:
                break
            kills += not seconds.exists()
            later += seconds.exists()
        found = [f"exit code {ended.code}"] if ended.code else differences(undisturbed, output)
        if found:
            wrong.append({"differences": found})
            print(f"  DIFFERS {name}: {', '.join(found)}", flush=True)
        print(f"\r  {name}: {kills} kills in {runs} runs", end="", flush=True)
        if runs > MAX_ATTEMPTS and not kills + later:
            raise RuntimeError(f"no kill strikes within {name}: is it still called?")
    print()
    return {"kills": kills, "later": later, "runs": runs, "equal": runs - len(wrong), "wrong": wrong,
            "phase_seconds": round(longest, 3), "settings": " ".join(flags)}  # fmt: skip


def prepared(lab: Lab, name: str) -> Path:
    """The directory of a new run: none, or what --overwrite finds; for the cache, an empty one."""
    if name == "overwrite":
        earlier, output = lab.undisturbed((*COMMON, *OTHER)), lab.fresh()
        shutil.copytree(earlier, output)
        return output
    if name == "cache":
        shutil.rmtree(os.environ["PLAINLOOP_CACHE"], ignore_errors=True)
    return lab.fresh()


def way(name: str, output: Path, generator: random.Random) -> str:
    """How the next attempt goes on: with --resume; where a run is replaced, as often with --overwrite again."""
    return "--resume" if name != "overwrite" or (is_under_way(output) and generator.random() < 0.5) else "--overwrite"


def is_under_way(output: Path) -> bool:
    """Is the run there the new one? A user sees it in run.json; --resume refuses the other one, for its seed."""
    document = json.loads((output / "run.json").read_bytes())
    return bool(document["settings"]["seed"] != int(OTHER[1]))

"""One kill at each point that matters, and controls: what a resumed run forgets on purpose must be noticed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.reliability.lab import Lab, Patch, die, differences


def dies(owner: str, name: str, condition: Callable[..., bool], *, before: bool = False) -> Patch:
    """A patch: the process kills itself in ``owner.name`` (module, or module:class), when the arguments are those."""

    def patch() -> None:
        module, _, kind = owner.partition(":")
        target: Any = importlib.import_module(module)
        target = getattr(target, kind) if kind else target
        original = getattr(target, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            hit = condition(*arguments)
            if hit and before:
                die()
            result = original(*arguments, **named)
            if hit:
                die()
            return result

        setattr(target, name, wrapped)

    return patch


def nth(number: int) -> Callable[..., bool]:
    """True for one call."""
    calls = 0

    def condition(*_: Any) -> bool:
        nonlocal calls
        calls += 1
        return calls == number

    return condition


def step_is(number: int) -> Callable[..., bool]:
    return lambda run, at, *_: at.step == number


def writes(step: int, name: str) -> Callable[..., bool]:
    return lambda path, *_: path.name == name and path.parent.name == f".tmp-step-{step:08d}"


def points() -> dict[str, Patch]:
    """Fresh ones: 5 steps an epoch, 15 in all; a checkpoint every 2 steps, a log line every 3, an evaluation every 5."""
    from engine.checkpoint.store import steps_in

    return {
        "after step 1, before any checkpoint": dies("engine.record.run:Run", "log", step_is(1)),
        "after step 7, in an open log window": dies("engine.record.run:Run", "log", step_is(7)),
        "after the last step of an epoch": dies("engine.record.run:Run", "log", step_is(10)),
        "between two micro-batches of step 9": dies("engine.loop", "forward_backward", nth(23)),
        "in an evaluation": dies("tasks.classification.metrics:ClassificationMetrics", "update", nth(2)),
        "saving: one file written": dies("engine.checkpoint.store", "write_synced", writes(8, "model.safetensors")),
        "saving: all written, not yet renamed": dies(
            "engine.checkpoint.store", "sync", lambda path: path.name == ".tmp-step-00000008"
        ),
        "between commit and rotation": dies(
            "engine.checkpoint.saver", "rotate", lambda root, *_: steps_in(root)[-1] == 8, before=True
        ),
        "rotation: renamed, not yet deleted": dies("os", "rename", lambda _, new: Path(new).name == ".dead-step-00000004"),
        "amending: the old one un-named, the new one not yet named": dies(
            "os", "rename", lambda _, new: Path(new).name == ".replaced-step-00000010"
        ),
        "finish: the model is there, the rest is not": dies(
            "os", "replace", lambda _, new: Path(new).name == "model.safetensors"
        ),
        "finish: all but the last run.json": dies(
            "engine.artifacts.publish", "write_run", lambda _, document: document.status == "finished", before=True
        ),
    }  # fmt: skip


SAVING_POINTS = (
    "saving: one file written", "saving: all written, not yet renamed", "between commit and rotation",
    "rotation: renamed, not yet deleted", "amending: the old one un-named, the new one not yet named",
)  # fmt: skip
POINT_FLAGS = ["--save-steps", "2", "--log-steps", "3"]


def allow_fp16() -> None:
    """Users are refused fp16 on a CPU; this is below that."""
    import engine.build
    import engine.fit

    for module in (engine.build, engine.fit):
        module.choose_precision = lambda name, device: name  # type: ignore[attr-defined]


def kill_points(
    lab: Lab, workers: Sequence[int], precisions: Sequence[str], names: Sequence[str], more: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One kill at each point, and what its resumed end differs in; nor may the number of workers, or ``more``, change it."""
    rows = []
    for number in workers:
        for precision in precisions:
            flags = [*POINT_FLAGS, "--precision", precision, "--workers", str(number), *more]
            first = allow_fp16 if precision == "fp16" else lambda: None
            undisturbed = lab.undisturbed(flags, first)
            alone = lab.undisturbed([*POINT_FLAGS, "--precision", precision, "--workers", str(workers[0])], first)
            for name in names:
                output, patch = lab.fresh(), points()[name]

                def both(first: Patch = first, patch: Patch = patch) -> None:
                    first()
                    patch()

                killed, resumed = lab.run(flags, output, both), lab.run(flags, output, first)
                found = ["it was not killed"] if killed.code is not None else []
                found += [f"exit code {resumed.code}"] if resumed.code else differences(undisturbed, output)
                found += differences(alone, undisturbed)
                rows.append({"workers": number, "precision": precision, "more": " ".join(more), "point": name,
                             "differences": found})  # fmt: skip
                case = f"{number} workers, {precision}{''.join(f', {flag}' for flag in more)}, {name}"
                print(f"  {case}: {'equal' if not found else ', '.join(found)}", flush=True)
    return rows


# ------------------------------------------------------------------------------------------------------------- controls


def forget_rng() -> None:
    import engine.checkpoint.snapshot

    engine.checkpoint.snapshot.set_rng = lambda tensors, numbers: None  # type: ignore[attr-defined, assignment]


def forget_window() -> None:
    from engine.record.progress import Progress
    from engine.record.run import Run
    from engine.record.tally import Tally

    restore = Run.restore

    def forgetful(run: Run, progress: Progress) -> None:
        restore(run, progress)
        run.window = Tally()

    Run.restore = forgetful  # type: ignore[method-assign, assignment]


def forget_position() -> None:
    import engine.loader

    class FromTheStart(engine.loader.MicroBatches):
        def __init__(self, plan: Any, start: int, world: Any):
            super().__init__(plan, 0, world)

    engine.loader.MicroBatches = FromTheStart  # type: ignore[misc]


def forget_optimizer() -> None:
    import engine.resume

    load = engine.resume.load_state  # type: ignore[attr-defined]

    def forgetful(state: Any, *others: Any) -> Any:
        progress = load(state, *others)
        for values in state.optimizer.state.values():
            values["exp_avg_sq"].zero_()
        return progress

    engine.resume.load_state = forgetful  # type: ignore[attr-defined, assignment]


CONTROLS: dict[str, Patch] = {
    "nothing forgotten": lambda: None,
    "random generators not restored": forget_rng,
    "open log window not restored": forget_window,
    "data read from the start": forget_position,
    "AdamW's second moments not restored": forget_optimizer,
}


def controls(lab: Lab) -> list[dict[str, Any]]:
    """Resume with a part of the checkpoint left out: the comparison must notice each."""
    rows = []
    undisturbed = lab.undisturbed(POINT_FLAGS)
    for name, patch in CONTROLS.items():
        output = lab.fresh()
        lab.run(POINT_FLAGS, output, points()["between two micro-batches of step 9"])
        lab.run(POINT_FLAGS, output, patch)
        found = differences(undisturbed, output)
        as_it_must = bool(found) == (patch is not CONTROLS["nothing forgotten"])
        rows.append({"forgotten": name, "noticed": bool(found), "as_it_must": as_it_must, "differences": found})
        print(f"  {name}: {'differs' if found else 'equal'}, {'as it must' if as_it_must else 'AND MUST NOT'}", flush=True)
    return rows

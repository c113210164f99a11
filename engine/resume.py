"""Continuing a run from its newest checkpoint that is whole, refusing another run's, and going back to the best model.

Next: checkpoint/snapshot.py, what is put back; fit.py, which calls this before the first step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from engine.artifacts.directory import (
    compare,
    compare_data,
    is_finished,
    is_longer,
    read_run,
)
from engine.artifacts.document import RunDocument
from engine.build import Setup
from engine.checkpoint.snapshot import load_average, load_model, load_state
from engine.checkpoint.store import Checkpoint, newest, open_checkpoint, set_aside_after
from engine.config import TrainConfig
from engine.console import counted, note
from engine.distributed.lost_ranks import is_lost_rank
from engine.errors import ModelError, UsageError, UserError
from engine.record.progress import Progress
from engine.record.run import Run
from engine.record.seen import Answered
from engine.record.stop import StoppedWithinError
from engine.schedule import set_rates
from engine.settings.fields import differences


def resume(run: Run, setup: Setup, config: TrainConfig, document: RunDocument) -> RunDocument:
    """Continue from the newest whole checkpoint if that is asked for and there is one; returns run.json as it is then.

    With more epochs than the run had, the learning rate goes on as in the middle of the longer run, as Trainer's does.
    Raises UsageError, ModelError.
    """
    world = setup.world
    files = world.on_main_rank(lambda: checkpoint_to_resume(run.directory, document) if config.resume else None)
    if not world.broadcast(files is not None):
        run.start()
        if config.resume:
            run.say("resume: there is no checkpoint, starting at step 0")
        return document
    before = world.broadcast_from_main(lambda: read_run(run.directory))
    with refuse_foreign_contents(run.directory):
        progress = Progress.from_json(load_state(setup.state, files, world))
        check_position(setup, run.num_steps)
        run.restore(progress)
    world.on_main_rank(lambda: tidy(run, setup.state.step, files))
    then = (
        {"world size": 1, "sharded": False, "processor": "not recorded"}
        | dict(progress.ranks)
        | {"runs on": before.device}
        | dict(before.versions)
    )
    changed = differences(then, run.ranks() | {"runs on": document.device} | dict(document.versions))
    how = f"same data order, not bitwise ({'; '.join(changed)})" if changed else "exact"
    run.say(f"resume: {how}, from step {setup.state.step} of {run.num_steps}")
    plans = {str(min(int(until), setup.state.step)): epochs for until, epochs in (before.plans or {}).items()}
    if is_longer(document.settings, before.settings):
        lengthen(run, before)
        plans[str(setup.state.step)] = before.settings["epochs"]
    return dataclasses.replace(document, plans=plans or None)


def lengthen(run: Run, before: RunDocument) -> None:
    """Go on by the schedule of a longer run than ``before`` was. Raises UsageError if it had stopped early."""
    if run.should_stop:
        raise UsageError(
            f"{run.directory} has stopped early, after {counted(run.best_so_far.num_worse, 'evaluation')} without a better "
            f"{run.best_so_far.metric}, and more epochs would change nothing: train its model further with "
            f"--model {run.directory} and another --output-dir"
        )
    old = run.state.schedule.get_last_lr()[0]
    set_rates(run.state.schedule)
    new, epochs = run.state.schedule.get_last_lr()[0], before.settings["epochs"]
    run.say(
        f"resume: until here it was a run of {counted(epochs, 'epoch')}; the learning rate goes on at {new:g} (was {old:g})"
    )


def finish_evaluation(run: Run, setup: Setup) -> None:
    """The evaluation that the checkpoint says is still to come: the run was stopped, or died, before it ended. Collective."""
    if run.evaluation_due:
        at = next(iter(setup.data.plan.positions(setup.state.step - 1)))
        run.evaluate(at)
        run.save(at)


def checkpoint_to_resume(directory: Path, document: RunDocument) -> Checkpoint | None:
    """The newest whole one, of a run on the same data, computed in the same way. Raises UsageError, DataError, ModelError."""
    files = newest(directory / "checkpoints")
    if files is None and is_finished(directory):  # and more epochs are asked for
        raise UsageError(
            f"{directory} has no whole checkpoint to continue from: train its model further with --model {directory} and "
            "another --output-dir, or --overwrite it"
        )
    if files is not None:
        before = read_run(directory)
        compare_data(directory, before.data, document.data)
        old, new = before.model_config, document.model_config
        if before.versions.get("transformers") != document.versions["transformers"]:  # another one writes other keys, too
            old, new = ({name: each[name] for name in old if name in new} for each in (old, new))
        compare(directory, "model", old, new)
        compare(directory, "precision", {"precision": before.precision}, {"precision": document.precision})
        if (before.sources or {}).get("task") not in (None, (document.sources or {}).get("task")):
            note("warning: the file of the task has changed since the run began, and what follows is computed by the new one")
        compare(directory, "batching", {"batching": before.batching}, {"batching": document.batching})
    return files


def tidy(run: Run, step: int, files: Checkpoint | None) -> None:
    """Set aside or delete the checkpoints beside the one that was resumed from."""
    assert files is not None
    set_aside_after(run.directory / "checkpoints", step)
    run.saver.rotate(step, files["state.json"])  # the process before may have been killed before it did


def check_position(setup: Setup, num_steps: int) -> None:
    """Raises ValueError for what would be taken over as it is and go wrong later. The loads themselves refuse the rest."""
    step = setup.state.step
    if not isinstance(step, int) or not 0 <= step <= num_steps:
        raise ValueError(f"step {step!r} of {num_steps}")
    for rate in (group["lr"] for group in setup.state.optimizer.param_groups):
        if not isinstance(rate, int | float | Tensor):
            raise ValueError(f"{rate!r} where a number is needed")


@contextmanager
def refuse_foreign_contents(directory: Path) -> Iterator[None]:
    """A checkpoint whose hashes are right and whose contents are not was made by something else. Raises ModelError."""
    try:
        yield
    except (UserError, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # any kind: every type in it may be another
        if is_lost_rank(error):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"the checkpoint in {directory} does not hold what a run saves ({reason}): --overwrite it") from error


def keep_best(run: Run, setup: Setup) -> int:
    """Put the best model's weights into the model; returns the step whose weights it has then. Collective.

    If its checkpoint is damaged or gone, the last weights stay, which are those of the newest one, with a warning: hours of
    training must not end without a model. Raises ResourceError if it cannot be read, but may be whole.
    """
    best, last, world = run.best, setup.state.step, setup.world
    if best is None or best.step == last:
        return last
    try:
        path = run.directory / "checkpoints" / f"step-{best.step:08d}"
        files = world.on_main_rank(lambda: open_checkpoint(path))
        load_model(setup.state.model, files, world)
        load_average(setup.state.average, files, world)
    except ModelError as error:
        note(f"warning: the best model, of step {best.step}, is lost ({error}): the last one, of step {last}, is kept")
        return last
    return best.step


def answered(run: Run, kept: int) -> Answered | None:
    """What the model that is kept has answered to the evaluation rows, for the profile; None: nothing is known. Collective.

    Where an earlier process has evaluated it, it is evaluated again: with ``keep_best`` its weights are in place.
    """
    seen = run.seen
    if seen is None or run.evaluator is None:
        return None
    if run.world.broadcast(seen.split is not None and kept not in seen.at):  # asked of one rank: all have to take part
        with suppress(StoppedWithinError):
            run.evaluator()
            return seen.at.get(run.state.step)
    return seen.at.get(kept)

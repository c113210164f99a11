"""The run's own book-keeping between two steps: the log, evaluations, the best model, checkpoints, the progress bar.

Next: lines.py, what a log line says; stopwatch.py; progress.py, what a checkpoint keeps of this; divergence.py.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from engine.checkpoint.saver import AsyncSaver, Saver
from engine.checkpoint.snapshot import take_snapshot
from engine.config import TrainConfig
from engine.console import progress_bar, say_above
from engine.data.batch import Batch, Key
from engine.data.plan import Position
from engine.data.tables import called
from engine.distributed.world import World
from engine.errors import DivergedError
from engine.model.flops import FlopCount
from engine.record.divergence import LossJumps, describe_first, first_bad_step, refuse_collapsed_scale
from engine.record.figures import Evaluation
from engine.record.lines import (
    MetricsFile,
    Rates,
    bar_text,
    epoch_line,
    epoch_text,
    evaluation_line,
    evaluation_text,
    line_text,
    rank_texts,
    train_line,
)
from engine.record.progress import Best, BestSoFar, Progress
from engine.record.seen import Seen
from engine.record.stop import Stop, StoppedWithinError
from engine.record.stopwatch import Stopwatch
from engine.record.tally import Tally
from engine.record.writers import Writers
from engine.state import StepRecord, TrainState

Evaluate = Callable[[], Evaluation]


class Run:
    """One run in one directory. ``is_best`` and ``should_stop`` tell the loop what the last evaluation meant."""

    def __init__(
        self,
        directory: Path,
        config: TrainConfig,
        state: TrainState,
        num_steps: int,
        *,
        evaluate: Evaluate | None = None,
        best_metric: str = "loss",
        lower_is_better: bool = True,
        flops: FlopCount | None = None,
        peak_flops: float | None = None,
        stop: Stop | None = None,
        world: World | None = None,
        row_names: Callable[[Sequence[int]], str] | None = None,
        seen: Seen | None = None,
    ):
        self.world, self.row_names, self.seen = world or World(state.device), row_names or partial(called, None), seen
        self.directory, self.config, self.state, self.num_steps = directory, config, state, num_steps
        self.evaluator, self.stop = evaluate, stop or Stop()
        self.best_so_far = BestSoFar(best_metric, config.patience, lower_is_better=lower_is_better)
        self.last_evaluation: Evaluation | None = None
        self.is_best = self.should_stop = self.evaluation_due = False
        self.saved_step: int | None = None
        self.window, self.epoch, self.total = Tally(), Tally(), Tally()
        self.timed, self.timed_own = Tally(), Tally()  # the window's in this process, over all ranks and of this one alone
        self.stopwatch, self.rates, self.jumps = Stopwatch(state.clock), Rates(state, flops, peak_flops), LossJumps()
        self.all_save = config.shard and self.world.size > 1  # each rank its part; else rank 0 everything
        self.saver = (AsyncSaver if config.async_save else Saver)(
            directory / "checkpoints", config.keep_checkpoints, self.world if self.all_save else None
        )
        self.writers: Writers | None = None  # open from the start of the training
        self.writer_states: dict[str, Any] = {}  # of the checkpoint that the run continues from
        self._unread: list[tuple[Position, list[Key], StepRecord]] = []
        wide = torch.float32 if state.device.type == "mps" else torch.float64
        self._pending, self._loss_sum = Tally(), torch.zeros((), dtype=wide, device=state.device)  # of the steps not read yet
        self._bar = progress_bar(
            total=num_steps, desc="training", unit="step", hidden=not self.world.is_main, dynamic_ncols=True, smoothing=0.1
        )
        self._metrics = MetricsFile(directory / "metrics.jsonl", is_main=self.world.is_main)

    # --------------------------------------------------------------------------------------------- called by the loop

    def log(self, at: Position, micro_batches: list[Batch], record: StepRecord) -> None:
        """Count a step; write a line every ``log_steps`` and at the last one. Raises DivergedError there."""
        with self.state.clock.phase("log"):
            self._watch_the_time(at)  # first: what reads the device waits for the votes on this step, and so finds a lost rank
            self._loss_sum += record.loss_sum
            self._pending.count(micro_batches)
            self._unread.append((at, [key for batch in micro_batches for key in batch.keys], record))
            if at.due(self.config.log_steps):
                self._read_losses()
                self._log_line(at, record)
            self._bar.update()
            if at.is_epoch_end or at.is_last:
                self._read_losses()
                self.write(epoch_line(at, self.epoch))
                self.say(epoch_text(at, self.epoch), logged=True)
                self.epoch = Tally()

    def _log_line(self, at: Position, record: StepRecord) -> None:
        self.stopwatch.lap()
        seconds = self.stopwatch.window_seconds
        line = train_line(at, record, self.window, self.timed, self.total, seconds, self.rates)
        if self.config.log_ranks:
            own = {"tokens_per_second": self.timed_own.num_tokens / seconds, "seconds": line["seconds"]}
            line["ranks"] = self.world.gather(own)
        self.write(line)
        if warning := self.jumps.warning(self.window.loss, at.step):
            say_above(warning, sys.stderr)
        self._bar.set_postfix_str(bar_text(line))
        if self._bar.disable:  # no terminal: the line takes the bar's place
            self.say(line_text(line, self.window, self.num_steps), logged=True)
        for text in rank_texts(line):
            self.say(text)
        self.window, self.timed, self.timed_own, self.stopwatch.window_seconds = Tally(), Tally(), Tally(), 0.0

    def evaluate(self, at: Position) -> None:
        """Measure on the evaluation data, if there is any; note whether it is the best so far."""
        if (result := measured(self, at)) is None:
            return
        self.last_evaluation = result.finite()
        self.is_best = self.best_so_far.count(at.step, self.last_evaluation)
        self.should_stop |= self.best_so_far.is_hopeless
        self.write(evaluation_line(at, result))
        self.say(evaluation_text(at, result, self.best_so_far.metric if self.is_best else None), logged=True)
        if self.best_so_far.is_hopeless:
            self.say(f"stopping early: {self.best_so_far.num_worse} evaluations without a better {self.best_so_far.metric}")

    def _watch_the_time(self, at: Position) -> None:
        """Is this step to be the last of this process? The loop then saves and ends."""
        self.stopwatch.step_done()
        to_end = self.stopwatch.seconds_to_end(2 + self.world.vote_delay) + self.saver.seconds_behind
        if self.world.vote(self.stop.wanted(to_end)) and not at.is_last:
            self.should_stop = True

    def save(self, at: Position) -> None:
        """A checkpoint of everything; with ``--async-save`` it is on the disk later. Raises ResourceError."""
        self.is_best, stands = False, self.saved_step == self.state.step
        if stands and self.evaluation_due:
            return  # there is nothing new to say
        with self.paused("saving"):
            self.world.on_main_rank(self._metrics.check_in_place)
            snapshot = take_snapshot(self.state, self.progress().to_json(), self.world)
            save = partial(self.saver.save, snapshot, amends=stands, is_final=not self.evaluation_due)
            save() if self.all_save else self.world.on_main_rank(save)
            tell_of_saved(self.saver, self.writers)
        self.saved_step = self.state.step

    def saving(self) -> AbstractContextManager[Any]:
        """Enter it around training: when it is left, all that was saved is on the disk. Collective."""
        return self.saver if self.all_save else self.world.main_rank_context(self.saver)

    # ---------------------------------------------------------------------------------------------------- resuming

    @property
    def best(self) -> Best | None:
        """The best model so far; None before the first evaluation."""
        return self.best_so_far.best

    def progress(self) -> Progress:
        """What a checkpoint holds of this object."""
        self._read_losses()
        return Progress(
            self.ranks(), self.window, self.epoch, self.total, self.best, self.last_evaluation, self.best_so_far.num_worse,
            self.stopwatch.train_seconds, self._metrics.synced_bytes(),
            self.writers.states() if self.writers is not None else {}, self.evaluation_due,
        )  # fmt: skip

    def ranks(self) -> dict[str, Any]:
        """What decides in which order numbers are added up."""
        return {"world size": self.world.size, "sharded": self.config.shard}

    def start(self) -> None:
        """Begin at step 0: what an interrupted run has logged before its first checkpoint is deleted."""
        self._metrics.cut_to(0)
        self.stopwatch.start()

    def restore(self, progress: Progress) -> None:
        """Take over what ``progress`` gave to a checkpoint; later lines of metrics.jsonl are cut off."""
        self.window, self.epoch, self.total = progress.window, progress.epoch, progress.total
        self.best_so_far.best, self.best_so_far.num_worse = progress.best, progress.num_worse
        self.last_evaluation, self.stopwatch.train_seconds = progress.last_evaluation, progress.train_seconds
        self.writer_states, self.evaluation_due = dict(progress.writers), progress.evaluation_due
        self.saved_step = self.state.step
        self.should_stop = self.best_so_far.is_hopeless  # killed between stopping early and the end
        self._metrics.cut_to(progress.metrics_bytes)
        self._bar.update(self.state.step - self._bar.n)
        self.stopwatch.start()

    # ------------------------------------------------------------------------------------------------------ output

    def write(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl; NaN is written as null."""
        clean = self._metrics.write(line)
        if self.writers is not None:
            tell_of_saved(self.saver, self.writers)  # of what --async-save has written by now
            self.writers.log(clean)

    def say(self, text: str, *, logged: bool = False) -> None:
        """A line for the reader, above the bar; ``logged``: unless a writer shows the reader the log."""
        if not (logged and self.writers is not None and self.writers.show_the_log):
            say_above(text, sys.stdout)

    def paused(self, phase: str) -> AbstractContextManager[None]:
        """What happens inside is not training time."""
        return self.stopwatch.paused(phase)

    def close(self) -> None:
        """Stop the bar and close the file."""
        self.stopwatch.lap()
        self._bar.close()
        self._metrics.close()
        if self.writers is not None:
            tell_of_saved(self.saver, self.writers)
            self.writers.close()

    def _read_losses(self) -> None:
        """Fetch the sums of the steps since the last time: the one place where the host waits for the device.

        Raises DivergedError if one of them was not finite; the guard has kept every update since from happening.
        """
        self.world.votes_in()
        self._pending.loss_sum = float(self._loss_sum)
        self.timed_own.add(self._pending)
        passed = self._pending.over_ranks(self.world)
        self._pending, unread, self._unread = Tally(), self._unread, []
        self._loss_sum.zero_()
        for tally in (self.window, self.epoch, self.total, self.timed):
            tally.add(passed)
        refuse_collapsed_scale(self.state.scaler, self.state.step)
        if bool(self.state.guard.diverged) or not math.isfinite(passed.loss_sum):
            own = first_bad_step(unread, scaled=self.state.scaler.is_enabled())
            raise DivergedError(describe_first([bad for bad in self.world.gather(own) if bad], self.row_names))


def measured(run: Run, at: Position) -> Evaluation | None:
    """The evaluation of a step; None: there are no data for it, or the run is to stop.

    A checkpoint that is due stands before it, and says that the evaluation is still to come: what dies in it, or stops it,
    loses nothing, and ``--resume`` does it then.
    """
    if run.evaluator is None:
        return None
    run.evaluation_due = True
    if at.due(run.config.save_steps):
        run.save(at)
    try:
        with run.paused("evaluation"):
            result = run.world.broadcast(run.evaluator())  # what follows from it has to be the same on all
    except StoppedWithinError:
        run.should_stop = True
        return None
    except Exception:
        if run.world.size == 1:  # of several, the others wait elsewhere
            run.save(at)
        raise
    run.evaluation_due = False
    return result


def tell_of_saved(saver: Saver, writers: Writers | None) -> None:
    """The writers hear of each checkpoint that has come to be on the disk."""
    while saver.committed:
        step, directory = saver.committed.pop(0)
        if writers is not None:
            writers.saved(step, directory)

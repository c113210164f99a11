"""The run's own book-keeping between steps: log lines, evaluations, the best model, checkpoints, the progress bar.

metrics.jsonl holds one JSON object a line. A train line: ``loss`` is the mean over the items of all steps since the line
before, ``learning_rate`` the one the step used, ``grad_norm`` that of the step, before clipping; ``num_examples`` and
``num_tokens`` count from the start of the run; rates are over wall time without evaluation and saving. A resumed run
cuts the file back to where its checkpoint was written, so every step stands once.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from tqdm import tqdm

from engine.checkpoint.saver import AsyncSaver, Saver
from engine.checkpoint.snapshot import take_snapshot
from engine.clock import BETWEEN_STEPS, PHASES
from engine.config import TrainConfig
from engine.data.batch import Batch, Key
from engine.data.plan import Position
from engine.distributed.world import World
from engine.errors import DivergedError
from engine.memory.usage import peak_memory_gb
from engine.model.flops import FlopCount
from engine.record.divergence import JUMP, MEMORY, MIN_LOSS_SCALE, describe_first, first_bad_step
from engine.record.figures import Evaluation
from engine.record.progress import Best, Progress
from engine.record.stop import Stop
from engine.record.tally import Tally, waste_text
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
    ):
        self.world = world or World(state.device)
        self.directory, self.config, self.state, self.num_steps = directory, config, state, num_steps
        self.evaluator, self.best_metric, self.lower_is_better = evaluate, best_metric, lower_is_better
        self.window, self.epoch, self.total = Tally(), Tally(), Tally()
        # since the last line, in this process: what rates are made of; of this rank alone
        self.timed, self.timed_own, self.timed_seconds = Tally(), Tally(), 0.0
        self.flops, self.peak_flops = flops, peak_flops
        self.stop = stop or Stop()
        self.all_save = config.shard and self.world.size > 1  # each rank its part; else rank 0 everything
        self.saver = (AsyncSaver if config.async_save else Saver)(
            directory / "checkpoints", config.keep_checkpoints, self.world if self.all_save else None
        )
        self.writers: Writers | None = None  # open from the start of the training
        self.writer_states: dict[str, Any] = {}  # of the checkpoint that the run continues from
        self.slowest: dict[str, float] = {"step": 0.0, "saving": 0.0}  # seconds
        self._unread: list[tuple[Position, list[Key], StepRecord]] = []
        self.best: Best | None = None
        self.last_evaluation: Evaluation | None = None
        self.num_worse = 0
        self.usual_loss: float | None = None  # a moving mean of the lines' losses, and the first: of this process
        self.first_loss = 0.0
        self.is_best = self.should_stop = False
        self.train_seconds = self.process_seconds = 0.0  # of the whole run, of this process
        self._pending, self._loss_sum = Tally(), self._zero()
        hidden = None if self.world.is_main else True  # None: where there is no terminal
        self._bar = tqdm(total=num_steps, desc="training", unit="step", disable=hidden, dynamic_ncols=True, smoothing=0.1)
        self._metrics: BinaryIO = (  # rank 0 writes; the others go through the motions
            open(directory / "metrics.jsonl", "ab") if self.world.is_main else tempfile.TemporaryFile()  # noqa: SIM115
        )
        self._mark = self._stepped = time.perf_counter()

    def _zero(self) -> torch.Tensor:
        """(): this rank's losses of the steps that the host has not read yet; ``_pending`` has their counts."""
        dtype = torch.float32 if self.state.device.type == "mps" else torch.float64
        return torch.zeros((), dtype=dtype, device=self.state.device)

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
                self._epoch_line(at)

    def _epoch_line(self, at: Position) -> None:
        epoch = {"kind": "epoch", "step": at.step, "epoch": round(at.epochs_done, 4), "loss": self.epoch.loss,
                 "num_steps": self.epoch.num_steps, "padding_waste": round(self.epoch.padding_waste, 4)}  # fmt: skip
        self.write(epoch)
        self.say(f"epoch {at.epochs_done:g}: mean loss {epoch['loss']:.4f} over {epoch['num_steps']} steps")
        self.epoch = Tally()

    def _log_line(self, at: Position, record: StepRecord) -> None:
        self._lap()
        seconds, timed = self.state.clock.take(), self.timed
        flops = self.flops(timed.num_tokens, timed.sum_squares, timed.num_examples, timed.num_items) if self.flops else None
        tflops = flops / self.timed_seconds / 1e12 if flops else None
        mfu = tflops * 1e12 / self.peak_flops if tflops and self.peak_flops else None
        line: dict[str, Any] = {
            "kind": "train", "step": at.step, "epoch": round(at.epochs_done, 4), "loss": self.window.loss,
            "grad_norm": float(record.grad_norm), "learning_rate": float(record.learning_rate),
            "num_examples": self.total.num_examples, "num_tokens": self.total.num_tokens,
            "steps_per_second": timed.num_steps / self.timed_seconds,
            "examples_per_second": timed.num_examples / self.timed_seconds,
            "tokens_per_second": timed.num_tokens / self.timed_seconds,
            "padding_waste": round(self.window.padding_waste, 4), "waste_if_padded": round(self.window.waste_if_padded, 4),
            "mfu": mfu, "tflops": tflops, "memory_gb": peak_memory_gb(self.state.device), "seconds": seconds,
        }  # fmt: skip
        if self.config.log_ranks:
            own = {"tokens_per_second": self.timed_own.num_tokens / self.timed_seconds, "seconds": seconds}
            line["ranks"] = self.world.gather(own)
        self.write(line)
        self._warn_of_jump(at, self.window.loss)
        self._bar.set_postfix_str(
            f"loss {line['loss']:.4f}, lr {line['learning_rate']:.1e}, {line['examples_per_second']:,.1f} examples/s, "
            f"{line['padding_waste']:.0%} padding"
        )
        if self._bar.disable:  # no terminal: the line takes the bar's place
            work = waste_text(self.window) + (
                f", MFU {mfu:.0%}" if mfu else f", {tflops * 1000:,.0f} GFLOP/s" if tflops else ""
            )
            self.say(
                f"step {at.step}/{self.num_steps}  loss {line['loss']:.4f}  grad_norm {line['grad_norm']:.3f}  "
                f"lr {line['learning_rate']:.2e}  {line['steps_per_second']:.2f} steps/s  "
                f"{line['examples_per_second']:.1f} examples/s  {line['tokens_per_second']:,.0f} tokens/s  {work}  "
                f"{line['memory_gb']:.1f} GiB"
            )
        for rank, own in enumerate(line.get("ranks", [])):
            phases = ", ".join(f"{name} {value:.2f} s" for name, value in own["seconds"].items())
            self.say(f"  rank {rank}: {own['tokens_per_second']:,.0f} tokens/s; {phases}")
        self.window, self.timed, self.timed_own, self.timed_seconds = Tally(), Tally(), Tally(), 0.0

    def _warn_of_jump(self, at: Position, loss: float) -> None:
        """A loss far above the usual one, and above where it began: bad rows, or a learning rate that is too high."""
        if self.usual_loss is None:
            self.usual_loss = self.first_loss = loss
        if loss > JUMP * self.usual_loss and loss > JUMP * self.first_loss / 2:
            tqdm.write(
                f"warning: the loss has jumped to {loss:.4g} by step {at.step}; it was {self.usual_loss:.4g}. "
                "Look at the rows of these steps, or lower --learning-rate",
                file=sys.stderr,
            )
        self.usual_loss += (loss - self.usual_loss) / MEMORY

    def evaluate(self, at: Position) -> None:
        """Measure on the evaluation data, if there is any; note whether it is the best so far."""
        if self.evaluator is None:
            return
        with self.paused("evaluation"):
            result = self.world.broadcast(self.evaluator())  # what follows from it has to be the same on all
        self.last_evaluation = result.finite()
        value = self.last_evaluation.figures[self.best_metric]
        self.is_best = value is not None and (self.best is None or self._better(value, self.best.value))
        if self.is_best and value is not None:
            self.best = Best(at.step, self.best_metric, value, self.last_evaluation)
        self.num_worse = 0 if self.is_best else self.num_worse + 1
        is_hopeless = self._is_hopeless()
        self.should_stop |= is_hopeless
        self.write({"kind": "eval", "split": "eval", "step": at.step, "epoch": round(at.epochs_done, 4), **result.line()})
        text = ", ".join(f"{name} {value:.4f}" for name, value in result.figures.items())
        self.say(f"epoch {at.epochs_done:g}: evaluation {text}" + (" (best so far)" if self.is_best else ""))
        if is_hopeless:
            self.say(f"stopping early: {self.num_worse} evaluations without a better {self.best_metric}")

    def _watch_the_time(self, at: Position) -> None:
        """Is this step to be the last of this process? The loop then saves and ends."""
        now = time.perf_counter()
        self.slowest["step"] = max(self.slowest["step"], now - max(self._mark, self._stepped))
        self._stepped = now
        num_steps = 2 + self.world.vote_delay
        beside = self.slowest["saving"] + self.slowest.get("evaluation", 0.0)  # an evaluation comes before the saving
        to_end = num_steps * self.slowest["step"] + beside + self.saver.seconds_behind
        if self.world.vote(self.stop.wanted(to_end)) and not at.is_last:
            self.should_stop = True

    def _is_hopeless(self) -> bool:
        return self.num_worse >= (self.config.patience or math.inf)

    def _better(self, value: float, than: float) -> bool:
        return value < than if self.lower_is_better else value > than

    def save(self, at: Position) -> None:
        """A checkpoint of everything; with ``--async-save`` it is on the disk later. Raises ResourceError."""
        with self.paused("saving"):
            snapshot = take_snapshot(self.state, self.progress().to_json(), self.world)
            if self.all_save:
                self.saver.save(snapshot)
            else:
                self.world.on_main_rank(lambda: self.saver.save(snapshot))
            self._tell_of_saved()
        self.is_best = False

    def saving(self) -> AbstractContextManager[Any]:
        """Around training: when it is left, all that was saved is on the disk. Collective."""
        return self.saver if self.all_save else self.world.main_rank_context(self.saver)

    def _tell_of_saved(self) -> None:
        """The writers hear of each checkpoint that has come to be on the disk."""
        while self.saver.committed:
            step, directory = self.saver.committed.pop(0)
            if self.writers is not None:
                self.writers.saved(step, directory)

    # ---------------------------------------------------------------------------------------------------- resuming

    def progress(self) -> Progress:
        """What a checkpoint holds of this object."""
        self._read_losses()
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        return Progress(
            self.ranks(), self.window, self.epoch, self.total, self.best, self.last_evaluation, self.num_worse,
            self.train_seconds, self._metrics.tell(),
            self.writers.states() if self.writers is not None else {},
        )  # fmt: skip

    def ranks(self) -> dict[str, Any]:
        """What decides in which order numbers are added up."""
        return {"world size": self.world.size, "sharded": self.config.shard}

    def start(self) -> None:
        """From the beginning: what an interrupted run has logged before its first checkpoint goes."""
        self._metrics.truncate(0)
        self._mark = time.perf_counter()

    def restore(self, progress: Progress) -> None:
        """The reverse; later lines of metrics.jsonl are cut off."""
        self.window, self.epoch, self.total = progress.window, progress.epoch, progress.total
        self.best, self.last_evaluation = progress.best, progress.last_evaluation
        self.num_worse, self.train_seconds = progress.num_worse, progress.train_seconds
        self.writer_states = dict(progress.writers)
        self.should_stop = self._is_hopeless()  # killed between stopping early and the end
        self._metrics.truncate(min(progress.metrics_bytes, os.fstat(self._metrics.fileno()).st_size))
        self._metrics.seek(0, os.SEEK_END)
        self._bar.update(self.state.step - self._bar.n)
        self._mark = time.perf_counter()

    # ------------------------------------------------------------------------------------------------------ output

    def write(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl; NaN is written as null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        self._metrics.write(json.dumps(clean, allow_nan=False).encode() + b"\n")
        self._metrics.flush()
        if self.writers is not None:
            self._tell_of_saved()  # of what --async-save has written by now
            self.writers.log(clean)

    def say(self, text: str) -> None:
        """A line for the reader, above the bar."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Stop the bar and close the file."""
        self._lap()
        self._bar.close()
        self._metrics.close()
        if self.writers is not None:
            self._tell_of_saved()
            self.writers.close()

    # ------------------------------------------------------------------------------------------------------ counting

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
        step = self.state.step
        if self.state.scaler.is_enabled() and self.state.scaler.get_scale() < MIN_LOSS_SCALE:
            raise DivergedError(
                f"the fp16 loss scale has collapsed to {self.state.scaler.get_scale():.1e} by step {step}: all overflow. "
                "Use --precision bf16 or fp32, or lower --learning-rate"
            )
        if bool(self.state.guard.diverged) or not math.isfinite(passed.loss_sum):
            own = first_bad_step(unread, scaled=self.state.scaler.is_enabled())
            raise DivergedError(describe_first([bad for bad in self.world.gather(own) if bad]))

    def _lap(self) -> None:
        """Training time up to now."""
        now = time.perf_counter()
        self.train_seconds += now - self._mark
        self.process_seconds += now - self._mark
        self.timed_seconds += now - self._mark
        self._mark = now

    @contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """What happens inside is not training time."""
        self._lap()
        with self.state.clock.phase(what):
            yield
        began, self._mark = self._mark, time.perf_counter()
        self.slowest[what] = max(self.slowest.get(what, 0.0), self._mark - began)

    def where_time_went(self) -> str:
        """One line: the share of each phase in this process's training time, and what came beside it."""
        seconds = self.state.clock.read()
        training = max(self.process_seconds, 1e-9)
        shares = {name: seconds[name] / training for name in PHASES}
        shares["other"] = max(1 - sum(shares.values()), 0.0)
        shown = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)
        others = ", ".join(f"{seconds[name]:.1f} s {name}" for name in BETWEEN_STEPS if seconds[name] or name != "profiling")
        return f"time       {training:.1f} s training: {shown}; {others}"

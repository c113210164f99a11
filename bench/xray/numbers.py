"""What follows from the arguments in numbers: batch, steps, warm-up, rates, evaluations, checkpoints.

Each is Trainer's own arithmetic (``set_initial_training_values``, ``get_warmup_steps``, ``compute_steps``),
done without it; tests/bench/xray run Trainer beside it. None stands for what is not known. Next: findings.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from bench.xray.arguments import Arguments

NO_WARMUP = ("constant", "greedy", "reduce_lr_on_plateau")  # schedules that are made without one


@dataclass(frozen=True)
class Numbers:
    """``rows``, ``eval_rows``: of the data; None: not known. ``world``: processes that train together."""

    arguments: Arguments
    rows: int | None = None
    eval_rows: int | None = None
    world: int = 1

    @cached_property
    def per_device(self) -> int | None:
        return self.arguments.whole("per_device_train_batch_size")

    @cached_property
    def accumulation(self) -> int | None:
        return self.arguments.whole("gradient_accumulation_steps")

    @cached_property
    def effective_batch(self) -> int | None:
        """Examples in a full optimizer step."""
        config = self.arguments.get("accelerator_config")
        if self.per_device is None or self.accumulation is None or not isinstance(config, dict | None):
            return None
        if config and config.get("split_batches"):  # then a batch is cut over the processes
            return self.per_device * self.accumulation
        return self.per_device * self.accumulation * self.world

    @cached_property
    def drops_last(self) -> bool | None:
        return self.arguments.truth("dataloader_drop_last")

    @cached_property
    def micro_batches(self) -> int | None:
        """Of an epoch, on each process (accelerate's BatchSamplerShard)."""
        if self.rows is None or self.per_device is None or self.drops_last is None:
            return None
        whole = self.rows // self.per_device if self.drops_last else -(-self.rows // self.per_device)
        return whole // self.world if self.drops_last else -(-whole // self.world)

    @cached_property
    def steps_per_epoch(self) -> int | None:
        if self.micro_batches is None or self.accumulation is None:
            return None
        return max(-(-self.micro_batches // self.accumulation), 1)

    @cached_property
    def max_steps(self) -> int | None:
        """That was asked for; None: the epochs decide, or it is not known."""
        found = self.arguments.number("max_steps")
        return int(found) if found is not None and found > 0 else None

    @cached_property
    def num_steps(self) -> int | None:
        if self.max_steps is not None:
            return self.max_steps
        epochs, asked = self.arguments.number("num_train_epochs"), self.arguments.number("max_steps")
        if self.steps_per_epoch is None or epochs is None or asked is None:
            return None
        return math.ceil(epochs * self.steps_per_epoch)

    @cached_property
    def last_step_of_epoch(self) -> tuple[int, int] | None:
        """Micro-batches and rows in it, on one process; None if it is as full as the others, or not known."""
        if self.micro_batches is None or self.accumulation is None or self.per_device is None or self.world > 1:
            return None
        assert self.rows is not None
        batches = self.micro_batches % self.accumulation or self.accumulation
        missing = 0 if self.drops_last else -self.rows % self.per_device
        rows = batches * self.per_device - missing
        is_short = batches < self.accumulation or missing
        return (batches, rows) if is_short and self.micro_batches else None

    @cached_property
    def repeated(self) -> int | None:
        """Rows that come twice in an epoch, since accelerate gives each of several processes as many; None: not known."""
        given = self.arguments.get("accelerator_config") is not None or self.drops_last is not False
        if self.world == 1 or given or self.micro_batches is None or self.per_device is None or self.rows is None:
            return None
        return self.micro_batches * self.per_device * self.world - self.rows

    @cached_property
    def chunk(self) -> int | None:
        """Rows that are sorted by length together (``get_length_grouped_indices``)."""
        if self.rows is None or self.per_device is None or self.accumulation is None:
            return None
        batch = self.per_device * self.accumulation
        return max(min(self.rows // (batch * 4), 50), 1) * batch

    # ---------------------------------------------------------------------------------------------------- the learning rate

    @cached_property
    def schedule(self) -> str | None:
        return self.arguments.text("lr_scheduler_type")

    @cached_property
    def asked_warmup(self) -> float | None:
        """A number of steps, or below 1 a share."""
        return self.arguments.number("warmup_steps")

    @cached_property
    def warmup(self) -> int | None:
        """Steps in which the rate rises; 0 where the schedule has no warm-up, whatever is asked for."""
        if self.schedule in NO_WARMUP:
            return 0
        if self.asked_warmup is None or self.schedule is None:
            return None
        if self.asked_warmup >= 1 or self.asked_warmup == 0:
            return int(self.asked_warmup)
        return None if self.num_steps is None else math.ceil(self.num_steps * self.asked_warmup)

    def rate(self, step: int) -> float | None:
        """The learning rate that step ``step`` (from 1) uses; None for a schedule that is not computed here."""
        peak, num_steps, warmup = self.arguments.number("learning_rate"), self.num_steps, self.warmup
        factor = FACTORS.get(self.schedule or "")
        if peak is None or num_steps is None or warmup is None or factor is None or self.arguments.get("lr_scheduler_kwargs"):
            return None
        done = step - 1
        return peak * (done / max(1, warmup) if done < warmup else factor(done, warmup, num_steps))

    # --------------------------------------------------------------------------------------------------- at which steps what

    def every(self, what: str) -> int | None:
        """Steps between two log lines, evaluations or checkpoints ("logging", "eval", "save"); below 1 a share of all."""
        found = self.arguments.number(f"{what}_steps")
        if what == "eval" and not found and self.arguments.get("eval_steps") in (None, 0):
            found = self.arguments.number("logging_steps")
        if found is None or found <= 0:
            return None
        if found < 1:
            return None if self.num_steps is None else math.ceil(self.num_steps * found)
        return int(found)

    def times(self, what: str) -> int | None:
        """How many there are in the run; an evaluation or checkpoint at the end is counted."""
        strategy = self.arguments.text(f"{what}_strategy")
        if what == "eval" and (self.arguments.get("eval_delay") or self.arguments.get("eval_on_start")):
            return None
        if strategy == "no":
            return 0
        if self.num_steps is None:
            return None
        if strategy == "epoch":
            return None if self.steps_per_epoch is None else math.ceil(self.num_steps / self.steps_per_epoch)
        every = self.every(what)
        if strategy != "steps" or every is None:
            return None
        at_end = what != "logging" and self.num_steps % every != 0
        return self.num_steps // every + at_end


FACTORS: dict[str, Callable[[int, int, int], float]] = {  # of (steps done, steps of warm-up, steps), after the warm-up
    "linear": lambda done, warmup, total: max(0.0, (total - done) / max(1, total - warmup)),
    "cosine": lambda done, warmup, total: max(0.0, 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1, total - warmup)))),
    "constant": lambda done, warmup, total: 1.0,
    "constant_with_warmup": lambda done, warmup, total: 1.0,
}

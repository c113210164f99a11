"""What the learning rate does over a run: transformers' schedules by their names, a floor, and warm-up in steps or as a share.

The rate is a function of the step alone, so a resumed run needs no more than the step. Next: optimizer.py.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_scheduler

from engine.config import TrainConfig
from engine.errors import UsageError

FLOORS = {  # where transformers has a minimum of its own: the schedule that has it, and what it is called there
    "cosine": ("cosine_with_min_lr", "min_lr"),
    "cosine_with_min_lr": ("cosine_with_min_lr", "min_lr"),
    "cosine_warmup_with_min_lr": ("cosine_warmup_with_min_lr", "min_lr"),
    "polynomial": ("polynomial", "lr_end"),
    "warmup_stable_decay": ("warmup_stable_decay", "min_lr_ratio"),
}


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, num_steps: int) -> LRScheduler:
    """transformers' schedule of that name, after a linear rise over ``warmup_steps``, or ``ceil(warmup_ratio * num_steps)``.

    The learning rate is a function of the step alone: an fp16 step that is skipped for overflow counts, too. With a
    minimum m, the factor f of a step after the warm-up becomes f * (1 - m / rate) + m / rate, as in transformers'
    cosine_with_min_lr; where transformers has a minimum of its own, it is that one. Raises UsageError.
    """
    # torch means the order of the calls; here it is fixed, and GradScaler may have left out the first update.
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
    warmup = math.ceil(config.warmup_ratio * num_steps) if config.warmup_steps is None else config.warmup_steps
    if warmup > num_steps:
        raise UsageError(f"--warmup-steps {warmup} is more than the {num_steps} steps of the run: lower it, or train longer")
    name = {"constant": "constant_with_warmup"}.get(config.schedule, config.schedule)
    options = options_of(config.schedule_options)
    share = (config.min_learning_rate or 0.0) / config.learning_rate
    floored = config.min_learning_rate is not None and config.schedule not in FLOORS
    if config.min_learning_rate is not None and not floored:
        name, key = FLOORS[config.schedule]
        options[key] = share if key == "min_lr_ratio" else config.min_learning_rate
    try:
        if warmup + options.get("num_decay_steps", 0) > num_steps:
            raise ValueError("warm-up and decay together are longer than the run")
        schedule: LRScheduler = get_scheduler(
            name, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps, scheduler_specific_kwargs=options
        )
        if floored:
            factor = schedule.lr_lambdas[0]  # type: ignore[attr-defined]
            schedule = LambdaLR(optimizer, partial(raised, factor=factor, warmup=warmup, share=share))
        check_factors(schedule.lr_lambdas[0], num_steps)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ArithmeticError) as error:
        given = f" --schedule-options {config.schedule_options}" if config.schedule_options else ""
        raise UsageError(f"--schedule {config.schedule}{given}, {warmup} of {num_steps} steps of warm-up: {error}") from error
    return schedule


def options_of(text: str | None) -> dict[str, Any]:
    """``num_cycles=3, decay_type=1-sqrt``: numbers where they are some. Raises UsageError for one that is not finite."""
    found: dict[str, Any] = {}
    for name, _, value in (part.partition("=") for part in (text or "").split(",") if part):
        number: float | str = value.strip()
        with suppress(ValueError):
            number = float(number)
        if isinstance(number, float) and not math.isfinite(number):
            raise UsageError(f"--schedule-options {name.strip()} must be a finite number, found {value.strip()!r}")
        found[name.strip()] = int(number) if isinstance(number, float) and number.is_integer() else number
    return found


def raised(step: int, *, factor: Callable[[int], float], warmup: int, share: float) -> float:
    """The factor of a schedule that goes to ``share`` instead of 0."""
    found = factor(step)
    return found if step < warmup else found * (1 - share) + share


def check_factors(factor: Callable[[int], float], num_steps: int) -> None:
    """Raises ValueError or ArithmeticError for a schedule that would fail, or go below 0, in the middle of the run."""
    for step in {round(i * num_steps / 999) for i in range(1000)}:
        if not 0 <= factor(step) < math.inf:
            raise ValueError(f"in step {step} the learning rate would be {factor(step):g} times its peak")

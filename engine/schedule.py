"""The table of schedules: what the learning rate does over a run. A minimum, and warm-up in steps or as a share, are for all.

The rate is a function of the step alone, so a resumed run needs no more than the step. To add a schedule, write its entry in
``SCHEDULES``. Importing this module must not import torch: ``--help`` lists the names. Next: optimizer.py.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import UsageError
from engine.settings.fields import require

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

# None: transformers' schedule of that name. A schedule of ours is a function (step, num_steps, **options) that gives the rate
# as a share of its peak; ``step`` counts from 0 at the end of the warm-up, and ``num_steps`` are those from there to the end.
SCHEDULES: dict[str, Callable[..., float] | None] = {
    "linear": None,
    "cosine": None,
    "cosine_with_restarts": None,
    "polynomial": None,
    "constant": None,
    "constant_with_warmup": None,
    "inverse_sqrt": None,
    "cosine_with_min_lr": None,
    "cosine_warmup_with_min_lr": None,
    "warmup_stable_decay": None,
}
FLAT = ("constant", "constant_with_warmup")
FLOORS = {  # where transformers has a minimum of its own: the schedule that has it, and what it is called there
    "cosine": ("cosine_with_min_lr", "min_lr"),
    "cosine_with_min_lr": ("cosine_with_min_lr", "min_lr"),
    "cosine_warmup_with_min_lr": ("cosine_warmup_with_min_lr", "min_lr"),
    "polynomial": ("polynomial", "lr_end"),
    "warmup_stable_decay": ("warmup_stable_decay", "min_lr_ratio"),
}
MINIMA = ("min_lr", "min_lr_rate", "min_lr_ratio", "lr_end")  # what transformers calls --min-learning-rate


class ScheduleSettings(Protocol):
    """The settings of TrainConfig that a schedule is made from."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def schedule(self) -> str: ...
    @property
    def schedule_options(self) -> str | None: ...
    @property
    def warmup_ratio(self) -> float: ...
    @property
    def warmup_steps(self) -> int | None: ...
    @property
    def min_learning_rate(self) -> float | None: ...


def make_schedule(optimizer: Optimizer, config: ScheduleSettings, num_steps: int) -> LRScheduler:
    """The schedule of that name, after a linear rise over ``warmup_steps``, or ``ceil(warmup_ratio * num_steps)``.

    The learning rate is a function of the step alone: an fp16 step that is skipped for overflow counts, too. With a
    minimum m, the factor f of a step after the warm-up becomes f * (1 - m / rate) + m / rate, as in transformers'
    cosine_with_min_lr; where transformers has a minimum of its own, it is that one. Raises UsageError.
    """
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import get_scheduler

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
    schedule: LRScheduler
    try:
        if (own := SCHEDULES[config.schedule]) is not None:
            after = partial(own, **options)
            schedule = LambdaLR(optimizer, partial(warmed_up, after=after, warmup=warmup, num_steps=num_steps))
        elif warmup + options.get("num_decay_steps", 0) > num_steps:
            raise ValueError("warm-up and decay together are longer than the run")
        else:
            schedule = get_scheduler(
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


def set_rates(schedule: LRScheduler) -> None:
    """Give the optimizer the rates that this schedule has for the step it stands at; a checkpoint's may be of another."""
    factors = schedule.lr_lambdas  # type: ignore[attr-defined]
    schedule._last_lr = [rate * of(schedule.last_epoch) for rate, of in zip(schedule.base_lrs, factors, strict=True)]
    for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
        group["lr"] = rate


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


def warmed_up(step: int, *, after: Callable[[int, int], float], warmup: int, num_steps: int) -> float:
    """The factor of a schedule of ours: it rises from 0, and ``after`` the warm-up it is the function of the table."""
    return step / warmup if step < warmup else after(step - warmup, max(num_steps - warmup, 1))


def raised(step: int, *, factor: Callable[[int], float], warmup: int, share: float) -> float:
    """The factor of a schedule that goes to ``share`` instead of 0."""
    found = factor(step)
    return found if step < warmup else found * (1 - share) + share


def check_factors(factor: Callable[[int], float], num_steps: int) -> None:
    """Raises ValueError or ArithmeticError for a schedule that would fail, or go below 0, in the middle of the run."""
    for step in {round(i * num_steps / 999) for i in range(1000)}:
        if not 0 <= factor(step) < math.inf:
            raise ValueError(f"in step {step} the learning rate would be {factor(step):g} times its peak")


def check_schedule(config: ScheduleSettings) -> None:
    """Raises UsageError for settings that do not go together, or would have no effect."""
    name, options = config.schedule, config.schedule_options
    if name in ("reduce_lr_on_plateau", "greedy"):
        raise UsageError(
            f"--schedule {name} follows a metric, and here the learning rate is a function of the step alone: choose one of "
            f"{', '.join(SCHEDULES)}"
        )
    require(config, "schedule", name in SCHEDULES, f"must be one of {', '.join(SCHEDULES)}")
    require(config, "warmup_steps", config.warmup_steps is None or config.warmup_steps >= 0, "must not be negative")
    if config.warmup_steps is not None and config.warmup_ratio:
        raise UsageError(
            f"--warmup-steps {config.warmup_steps} and --warmup-ratio {config.warmup_ratio:g} contradict each other: give one "
            "of them (--warmup-ratio 0 takes a task's default back)"
        )
    least = config.min_learning_rate
    require(config, "min_learning_rate", least is None or 0 <= least < config.learning_rate, "must be at least 0 and less than "
            f"--learning-rate {config.learning_rate:g}")  # fmt: skip
    if least is not None and name in FLAT:
        raise UsageError(f"--min-learning-rate: the schedule {name} does not go down: leave one of them out")
    if least is None and name in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        raise UsageError(f"--schedule {name} needs --min-learning-rate")
    given = [part.partition("=")[0].strip() for part in options.split(",")] if options is not None else []
    if options is not None and (any("=" not in part for part in options.split(",")) or len(set(given)) != len(given)):
        raise UsageError(f"--schedule-options must be NAME=NUMBER, comma-separated, each name once, found {options!r}")
    if given and name in FLAT:
        raise UsageError(f"--schedule-options: the schedule {name} has none: leave them out")
    if own := [option for option in given if option in MINIMA]:
        raise UsageError(f"--schedule-options {own[0]}: give --min-learning-rate, which is the same for every schedule")
    if name == "warmup_stable_decay" and "num_decay_steps" not in given:
        raise UsageError("--schedule warmup_stable_decay needs --schedule-options num_decay_steps=N, the steps at its end")

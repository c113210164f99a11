"""Can it be done? What is refused before the first step: data, memory, disk space, a directory that the ranks share.

Next: explain.py, what the run will do.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from engine.build import Setup, best_metric
from engine.checkpoint.store import num_newest
from engine.config import TrainConfig
from engine.console import note
from engine.distributed.device import describe_device
from engine.distributed.world import World
from engine.errors import DataError, ResourceError, UsageError
from engine.memory.estimate import bytes_per_rank
from engine.optimizer import state_bytes
from engine.record.figures import RESERVED, figure_names
from engine.settings.fields import settings_where
from engine.task import Examples, Task, held_out


def memory_needed(setup: Setup, config: TrainConfig) -> dict[str, int]:
    """Bytes on each rank, by what they are for."""
    many = config.accumulation_steps > 1
    model, states = setup.state.model, state_bytes(setup.state.model, config)
    return bytes_per_rank(model, setup.world.size, setup.precision, states=states, shard=config.shard, accumulates=many)


def check_data(task: Task[Any], config: TrainConfig, examples: Mapping[str, Examples], num_ranks: int = 1) -> None:
    """Raises DataError without training rows, UsageError when an evaluation is asked for that cannot be."""
    if task.source.config.more_train_file and not task.watched:
        raise UsageError(
            "--more-train-file: this task knows no new rows beside the old ones, only labelled texts do: leave it out"
        )
    if len(examples["train"]) == 0:
        raise DataError("there is no row to train on")
    if config.tokens_per_batch is None and (step := config.batch_size * config.accumulation_steps) > len(examples["train"]):
        note(f"warning: a step of {step} examples is more than the {len(examples['train'])} there are: an epoch is one step")
    if config.tokens_per_batch and (longer := int((examples["train"].lengths > config.tokens_per_batch).sum())):
        longest = int(examples["train"].lengths.max())
        note(
            f"warning: {longer} of {len(examples['train'])} training rows have more tokens than --tokens-per-batch "
            f"{config.tokens_per_batch}, up to {longest}: each is a batch by itself, and larger than asked for"
        )
    if config.shard and not task.shardable:
        raise UsageError("--shard: this task's evaluation generates, and the ranks would wait for each other: leave it out")
    if not task.additive and config.batch_size < 2 * num_ranks:
        raise UsageError(
            f"--batch-size {config.batch_size}: this loss compares the rows of a micro-batch with each other, give at least "
            f"{2 * num_ranks}"
        )
    if sets := held_out(examples):
        names = task.metrics(next(iter(sets))).names
        if taken := RESERVED.intersection(names):
            raise UsageError(f"the task has a metric called {min(taken)}, which stands beside metrics in the log: rename it")
        known = figure_names(["loss", *names], sets)
        if (metric := best_metric(task, config, sets)) not in known:
            raise UsageError(f"--best-metric {metric} is not computed; there are: {', '.join(known)}")
        if len(sets) > 1 and not config.best_metric:
            note(f"{len(sets)} evaluation sets: the best model is that of {metric}, on the first (--best-metric NAME/FIGURE)")
        return
    for flag in settings_where(lambda traits: traits.needs_evaluation, type(config)):
        if getattr(config, flag):
            raise UsageError(
                f"--{flag.replace('_', '-')} asks for an evaluation, and there is no evaluation data: "
                "give --eval-file, or hold some out with --eval-fraction 0.1"
            )
    note("there is no evaluation data: the last model is kept (--eval-fraction 0.1 would hold some out)")


def check_memory(setup: Setup, config: TrainConfig) -> None:
    """Raises ResourceError when a GPU could not even hold the weights, their gradients and the optimizer's state."""
    if setup.state.device.type != "cuda":
        return
    needed, there = sum(memory_needed(setup, config).values()), torch.cuda.mem_get_info(setup.state.device)[1]
    if needed > there:
        raise ResourceError(
            f"training needs at least {needed / 2**30:.1f} GiB on each device, and {describe_device(setup.state.device)} has "
            f"{there / 2**30:.1f} GiB: {'more ranks' if config.shard else '--shard over several'}, --lora, or a smaller model"
        )


def check_shared(directory: Path) -> None:
    """Raises UsageError on a rank that does not see the directory in which rank 0 holds the lock: it cannot save its part."""
    if not (directory / ".lock").exists():
        raise UsageError(
            f"--output-dir {directory} is not the same for all ranks, and with --shard each saves its part there: choose one "
            "on a file system that all nodes share"
        )


def check_space(directory: Path, setup: Setup, config: TrainConfig) -> None:
    """Raises ResourceError when the disk has no room for the checkpoints kept at one time, and the model."""
    plan, model = setup.data.plan, setup.state.model
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    moments = sum(state_bytes(model, config).values())
    saved = (at for at in plan.positions(0) if at.due(config.save_steps) or at.due(config.eval_steps))  # it may be the best
    num_kept = len(list(islice(saved, num_newest(config.keep_checkpoints) + 2)))  # beside them the best, and a new one
    needed = weights + num_kept * (weights + moments)
    free = shutil.disk_usage(directory).free
    free += sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())  # what is replaced here
    if needed > free:
        raise ResourceError(
            f"--output-dir {directory} needs {needed / 2**20:,.0f} MiB for checkpoints and the model, and {free / 2**20:,.0f} "
            "MiB are free: lower --keep-checkpoints, or choose a directory on another disk"
        )


def out_of_memory(config: TrainConfig, world: World, device: str) -> str:
    """What to do about it."""
    spread = "" if config.shard or world.size == 1 else "--shard, "
    recompute = "" if config.gradient_checkpointing else "--gradient-checkpointing, "
    return (
        f"out of memory on {device}: {spread}{recompute}a lower --batch-size with more --accumulation-steps (the same step), "
        "a lower --eval-batch-size, or a lower --max-length"
    )

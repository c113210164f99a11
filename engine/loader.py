"""Explicit DataLoaders: one for the whole training run, one for each evaluation.

The training loader reads what the plan says, from the step on that a resumed run has reached: nothing is read to be
skipped, and no worker is started again at an epoch's end. Both have a generator of their own: making an iterator draws
from the global one otherwise and shifts every dropout mask (torch/utils/data/dataloader.py, _BaseDataLoaderIter).
"""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any
from weakref import WeakSet

import torch
from torch.utils.data import DataLoader, Dataset

from engine.clock import Clock
from engine.config import TrainConfig
from engine.data.batch import Batch, FillerKey, Key
from engine.data.collate import Layout
from engine.data.plan import Plan, Position, eval_batches
from engine.data.tables import called
from engine.distributed.world import World
from engine.errors import WORKER_KILLED, DataError, ResourceError, UserError
from engine.task import Examples, Row, Task

EVAL_SEED = 0  # a constant: runs with different seeds, and ``evaluate``, have to measure on the same rows
SAID_ALREADY = (UserError, MemoryError, torch.OutOfMemoryError)  # what needs no row's name to be understood
WORKER_SECONDS = 600  # without a batch from any worker, and something is wrong


class PreparedRows(Dataset[tuple[Key, Row]]):
    """Rows by key, prepared with a random stream that is a function of (seed, epoch, row) and nothing else."""

    def __init__(self, examples: Examples, task: Task[Any], seed: int):
        self.examples, self.task, self.seed = examples, task, seed

    def __getitem__(self, key: Key) -> tuple[Key, Row]:
        epoch, row = key
        try:
            if type(self.task).prepare is Task.prepare:  # nothing random to do
                return key, self.examples[row]
            digest = hashlib.blake2b(f"{self.seed} {epoch} {row}".encode(), digest_size=7).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
            return key, self.task.prepare(self.examples[row], generator)
        except SAID_ALREADY:
            raise
        except Exception as error:
            raise unprepared(self.examples, [row], error) from error


@dataclasses.dataclass(frozen=True)
class Collate:
    """The loader's collate function: the task puts rows together, the keys go along."""

    task: Task[Any]
    layout: Layout
    examples: Examples

    def __call__(self, keyed: Sequence[tuple[Key, Row]]) -> Batch:
        keys, rows = [key for key, _ in keyed], [row for _, row in keyed]
        try:
            batch = self.task.collate(rows, self.layout)
        except SAID_ALREADY:
            raise
        except Exception as error:
            raise unprepared(self.examples, [row for _, row in keys], error) from error
        return filler(batch) if isinstance(keys[0], FillerKey) else dataclasses.replace(batch, keys=keys)


def share(keys: Sequence[Key], world: World) -> list[Key]:
    """This rank's rows of a micro-batch, every ``size``-th; a rank without any gets the first as a filler."""
    return [*keys[world.rank :: world.size]] or [FillerKey(*keys[0])]


def filler(batch: Batch) -> Batch:
    """The batch as one that counts for nothing, for a rank that has no rows of its own."""
    return dataclasses.replace(
        batch, num_items=0, num_examples=0, num_tokens=0, executed_tokens=0, sum_squares=0, longest=0, weight=0.0
    )


def make_loader(
    task: Task[Any], examples: Examples, keys: Any, layout: Layout, config: TrainConfig, device: torch.device
) -> DataLoader[Batch]:
    """A DataLoader over lists of keys; pinned memory where batches go to a CUDA device."""
    if config.workers:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # texts are tokenised by now; forking after threads warns
    return DataLoader(
        PreparedRows(examples, task, config.seed),  # type: ignore[arg-type]
        batch_sampler=keys,
        collate_fn=Collate(task, layout, examples),
        num_workers=config.workers,
        multiprocessing_context="fork" if config.workers and sys.platform == "linux" else None,  # Python 3.14 would not
        worker_init_fn=ignore_signals,
        timeout=WORKER_SECONDS if config.workers else 0,
        generator=torch.Generator().manual_seed(config.seed),
        pin_memory=device.type == "cuda",
    )


def unprepared(examples: Examples, rows: Sequence[int], error: Exception) -> DataError:
    """An error in the preparation of rows, as one that says which they were."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return DataError(f"{called(examples, rows)} cannot be prepared: {reason} (--debug shows where)")


def batches(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """What the loader gives. What befalls its workers is one line. Raises DataError, ResourceError."""
    iterator = iter(loader)
    if loader.num_workers:
        WITH_WORKERS.add(iterator)
    try:
        yield from iterator
    except UserError as error:  # of a worker: torch puts the worker's traceback into the message, our line stands last
        raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) and "DataLoader timed out" not in str(error):
            raise
        if "timed out" in str(error):
            raise ResourceError(
                f"a process that loads data gave no batch within {WORKER_SECONDS} seconds: it hangs, or waits for a disk or a "
                "network. --workers 0 shows where"
            ) from error
        raise ResourceError(WORKER_KILLED) from error
    finally:
        if loader.num_workers:  # now: the garbage collector would ask them at some moment, and they ignore its SIGTERM
            end_workers(iterator)


WITH_WORKERS: WeakSet[Any] = WeakSet()  # iterators; a traceback may keep one until the process ends


@atexit.register
def end_all_workers() -> None:
    """End them before multiprocessing waits for them, with a SIGTERM that they ignore."""
    for iterator in [*WITH_WORKERS]:
        end_workers(iterator)


def end_workers(iterator: Any) -> None:
    """Kill them: they ignore SIGTERM, and a hanging one would keep this process from ending.

    torch raises in the main thread for any worker that dies before its iterator has forgotten it, so not now.
    """
    workers = getattr(iterator, "_workers", [])
    in_main = threading.current_thread() is threading.main_thread()
    in_main = in_main and hasattr(signal, "SIGCHLD")
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if in_main else None
    try:
        for worker in workers:
            worker.kill()
            worker.join()
        iterator._shutdown_workers()
    finally:
        if in_main:
            signal.signal(signal.SIGCHLD, before)


def asked_to_stop() -> list[signal.Signals]:
    """The signals that ask a process to end: Ctrl-C, kill, and the end of its terminal, which Windows has not."""
    return [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def ignore_signals(worker: int) -> None:
    """What a terminal or a scheduler sends to a whole group is for the main process, which ends the workers itself."""
    for number in asked_to_stop():
        signal.signal(number, signal.SIG_IGN)


class MicroBatches:
    """This rank's share of the plan's micro-batches from a step on, as a DataLoader's batch_sampler."""

    def __init__(self, plan: Plan, start: int, world: World):
        self.plan, self.start, self.world = plan, start, world

    def __iter__(self) -> Iterator[list[Key]]:
        return (share(keys, self.world) for keys in self.plan.micro_batches(self.start))


@dataclasses.dataclass(frozen=True)
class Data:
    """Training data: the plan, and the loader that follows it."""

    plan: Plan
    task: Task[Any]
    examples: Examples
    layout: Layout
    config: TrainConfig
    world: World
    clock: Clock

    def steps(self, start: int = 0) -> Iterator[tuple[Position, list[Batch]]]:
        """The micro-batches of every step after ``start`` done ones, grouped by the plan."""
        keys = MicroBatches(self.plan, start, self.world)
        loader = batches(make_loader(self.task, self.examples, keys, self.layout, self.config, self.world.device))
        for at in self.plan.positions(start):
            with self.clock.phase("data"):
                micro_batches = list(islice(loader, at.num_micro_batches))
            yield at, micro_batches

    def batch(self, keys: Sequence[Key]) -> Batch:
        """One micro-batch of these rows, as the loader makes it."""
        rows = PreparedRows(self.examples, self.task, self.config.seed)
        return Collate(self.task, self.layout, self.examples)([rows[key] for key in keys])


def eval_loader(task: Task[Any], examples: Examples, layout: Layout, config: TrainConfig, world: World) -> DataLoader[Batch]:
    """Every example once, longest first, dealt over the ranks, all of which have as many batches.

    What is random (masks) is the same each time, whatever ``--seed`` is. Where padding matters rows of equal length meet; of
    rows that are several texts those of equal ``shapes`` [N], numbers that stand for the lengths of all.
    """
    lengths = getattr(examples, "shapes", examples.lengths) if layout.padding_matters else examples.lengths
    keys = [share(batch, world) for batch in eval_batches(lengths, config.eval_batch_size, same_length=layout.padding_matters)]
    return make_loader(task, examples, keys, layout, dataclasses.replace(config, seed=EVAL_SEED), world.device)

"""What several processes, which train together (DDP), make of the gradient and of an epoch's rows. Real ones, over gloo."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from bench.contest.pictures import COLOURS
from bench.contest.workload import random_workload
from bench.lessons import toys
from bench.lessons.gradients import Gradients, gradient_of, mean_of_means
from bench.lessons.lesson import Finding, Lesson
from bench.lessons.randomness import numbered
from bench.toys.ranks import environment, free_port
from engine.distributed.world import World

Work = Callable[..., Any]  # of (this rank's World, a folder, ...), top-level in its module; what it returns goes through JSON


def forks() -> bool:
    """Are the processes forked, so that nothing is imported again? Autograd does not allow it where it has threads for GPUs."""
    return sys.platform == "linux" and not torch.cuda.is_available()


def in_ranks(size: int, work: Work, folder: str, *more: Any) -> list[Any]:
    """What ``work`` returns in each of ``size`` processes that have met. A rank that fails ends the others, and raises here."""
    start_processes(  # type: ignore[no-untyped-call]
        be_rank, (size, free_port(), work, folder, more), nprocs=size, start_method="fork" if forks() else "spawn"
    )
    return [json.loads((Path(folder) / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(size)]


def be_rank(rank: int, size: int, port: int, work: Work, folder: str, more: tuple[Any, ...]) -> None:
    """In the process of its own."""
    torch.set_num_threads(1)
    os.environ.update(environment(rank, size, port))
    dist.init_process_group("gloo")
    try:
        result = work(World(torch.device("cpu"), rank, size, local_rank=rank), folder, *more)
        (Path(folder) / f"rank-{rank}.json").write_text(json.dumps(result), encoding="utf-8")
        dist.barrier()  # nobody leaves before the last has heard from all
    finally:
        dist.destroy_process_group()


# -------------------------------------------------------------------------------------------------------------- ranks


RANKS, EACH = 2, 4  # processes, and rows on each of them
WORKLOAD = (RANKS * EACH, 3, 60)  # random rows: how many, and their shortest and longest


def of_trainer(model: nn.Module, rows: toys.Rows, folder: str, **arguments: Any) -> Tensor:
    """The gradient of Trainer's one step over all rows, not clipped."""
    watch = Gradients()
    toys.make_trainer(
        model, rows, folder, callbacks=[watch], per_device_train_batch_size=EACH, max_grad_norm=0.0, num_train_epochs=1,
        ddp_find_unused_parameters=False, **arguments,
    ).train()  # fmt: skip
    return watch.seen[0]


def of_classes(rows: toys.Rows) -> Tensor:
    """The gradient of BERT's mean over all rows, in one process."""
    model, batch = toys.bert(), toys.pad_labels(rows)
    model(**batch | {"labels": torch.tensor([row["labels"] for row in rows])}).loss.backward()
    return gradient_of(model)


def gradients_of_ways(world: World, folder: str) -> dict[str, tuple[float, float]]:
    """For each way to make one step of 8 rows: the gradient's norm over that of one process, and how far it is from it."""
    workload = random_workload(*WORKLOAD)
    rows = toys.features(workload)
    exact, of_bert = mean_of_means(toys.llama(), rows, len(rows)), of_classes(rows)
    model = toys.llama()
    sampler: DistributedSampler[Any] = DistributedSampler(rows, shuffle=False)  # type: ignore[arg-type]
    here = [rows[i] for i in sampler]
    replica = DistributedDataParallel(model)
    replica(**toys.pad_labels(here)).loss.backward()
    found = {"DDP, each rank's mean": (gradient_of(model), exact)}
    # the default is True: the count is that of all ranks
    own_count = of_trainer(toys.llama(), rows, folder, collate=toys.pad_labels, average_tokens_across_devices=False)
    found["Trainer, each rank's count"] = own_count, exact
    found["Trainer, Llama"] = of_trainer(toys.llama(), rows, folder, collate=toys.pad_labels), exact
    found["Trainer, BERT for classes"] = of_trainer(toys.bert(), rows, folder), of_bert
    model, task = toys.llama(), toys.NextToken(workload)
    setup, _ = toys.set_up(model, workload, task=task, world=world, batch_size=len(rows), max_grad_norm=math.inf)
    setup.state.optimizer.register_step_pre_hook(lambda *_: found.update({"Plainloop, Llama": (gradient_of(model), exact)}))
    list(toys.our_steps(setup, task))
    return {name: (float(a.norm() / b.norm()), float((a - b).norm() / b.norm())) for name, (a, b) in found.items()}


def ranks(folder: str) -> Finding:
    [found, again] = in_ranks(RANKS, gradients_of_ways, folder)
    by_hand, own_count, _, heads, ours = (gap for _, gap in found.values())
    trainer = found["Trainer, Llama"][1]

    def draw(axes: Any) -> None:
        names = list(found)
        axes.barh(range(len(names)), [100 * gap for _, gap in found.values()], color=[COLOURS[i] for i in (1, 5, 5, 3, 0)])
        for i, (_, gap) in enumerate(found.values()):
            axes.text(100 * gap, i, f" {100 * gap:.3g} %" if gap > 1e-4 else " 0 %", va="center")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel("off the gradient of one process, % of its norm")

    return Finding(
        holds=found == again and min(by_hand, own_count) > 0.05 and max(trainer, ours) < 1e-4 and abs(heads - 1) < 1e-3,
        said=f"Two processes, each its own mean: the gradient is off by {by_hand:.0%}; and Trainer doubles that of BERT's head",
        table=[[f"gradient of {WORKLOAD[0]} rows on {RANKS} processes", "times its norm in one", "off by"]]
        + [[name, f"{ratio:.4f}", f"{gap:.1%}"] for name, (ratio, gap) in found.items()],
        draw=draw,
        note="DDP takes the mean of the ranks' gradients. AdamW hides a factor like 2; it does not hide a mean of means.",
    )


# ------------------------------------------------------------------------------------------------------- repeated-rows


FOUR, ROWS = 4, 101  # processes, and rows that they do not share out evenly


def rows_of_an_epoch(world: World, folder: str) -> dict[str, list[int]]:
    """The rows that this rank is given in an epoch; each begins with a token that is its number."""
    workload = numbered(ROWS)
    rows = toys.features(workload)

    def of_trainer(**arguments: Any) -> list[int]:
        trainer = toys.make_trainer(toys.bert(), rows, folder, per_device_train_batch_size=8, **arguments)
        return [row for batch in trainer.get_train_dataloader() for row in batch["input_ids"][:, 0].tolist()]

    setup, _ = toys.set_up(toys.bert(), workload, world=world, batch_size=8 * world.size)
    return {
        "Trainer": of_trainer(),
        "Trainer, drop_last": of_trainer(dataloader_drop_last=True),
        "DistributedSampler": list(DistributedSampler(rows)),  # type: ignore[arg-type]
        "Plainloop": [row for _, batches in setup.data.steps() for batch in batches for _, row in batch.keys],
    }


def repeated_rows(folder: str) -> Finding:
    of_ranks = in_ranks(FOUR, rows_of_an_epoch, folder)
    times = {name: [sum(each[name].count(row) for each in of_ranks) for row in range(ROWS)] for name in of_ranks[0]}
    counts = {name: [seen.count(0), seen.count(1), sum(n > 1 for n in seen)] for name, seen in times.items()}
    twice, dropped, sampled = counts["Trainer"][2], counts["Trainer, drop_last"][0], counts["DistributedSampler"][2]

    def draw(axes: Any) -> None:
        left = [0] * len(counts)
        for k, (label, colour) in enumerate((("never", 5), ("once", 0), ("twice", 3))):
            values = [each[k] for each in counts.values()]
            axes.barh(range(len(counts)), values, left=left, color=COLOURS[colour], edgecolor="white", label=label)
            for i, value in enumerate(values):
                if value:
                    axes.text(left[i] + value / 2, i, str(value), ha="center", va="center", color="white")
            left = [a + b for a, b in zip(left, values, strict=True)]
        axes.set_yticks(range(len(counts)), list(counts))
        axes.set_ylim(len(counts) - 0.5, -1.2)
        axes.set_xlabel(f"{ROWS} rows, trained on in an epoch of {FOUR} processes with 8 rows each a step")
        axes.legend(frameon=False, ncols=3, loc="upper right")

    return Finding(
        holds=counts["Plainloop"] == [0, ROWS, 0]
        and twice == -ROWS % (8 * FOUR) > sampled > 0
        and dropped == ROWS % (8 * FOUR),
        said=f"Four processes and {ROWS} rows: to fill the last step Trainer trains on {twice} of them twice in each epoch",
        table=[["rows of an epoch", "never", "once", "twice"]] + [[name, *map(str, each)] for name, each in counts.items()],
        draw=draw,
        note=f"An evaluation by hand with DistributedSampler counts {sampled} rows twice; Trainer's does not.",
    )


LESSONS = [
    Lesson(
        "ranks", "several processes: DDP takes the mean of their gradients, whatever each has divided its own by",
        ("engine/loop.py", "num_items = world.sum("),
        ("transformers/trainer.py", "loss_scale = self.accelerator.num_processes"), ranks,
    ),
    Lesson(
        "repeated-rows", "several processes: the last step of an epoch is filled up with rows that have been trained on",
        ("engine/loader.py", "return [*keys[world.rank :: world.size]]"),
        ("accelerate/data_loader.py", "batch += initial_data[cycle_index:end_index]"), repeated_rows,
    ),
]  # fmt: skip

"""Batches that are collated before training begins, and pinned for a CUDA device: so no contender waits for a collator.

DataCollatorWithPadding needs milliseconds in the main process, as long as a step on a GPU takes. What is compared then
is collators; track D does so, with each tool's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bench.contest.job import Job
from bench.contest.timing import Gate
from bench.contest.workload import PAD, Workload, batches
from engine.data.batch import Batch
from engine.data.plan import Position
from engine.loader import Data

IGNORED = -100


def rectangle(rows: Sequence[np.ndarray], width: int, fill: int) -> Tensor:
    """Rows one below the other: [B, width] int64."""
    array = np.full((len(rows), width), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        array[i, : len(row)] = row
    return torch.from_numpy(array)


def collated(job: Job, workload: Workload, chosen: Sequence[int]) -> dict[str, Tensor]:
    """What transformers' collators make of these rows (tests compare them), ``job.batching`` says which.

    Padded: ``input_ids``, ``attention_mask`` [B, T], ``labels`` [B], or [B, T] for a language model. Flattened, for language
    models: all rows end to end, [1, T], with ``position_ids`` in place of the mask. A row's first token has no label.
    """
    rows = [workload.ids[workload.offsets[row] : workload.offsets[row + 1]] for row in chosen]
    lengths = [len(row) for row in rows]
    if job.batching == "flattened":
        ids = torch.from_numpy(np.concatenate(rows).astype(np.int64))[None]
        positions = torch.cat([torch.arange(n) for n in lengths])[None]
        return {"input_ids": ids, "labels": ids.masked_fill(positions == 0, IGNORED), "position_ids": positions}
    longest = job.max_length if job.batching == "max_length" else max(lengths)
    width = max(longest, min(-(-longest // job.round_to) * job.round_to, job.max_length))
    inputs = {
        "input_ids": rectangle(rows, width, PAD),
        "attention_mask": rectangle([np.ones(n, dtype=np.int64) for n in lengths], width, 0),
    }
    if job.task == "language":
        labels = rectangle(rows, width, IGNORED)
        labels[:, 0] = IGNORED  # nothing predicts it, and of some models (GPT-2) Trainer would divide by it
        return inputs | {"labels": labels}
    return inputs | {"labels": torch.from_numpy(workload.labels[np.asarray(chosen)])}


def ready_loader(job: Job, workload: Workload, gate: Gate) -> DataLoader[Any]:
    """The plan's batches for all steps of this phase; only handing one out is left to do."""
    plan = batches(job, workload.lengths)[: gate.num_steps]
    made = [collated(job, workload, rows) for rows in plan]
    if gate.device.type == "cuda":
        made = [{name: tensor.pin_memory() for name, tensor in batch.items()} for batch in made]

    def hand_out(chosen: list[tuple[list[int], dict[str, Tensor]]]) -> dict[str, Tensor]:
        [(rows, batch)] = chosen
        lengths = workload.lengths[np.asarray(rows)]
        gate.saw(rows, int(lengths.sum()), batch["input_ids"].numel(), int((lengths**2).sum()))
        return batch

    return DataLoader(
        list(zip(plan, made, strict=True)),  # type: ignore[arg-type]
        batch_sampler=[[step] for step in range(len(plan))],
        collate_fn=hand_out,
        generator=torch.Generator(),  # of its own: else it draws from the global one, and dropout differs
    )


class ReadyData:
    """Plainloop's data, its batches collated and pinned: what loop.train asks for is ``steps``."""

    def __init__(self, data: Data, num_steps: int):
        self.made: list[tuple[Position, list[Batch]]] = list(islice(data.steps(), num_steps))

    def steps(self, start: int = 0) -> Any:
        """As Data's."""
        return iter(self.made[start:])

    def of_each_shape(self) -> list[Batch]:
        """One micro-batch of every shape that occurs."""
        found = {shape(batch): batch for _, step in self.made for batch in step}
        return list(found.values())


def shape(batch: Batch) -> tuple[tuple[int, ...], ...]:
    """Of all tensors of a batch."""
    return tuple(tuple(x.shape) for x in (*batch.inputs.values(), *batch.targets.values()) if isinstance(x, Tensor))

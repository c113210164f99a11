"""transformers.Trainer. Its arguments are its defaults except where the recipe or the track says otherwise."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from bench.contest.job import Job
from bench.contest.ready import ready_loader
from bench.contest.timing import Gate
from bench.contest.workload import Features, Workload, collator


class Reporting(Trainer):  # type: ignore[misc,no-any-unimported]
    """Keeps each step's loss: callbacks are not told it."""

    last_loss: Tensor
    ready: DataLoader[Any] | None = None  # batches that are made already, in an order of length groups where that is asked

    def get_train_dataloader(self) -> Any:
        return super().get_train_dataloader() if self.ready is None else self.accelerator.prepare(self.ready)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self.last_loss = super().training_step(*args, **kwargs)
        return self.last_loss


class AtTheGate(TrainerCallback):  # type: ignore[misc,no-any-unimported]
    """Calls the gate after every step."""

    def __init__(self, gate: Gate):
        self.gate = gate
        self.trainer: Reporting | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.trainer is not None
        if not self.gate.step(self.trainer.last_loss):
            control.should_training_stop = True


def train(job: Job, workload: Workload, model: nn.Module, gate: Gate) -> None:
    """``job.batching``: padded, max_length, or bucketed, which Trainer calls group_by_length.

    Its argument tf32 is not given: the worker has set the matmul precision, and torch refuses to be told in two ways.
    """
    tuned: dict[str, Any] = {"logging_nan_inf_filter": False, "disable_tqdm": True} if job.tuned else {}
    if job.fused:
        tuned["optim"] = "adamw_torch_fused"
    if job.batching == "bucketed" and not job.precollated:
        tuned["train_sampling_strategy"] = "group_by_length"
    if job.precollated:
        tuned["accelerator_config"] = {"non_blocking": True}
    if job.compile and job.tuned:
        os.environ["ACCELERATE_DYNAMO_USE_DYNAMIC"] = "true"  # one graph for all lengths at once, not after a first one
    callback = AtTheGate(gate)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=job.num_steps, per_device_train_batch_size=job.batch_size, learning_rate=job.learning_rate,
            weight_decay=job.weight_decay, max_grad_norm=job.max_grad_norm, seed=job.seed, use_cpu=gate.device.type == "cpu",
            bf16=job.precision == "bf16", torch_compile=job.compile, save_strategy="no", report_to=[],
            remove_unused_columns=False,  # the column "row", by which the gate knows examples, has to reach the collator
            **tuned,
        )  # fmt: skip
        trainer = Reporting(
            model, arguments, train_dataset=Features(workload), data_collator=gate.watched(collator(job)), callbacks=[callback]
        )
        callback.trainer = trainer
        trainer.ready = ready_loader(job, workload, gate) if job.precollated else None
        trainer.train()

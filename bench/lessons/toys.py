"""What the experiments are made of: small models with random weights, random rows, a silent Trainer, our loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from bench.contest.pictures import COLOURS
from bench.contest.workload import TokenTask, Workload, padding_tokenizer
from engine.build import Setup, build
from engine.config import TrainConfig
from engine.data.batch import Batch
from engine.data.collate import Layout, arrange, per_token
from engine.data.plan import Position
from engine.distributed.world import World
from engine.loop import train_step
from engine.state import StepRecord
from engine.task import Task

Rows = Sequence[dict[str, Any]]
MAX_LENGTH = 64
SIZE: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": MAX_LENGTH, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip


def bert(num_labels: int = 2, *, dropout: float = 0.0) -> BertForSequenceClassification:
    """2 layers of width 32, with weights of a size that learns."""
    torch.manual_seed(0)
    config = BertConfig(**SIZE, num_labels=num_labels, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    return BertForSequenceClassification(config)


def llama() -> LlamaForCausalLM:
    """A language model of the same size."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZE))


def gpt2() -> GPT2LMHeadModel:
    """Another, whose class is called otherwise."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**SIZE, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=1))


def features(workload: Workload) -> list[dict[str, Any]]:
    """Rows as a tokenizer hands them to Trainer."""
    ids = np.split(workload.ids, workload.offsets[1:-1])
    return [{"input_ids": row.tolist(), "labels": int(label)} for row, label in zip(ids, workload.labels, strict=True)]


def make_trainer(
    model: nn.Module, rows: Any, folder: str, *, callbacks: Sequence[Any] = (), evaluation: Any = None, collate: Any = None,
    compute_metrics: Any = None, kind: type[Trainer] = Trainer, **arguments: Any,
) -> Trainer:  # fmt: skip
    """Trainer with its defaults, but on the CPU, with a log line for each step, and silent."""
    quiet = {"use_cpu": True, "logging_steps": 1, "save_strategy": "no", "report_to": [], "disable_tqdm": True}
    trainer = kind(
        model, TrainingArguments(folder, **(quiet | arguments)), train_dataset=rows, eval_dataset=evaluation,
        data_collator=collate, processing_class=padding_tokenizer(), callbacks=list(callbacks), compute_metrics=compute_metrics,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def steps_logged(trainer: Trainer) -> list[dict[str, Any]]:
    """Trainer's log lines of training steps."""
    return [line for line in trainer.state.log_history if "grad_norm" in line]


def set_up(
    model: nn.Module | None,
    workload: Workload,
    *,
    task: Task[Any] | None = None,
    examples: Any = None,
    world: World | None = None,
    **settings: Any,
) -> tuple[Setup, Task[Any]]:
    """Our run, put together: on the CPU in float32, padded."""
    plain: dict[str, Any] = {"device": "cpu", "precision": "fp32", "batching": "padded", "epochs": 1}
    task = task or Classes(workload)
    return build(task, examples or workload.examples(), TrainConfig(**(plain | settings)), model, world), task


def our_steps(setup: Setup, task: Task[Any], start: int = 0) -> Iterator[tuple[Position, list[Batch], StepRecord]]:
    """Our training, step by step."""
    setup.state.model.train()
    for at, micro_batches in setup.data.steps(start):
        yield at, micro_batches, train_step(setup.state, task, micro_batches, setup.data.config, setup.world)


class NoMetrics:
    """The loss alone."""

    names: tuple[str, ...] = ()
    lower_is_better: tuple[str, ...] = ()

    def update(self, model: nn.Module, outputs: Any, batch: Batch) -> None:
        """Nothing to keep."""

    def compute(self) -> dict[str, float]:
        return {}

    def sync(self, world: World) -> None:
        """Nothing to add up."""


class Classes(TokenTask):
    """Cross-entropy over classes; the toys' own task."""

    def __init__(self, workload: Workload, max_length: int = MAX_LENGTH):
        super().__init__(workload, max_length)

    def metrics(self, split: str) -> NoMetrics:
        return NoMetrics()


class NextToken(Classes):
    """Predict each next token; an item is a token that has one before it."""

    def collate(self, rows: Sequence[dict[str, Any]], layout: Layout) -> Batch:
        inputs, counts = arrange(rows, layout, self.padding)
        labels = per_token([row["input_ids"] for row in rows], layout, -100)
        return Batch(inputs=inputs, targets={"labels": labels}, num_items=int((labels[:, 1:] != -100).sum()), **counts)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return next_token_loss(outputs.logits, batch.targets["labels"], "sum")


def next_token_loss(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
    """Logits [B, T, V] against labels [B, T], each position predicting the token behind it."""
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), reduction=reduction, ignore_index=-100
    )


def pad_labels(rows: Rows) -> dict[str, Tensor]:
    """The usual collator of a language model: tokens padded with 0, labels with -100."""
    arrays = [np.asarray(row["input_ids"]) for row in rows]
    ids, labels = (per_token(arrays, Layout(), fill) for fill in (0, -100))
    return {"input_ids": ids, "attention_mask": (labels != -100).long(), "labels": labels}


def parameters_of(model: nn.Module) -> Tensor:
    """All weights end to end, copied."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()


# ------------------------------------------------------------------------------------------------- tables and pictures

Series = Mapping[str, Sequence[float]]


def in_columns(corner: str, keys: Sequence[Any], series: Series, form: str = "{:.6f}") -> list[list[str]]:
    """A table with a row for each key and a column for each series."""
    columns = zip(*series.values(), strict=True)
    rows = [[str(key), *(form.format(value) for value in values)] for key, values in zip(keys, columns, strict=True)]
    return [[corner, *series], *rows]


def grouped_bars(axes: Any, groups: Sequence[str], series: Series, colours: Sequence[str], form: str = "{:.3g}") -> None:
    """A bar for each series in each group, with its value above."""
    width = 0.8 / len(series)
    for k, ((name, values), colour) in enumerate(zip(series.items(), colours, strict=False)):
        at = [i + (k - (len(series) - 1) / 2) * width for i in range(len(groups))]
        axes.bar(at, values, width * 0.92, label=name, color=colour)
        for x, value in zip(at, values, strict=True):
            axes.text(x, value, form.format(value), ha="center", va="bottom", fontsize=9)
    axes.set_xticks(range(len(groups)), groups)
    axes.margins(y=0.12)
    if len(series) > 1:
        axes.legend(frameon=False)


def lines(axes: Any, at: Sequence[int], series: Series, styles: Sequence[tuple[int, str, str]]) -> None:
    """A line for each series over a logarithmic axis of sizes; a style is (colour, marker, line style)."""
    for (name, values), (colour, mark, style) in zip(series.items(), styles, strict=True):
        axes.plot(at, values, style, color=COLOURS[colour], marker=mark, markersize=9, linewidth=2, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(at, [str(n) for n in at])
    axes.minorticks_off()
    axes.legend(frameon=False)

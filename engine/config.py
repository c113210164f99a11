"""The engine's settings: ``TrainConfig``. Each field is a flag of ``python run.py --task ...``, and a parameter in Python.

This module must not import torch. Next: settings/fields.py, what a setting knows of itself; settings/parser.py.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Literal

from engine.errors import UsageError
from engine.schedule import SCHEDULES, check_schedule
from engine.settings.fields import most_workers, require, setting


@dataclass(frozen=True)
class TrainConfig:
    """The engine's settings. Defaults are those of the well-known tutorials; see docs/from-trainer.md.

    Raises UsageError with the rule and the value found.
    """

    task: str | None = setting(None, "what to learn: a task's name, or FILE.py:CLASS", heading="steps")
    batch_size: int = setting(16, "examples per micro-batch, over all devices", in_card=True)
    eval_batch_size: int = setting(
        32, "examples per evaluation batch; changes speed only, never a result", changes_weights=False
    )
    tokens_per_batch: int | None = setting(
        None, "tokens per micro-batch, padding included: as many examples as fit, in place of --batch-size"
    )
    accumulation_steps: int = setting(1, "micro-batches per optimizer step", in_card=True)
    epochs: int = setting(3, "passes over the training data", in_card=True)
    max_steps: int | None = setting(None, "optimizer steps in all; overrides --epochs")
    max_minutes: float | None = setting(
        None, "save and stop in time to be done after so many minutes; --resume continues", local=True
    )
    optimizer: Literal["adamw", "sgd", "adafactor", "muon"] = setting(
        "adamw",
        "those of torch.optim; muon takes the matrices of the transformer blocks, and AdamW all else",
        heading="optimizer and learning rates",
    )
    adam_beta1: float = setting(0.9, "AdamW's decay of its average of gradients")
    adam_beta2: float = setting(0.999, "AdamW's decay of its average of squared gradients")
    adam_eps: float = setting(1e-8, "AdamW adds it to what it divides by")
    momentum: float | None = setting(None, "of sgd (default: 0) or muon (default: 0.95)")
    learning_rate: float = setting(2e-5, "peak learning rate", in_card=True)
    head_learning_rate: float | None = setting(None, "peak rate of what stands outside the model's body; default: the same")
    layer_decay: float | None = setting(
        None, "each transformer block has the learning rate of the one above it, times this; the head has all of it"
    )
    ema_decay: float | None = setting(
        None, "evaluate and save a moving average of the weights: after each step, so much of it and the rest of them"
    )
    freeze: str | None = setting(
        None, "regular expression: parameters whose name it finds are not trained", heading="what is trained"
    )
    reinit_layers: int = setting(0, "give so many of the last transformer blocks fresh weights before training")
    classifier_dropout: float | None = setting(
        None, "dropout of what stands outside the model's body, the classifier; default: the model's own"
    )
    lora: bool = setting(False, "train small matrices beside the frozen body (peft); wants a higher rate, such as 5e-4")
    lora_rank: int = setting(8, "rank of these matrices")
    lora_alpha: int = setting(16, "their product is scaled by this number over the rank")
    lora_dropout: float = setting(0.1, "dropout in front of them")
    lora_targets: str | None = setting(
        None, "modules that get them: names, comma-separated, or all-linear; default: peft's choice"
    )
    lora_merge: bool = setting(False, "save an ordinary model in place of an adapter")
    weight_decay: float = setting(
        0.01,
        "decoupled, but in sgd part of the gradient; never of biases and norms",
        in_card=True,
        heading="decay, schedule and clipping",
    )
    warmup_ratio: float = setting(0.0, "share of all steps in which the learning rate rises from 0 to its peak", in_card=True)
    warmup_steps: int | None = setting(None, "the same as a number of steps, in place of --warmup-ratio")
    schedule: str = setting("linear", f"what the learning rate does after warm-up: {', '.join(SCHEDULES)}", in_card=True)
    schedule_options: str | None = setting(
        None, "of that schedule in transformers: NAME=NUMBER, comma-separated, such as num_cycles=3 or power=2"
    )
    min_learning_rate: float | None = setting(None, "where the schedule ends, in place of 0")
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this 2-norm; inf turns clipping off", in_card=True)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        "autocast; auto: bf16 (or fp16) on CUDA, bf16 on a CPU that computes in it, else fp32",
        in_card=True,
        heading="speed, memory and devices",
    )
    batching: Literal["auto", "packed", "bucketed", "padded", "max_length"] = setting(
        "auto",
        "packed: rows end to end, next to no padding; padded: each batch to its longest row; bucketed: padded, but rows of "
        "like length meet (changes which examples share a step); max_length: every batch to --max-length, as the tutorials "
        "do; auto: packed where that is the same as padded, which is checked, else padded",
        in_card=True,
    )
    compile: bool = setting(False, "torch.compile, one graph for all lengths; worth its minutes on a GPU")
    cuda_graph: Literal["auto", "on", "off"] = setting(
        "auto", "record forward and backward pass as CUDA graphs; auto: for small packed batches on one GPU"
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps", local=True)
    shard: bool = setting(
        False,
        "spread weights, gradients and the optimizer's state over the ranks (FSDP2); needs torchrun",
        changes_weights=False,
    )
    gradient_checkpointing: bool = setting(
        False, "recompute activations in the backward pass: less memory, a third more work", changes_weights=False
    )
    find_unused_parameters: bool = setting(
        False, "several ranks: allow that a step gives some parameters no gradient", changes_weights=False
    )
    log_ranks: bool = setting(False, "several ranks: log the throughput and the phases of each, too", changes_weights=False)
    rank_timeout: float = setting(
        300.0, "seconds that ranks wait for each other in a step before the run ends", changes_weights=False
    )
    workers: int = setting(0, "processes that load data, for each rank", local=True)
    seed: int = setting(42, "of the new head, the order of the examples and dropout", in_card=True)
    deterministic: bool = setting(False, "only deterministic kernels; slower on a GPU")
    log_steps: int = setting(10, "steps between two log lines", changes_weights=False, heading="logs, evaluation, checkpoints")
    eval_steps: int = setting(0, "steps between two evaluations; 0: at the end of each epoch", needs_evaluation=True)
    save_steps: int = setting(0, "steps between two checkpoints; 0: at the end of each epoch", changes_weights=False)
    keep_checkpoints: int | str = setting(
        2,
        "newest checkpoints kept, beside the best one; at least two: one may turn out damaged. best: the newest and the best",
        changes_weights=False,
    )
    async_save: bool = setting(
        False, "write checkpoints while training goes on, from a copy of the state in memory", changes_weights=False
    )
    best_metric: str | None = setting(
        None, "what makes a model the best; default: the task's own choice", needs_evaluation=True
    )
    patience: int | None = setting(
        None, "stop after this many evaluations without a better one; default: never", needs_evaluation=True
    )
    output_dir: str | None = setting(
        None, "the finished model, its checkpoints and logs; default: runs/TASK", local=True, heading="the run"
    )
    resume: bool = setting(False, "continue from the newest checkpoint in the output directory, or start", local=True)
    overwrite: bool = setting(False, "remove an earlier run from the output directory first", local=True)
    push_to_hub: str | None = setting(
        None, "push the finished run to this private repository of the Hub: NAME or ORG/NAME", local=True
    )
    explain: bool = setting(
        False,
        "print what this run would do, cost and take, from the plan and a few tried steps, and end",
        local=True,
    )
    profile: int | None = setting(
        None, "look closely at so many steps: a trace, the hottest operations, memory; in profile/", local=True
    )
    write_to: str | None = setting(
        None,
        "write the log lines elsewhere, too: tensorboard, wandb, trackio, a writer of your own as FILE.py:CLASS, or several, "
        "comma-separated",
        local=True,
    )
    debug: bool = setting(False, "show tracebacks of errors that have a one-line form", local=True)

    def __post_init__(self) -> None:
        for name in ("batch_size", "eval_batch_size", "accumulation_steps", "epochs", "log_steps", "lora_rank", "lora_alpha"):
            require(self, name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("workers", "eval_steps", "save_steps"):
            require(self, name, getattr(self, name) >= 0, "must not be negative")
        for name in ("max_steps", "patience", "tokens_per_batch", "profile"):
            require(self, name, getattr(self, name) is None or getattr(self, name) >= 1, "must be at least 1")
        minutes = self.max_minutes
        require(self, "max_minutes", minutes is None or 0 < minutes < math.inf, "must be a positive number of minutes")
        require(self, "workers", self.workers <= most_workers(), f"must be at most {most_workers()} on this machine")
        require(self, "rank_timeout", 1 <= self.rank_timeout < math.inf, "must be a finite number of at least 1")
        keep = self.keep_checkpoints
        is_kept = keep == "best" if isinstance(keep, str) else keep >= 1
        require(self, "keep_checkpoints", is_kept, "must be a number of at least 1, or the word best")
        require(self, "learning_rate", 0 < self.learning_rate < math.inf, "must be a positive finite number")
        require(self, "lora_dropout", 0 <= self.lora_dropout < 1, "must be at least 0 and less than 1")
        for field in dataclasses.fields(self):
            if field.name.startswith("lora_") and getattr(self, field.name) != field.default and not self.lora:
                raise UsageError(f"--{field.name.replace('_', '-')} needs --lora")
        check_optimizer(self)
        check_schedule(self)
        head = self.head_learning_rate
        require(self, "head_learning_rate", head is None or 0 < head < math.inf, "must be a positive finite number")
        try:
            re.compile(self.freeze or "")
        except re.error as error:
            raise UsageError(f"--freeze {self.freeze} is no regular expression: {error}") from error
        require(self, "weight_decay", 0 <= self.weight_decay < math.inf, "must be a finite number of at least 0")
        require(self, "warmup_ratio", 0 <= self.warmup_ratio < 1, "must be at least 0 and less than 1")
        require(self, "max_grad_norm", self.max_grad_norm > 0, "must be positive (inf turns clipping off)")
        require(self, "seed", 0 <= self.seed < 2**32, "must be at least 0 and less than 2**32")
        if self.shard and self.lora:
            raise UsageError("--shard spreads what is trained, of which --lora leaves little: give one of them")
        if self.shard and self.find_unused_parameters:
            raise UsageError("--find-unused-parameters is for DDP, --shard needs no such search: leave it out")
        if self.resume and self.overwrite:
            raise UsageError("--resume and --overwrite contradict each other: give one of them")


def check_optimizer(config: TrainConfig) -> None:
    """Raises UsageError for settings that do not go together, or would have no effect."""
    name, momentum = config.optimizer, config.momentum
    for beta in ("adam_beta1", "adam_beta2"):
        require(config, beta, 0 <= getattr(config, beta) < 1, "must be at least 0 and less than 1")
    require(config, "adam_eps", 0 < config.adam_eps < math.inf, "must be a positive finite number")
    require(config, "momentum", momentum is None or 0 <= momentum < 1, "must be at least 0 and less than 1")
    require(config, "reinit_layers", config.reinit_layers >= 0, "must not be negative")
    dropout = config.classifier_dropout
    require(config, "classifier_dropout", dropout is None or 0 <= dropout < 1, "must be at least 0 and less than 1")
    require(config, "layer_decay", config.layer_decay is None or 0 < config.layer_decay <= 1, "must be above 0 and at most 1")
    require(config, "ema_decay", config.ema_decay is None or 0 <= config.ema_decay < 1, "must be at least 0 and less than 1")
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for flag in ("adam_beta1", "adam_beta2", "adam_eps"):
        if name not in ("adamw", "muon") and getattr(config, flag) != defaults[flag]:
            raise UsageError(f"--{flag.replace('_', '-')} is AdamW's, and --optimizer {name} has none: leave one of them out")
    if momentum is not None and name not in ("sgd", "muon"):
        raise UsageError(f"--momentum is of sgd and muon, and --optimizer {name} has none: leave it out")
    if config.shard and name not in ("adamw", "sgd"):
        raise UsageError(f"--optimizer {name} needs whole matrices, which --shard takes apart: use adamw or sgd, or no --shard")

"""The same run as a Plainloop command, and what of it has no flag, with the reasons of engine/settings/hints.py."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.xray.arguments import Arguments
from bench.xray.case import Case
from bench.xray.model import kind_of
from bench.xray.numbers import NO_WARMUP
from bench.xray.script import Unknown
from engine.config import TrainConfig
from engine.schedule import FLAT, MINIMA, SCHEDULES
from engine.settings.hints import hint
from tasks import TASKS
from tasks.options import DEFAULTS

OF_KIND = {  # classes that are built on TrainingArguments: our task
    "SFTConfig": "sft", "DPOConfig": "dpo", "RewardConfig": "reward", "SentenceTransformerTrainingArguments": "embeddings",
    "CrossEncoderTrainingArguments": "reranker",
}  # fmt: skip
SMOOTHED = ("classification", "image-classification", "ner", "TASK")  # tasks that have --label-smoothing
NO_TASK = "no task here trains it; one of your own does: --task FILE.py:CLASS (docs/your-own-task.md)"
IN_SILENCE = frozenset({  # settings of no weight here: what they are about is said elsewhere in the answer, or by the flags
    "do_train", "do_eval", "do_predict", "disable_tqdm", "log_level", "run_name", "greater_is_better", "hub_model_id",
    "hub_private_repo", "hub_token", "push_to_hub_model_id", "predict_with_generate", "generation_max_length",
    "generation_num_beams",
})  # fmt: skip


@dataclass
class Command:
    """``flags`` in order; ``left``: what has no flag, or means something else here, as (name, why).

    ``usual``: the values that settings have anyway with this task; one that is not in it is always written down.
    """

    launcher: str = "python run.py"
    usual: dict[str, Any] = field(default_factory=dict)
    flags: list[tuple[str, str]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)

    def add(self, flag: str, value: Any = "") -> None:
        """A flag, unless its value is what it has anyway."""
        name = flag.replace("-", "_")
        if name not in self.usual or value != self.usual[name]:
            self.flags.append((flag, value if isinstance(value, str) else plain(value)))

    @property
    def argv(self) -> list[str]:
        """Behind ``run.py``."""
        return [part for flag, value in self.flags for part in (f"--{flag}", value) if part]

    @property
    def text(self) -> str:
        return f"{self.launcher} {shlex.join(self.argv)}"


def plain(value: Any) -> str:
    """A number as a person writes it: 2e-05, 16, inf."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def translate(case: Case, *, model: str = "", data: str = "") -> Command:
    """``model``, ``data``: as they were given to the command."""
    command, handled = Command(), set(IN_SILENCE)
    if case.numbers.world > 1:
        command.launcher = f"torchrun --nproc-per-node {case.numbers.world} run.py"
    start(case, command, model=model, data=data)
    for names, translated in PARTS:
        handled |= set(names)
        unknown = [name for name in names if isinstance(case.arguments.get(name), Unknown)]
        for name in unknown:
            if name in case.arguments.values:
                command.left.append((name, f"its value is not known from the file: {case.arguments.get(name)}"))
        translated(case, command)
    for name, value in case.arguments.values.items():
        if name in handled or value == (case.arguments.defaults or {}).get(name, case):
            continue
        why = hint(name) or f"an argument of {case.arguments.kind} alone, which is not looked at"
        command.left.append((name, why))
    if case.has_own_optimizer:
        command.left.append(("optimizers", "the script's own are not looked at; the flags are those of these arguments"))
    if case.clues.quantised:
        command.left.append(("4 or 8 bits", "not yet: weights are float32 here"))
    return command


def start(case: Case, command: Command, *, model: str, data: str) -> None:
    """Task, model, data, output."""
    name = case.model.name if case.model is not None else case.clues.model_class
    task = (
        OF_KIND.get(case.arguments.kind)
        or OF_KIND.get(case.clues.trainer.replace("Trainer", "Config"))
        or kind_of(name)[0]
        or "TASK"
    )
    command.usual = usual_of(task)
    command.add("task", task)
    if name and task == "TASK":
        command.left.append((name, NO_TASK))
    if chosen := model or case.clues.checkpoint:
        command.add("model", chosen)
    command.add("train-file", data or "TRAIN.csv")
    if case.arguments.text("eval_strategy") in ("steps", "epoch"):
        command.add("eval-file", "EVAL.csv")
    if (folder := case.arguments.text("output_dir")) is not None:
        command.add("output-dir", folder)
    if case.clues.lora is not None:
        command.add("lora")
        of_peft = {
            "r": ("lora-rank", 8),
            "lora_alpha": ("lora-alpha", 8),
            "lora_dropout": ("lora-dropout", 0.0),
        }  # its defaults
        for given, (flag, default) in of_peft.items():
            value = case.clues.lora.get(given, default)
            if isinstance(value, Unknown):
                command.left.append((given, f"its value is not known from the file: {value}"))
            else:
                command.add(flag, value)


def usual_of(task: str) -> dict[str, Any]:
    """The values that our settings have unless a flag says otherwise; without those that depend on a task not known."""
    usual = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    if task in DEFAULTS or task in TASKS:
        return usual | dict(DEFAULTS.get(task, {}))
    depends = {name for defaults in DEFAULTS.values() for name in defaults}
    return {name: value for name, value in usual.items() if name not in depends}


def batch(case: Case, command: Command) -> None:
    n = case.numbers
    if n.per_device is not None:
        command.add("batch-size", n.per_device * n.world)
    if n.accumulation is not None:
        command.add("accumulation-steps", n.accumulation)
    if (size := case.arguments.whole("per_device_eval_batch_size")) is not None:
        command.add("eval-batch-size", size * n.world)


def steps(case: Case, command: Command) -> None:
    n, epochs = case.numbers, case.arguments.number("num_train_epochs")
    if n.max_steps is not None:
        command.add("max-steps", n.max_steps)
    elif epochs is not None and epochs == int(epochs) and epochs >= 1:
        command.add("epochs", int(epochs))
    elif epochs is not None and n.num_steps is not None:
        command.add("max-steps", n.num_steps)
    elif epochs is not None:
        command.left.append(("num_train_epochs", f"{epochs:g} is no whole number: --num-rows tells the steps, for --max-steps"))


def rate(case: Case, command: Command) -> None:
    a, n = case.arguments, case.numbers
    if (peak := a.number("learning_rate")) is not None:
        command.add("learning-rate", peak)
    if n.schedule is not None and n.schedule not in SCHEDULES:
        command.left.append(("lr_scheduler_type", f"{n.schedule}: {hint('lr_scheduler_type')}"))
    elif n.schedule is not None:
        command.add("schedule", n.schedule)
    if n.asked_warmup is not None and n.asked_warmup >= 1 and n.schedule not in NO_WARMUP:
        command.add("warmup-steps", int(n.asked_warmup))
        command.add("warmup-ratio", 0.0)
    elif n.asked_warmup is not None or n.schedule in NO_WARMUP:
        command.add("warmup-ratio", 0.0 if n.schedule in NO_WARMUP else n.asked_warmup)
    options = a.get("lr_scheduler_kwargs")
    options = json.loads(options) if isinstance(options, str) and options.startswith("{") else options
    if isinstance(options, Mapping) and options and n.schedule not in FLAT:
        for name, value in options.items():
            if name == "min_lr_rate" and peak is not None:
                command.add("min-learning-rate", value * peak)
            elif name in MINIMA:
                command.add("min-learning-rate", value * (peak or 1.0) if name == "min_lr_ratio" else value)
        others = ",".join(f"{name}={value}" for name, value in options.items() if name not in MINIMA)
        if others:
            command.add("schedule-options", others)


def optimizer(case: Case, command: Command) -> None:
    a = case.arguments
    name, options = a.text("optim"), a.text("optim_args")
    if (decay := a.number("weight_decay")) is not None:
        command.add("weight-decay", decay)
    if name == "sgd":
        command.add("optimizer", "sgd")
        if options and options.startswith("momentum="):
            command.add("momentum", options.removeprefix("momentum="))
    elif name is not None and name not in ("adamw_torch", "adamw_torch_fused", "adamw_hf"):
        command.left.append(("optim", f"{name} is not among ours, so the command takes AdamW: {hint('optim')}"))
    if name != "sgd":
        for theirs, ours in (("adam_beta1", "adam_beta1"), ("adam_beta2", "adam_beta2"), ("adam_epsilon", "adam_eps")):
            if (value := a.number(theirs)) is not None:
                command.add(ours.replace("_", "-"), value)
    if (clip := a.number("max_grad_norm")) is not None:
        command.add("max-grad-norm", clip if clip else float("inf"))


def loss(case: Case, command: Command) -> None:
    smoothing = case.arguments.number("label_smoothing_factor")
    if smoothing and dict(command.flags)["task"] in SMOOTHED:
        command.add("label-smoothing", smoothing)
    elif smoothing:
        command.left.append(("label_smoothing_factor", "this task has no --label-smoothing"))


def machine(case: Case, command: Command) -> None:
    a = case.arguments
    fp16, bf16 = a.truth("fp16"), a.truth("bf16")
    if fp16 is not None and bf16 is not None:
        command.add("precision", "bf16" if bf16 else "fp16" if fp16 else "fp32")
    switches = (("use_cpu", "device", "cpu"), ("torch_compile", "compile", ""), ("full_determinism", "deterministic", ""))
    for name, flag, value in switches:
        if a.truth(name):
            command.add(flag, value)
    if a.truth("gradient_checkpointing") or (
        a.defaults and "activation_checkpointing" in a.defaults and a.truth("activation_checkpointing")
    ):
        command.add("gradient-checkpointing")
    for name in ("fsdp", "deepspeed"):
        if a.values.get(name):
            command.add("shard") if ("shard", "") not in command.flags else None
            command.left.append((name, f"--shard takes its place: {hint(name)}"))
    if workers := a.whole("dataloader_num_workers", least=0):
        command.add("workers", workers)
    if (seed := a.whole("seed", least=0)) is not None:
        command.add("seed", seed)
    if a.get("data_seed") not in (None, a.get("seed")):
        command.left.append(("data_seed", str(hint("data_seed")).removeprefix("not needed: ")))


def batching(case: Case, command: Command) -> None:
    a, clues = case.arguments, case.clues
    sampling = a.text("train_sampling_strategy")
    if sampling == "group_by_length":
        command.add("batching", "bucketed")
    elif clues.pads_to_max_length:
        command.add("batching", "max_length")
        if clues.max_length:
            command.add("max-length", clues.max_length)
    else:
        command.add("batching", "padded")
    if sampling not in (None, "random", "group_by_length"):
        command.left.append(("train_sampling_strategy", f"{sampling}: not yet"))
    if a.truth("dataloader_drop_last"):
        command.left.append(
            ("dataloader_drop_last", "the rows that Trainer drops are trained on here: a short batch counts by its items")
        )


def logs(case: Case, command: Command) -> None:
    a, n = case.arguments, case.numbers
    if a.text("logging_strategy") == "steps" and (every := n.every("logging")):
        command.add("log-steps", every)
    elif a.text("logging_strategy") in ("epoch", "no"):
        command.left.append(("logging_strategy", "a line every --log-steps 10 steps and at the end of each epoch"))
    writers = a.get("report_to")
    writers = [writers] if isinstance(writers, str) else writers or []
    known = [name for name in writers if name in ("tensorboard", "wandb", "trackio")] if isinstance(writers, list) else []
    if known:
        command.add("write-to", ",".join(known))
    if isinstance(writers, list) and (others := [str(name) for name in writers if name not in (*known, "none", "all")]):
        command.left.append(("report_to", f"{', '.join(others)}: a writer of your own, --write-to FILE.py:CLASS"))


def evaluation(case: Case, command: Command) -> None:
    a, n = case.arguments, case.numbers
    strategy = a.text("eval_strategy")
    if strategy == "steps" and (every := n.every("eval")):
        command.add("eval-steps", every)
    if a.truth("load_best_model_at_end") is False and strategy in ("steps", "epoch"):
        command.left.append(
            ("load_best_model_at_end", "False: with evaluation data the finished model here is the best one, not the last")
        )
    name = a.text("metric_for_best_model")
    if name is not None and strategy in ("steps", "epoch"):
        command.add("best-metric", name.removeprefix("eval_"))


def saving(case: Case, command: Command) -> None:
    a, n = case.arguments, case.numbers
    strategy, limit = a.text("save_strategy"), a.number("save_total_limit")
    if strategy == "steps" and (every := n.every("save")):
        command.add("save-steps", every)
    elif strategy in ("no", "best"):
        command.left.append(
            ("save_strategy", f"{strategy}: a checkpoint is written at the end of each epoch all the same, for --resume")
        )
    if limit is not None:
        command.add("keep-checkpoints", max(int(limit), 1))
    elif strategy in ("steps", "epoch") and "save_total_limit" not in a.values:
        command.left.append(
            ("save_total_limit", "not given: Trainer keeps every checkpoint, here the newest two and the best one stay")
        )
    if a.truth("push_to_hub"):
        name = a.get("hub_model_id")
        if isinstance(name, str):
            command.add("push-to-hub", name)
        else:
            command.left.append(("push_to_hub", "--push-to-hub NAME: private, when the run is finished"))


PARTS: tuple[tuple[tuple[str, ...], Callable[[Case, Command], None]], ...] = (  # arguments, and what becomes of them
    (("per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size", "output_dir"), batch),
    (("num_train_epochs", "max_steps"), steps),
    (("learning_rate", "lr_scheduler_type", "warmup_steps", "lr_scheduler_kwargs"), rate),
    (("weight_decay", "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"), optimizer),
    (("label_smoothing_factor",), loss),
    (("fp16", "bf16", "use_cpu", "torch_compile", "full_determinism", "gradient_checkpointing", "activation_checkpointing",
      "seed", "data_seed", "fsdp", "deepspeed", "dataloader_num_workers", "tf32"), machine),
    (("train_sampling_strategy", "dataloader_drop_last"), batching),
    (("logging_strategy", "logging_steps", "report_to"), logs),
    (("eval_strategy", "eval_steps", "load_best_model_at_end", "metric_for_best_model"), evaluation),
    (("save_strategy", "save_steps", "save_total_limit", "push_to_hub"), saving),
)  # fmt: skip


def differences(arguments: Arguments) -> list[tuple[str, Any, Any]]:
    """Defaults of ours that differ from Trainer's, of arguments that were not given: (name here, theirs, ours)."""
    ours = TrainConfig()
    names = {
        "learning_rate": "learning_rate", "per_device_train_batch_size": "batch_size", "weight_decay": "weight_decay",
        "per_device_eval_batch_size": "eval_batch_size", "logging_steps": "log_steps",
    }  # fmt: skip
    return [
        (theirs, arguments.get(theirs), getattr(ours, name)) for theirs, name in names.items()
        if theirs not in arguments.values and not isinstance(arguments.get(theirs), Unknown)
        and arguments.get(theirs) != getattr(ours, name)
    ]  # fmt: skip

"""What a run is told: the engine's settings, and the parser that turns dataclasses into flags.

Every setting is a field of a dataclass: its name is the flag, its type the check, its metadata the help. Precedence:
default < the task's defaults < ``--config FILE`` < command line. This module must not import torch: ``--help`` has to
answer at once. Next: plan.py.

The parser is transformers' HfArgumentParser. jsonargparse 4.53, tyro 1.0.17 and cyclopts 5.5.2 were tried against the table
of bad inputs, and each loses something: jsonargparse takes the last of a flag given twice and an abbreviation, and no bare
``--resume``; tyro takes the last, too, and reads ``--resume=no`` as true; cyclopts takes ``--batch-size 1.5`` for 2. None has
one-line errors, and none would take the place of more than 60 of the lines below.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
import os
import re
import sys
import tomllib
from argparse import ArgumentParser, HelpFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn

from engine.errors import UsageError, is_main_process, one_line
from engine.hints import hint
from engine.settings_file import SettingsFile, TwiceError, from_yaml, is_run, kind_of, save_settings, usable

SCHEDULES = (  # transformers' SchedulerType, but for those that follow a metric
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
)  # fmt: skip
FLAT = ("constant", "constant_with_warmup")
MINIMA = ("min_lr", "min_lr_rate", "min_lr_ratio", "lr_end")  # what transformers calls --min-learning-rate


@dataclass(frozen=True)
class Traits:
    """What a setting is to a run, beside its value. The defaults are the safe side: an unknown setting changes the weights.

    ``changes_weights``: other finished weights may come out, so a run is not resumed, nor taken for finished, with another
    value. ``local``: it is about this machine or this start, and no part of how the model came about. ``in_card``: the model
    card always shows it. ``needs_evaluation``: to set it asks for evaluation data. ``replaces_run``: of a command; where it
    is given, it replaces the setting of that name of the finished run.
    """

    changes_weights: bool = True
    local: bool = False
    in_card: bool = False
    needs_evaluation: bool = False
    replaces_run: bool = False

    def __post_init__(self) -> None:
        assert not (self.local and self.changes_weights), "what is local cannot change the weights"


def setting(
    default: Any,
    help: str,
    *,
    changes_weights: bool = True,
    local: bool = False,
    in_card: bool = False,
    needs_evaluation: bool = False,
    replaces_run: bool = False,
) -> Any:
    """A dataclass field with its help text and its Traits. A list or tuple as the default: each instance gets its own list."""
    traits = Traits(changes_weights and not local, local, in_card, needs_evaluation, replaces_run)
    metadata = {"help": help, "traits": traits}
    if isinstance(default, list | tuple):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def traits_of(field: dataclasses.Field[Any]) -> Traits:
    """Those of a plain dataclass field, which a task of one's own may have, are the safe ones."""
    traits: Traits = field.metadata.get("traits", Traits())
    return traits


def settings_where(test: Callable[[Traits], bool], *kinds: type[Any]) -> list[str]:
    """The names of the settings of these dataclasses whose traits pass ``test``, in the order of the fields."""
    return [field.name for kind in kinds for field in dataclasses.fields(kind) if test(traits_of(field))]


@dataclass(frozen=True)
class TrainConfig:
    """The engine's settings. Defaults are those of the well-known tutorials; see docs/from-trainer.md.

    Raises UsageError with the rule and the value found.
    """

    task: str | None = setting(None, "what to learn: a task's name, or FILE.py:CLASS")
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
        "adamw", "those of torch.optim; muon takes the matrices of the transformer blocks, and AdamW all else"
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
    freeze: str | None = setting(None, "regular expression: parameters whose name it finds are not trained")
    lora: bool = setting(False, "train small matrices beside the frozen body (peft); wants a higher rate, such as 5e-4")
    lora_rank: int = setting(8, "rank of these matrices")
    lora_alpha: int = setting(16, "their product is scaled by this number over the rank")
    lora_dropout: float = setting(0.1, "dropout in front of them")
    lora_targets: str | None = setting(
        None, "modules that get them: names, comma-separated, or all-linear; default: peft's choice"
    )
    lora_merge: bool = setting(False, "save an ordinary model in place of an adapter")
    weight_decay: float = setting(0.01, "decoupled, but in sgd part of the gradient; never of biases and norms", in_card=True)
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
    )
    batching: Literal["auto", "packed", "bucketed", "padded", "max_length"] = setting(
        "auto",
        "packed: rows end to end, no padding; padded: each batch to its longest row; bucketed: padded, but rows of like "
        "length meet (changes which examples share a step); max_length: every batch to --max-length, as the tutorials "
        "do; auto: packed where that is the same as padded, which is checked, else padded",
        in_card=True,
    )
    compile: bool = setting(False, "torch.compile, one graph for all lengths; worth its minutes on a GPU")
    cuda_graph: Literal["auto", "on", "off"] = setting(
        "auto", "record the compiled model as CUDA graphs, one for each length rounded up to 256; auto: off"
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
    log_steps: int = setting(10, "steps between two log lines", changes_weights=False)
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
    output_dir: str | None = setting(None, "the finished model, its checkpoints and logs; default: runs/TASK", local=True)
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

    @property
    def compiled(self) -> bool:
        """Does torch.compile take the model?"""
        return self.compile or self.cuda_graph == "on"


def check_optimizer(config: TrainConfig) -> None:
    """Raises UsageError for settings that do not go together, or would have no effect."""
    name, momentum = config.optimizer, config.momentum
    for beta in ("adam_beta1", "adam_beta2"):
        require(config, beta, 0 <= getattr(config, beta) < 1, "must be at least 0 and less than 1")
    require(config, "adam_eps", 0 < config.adam_eps < math.inf, "must be a positive finite number")
    require(config, "momentum", momentum is None or 0 <= momentum < 1, "must be at least 0 and less than 1")
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


def check_schedule(config: TrainConfig) -> None:
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


def most_workers() -> int:
    """More processes than this only fill the machine until it stands still."""
    return 32 * (os.cpu_count() or 1)


def require(config: Any, name: str, condition: bool, rule: str) -> None:
    """Raise UsageError ``--flag rule, found value`` unless ``condition`` holds."""
    if not condition:
        raise UsageError(f"--{name.replace('_', '-')} {rule}, found {getattr(config, name)!r}")


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as run.json keeps them: infinite numbers, and what JSON has no form for, become text."""
    plain = {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
    return json.loads(json.dumps(plain, default=str))  # type: ignore[no-any-return]


def with_defaults(settings: Mapping[str, Any], *kinds: type[Any]) -> dict[str, Any]:
    """The settings of a run.json; one that it does not have, because the run is older, counts as its default."""
    defaults: dict[str, Any] = {}
    for field in (field for kind in kinds for field in dataclasses.fields(kind)):
        if field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
    return as_json(defaults) | dict(settings)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *kinds: type[Any]) -> list[str]:
    """``name: old -> new`` for every value that differs; [] if there is none.

    ``kinds``: the dataclasses of the new settings, if they are settings: those that do not change the weights are then left
    out, and what the older run does not have counts as its default.
    """
    old, left_out = with_defaults(old, *kinds), settings_where(lambda traits: not traits.changes_weights, *kinds)
    names = [name for name in dict.fromkeys([*old, *new]) if name not in left_out]
    return [f"{name}: {old.get(name)!r} -> {new.get(name)!r}" for name in names if old.get(name) != new.get(name)]


# ----------------------------------------------------------------------------------------------- the command line


SHORT = {"--lr": "--learning-rate", "--bs": "--batch-size"}  # as people call them


def parse(
    argv: Sequence[str], program: str, kinds: Sequence[type], defaults: Mapping[str, Any], rest: str | None = None
) -> list[Any]:
    """Fill one instance of each dataclass in ``kinds`` from ``--config FILE`` and flags.

    Returns them in order, and last the list of bare arguments if ``rest`` names them. Raises UsageError for an unknown
    flag (with the nearest known one), a flag given twice, a value of the wrong type, or a config file that cannot be read.
    With ``--save-config FILE`` the settings are written and nothing else is done: raises SystemExit(0), as ``--help`` does.
    """
    parser = make_parser(program, kinds)
    parser.add_argument(
        "--config", metavar="FILE", help="settings as TOML, JSON or YAML, or a run's own run.json; flags win over the file"
    )
    parser.add_argument(
        "--save-config", metavar="FILE", help="write these settings as TOML, JSON or YAML for --config, and end"
    )
    if rest:
        parser.add_argument(rest, nargs="*", help="given after the flags, or before them")
    refuse_duplicates(argv)
    if rest:
        argv = with_values(argv, {field.name for kind in kinds for field in dataclasses.fields(kind) if field.default is False})
    known = [field.name for kind in kinds for field in dataclasses.fields(kind)]
    parser.set_defaults(**{name: value for name, value in defaults.items() if name in known})
    config, _ = parser.parse_known_args(argv)
    if config.config is not None:
        values = values_of_file(Path(config.config), kinds, argv)
        parser.set_defaults(**{name: value for name, value in values.items() if isinstance(value, list)})
        argv = [*flags_of_file(values), *argv]
    namespace, unknown = parser.parse_known_args(argv)
    for flag in unknown:
        raise unknown_flag(flag, known, is_training=TrainConfig in kinds)
    for name in known:
        value = getattr(namespace, name)
        if isinstance(value, str) and name in given_names(argv) and (not value or "\0" in value):
            raise UsageError(f"--{name.replace('_', '-')} must not be {'empty' if not value else 'text with a NUL in it'}")
    filled = [kind(**{f.name: getattr(namespace, f.name) for f in dataclasses.fields(kind)}) for kind in kinds]
    if namespace.save_config is not None:
        if is_main_process():
            save_settings(user_path(namespace.save_config), filled)
            print(f"settings written to {namespace.save_config}, nothing else was done: --config takes them")
        raise SystemExit(0)
    return [*filled, getattr(namespace, rest)] if rest else filled


def unknown_flag(flag: str, known: Sequence[str], *, is_training: bool) -> UsageError:
    """With the way on: what Trainer's flag of that name is called here, the nearest flag, or the help."""
    given, flags = flag.partition("=")[0], [f"--{name.replace('_', '-')}" for name in known]
    if is_training and (here := hint(given)):
        return UsageError(f"unknown argument {flag!r}, of Trainer's; here: {here}")
    near = [full for short, full in SHORT.items() if short == given and full in flags]
    near += difflib.get_close_matches(given, flags, n=1)
    return UsageError(f"unknown argument {flag!r}" + (f" (did you mean {near[0]}?)" if near else "; see --help"))


def with_values(argv: Sequence[str], truths: set[str]) -> list[str]:
    """``--debug "some text"`` becomes ``--debug=true "some text"``: a truth given bare takes no text for its value."""
    words = ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0")
    end = argv.index("--") if "--" in argv else len(argv)  # behind it, all are texts
    settled = [
        f"{argument}=true" if argument[2:].replace("-", "_") in truths and following.lower() not in words else argument
        for argument, following in pairwise([*argv[:end], ""])
    ]
    return [*settled, *argv[end:]]


def given_names(argv: Iterable[str]) -> set[str]:
    """Settings that stand on the command line."""
    return {argument.split("=")[0].removeprefix("--").replace("-", "_") for argument in argv if argument.startswith("--")}


def flag_value(argv: Sequence[str], name: Literal["task"]) -> str | None:
    """The task, read ahead of all other settings: from the command line, else from the --config file."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{name}")
    parser.add_argument("--config")
    try:
        found, _ = parser.parse_known_args(argv)
    except (argparse.ArgumentError, SystemExit) as error:
        raise UsageError(str(error).removeprefix("argument ")) from error
    if getattr(found, name) is None and found.config is not None:
        return read_settings(Path(found.config)).task
    value = getattr(found, name)
    return value  # type: ignore[no-any-return]


def make_parser(program: str, kinds: Sequence[type]) -> ArgumentParser:
    """transformers' own parser, with our form of errors and one spelling of each flag in the help."""
    from transformers.hf_argparser import HfArgumentParser

    class Parser(HfArgumentParser):  # type: ignore[misc,no-any-unimported]
        def error(self, message: str) -> NoReturn:
            raise UsageError(message.removeprefix("argument "))

        def add_argument(self, *names: Any, traits: Traits | None = None, **more: Any) -> Any:
            """A field's metadata come here; its traits are none of argparse's."""
            return super().add_argument(*names, **more)

    parser: ArgumentParser = Parser(kinds, prog=program, allow_abbrev=False, formatter_class=Help)
    for action in parser._actions:  # the parser registers --max_steps beside --max-steps: both work, one is shown
        action.option_strings = [flag for flag in action.option_strings if "_" not in flag]
        if action.dest == "keep_checkpoints":
            action.type = number_or_word
    return parser


def number_or_word(text: str) -> int | str:
    """A value of ``int | str``, of which transformers' parser would keep the first type only."""
    return int(text) if re.fullmatch(r"-?\d+", text) else text


class Help(HelpFormatter):
    """Help with the default behind each line, except where there is none to show."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)

    def _get_help_string(self, action: Any) -> str:
        text = (action.help or "").replace("%", "%%")
        return text if action.default in (None, False, "==SUPPRESS==") else f"{text} (default: {action.default})"


def refuse_duplicates(argv: Iterable[str]) -> None:
    """A flag given twice is a mistake: argparse would silently take the last."""
    seen = set()
    for argument in argv:
        if argument == "--":
            return
        flag = argument.split("=")[0].replace("_", "-")
        if argument.startswith("--") and flag in seen:
            raise UsageError(f"{flag} is given twice: leave one of them out")
        seen.add(flag)


def settings_in(path: Path) -> dict[str, Any]:
    """What a TOML, JSON or YAML file holds, or the settings of a run.json. Raises UsageError with line and column."""
    return read_settings(path).values


def read_settings(path: Path) -> SettingsFile:
    """The file that ``--config`` names. Raises UsageError with line and column."""
    kind = kind_of(path)
    if path.exists() and not path.is_file():
        raise UsageError(f"--config {path} cannot be read: it is not a file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} cannot be read: {error}") from error
    try:
        values = DECODERS[kind](text)
    except TwiceError as error:
        raise SettingsFile(path, text, {}).error(str(error), error.name, nth=2) from error
    except (ValueError, RecursionError) as error:  # the decoders name line and column
        raise UsageError(f"--config {path} is not valid {kind}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--config {path} must hold settings by name, found {type(values).__name__}")
    if kind == "JSON" and is_run(values):
        return SettingsFile(path, text, values["settings"], is_run=True)
    try:
        return SettingsFile(path, text, each_once([(name.replace("-", "_"), value) for name, value in values.items()]))
    except TwiceError as error:
        raise SettingsFile(path, text, {}).error(str(error), error.name, nth=2) from error


def each_once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of the pairs. Raises TwiceError when a name stands twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise TwiceError(name)
        found[name] = value
    return found


DECODERS: dict[str, Callable[[str], Any]] = {
    "TOML": tomllib.loads,
    "JSON": lambda text: json.loads(text, object_pairs_hook=each_once),
    "YAML": from_yaml,
}


def values_of_file(path: Path, kinds: Sequence[type], argv: Sequence[str]) -> dict[str, Any]:
    """The settings of a file that are set, each of a kind that a flag can have; those of a run.json without the local ones.

    Raises UsageError, for an unknown one with the nearest known name.
    """
    file, fields = read_settings(path), {field.name: str(field.type) for kind in kinds for field in dataclasses.fields(kind)}
    values = file.values
    if file.is_run:
        if TrainConfig not in kinds:
            raise file.error("it holds the settings of a training, for --task; this command takes the run as --model")
        if "task" not in given_names(argv):
            file.task  # noqa: B018 - raises for a task whose code it would bring along
        values, left_out = usable(file, fields, settings_where(lambda traits: traits.local, *kinds))
        if left_out:
            note(left_out)
    for name, value in values.items():
        if name not in fields:
            if TrainConfig in kinds and (here := hint(name)):
                raise file.error(f"unknown setting {name!r}, of Trainer's; here: {here}", name)
            near = difflib.get_close_matches(name, fields, n=1)
            raise file.error(f"unknown setting {name!r}" + (f" (did you mean {near[0]}?)" if near else ""), name)
        is_list = fields[name].startswith("list") and isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not isinstance(value, str | int | float | None) and not is_list:
            raise file.error(f"{name} must be one text, number or truth, found {value!r}", name)
    return {name: value for name, value in values.items() if value is not None}


def flags_of_file(values: Mapping[str, Any]) -> list[str]:
    """A file's settings as command-line arguments, so that they pass the same checks; lists are no single argument."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if not isinstance(value, list)]


Listing = Mapping[str, tuple[str, str, str]]  # name: (two places in the code, one line about it)


def unknown_command(name: str, tasks: Iterable[str], commands: Iterable[str]) -> UsageError:
    """With the way on: a task's name, a slip, or the list."""
    if name in tasks:
        return UsageError(f"unknown command {name!r}: it is a task, train it with --task {name}")
    near = difflib.get_close_matches(name, commands, n=1)
    what = f" (did you mean {near[0]}?)" if near else f"; there are: {', '.join(commands)}. To train: --task NAME"
    return UsageError(f"unknown command {name!r}{what}")


def show_help(argv: Sequence[str], kinds: Sequence[type], tasks: Listing, commands: Listing) -> None:
    """What ``run.py`` prints without a task: with --help all general flags, else the way on. Raises UsageError."""
    if "--version" in argv:
        return print(f"Plainloop {own_version()}, torch {version('torch')}, transformers {version('transformers')}")
    listing, others = ("\n".join(f"  {name:<16} {text}" for name, (_, _, text) in some.items()) for some in (tasks, commands))
    if "--help" not in argv and "-h" not in argv:
        slip = next((a for a in argv if a.startswith("--") and difflib.get_close_matches(a.split("=")[0], ["--task"])), None)
        if slip:
            raise UsageError(f"unknown argument {slip!r} (did you mean --task?)")
        raise UsageError(f"--task says what to learn; there are: {', '.join(tasks)} (python run.py --help)")
    print(
        "usage: python run.py --task TASK [flags]             fine-tune, evaluate, save\n"
        "       python run.py COMMAND [flags] ...              use what was trained, learn, compare\n"
        "       python run.py --version\n\n"
        f"commands (each has flags of its own: python run.py COMMAND --help):\n{others}\n\n"
        f"tasks (each has flags of its own: python run.py --task TASK --help):\n{listing}\n"
        "  FILE.py:CLASS    a task of your own\n"
    )
    print(make_parser("run.py", kinds).format_help().partition("\n\n")[2], end="")


def own_version() -> str:
    """Plainloop's, which runs from its checkout."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def user_path(text: str) -> Path:
    """A path as a user writes it, ``~`` too; that of a user who does not exist stays as it is."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path's own raises RuntimeError


def note(message: str) -> None:
    """One visible line on stderr about a decision made for the user; above a bar, and of several ranks rank 0 says it."""
    from tqdm import tqdm

    if is_main_process():
        tqdm.write(one_line(message), file=sys.stderr)
        sys.stderr.flush()

"""All arguments with their values: those given, and the defaults of the installed class, which is read and not imported.

Importing TrainingArguments takes torch, and seconds; its fields with their defaults stand in its source. A class whose package
is not installed has defaults that nobody here can know. Next: numbers.py, what follows from the values.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.xray.script import Given, Unknown
from engine.errors import DataError, UsageError

NOT_LITERAL = object()  # a default that is no literal
PACKAGES = ("transformers", "trl", "sentence_transformers")  # where the classes that are built on TrainingArguments stand

# Fields of TrainingArguments that classes of TRL give another default, so that it is not known here (trl of July 2026).
OF_ALL_TRL = ("logging_steps", "gradient_checkpointing", "activation_checkpointing", "bf16")
OF_TRL = {
    "SFTConfig": ("learning_rate",), "DPOConfig": ("learning_rate",), "RewardConfig": ("learning_rate",),
    "KTOConfig": ("learning_rate", "train_sampling_strategy"), "GRPOConfig": ("learning_rate", "remove_unused_columns"),
    "RLOOConfig": ("learning_rate", "remove_unused_columns"),
}  # fmt: skip

# What older versions took: the name of today and its value; None: it has no successor, or is not needed.
RENAMED = {
    "evaluation_strategy": "eval_strategy", "warmup_ratio": "warmup_steps", "group_by_length": "train_sampling_strategy",
    "no_cuda": "use_cpu", "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size", "push_to_hub_model_id": "hub_model_id",
    "include_inputs_for_metrics": "include_for_metrics", "adafactor": "optim",
    "evaluate_during_training": "eval_strategy",
}  # fmt: skip
REMOVED = frozenset({
    "overwrite_output_dir", "logging_dir", "save_safetensors", "fp16_backend", "half_precision_backend", "fp16_opt_level",
    "tpu_num_cores", "tpu_metrics_debug", "past_index", "push_to_hub_organization", "push_to_hub_token", "use_mps_device",
    "jit_mode_eval", "use_ipex", "mp_parameters", "ray_scope", "sharded_ddp", "fsdp_min_num_params", "torchdynamo",
    "dispatch_batches", "split_batches", "fsdp_transformer_layer_cls_to_wrap", "include_tokens_per_second",
    "xpu_backend", "use_legacy_prediction_loop", "deepspeed_plugin", "distributed_state",
})  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """``values``: given, under the names of today. ``defaults``: of all fields; None: they are not known here.

    ``old``: the old names that were given, and what each is today. ``own``: given, and a field of the class's own.
    """

    kind: str
    where: str
    values: Mapping[str, Any]
    defaults: Mapping[str, Any] | None
    old: Mapping[str, str]
    own: tuple[str, ...]

    def get(self, name: str) -> Any:
        """The value; Unknown where the file or the class does not tell it."""
        if name in self.values:
            return self.values[name]
        if self.defaults is None:
            return Unknown("not given", f"the default is that of {self.kind}, which is not installed here")
        found = self.defaults.get(name)
        if found is NOT_LITERAL or (name == "bf16" and found is None):  # TRL's, which depends on fp16
            return Unknown("not given", f"{self.kind} has a default of its own")
        return found

    def number(self, name: str) -> float | None:
        """A number, None where it is not known, or not given and without a value. Raises DataError for what is none."""
        found = self.get(name)
        if found is None or isinstance(found, Unknown):
            return None
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise DataError(f"{self.where}: {name} must be a number, found {found!r}")
        return found

    def whole(self, name: str, least: int = 1) -> int | None:
        """The same for a count."""
        found = self.number(name)
        if found is not None and (found != int(found) or found < least):
            raise DataError(f"{self.where}: {name} must be a whole number of at least {least}, found {found!r}")
        return None if found is None else int(found)

    def text(self, name: str) -> str | None:
        """A word, such as a strategy; None where it is not known."""
        found = self.get(name)
        if isinstance(found, bool) or not isinstance(found, str | None | Unknown):
            raise DataError(f"{self.where}: {name} must be a text, found {found!r}")
        return None if isinstance(found, Unknown | None) else found

    def truth(self, name: str) -> bool | None:
        """True or false; None where it is not known. None as a value counts as false."""
        found = self.get(name)
        if isinstance(found, Unknown):
            return None
        if not isinstance(found, bool | None):
            raise DataError(f"{self.where}: {name} must be true or false, found {found!r}")
        return bool(found)

    def from_default(self, name: str) -> str:
        """``" (the default)"`` behind a value that was not given."""
        return "" if name in self.values else " (the default)"

    @property
    def unknown(self) -> list[tuple[str, Unknown]]:
        """What was given and cannot be told from the file."""
        return [(name, value) for name, value in self.values.items() if isinstance(value, Unknown)]


def resolve(given: Given) -> Arguments:
    """Raises UsageError for a name that the class has not, with the nearest one."""
    fields = fields_of(given.kind)
    known = fields if fields is not None else fields_of("TrainingArguments")
    assert known is not None
    values = dict(given.values)
    if len(given.positional) > 1:
        raise UsageError(
            f"{given.where}: {len(given.positional)} arguments without a name, and their order has changed between versions: "
            "write name=value (the first alone, output_dir, may stand bare)"
        )
    if given.positional:
        values = {"output_dir": given.positional[0]} | values
    if not values:
        raise UsageError(f"{given.where}: no arguments are given, so all is as by default: name those that matter")
    old, own = {}, []
    for name in [name for name in values if name not in known]:
        if name in RENAMED or name in REMOVED:
            old[name] = RENAMED.get(name, "")
            modernise(name, values)
        elif fields is None:
            own.append(name)
        else:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"{given.where}: {given.kind} of transformers {version('transformers')} has no argument {name!r}"
                + (f" (did you mean {near[0]}?)" if near else "; if it is that of another class or version, leave it out")
            )
    if fields is None and given.kind in OF_TRL:
        fields = known | dict.fromkeys((*OF_ALL_TRL, *OF_TRL[given.kind]), NOT_LITERAL)
    return Arguments(given.kind, given.where, values, fields, old, tuple(own))


def modernise(name: str, values: dict[str, Any]) -> None:
    """An old argument under its name of today, where that is not given as well."""
    value, today = values.pop(name), RENAMED.get(name)
    if today is None or today in values:
        return
    if name == "warmup_ratio":
        if value != 0:
            values[today] = value
    elif name in ("group_by_length", "adafactor", "evaluate_during_training"):
        words = {"group_by_length": "group_by_length", "adafactor": "adafactor", "evaluate_during_training": "steps"}
        if isinstance(value, Unknown) or value:
            values[today] = value if isinstance(value, Unknown) else words[name]
    elif name != "include_inputs_for_metrics":
        values[today] = value


# -------------------------------------------------------------------------------------------------- the class, as it is read


@cache
def fields_of(kind: str) -> dict[str, Any] | None:
    """The fields of an installed class with their defaults, its bases' first; None: it is not in an installed package."""
    for package in PACKAGES:
        if (found := class_in(package, kind)) is not None:
            node, constants = found
            fields: dict[str, Any] = {}
            for base in node.bases:
                if isinstance(base, ast.Name) and base.id != "object":
                    fields |= fields_of(base.id) or {}
            return fields | own_fields(node, constants)
    return None


@cache
def class_in(package: str, kind: str) -> tuple[ast.ClassDef, dict[str, Any]] | None:
    """The class in the source of a package. Only files whose names speak of arguments or settings are looked into."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations)))
    files = [
        *root.glob("*arg*.py"),
        *root.glob("*/*args.py"),
        *root.glob("trainer/*config.py"),
        *root.glob("*/training_args.py"),
    ]
    for file in files:
        text = file.read_text(encoding="utf-8")
        if re.search(rf"^class {re.escape(kind)}\b", text, flags=re.MULTILINE):
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef) and node.name == kind:
                    return node, {"default_optim": default_optimizer()}
    return None


def default_optimizer() -> str:
    """What ``default_optim`` is in transformers/training_args.py: it asks for the version of torch."""
    try:
        numbers = re.findall(r"\d+", version("torch"))
    except PackageNotFoundError:
        return "adamw_torch"
    return "adamw_torch_fused" if (int(numbers[0]), int(numbers[1])) >= (2, 8) else "adamw_torch"


def own_fields(node: ast.ClassDef, constants: Mapping[str, Any]) -> dict[str, Any]:
    """The annotated fields of a dataclass, with the defaults that are literals."""
    fields = {}
    for part in node.body:
        if not isinstance(part, ast.AnnAssign) or not isinstance(part.target, ast.Name) or part.value is None:
            continue
        if "ClassVar" in ast.unparse(part.annotation):
            continue
        value = part.value
        if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
            keywords = {keyword.arg: keyword.value for keyword in value.keywords}
            if "default_factory" in keywords:
                made = ast.unparse(keywords["default_factory"])
                fields[part.target.id] = {"list": [], "dict": {}}.get(made, NOT_LITERAL)
                continue
            value = keywords.get("default", value)
        if isinstance(value, ast.Name):
            fields[part.target.id] = constants.get(value.id, NOT_LITERAL)
            continue
        try:
            fields[part.target.id] = ast.literal_eval(value)
        except (ValueError, TypeError):
            fields[part.target.id] = NOT_LITERAL
    return fields

"""LoRA through peft: the body is frozen, and small matrices beside it are trained (Hu et al. 2021, arXiv 2106.09685).

The head is trained in full, except a language model's, which is no new layer. What is saved is the adapter, which needs
its base model to be of use, or with ``--lora-merge`` an ordinary model. A checkpoint holds the whole model, so resuming
is exact whatever becomes of the base. Reading an adapter back merges it: the rest of the code sees a plain model.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from engine.config import TrainConfig
from engine.data import hub
from engine.errors import ModelError, UsageError

ADAPTER = "adapter_config.json"
LOADER_ARGUMENTS = ("dtype", "use_safetensors", "output_loading_info", "ignore_mismatched_sizes")


def library() -> Any:
    """peft, or UsageError with the extra that brings it."""
    try:
        import peft
    except ImportError as error:
        raise UsageError("--lora needs peft: pip install -c constraints.txt '.[lora]'") from error
    warnings.filterwarnings(
        "ignore", message=".*is_gradient_checkpointing", category=FutureWarning
    )  # between the two libraries
    return peft


def is_adapter(path: str | Path) -> bool:
    return (Path(path) / ADAPTER).exists()


def base_of(path: str | Path) -> str:
    """The folder or Hub name of an adapter's base model. Raises ModelError."""
    try:
        return str(json.loads((Path(path) / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{Path(path) / ADAPTER} is not an adapter's ({type(error).__name__}: {error})") from error


def add(model: nn.Module, config: TrainConfig, revision: str | None) -> nn.Module:
    """``model`` wrapped by peft with only the adapter and the head left to train. Raises UsageError.

    ``revision``: that of the base model on the Hub.
    """
    from transformers import PreTrainedModel

    peft = library()
    if not isinstance(model, PreTrainedModel):
        raise UsageError(f"--lora needs a transformers model, found {type(model).__name__}")
    base = model.name_or_path
    if not config.lora_merge and (not base or is_adapter(base)):
        raise UsageError("--lora: this model stands nowhere, so an adapter alone could not be loaded: give --lora-merge")
    known = model.config.model_type in peft.utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    targets = config.lora_targets or (None if known else "all-linear")  # None: peft's own choice
    settings = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets if targets in (None, "all-linear") else [name.strip() for name in targets.split(",")],
        modules_to_save=head_modules(model) or None,
    )
    try:
        wrapped: nn.Module = peft.get_peft_model(model, settings, revision=revision)
    except ValueError as error:
        raise UsageError(f"--lora-targets {targets}: {' '.join(str(error).split())[:200]}") from error
    if Path(base).is_dir():
        settings.base_model_name_or_path = str(Path(base).resolve())  # another working directory finds it, too
    return wrapped


def head_modules(model: Any) -> list[str]:
    """Modules outside the body that have weights of their own; not the one that turns vectors into tokens."""
    output = model.get_output_embeddings()
    if model.base_model is model:
        return []
    return [
        name
        for name, module in model.named_children()
        if module is not model.base_model and next(module.parameters(), None) is not None and output not in module.modules()
    ]


def plain(model: Any) -> Any:
    """The transformers model inside peft's wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def finished(model: Any, *, merge: bool) -> nn.Module:
    """What is to be saved."""
    return model.merge_and_unload() if merge else model  # type: ignore[no-any-return]


def complete(model: Any, directory: Path) -> None:
    """Beside a saved adapter its model's config.json, which knows the labels: peft leaves it out."""
    if is_adapter(directory):
        inner = plain(model)
        inner.config.architectures = [type(inner).__name__]  # as save_pretrained writes it
        inner.config.save_pretrained(directory)


def load_merged(load: Callable[..., Any], auto_class: Any, path: str, **arguments: Any) -> tuple[Any, dict[str, Any]]:
    """The base model with the adapter of ``path`` merged in, and an empty report. ``load``: that of a Source.

    ``arguments`` are those of ``from_pretrained``. Raises ModelError without the base model, UsageError without peft.
    """
    from transformers import AutoConfig

    peft, base = library(), base_of(path)
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise ModelError(f"model {path} is an adapter, and its base model is no longer in {base}")
    if not Path(base).is_dir() and not hub.reachable():
        hub.go_offline()
    config = load(AutoConfig.from_pretrained, path, **{k: v for k, v in arguments.items() if k not in LOADER_ARGUMENTS})
    of_loading = {name: value for name, value in arguments.items() if name in LOADER_ARGUMENTS} | {
        "ignore_mismatched_sizes": True
    }

    def from_base(name: str, **more: Any) -> Any:  # whatever revision is asked for, the adapter belongs to its own
        return auto_class.from_pretrained(name, **(more | {"revision": peft.PeftConfig.from_pretrained(path).revision}))

    def with_adapter(name: str, **more: Any) -> Any:
        return peft.PeftModel.from_pretrained(model, name)

    model, _ = load(from_base, base, config=config, **of_loading)
    merged = load(with_adapter, path).merge_and_unload()
    merged.name_or_path = path  # and not its base's
    return merged, {"missing_keys": [], "mismatched_keys": []}

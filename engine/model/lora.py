"""LoRA through peft: the body is frozen, and small matrices beside it are trained (Hu et al. 2021, arXiv 2106.09685).

The head is trained in full, except a language model's, which is no new layer. What is saved is the adapter, which needs
its base model to be of use, or with ``--lora-merge`` an ordinary model. A checkpoint holds the whole model, so resuming
is exact whatever becomes of the base. Reading an adapter back merges it: the rest of the code sees a plain model.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from engine.checked import expect, expect_each, parse_object, read_bytes
from engine.config import TrainConfig
from engine.data import hub
from engine.data.model_files import weights_fingerprint
from engine.data.model_settings import conversion
from engine.errors import ModelError, UsageError
from engine.installed import install
from engine.model.capabilities import read_config

ADAPTER, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UNUSED = (  # of an adapter: each has peft import, compute or change more than two small matrices beside a layer
    "megatron_config", "layer_replication", "eva_config", "corda_config", "lora_ga_config", "arrow_config", "kasa_config",
    "monteclora_config", "velora_config", "use_bdlora", "use_qalora", "alora_invocation_tokens",
)  # fmt: skip
LOADER_ARGUMENTS = ("dtype", "use_safetensors", "output_loading_info", "ignore_mismatched_sizes")


def library() -> Any:
    """peft, or UsageError with the extra that brings it."""
    try:
        import peft
    except ImportError as error:
        raise UsageError(f"--lora needs peft: {install('lora')}") from error
    # Between the two libraries.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
    return peft


def is_adapter(path: str | Path) -> bool:
    return (Path(path) / ADAPTER).exists()


def read_settings(path: str | Path) -> dict[str, Any]:
    """An adapter's settings. Raises ModelError for what is no LoRA, and for what a stranger may do harm with: patterns for
    names, which can take for ever, and numbers without end."""
    try:
        found = parse_object(read_bytes(Path(path) / ADAPTER))
        if found.get("base_model_name_or_path") in (None, ""):
            raise ValueError("it names no base model: write its folder or Hub name into base_model_name_or_path")
        expect(found, "base_model_name_or_path", str)
        if found.get("peft_type") != "LORA":
            raise ValueError("peft_type is not LORA")
        expect(found, "r", int, least=1, default=8)
        expect(found, "lora_alpha", float, default=8)
        expect(found, "lora_dropout", float, default=0)
        if given := next((name for name in UNUSED if found.get(name)), None):
            raise ValueError(f"{given} is set, which is not read here")
        for name in ("rank_pattern", "alpha_pattern"):
            expect_each(name, expect(found, name, dict, optional=True) or {}, float)
        for name in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "rank_pattern", "alpha_pattern"):
            for module in [found[name]] if isinstance(found.get(name), str) else found.get(name) or ():
                if not isinstance(module, str) or not re.fullmatch(r"[\w.-]+", module):
                    raise ValueError(f"{name} may hold names of modules alone, found {str(module)[:60]!r}")
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{Path(path) / ADAPTER} is not an adapter's ({type(error).__name__}: {error})") from error
    return found


def base_of(path: str | Path) -> str:
    """The folder or Hub name of an adapter's base model. Raises ModelError."""
    return str(read_settings(path)["base_model_name_or_path"])


def folder_of(load: Callable[..., Any], path: str) -> Path | None:
    """The folder of an adapter, fetched if ``path`` is one of the Hub; None: an ordinary model. ``load``: that of a Source.

    Raises ModelError for one without safetensors: a pickle, which peft would open, runs what it likes.
    """
    from transformers.utils import cached_file

    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    if Path(path).is_dir():
        found = {name: Path(path) / name for name in (ADAPTER, WEIGHTS) if (Path(path) / name).exists()}
    else:
        found = {name: each for name in (ADAPTER, WEIGHTS) if (each := load(cached_file, path, filename=name, **quiet))}
    if ADAPTER not in found:
        return None
    if WEIGHTS not in found:
        is_pickled = (Path(path) / "adapter_model.bin").exists()
        why = conversion(path, "adapter_model") if is_pickled else "other files of weights are never opened"
        raise ModelError(f"model {path} is an adapter without {WEIGHTS}: {why}")
    return Path(found[ADAPTER]).parent


def base_weights(model: nn.Module, revision: str | None) -> str | None:
    """The fingerprint for run.json of what an adapter stands on; None for an ordinary model."""
    inner = plain(model)
    return None if inner is model else weights_fingerprint(inner.name_or_path, revision)


def refuse_another_base(folder: Path, base: str, revision: str | None) -> None:
    """Raises ModelError if the base model's weights are not those that the adapter was trained on, as its run.json has them."""
    if not (folder / "run.json").exists():
        return  # a bare adapter does not say
    try:
        known = expect(parse_object(read_bytes(folder / "run.json")), "base_model", dict, default={}).get("weights")
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'run.json'} is not a run's ({error})") from error
    if known is not None and weights_fingerprint(base, revision) != known:
        raise ModelError(
            f"{folder} is an adapter, and its base model {base} has other weights now than when it was trained: "
            "put those back, or train the adapter again"
        )


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
    """Modules outside the body that have weights of their own; not the one that turns vectors into tokens. The body's pooler,
    too, if it is new (``has_new_pooler``): no other file holds it."""
    output = model.get_output_embeddings()
    if model.base_model is model:
        return []
    return [
        name
        for name, module in model.named_children()
        if module is not model.base_model and next(module.parameters(), None) is not None and output not in module.modules()
    ] + (["pooler"] if getattr(model, "has_new_pooler", False) else [])


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


def load_merged(
    load: Callable[..., Any], auto_class: Any, path: str, folder: Path, **arguments: Any
) -> tuple[Any, dict[str, Any]]:
    """The base model with the adapter in ``folder`` merged in, and an empty report. ``load``: that of a Source.

    ``arguments`` are those of ``from_pretrained``. Raises ModelError without the base model, or if it is another than the
    adapter was trained on; UsageError without peft.
    """
    from safetensors.torch import load_file

    peft, base = library(), base_of(folder)
    if Path(base).is_absolute() and not (Path(base) / "config.json").is_file():
        raise ModelError(
            f"model {path} is an adapter, and its base model is no longer in {base}: put it back, or write its new place into "
            f"base_model_name_or_path of {folder / ADAPTER}"
        )
    if not Path(base).is_dir() and not hub.reachable():
        hub.go_offline()
    if folder_of(load, base) is not None:
        raise ModelError(f"model {path} is an adapter to {base}, which is an adapter itself: merge that one first")
    settings = load(lambda name, **_: peft.PeftConfig.from_pretrained(name), str(folder))
    refuse_another_base(folder, base, settings.revision)
    config = load(read_config, path, **{k: v for k, v in arguments.items() if k not in LOADER_ARGUMENTS})
    of_loading = {name: value for name, value in arguments.items() if name in LOADER_ARGUMENTS}
    of_loading |= {"ignore_mismatched_sizes": True}

    def from_base(name: str, **more: Any) -> Any:  # whatever revision is asked for, the adapter belongs to its own
        return auto_class.from_pretrained(name, **(more | {"revision": settings.revision}))

    def with_adapter(name: str, **_: Any) -> Any:
        settings.inference_mode = True
        wrapped = peft.PeftModel(model, settings)
        found = peft.set_peft_model_state_dict(wrapped, load_file(Path(name) / WEIGHTS))
        missing = [each for each in found.missing_keys if ".lora_" in each or ".modules_to_save." in each]
        if missing or found.unexpected_keys:
            which = f"lacks {missing[0]}" if missing else f"has {found.unexpected_keys[0]}, which has no place in the model"
            raise ValueError(f"its {WEIGHTS} {which}")
        return wrapped

    model, report = load(from_base, base, config=config, **of_loading)
    lacking = sorted({*report["missing_keys"], *(str(name) for name, *_ in report["mismatched_keys"])})
    unread = () if head_modules(model) else ("pooler",)  # that of a bare body
    of_adapter = (*(settings.modules_to_save or ()), *unread)
    if lacking := [name for name in lacking if not set(of_adapter) & set(name.split("."))]:
        raise ModelError(f"model {path}: its base model {base} lacks, or has in another size, {lacking[0]}")
    merged = load(with_adapter, str(folder)).merge_and_unload()
    merged.name_or_path = path  # and not its base's
    return merged, {"missing_keys": [], "mismatched_keys": []}

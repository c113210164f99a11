"""run.json as far as it is known at each point: what was asked for, on which data, with which model, by which versions.

Next: document.py, the record itself.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.artifacts import card
from engine.artifacts.document import DataRecord, RunDocument
from engine.artifacts.report import histogram
from engine.checked import parse_object
from engine.config import TrainConfig
from engine.data import model_files
from engine.distributed.device import describe_device
from engine.errors import ModelError
from engine.model import lora
from engine.precision import Precision
from engine.settings.fields import as_json, user_path
from engine.settings.own import code_fingerprint
from engine.task import Examples, Task


def settings_of(task: Task[Any], config: TrainConfig) -> dict[str, Any]:
    """Everything that was asked for, flat, as JSON keeps it."""
    return as_json({key: value for part in asked(task, config) for key, value in dataclasses.asdict(part).items()})


def asked(task: Task[Any], config: TrainConfig) -> tuple[Any, ...]:
    """The dataclasses of a run's settings: the engine's, the source's, the task's own."""
    return config, task.source.config, task.options


def sources_of(task: Task[Any]) -> dict[str, str]:
    """What a run starts from beside its data, as hashes: the files of ``model`` (of the Hub its commit), and the file of a
    ``task`` that is not ours. What is not known is not there. Raises ModelError.
    """
    taken, config = task.source.taken_model, task.source.config
    folder = Path(taken.path) if taken else user_path(config.model)  # a task of one's own may not ask for it yet
    found = {"task": code_fingerprint(type(task))}
    try:
        if folder.is_dir():
            found["model"] = model_files.joined([f"{name} {digest}" for name, digest in model_files.digests(folder).items()])
        elif taken is not None and taken.hub_name is not None:
            cached = model_files.folder_of(taken.hub_name, config.revision)
            found["model"] = cached.name if cached else ""
    except OSError as error:
        raise ModelError(f"model {folder} cannot be read: {error.strerror}") from error
    return {name: digest[:32] for name, digest in found.items() if digest}


def processor() -> str:
    """Its name. Kernels are chosen by it: two processors with the same instructions need not add up in the same order."""
    return torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()


def run_document(
    settings: dict[str, Any], task: Task[Any], examples: Mapping[str, Examples], sources: Mapping[str, str] | None = None
) -> RunDocument:
    """run.json as far as it is known before the model is built. ``sources``: those of ``sources_of``."""
    data, model = task.source.taken_data, task.source.taken_model
    return RunDocument(
        settings=settings,
        data=DataRecord(
            source=data.description if data else None,
            hub_name=data.hub_name if data else None,
            num_examples={split: len(part) for split, part in examples.items()},
            fingerprints={split: part.fingerprint() for split, part in examples.items()},
            lengths=histogram(examples["train"].lengths) if len(examples["train"]) else None,
        ),
        model=model.description if model else None,
        sources=sources,
        versions={"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers", "datasets", "numpy", "safetensors")}
        | {"instructions": torch.backends.cpu.get_cpu_capability(), "processor": processor()},
    )


def with_model(
    document: RunDocument, task: Task[Any], model: nn.Module, device: torch.device, precision: Precision, batching: str
) -> RunDocument:
    """run.json as it stands there while the run goes on. ``batching``: the kind of the layout."""
    weights = None if document.settings.get("lora_merge") else lora.base_weights(model, task.source.config.revision)
    return dataclasses.replace(
        document,
        device=describe_device(device),
        precision=precision,
        batching=batching,
        base_model=card.base_of(task.source) | ({"weights": weights} if weights else {}),
        command=card.command(task, document.settings),
        model_config=config_of(model),
    )


def config_of(model: nn.Module) -> dict[str, Any]:
    """What the model's config.json says of it; {} for a model without."""
    config: Any = getattr(model, "config", None)
    settings: dict[str, Any] = parse_object(config.to_json_string(use_diff=False)) if hasattr(config, "to_json_string") else {}
    return {name: value for name, value in settings.items() if name not in ("transformers_version", "_name_or_path")}

"""What ``export --format onnx`` has written, opened as a finished model is: the same task, with onnxruntime below it.

Next: serving/command.py, which serves it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.checked import expect, parse_object, read_bytes
from engine.data.collate import Layout
from engine.data.sources import Source, SourceConfig
from engine.errors import ModelError, UsageError
from engine.exporting.program import FILES, INPUTS, Called, OnnxCalled, require_packages
from engine.finished import Find, filled, ours, refuse_unknown
from engine.installed import program
from engine.settings.fields import settings_where, user_path
from engine.task import Task

RECORD = "export.json"


class Exported(nn.Module):
    """A program that is called as a model is. ``config``: that of the model it was made of."""

    def __init__(self, called: Called, config: Any):
        super().__init__()
        self.called, self.config = called, config
        self.place = nn.Parameter(torch.zeros(0), requires_grad=False)  # a model is asked on which device it is

    def forward(self, **inputs: Any) -> Any:
        return self.called(**inputs)


def settings_of(task: Task[Any]) -> dict[str, Any]:
    """The task's own, as export.json keeps them: what is local to a machine stays there."""
    local = settings_where(lambda traits: traits.local, type(task.options))
    found = dataclasses.asdict(task.options)
    return {name: value for name, value in found.items() if name not in local and isinstance(value, str | int | float | None)}


def open_exported(
    name: str, find: Find, *, device: str = "auto", task: str | None = None, changes: Mapping[str, Any] | None = None
) -> tuple[Task[Any], nn.Module, Layout]:
    """As ``open_model``, of such a folder. Raises UsageError, ModelError."""
    if device not in ("auto", "cpu"):
        raise UsageError(f"--device {device}: --format onnx computes on the processor: leave it out")
    require_packages("onnx")
    directory = user_path(name)
    record = read_record(directory, name)
    named = task or ours(directory, record["task"])
    kind = find(named)
    refuse_unknown(changes or {}, kind, named)
    local = settings_where(lambda traits: traits.local, kind.Options)
    settings = {key: value for key, value in record["settings"].items() if key not in local}
    settings |= {key: value for key, value in (changes or {}).items() if value is not None}
    source = Source(SourceConfig(model=name), run=directory)
    built: Task[Any] = kind(filled(kind.Options, settings, directory), source)
    if list(built.exported) != record["outputs"]:
        raise ModelError(f"model {name}: it gives {', '.join(record['outputs'])}, and --task {named} wants something else")
    source.model(None)  # refused before anything is read
    try:
        called = OnnxCalled(directory / FILES["onnx"], record["inputs"], record["outputs"])
    except Exception as error:  # onnxruntime raises its own kinds
        raise ModelError(
            f"model {name}: {FILES['onnx']} cannot be read by onnxruntime ({type(error).__name__}): export it again"
        ) from error
    model = Exported(called, built.config).eval()  # type: ignore[attr-defined]
    built.adopt(model)
    return built, model, Layout("padded", sides=(record["padding"],), shortest=record["shortest"])


def read_record(directory: Path, name: str) -> dict[str, Any]:
    """export.json. Raises UsageError where there is none, ModelError for one that ``export`` does not write."""
    path = directory / RECORD
    try:
        found = parse_object(read_bytes(path))
        inputs, outputs, _ = (
            expect(found, key, kind) for key, kind in (("inputs", list), ("outputs", list), ("settings", dict))
        )
        if (
            not inputs
            or not {*map(str, inputs)} <= {*INPUTS}
            or not outputs
            or not all(isinstance(each, str) for each in outputs)
        ):
            raise ValueError("inputs or outputs are none")
        if expect(found, "padding", str) not in ("left", "right") or expect(found, "format", str) not in FILES:
            raise ValueError("padding or format cannot be")
        expect(found, "shortest", int, least=1)
        expect(found, "task", str, optional=True)
    except FileNotFoundError:
        way = f"{program()} export {name} --output DIR makes one" if (directory / "config.json").exists() else "name one"
        raise UsageError(f"--format onnx is for a folder that export has written, and {name} is none: {way}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not what this version of export writes ({error}): export the model again") from error
    if found["format"] != "onnx":
        raise UsageError(f"--format onnx: {name} holds {FILES[found['format']]}: export it with --format onnx")
    return found

"""Checkpoints: everything a run needs to go on as if it had never stopped, written so that no half one is ever used.

A checkpoint is a directory ``step-NNNNNNNN`` of safetensors and JSON (no pickle), written under a temporary name, synced,
and renamed: the rename is the one commit point. MANIFEST.json holds size and sha256 of each file, because safetensors
does not notice a flipped bit. Resuming takes the newest directory that verifies.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from engine.config import note
from engine.errors import ModelError, ResourceError
from engine.state import TrainState

FORMAT = 1
MOST_BYTES = 1 << 20  # of a manifest, which has a hundred bytes for each file
Files = dict[str, bytes]
NAME = re.compile(r"step-(\d{8,})")


class NewerError(ModelError):
    """A checkpoint of a format that only a later version reads."""


# ------------------------------------------------------------------------------------------ what is in a checkpoint


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; tied ones once, under their first name."""
    kept = model.state_dict().keys()
    return dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in kept}


def state_files(state: TrainState, progress: Mapping[str, Any]) -> Files:
    """The training state as files. ``progress`` is the run's own (log window, best, ...), kept as JSON."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in state.model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for parameter, values in state.optimizer.state.items():
        tensors |= {f"{names[parameter]}//{key}": value for key, value in values.items()}
    groups = [
        {key: value for key, value in group.items() if key != "params"} | {"params": [names[p] for p in group["params"]]}
        for group in state.optimizer.param_groups
    ]
    schedule = {key: value for key, value in state.schedule.state_dict().items() if key != "lr_lambdas"}
    rng_tensors, rng_numbers = get_rng()
    document = {
        "format": FORMAT,
        "step": state.step,
        "optimizer": groups,
        "schedule": schedule,
        "scaler": state.scaler.state_dict(),
        "rng": rng_numbers,
        "progress": dict(progress),
    }
    return {
        "model.safetensors": pack(model_tensors(state.model)),
        "optimizer.safetensors": pack(tensors),
        "rng.safetensors": pack(rng_tensors),
        "state.json": json.dumps(document, indent=1, allow_nan=False).encode(),
    }


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: t.detach().contiguous().cpu() for name, t in tensors.items()})


def load_state(state: TrainState, files: Files) -> dict[str, Any]:
    """Put a checkpoint back, bit by bit; returns the run's progress. The RNG comes last: loading must not shift it."""
    document = json.loads(files["state.json"])
    load_model(state.model, files)
    names = [name for group in state.optimizer.param_groups for name in parameter_names(state.model, group["params"])]
    saved = [name for group in document["optimizer"] for name in group["params"]]
    if names != saved:
        raise ModelError("the checkpoint's optimizer holds other parameters than this model: resume with the same model")
    tensors = safetensors.torch.load(files["optimizer.safetensors"])
    values: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition("//")
        values[name][kind] = tensor
    groups = [
        {**group, "betas": tuple(group["betas"]), "params": current["params"]}
        for group, current in zip(document["optimizer"], state.optimizer.state_dict()["param_groups"], strict=True)
    ]
    state.optimizer.load_state_dict(
        {"state": {i: values[name] for i, name in enumerate(names) if values[name]}, "param_groups": groups}
    )
    lambdas = state.schedule.state_dict().get("lr_lambdas")
    state.schedule.load_state_dict({**document["schedule"], "lr_lambdas": lambdas})
    if document["scaler"]:
        state.scaler.load_state_dict(document["scaler"])
    state.step = document["step"]
    set_rng(safetensors.torch.load(files["rng.safetensors"]), document["rng"])
    progress: dict[str, Any] = document["progress"]
    return progress


def load_model(model: nn.Module, files: Files) -> None:
    """The weights alone, in place."""
    saved = safetensors.torch.load(files["model.safetensors"])
    own = model_tensors(model)
    if saved.keys() != own.keys():
        odd = sorted(saved.keys() ^ own.keys())[0]
        raise ModelError(f"the checkpoint does not fit the model ({odd} is in one of them only)")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def parameter_names(model: nn.Module, parameters: list[Tensor]) -> list[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in parameters]


def get_rng() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of every random generator a step may draw from."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
    }
    if torch.cuda.is_available():
        tensors |= {f"cuda.{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        tensors["mps"] = torch.mps.get_rng_state()
    return tensors, {"python": [version, gauss], "numpy": [kind, int(position), int(has_gauss), float(cached)]}


def set_rng(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """The reverse of ``get_rng``."""
    torch.set_rng_state(tensors["torch"])
    version, gauss = numbers["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    kind, position, has_gauss, cached = numbers["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    for i in range(torch.cuda.device_count()):
        if f"cuda.{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{i}"], i)
    if "mps" in tensors and torch.backends.mps.is_available():
        torch.mps.set_rng_state(tensors["mps"])


# ---------------------------------------------------------------------------------------- how it gets onto the disk


def commit(root: Path, step: int, files: Files) -> Path:
    """Write ``root/step-NNNNNNNN``; it is there in full or not at all. Raises ResourceError (disk full, not writable)."""
    final = root / f"step-{step:08d}"
    temporary = root / f".tmp-{final.name}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed here
        temporary.mkdir(parents=True)
        manifest = {name: write_synced(temporary / name, content) for name, content in files.items()}
        document = {"format": FORMAT, "step": step, "files": manifest}
        write_synced(temporary / "MANIFEST.json", json.dumps(document, indent=1).encode())
        sync_directory(temporary)
        if final.exists():  # from an earlier try that was cut back: the same step again
            discard(final)
        os.rename(temporary, final)  # the commit point
    except OSError as error:
        raise ResourceError(f"checkpoint {final} could not be written: {error.strerror}; the older one stands") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    try:
        sync_directory(root)
    except OSError as error:
        note(f"warning: checkpoint {final} is written, but may not outlive a power cut ({error.strerror})")
    return final


def write_synced(path: Path, content: bytes) -> dict[str, Any]:
    """Returns the file's manifest entry."""
    with open(path, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(directory: Path) -> None:
    """Un-name first, then delete: a half-deleted checkpoint is never taken for one."""
    dead = directory.with_name(f".dead-{directory.name}")
    shutil.rmtree(dead, ignore_errors=True)
    os.rename(directory, dead)
    shutil.rmtree(dead, ignore_errors=True)


def steps_in(root: Path) -> list[int]:
    """Steps of the checkpoints there, oldest first; not verified."""
    if not root.is_dir():
        return []
    return sorted(int(match[1]) for path in root.iterdir() if (match := NAME.fullmatch(path.name)))


def read(directory: Path) -> Files:
    """The files of a checkpoint, each compared with its sha256. Raises ModelError naming the first that differs."""
    try:
        if (directory / "MANIFEST.json").stat().st_size > MOST_BYTES:
            raise ModelError(f"{directory} is damaged (its manifest is larger than {MOST_BYTES >> 20} MiB)")
        manifest = json.loads((directory / "MANIFEST.json").read_bytes())
        if manifest["format"] > FORMAT:
            raise NewerError(f"{directory} has format {manifest['format']}, this version reads up to {FORMAT}: update")
        files = {}
        for name, expected in manifest["files"].items():
            if Path(name).name != name:
                raise ModelError(f"{directory}: the manifest names {name!r}, which is not a plain file name")
            is_whole = (directory / name).stat().st_size == expected["bytes"]  # before it is read: it may be of any size
            content = (directory / name).read_bytes() if is_whole else b""
            if len(content) != expected["bytes"] or hashlib.sha256(content).hexdigest() != expected["sha256"]:
                raise ModelError(f"{directory / name} is damaged")
            files[name] = content
        if "state.json" not in files:
            raise ModelError(f"{directory} is damaged (its manifest names no state.json)")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{directory} is damaged ({type(error).__name__})") from error
    return files


def newest(root: Path) -> Files | None:
    """The newest checkpoint that verifies, with a warning for each that does not; None if there is none at all.

    Raises ModelError when there are checkpoints and none is whole: starting over must be the user's decision; and
    NewerError when the newest is of a later version of this project.
    """
    steps = steps_in(root)
    for step in reversed(steps):
        try:
            return read(root / f"step-{step:08d}")
        except NewerError:
            raise  # whole, and later than all that this version could take instead
        except ModelError as error:
            note(f"warning: {error}; trying an older checkpoint")
    if steps:
        raise ModelError(f"no checkpoint in {root} is whole: give --overwrite to start from the beginning")
    return None


def forget_after(root: Path, step: int) -> None:
    """Drop checkpoints later than ``step`` (damaged ones, when an older one was taken) and what a killed save has left."""
    for later in steps_in(root):
        if later > step:
            discard(root / f"step-{later:08d}")
    for pattern in (".tmp-step-*", ".dead-step-*"):
        for path in root.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def rotate(root: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints and the best ones they refer to; one that cannot be read is not counted.

    What cannot be deleted is left, with a warning: that is no reason to end a run.
    """
    steps = steps_in(root)
    whole: list[int] = []
    kept: set[int] = set()
    for step in reversed(steps):
        if len(whole) < keep:
            try:
                document = json.loads((root / f"step-{step:08d}" / "state.json").read_bytes())
                kept |= {step, (document["progress"].get("best") or {"step": step})["step"]}
            except (OSError, ValueError, KeyError, TypeError):
                continue
            whole.append(step)
    try:
        for step in steps:
            if whole and step not in kept:
                discard(root / f"step-{step:08d}")
    except OSError as error:
        note(f"warning: old checkpoints in {root} could not be deleted ({error.strerror})")

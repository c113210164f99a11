"""Checkpoints: everything a run needs to go on as if it had never stopped, written so that no half one is ever used.

A checkpoint is a directory ``step-NNNNNNNN`` of safetensors and JSON (no pickle), written under a temporary name, synced,
and renamed: the rename is the one commit point. MANIFEST.json holds size and sha256 of each file, because safetensors
does not notice a flipped bit. Resuming takes the newest directory that verifies.
Next: saving.py, which decides when the writing happens.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from engine.config import note
from engine.errors import ModelError, ResourceError
from engine.parallel import World
from engine.sharding import collect, put
from engine.state import TrainState

FORMAT = 1
MIN_KEPT = 2  # one may turn out to be damaged
NO_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # another time it may be read
MOST_BYTES = 1 << 20  # of a manifest, which has a hundred bytes for each file
Files = dict[str, bytes]
NAME = re.compile(r"step-(\d{8,})")
PLAIN_NAME = re.compile(r"\w[\w.-]*")  # no way out of the directory


class DamagedError(ModelError):
    """A checkpoint that is not what was written."""


# ------------------------------------------------------------------------------------------ what is in a checkpoint


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; tied ones once, under their first name."""
    kept = model.state_dict().keys()
    return dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in kept}


@dataclass(frozen=True)
class Snapshot:
    """The training state between two steps: ``tensors`` by file and name, and what becomes state.json.

    The tensors are those of the run, which the next step changes; ``copy`` is of its own, on the CPU.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state_json: bytes

    def copy(self) -> Snapshot:
        copies = {
            file: {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}
            for file, tensors in self.tensors.items()
        }
        return Snapshot(self.step, copies, self.state_json)

    def files(self) -> Files:
        return {file: pack(tensors) for file, tensors in self.tensors.items()} | {"state.json": self.state_json}


def take_snapshot(state: TrainState, progress: Mapping[str, Any], world: World | None = None) -> Snapshot:
    """The state as it is now, in full on rank 0. ``progress`` is the run's own (log window, best, ...), kept as JSON."""
    world = world or World(state.device)
    names: dict[Tensor, str] = {parameter: name for name, parameter in state.model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for parameter, values in state.optimizer.state.items():
        tensors |= {f"{names[parameter]}//{key}": value for key, value in values.items()}
    groups = [
        {key: value for key, value in group.items() if key != "params"} | {"params": [names[p] for p in group["params"]]}
        for group in state.optimizer.param_groups
    ]
    schedule = {key: value for key, value in state.schedule.state_dict().items() if key != "lr_lambdas"}
    streams = world.gather(get_rng())
    document = {
        "format": FORMAT,
        "step": state.step,
        "max_tokens": state.max_tokens,
        "optimizer": groups,
        "schedule": schedule,
        "scaler": state.scaler.state_dict(),
        "rng": [numbers for _, numbers in streams],
        "progress": dict(progress),
    }
    return Snapshot(
        state.step,
        {
            "model.safetensors": collect(model_tensors(state.model), world),
            "optimizer.safetensors": collect(tensors, world),
            "rng.safetensors": {f"{rank}.{n}": t for rank, (stream, _) in enumerate(streams) for n, t in stream.items()},
        },
        json.dumps(document, indent=1, allow_nan=False).encode(),
    )


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: t.detach().contiguous().cpu() for name, t in tensors.items()})


def load_state(state: TrainState, files: Files | None, world: World | None = None) -> dict[str, Any]:
    """Put a checkpoint, which rank 0 has read, back bit by bit on all ranks; returns the run's progress.

    The RNG comes last: loading must not shift it. A rank that the checkpoint has no stream for keeps its own.
    """
    world = world or World(state.device)
    document: dict[str, Any] = world.on_main(lambda: json.loads(files["state.json"]))  # type: ignore[index]
    load_model(state.model, files, world)
    names = [name for group in state.optimizer.param_groups for name in parameter_names(state.model, group["params"])]
    saved = [name for group in document["optimizer"] for name in group["params"]]
    if names != saved:
        raise ModelError("the checkpoint's optimizer holds other parameters than this model: resume with the same model")
    tensors = {} if files is None else safetensors.torch.load(files["optimizer.safetensors"])
    parameters = dict(state.model.named_parameters())
    values: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for key in world.from_main(list(tensors)):
        name, _, kind = key.rpartition("//")
        own = torch.zeros((), device=state.device) if kind == "step" else torch.zeros_like(parameters[name])
        put(own, tensors.get(key), world)
        values[name][kind] = own.detach()
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
    state.step, state.max_tokens = document["step"], document["max_tokens"]
    streams = world.on_main(lambda: safetensors.torch.load(files["rng.safetensors"]))  # type: ignore[index]
    if not document["rng"]:
        raise ValueError("no state of the random generators")
    if world.rank < len(document["rng"]):
        mark = f"{world.rank}."
        own_stream = {name.removeprefix(mark): tensor for name, tensor in streams.items() if name.startswith(mark)}
        set_rng(own_stream, document["rng"][world.rank])
    progress: dict[str, Any] = document["progress"]
    return progress


def load_model(model: nn.Module, files: Files | None, world: World | None = None) -> None:
    """The weights alone, in place, on all ranks from what rank 0 has read."""
    own = model_tensors(model)
    world = world or World(next(iter(own.values())).device)
    saved = {} if files is None else safetensors.torch.load(files["model.safetensors"])
    names = world.from_main(list(saved))
    if {*names} != own.keys():
        odd = sorted({*names} ^ own.keys())[0]
        raise ModelError(f"the checkpoint does not fit the model ({odd} is in one of them only)")
    for name in names:
        put(own[name], saved.get(name), world)


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
        tensors["cuda"] = torch.cuda.get_rng_state()  # of this rank's device, which choose_device has made the current one
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
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    if "mps" in tensors and torch.backends.mps.is_available():
        torch.mps.set_rng_state(tensors["mps"])


@contextmanager
def rng_untouched() -> Iterator[None]:
    """Random numbers that are drawn inside do not move the generators of the training."""
    before = get_rng()
    try:
        yield
    finally:
        set_rng(*before)


# ---------------------------------------------------------------------------------------- how it gets onto the disk


def commit(root: Path, step: int, files: Files) -> Path:
    """Write ``root/step-NNNNNNNN``; it is there in full or not at all. Raises ResourceError (disk full, not writable)."""
    final = root / f"step-{step:08d}"
    temporary = root / f".tmp-{final.name}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed here
        temporary.mkdir(parents=True)
        manifest = {name: write_synced(temporary / name, content) for name, content in files.items()}
        write_synced(temporary / "MANIFEST.json", sealed({"format": FORMAT, "step": step, "files": manifest}))
        sync_directory(temporary)
        if final.exists():  # not ours: what this run had there is gone or set aside by now
            set_aside(final)
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


def sealed(document: Mapping[str, Any]) -> bytes:
    """The manifest with a sha256 of itself: no other text says the same, so a flipped bit in it shows, too."""
    digest = hashlib.sha256(json.dumps(document, indent=1).encode()).hexdigest()
    return json.dumps({**document, "sha256": digest}, indent=1).encode()


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


def set_aside(directory: Path) -> None:
    """Un-name what is damaged; it stays as ``.bad-step-NNNNNNNN`` for the user to look at. An earlier such one goes."""
    bad = directory.with_name(f".bad-{directory.name}")
    shutil.rmtree(bad, ignore_errors=True)
    os.rename(directory, bad)
    note(f"warning: {directory} is set aside as {bad.name}; delete it when you do not need it")


def clean(root: Path) -> None:
    """Delete what a killed process has left half-written or half-deleted. For the holder of the run's lock only."""
    for pattern in (".tmp-step-*", ".dead-step-*"):
        for path in root.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def steps_in(root: Path) -> list[int]:
    """Steps of the checkpoints there, oldest first; not verified."""
    if not root.is_dir():
        return []
    return sorted(int(match[1]) for path in root.iterdir() if (match := NAME.fullmatch(path.name)))


def read(directory: Path) -> Files:
    """The files of a checkpoint, each compared with its sha256.

    Raises DamagedError naming the first that differs, ResourceError if one cannot be read, but may be whole.
    """
    try:
        if (directory / "MANIFEST.json").stat().st_size > MOST_BYTES:
            raise DamagedError(f"{directory} is damaged (its manifest is larger than {MOST_BYTES >> 20} MiB)")
        content = (directory / "MANIFEST.json").read_bytes()
        manifest = json.loads(content)
        if sealed({key: value for key, value in manifest.items() if key != "sha256"}) != content:
            raise DamagedError(f"{directory / 'MANIFEST.json'} is damaged")
        if manifest["format"] > FORMAT:
            raise ModelError(f"{directory} has format {manifest['format']}, this version reads up to {FORMAT}: update")
        files = {}
        for name, expected in manifest["files"].items():
            if not PLAIN_NAME.fullmatch(name):
                raise DamagedError(f"{directory}: the manifest names {name!r}, which is not a plain file name")
            is_whole = (directory / name).stat().st_size == expected["bytes"]  # before it is read: it may be of any size
            content = (directory / name).read_bytes() if is_whole else b""
            if len(content) != expected["bytes"] or hashlib.sha256(content).hexdigest() != expected["sha256"]:
                raise DamagedError(f"{directory / name} is damaged")
            files[name] = content
        if "state.json" not in files:
            raise DamagedError(f"{directory} is damaged (its manifest names no state.json)")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        if isinstance(error, OSError) and error.errno in NO_DAMAGE:
            raise ResourceError(f"checkpoint {directory} cannot be read: {error.strerror}") from error
        raise DamagedError(f"{directory} is damaged ({type(error).__name__})") from error
    return files


def newest(root: Path) -> Files | None:
    """The newest checkpoint that verifies, with a warning for each that does not; None if there is none at all.

    Raises ModelError when there are checkpoints and none is whole, or a newer version wrote one: starting over, or from
    further back, must be the user's decision.
    """
    steps = steps_in(root)
    for step in reversed(steps):
        try:
            return read(root / f"step-{step:08d}")
        except DamagedError as error:
            note(f"warning: {error}; trying an older checkpoint")
    if steps:
        raise ModelError(f"no checkpoint in {root} is whole: give --overwrite to start from the beginning")
    return None


def set_aside_after(root: Path, step: int) -> None:
    """Those later than ``step``, the newest that is whole."""
    for later in steps_in(root):
        if later > step:
            set_aside(root / f"step-{later:08d}")


def discard_all(root: Path) -> None:
    """Of a run that is to start again."""
    for step in reversed(steps_in(root)):
        discard(root / f"step-{step:08d}")
    clean(root)
    for path in root.glob(".bad-step-*"):
        shutil.rmtree(path, ignore_errors=True)


def rotate(root: Path, keep: int, whole: dict[int, int]) -> None:
    """Delete all but the newest ``keep`` whole checkpoints (at least two) and the best ones that they refer to.

    ``whole``: the steps that this process has written or read, each with the best step that it refers to. Another is read
    before it is counted, and joins them or is set aside. What cannot be read or deleted is left, with a warning: that is no
    reason to end a run.
    """
    try:
        steps = steps_in(root)
        kept: set[int] = set()
        counted = 0
        for step in reversed(steps):
            if counted < max(keep, MIN_KEPT) < len(steps) and is_whole(root / f"step-{step:08d}", step, whole):
                kept |= {step, whole[step]}
                counted += 1
        for step in steps:
            if counted and step not in kept:
                discard(root / f"step-{step:08d}")
    except (OSError, ResourceError) as error:
        note(f"warning: old checkpoints in {root} could not be deleted ({getattr(error, 'strerror', None) or error})")


def is_whole(directory: Path, step: int, whole: dict[int, int]) -> bool:
    """Known to be, or found to be and now known; else set aside. Raises ResourceError, OSError."""
    if step not in whole:
        try:
            whole[step] = best_step(read(directory))
        except DamagedError:
            set_aside(directory)
            return False
    return True


def best_step(files: Files) -> int:
    """The step of the best model so far; a checkpoint's own if there is none."""
    document = json.loads(files["state.json"])
    step: int = (document["progress"].get("best") or document)["step"]
    return step

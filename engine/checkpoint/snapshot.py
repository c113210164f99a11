"""What is in a checkpoint: everything a run needs to go on as if it had never stopped, as tensors and JSON.

A model in one piece is saved in full by rank 0. Of a model that is spread over the ranks (``--shard``) each rank saves its
own rows of every tensor, and reads the rows that it needs, however many ranks have saved them: nobody holds the whole.
Next: saver.py, which decides when a checkpoint is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.average import Average
from engine.checked import parse_object
from engine.checkpoint.store import FULL, SHARDED, Checkpoint, Content, file_name
from engine.checkpoint.tensor_file import TensorFile
from engine.distributed.world import World
from engine.distributed.wrap import is_sharded, load_full, local_rows, own_rows
from engine.errors import ModelError
from engine.seed import get_rng, set_rng
from engine.state import TrainState


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; tied ones once, under their first name."""
    kept = model.state_dict().keys()
    return dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in kept}


@dataclass(frozen=True)
class Snapshot:
    """The training state between two steps: ``tensors`` by file and name, and what becomes state.json, on rank 0.

    ``first_rows``, by file and name: where in the full tensor those of a sharded model begin. The tensors are those of the
    run, which the next step changes; ``copy`` is of its own, on the CPU.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state_json: bytes
    first_rows: dict[str, dict[str, int]] = field(default_factory=dict)

    def copy(self) -> Snapshot:
        copies = {
            file: {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}
            for file, tensors in self.tensors.items()
        }
        return Snapshot(self.step, copies, self.state_json, self.first_rows)

    def files(self) -> dict[str, Content]:
        """What this rank writes."""
        found: dict[str, Content] = {
            file: TensorFile(tensors, self.first_rows.get(file)) for file, tensors in self.tensors.items()
        }
        return found | ({"state.json": self.state_json} if self.state_json else {})


def take_snapshot(state: TrainState, progress: Mapping[str, Any], world: World | None = None) -> Snapshot:
    """The state as it is now: in full on rank 0, or of a sharded model this rank's part on each. Collective.

    ``progress`` is the run's own (log window, best, ...), kept as JSON.
    """
    world = world or World(state.device)
    names: dict[Tensor, str] = {parameter: name for name, parameter in state.model.named_parameters()}
    moments: dict[str, Tensor] = {}
    for parameter, values in state.optimizer.state.items():
        moments |= {f"{names[parameter]}//{key}": value for key, value in values.items()}
    groups = [
        {key: value for key, value in group.items() if key != "params"} | {"params": [names[p] for p in group["params"]]}
        for group in state.optimizer.param_groups
    ]
    schedule = {key: value for key, value in state.schedule.state_dict().items() if key != "lr_lambdas"}
    streams = world.gather(get_rng())
    sharded = world.size > 1 and any(is_sharded(parameter) for parameter in names)
    tensors: dict[str, dict[str, Tensor]] = {}
    first_rows: dict[str, dict[str, int]] = {}
    averages = [("average", state.average.tensors)] if state.average.tensors else []
    for kind, found in [("model", model_tensors(state.model)), ("optimizer", moments), *averages]:
        if sharded:
            file = file_name(kind, world.rank, world.size)
            tensors[file], first_rows[file] = local_rows(found, world)
        elif world.is_main:
            tensors[file_name(kind)] = {n: own_rows(t, world)[0] if is_sharded(t) else t for n, t in found.items()}
    if not world.is_main:
        return Snapshot(state.step, tensors, b"", first_rows)
    document = {
        "format": SHARDED if sharded else FULL,
        "step": state.step,
        "max_tokens": state.max_tokens,
        "optimizer": groups,
        "schedule": schedule,
        "scaler": state.scaler.state_dict(),
        "rng": [numbers for _, numbers in streams],
        "progress": dict(progress),
    }
    tensors["rng.safetensors"] = {f"{rank}.{n}": t for rank, (stream, _) in enumerate(streams) for n, t in stream.items()}
    state_json = json.dumps(document, indent=1, allow_nan=False).encode()
    return Snapshot(state.step, tensors, state_json, first_rows)


def load_state(state: TrainState, files: Checkpoint | None, world: World | None = None) -> dict[str, Any]:
    """Put a checkpoint, which rank 0 has opened, back bit by bit on all ranks; returns the run's progress. Collective.

    The RNG comes last: loading must not shift it. A rank that the checkpoint has no stream for keeps its own.
    """
    world = world or World(state.device)
    files = world.broadcast(files)
    assert files is not None, "rank 0 has opened one"
    document: dict[str, Any] = world.broadcast_from_main(lambda: parse_object(files["state.json"]))
    load_model(state.model, files, world)
    load_average(state.average, files, world)
    names = [name for group in state.optimizer.param_groups for name in parameter_names(state.model, group["params"])]
    saved = [name for group in document["optimizer"] for name in group["params"]]
    if names != saved:
        raise ModelError("the checkpoint's optimizer holds other parameters than this model: resume with the same model")
    load_optimizer(state, document["optimizer"], names, files, world)
    lambdas = state.schedule.state_dict().get("lr_lambdas")
    state.schedule.load_state_dict({**document["schedule"], "lr_lambdas": lambdas})
    if document["scaler"]:
        state.scaler.load_state_dict(document["scaler"])
    state.step, state.max_tokens = document["step"], document["max_tokens"]
    streams = world.broadcast_from_main(lambda: all_tensors(files, "rng"))
    if not document["rng"]:
        raise ValueError("no state of the random generators")
    if world.rank < len(document["rng"]):
        mark = f"{world.rank}."
        own_stream = {name.removeprefix(mark): tensor for name, tensor in streams.items() if name.startswith(mark)}
        set_rng(own_stream, document["rng"][world.rank])
    progress: dict[str, Any] = document["progress"]
    return progress


def load_optimizer(state: TrainState, saved: list[dict[str, Any]], names: list[str], files: Checkpoint, world: World) -> None:
    """The optimizer's groups and tensors. ``names``: of its parameters in its order; ``saved``: the groups of state.json.

    A tensor has the shape of its parameter, and is sharded as that is, or another (a count of steps, an average of rows).
    """
    parameters = dict(state.model.named_parameters())
    current = state.optimizer.state_dict()["param_groups"]
    fused = {names[i] for group in current for i in group["params"] if group.get("fused")}
    moments: dict[str, Tensor] = {}
    for key, shape in shapes_in(files, "optimizer", world).items():
        like = parameters[key.rpartition("//")[0]]
        is_alike = shape == tuple(like.shape) and not key.endswith("//step")
        moments[key] = torch.zeros_like(like).detach() if is_alike else torch.zeros(shape, device=state.device)
    load_tensors(moments, files, "optimizer", world)
    values: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for key, tensor in moments.items():
        name, _, kind = key.rpartition("//")
        values[name][kind] = tensor.cpu() if kind == "step" and name not in fused else tensor
    groups = [
        {key: tuple(value) if isinstance(now.get(key), tuple) else value for key, value in group.items()}
        | {"params": now["params"]}
        for group, now in zip(saved, current, strict=True)
    ]
    state.optimizer.load_state_dict(
        {"state": {i: values[name] for i, name in enumerate(names) if values[name]}, "param_groups": groups}
    )


def load_average(average: Average, files: Checkpoint | None, world: World) -> None:
    """The averaged weights, in place, on all ranks. Collective.

    Raises ModelError if the checkpoint has none of these, or others.
    """
    files = world.broadcast(files)
    assert files is not None, "rank 0 has opened one"
    shapes = shapes_in(files, "average", world) if files.names_of("average") else {}
    if shapes.keys() != average.tensors.keys():
        raise ModelError("the checkpoint's averaged weights are not those of this run: resume with the same --ema-decay")
    if shapes:
        load_tensors(average.tensors, files, "average", world)


def load_model(model: nn.Module, files: Checkpoint | None, world: World | None = None) -> None:
    """The weights alone, in place, on all ranks from what rank 0 has opened. Collective.

    Raises ModelError, before a weight is changed, if they are not this model's.
    """
    own = model_tensors(model)
    world = world or World(next(iter(own.values())).device)
    files = world.broadcast(files)
    assert files is not None, "rank 0 has opened one"
    shapes = shapes_in(files, "model", world)
    if shapes.keys() != own.keys():
        odd = sorted(shapes.keys() ^ own.keys())[0]
        raise ModelError(f"the checkpoint does not fit the model ({odd} is in one of them only)")
    load_tensors(own, files, "model", world)


def shapes_in(files: Checkpoint, kind: str, world: World) -> dict[str, tuple[int, ...]]:
    """The shapes of the full tensors, by name, as rank 0 reads them. Collective."""

    def read() -> dict[str, tuple[int, ...]]:
        with files.tensors(kind) as tensors:
            return tensors.shapes

    return world.broadcast_from_main(read)


def load_tensors(own: Mapping[str, Tensor], files: Checkpoint, kind: str, world: World) -> None:
    """Load all tensors of one kind, in place on all ranks. Raises ModelError, before one is changed, if a shape is another.

    Of a sharded one each rank reads its own rows; any other is read by rank 0 and sent, so that the other nodes need not
    see the file. One tensor at a time is in memory twice.
    """
    shapes = shapes_in(files, kind, world)
    for name, tensor in own.items():
        if shapes[name] != tuple(tensor.shape):
            raise ModelError(
                f"the checkpoint does not fit the model ({name}: {shapes[name]} there, {tuple(tensor.shape)} here)"
            )
    sharded = {name: own_rows(tensor, world) for name, tensor in own.items() if is_sharded(tensor)}

    def read() -> None:
        with files.tensors(kind) as tensors:
            for name, (local, first) in sharded.items():
                if len(local):
                    local.copy_(tensors.rows(name, first, first + len(local)))

    if sharded:
        with torch.no_grad():
            world.on_all_ranks(read)
    with files.tensors(kind) if world.is_main else nullcontext() as tensors:
        for name in [name for name in own if name not in sharded]:
            load_full(own[name], None if tensors is None else tensors.full(name), world)


def all_tensors(files: Checkpoint, kind: str) -> dict[str, Tensor]:
    """All tensors of a kind that is small, on the CPU, by name."""
    with files.tensors(kind) as tensors:
        return {name: tensors.full(name).clone() for name in tensors.shapes}


def parameter_names(model: nn.Module, parameters: list[Tensor]) -> list[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in parameters]

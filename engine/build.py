"""Putting a run together, in the one order that works; the only place that knows it.

seed -> examples -> model -> packed attention -> targets -> gradient checkpointing -> LoRA -> frozen parameters -> device, or
shards -> compile -> DDP -> optimizer and schedule -> a rehearsal, with DDP -> seed again -> (checkpoint, with its RNG).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.average import Average
from engine.checkpoint.snapshot import model_tensors
from engine.clock import Clock
from engine.config import TrainConfig
from engine.cuda_graph import GraphedAccumulate
from engine.data.collate import Layout
from engine.data.plan import Plan
from engine.data.tables import called
from engine.distributed.device import choose_device
from engine.distributed.world import World
from engine.distributed.wrap import blocks, collect, fill, replicate, shard, skeleton
from engine.errors import UsageError
from engine.loader import Data, batches, eval_loader, share
from engine.loop import accumulate
from engine.memory.retry import OutOfMemoryRetry
from engine.memory.usage import keep_freed_memory
from engine.model import key_value_cache, lora, target_logits
from engine.model.dropout import set_head_dropout, use_fast_dropout
from engine.model.flops import count_flops, peak_flops
from engine.model.layout import choose_layout
from engine.model.projected import projected
from engine.model.reinit import reinitialise
from engine.optimizer import SkipGuard, freeze, make_optimizer
from engine.precision import Precision, allow_tf32, choose_precision, make_autocast, make_scaler
from engine.record.evaluate import evaluate
from engine.record.figures import Evaluation, figure_names
from engine.record.run import Run
from engine.record.seen import Seen
from engine.record.stop import Stop, until_stopped
from engine.schedule import make_schedule
from engine.seed import set_seed
from engine.state import TrainState
from engine.task import Examples, Task, held_out

ROUND_TO_ON_CPU = 64  # in bf16: oneDNN compiles each product of a shape that it has not seen of late
# Lengths of packed rows are rounded up to a multiple of the one, so that the other is about their number.
ROUND_TO, NUM_SHAPES = 256, 32
GRAPH_TOKENS = 32_768  # in larger micro-batches kernels take longer than their launches


@dataclass(frozen=True)
class Setup:
    """A run put together, before its first step.

    ``plain``: the model to save, without its weights if they are sharded. ``graphs``: its steps are recorded (cuda_graph.py).
    """

    state: TrainState
    data: Data
    world: World
    precision: Precision
    layout: Layout
    plain: nn.Module
    graphs: bool = False

    def full_model(self) -> nn.Module | None:
        """The trained model as transformers knows it; a sharded one on rank 0, on the CPU, and None elsewhere. Collective."""
        if self.plain is self.state.model:
            return self.plain
        tensors = collect(model_tensors(self.state.model), self.world)
        return fill(self.plain, tensors) if self.world.is_main else None


def build(
    task: Task[Any], examples: Examples, config: TrainConfig, model: nn.Module | None = None, world: World | None = None
) -> Setup:
    """The state before step 1. ``model``: one's own, else the task's. Raises UsageError, ModelError.

    The seed is set before the model is built, so that a new head is a function of it, and again after, so that the
    dropout of step 1 does not depend on how many numbers the head took (nor does Trainer's, which seeds there).
    """
    world = world or World(choose_device(config.device))
    device = world.device
    precision = choose_precision(config.precision, device)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS wants it before its first call
    torch.use_deterministic_algorithms(config.deterministic)
    set_seed(config.seed)
    allow_tf32(device, precision)
    if device.type == "cpu":
        keep_freed_memory()
    model, plain, layout = world.on_all_ranks(lambda: prepared(task, config, device, precision, model))
    world.check_same_on_all_ranks("parameters", {name: list(parameter.shape) for name, parameter in model.named_parameters()})
    model = shard(model, world, precision) if config.shard else model.to(device)
    if config.compile:  # in place: torch.compile(model) would rename the parameters
        model.compile(dynamic=True)
    graphs = wants_graphs(config, layout, world, examples.lengths)
    if graphs:
        layout = few_shapes(layout, task, model, config)
    elif device.type == "cpu" and precision == "bf16" and layout.kind == "packed":
        layout = dataclasses.replace(layout, round_to=ROUND_TO_ON_CPU)
    replica = model
    if not config.shard:
        replica = replicate(model, world, find_unused_parameters=config.find_unused_parameters)
    plan = Plan.of(config, examples.lengths, packed=layout.kind == "packed")
    optimizer = make_optimizer(model, config)
    guard = SkipGuard(optimizer, device, sticky=precision != "fp16")
    clock = Clock(device)
    state = TrainState(
        model=model,
        replica=replica,
        parameters=[p for p in model.parameters() if p.requires_grad],
        optimizer=optimizer,
        schedule=make_schedule(optimizer, config, plan.num_steps),
        scaler=make_scaler(precision, device),
        guard=guard,
        average=Average(model, optimizer, guard, config.ema_decay),
        autocast=make_autocast(precision, device),
        clock=clock,
        device=device,
    )
    data = Data(plan, task, examples, layout, config, world, clock)
    if task.additive and world.size == 1:  # another rank would not know of the micro-batches of a cut one
        state.execute = OutOfMemoryRetry(data.batch, partial(called, examples))
    if graphs:
        state.execute = nested(state.execute, GraphedAccumulate())
    if replica is not model:
        rehearse(state, data)
    set_seed(config.seed, world.rank)
    return Setup(state, data, world, precision, layout, plain, graphs)


def rehearse(state: TrainState, data: Data) -> None:
    """One backward pass of which nothing stays but the order that it ends in. Raises UsageError, as its exchange does.

    After the first one DDP puts the gradients into other buckets, and where a number lies in a bucket decides in which order
    the ranks' are added up. A run that is resumed would so be rounded otherwise than one that never stopped.
    """
    rows = next(iter(data.plan.micro_batches()))
    batch = data.world.on_all_ranks(lambda: data.batch(share(rows, data.world)))
    state.model.train()
    accumulate(state, data.task, [batch], torch.ones((), device=state.device))
    state.optimizer.zero_grad(set_to_none=True)
    state.clock.forget()


def prepared(
    task: Task[Any], config: TrainConfig, device: torch.device, precision: Precision, model: nn.Module | None
) -> tuple[nn.Module, nn.Module, Layout]:
    """The model on the CPU, ready for its batches; the one to save; the layout. Raises UsageError, ModelError."""
    if config.lora:
        lora.library()  # is it there? asked before a model is loaded
        refuse_changed_base(task, config)
    model = task.build_model() if model is None else model
    if config.reinit_layers:
        reinitialise(model, blocks(model), config.reinit_layers)
    if config.classifier_dropout is not None:
        set_head_dropout(model, config.classifier_dropout)
    plain = skeleton(model) if config.shard else None
    layout = choose_layout(config.batching, model, task.level, task.max_length, device, precision)
    target_logits.enable(model, task.level)
    key_value_cache.keep_for_generate(model)
    if config.gradient_checkpointing:
        if not getattr(model, "supports_gradient_checkpointing", False):
            raise UsageError(f"--gradient-checkpointing: {type(model).__name__} does not know it; leave it out")
        enable: Any = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})  # two names of one: transformers 5.23 deprecates the second
    if config.lora:
        model = lora.add(model, config, task.source.config.revision)
        if layout.kind == "packed":
            use_fast_dropout(model)  # the adapters' own, too
    if config.freeze is not None:
        freeze(model, config.freeze)
    if config.compile and layout.kind == "packed" and device.type == "cpu":
        raise UsageError("--compile on a CPU needs --batching padded: the packed attention there is a loop, and not a graph")
    return model, model if plain is None else plain, layout


def refuse_changed_base(task: Task[Any], config: TrainConfig) -> None:
    """An adapter is laid over the checkpoint as it is, and what has been changed there would be lost. Raises UsageError."""
    for flag, is_given in (("--reinit-layers", config.reinit_layers), ("--add-tokens", task.source.config.add_tokens)):
        if is_given:
            raise UsageError(f"{flag} changes what --lora leaves frozen and does not save: leave one of them out")


def wants_graphs(config: TrainConfig, layout: Layout, world: World, lengths: Any) -> bool:
    """Are steps to be recorded? ``auto``: where launching their kernels takes longer than running them. Raises UsageError."""
    can = world.device.type == "cuda" and layout.kind == "packed" and world.size == 1
    if config.cuda_graph == "on" and not can:
        raise UsageError("--cuda-graph on needs a CUDA device, packed batches and one rank")
    is_small = (config.tokens_per_batch or float(np.mean(lengths)) * config.batch_size) <= GRAPH_TOKENS
    return can and (config.cuda_graph == "on" or (config.cuda_graph == "auto" and is_small))


def few_shapes(layout: Layout, task: Task[Any], model: nn.Module, config: TrainConfig) -> Layout:
    """Rounded lengths and a constant longest one, so that at most some thirty shapes occur."""
    longest = int(task.max_length or model.config.max_position_embeddings)  # type: ignore[union-attr,arg-type]
    most = config.tokens_per_batch or config.batch_size * longest
    round_to = -(-most // (NUM_SHAPES * ROUND_TO)) * ROUND_TO
    return dataclasses.replace(layout, max_length=longest, round_to=round_to)


def nested(outer: Callable[..., Any], inner: Callable[..., Any]) -> Callable[..., Any]:
    """Both take the function that they go around as the first argument."""
    return lambda function, *arguments: outer(partial(inner, function), *arguments)


def best_metric(task: Task[Any], config: TrainConfig, sets: Mapping[str, Examples]) -> str:
    """What makes a model the best: as asked, else the task's choice, of several evaluation sets on the first."""
    return config.best_metric or next(iter(figure_names([task.best_metric], sets)), task.best_metric)


def make_run(
    directory: Path,
    task: Task[Any],
    config: TrainConfig,
    setup: Setup,
    examples: Mapping[str, Examples],
    stop: Stop | None = None,
) -> Run:
    """The book-keeping, with the evaluation it is to call."""
    sets = held_out(examples)
    metric = best_metric(task, config, sets)
    peak = peak_flops(setup.state.device, setup.precision)
    state, stop, seen = setup.state, stop or Stop(), Seen(task, [*sets])

    def measure_on(name: str) -> Evaluation:
        loader = eval_loader(task, sets[name], setup.layout, config, setup.world)
        found = until_stopped(batches(loader), stop, setup.world)
        look = seen.look(name, state.step, run.best)
        with projected(state.model) if look else nullcontext():
            return evaluate(state.model, task, found, state.autocast, setup.world, split=name, total=len(loader), look=look)

    def measure() -> Evaluation:
        with state.average.in_place():
            return Evaluation.of({name: measure_on(name) for name in sets})

    run = Run(
        directory, config, state, setup.data.plan.num_steps,
        evaluate=measure if sets else None,
        best_metric=metric, lower_is_better=metric in [
            name for each in sets for name in figure_names(["loss", *task.metrics(each).lower_is_better], sets)
        ],
        flops=count_flops(lora.plain(state.model), task.level), peak_flops=peak and peak * setup.world.size, stop=stop,
        world=setup.world, row_names=partial(called, examples["train"]), seen=seen,
    )  # fmt: skip
    return run

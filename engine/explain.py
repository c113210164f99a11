"""What a run would do, cost and take, before it does: ``--explain``. Nothing is written, and nothing of the run changes.

The run is put together as ever, a few of its steps are tried, and all of that is thrown away. Each line ends with the
function that its numbers come from. Next: data/plan.py, model/flops.py.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.artifacts.document import RunDocument
from engine.artifacts.report import histogram
from engine.build import Setup, build
from engine.checks import memory_needed
from engine.config import TrainConfig
from engine.console import counted, note, say
from engine.data.collate import PADDED, Layout
from engine.data.plan import Plan
from engine.distributed.device import describe_device
from engine.distributed.world import World
from engine.loop import train_step
from engine.memory.estimate import bytes_per_rank
from engine.memory.usage import peak_memory_gb
from engine.model import lora
from engine.model.flops import count_flops
from engine.optimizer import describe_optimizer, freeze, make_optimizer
from engine.record.tally import Tally
from engine.schedule import make_schedule
from engine.task import Examples, Task, held_out

BLOCKS = " ▁▂▃▄▅▆▇█"
CURVE, MARGIN = 40, 124  # characters: of a curve, of a line
TRIED_STEPS, TRIED_SECONDS = 3, 20.0  # after one to get warm; none is begun when so much time has passed


@dataclass(frozen=True)
class Totals:
    """Counts of the whole run, from its plan. ``executed_tokens``: with padding; ``sum_squares``: of the rows' lengths."""

    num_rows: int
    num_tokens: int
    executed_tokens: int
    sum_squares: int
    num_micro_batches: int


@dataclass
class TrialSteps:
    """A few steps: what they held, and what they took. ``squares``: of their rows' lengths in the plan."""

    tally: Tally = field(default_factory=Tally)
    squares: int = 0
    seconds: float = 0.0
    forward_seconds: float = 0.0


def explain(
    task: Task[Any],
    config: TrainConfig,
    examples: Mapping[str, Examples],
    model: nn.Module | None = None,
    world: World | None = None,
) -> None:
    """Print what the run would do. ``model``: one's own, of which a copy is taken. Collective.

    Raises UsageError, ModelError, ResourceError.
    """
    setup = build(task, examples["train"], config, copy.deepcopy(model), world)
    plan, lengths = setup.data.plan, examples["train"].lengths
    kind, max_length = "bucketed" if plan.bucketed else setup.layout.kind, task.max_length or 0
    totals = totals_of(plan, kind, max_length, setup.layout)
    ranks = f"{setup.world.size} ranks on " if setup.world.size > 1 else ""
    show("device", f"{ranks}{describe_device(setup.world.device)}, {setup.precision}", describe_device)
    show("optimizer", describe_optimizer(dataclasses.asdict(config)), describe_optimizer)
    for group in setup.state.optimizer.param_groups:
        size = sum(parameter.numel() for parameter in group["params"])
        rate, decay = group["initial_lr"], group["weight_decay"]
        half = {"muon": ", Muon", "adamw": ", AdamW"}.get(group.get("kind", ""), "")
        text = f"{size:,} parameters in {len(group['params'])} tensors: rate {rate:g}, decay {decay:g}{half}"
        show("train", text, make_optimizer)
    if frozen := sum(p.numel() for p in setup.state.model.parameters() if not p.requires_grad):
        show(
            "frozen", f"{frozen:,} parameters", freeze if config.freeze else lora.add if config.lora else type(task).build_model
        )
    epochs = f"{counted(plan.num_steps / plan.steps_in(0), 'epoch')} of {plan.steps_in(0):,}"
    show("steps", f"{plan.num_steps:,} = {epochs}, of {totals.num_micro_batches:,} micro-batches", Plan.num_steps)
    per_step = f"{totals.num_rows / plan.num_steps:.2f} examples, {totals.num_tokens / plan.num_steps:,.1f} tokens"
    show("batch", f"{per_step} a step, on average", totals_of)
    rates = learning_rates(setup)
    show("rate", f"{curve(rates)}  first {rates[0]:.3g}, highest {max(rates):.3g}, last {rates[-1]:.3g}", make_schedule)
    counts = histogram(lengths)["counts"]
    show("lengths", f"{curve(counts)}  {lengths.min()} to {lengths.max()} tokens, {lengths.mean():.1f} on average", histogram)
    wastes = ", ".join(f"{name} {waste:.2%}" for name, waste in padding_wastes(plan, task, setup.layout).items())
    show("padding", f"{wastes}; here {kind}", padding_wastes)
    sizes, each = memory_needed(setup, config), " on each rank" if ranks else ""
    parts = " + ".join(f"{name} {size / 2**20:,.1f}" for name, size in sizes.items())
    show("memory", f"{parts} MiB", bytes_per_rank)
    show("", f"{sum(sizes.values()) / 2**20:,.1f} MiB{each} in all, and the activations", memory_needed)

    tried = try_steps(setup, task, config)
    steps = counted(tried.tally.num_steps, "tried step")
    whole = "allocated on the device" if setup.world.device.type == "cuda" else "of the whole process"
    show("", f"{peak_memory_gb(setup.world.device):.2f} GiB {whole} at most in {steps}", peak_memory_gb)
    flops = flops_of(setup, task, totals, tried)
    show("compute", f"{flops / 1e9:,.4g} GFLOP a step, on average" if flops else "of this model not counted", flops_of)
    seconds = tried.seconds / tried.tally.executed_tokens * totals.executed_tokens
    show("time", f"{duration(seconds)}, {seconds / plan.num_steps:.3g} s a step, as the tried steps went", try_steps)
    if sets := held_out(examples):
        num = sum(at.due(config.eval_steps) for at in plan.positions())
        seconds = (
            num * tried.forward_seconds / tried.tally.num_tokens * float(sum(part.lengths.sum() for part in sets.values()))
        )
        times = f"{num} evaluations, as their forward passes went" if num > 1 else "the evaluation, as forward passes went"
        show("", f"{duration(seconds)} more for {times}; and saving", try_steps)
    say("nothing was trained and nothing written: the same without --explain does it")


def show(name: str, text: str, source: Any) -> None:
    """A line, at its right margin the function behind it."""
    function = inspect.unwrap(source.func if isinstance(source, cached_property) else source)
    where = f"{function.__module__.replace('.', '/')}.py: {function.__qualname__}"
    say(f"{f'{name:<10} {text}':<{MARGIN - len(where) - 1}} {where}", flush=True)


def rows_of(plan: Plan) -> Iterator[np.ndarray]:
    """The rows of every micro-batch of the run."""
    for epoch, _, _, until in plan.epochs_from(0):
        yield from plan.batches(epoch)[: until * plan.accumulation_steps]


def totals_of(plan: Plan, kind: str, max_length: int, layout: Layout = PADDED) -> Totals:
    """Counts of the run when its batches are laid out as ``kind``; packed ones are filled up as in the run's ``layout``."""
    assert plan.lengths is not None
    rows = tokens = executed = squares = num = 0
    for micro_batch in rows_of(plan):
        lengths = plan.lengths[micro_batch].astype(np.int64)
        width = max_length if kind == "max_length" else int(lengths.max())
        rows, tokens, squares, num = (
            rows + len(lengths),
            tokens + int(lengths.sum()),
            squares + int((lengths**2).sum()),
            num + 1,
        )
        executed += layout.filled(int(lengths.sum())) if kind == "packed" else len(lengths) * width
    return Totals(rows, tokens, executed, squares, num)


def padding_wastes(plan: Plan, task: Task[Any], layout: Layout = PADDED) -> dict[str, float]:
    """Share of padding under each ``--batching``, of the batches that it would make.

    Where a row is several texts, each of which is padded, their lengths together do not tell: only packed is known, nearly 0.
    ``layout``: the run's.
    """
    max_length = task.max_length or 0
    kinds = ["packed", "bucketed", "padded"] + (["max_length"] if max_length else []) if task.one_text else ["packed"]
    found = {}
    for kind in kinds:
        totals = totals_of(replace(plan, bucketed=kind == "bucketed", packed=kind == "packed"), kind, max_length, layout)
        found[kind] = 1 - totals.num_tokens / totals.executed_tokens
    return found


def learning_rates(setup: Setup) -> list[float]:
    """The learning rates of at most as many steps as a curve has characters, the first and the last among them."""
    schedule, num_steps = setup.state.schedule, setup.data.plan.num_steps
    steps = np.unique(np.linspace(0, num_steps - 1, CURVE).astype(int)).tolist()
    return [schedule.base_lrs[0] * schedule.lr_lambdas[0](step) for step in steps]  # type: ignore[attr-defined]


def curve(values: Sequence[float]) -> str:
    """The values as a line of blocks; only a zero is blank."""
    top = max(values) or 1.0
    return "".join(BLOCKS[int(np.ceil(value / top * (len(BLOCKS) - 1)))] for value in values)


def try_steps(setup: Setup, task: Task[Any], config: TrainConfig) -> TrialSteps:
    """Take the first steps, the very first to get warm. ``setup`` is worn afterwards."""
    assert setup.data.plan.lengths is not None
    tried, state = TrialSteps(), setup.state
    state.model.train()
    start = began = time.perf_counter()
    for at, micro_batches in islice(setup.data.steps(), 1 + TRIED_STEPS):
        record = train_step(state, task, micro_batches, config, setup.world)
        float(record.num_items)  # waits for the device
        forward = state.clock.take()["forward"]
        began, seconds = time.perf_counter(), time.perf_counter() - began
        if at.step == 1 and not at.is_last:
            continue
        tried.tally.count(micro_batches)
        rows = [row for batch in micro_batches for _, row in batch.keys]
        tried.squares += int((setup.data.plan.lengths[rows].astype(np.int64) ** 2).sum())
        tried.seconds, tried.forward_seconds = tried.seconds + seconds, tried.forward_seconds + forward
        if setup.world.broadcast(began - start > TRIED_SECONDS):
            break
    tried.tally = tried.tally.over_ranks(setup.world)
    tried.squares = int(setup.world.all_reduce(torch.tensor(tried.squares)))
    return tried


def flops_of(setup: Setup, task: Task[Any], totals: Totals, tried: TrialSteps) -> float | None:
    """FLOPs of an average step of the run, for its real tokens; None for a model that flops.py does not count.

    How many items an example has (targets of a language model), and whether its length is of one text or of several, is
    taken from the tried steps.
    """
    count, tally = count_flops(lora.plain(setup.state.model), task.level), tried.tally
    if count is None:
        return None
    share = totals.num_rows / tally.num_examples
    whole = count(
        totals.num_tokens,
        round(totals.sum_squares * tally.sum_squares / tried.squares),
        totals.num_rows,
        tally.num_items * share,
    )
    return whole / setup.data.plan.num_steps


def duration(seconds: float) -> str:
    """``about 2 h 5 min``, ``about 3 min 10 s``, ``about 4.2 s``."""
    minutes = int(seconds // 60)
    if minutes >= 60:
        return f"about {minutes // 60:,} h {minutes % 60} min"
    return f"about {minutes} min {seconds % 60:.0f} s" if minutes else f"about {seconds:.2g} s"


def announce(
    task: Task[Any], setup: Setup, examples: Mapping[str, Examples], config: TrainConfig, document: RunDocument
) -> None:
    """Print device, data, model and plan, before the first step."""
    plan = setup.data.plan
    parameters = list(setup.state.model.parameters())
    trained, frozen = (sum(p.numel() for p in parameters if p.requires_grad == wanted) for wanted in (True, False))
    lengths = examples["train"].lengths
    sizes = ", ".join(f"{len(part)} {split}" for split, part in examples.items())
    size = f"up to {plan.tokens_per_batch} tokens" if plan.tokens_per_batch else f"{config.batch_size} examples"
    tf32 = " with TF32" if torch.get_float32_matmul_precision() == "high" and setup.world.device.type == "cuda" else ""
    world = setup.world
    ranks = f"{world.size} ranks on " if world.size > 1 else ""
    how = ", sharded" if config.shard else ""
    warmup = f"{config.warmup_ratio:.0%}" if config.warmup_steps is None else f"{config.warmup_steps} steps of"
    each = f" ({config.batch_size / world.size:.4g} on each rank)" if world.size > 1 and not plan.tokens_per_batch else ""
    say(
        f"device     {ranks}{document.device}{how}, {setup.precision}{tf32}"
        f"{', compiled' if config.compile else ''}{', CUDA graphs' if setup.graphs else ''}"
    )
    say(f"data       {document.data.source}: {sizes} examples, {lengths.mean():.0f} tokens each (longest {lengths.max()})")
    sizes_of = f"{millions(trained)} parameters to train" + (f", {millions(frozen)} frozen" if frozen else "")
    say(f"model      {document.model or type(setup.state.model).__name__}: {sizes_of}")
    say(
        f"plan       {plan.num_steps} steps = {counted(plan.num_steps / plan.steps_in(0), 'epoch')} of {plan.steps_in(0)}; "
        f"{size}{each} x {config.accumulation_steps} accumulated per step; "
        f"{config.schedule} schedule from {config.learning_rate:g}, {warmup} warm-up"
    )
    if config.optimizer != "adamw":
        say(f"optimizer  {describe_optimizer(document.settings)}")
    if config.ema_decay is not None and (memory := 1 / (1 - config.ema_decay)) > plan.num_steps:
        note(f"--ema-decay {config.ema_decay:g} remembers {memory:,.0f} steps, and the run has {plan.num_steps}: the average, "
             "which is what is saved, stays close to the weights at the start")  # fmt: skip
    if not task.additive and config.accumulation_steps > 1:
        say(f"           each micro-batch is compared within itself: {config.accumulation_steps} of {size} are not one larger")
    if not task.additive and world.size > 1:
        say("           each rank compares its own rows with each other: that is another loss than one rank's")
    first = dataclasses.replace(plan, epochs=1, max_steps=None)
    wastes = ", ".join(f"{name} {waste:.0%}" for name, waste in padding_wastes(first, task, setup.layout).items())
    other = "; rows of like length meet, so steps hold other examples than in random order" if plan.bucketed else ""
    if world.size > 1:
        need = memory_needed(setup, config)
        parts = ", ".join(f"{value / 2**30:.2f} {name}" for name, value in need.items())
        say(f"memory     at least {sum(need.values()) / 2**30:.2f} GiB on each rank ({parts}); activations come on top")
    say(f"batching   {'bucketed' if plan.bucketed else setup.layout.kind} (padding: {wastes}){other}", flush=True)


def millions(number: int) -> str:
    """``22.7 M``; a head alone is written out."""
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"

"""A whole fine-tuning run: claim the directory, build, resume, train, take the best, save, sum up.

From the command line this is ``python run.py --task ...``; from Python it is ``fit(task, config)``: see docs/from-python.md.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from engine.artifacts import card
from engine.artifacts.describe import asked, run_document, settings_of, with_model
from engine.artifacts.directory import (
    TEMPORARY,
    claim,
    finished_before,
    locked,
    remove_leftovers,
    remove_run,
    write_run,
)
from engine.artifacts.document import KeptModel, RunDocument
from engine.artifacts.report import read_lines, record_in, render
from engine.build import Setup, build
from engine.checkpoint.snapshot import load_average, load_model
from engine.checkpoint.store import open_checkpoint, sync_directory
from engine.checks import check_data, check_memory, check_shared, check_space, out_of_memory
from engine.config import TrainConfig
from engine.console import note, say
from engine.distributed.device import describe_device
from engine.distributed.join import join
from engine.distributed.world import World
from engine.errors import ModelError, ResourceError, StoppedError
from engine.explain import announce, explain
from engine.loader import batches, eval_loader
from engine.loop import train
from engine.model import lora
from engine.model.flops import count_flops, peak_flops
from engine.precision import choose_precision
from engine.record.evaluate import evaluate
from engine.record.figures import Evaluation
from engine.record.profiling import profiling
from engine.record.run import Run
from engine.record.stop import Stop
from engine.record.writers import Writers, check_own, names_in
from engine.resume import resume
from engine.seed import rng_untouched
from engine.settings.fields import user_path
from engine.task import Examples, Task


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to. ``metrics``: those of the model that was kept; ``model``: in eval mode, on its device.

    Of a run with ``--shard``, rank 0 alone has the model, in full and on the CPU.
    """

    directory: Path
    metrics: dict[str, Any]
    model: nn.Module | None
    skipped: bool = False


def fit(task: Task[Any], config: TrainConfig, model: nn.Module | None = None, world: World | None = None) -> Result:
    """Fine-tune, and leave a model directory that ``from_pretrained`` takes.

    ``model``: one's own, else the task's. ``world``: that of ``with join(...) as world``, for several runs by the same
    ranks; else it is joined and left here.

    A finished run with the same settings and data is not repeated: ``Result.skipped`` is then true and ``model`` None.
    With ``config.explain`` the plan is printed, and nothing else happens.
    Raises UsageError (directory taken, settings that do not fit), DataError, ModelError, DivergedError, ResourceError; with
    several ranks, which torchrun starts and all of which call this, DistributedError.
    """
    directory = user_path(config.output_dir or f"runs/{config.task or type(task).__name__.lower()}")
    names_in(config.write_to)  # is all there that is to write?
    settings = settings_of(task, config)
    with join(config.device, config.rank_timeout) if world is None else nullcontext(world) as ranks:
        ranks.check_same_on_all_ranks("settings", settings)
        ranks.on_main_rank(lambda: check_own(config.write_to))
        if config.explain:
            examples = ranks.on_all_ranks(task.examples, in_turn=True)
            ranks.on_all_ranks(lambda: check_data(task, config, examples, ranks.size))
            explain(task, config, examples, model, ranks)
            return Result(directory, {}, None)
        ranks.on_main_rank(lambda: claim(directory, config, settings, [type(part) for part in asked(task, config)]))
        with ranks.main_rank_context(locked(directory)):
            ranks.on_main_rank(lambda: remove_leftovers(directory))
            return _fit(task, config, model, directory, settings, ranks)


def _fit(
    task: Task[Any], config: TrainConfig, model: nn.Module | None, directory: Path, settings: dict[str, Any], world: World
) -> Result:
    stop = Stop(config.max_minutes)
    world.forget_vote()
    world.on_all_ranks(lambda: choose_precision(config.precision, world.device))  # refused before anything is read
    examples = world.on_all_ranks(task.examples, in_turn=True)
    document = run_document(settings, task, examples)
    world.check_same_on_all_ranks("versions", document.versions)
    world.check_same_on_all_ranks("data", document.data.fingerprints)
    finished = world.broadcast_from_main(lambda: finished_before(directory, config, document))
    if finished is not None:
        say(f"finished model found in {directory}, training skipped (--overwrite trains it again)")
        return Result(directory, finished, None, skipped=True)
    world.on_all_ranks(lambda: check_data(task, config, examples, world.size))

    setup = build(task, examples["train"], config, model, world)
    document = with_model(document, task, setup)
    announce(task, setup, examples, config, document)
    world.on_all_ranks(lambda: check_memory(setup, config))
    if config.shard:
        world.on_all_ranks(lambda: check_shared(directory))
    world.on_main_rank(lambda: check_space(directory, setup, config))
    writers = None
    if config.overwrite:  # what is there goes when nothing else can be refused
        writers = world.on_main_rank(lambda: Writers(config, directory, 0, around=rng_untouched))
        world.on_main_rank(lambda: remove_run(directory, keep=names_in(config.write_to)))
    run = world.on_all_ranks(lambda: make_run(directory, task, config, setup, examples, stop))
    began = time.perf_counter()
    try:
        resume(run, setup, config, document)
        run.writers = writers if config.overwrite else world.on_main_rank(lambda: make_writers(run, config))
        world.on_main_rank(lambda: write_run(directory, document))
        with stop, run.saving(), profiling(run, config.profile if world.is_main else None):
            if not run.should_stop:
                train(setup.state, task, setup.data, config, world, run)
    except torch.OutOfMemoryError as error:
        raise ResourceError(out_of_memory(config, world, describe_device(world.device))) from error
    finally:
        run.close()
    asked = [(rank, reason, code) for rank, (reason, code) in enumerate(world.gather((stop.reason, stop.exit_code))) if reason]
    if asked and setup.state.step < run.num_steps:
        rank, reason, code = asked[0]
        who = f" (rank {rank})" if rank else ""
        raise StoppedError(
            f"stopped by {reason}{who} after step {setup.state.step} of {run.num_steps}, and saved: --resume continues", code
        )
    kept = keep_best(run, setup)
    metrics = summarise(run, setup, time.perf_counter() - began, kept)
    if (best := run.best) is not None and kept == best.step != setup.state.step:
        print(f"best model: that of step {kept} ({best.metric} {best.value:.4f})")
    setup.state.average.replace_weights()
    full = setup.full_model()
    final = None if full is None else lora.finished(full, merge=config.lora_merge)
    which = KeptModel(step=kept, best_step=None if best is None else best.step)
    document = dataclasses.replace(document, kept=which, metrics=metrics, status="finished")
    world.on_main_rank(lambda: finish(directory, task, final, document))  # type: ignore[arg-type]
    say(f"saved to {directory}")
    return Result(directory, metrics, None if final is None else final.eval())


def make_run(
    directory: Path,
    task: Task[Any],
    config: TrainConfig,
    setup: Setup,
    examples: Mapping[str, Examples],
    stop: Stop | None = None,
) -> Run:
    """The book-keeping, with the evaluation it is to call."""
    metric = config.best_metric or task.best_metric
    peak = peak_flops(setup.state.device, setup.precision)
    state, held_out = setup.state, examples.get("eval")

    def measure() -> Evaluation:
        assert held_out is not None
        loader = eval_loader(task, held_out, setup.layout, config, setup.world)
        with state.average.in_place():
            return evaluate(state.model, task, batches(loader), state.autocast, setup.world, total=len(loader))

    return Run(
        directory, config, state, setup.data.plan.num_steps,
        evaluate=measure if held_out is not None else None,
        best_metric=metric, lower_is_better=held_out is None or metric in {"loss", *task.metrics("eval").lower_is_better},
        flops=count_flops(lora.plain(state.model), task.level), peak_flops=peak and peak * setup.world.size, stop=stop,
        world=setup.world,
    )  # fmt: skip


def make_writers(run: Run, config: TrainConfig) -> Writers:
    """The log writers of this process, each with its state of the checkpoint that the run continues from."""
    return Writers(config, run.directory, run.state.step, run.writer_states, rng_untouched)


def keep_best(run: Run, setup: Setup) -> int:
    """Put the best model's weights into the model; returns the step whose weights it has then. Collective.

    If its checkpoint is damaged or gone, the last weights stay, which are those of the newest one, with a warning: hours of
    training must not end without a model. Raises ResourceError if it cannot be read, but may be whole.
    """
    best, last, world = run.best, setup.state.step, setup.world
    if best is None or best.step == last:
        return last
    try:
        path = run.directory / "checkpoints" / f"step-{best.step:08d}"
        files = world.on_main_rank(lambda: open_checkpoint(path))
        load_model(setup.state.model, files, world)
        load_average(setup.state.average, files, world)
    except ModelError as error:
        note(f"warning: the best model, of step {best.step}, is lost ({error}): the last one, of step {last}, is kept")
        return last
    return best.step


def summarise(run: Run, setup: Setup, seconds: float, kept_step: int) -> dict[str, Any]:
    """The figures of the end, printed as the tutorials' logs do; returned for run.json."""
    train_seconds = max(run.train_seconds, 1e-9)
    metrics: dict[str, Any] = {
        "train_loss": run.total.loss,
        "train_runtime": train_seconds,
        "train_samples_per_second": run.total.num_examples / train_seconds,
        "train_steps_per_second": run.total.num_steps / train_seconds,
        "wall_seconds": seconds,
        "num_steps": setup.state.step,
    }
    kept = run.best.evaluation if run.best and run.best.step == kept_step else run.last_evaluation
    if kept is not None:
        metrics |= kept.metrics()
    print(run.where_time_went())
    width = max(len(name) for name in metrics)
    for name, value in metrics.items():
        print(f"  {name:<{width}} = {value:.4f}" if isinstance(value, float) else f"  {name:<{width}} = {value}")
    return metrics


def finish(directory: Path, task: Task[Any], model: nn.Module, document: RunDocument) -> None:
    """Model, processor, pages file by file, each complete when it gets its name; run.json last: it says that all is there."""
    log = read_lines(directory / "metrics.jsonl")
    name = directory.resolve().name
    try:
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=directory) as folder:
            task.save(model, Path(folder))
            lora.complete(model, Path(folder))
            (Path(folder) / "README.md").write_text(card.make(task, model, name, document, log), encoding="utf-8")
            (Path(folder) / "report.html").write_text(render([record_in(directory, document, name)]), encoding="utf-8")
            for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
                with open(path, "rb") as stream:
                    os.fsync(stream.fileno())
                target = directory / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
                sync_directory(target.parent)
        write_run(directory, document)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise ResourceError(f"the model could not be saved in {directory}: {why}; the checkpoints stand") from error

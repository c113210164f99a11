"""A whole fine-tuning run: claim the directory, build, resume, train, take the best, save, sum up.

From the command line this is ``python run.py --task ...``; from Python it is ``fit(task, config)``: see docs/from-python.md.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.artifacts.describe import asked, run_document, settings_of, sources_of, with_model
from engine.artifacts.directory import (
    claim,
    finished_before,
    locked,
    remove_leftovers,
    remove_run,
    write_run,
)
from engine.artifacts.document import KeptModel, RunDocument
from engine.artifacts.publish import write_model
from engine.artifacts.result import Result
from engine.build import Setup, build, make_run
from engine.checks import check_data, check_memory, check_shared, check_space, out_of_memory
from engine.config import TrainConfig
from engine.console import say, unfailing_output
from engine.distributed.device import describe_device
from engine.distributed.join import join
from engine.distributed.world import World
from engine.errors import ResourceError, StoppedError
from engine.explain import announce, explain
from engine.findings.gather import of_run
from engine.loop import train
from engine.model import lora
from engine.precision import choose_precision
from engine.record.figures import Evaluation, figure_text
from engine.record.profiling import profiling
from engine.record.run import Run
from engine.record.stop import Stop
from engine.record.writers import Writers, check_own, names_in
from engine.resume import answered, finish_evaluation, keep_best, resume
from engine.seed import rng_untouched
from engine.settings.fields import user_path
from engine.task import Examples, Task


@unfailing_output()
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
    """Read, prepare, train and publish, in the directory that is held."""
    stop = Stop(config.max_minutes)
    world.forget_vote()
    world.on_all_ranks(lambda: choose_precision(config.precision, world.device))  # refused before anything is read
    examples = world.on_all_ranks(task.examples, in_turn=True)
    document = run_document(settings, task, examples, world.broadcast_from_main(lambda: sources_of(task)))
    world.check_same_on_all_ranks("versions", document.versions)
    world.check_same_on_all_ranks("data", document.data.fingerprints)
    finished = world.broadcast_from_main(lambda: finished_before(directory, config, document))
    if finished is not None:
        say(f"finished model found in {directory}, training skipped (--overwrite trains it again)")
        return Result(directory, finished, None, skipped=True)
    setup, document = prepare(task, config, model, directory, examples, document, world)
    writers = None
    if config.overwrite:  # what is there goes when nothing else can be refused
        writers = world.on_main_rank(lambda: Writers(config, directory, 0, around=rng_untouched))
        world.on_main_rank(lambda: remove_run(directory, keep=names_in(config.write_to)))
    run = world.on_all_ranks(lambda: make_run(directory, task, config, setup, examples, stop))
    began = time.perf_counter()
    document = train_all(run, setup, task, config, document, writers)
    refuse_stopped(run, world)
    return publish(run, setup, task, config, document, time.perf_counter() - began)


def prepare(
    task: Task[Any], config: TrainConfig, model: nn.Module | None, directory: Path, examples: Mapping[str, Examples],
    document: RunDocument, world: World,
) -> tuple[Setup, RunDocument]:  # fmt: skip
    """The run put together and announced, when nothing speaks against it; run.json as it stands there meanwhile."""
    world.on_all_ranks(lambda: check_data(task, config, examples, world.size))
    setup = build(task, examples["train"], config, model, world)
    document = with_model(document, task, setup.state.model, world.device, setup.precision, setup.layout.kind)
    announce(task, setup, examples, config, document)
    world.on_all_ranks(lambda: check_memory(setup, config))
    if config.shard:
        world.on_all_ranks(lambda: check_shared(directory))
    world.on_main_rank(lambda: check_space(directory, setup, config))
    return setup, document


def train_all(
    run: Run, setup: Setup, task: Task[Any], config: TrainConfig, document: RunDocument, writers: Writers | None
) -> RunDocument:
    """Train from the beginning, or the newest checkpoint, to the end of the plan, or until asked to stop; returns run.json.

    ``writers``: those that are open already; None: they are opened when it is known where the run goes on.
    """
    world = setup.world
    try:
        document = resume(run, setup, config, document)
        world.on_main_rank(lambda: write_run(run.directory, document))  # first: it says whose the directory is
        run.writers = (
            writers
            if config.overwrite
            else world.on_main_rank(lambda: Writers(config, run.directory, run.state.step, run.writer_states, rng_untouched))
        )
        called_whole = setup.graphs or config.compile
        looked_at = config.profile if world.is_main else None
        model, facts = None if called_whole else setup.state.model, {"layout": setup.layout.kind, "precision": setup.precision}
        with run.stop, run.saving(), profiling(run, looked_at, model, **facts):
            finish_evaluation(run, setup)
            if not run.should_stop:
                train(setup.state, task, setup.data, config, world, run)
    except torch.OutOfMemoryError as error:
        raise ResourceError(out_of_memory(config, world, describe_device(world.device))) from error
    finally:
        run.close()
    return document


def refuse_stopped(run: Run, world: World) -> None:
    """Raises StoppedError if a rank was asked to stop before the end: all has been saved."""
    reasons = world.gather((run.stop.reason, run.stop.exit_code))
    asked_to = [(rank, reason, code) for rank, (reason, code) in enumerate(reasons) if reason]
    if asked_to and (run.state.step < run.num_steps or run.evaluation_due):
        rank, reason, code = asked_to[0]
        who = f" (rank {rank})" if rank else ""
        raise StoppedError(
            f"stopped by {reason}{who} after step {run.state.step} of {run.num_steps}, and saved: --resume continues", code
        )


def publish(run: Run, setup: Setup, task: Task[Any], config: TrainConfig, document: RunDocument, seconds: float) -> Result:
    """The best model, saved, and run.json that says so; ``seconds``: of training and all that came between."""
    kept = keep_best(run, setup)
    found = answered(run, kept)
    profile = of_run(task, None if found is None else found.answers, setup.world)
    evaluation = run.best.evaluation if run.best and run.best.step == kept else run.last_evaluation
    metrics = summarise(run, seconds, evaluation)
    if (best := run.best) is not None and kept == best.step != setup.state.step:
        say(f"best model: that of step {kept} ({best.metric} {best.value:.4f})")
    setup.state.average.replace_weights()
    full = setup.full_model()
    final = None if full is None else lora.finished(full, merge=config.lora_merge)
    which = KeptModel(step=kept, best_step=None if best is None else best.step)
    classes = evaluation.classes if evaluation and evaluation.classes else None
    document = dataclasses.replace(document, kept=which, metrics=metrics, classes=classes, status="finished")
    setup.world.on_main_rank(lambda: write_model(run.directory, task, final, document, profile))  # type: ignore[arg-type]
    say(f"saved to {run.directory}")
    return Result(run.directory, metrics, None if final is None else final.eval())


def summarise(run: Run, seconds: float, evaluation: Evaluation | None) -> dict[str, Any]:
    """The figures of the end, printed as the tutorials' logs do; returned for run.json. ``evaluation``: of what is kept."""
    train_seconds = max(run.stopwatch.train_seconds, 1e-9)
    metrics: dict[str, Any] = {
        "train_loss": run.total.loss if run.total.num_items else None,  # NaN is not JSON
        "train_runtime": train_seconds,
        "train_samples_per_second": run.total.num_examples / train_seconds,
        "train_steps_per_second": run.total.num_steps / train_seconds,
        "wall_seconds": seconds,
        "num_steps": run.state.step,
    }
    if evaluation is not None:
        metrics |= evaluation.metrics()
    say(run.stopwatch.where_time_went())
    width = max(len(name) for name in metrics)
    for name, value in metrics.items():
        say(f"  {name:<{width}} = {figure_text(value)}")
    return metrics

"""A whole fine-tuning run: claim the directory, build, resume, train, take the best, save, sum up.

From the command line this is ``python run.py --task ...``; from Python it is ``fit(task, config)``: see docs/from-python.md.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from engine import card, lora
from engine.build import Setup, build
from engine.checkpoint import load_average, load_model, load_state, rng_untouched
from engine.config import TrainConfig, as_json, differences, note, settings_where, user_path
from engine.data import batches, eval_loader
from engine.directory import (
    TEMPORARY,
    claim,
    compare,
    compare_data,
    finished_before,
    locked,
    read_run,
    remove_leftovers,
    remove_run,
    write_run,
)
from engine.document import DataRecord, KeptModel, RunDocument
from engine.errors import DataError, ModelError, ResourceError, StoppedError, UsageError, UserError, printable
from engine.evaluate import evaluate
from engine.explain import explain, memory_needed, padding_wastes
from engine.figures import RESERVED, Evaluation
from engine.flops import count_flops, peak_flops
from engine.loop import train
from engine.optimizer import describe_optimizer, state_bytes
from engine.parallel import World, describe_device, is_lost_rank, join
from engine.precision import choose_precision
from engine.profiling import profiling
from engine.record import Progress, Run
from engine.report import histogram, read_lines, record_in, render
from engine.stop import Stop
from engine.store import Checkpoint, newest, num_newest, open_checkpoint, set_aside_after, sync_directory
from engine.task import Examples, Task
from engine.writers import Writers, check_own, names_in


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
        ranks.agree("settings", settings)
        ranks.only_main(lambda: check_own(config.write_to))
        if config.explain:
            examples = ranks.together(task.examples, in_turn=True)
            ranks.together(lambda: check_data(task, config, examples, ranks.size))
            explain(task, config, examples, model, ranks)
            return Result(directory, {}, None)
        ranks.only_main(lambda: claim(directory, config, settings, [type(part) for part in asked(task, config)]))
        with ranks.held_by_main(locked(directory)):
            ranks.only_main(lambda: remove_leftovers(directory))
            return _fit(task, config, model, directory, settings, ranks)


def _fit(
    task: Task[Any], config: TrainConfig, model: nn.Module | None, directory: Path, settings: dict[str, Any], world: World
) -> Result:
    stop = Stop(config.max_minutes)
    world.forget_vote()
    world.together(lambda: choose_precision(config.precision, world.device))  # refused before anything is read
    examples = world.together(task.examples, in_turn=True)
    document = run_document(settings, task, examples)
    world.agree("versions", document.versions)
    world.agree("data", document.data.fingerprints)
    finished = world.on_main(lambda: finished_before(directory, config, document))
    if finished is not None:
        say(f"finished model found in {directory}, training skipped (--overwrite trains it again)")
        return Result(directory, finished, None, skipped=True)
    world.together(lambda: check_data(task, config, examples, world.size))

    setup = build(task, examples["train"], config, model, world)
    document = with_model(document, task, setup)
    announce(task, setup, examples, config, document)
    world.together(lambda: check_memory(setup, config))
    if config.shard:
        world.together(lambda: check_shared(directory))
    world.only_main(lambda: check_space(directory, setup, config))
    writers = None
    if config.overwrite:  # what is there goes when nothing else can be refused
        writers = world.only_main(lambda: Writers(config, directory, 0, around=rng_untouched))
        world.only_main(lambda: remove_run(directory, keep=names_in(config.write_to)))
    run = world.together(lambda: make_run(directory, task, config, setup, examples, stop))
    began = time.perf_counter()
    try:
        resume(run, setup, config, document)
        run.writers = writers if config.overwrite else world.only_main(lambda: make_writers(run, config))
        world.only_main(lambda: write_run(directory, document))
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
    whole = setup.whole_model()
    final = None if whole is None else lora.finished(whole, merge=config.lora_merge)
    which = KeptModel(step=kept, best_step=None if best is None else best.step)
    document = dataclasses.replace(document, kept=which, metrics=metrics, status="finished")
    world.only_main(lambda: finish(directory, task, final, document))  # type: ignore[arg-type]
    say(f"saved to {directory}")
    return Result(directory, metrics, None if final is None else final.eval())


# ----------------------------------------------------------------------------------------------------- what was asked for


def settings_of(task: Task[Any], config: TrainConfig) -> dict[str, Any]:
    """Everything that was asked for, flat, as JSON keeps it."""
    return as_json({key: value for part in asked(task, config) for key, value in dataclasses.asdict(part).items()})


def asked(task: Task[Any], config: TrainConfig) -> tuple[Any, ...]:
    """The dataclasses of a run's settings: the engine's, the source's, the task's own."""
    return config, task.source.config, task.options


def run_document(settings: dict[str, Any], task: Task[Any], examples: Mapping[str, Examples]) -> RunDocument:
    """run.json as far as it is known before the model is built."""
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
        versions={"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers", "datasets", "numpy", "safetensors")}
        | {"instructions": torch.backends.cpu.get_cpu_capability()},
    )


def with_model(document: RunDocument, task: Task[Any], setup: Setup) -> RunDocument:
    """run.json as it stands there while the run goes on."""
    return dataclasses.replace(
        document,
        device=describe_device(setup.world.device),
        precision=setup.precision,
        batching=setup.layout.kind,
        base_model=card.base_of(task.source),
        command=card.command(task, document.settings),
        model_config=config_of(setup.state.model),
    )


def config_of(model: nn.Module) -> dict[str, Any]:
    """What the model's config.json says of it; {} for a model without."""
    config: Any = getattr(model, "config", None)
    settings: dict[str, Any] = json.loads(config.to_json_string(use_diff=False)) if hasattr(config, "to_json_string") else {}
    return {name: value for name, value in settings.items() if name not in ("transformers_version", "_name_or_path")}


# --------------------------------------------------------------------------------------------------------- can it be done


def check_data(task: Task[Any], config: TrainConfig, examples: Mapping[str, Examples], num_ranks: int = 1) -> None:
    """Raises DataError without training rows, UsageError when an evaluation is asked for that cannot be."""
    if len(examples["train"]) == 0:
        raise DataError("there is no row to train on")
    if config.tokens_per_batch is None and (step := config.batch_size * config.accumulation_steps) > len(examples["train"]):
        note(f"warning: a step of {step} examples is more than the {len(examples['train'])} there are: an epoch is one step")
    if config.shard and not task.shardable:
        raise UsageError("--shard: this task's evaluation generates, and the ranks would wait for each other: leave it out")
    if not task.additive and config.batch_size < 2 * num_ranks:
        raise UsageError(
            f"--batch-size {config.batch_size}: this loss compares the rows of a micro-batch with each other, give at least "
            f"{2 * num_ranks}"
        )
    if "eval" in examples:
        names = task.metrics("eval").names
        if taken := RESERVED.intersection(names):
            raise UsageError(f"the task has a metric called {min(taken)}, which stands beside metrics in the log: rename it")
        known = ["loss", *names]
        if (metric := config.best_metric or task.best_metric) not in known:
            raise UsageError(f"--best-metric {metric} is not computed; there are: {', '.join(known)}")
        return
    for flag in settings_where(lambda traits: traits.needs_evaluation, type(config)):
        if getattr(config, flag):
            raise UsageError(
                f"--{flag.replace('_', '-')} asks for an evaluation, and there is no evaluation data: "
                "give --eval-file, or hold some out with --eval-fraction 0.1"
            )
    note("there is no evaluation data: the last model is kept (--eval-fraction 0.1 would hold some out)")


def check_memory(setup: Setup, config: TrainConfig) -> None:
    """Raises ResourceError when a GPU could not even hold the weights, their gradients and the optimizer's state."""
    if setup.state.device.type != "cuda":
        return
    needed, there = sum(memory_needed(setup, config).values()), torch.cuda.mem_get_info(setup.state.device)[1]
    if needed > there:
        raise ResourceError(
            f"training needs at least {needed / 2**30:.1f} GiB on each device, and {describe_device(setup.state.device)} has "
            f"{there / 2**30:.1f} GiB: {'more ranks' if config.shard else '--shard over several'}, --lora, or a smaller model"
        )


def check_shared(directory: Path) -> None:
    """Raises UsageError on a rank that does not see the directory in which rank 0 holds the lock: it cannot save its part."""
    if not (directory / ".lock").exists():
        raise UsageError(
            f"--output-dir {directory} is not the same for all ranks, and with --shard each saves its part there: choose one "
            "on a file system that all nodes share"
        )


def check_space(directory: Path, setup: Setup, config: TrainConfig) -> None:
    """Raises ResourceError when the disk has no room for the checkpoints kept at one time, and the model."""
    plan, model = setup.data.plan, setup.state.model
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    moments = sum(state_bytes(model, config).values())
    saved = (at for at in plan.positions(0) if at.due(config.save_steps) or at.due(config.eval_steps))  # it may be the best
    num_kept = len(list(islice(saved, num_newest(config.keep_checkpoints) + 2)))  # beside them the best, and a new one
    needed = weights + num_kept * (weights + moments)
    free = shutil.disk_usage(directory).free
    free += sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())  # what is replaced here
    if needed > free:
        raise ResourceError(
            f"--output-dir {directory} needs {needed / 2**20:,.0f} MiB for checkpoints and the model, and {free / 2**20:,.0f} "
            "MiB are free: lower --keep-checkpoints, or choose a directory on another disk"
        )


def out_of_memory(config: TrainConfig, world: World, device: str) -> str:
    """What to do about it."""
    spread = "" if config.shard or world.size == 1 else "--shard, "
    recompute = "" if config.gradient_checkpointing else "--gradient-checkpointing, "
    return (
        f"out of memory on {device}: {spread}{recompute}a lower --batch-size with more --accumulation-steps (the same step), "
        "a lower --eval-batch-size, or a lower --max-length"
    )


# ------------------------------------------------------------------------------------------------- before, between, after


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


def announce(
    task: Task[Any], setup: Setup, examples: Mapping[str, Examples], config: TrainConfig, document: RunDocument
) -> None:
    """Device, data, model and plan, before the first step."""
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
    print(f"device     {ranks}{document.device}{how}, {setup.precision}{tf32}{', compiled' if config.compiled else ''}")
    say(f"data       {document.data.source}: {sizes} examples, {lengths.mean():.0f} tokens each (longest {lengths.max()})")
    sizes_of = f"{millions(trained)} parameters to train" + (f", {millions(frozen)} frozen" if frozen else "")
    say(f"model      {document.model or type(setup.state.model).__name__}: {sizes_of}")
    print(
        f"plan       {plan.num_steps} steps = {plan.num_steps / plan.steps_in(0):.4g} epochs of {plan.steps_in(0)}; "
        f"{size}{each} x {config.accumulation_steps} accumulated per step; "
        f"{config.schedule} schedule from {config.learning_rate:g}, {warmup} warm-up"
    )
    if config.optimizer != "adamw":
        print(f"optimizer  {describe_optimizer(document.settings)}")
    if config.ema_decay is not None and (memory := 1 / (1 - config.ema_decay)) > plan.num_steps:
        note(f"--ema-decay {config.ema_decay:g} remembers {memory:,.0f} steps, and the run has {plan.num_steps}: the average, "
             "which is what is saved, stays close to the weights at the start")  # fmt: skip
    if not task.additive and config.accumulation_steps > 1:
        print(
            f"           each micro-batch is compared within itself: {config.accumulation_steps} of {size} are not one larger"
        )
    if not task.additive and world.size > 1:
        print("           each rank compares its own rows with each other: that is another loss than one rank's")
    first = dataclasses.replace(plan, epochs=1, max_steps=None)
    wastes = ", ".join(f"{name} {waste:.0%}" for name, waste in padding_wastes(first, task).items())
    other = "; rows of like length meet, so steps hold other examples than in random order" if plan.bucketed else ""
    if world.size > 1:
        need = memory_needed(setup, config)
        parts = ", ".join(f"{value / 2**30:.2f} {name}" for name, value in need.items())
        print(f"memory     at least {sum(need.values()) / 2**30:.2f} GiB on each rank ({parts}); activations come on top")
    print(f"batching   {'bucketed' if plan.bucketed else setup.layout.kind} (padding: {wastes}){other}", flush=True)


def make_writers(run: Run, config: TrainConfig) -> Writers:
    """The log writers of this process, each with its state of the checkpoint that the run continues from."""
    return Writers(config, run.directory, run.state.step, run.writer_states, rng_untouched)


def resume(run: Run, setup: Setup, config: TrainConfig, document: RunDocument) -> None:
    """Continue from the newest whole checkpoint if that is asked for and there is one. Raises UsageError, ModelError."""
    world = setup.world
    files = world.only_main(lambda: checkpoint_to_resume(run.directory, document) if config.resume else None)
    if not world.from_main(files is not None):
        run.start()
        if config.resume:
            run.say("resume: there is no checkpoint, starting at step 0")
        return
    before = world.on_main(lambda: read_run(run.directory))
    with whole_or_refused(run.directory):
        progress = Progress.from_json(load_state(setup.state, files, world))
        check_position(setup, run.num_steps)
        run.restore(progress)
    world.only_main(lambda: tidy(run, setup.state.step, files))
    then = {"world size": 1, "sharded": False} | dict(progress.ranks) | {"runs on": before.device} | dict(before.versions)
    changed = differences(then, run.ranks() | {"runs on": document.device} | dict(document.versions))
    how = f"same data order, not bitwise ({'; '.join(changed)})" if changed else "exact"
    run.say(f"resume: {how}, from step {setup.state.step} of {run.num_steps}")


def checkpoint_to_resume(directory: Path, document: RunDocument) -> Checkpoint | None:
    """The newest whole one, of a run on the same data, computed in the same way. Raises UsageError, DataError, ModelError."""
    files = newest(directory / "checkpoints")
    if files is not None:
        before = read_run(directory)
        compare_data(directory, before.data, document.data)
        old, new = before.model_config, document.model_config
        if before.versions.get("transformers") != document.versions["transformers"]:  # another one writes other keys, too
            old, new = ({name: each[name] for name in old if name in new} for each in (old, new))
        compare(directory, "model", old, new)
        compare(directory, "precision", {"precision": before.precision}, {"precision": document.precision})
        compare(directory, "batching", {"batching": before.batching}, {"batching": document.batching})
    return files


def tidy(run: Run, step: int, files: Checkpoint | None) -> None:
    """The checkpoints beside the one that was resumed from."""
    assert files is not None
    set_aside_after(run.directory / "checkpoints", step)
    run.saver.rotate(step, files["state.json"])  # the process before may have been killed before it did


def check_position(setup: Setup, num_steps: int) -> None:
    """Raises ValueError for what would be taken over as it is and go wrong later. The loads themselves refuse the rest."""
    step = setup.state.step
    if not isinstance(step, int) or not 0 <= step <= num_steps:
        raise ValueError(f"step {step!r} of {num_steps}")
    for rate in (group["lr"] for group in setup.state.optimizer.param_groups):
        if not isinstance(rate, int | float | Tensor):
            raise ValueError(f"{rate!r} where a number is needed")


@contextmanager
def whole_or_refused(directory: Path) -> Iterator[None]:
    """A checkpoint whose hashes are right and whose contents are not was made by something else. Raises ModelError."""
    try:
        yield
    except (UserError, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # any kind: every type in it may be another
        if is_lost_rank(error):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"the checkpoint in {directory} does not hold what a run saves ({reason}): --overwrite it") from error


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
        files = world.only_main(lambda: open_checkpoint(path))
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


def say(line: str) -> None:
    """On stdout, whatever stands in the names of files."""
    print(printable(line))


def millions(number: int) -> str:
    """``22.7 M``; a head alone is written out."""
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"

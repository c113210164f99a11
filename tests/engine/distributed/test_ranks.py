"""Several ranks compute what one computes, on the same batches in the same order; and what happens when one is lost.

The ranks are forked processes with torchrun's environment and gloo between them (ranks.py); torchrun itself starts the
tests marked ``distributed``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import engine.loader
import engine.loop
from bench.toys import tiny
from bench.toys.ranks import environment, free_port, in_ranks
from engine.build import build
from engine.checkpoint.snapshot import model_tensors
from engine.checkpoint.store import open_checkpoint
from engine.checks import check_memory
from engine.config import TrainConfig
from engine.data.batch import Batch
from engine.data.collate import Layout, arrange, per_token
from engine.distributed import join, lost_ranks
from engine.distributed.world import World
from engine.distributed.wrap import blocks, fill, shard, skeleton
from engine.errors import DataError, DistributedError, DivergedError, ResourceError, StoppedError, UsageError, explain
from engine.fit import fit
from engine.loader import share
from engine.loop import accumulate
from engine.memory.estimate import bytes_per_rank
from engine.optimizer import state_bytes
from engine.record.run import Run
from tasks.classification.metrics import ClassificationMetrics
from tasks.embeddings.retrieval import RetrievalMetrics, ScoreMetrics
from tasks.language.task import LanguageMetrics
from tests.tasks.embeddings.test_embeddings import make_task as make_pairs
from tests.toys import language

CPU = torch.device("cpu")


class Tagging(tiny.TokenTask):
    """A label for every third token: items per row differ, and the model's head reads all tokens."""

    level = "token"

    def collate(self, rows: Any, layout: Layout) -> Batch:
        inputs, counts = arrange(rows, layout, self.tokenizer)
        tags = []
        for row in rows:
            tag = row["input_ids"] % 3
            tag[row["input_ids"] % 2 == 0] = -100
            tags.append(tag)
        labels = per_token(tags, layout, -100)
        return Batch(inputs=inputs, targets={"labels": labels}, num_items=int((labels != -100).sum()), **counts)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs.logits.float().flatten(0, 1), batch.targets["labels"].flatten(), reduction="sum")

    def metrics(self, split: str) -> Any:
        class Nothing:
            names = lower_is_better = ()
            update = compute = sync = staticmethod(lambda *arguments: {})

        return Nothing()


def tagger(dropout: float = 0.0) -> torch.nn.Module:
    from transformers import BertForTokenClassification

    torch.manual_seed(0)
    return BertForTokenClassification(tiny.bert(dropout=dropout).config)


def make(kind: str, dropout: float = 0.0, num_rows: int = 50) -> tuple[Any, torch.nn.Module]:
    if kind in language.KINDS:
        text = language.make_task(kind)
        parts = {"train": language.make_rows(kind, num_rows), "eval": language.make_rows(kind, 21, seed=5)}
        text.examples = lambda: parts
        return text, language.make_model(kind, dropout)
    task = Tagging if kind == "tagging" else tiny.TokenTask
    rows, held_out = tiny.token_rows(num_rows), tiny.token_rows(21, seed=5)
    return task(train=rows, evaluation=held_out), tagger(dropout) if kind == "tagging" else tiny.bert(dropout=dropout)


def make_run(kind: str, dropout: float, out: Path, more: dict[str, Any]) -> tuple[Any, TrainConfig, torch.nn.Module]:
    task, model = make(kind, dropout)
    return task, config(out, **more), model


def config(out: Path, **more: Any) -> TrainConfig:
    """50 rows in micro-batches of 7: the last of an epoch has 1 row, so that with two ranks one has none."""
    settings = {"batch_size": 7, "accumulation_steps": 2, "epochs": 2, "log_steps": 1, "device": "cpu", "precision": "fp32"}
    return TrainConfig(**(settings | {"output_dir": str(out)} | more))


def run(
    out: Path, kind: str = "sequence", dropout: float = 0.0, world: World | None = None, **more: Any
) -> list[list[list[int]]]:
    """``fit``; returns the rows of each micro-batch of each step that this process has seen."""
    seen = []
    log = Run.log

    def watched(self: Run, at: Any, micro_batches: Any, record: Any) -> None:
        seen.append([[row for _, row in batch.keys] for batch in micro_batches])
        log(self, at, micro_batches, record)

    Run.log = watched
    try:
        fit(*make_run(kind, dropout, out, more), world)
    finally:
        Run.log = log
    return seen


def lines(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    return [line for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if line["kind"] == kind]


def dealt(of_ranks: list[list[list[list[int]]]]) -> list[list[list[int]]]:
    """The global micro-batches, put together again from what the ranks have had."""
    steps = []
    for parts in zip(*of_ranks, strict=True):
        step = []
        for shares in zip(*parts, strict=True):
            rows = [0] * sum(map(len, shares))
            for rank, rows_of_rank in enumerate(shares):
                rows[rank :: len(shares)] = rows_of_rank
            step.append(rows)
        steps.append(step)
    return steps


def assert_close_runs(one: Path, other: Path, tolerance: float = 1e-6) -> None:
    """Losses, norms, counts, evaluations and weights."""
    for kind in ("train", "eval", "epoch"):
        assert len(lines(one, kind)) == len(lines(other, kind)) > 0
        for a, b in zip(lines(one, kind), lines(other, kind), strict=True):
            for name in ("step", "num_examples", "num_tokens", "learning_rate", "num_steps"):
                assert a.get(name) == b.get(name), name
            for name in {"loss", "grad_norm", "accuracy", "f1", "perplexity"} & a.keys():
                assert b[name] == pytest.approx(a[name], rel=10 * tolerance, abs=tolerance), (kind, a["step"], name)
    weights, others = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.allclose(tensor, others[name], rtol=0, atol=tolerance), name


QUICK = {
    "classification": ("sequence", {"batching": "padded", "epochs": 2}),
    "clm, packed": ("clm", {"batching": "packed", "epochs": 1}),
    "sharded classification, packed": ("sequence", {"batching": "packed", "shard": True, "epochs": 1}),
    "sharded mlm": ("mlm", {"batching": "padded", "shard": True, "gradient_checkpointing": True, "epochs": 1}),
}
EACH_OPTIMIZER: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sequence", {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 1e-2, "epochs": 1}),
    "adafactor": ("sequence", {"optimizer": "adafactor", "learning_rate": 1e-3, "epochs": 1}),
    "muon": ("sequence", {"optimizer": "muon", "layer_decay": 0.8, "epochs": 1}),
    "average": ("sequence", {"ema_decay": 0.6, "eval_steps": 2, "epochs": 1}),
    "sharded sgd": ("sequence", {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 1e-2, "shard": True, "epochs": 1}),
    "sharded average": ("sequence", {"ema_decay": 0.6, "layer_decay": 0.8, "eval_steps": 2, "shard": True, "epochs": 1}),
}
BF16 = {
    "clm, packed, bf16": ("clm", {"batching": "packed", "precision": "bf16", "epochs": 1}),
    "sharded classification, bf16": ("sequence", {"batching": "padded", "precision": "bf16", "shard": True, "epochs": 1}),
}
CASES = {
    f"{'sharded ' if shard else ''}{kind}, {batching}": (kind, {"batching": batching, "shard": shard, "epochs": 2})
    for kind in ("sequence", "tagging", "mlm", "clm")
    for batching in ("padded", "packed")
    for shard in (False, True)
} | {
    "tokens": ("sequence", {"batching": "bucketed", "tokens_per_batch": 60, "epochs": 2}),
    "checkpointing": ("clm", {"batching": "packed", "gradient_checkpointing": True}),
    "sharded checkpointing": ("clm", {"batching": "packed", "gradient_checkpointing": True, "shard": True}),
}
SIZES = [
    pytest.param(2, QUICK, id="2"),
    pytest.param(2, EACH_OPTIMIZER, id="2-optimizers"),
    pytest.param(2, BF16, id="2-bf16", marks=pytest.mark.bf16),
    pytest.param(2, CASES, id="2-all", marks=pytest.mark.slow),
    pytest.param(4, CASES, id="4-all", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("size", "cases"), SIZES)
def test_several_ranks_are_one(size, cases, tmp_path):
    """The same micro-batches in the same order; the same losses, norms, evaluations and weights up to the order of sums."""
    seen = {}
    for name, (kind, settings) in cases.items():
        alone = {key: value for key, value in settings.items() if key not in ("shard", "gradient_checkpointing")}
        seen[name] = run(tmp_path / name / "one", kind, **alone)

    def all_cases(rank: int) -> dict[str, Any]:
        with join.join("cpu", 60) as world:
            return {
                name: run(tmp_path / name / "many", kind, world=world, **settings) for name, (kind, settings) in cases.items()
            }

    found = in_ranks(size, all_cases)
    assert all(isinstance(ranks, dict) for ranks in found), found
    for name in cases:
        assert dealt([of_rank[name] for of_rank in found]) == seen[name], name
        # bf16 rounds each gradient to 8 bits before it is added; 2e-3 of the norm, and of a weight what AdamW has moved it by
        tolerance = 2e-4 if cases[name][1].get("precision") == "bf16" else 1e-6
        assert_close_runs(tmp_path / name / "one", tmp_path / name / "many", tolerance)
        document = json.loads((tmp_path / name / "many/run.json").read_text())
        assert document["status"] == "finished"


WRONG = {
    "each rank divides by its own items": (World, "sum", lambda self, values: torch.tensor(values).float() * self.size),
    "a stand-in counts": (engine.loader, "stand_in", lambda batch: batch),
    "the ranks have the same rows": (engine.loader, "share", lambda keys, world: [*keys[:: world.size]]),
    "gradients are not exchanged": (engine.loop, "gradient_sync", lambda model, last: model.no_sync()),
}


def test_what_is_wrong_is_not_the_same(tmp_path):
    """Controls of the comparison above."""
    run(tmp_path / "one", "tagging", epochs=1)

    def wrong(rank: int) -> None:
        with join.join("cpu", 60) as world:
            run(tmp_path / "right", "tagging", world=world, epochs=1)
            for name, change in WRONG.items():
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(*change)
                    run(tmp_path / name, "tagging", world=world, epochs=1)

    assert in_ranks(2, wrong) == [None, None]
    assert_close_runs(tmp_path / "one", tmp_path / "right")
    for name in WRONG:
        with pytest.raises(AssertionError):
            assert_close_runs(tmp_path / "one", tmp_path / name)
            pytest.fail(f"not noticed: {name}", pytrace=False)


@pytest.mark.parametrize("shard", [False, True])
def test_gradients_are_exchanged_once_a_step(shard):
    """Of three micro-batches; a small model is one bucket, or three groups of shards."""

    def part(rank: int) -> int:
        with join.join("cpu", 60) as world:
            task, model = make("sequence")
            setup = build(task, task.train, config(Path(), batch_size=7, accumulation_steps=3, shard=shard), model, world)
            steps = setup.data.steps()
            with profile(activities=[ProfilerActivity.CPU]) as profiled:  # a hook in Python may wait for its own lock
                for _ in range(2):
                    _, micro_batches = next(steps)
                    accumulate(setup.state, task, micro_batches, torch.tensor(8.0))
            calls = {event.key: event.count for event in profiled.key_averages()}
            return int(calls["c10d::_reduce_scatter_base_" if shard else "c10d::allreduce_"])

    assert in_ranks(2, part) == [2 * (3 if shard else 1)] * 2


def test_every_row_is_dealt_once_and_a_rank_without_any_gets_a_stand_in():
    keys = [(3, row) for row in (5, 9, 2, 7, 1)]
    for size in (1, 2, 3, 5, 8):
        parts = []
        for rank in range(size):
            world = World(CPU, rank)
            world.size = size
            parts.append(share(keys, world))
        assert sorted(key for part in parts for key in part if key[1] >= 0) == sorted(keys)
        assert [part for part in parts if part[0][1] < 0] == [[(3, ~5)]] * max(size - len(keys), 0)


# ---------------------------------------------------------------------------------------------------------- resuming


class Killed(BaseException):
    pass


def stop_at(step: int) -> None:
    """This process ends there, as if it had been killed."""
    log = Run.log

    def deadly(self: Run, at: Any, *others: Any) -> None:
        log(self, at, *others)
        if at.step == step:
            raise Killed

    Run.log = deadly


def killed_run(out: Path, step: int, **more: Any) -> list[list[list[int]]]:
    """As ``run``, ending after ``step``; returns what was seen until then."""
    seen: list[list[list[int]]] = []
    log = Run.log

    def watched(self: Run, at: Any, micro_batches: Any, record: Any) -> None:
        seen.append([[row for _, row in batch.keys] for batch in micro_batches])
        log(self, at, micro_batches, record)
        if at.step == step:
            raise Killed

    Run.log = watched
    try:
        fit(make("sequence", 0.0)[0], config(out, **more), make("sequence", 0.0)[1])
    except Killed:
        pass
    finally:
        Run.log = log
    return seen


@pytest.mark.parametrize("sizes", [(2, 1), pytest.param((2, 1, 4), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("shard", [False, True])
def test_resuming_with_another_number_of_ranks(sizes, shard, tmp_path, capfd):
    """A checkpoint every 2 steps, killed after 3 and 5: the same rows in each step, and the same end up to the order of sums."""
    whole = run(tmp_path / "whole")
    out, steps, done = tmp_path / "cut", [], 0
    for number, size in enumerate(sizes):
        until = {0: 3, 1: 5}.get(number) if number + 1 < len(sizes) else None
        more = {"save_steps": 2, "resume": number > 0, "shard": shard and size > 1}

        def part(rank: int, until: int | None = until, more: dict[str, Any] = more) -> Any:
            return killed_run(out, until or 0, **more)

        found = in_ranks(size, part) if size > 1 else [part(0)]
        assert all(isinstance(seen, list) for seen in found), found
        steps = steps[:done] + dealt(found)
        done = until // 2 * 2 if until else done
    assert steps == whole
    assert_close_runs(tmp_path / "whole", out)
    said = capfd.readouterr().out
    changes = f"world size: {sizes[0]} -> {sizes[1]}" + ("; sharded: True -> False" if shard else "")
    assert f"resume: same data order, not bitwise ({changes}), from step 2 of" in said


def cut_and_whole(size: int, out: Path, **more: Any) -> bool:
    """Is a run that was killed after 3 steps and resumed bitwise the undisturbed one? Dropout on, a checkpoint every 2 steps."""

    def cut(rank: int) -> None:
        stop_at(3)
        with pytest.raises(Killed):
            run(out / "cut", dropout=0.1, save_steps=2, **more)

    def others(rank: int) -> None:
        with join.join("cpu", 60) as world:
            run(out / "whole", dropout=0.1, save_steps=2, world=world, **more)
            run(out / "cut", dropout=0.1, save_steps=2, resume=True, world=world, **more)

    assert in_ranks(size, cut) == [None] * size == in_ranks(size, others)
    ours, theirs = (load_file(out / name / "model.safetensors") for name in ("whole", "cut"))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.bf16)])
def test_killed_and_resumed_with_as_many_ranks_is_bitwise(tmp_path, precision):
    """Each rank's random numbers go on where they were."""
    assert cut_and_whole(2, tmp_path, precision=precision)
    rng = load_file(max((tmp_path / "cut/checkpoints").iterdir()) / "rng.safetensors")
    assert not torch.equal(rng["0.torch"], rng["1.torch"]), "ranks drop different units"


RESUMED: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 1e-2},
    "adafactor": {"optimizer": "adafactor", "learning_rate": 1e-3},
    "muon, average": {"optimizer": "muon", "layer_decay": 0.8, "ema_decay": 0.6},
    "sharded sgd, average": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 1e-2, "ema_decay": 0.6, "shard": True},
    "sharded average": {"ema_decay": 0.6, "layer_decay": 0.8, "shard": True},
}


def number_of_files(settings: dict[str, Any]) -> int:
    """Of a checkpoint: model, optimizer and average, sharded one for each of two ranks; and the random generators."""
    kinds = 2 + ("ema_decay" in settings)
    return kinds * (2 if settings.get("shard") else 1) + 1


@pytest.mark.parametrize("name", RESUMED)
def test_each_optimizer_killed_and_resumed_on_two_ranks_is_bitwise(tmp_path, name):
    """Its state, whatever its shape, and the average: the newest checkpoints have the same tensors."""
    assert cut_and_whole(2, tmp_path, **RESUMED[name])
    one, other = (max((tmp_path / run / "checkpoints").iterdir()) for run in ("whole", "cut"))
    files = {path.name for path in one.glob("*.safetensors")}
    assert files == {path.name for path in other.glob("*.safetensors")} and len(files) == number_of_files(RESUMED[name])
    for file in files:
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_four_ranks_resumed_are_bitwise_because_of_the_rehearsal(shard, tmp_path, monkeypatch):
    """Four numbers added up in another order are rounded otherwise; without the rehearsal DDP does that."""
    more = {"batch_size": 16, "learning_rate": 1e-3, "shard": shard}
    assert cut_and_whole(4, tmp_path / "rehearsed", **more)
    monkeypatch.setattr("engine.build.rehearse", lambda *_: None)
    assert cut_and_whole(4, tmp_path / "not", **more) == shard


# ------------------------------------------------------------------------------------------------------------- faults


def outcome(function: Any) -> tuple[str, str, int, str]:
    """What was raised: its kind, its text, the exit code, and the line that this process would print."""
    try:
        function()
    except Exception as error:
        line, code = explain(error) or ("", 1)
        return type(error).__name__, str(error), code, line
    return "", "", 0, ""


def test_ranks_that_were_told_different_things_refuse_at_the_start(tmp_path):
    def other_rate(rank: int) -> Any:
        return outcome(lambda: run(tmp_path / "run", learning_rate=1e-3 * (1 + rank)))

    first, second = in_ranks(2, other_rate)
    text = "rank 1 has other settings than rank 0 (learning_rate: 0.002, and 0.001 there)"
    for kind, said, code, _ in (first, second):
        assert kind == "DistributedError" and said.startswith(text) and code == 7
    assert first[3].startswith(f"error: {text}") and second[3] == "", "rank 0 alone says it"
    assert not (tmp_path / "run").exists()


def test_an_error_of_one_rank_is_that_of_all(tmp_path):
    """Data that only rank 1 cannot read; a directory that only rank 0 looks at; another data set."""

    def faults(rank: int) -> Any:
        with join.join("cpu", 60) as world:
            task, model = make("sequence")
            if rank == 1:
                task.examples = lambda: (_ for _ in ()).throw(DataError("a row is broken"))
            broken = outcome(lambda: fit(task, config(tmp_path / "a"), model, world))
            whole, model = make("sequence")
            if rank == 0:
                (tmp_path / "b").mkdir()
                (tmp_path / "b/mine.txt").touch()
            taken = outcome(lambda: fit(whole, config(tmp_path / "b"), model, world))
            shorter, model = make("sequence", num_rows=50 - rank)
            return broken, taken, outcome(lambda: fit(shorter, config(tmp_path / "c"), model, world))

    for broken, taken, other in in_ranks(2, faults):
        assert broken[:3] == ("DataError", "a row is broken", 3)
        assert taken[0] == "UsageError" and "is not empty and holds no run" in taken[1] and taken[2] == 2
        assert other[0] == "DistributedError" and "other data than rank 0 (train" in other[1]


@pytest.mark.parametrize("how", ["killed", "hangs", "raises"])
def test_a_lost_rank_is_named_and_the_checkpoint_stands(how, tmp_path, monkeypatch):
    monkeypatch.setattr(lost_ranks, "ROLL_CALL_SECONDS", 2.0)

    def part(rank: int) -> Any:
        log = Run.log

        def fatal(self: Run, at: Any, *others: Any) -> None:
            log(self, at, *others)
            if rank == 1 and at.step == 5:
                if how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                if how == "hangs":
                    time.sleep(7)
                    os._exit(0)
                raise KeyError("a defect")

        Run.log = fatal
        return outcome(lambda: run_plain(tmp_path / "run"))

    def run_plain(out: Path) -> None:
        task, model = make("sequence")
        fit(task, config(out, save_steps=2, rank_timeout=2.0), model)

    began = time.monotonic()
    kind, said, code, line = in_ranks(2, part)[0]
    assert (kind, code) == ("DistributedError", 7), said
    assert line == f"error: {said}"
    assert ("rank 1 has ended: KeyError" if how == "raises" else "rank 1 does not answer: it was killed, or it hangs") in said
    assert "The last checkpoint stands" in said
    assert time.monotonic() - began < 60
    alone = tmp_path / "alone"
    run(alone, save_steps=2)
    run(tmp_path / "run", save_steps=2, resume=True)
    assert_close_runs(alone, tmp_path / "run")


def test_a_signal_to_one_rank_stops_all_in_the_same_step(tmp_path):
    def part(rank: int) -> Any:
        log, last = Run.log, []

        def signalled(self: Run, at: Any, *others: Any) -> None:
            if rank == 1 and at.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            log(self, at, *others)
            last.append(at.step)

        Run.log = signalled
        task, model = make("sequence")
        return outcome(lambda: fit(task, config(tmp_path / "run", save_steps=100), model)), last[-1]

    (first, step), (second, other_step) = in_ranks(2, part)
    assert step == other_step == 4, "the step after the one that the signal came in"
    for kind, said, code, _ in (first, second):
        assert (kind, code) == ("StoppedError", 143)
        assert said.startswith("stopped by SIGTERM (rank 1) after step 4 of 8, and saved: --resume continues")
    assert first[3] and not second[3]
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000004"]
    run(tmp_path / "whole", save_steps=100)
    run(tmp_path / "run", save_steps=100, resume=True)
    assert_close_runs(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    "more",
    [{}, {"shard": True}, {"optimizer": "sgd"}, {"optimizer": "adafactor"}, {"optimizer": "muon", "ema_decay": 0.5},
     {"shard": True, "optimizer": "sgd", "momentum": 0.9, "ema_decay": 0.5}],
)  # fmt: skip
def test_divergence_is_the_same_on_all_ranks_and_names_its_rows(more, tmp_path):
    def part(rank: int) -> Any:
        task, model = make("sequence")
        loss = task.loss

        def broken(outputs: Any, batch: Batch) -> Tensor:
            bad = any(key[1] == 13 for key in batch.keys) and model.training
            return loss(outputs, batch) * (float("nan") if bad else 1.0)

        task.loss = broken
        return outcome(lambda: fit(task, config(tmp_path / "run", log_steps=3, save_steps=1, **more), model))

    of_ranks = in_ranks(2, part)
    batches = run(tmp_path / "whole")
    newest = max((tmp_path / "run/checkpoints").iterdir())
    with open_checkpoint(newest).tensors("model") as tensors:
        assert all(torch.isfinite(tensors.full(name)).all() for name in tensors.shapes)
    [step] = [i for i, step in enumerate(batches[:4], start=1) if any(13 in rows for rows in step)]
    for kind, said, code, _ in of_ranks:
        assert (kind, code) == ("DivergedError", 5)
        assert f"the loss is not finite at step {step}" in said and " 13" in said
    assert of_ranks[0][1] == of_ranks[1][1] and not of_ranks[1][3]


def test_parameters_without_a_gradient_are_refused_before_they_are_updated(tmp_path):
    def part(rank: int) -> Any:
        with join.join("cpu", 60) as world:

            def with_flag(flag: bool) -> None:
                task, model = make("sequence")
                model.extra = torch.nn.Linear(3, 3)
                fit(task, config(tmp_path / str(flag), find_unused_parameters=flag), model, world)

            return [outcome(lambda flag=flag: with_flag(flag)) for flag in (False, True)]

    for refused, taken in in_ranks(2, part):
        assert refused[0] == "UsageError" and "--find-unused-parameters" in refused[1]
        assert taken[0] == "", taken


# -------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("batching", ["packed", "padded"])
def test_gradient_checkpointing_changes_no_bit(batching):
    """Dropout on: the blocks are run twice, with the same masks."""

    def gradients(flag: bool) -> tuple[list[Tensor], int]:
        settings = TrainConfig(device="cpu", batching=batching, gradient_checkpointing=flag, precision="fp32")
        rows, calls = tiny.token_rows(40), []
        setup = build(tiny.TokenTask(), rows, settings, tiny.bert(dropout=0.1))
        setup.state.model.bert.encoder.layer[0].intermediate.register_forward_pre_hook(lambda *_: calls.append(1))
        setup.state.model.train()
        _, micro_batches = next(setup.data.steps())
        accumulate(setup.state, tiny.TokenTask(), micro_batches, torch.tensor(16.0))
        return [parameter.grad for parameter in setup.state.parameters], len(calls)

    (plain, once), (recomputed, twice) = gradients(False), gradients(True)
    assert (once, twice) == (1, 2)
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))


def test_a_model_that_cannot_recompute_is_refused():
    model = tiny.bert()
    model.supports_gradient_checkpointing = False
    with pytest.raises(UsageError, match="--gradient-checkpointing: BertForSequenceClassification does not know it"):
        build(tiny.TokenTask(), tiny.token_rows(8), TrainConfig(device="cpu", gradient_checkpointing=True), model)


def test_shards_are_as_large_as_announced_and_metrics_merge_without_a_row(tmp_path, capfd):
    """What two ranks hold after a step, against the estimate; and an evaluation of which one rank has no row."""

    def part(rank: int) -> int:
        held = []
        log = Run.log

        def weighed(self: Run, at: Any, *others: Any) -> None:
            log(self, at, *others)
            state = [t for values in self.state.optimizer.state.values() for t in values.values() if t.dim()]
            held.append(sum(t.to_local().numel() * 4 for t in [*self.state.parameters, *state]))

        Run.log = weighed
        task, model = make("sequence")
        task.evaluation = tiny.token_rows(1, seed=3)
        fit(task, config(tmp_path / "run", epochs=1, shard=True), model)
        return held[0]

    found = in_ranks(2, part)
    num_weights = sum(parameter.numel() for parameter in tiny.bert().parameters())
    announced = bytes_per_rank(tiny.bert(), 2, "fp32", states={"AdamW": 8 * num_weights}, shard=True, accumulates=True)[
        "shares"
    ]
    assert announced == 16 * num_weights // 2
    assert sum(found) == 12 * num_weights, "weights and two averages; gradients, as many as weights, are gone by then"
    assert max(found) < 1.1 * announced * 12 / 16
    assert (
        "memory     at least 0.00 GiB on each rank (0.00 shares, 0.00 gathered); activations come on top"
        in capfd.readouterr().out
    )
    [evaluation] = lines(tmp_path / "run", "eval")
    assert evaluation["accuracy"] in (0.0, 1.0) and evaluation["num_examples"] == 1


def test_the_estimate_of_memory():
    """Against counting by hand: 2 blocks, in halves; what a GPU has too little for is refused before the first step."""
    model = tiny.bert()
    total = sum(parameter.numel() for parameter in model.parameters())
    block = sum(parameter.numel() for parameter in model.bert.encoder.layer[0].parameters())
    outside = total - 2 * block
    for size in (2, 4):
        states = state_bytes(model, TrainConfig())
        assert bytes_per_rank(model, size, "fp32", states=states, shard=False, accumulates=True) == {
            "weights": 4 * total,
            "gradients": 4 * total,
            "AdamW": 8 * total,
        }
        once, often = (
            bytes_per_rank(model, size, "bf16", states=states, shard=True, accumulates=flag) for flag in (False, True)
        )
        assert once["shares"] == often["shares"] == 16 * total // size
        assert once["gathered"] == 2 * (total + max(outside, block)) and often["gathered"] == 2 * total + 4 * total
    model.bert.requires_grad_(False)
    head = sum(parameter.numel() for parameter in model.classifier.parameters())
    states = state_bytes(model, TrainConfig())
    assert bytes_per_rank(model, 2, "bf16", states=states, shard=False, accumulates=False) == {
        "weights": 4 * total,
        "gradients": 4 * head,
        "AdamW": 8 * head,
        "bf16 copies": 2 * total,
    }


@pytest.mark.parametrize(("shard", "way_out"), [(False, "--shard over several, --lora"), (True, "more ranks, --lora")])
def test_a_model_that_cannot_fit_is_refused(shard, way_out, monkeypatch):
    task, model = make("sequence")
    settings = config(Path(), shard=shard)
    setup = build(task, task.train, dataclasses.replace(settings, shard=False), model)
    setup.state.device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    for there in (1 << 10, 1 << 40):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, there=there: (0, there))
        with pytest.raises(ResourceError, match=way_out) if there < 1 << 20 else nullcontext():
            check_memory(setup, settings)


def test_halves_that_overflow_on_one_rank_are_skipped_on_all():
    """fp16 with shards: the overflow lies in one rank's; no weight moves, and the scale is halved everywhere."""

    def part(rank: int) -> Any:
        with join.join("cpu", 60) as world:
            model = shard(tiny.bert(), world, "fp32")
            optimizer = torch.optim.AdamW(model.parameters(), fused=True)
            scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
            before = {name: p.to_local().clone() for name, p in model.named_parameters()}
            for overflows in (True, False):
                for parameter in model.parameters():
                    parameter.grad = torch.zeros_like(parameter)
                    parameter.grad.to_local().fill_(8.0)
                if overflows and rank == 1:
                    next(model.parameters()).grad.to_local().view(-1)[0] = float("inf")
                scaler.scale(torch.ones(()))
                scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update()
                moved = [name for name, p in model.named_parameters() if not torch.equal(p.to_local(), before[name])]
                found_here.append((scaler.get_scale(), len(moved)))
            return found_here

    found_here: list[tuple[float, int]] = []
    for found in in_ranks(2, part):
        (scale, moved), (again, all_moved) = found
        assert (scale, moved, again) == (4.0, 0, 4.0) and all_moved > 0


@pytest.mark.parametrize("num_rows", [1, 9])
def test_the_figures_of_every_task_merge(num_rows):
    """Rows dealt over two ranks, of which the second may have none, against all rows in one process."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_rows, 3, generator=generator)
    vectors = F.normalize(torch.randn(2 * num_rows, 4, generator=generator), dim=-1)
    scores = torch.rand(num_rows, generator=generator)
    labels = torch.arange(num_rows) % 3
    several = F.one_hot(labels, 3).float()

    def figures(world: World) -> list[dict[str, float]]:
        mine = torch.arange(num_rows)[world.rank :: world.size]
        pairs = torch.cat([vectors[:num_rows][mine], vectors[num_rows:][mine]])
        counts = {"num_examples": len(mine), "num_tokens": 0, "executed_tokens": 0, "sum_squares": 0, "longest": 0}
        given: list[tuple[Any, Any, dict[str, Tensor]]] = [
            (ClassificationMetrics("single_label", 3), SimpleNamespace(logits=logits[mine]), {"labels": labels[mine]}),
            (ClassificationMetrics("multi_label", 3), SimpleNamespace(logits=logits[mine]), {"labels": several[mine]}),
            (ClassificationMetrics("regression", 1), SimpleNamespace(logits=logits[mine, :1]), {"labels": scores[mine]}),
            (LanguageMetrics(0.5), SimpleNamespace(logits=logits[mine][None]), {"labels": labels[mine]}),
            (RetrievalMetrics(), pairs, {}),
            (ScoreMetrics(), pairs, {"scores": scores[mine], "labels": scores[mine]}),
        ]
        found = []
        for metrics, outputs, targets in given:
            if len(mine):
                metrics.update(torch.nn.Linear(1, 1), outputs, Batch({}, targets, num_items=len(mine), **counts))
            metrics.sync(world)
            found.append(metrics.compute())
        return found

    def part(rank: int) -> Any:
        with join.join("cpu", 20) as world:
            return figures(world)

    alone = figures(World(CPU))
    for found in in_ranks(2, part):
        assert isinstance(found, list), found
        for mine, other in zip(alone, found, strict=True):
            assert mine == pytest.approx(other, rel=1e-6, nan_ok=True)


def test_the_log_has_the_figures_of_each_rank_when_asked(tmp_path, capfd):
    def part(rank: int) -> None:
        with join.join("cpu", 60) as world:
            for flag in (False, True):
                run(tmp_path / str(flag), world=world, epochs=1, log_ranks=flag)

    assert in_ranks(2, part) == [None, None]
    assert not any("ranks" in line for line in lines(tmp_path / "False"))
    for line in lines(tmp_path / "True"):
        assert sum(own["tokens_per_second"] for own in line["ranks"]) == pytest.approx(line["tokens_per_second"], rel=0.5)
        assert all(own["seconds"].keys() >= {"data", "forward", "backward"} for own in line["ranks"])
    assert capfd.readouterr().out.count("  rank 1: ") == 4


def test_explaining_and_watching_change_nothing_and_rank_0_alone_writes(tmp_path, capfd):
    (tmp_path / "mine.py").write_text(
        "class Mine:\n def __init__(self, directory, settings, step): (directory / 'made').open('a').write('once ')\n"
        " def on_end(self): pass\n"
    )

    def part(rank: int) -> None:
        with join.join("cpu", 60) as world:
            for shard in (False, True):
                run(tmp_path / "explained", world=world, explain=True, shard=shard)
            run(tmp_path / "plain", world=world)
            run(tmp_path / "watched", world=world, profile=1, write_to=f"tensorboard,{tmp_path / 'mine.py'}:Mine")

    assert in_ranks(2, part) == [None, None]
    assert (tmp_path / "watched/made").read_text() == "once "
    said = capfd.readouterr().out
    assert (
        said.count("nothing was trained and nothing written")
        == said.count("device     2 ranks on cpu (1 threads), fp32  ")
        == 2
    )
    assert " MiB on each rank in all, and the activations" in said and not (tmp_path / "explained").exists()
    assert len(json.loads((tmp_path / "watched/profile/profile.json").read_text())["steps"]) == 1
    assert len(list((tmp_path / "watched/tensorboard").iterdir())) == 1
    plain, watched = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "watched"))
    assert all((plain[name] == watched[name]).all() for name in plain)


def test_a_task_whose_figures_generate_is_not_sharded(tmp_path):
    """Its ranks would call the model, and with it the exchange, as often as their own rows happen to want."""
    task, model = make("sequence")
    task.shardable = False
    with pytest.raises(UsageError, match="--shard: this task's evaluation generates"):
        fit(task, config(tmp_path, shard=True), model)


@pytest.mark.parametrize("shard", [False, True])
def test_chunks_of_a_contrastive_batch_are_exchanged(shard, tmp_path):
    """Each chunk is a forward pass of its own, computed again in the backward pass; the end is that without chunks."""
    start = tiny.save_model(tmp_path / "start", tiny.distilbert(dropout=0.0).distilbert)

    def part(rank: int) -> None:
        with join.join("cpu", 60) as world:
            for size in (None, 3):
                settings = config(tmp_path / f"{size}", shard=shard, batch_size=8, accumulation_steps=1, max_steps=4)
                fit(make_pairs(start, chunk_size=size), settings, world=world)

    assert in_ranks(2, part) == [None, None]
    assert_close_runs(tmp_path / "None", tmp_path / "3")


def test_blocks_are_the_outermost_lists():
    model = tiny.bert()
    assert blocks(model) == [*model.bert.encoder.layer]
    nested = torch.nn.ModuleList([torch.nn.ModuleList([torch.nn.Linear(2, 2)])])
    assert blocks(torch.nn.Sequential(nested)) == [nested[0]]


def test_a_skeleton_has_no_weights_and_keeps_what_is_tied():
    model = tiny.bert()
    model.classifier.weight = model.bert.pooler.dense.bias  # any two
    empty = skeleton(model)
    assert all(parameter.is_meta for parameter in empty.parameters())
    filled = fill(empty, {name: tensor.clone() for name, tensor in model_tensors(model).items()})
    assert filled.classifier.weight is filled.bert.pooler.dense.bias
    assert all(torch.equal(a, b) for a, b in zip(filled.state_dict().values(), model.state_dict().values(), strict=True))


# ------------------------------------------------------------------------------------------------------------ joining


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"WORLD_SIZE": None}, "WORLD_SIZE not: start with torchrun, or unset them"),
        ({"RANK": None, "MASTER_PORT": None}, "are set and RANK MASTER_PORT not"),
        ({"RANK": "2"}, "RANK=2, WORLD_SIZE=2, LOCAL_RANK=0, LOCAL_WORLD_SIZE=2 contradict each other"),
        ({"WORLD_SIZE": "many"}, "must be whole numbers"),
    ],
)
def test_an_incomplete_environment_is_refused(changes, text, monkeypatch):
    for name, value in (environment(0, 2, 1) | changes).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(DistributedError, match=text.replace("(", r"\(")):
        join.join("cpu", 10)


def test_what_earlier_processes_have_left_in_the_store_is_not_read():
    """torchrun with a port of its own keeps one store over its restarts."""
    store = dist.HashStore()

    def attempt(text: str) -> list[bytes]:
        found: dict[int, Any] = {}

        def come(rank: int) -> None:
            part = join.meet(store, rank, 3, "here")
            part.set(f"address/{rank}", f"{text} {rank}")
            found[rank] = [part.get(f"address/{other}") for other in range(3)]

        threads = [threading.Thread(target=come, args=(rank,)) for rank in (2, 1, 0)]
        for thread in threads:
            thread.start()
            time.sleep(0.1)
        for thread in threads:
            thread.join()
        assert found[0] == found[1] == found[2]
        return found[0]

    for text in ("first", "second"):
        assert attempt(text) == [f"{text} {rank}".encode() for rank in range(3)]


def test_a_port_in_use_and_ranks_that_do_not_come_are_one_line(monkeypatch):
    import socket

    monkeypatch.setattr(join, "START_SECONDS", 1.0)
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        for name, value in environment(0, 2, taken.getsockname()[1]).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(DistributedError, match=r"127\.0\.0\.1:\d+ is in use: give another MASTER_PORT"):
            join.join("cpu", 10)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(
        DistributedError,
        match=r"rank 1 of 2 has not come to 127.0.0.1:\d+ within 1 s|the 2 ranks have not met at .*1/2 clients joined",
    ):
        join.join("cpu", 10)


def test_without_torchrun_there_is_one_rank(monkeypatch):
    world = join.join("cpu", 10)
    assert (world.rank, world.size, world.is_main, world.vote_delay) == (0, 1, True, 0)
    assert world.vote(True) and not world.vote(False)
    assert world.sum([2, 3.5]).tolist() == [2, 3.5] and world.gather("a") == ["a"] and world.broadcast_from_main(lambda: 3) == 3


def test_sharding_needs_torchrun(tmp_path):
    task, model = make("sequence")
    with pytest.raises(UsageError, match="--shard spreads the model over several processes: start with torchrun"):
        fit(task, config(tmp_path, shard=True), model)


def test_these_errors_have_their_codes():
    assert explain(DistributedError("x")) == ("error: x", 7)
    assert StoppedError("x", 143).shared and DivergedError("x").shared and not DistributedError("x").shared


def test_the_rehearsal_is_no_part_of_the_time(tmp_path, capfd):
    def part(rank: int) -> float:
        with join.join("cpu", 60) as world:
            task, model = make("sequence")
            setup = build(task, task.train, config(tmp_path / "run"), model, world)
            return sum(setup.state.clock.read().values()) + sum(setup.state.clock.take().values())

    assert in_ranks(2, part) == [0.0, 0.0]


def test_a_vote_to_stop_is_not_one_of_the_next_run(tmp_path):
    def part(rank: int) -> str:
        with join.join("cpu", 60) as world:
            with pytest.raises(StoppedError):
                run(tmp_path / "stopped", world=world, max_minutes=1e-9)
            run(tmp_path / "next", world=world, epochs=1)
        return "ok"

    assert in_ranks(2, part) == ["ok", "ok"]
    assert [line["step"] for line in lines(tmp_path / "next")] == [1, 2, 3, 4]


def test_ranks_with_other_models_refuse(tmp_path):
    def part(rank: int) -> None:
        with join.join("cpu", 60) as world:
            task, model = make("sequence")
            model = tiny.bert(num_labels=4) if rank else model
            fit(task, config(tmp_path / "run"), model, world)

    for error in in_ranks(2, part):
        assert isinstance(error, DistributedError)
        assert str(error).startswith("rank 1 has other parameters than rank 0 (classifier.weight: [4, 32], and [3, 32] there)")


def test_a_process_group_of_the_callers_needs_a_backend_for_the_hosts(monkeypatch):
    for name, value in environment(0, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cuda:nccl")
    with pytest.raises(DistributedError, match=r"initialised with cuda:nccl, .* give cpu:gloo,cuda:nccl"):
        join.join("cpu", 60)


def test_the_ranks_have_voted_on_a_step_before_its_losses_are_read(tmp_path):
    """On a GPU the read would wait for a lost rank without an end; the vote, which goes between the hosts, finds it."""

    def part(rank: int) -> list[str]:
        seen = []
        vote, votes_in, log = World.vote, World.votes_in, Run.log
        World.vote = lambda self, mine: (seen.append("vote"), vote(self, mine))[1]
        World.votes_in = lambda self: (seen.append("wait"), votes_in(self))[1]
        Run.log = lambda self, *arguments: (seen.append("step"), log(self, *arguments))[1]
        run(tmp_path / "run", epochs=1)
        return seen

    for seen in in_ranks(2, part):
        for step in " ".join(seen[seen.index("step") :]).split("step ")[1:]:
            assert step.startswith("vote"), step

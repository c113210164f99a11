"""Runs by one and by several ranks, what each rank has seen of them, and how two runs are compared.

The ranks are forked processes: bench/toys/ranks.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from bench.toys import ranks, tiny
from engine.config import TrainConfig
from engine.data.batch import Batch
from engine.data.collate import Layout, arrange, per_token
from engine.distributed import join
from engine.distributed.world import World
from engine.fit import fit
from engine.record.run import Run
from tests.toys import answers, language, writing
from tests.toys.killed import killed_after


def in_ranks(size: int, function: Callable[[int], Any], **more: Any) -> list[Any]:
    """``function(rank)`` in that many forked processes. It skips the test where torch sees a GPU: pytest's process has mostly
    computed a gradient before, for which autograd started a thread for each GPU, and no process forked later can compute one
    (https://github.com/pytorch/pytorch/wiki/Autograd-and-Fork)."""
    if torch.cuda.device_count():
        pytest.skip("its ranks are forked, which needs a pytest that sees no GPU: CUDA_VISIBLE_DEVICES= python -m pytest")
    return ranks.in_ranks(size, function, **more)


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
    if kind == "qa":
        net = answers.model(dropout)
        for unseen in (net.qa_outputs.bias, net.bert.encoder.layer[-1].output.LayerNorm.bias):
            unseen.requires_grad_(False)  # a softmax over tokens does not see it: AdamW makes steps of mere rounding
        return answers.make_task(num_rows), net
    if kind == "seq2seq":
        return writing.make_task(num_rows), writing.model(dropout=dropout)
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
    out: Path, kind: str = "sequence", dropout: float = 0.0, world: World | None = None, until: int | None = None, **more: Any
) -> list[list[list[int]]]:
    """``fit``, killed after step ``until``; returns the rows of each micro-batch of each step that this process has seen."""
    seen = []
    log = Run.log

    def watched(self: Run, at: Any, micro_batches: Any, record: Any) -> None:
        seen.append([[row for _, row in batch.keys] for batch in micro_batches])
        log(self, at, micro_batches, record)

    Run.log = watched
    try:
        with killed_after(until):
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
            for name in {"loss", "grad_norm", "accuracy", "f1", "exact_match", "perplexity", "chrf", "rouge_l"} & a.keys():
                assert b[name] == pytest.approx(a[name], rel=10 * tolerance, abs=tolerance), (kind, a["step"], name)
    weights, others = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.allclose(tensor, others[name], rtol=0, atol=tolerance), name


def cut_and_whole(size: int, out: Path, **more: Any) -> bool:
    """Is a run that was killed after 3 steps and resumed bitwise the undisturbed one? Dropout on, a checkpoint every 2 steps."""

    def cut(rank: int) -> None:
        run(out / "cut", dropout=0.1, save_steps=2, until=3, **more)

    def others(rank: int) -> None:
        with join.join("cpu", 60) as world:
            run(out / "whole", dropout=0.1, save_steps=2, world=world, **more)
            run(out / "cut", dropout=0.1, save_steps=2, resume=True, world=world, **more)

    assert in_ranks(size, cut) == [None] * size == in_ranks(size, others)
    ours, theirs = (load_file(out / name / "model.safetensors") for name in ("whole", "cut"))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def assert_two_ranks_are_one(out: Path, task: Callable[[], Any], model: Callable[[], torch.nn.Module]) -> None:
    """An epoch over the task's rows, in micro-batches of 7: losses, norms, counts, evaluations and weights. ``model``: one
    without dropout, the same at each call."""

    def train(name: str, world: World | None = None) -> None:
        fit(task(), config(out / name, epochs=1), model(), world)

    def of_rank(rank: int) -> None:
        with join.join("cpu", 60) as world:
            train("two", world)

    assert in_ranks(2, of_rank) == [None, None]
    train("one")
    assert_close_runs(out / "one", out / "two")

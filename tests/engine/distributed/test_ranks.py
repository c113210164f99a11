"""Several ranks compute what one computes, on the same batches in the same order, and write what one writes.

The ranks are forked processes with torchrun's environment and gloo between them (bench/toys/ranks.py); torchrun itself starts
those of test_torchrun.py.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import engine.loader
import engine.loop
from engine.data.batch import Batch, FillerKey
from engine.distributed import join
from engine.distributed.world import World
from engine.errors import StoppedError
from engine.loader import share
from engine.record.run import Run
from tasks.classification.metrics import ClassificationMetrics
from tasks.embeddings.retrieval import RetrievalMetrics, ScoreMetrics
from tasks.language.task import LanguageMetrics
from tests.toys.ranks import assert_close_runs, dealt, in_ranks, lines, run

CPU = torch.device("cpu")


QUICK = {
    "classification": ("sequence", {"batching": "padded", "epochs": 2}),
    "clm, packed": ("clm", {"batching": "packed", "epochs": 1}),
    "qa, packed": ("qa", {"batching": "packed", "epochs": 1}),
    "seq2seq": ("seq2seq", {"epochs": 1}),
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
    for kind in ("sequence", "tagging", "qa", "mlm", "clm")
    for batching in ("padded", "packed")
    for shard in (False, True)
} | {
    "tokens": ("sequence", {"batching": "bucketed", "tokens_per_batch": 60, "epochs": 2}),
    "checkpointing": ("clm", {"batching": "packed", "gradient_checkpointing": True}),
    "sharded checkpointing": ("clm", {"batching": "packed", "gradient_checkpointing": True, "shard": True}),
}
SIZES = [
    pytest.param(2, QUICK, id="2"),
    pytest.param(2, EACH_OPTIMIZER, id="2-optimizers", marks=pytest.mark.slow),
    pytest.param(2, BF16, id="2-bf16", marks=[pytest.mark.bf16, pytest.mark.slow]),
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
    "a filler counts": (engine.loader, "filler", lambda batch: batch),
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


def test_every_row_is_dealt_once_and_a_rank_without_any_gets_a_stand_in():
    keys = [(3, row) for row in (5, 9, 2, 7, 1)]
    for size in (1, 2, 3, 5, 8):
        parts = []
        for rank in range(size):
            world = World(CPU, rank)
            world.size = size
            parts.append(share(keys, world))
        assert sorted(key for part in parts for key in part if not isinstance(key, FillerKey)) == sorted(keys)
        assert [part for part in parts if isinstance(part[0], FillerKey)] == [[FillerKey(3, 5)]] * max(size - len(keys), 0)


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
            (ClassificationMetrics("single_label", "abc"), SimpleNamespace(logits=logits[mine]), {"labels": labels[mine]}),
            (ClassificationMetrics("multi_label", "abc"), SimpleNamespace(logits=logits[mine]), {"labels": several[mine]}),
            (
                ClassificationMetrics("regression", ["value"]),
                SimpleNamespace(logits=logits[mine, :1]),
                {"labels": scores[mine]},
            ),
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


@pytest.mark.slow
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


def test_a_vote_to_stop_is_not_one_of_the_next_run(tmp_path):
    def part(rank: int) -> str:
        with join.join("cpu", 60) as world:
            with pytest.raises(StoppedError):
                run(tmp_path / "stopped", world=world, max_minutes=1e-9)
            run(tmp_path / "next", world=world, epochs=1)
        return "ok"

    assert in_ranks(2, part) == ["ok", "ok"]
    assert [line["step"] for line in lines(tmp_path / "next")] == [1, 2, 3, 4]


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

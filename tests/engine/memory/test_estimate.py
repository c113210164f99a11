"""What a run needs in memory, against counting by hand and against what ranks hold; and gradient checkpointing, which needs less."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.toys import tiny
from engine.build import build
from engine.checks import check_memory
from engine.config import TrainConfig
from engine.errors import ResourceError, UsageError
from engine.fit import fit
from engine.loop import accumulate
from engine.memory.estimate import bytes_per_rank
from engine.optimizer import state_bytes
from engine.record.run import Run
from tests.toys.ranks import config, in_ranks, lines, make


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

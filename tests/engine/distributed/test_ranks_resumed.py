"""Several ranks killed and resumed: bitwise with as many, the same rows in the same steps with another number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.toys.ranks import assert_close_runs, cut_and_whole, dealt, in_ranks, run


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
            return run(out, until=until, **more)

        found = in_ranks(size, part) if size > 1 else [part(0)]
        assert all(isinstance(seen, list) for seen in found), found
        steps = steps[:done] + dealt(found)
        done = until // 2 * 2 if until else done
    assert steps == whole
    assert_close_runs(tmp_path / "whole", out)
    said = capfd.readouterr().out
    changes = f"world size: {sizes[0]} -> {sizes[1]}" + ("; sharded: True -> False" if shard else "")
    assert f"resume: same data order, not bitwise ({changes}), from step 2 of" in said


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=[pytest.mark.bf16, pytest.mark.slow])])
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


LONGER = ("sgd", "adafactor", "sharded sgd, average", "sharded average", "muon, average")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in LONGER else ()) for name in RESUMED])
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

"""With --shard each rank saves its rows and reads the rows it needs, however many have saved them; nobody holds the whole.

Killed at random times: bench/reliability/ranks.py --shard.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import BertConfig, BertForSequenceClassification

from bench.reliability.checkpoints import Watch
from bench.toys import tiny
from bench.toys.ranks import NoResult
from engine.build import Setup, build
from engine.checkpoint import saver as saving
from engine.checkpoint import store
from engine.checkpoint.saver import AsyncSaver, Saver
from engine.checkpoint.snapshot import load_model, load_state, model_tensors, take_snapshot
from engine.checkpoint.store import commit, newest, open_checkpoint, steps_in
from engine.checkpoint.tensor_file import TensorFile, Tensors
from engine.config import TrainConfig
from engine.distributed import join
from engine.distributed.world import World
from engine.distributed.wrap import collect
from engine.errors import DistributedError, ResourceError
from engine.fit import fit
from engine.loop import train_step
from tests.toys.ranks import cut_and_whole, in_ranks

SETTINGS: dict[str, Any] = {"batch_size": 8, "learning_rate": 1e-2, "device": "cpu", "precision": "fp32"}


def made(world: World, steps: int = 0, seed: int = 0) -> Setup:
    """A run by these ranks, sharded if there are several; some steps trained."""
    task = tiny.TokenTask(train=tiny.token_rows(40))
    setup = build(task, task.train, TrainConfig(**SETTINGS, shard=world.size > 1), tiny.bert(seed=seed), world)
    for _, micro_batches in setup.data.steps(0):
        if setup.state.step == steps:
            break
        train_step(setup.state, task, micro_batches, TrainConfig(**SETTINGS), world)
    return setup


def full_state(setup: Setup) -> dict[str, Tensor]:
    """All weights and averages put together, on rank 0; by names that do not depend on how they are spread."""
    tensors = model_tensors(setup.state.model)
    names = {parameter: name for name, parameter in setup.state.model.named_parameters()}
    for parameter, values in setup.state.optimizer.state.items():
        tensors |= {f"{names[parameter]}//{kind}": value for kind, value in values.items()}
    return {name: tensor.detach().clone() for name, tensor in collect(tensors, setup.world).items()}


def forbid_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a whole tensor is put together")

    monkeypatch.setattr(DTensor, "full_tensor", refuse)


def saved_by(size: int, root: Path) -> dict[str, Tensor]:
    """A checkpoint of two steps by so many ranks, and what it is to hold."""

    def part(rank: int) -> Any:
        with join.join("cpu", 60) as world:
            setup = made(world, steps=2)
            full = full_state(setup)
            with pytest.MonkeyPatch.context() as patch:
                forbid_full(patch)
                snapshot = take_snapshot(setup.state, {"best": None}, world)
                commit(root, 2, snapshot.files(), world if size > 1 else None)
            return {name: tensor.numpy() for name, tensor in full.items()}

    found = in_ranks(size, part)
    assert isinstance(found[0], dict), found
    return {name: torch.from_numpy(array) for name, array in found[0].items()}


def loaded_by(size: int, root: Path) -> tuple[dict[str, Tensor], list[int]]:
    """The state of so many other ranks after loading, and how many numbers each has read of what is spread."""

    def part(rank: int) -> Any:
        read = 0
        rows = Tensors.rows

        def counted(self: Tensors, *arguments: Any) -> Tensor:
            nonlocal read
            found = rows(self, *arguments)
            read += found.numel()
            return found

        with join.join("cpu", 60) as world:
            setup = made(world, seed=5)
            with pytest.MonkeyPatch.context() as patch:
                forbid_full(patch)
                patch.setattr(Tensors, "rows", counted)
                assert load_state(setup.state, world.on_main_rank(lambda: newest(root)), world) == {"best": None}
            assert setup.state.step == 2
            return {name: tensor.numpy() for name, tensor in full_state(setup).items()}, read

    found = in_ranks(size, part)
    assert all(isinstance(one, tuple) for one in found), found
    return {name: torch.from_numpy(array) for name, array in found[0][0].items()}, [read for _, read in found]


@pytest.mark.parametrize(
    ("saving_size", "others"), [(2, (1, 4)), pytest.param(4, (2,), marks=pytest.mark.slow), (1, (2,))], ids=str
)
def test_the_same_bits_at_any_number_of_ranks(tmp_path, saving_size, others):
    """Some ranks of four have no row of the head (3) and of the token types (2)."""
    expected = saved_by(saving_size, tmp_path)
    found = open_checkpoint(tmp_path / "step-00000002")
    manifest, state = (json.loads((tmp_path / "step-00000002" / name).read_text()) for name in ("MANIFEST.json", "state.json"))
    assert manifest["format"] == state["format"] == (2 if saving_size > 1 else 1)
    numbers = sum(tensor.numel() for tensor in expected.values() if tensor.dim())
    sizes = [content.bytes for name, content in found.files.items() if name.startswith(("model", "optimizer"))]
    assert len(sizes) == 2 * saving_size and max(sizes) < 4 * numbers * 2 / 3 / saving_size * 1.2 + 20_000
    for size in others:
        state, read = loaded_by(size, tmp_path)
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
        if size > 1:
            assert sum(read) == numbers and max(read) < 1.2 * numbers / size, "each reads its rows, and no others"


@pytest.mark.parametrize("asynchronous", [pytest.param(False, marks=pytest.mark.slow), True])
def test_killed_and_resumed_sharded_is_bitwise(tmp_path, asynchronous):
    assert cut_and_whole(2, tmp_path, shard=True, async_save=asynchronous)
    [*_, last] = sorted((tmp_path / "cut/checkpoints").glob("step-*"))
    assert {path.name for path in last.iterdir()} == {"MANIFEST.json", "state.json", "rng.safetensors"} | {
        f"{kind}.rank-{rank:05d}-of-00002.safetensors" for kind in ("model", "optimizer") for rank in range(2)
    }


# ------------------------------------------------------------------------------------------------------------- faults


def outcome(function: Any) -> tuple[str, str]:
    try:
        function()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def content(rank: int, step: int = 1) -> dict[str, Any]:
    """A small part of a checkpoint."""
    state = {"state.json": json.dumps({"step": step, "progress": {}}).encode()} if rank == 0 else {}
    return {store.file_name("model", rank, 2): TensorFile({"w": torch.full((3,), step)}, {"w": 3 * rank}), **state}


@pytest.mark.parametrize("kind", [Saver, AsyncSaver])
def test_a_full_disk_of_one_rank_is_the_error_of_all_and_the_older_one_stands(tmp_path, kind):
    def part(rank: int) -> Any:
        write = store.write_synced

        def full(path: Path, what: Any) -> Any:
            if ".tmp-step-00000002" in str(path) and "rank-00001" in path.name:
                raise OSError(28, os.strerror(28))
            return write(path, what)

        store.write_synced = full
        with join.join("cpu", 60) as world:

            class Parts:
                def __init__(self, step: int):
                    self.step, self.state_json = step, content(0, step)["state.json"]

                def files(self) -> Any:
                    return content(rank, self.step)

                def copy(self) -> Any:
                    return self

            def save() -> None:
                with kind(tmp_path, 2, world) as saver:
                    saver.save(Parts(1))
                    saver.save(Parts(2))

            first = outcome(save)
            store.write_synced = write
            with kind(tmp_path, 2, world) as saver:
                saver.save(Parts(3))
            return first

    for name, text in in_ranks(2, part):
        assert name == "ResourceError" and "step-00000002 could not be written: No space left on device" in text
    assert steps_in(tmp_path) == [1, 3] and sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]
    with newest(tmp_path).tensors("model") as tensors:
        assert tensors.full("w").tolist() == [3] * 6


def test_nodes_that_do_not_share_the_folder_are_told_so(tmp_path):
    def part(rank: int) -> Any:
        with join.join("cpu", 60) as world:
            return outcome(lambda: commit(tmp_path / str(rank), 1, content(rank), world))

    for name, text in in_ranks(2, part):
        assert name == "ResourceError" and "--shard needs a file system that all nodes share" in text


def test_they_are_told_so_before_the_first_step(tmp_path):
    def part(rank: int) -> Any:
        (tmp_path / str(rank)).mkdir()
        os.chdir(tmp_path / str(rank))
        task = tiny.TokenTask(train=tiny.token_rows(40))
        return outcome(lambda: fit(task, TrainConfig(**SETTINGS, shard=True, output_dir="run"), tiny.bert()))

    for name, text in in_ranks(2, part):
        assert name == "UsageError" and "--output-dir run is not the same for all ranks" in text
    assert not (tmp_path / "0/run/run.json").exists()


def test_one_rank_alone_writes_an_ordinary_checkpoint(tmp_path):
    """torchrun --nproc-per-node 1 with --shard: the weights are DTensors, and whole."""

    def part(rank: int) -> Any:
        task = tiny.TokenTask(train=tiny.token_rows(40))
        more = {"shard": True, "output_dir": str(tmp_path / "run"), "max_steps": 3, "save_steps": 2}
        fit(task, TrainConfig(**SETTINGS, **more), tiny.bert())
        document = json.loads((tmp_path / "run/run.json").read_text())
        (tmp_path / "run/run.json").write_text(json.dumps(document | {"status": "running"}))
        return fit(task, TrainConfig(**SETTINGS, **more, resume=True), tiny.bert()).metrics["num_steps"]

    assert in_ranks(1, part) == [3]
    last = tmp_path / "run/checkpoints/step-00000003"
    assert json.loads((last / "MANIFEST.json").read_text())["format"] == 1 and (last / "model.safetensors").exists()


@pytest.mark.slow
def test_the_loss_of_a_rank_does_not_wait_for_its_part(tmp_path):
    """Rank 1 dies while the threads write; the other is not held up by its thread, and the older checkpoint stands."""

    def part(rank: int) -> Any:
        commits = saving.commit

        def deadly(root: Path, step: int, files: Any, world: World) -> Any:
            if rank == 1 and step == 4:
                os._exit(1)
            return commits(root, step, files, world)

        saving.commit = deadly
        task = tiny.TokenTask(train=tiny.token_rows(40))
        more = {"save_steps": 2, "shard": True, "async_save": True, "rank_timeout": 20.0, "output_dir": str(tmp_path / "run")}
        return outcome(lambda: fit(task, TrainConfig(**SETTINGS, **more), tiny.bert()))

    (name, text), lost = in_ranks(2, part, limit_seconds=60)
    assert isinstance(lost, NoResult) and name == DistributedError.__name__ and "rank 1 does not answer" in text
    assert steps_in(tmp_path / "run/checkpoints") == [2]
    assert newest(tmp_path / "run/checkpoints") is not None


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two checkpoints by two ranks."""

    def part(rank: int) -> None:
        with join.join("cpu", 60) as world:
            for step in (1, 2):
                commit(tmp_path, step, content(rank, step), world)

    assert in_ranks(2, part) == [None, None]
    return tmp_path


@pytest.mark.parametrize("harm", ["flip", "cut", "missing"])
def test_damage_in_the_part_of_one_rank_is_damage(two, harm, capsys):
    path = two / "step-00000002" / store.file_name("model", 1, 2)
    whole = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] if harm == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert newest(two).directory.name == "step-00000001"
    assert "is damaged" in capsys.readouterr().err


def test_a_file_that_changes_after_it_was_verified_is_noticed(two):
    found = newest(two)
    path = two / "step-00000002" / store.file_name("model", 1, 2)
    with pytest.raises(ResourceError, match="was changed while it was read"), found.tensors("model"):
        os.utime(path, ns=(1, 1))
    found = open_checkpoint(two / "step-00000002")
    state = two / "step-00000002/state.json"
    state.write_bytes(state.read_bytes().replace(b"2", b"3"))
    with pytest.raises(store.DamagedError, match=r"state.json is damaged"):
        found["state.json"]


def test_a_tensor_of_another_shape_is_refused_before_a_weight_is_changed(tmp_path):
    model = tiny.bert()
    tensors = dict(model_tensors(tiny.bert(seed=1)))
    tensors["classifier.bias"] = torch.zeros(1)  # copy_ would spread it
    commit(tmp_path, 1, {"model.safetensors": TensorFile(tensors), "state.json": b"{}"})
    before = {name: tensor.clone() for name, tensor in model_tensors(model).items()}
    with pytest.raises(store.ModelError, match=r"classifier.bias: \(1,\) there, \(3,\) here"):
        load_model(model, newest(tmp_path))
    assert all(torch.equal(before[name], tensor) for name, tensor in model_tensors(model).items())


# ------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_saving_takes_no_more_memory_than_the_ranks_share(tmp_path, size, asynchronous):
    """Above the state: next to nothing, or with --async-save one copy of the share. Control: collecting takes all of it."""

    def part(rank: int) -> Any:
        torch.set_num_threads(1)
        task = tiny.TokenTask(train=tiny.token_rows(8))
        sizes = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 1024}
        config = BertConfig(vocab_size=100, num_labels=3, **sizes)
        settings = TrainConfig(**SETTINGS, shard=True)
        with join.join("cpu", 60) as world:
            setup = build(task, task.train, settings, BertForSequenceClassification(config), world)
            [(_, micro_batches), *_] = setup.data.steps(0)
            train_step(setup.state, task, micro_batches, settings, world)
            saver = (AsyncSaver if asynchronous else Saver)(tmp_path, 2, world)
            with Watch() as watch, saver:
                saver.save(take_snapshot(setup.state, {"best": None}, world))
            with Watch() as control:
                whole = collect(model_tensors(setup.state.model), world)
            num = sum(parameter.numel() for parameter in setup.state.parameters)
            del whole
            return 12 * num / size / 2**20, watch.peak - watch.before, control.peak - control.before

    found = in_ranks(size, part)
    assert all(isinstance(one, tuple) for one in found), found
    for share, grown, _ in found:
        assert grown < share * (1.3 if asynchronous else 0.3) + 4, (share, grown)
    share, _, collected = found[0]
    assert collected > size * share / 3 * 0.9, "the measurement sees what is put together"

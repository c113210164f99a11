"""How ranks find each other, and what is refused when they cannot."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch.distributed as dist

from bench.toys.ranks import environment, free_port
from engine.distributed import join
from engine.errors import DistributedError, UsageError
from engine.fit import fit
from tests.toys.ranks import config, make


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
    assert world.sum(3.5).item() == 3.5 and world.gather("a") == ["a"] and world.broadcast_from_main(lambda: 3) == 3


def test_sharding_needs_torchrun(tmp_path):
    task, model = make("sequence")
    with pytest.raises(UsageError, match="--shard spreads the model over several processes: start with torchrun"):
        fit(task, config(tmp_path, shard=True), model)


def test_a_process_group_of_the_callers_needs_a_backend_for_the_hosts(monkeypatch):
    for name, value in environment(0, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cuda:nccl")
    with pytest.raises(DistributedError, match=r"initialised with cuda:nccl, .* give cpu:gloo,cuda:nccl"):
        join.join("cpu", 60)

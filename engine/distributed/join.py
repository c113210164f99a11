"""How the ranks of a run find each other: torch.distributed, joined as torchrun's environment says.

https://pytorch.org/docs/stable/elastic/run.html names the variables.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from engine.distributed.device import choose_device, device_of
from engine.distributed.lost_ranks import first_line, is_lost_rank
from engine.distributed.world import START_SECONDS, World
from engine.errors import DistributedError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def join(device: str, timeout_seconds: float) -> World:
    """The World that torchrun's environment describes; without it, the only rank. Raises UsageError, DistributedError."""
    given = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if not {"RANK", "LOCAL_RANK"} & given.keys() and given.get("WORLD_SIZE", "1") == "1":
        return World(choose_device(device))
    rank, size, local_rank, local_size = numbers(given)
    own = choose_device(device_of(device, local_rank, local_size))
    address = f"{given['MASTER_ADDR']}:{given['MASTER_PORT']}"
    if dist.is_initialized():  # by the caller, whose it stays
        if "cpu:" not in (found := dist.get_backend_config()):
            raise DistributedError(
                f"the process group was initialised with {found}, and the hosts talk to each other, too: give cpu:gloo,{found}"
            )
        return World(own, rank, size, local_rank=local_rank, timeout_seconds=timeout_seconds)
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=START_SECONDS)))
        store = meet(store, rank, size, address)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout_seconds + (60 if own.type == "cuda" else 0)),  # the votes find it first
            device_id=own if own.type == "cuda" else None,
        )
        return World(own, rank, size, local_rank=local_rank, store=store, timeout_seconds=timeout_seconds)
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            raise DistributedError(f"{address} is in use: give another MASTER_PORT (torchrun --master-port)") from error
        if not is_lost_rank(error):
            raise
        raise DistributedError(f"the {size} ranks have not met at {address}: {first_line(error)}") from error


def meet(store: Store, rank: int, size: int, address: str) -> Store:
    """Wait until every rank has come; returns a part of the store that nobody has written to before.

    torchrun may keep its store over a restart, and in it the addresses of processes that are gone. So each rank says a word
    of its own, and rank 0 answers to it with the name of the part. Raises DistributedError that names who has not come.
    """
    word, until = uuid.uuid4().hex, timedelta(seconds=START_SECONDS)
    store.set(f"hello/{rank}", word)
    if rank != 0:
        store.wait([f"welcome/{word}"], until)
        part = PrefixStore(store.get(f"welcome/{word}").decode(), store)
        part.set(f"come/{rank}", "")
        part.wait(["all"], until)
        return part
    part, absent, deadline = PrefixStore(word, store), {*range(1, size)}, time.monotonic() + START_SECONDS
    while absent and time.monotonic() < deadline:
        for other in sorted(absent):
            if store.check([f"hello/{other}"]):  # perhaps that of an earlier process: answer each time
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", word)
            if part.check([f"come/{other}"]):
                absent.discard(other)
        time.sleep(0.02)
    if absent:
        names = ", ".join(map(str, sorted(absent)))
        raise DistributedError(
            f"rank {names} of {size} has not come to {address} within {START_SECONDS:.0f} s: see what it says"
        )
    part.set("all", "")
    return part


def numbers(given: Mapping[str, str]) -> tuple[int, int, int, int]:
    """Rank, number of ranks, and both within the node. Raises DistributedError."""
    lacking = [name for name in VARIABLES if name not in given]
    if lacking:
        raise DistributedError(f"{' '.join(given)} are set and {' '.join(lacking)} not: start with torchrun, or unset them")
    try:
        rank, size, local_rank, local_size = (int(given[name]) for name in VARIABLES[:4])
    except ValueError as error:
        raise DistributedError(f"RANK, WORLD_SIZE ... must be whole numbers: {error}") from error
    if not (0 <= local_rank <= rank < size and local_rank < local_size <= size):
        said = ", ".join(f"{name}={given[name]}" for name in VARIABLES[:4])
        raise DistributedError(f"{said} contradict each other: start with torchrun, or unset them")
    return rank, size, local_rank, local_size

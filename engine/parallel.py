"""Which device computes, and how the ranks of a run act as one: torch.distributed, joined as torchrun says.

A rank is a process with a device of its own. Everything here is the identity with one rank, so nobody else asks how many
there are. What a step exchanges travels between the devices (NCCL; gloo on CPUs): the number of items, and the gradients,
once (``gradient_sync``). What the hosts agree on (errors, a signal, settings) goes over gloo beside it.
Next: sharding.py, models that are spread over the ranks.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, redirect_stdout, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from engine.errors import DistributedError, UsageError, UserError

T = TypeVar("T")
START_SECONDS = 1800.0  # for what may differ between ranks: imports, downloads, tokenising; and for writing checkpoints
ROLL_CALL_SECONDS = 10.0
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
FAILURES = ("gloo", "Connection closed by peer", "Application timeout caused pair closure", "NCCL", "c10d")


class World:
    """The ranks of a run, seen from one of them. As a context, it turns a lost rank into a DistributedError that names it.

    Methods are collective unless they say otherwise: all ranks call them, in the same order.
    """

    def __init__(
        self,
        device: torch.device,
        rank: int = 0,
        size: int = 1,
        *,
        local_rank: int = 0,
        store: Store | None = None,
        timeout_seconds: float = 300.0,
    ):
        self.device, self.rank, self.size, self.local_rank, self.store = device, rank, size, local_rank, store
        self.is_main = rank == 0
        self._vote: tuple[Tensor, Any] | None = None
        if size > 1:
            self._host = dist.new_group(backend="gloo", timeout=timedelta(seconds=START_SECONDS))
            self._votes = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))

    # ------------------------------------------------------------------------------------------------ within a step

    def sum(self, values: Sequence[float]) -> Tensor:
        """The values added up over all ranks: [len(values)] float32 on the device, not to be read in a step."""
        return self.add(torch.stack([torch.full((), float(value), device=self.device) for value in values]))  # no waiting

    def add(self, tensor: Tensor) -> Tensor:
        """The tensor added up over all ranks, in place; on the device or on the host."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    @property
    def vote_delay(self) -> int:
        """Steps between a vote and its outcome."""
        return int(self.size > 1)

    def vote(self, mine: bool) -> bool:
        """Does any rank want to stop? Asked once a step and answered one step later, so that nobody waits for it."""
        if self.size == 1:
            return mine
        before = self.votes_in()
        ballot = torch.tensor([float(mine)])
        self._vote = ballot, dist.all_reduce(ballot, op=dist.ReduceOp.MAX, group=self._votes, async_op=True)
        return before

    def votes_in(self) -> bool:
        """Wait until every rank has voted: before the device is read, which would wait for a lost rank without an end."""
        if self._vote is None:
            return False
        ballot, work = self._vote
        work.wait()
        return bool(ballot)

    def forget_vote(self) -> None:
        """The vote that an earlier run of these ranks has ended with is not one of the next."""
        self.votes_in()
        self._vote = None

    # ---------------------------------------------------------------------------------------------- between the hosts

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of the ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self._host)
        return found

    def from_main(self, value: T) -> T:
        """Rank 0's value."""
        return value if self.size == 1 else self.gather(value if self.is_main else None)[0]  # type: ignore[return-value]

    def on_main(self, function: Callable[[], T]) -> T:
        """Rank 0 calls ``function``; its result, or its error, is that of all."""
        return self.from_main(self.only_main(function))  # type: ignore[return-value]

    def only_main(self, function: Callable[[], T]) -> T | None:
        """The same, but the result, which may be large, stays with rank 0; the others get None."""
        return self._attempt(function, mine=self.is_main)

    def together(self, function: Callable[[], T], *, in_turn: bool = False) -> T:
        """Every rank calls ``function``; an error of one is raised by all.

        ``in_turn``: the first rank of each node goes ahead, and the others find what it has cached.
        """
        if in_turn and self.size > 1:
            first = self._attempt(function, mine=self.local_rank == 0)
            other = self._attempt(function, mine=self.local_rank != 0)
            return first if self.local_rank == 0 else other  # type: ignore[return-value]
        return self._attempt(function, mine=True)  # type: ignore[return-value]

    def _attempt(self, function: Callable[[], T], *, mine: bool) -> T | None:
        """Call it where it is ``mine``, then raise the first error that any rank has met with, on all of them."""
        if self.size == 1:
            return function()
        result, error = None, None
        try:
            result = function() if mine else None
        except Exception as caught:
            error = caught
        met = None if error is None else (type(error) if isinstance(error, UserError) else None, describe(error))
        for rank, failure in enumerate(self.gather(met)):
            if failure is None:
                continue
            if error is not None and rank == self.rank:
                error.shared = isinstance(error, UserError)  # type: ignore[attr-defined]
                raise error
            kind, text = failure
            alike = DistributedError(f"rank {rank} has failed: {text}") if kind is None else kind(text)
            alike.shared = True
            raise alike
        return result

    @contextmanager
    def held_by_main(self, context: AbstractContextManager[Any]) -> Iterator[None]:
        """Rank 0 enters and leaves ``context``; an error of either is raised by all."""
        self.only_main(context.__enter__)
        try:
            yield
        except BaseException:
            if not (self.is_main and context.__exit__(*sys.exc_info())):
                raise
        else:
            self.only_main(lambda: context.__exit__(None, None, None))

    def agree(self, what: str, mine: Mapping[str, Any]) -> None:
        """Raises DistributedError with the first difference between a rank's and rank 0's."""
        of_main, *others = self.gather(dict(mine))
        for rank, values in enumerate(others, start=1):
            for name in dict.fromkeys([*of_main, *values]):
                if of_main.get(name) != values.get(name):
                    error = DistributedError(
                        f"rank {rank} has other {what} than rank 0 ({name}: {values.get(name)!r}, and {of_main.get(name)!r} "
                        "there): start every rank with the same command, data and versions"
                    )
                    error.shared = True
                    raise error

    def with_own_group(self) -> World:
        """The same ranks over connections of their own, for a thread that talks to its likes while the others train."""
        other = copy.copy(self)
        if self.size > 1:
            other._host = dist.new_group(backend="gloo", timeout=timedelta(seconds=START_SECONDS))
        return other

    # ---------------------------------------------------------------------------------------------- beginning and end

    def __enter__(self) -> World:
        self._silence = ExitStack()
        if not self.is_main:
            self._silence.enter_context(redirect_stdout(self._silence.enter_context(open(os.devnull, "w"))))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._silence.close()
        if self.size > 1 and error is not None:
            lost = self._diagnosed(error)
            for one in (error, lost):
                if one is not None:
                    one.rank = self.rank  # type: ignore[attr-defined]
            if lost is not None:
                raise lost from error
        if self.store is not None and (error is None or getattr(error, "shared", False)):
            dist.destroy_process_group()  # after another error it would wait for ranks that do not come

    def _diagnosed(self, error: BaseException) -> DistributedError | None:
        """What has become of the others, if a collective has failed; else they are told what has become of this rank."""
        if not is_lost_rank(error):
            if not getattr(error, "shared", False) and self.store is not None:
                with suppress(RuntimeError):  # nobody is there to hear it
                    self.store.set(f"words/{self.rank}", describe(error))
            return None
        try:
            with deaf():
                found = roll_call(self.store, self.rank, self.size) if self.store is not None else {}
        except RuntimeError:
            found = {0: "is gone, and with it the rendezvous"}
        what = "; ".join(f"rank {rank} {text}" for rank, text in found.items())
        lost = DistributedError(
            (what or f"the ranks have lost each other ({first_line(error)})")
            + ". The last checkpoint stands: --resume continues from it"
        )
        lost.shared = self.rank != min({*range(self.size)} - found.keys())  # one of those left says it
        return lost


@contextmanager
def deaf() -> Iterator[None]:
    """SIGTERM, which torchrun sends to those that are left as soon as one is gone, waits: they have something to say."""
    if threading.current_thread() is not threading.main_thread():  # where Python hands out no signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def roll_call(store: Store, rank: int, size: int) -> dict[int, str]:
    """What is known of the ranks that do not answer; not collective: those that are left call it, each for itself."""
    store.set(f"here/{rank}", "")
    missing, found = {*range(size)} - {rank}, {}
    until = time.monotonic() + ROLL_CALL_SECONDS
    while missing and time.monotonic() < until:
        time.sleep(0.05)
        for other in sorted(missing):
            if store.check([f"words/{other}"]):
                found[other] = f"has ended: {store.get(f'words/{other}').decode()}"
            if other in found or store.check([f"here/{other}"]):
                missing.discard(other)
    if rank == 0:
        time.sleep(1)  # the store may be this process's: the others are still reading it
    return dict(sorted((found | dict.fromkeys(missing, "does not answer: it was killed, or it hangs")).items()))


def is_lost_rank(error: BaseException) -> bool:
    """Has a collective failed because another rank has gone? gloo raises plain RuntimeErrors."""
    if isinstance(error, UserError):
        return False
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(mark in str(error) for mark in FAILURES)
    )


def describe(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is spread over the ranks put together, for which all have to ask; any other as it is."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def release(model: nn.Module) -> None:
    """A sharded model keeps what a forward pass has gathered for the backward pass: none follows, so let it go."""
    if hasattr(model, "reshard"):  # fully_shard has added it
        model.reshard()  # type: ignore[operator]


@contextmanager
def gradient_sync(model: nn.Module, *, last: bool) -> Iterator[None]:
    """The ranks exchange gradients in the backward pass of the ``last`` micro-batch of a step only."""
    if isinstance(model, DistributedDataParallel):
        with nullcontext() if last else model.no_sync():
            yield
        if last:
            exchanged(model)
    else:
        if hasattr(model, "set_requires_gradient_sync"):  # fully_shard has added it
            model.set_requires_gradient_sync(last)  # type: ignore[operator]
        yield


def exchanged(model: DistributedDataParallel) -> None:
    """Raises UsageError if a parameter got no gradient: those that wait for it have not been exchanged."""
    try:
        model._check_reducer_finalized()
    except RuntimeError as error:
        raise UsageError(
            "a step gave some parameters no gradient, and the ranks wait for them: give --find-unused-parameters, which "
            "looks for them in each step"
        ) from error


def replicate(model: nn.Module, world: World, *, find_unused_parameters: bool) -> nn.Module:
    """The model as training calls it: DistributedDataParallel around it, or with one rank the model itself."""
    if world.size == 1:
        return model
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)  # its new name came with torch 2.13
        return DistributedDataParallel(
            model,
            device_ids=[world.device.index] if world.device.type == "cuda" else None,
            find_unused_parameters=find_unused_parameters,
            gradient_as_bucket_view=True,  # no second copy of the gradients
            broadcast_buffers=False,  # transformers' are constants
        )


# ------------------------------------------------------------------------------------------------------ joining


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


def device_of(name: str, local_rank: int, local_size: int) -> str:
    """The device of one of the ranks of a node: a GPU each. Raises UsageError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if 0 < torch.cuda.device_count() < local_size:
            raise UsageError(f"{local_size} ranks on a node with {torch.cuda.device_count()} CUDA devices: one rank for each")
        return f"cuda:{local_rank}"
    if name != "cpu" and local_size > 1:
        raise UsageError(f"--device {name} is for one rank: give cuda or cpu, each rank takes its own")
    return name


def choose_device(name: str) -> torch.device:
    """``auto``: CUDA, else Apple's MPS, else the CPU. Raises UsageError when the device is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device must be auto, cpu, cuda, cuda:N or mps, found {name!r}") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise UsageError(f"--device {name}: torch {torch.__version__} sees no CUDA device; use --device cpu")
        if (device.index or 0) >= count:
            raise UsageError(f"--device {name}: there are {count} CUDA devices, numbered from 0")
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)  # events and pinned memory belong to the current device
        return device
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: torch sees no Apple GPU; use --device cpu")
    if device.type not in ("cpu", "mps") or device.index:
        raise UsageError(f"--device must be auto, cpu, cuda, cuda:N or mps, found {name!r}")
    return device


def describe_device(device: torch.device) -> str:
    """``cuda:0 (NVIDIA H200)``, ``cpu (2 threads)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)

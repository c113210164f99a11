"""The ranks of a run acting as one. A rank is a process with a device of its own.

Everything here is the identity with one rank, so nobody else asks how many there are. What a step exchanges travels between
the devices (NCCL; gloo on CPUs): the number of items, and the gradients, once (wrap.py). What the hosts agree on (errors, a
signal, settings) goes over gloo beside it. Next: join.py, how the ranks find each other; lost_ranks.py, when one is gone.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from engine.distributed.lost_ranks import describe, first_line, ignore_sigterm, is_lost_rank, roll_call
from engine.errors import DistributedError, UserError

T = TypeVar("T")
START_SECONDS = 1800.0  # for what may differ between ranks: imports, downloads, tokenising; and for writing checkpoints


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
            self._host: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=START_SECONDS))
            self._votes: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))

    # ------------------------------------------------------------------------------------------------ within a step

    def sum(self, value: float) -> Tensor:
        """The value added up over all ranks: () float32 on the device, not to be read in a step."""
        return self.all_reduce(torch.full((), float(value), device=self.device))  # filled there: nothing waits

    def all_reduce(self, tensor: Tensor) -> Tensor:
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

    def broadcast(self, value: T) -> T:
        """Rank 0's value."""
        return value if self.size == 1 else self.gather(value if self.is_main else None)[0]  # type: ignore[return-value]

    def broadcast_from_main(self, function: Callable[[], T]) -> T:
        """Rank 0 calls ``function``; its result, or its error, is that of all."""
        return self.broadcast(self.on_main_rank(function))  # type: ignore[return-value]

    def on_main_rank(self, function: Callable[[], T]) -> T | None:
        """Rank 0 calls ``function``; its error is that of all, its result, which may be large, its own. The others get None."""
        return self._attempt(function, mine=self.is_main)

    def on_all_ranks(self, function: Callable[[], T], *, in_turn: bool = False) -> T:
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
    def main_rank_context(self, context: AbstractContextManager[Any]) -> Iterator[None]:
        """Rank 0 enters and leaves ``context``; an error of either is raised by all."""
        self.on_main_rank(context.__enter__)
        try:
            yield
        except BaseException:
            if not (self.is_main and context.__exit__(*sys.exc_info())):
                raise
        else:
            self.on_main_rank(lambda: context.__exit__(None, None, None))

    def check_same_on_all_ranks(self, what: str, mine: Mapping[str, Any]) -> None:
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
            with ignore_sigterm():
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

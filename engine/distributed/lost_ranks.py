"""When a collective has failed: which ranks do not answer, and what they have said before they ended."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from engine.errors import UserError

ROLL_CALL_SECONDS = 10.0
FAILURES = ("gloo", "Connection closed by peer", "Application timeout caused pair closure", "NCCL", "c10d")


@contextmanager
def ignore_sigterm() -> Iterator[None]:
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

"""A lock on an open file, which the system lets go when its process ends, however it ends. POSIX locks, or those of Windows."""

from __future__ import annotations

import os
from typing import IO, Any

FAR = 1 << 40  # the byte that is locked on Windows, where a locked one cannot be read: behind the end of every file


def hold(stream: IO[Any], *, wait: bool = False, by_process: bool = False) -> None:
    """Lock the file until it is closed, or the process ends. Raises OSError: held by another; or nothing here knows locks.

    Held by another, it is BlockingIOError, of a record lock on some systems PermissionError. ``wait``: wait for it.
    ``by_process``: what is forked does not hold it, too, and any close of the file in this process lets go (a POSIX record
    lock, fcntl(2); else flock(2)).
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        return _hold_on_windows(stream, wait)
    take = fcntl.lockf if by_process else fcntl.flock
    take(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _hold_on_windows(stream: IO[Any], wait: bool) -> None:
    """One byte, by ``msvcrt.locking``, which locks where the file's position is. It waits for ten seconds at most."""
    import msvcrt

    locks: Any = msvcrt  # its names are those of Windows
    descriptor = stream.fileno()
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, FAR, os.SEEK_SET)
    try:
        locks.locking(descriptor, locks.LK_LOCK if wait else locks.LK_NBLCK, 1)
    except PermissionError as error:
        raise BlockingIOError(error.errno, error.strerror) from error
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)

"""The folder of what Plainloop may need again, and of what it needs for a while.

An entry is a folder of files under a key, which is a hash of everything that they are made from. It is written beside its
place, synced, and renamed. Its manifest holds the size and the hash of every file, and an entry is believed only while its
files give this very manifest, and it belongs to this user: in any doubt it is made anew. Nothing about the cache may ever
stop a run: where nothing can be kept, one line says so, and the run goes on without.
"""

from __future__ import annotations

import atexit
import errno
import functools
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import xxhash

from engine.atomic import sync
from engine.console import note
from engine.locks import hold

FORMAT = 2
MANIFEST, LOCK, UNFINISHED = "manifest", "lock", ".tmp-"
STALE_SECONDS = 24 * 3600


def cache_folder() -> Path:
    """``$PLAINLOOP_CACHE``, else ``$XDG_CACHE_HOME/plainloop``, else ``~/.cache/plainloop``."""
    given = os.environ.get("PLAINLOOP_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else Path(base or os.path.expanduser("~/.cache")) / "plainloop"  # noqa: PTH111 - without a home it stays as it is


def entry(kind: str, key: str, write: Callable[[Path], object]) -> Path | None:
    """The folder of an entry, which ``write`` fills if there is none that can be believed; None where none can be kept.

    ``kind``: the folder that it lies in. What ``write`` raises comes out of here, but for OSError: then there is no entry.
    """
    folder = cache_folder() / kind / key
    if is_whole(folder):
        return folder
    try:
        with held_folder(kind, lock := ExitStack()) as made:
            write(made)
            if os.name == "nt":  # where no folder is renamed in which a file is open
                lock.close()
            (made / LOCK).unlink()
            seal(made, folder)
    except OSError as error:
        say_once(f"cache: {cache_folder()} cannot be used ({error.strerror or error}): going on without it")
        return None
    return folder


def entry_or_temporary(kind: str, key: str, write: Callable[[Path], object]) -> Path:
    """The folder of an entry, or where none can be kept one that goes with this process."""
    folder = entry(kind, key, write)
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="plainloop-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        write(folder)
    return folder


@functools.cache
def say_once(message: str) -> None:
    note(message)


# ----------------------------------------------------------------------------------------------- is it what was written?


def manifest(folder: Path, name: str) -> bytes:
    """The entry's ``name``, then name, size and XXH3 (128 bits) of each file but the manifest, a line each.

    Raises OSError, and ValueError for what is not a regular file.
    """
    lines = [f"{FORMAT} {name}"]
    for path in sorted(folder.iterdir()):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError(f"{path} is not a regular file")
        if path.name != MANIFEST:
            lines.append(f"{path.name} {path.stat().st_size} {digest_of(path)}")
    return "\n".join(lines).encode()


def digest_of(path: Path) -> str:
    """XXH3 of a file, 128 bits as 32 hexadecimal digits: for accidents, not against a forger. Raises OSError."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()  # type: ignore[type-var]


def is_whole(folder: Path) -> bool:
    """Is it this user's own, and are its files, all and only they, those that were written?"""
    try:
        expected = manifest(folder, folder.name)
        return is_ours(folder) and (folder / MANIFEST).read_bytes() == expected
    except (OSError, ValueError):
        return False


def is_ours(folder: Path) -> bool:
    """Does it belong to this user? Raises OSError. Windows has no numbers of users: there it is believed."""
    return not hasattr(os, "geteuid") or folder.lstat().st_uid == os.geteuid()


def seal(made: Path, folder: Path) -> None:
    """Put what was ``made`` in its place, for good; what is there already is in doubt, or another process's. Raises OSError."""
    (made / MANIFEST).write_bytes(manifest(made, folder.name))
    for path in (*made.iterdir(), made):
        sync(path)
    if is_whole(folder):  # another process has come first, with the same
        return
    doubtful = Path(f"{made}-doubtful")
    try:
        if os.path.lexists(folder):
            os.rename(folder, doubtful)
        os.rename(made, folder)
        sync(folder.parent)
    finally:
        discard(doubtful)


def discard(path: Path) -> None:
    """Remove a folder, or a file that stands where one should; what cannot be removed stays."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


# ----------------------------------------------------------------------------------------------------- what is unfinished


@contextmanager
def held_folder(kind: str, lock: ExitStack | None = None) -> Iterator[Path]:
    """A new folder among those of a kind that goes at the end, if it is still there, and is known to be in use until then.

    ``lock``: closed sooner, the folder is no longer known to be in use. Those that a killed process has left are removed.
    Raises OSError, also where the kind's folder is another user's.
    """
    parent = cache_folder() / kind
    parent.mkdir(parents=True, exist_ok=True)
    if not is_ours(parent):
        raise PermissionError(errno.EPERM, f"{parent} belongs to another user")
    for left in parent.glob(f"{UNFINISHED}*"):
        if not is_held(left):
            discard(left)
    folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
    lock = lock or ExitStack()
    try:
        stream = lock.enter_context(open(folder / LOCK, "wb"))  # noqa: SIM115 - closed below
        with suppress(OSError):  # some network file systems know no locks
            hold(stream, wait=True)
        yield folder
    finally:
        lock.close()
        discard(folder)


def is_held(folder: Path) -> bool:
    """Does its process still live? Where no lock can tell, it may do so for a day."""
    try:
        with open(folder / LOCK, "rb+") as stream:
            hold(stream)
        return False
    except BlockingIOError:
        return True
    except OSError:
        with suppress(OSError):
            return time.time() - folder.stat().st_mtime < STALE_SECONDS
        return True  # gone meanwhile

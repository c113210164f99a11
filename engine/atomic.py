"""How a file is written: whole or not at all, and never through a link.

Whatever a run or a command leaves is written to a new file of a random name in the same folder, which must not be there
(``O_EXCL``, ``O_NOFOLLOW``), synced, and renamed: the file that stood there before is whole until then, and what a link
pointed to is not touched. A log, which is appended to, is opened in a way that follows no link. Nothing else in engine/ and
tasks/ opens a file for writing (tests/engine/test_atomic.py). Checkpoints, which are folders, are checkpoint/store.py's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

FOLDER = ".tmp-model-"  # how a folder begins that a library writes to, before its files get their names
UNFINISHED = re.compile(rf"\.tmp-[0-9a-f]{{16}}|{re.escape(FOLDER)}.*")  # what a killed process has left of either


@contextmanager
def replacing(path: Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """A stream, of UTF-8 unless ``binary``, whose contents become ``path`` when the block ends well; else nothing changes.

    The mode is that of the umask. Raises OSError.
    """
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    kind: dict[str, Any] = {"mode": "xb"} if binary else {"mode": "x", "encoding": "utf-8", "newline": ""}
    stream = open(temporary, opener=_no_link, **kind)  # noqa: SIM115 - closed below
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A fresh folder beside ``path`` that gets its name when the block ends well; else nothing is left. Raises OSError.

    The modes are those of the umask.
    """
    umask = os.umask(0o077)
    os.umask(umask)
    folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=path.parent))
    try:
        yield folder
        for each in (*folder.rglob("*"), folder):
            each.chmod((0o777 if each.is_dir() else 0o666) & ~umask)
            sync(each)
        os.rename(folder, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    sync(path.parent)


def write(path: Path, text: str) -> None:
    """The file at ``path`` consists of this text. Raises OSError, UnicodeEncodeError."""
    with replacing(path) as stream:
        stream.write(text)


def move(source: Path, target: Path) -> None:
    """Sync what a library has written in a folder of ours, and give it its name; its mode becomes that of the umask."""
    umask = os.umask(0o077)
    os.umask(umask)
    source.chmod(0o666 & ~umask)
    sync(source)
    os.replace(source, target)
    sync(target.parent)


def appending(path: Path) -> BinaryIO:
    """Open a file to append to it; it is made if it is not there. Raises OSError for a link, and for what is no file."""
    stream = open(path, "ab", opener=_no_link)  # noqa: SIM115 - closed by the caller
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(None, "is no file", str(path))
    return stream


def exchange(one: Path, other: Path) -> None:
    """Two names of folders, exchanged in one step: at no moment is either missing. Raises OSError where the system cannot.

    That is ``renameat2`` of Linux with RENAME_EXCHANGE, or ``renamex_np`` of macOS with RENAME_SWAP.
    """
    if os.name == "nt":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(one))
    library = ctypes.CDLL(None, use_errno=True)
    paths = [os.fsencode(path) for path in (one, other)]
    if hasattr(library, "renameat2"):
        failed = library.renameat2(-100, paths[0], -100, paths[1], 2)  # AT_FDCWD, RENAME_EXCHANGE
    elif hasattr(library, "renamex_np"):
        failed = library.renamex_np(*paths, 2)  # RENAME_SWAP
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(one))
    if failed:
        raise OSError(number := ctypes.get_errno(), os.strerror(number), str(one))
    for folder in {one.parent, other.parent}:
        sync(folder)


def sync(path: Path) -> None:
    """Have the disk hold a file's contents, or a directory's names. Raises OSError."""
    if os.name == "nt" and path.is_dir():  # which Windows does not open
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # there, what is only read is not synced
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _no_link(path: str, flags: int) -> int:
    """As ``open`` opens, but for a link at the end of the path; a pipe without a reader is refused at once."""
    if not hasattr(os, "O_NOFOLLOW") and Path(path).is_symlink():  # Windows, where an ordinary user makes no links
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)

"""Windows and macOS as far as they can be imitated on Linux: for our own code alone, for the libraries have code for each.

``imitate("windows")`` comes before engine and tasks are imported. Modules that are not there cannot be imported by them; names
that os and signal do not have there are missing; /proc is; files that are open are neither renamed nor deleted, folders are
not opened, and what is only read is not synced. It is no Windows: it finds what we know to differ.
"""

from __future__ import annotations

import builtins
import errno
import importlib.util
import io
import os
import stat
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

OURS = ("engine", "tasks", "bench", "run", "plainloop", "__main__")
MODULES = {"windows": {"fcntl", "resource", "pwd", "grp", "termios"}, "macos": set()}
NAMES = {
    "windows": {
        "os": {"O_NOFOLLOW", "O_DIRECTORY", "O_NONBLOCK", "O_CLOEXEC", "fork", "forkpty", "fchmod", "statvfs", "ST_RDONLY", "geteuid", "getuid",
               "getpgid", "killpg", "setsid", "mkfifo", "sched_getaffinity", "sched_setaffinity", "pread", "pwrite", "posix_fallocate", "uname"},
        "signal": {"SIGHUP", "SIGKILL", "SIGCHLD", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGSTOP", "SIGCONT", "alarm", "setitimer"},
    },
    "macos": {"os": {"sched_getaffinity", "sched_setaffinity", "posix_fallocate"}, "signal": set()},
}  # fmt: skip
VALUES = {"windows": {"os": {"name": "nt"}, "sys": {"platform": "win32"}}, "macos": {"sys": {"platform": "darwin"}}}


def is_ours(frame: types.FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).split(".")[0] in OURS


def imitate(system: str) -> None:
    """From here on, in this process."""
    import fcntl

    import psutil  # noqa: F401 - it asks what system this is

    hide_modules(MODULES[system])
    for name in ("os", "signal", "sys"):
        hide_names(sys.modules[name], NAMES[system].get(name, set()), VALUES[system].get(name, {}))
    hide_proc()
    if system == "macos":
        in_bytes()
    if system == "windows":
        sys.modules["msvcrt"] = of_windows(fcntl)
        keep_open_files()
        refuse_folders_and_readers(fcntl)


def hide_modules(names: set[str]) -> None:
    original = builtins.__import__

    def importing(name: str, globals: Any = None, *more: Any, **others: Any) -> Any:
        if name in names and str((globals or {}).get("__name__", "")).split(".")[0] in OURS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, globals, *more, **others)

    builtins.__import__ = importing


def hide_names(module: types.ModuleType, missing: set[str], values: dict[str, Any]) -> None:
    """Our code finds those names missing, and these values."""

    class Fewer(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            if self is module and (name in missing or name in values) and is_ours(sys._getframe(1)):
                if name in missing:
                    raise AttributeError(
                        f"module {super().__getattribute__('__name__')!r} has no attribute {name!r}", name=name
                    )
                return values[name]
            return super().__getattribute__(name)

    module.__class__ = Fewer


def hide_proc() -> None:
    for owner, name in ((os, "stat"), (io, "open"), (os, "open")):
        setattr(owner, name, without_proc(getattr(owner, name)))


def without_proc(original: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(path: Any, *more: Any, **others: Any) -> Any:
        if isinstance(path, str | Path) and str(path).startswith("/proc/"):
            frame: Any = sys._getframe(1)
            while frame is not None and Path(frame.f_code.co_filename).name in ("pathlib.py", "elsewhere.py", "_local.py"):
                frame = frame.f_back
            if frame is not None and is_ours(frame):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return original(path, *more, **others)

    return guarded


def in_bytes() -> None:
    """Linux has the peak of memory in KiB."""
    import resource

    original = resource.getrusage
    resource.getrusage = lambda who: types.SimpleNamespace(ru_maxrss=original(who).ru_maxrss * 1024)


def of_windows(fcntl: Any) -> types.ModuleType:
    """``msvcrt.locking``: bytes from the position on, for this process."""
    module: Any = types.ModuleType("msvcrt")
    module.LK_NBLCK, module.LK_LOCK = 2, 1

    def locking(descriptor: int, mode: int, number: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if mode == module.LK_NBLCK else 0))
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    module.locking = locking
    return module


def open_below(path: str) -> str | None:
    """A file that this process has open, or mapped, and that is this one or lies in this folder."""
    real, listdir, readlink = os.path.realpath(path), os.listdir, os.readlink
    for descriptor in listdir("/proc/self/fd"):
        try:
            target = readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if (target == real or target.startswith(f"{real}/")) and not stat.S_ISDIR(os.fstat(int(descriptor)).st_mode):
            return target
    return None


def keep_open_files() -> None:
    """What is open is not renamed, replaced or deleted (WinError 32)."""

    def refusing(original: Callable[..., Any], *, both: bool) -> Callable[..., Any]:
        def guarded(path: Any, *more: Any, **others: Any) -> Any:
            if others.get("dir_fd") is None and not isinstance(path, int):
                for each in (path, more[0]) if both else (path,):
                    if (found := open_below(os.fspath(each))) is not None:
                        raise PermissionError(
                            errno.EACCES, f"[WinError 32] {found} is being used by another process", os.fspath(path)
                        )
            return original(path, *more, **others)

        return guarded

    for name, both in (("rename", True), ("replace", True), ("unlink", False), ("remove", False), ("rmdir", False)):
        setattr(os, name, refusing(getattr(os, name), both=both))


def refuse_folders_and_readers(fcntl: Any) -> None:
    opening, syncing = os.open, os.fsync

    def open_file(path: Any, flags: int, *more: Any, **others: Any) -> int:
        if is_ours(sys._getframe(1)) and Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return opening(path, flags, *more, **others)

    def fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        syncing(descriptor)

    os.open, os.fsync = open_file, fsync


def source_of(system: str, code: str) -> str:
    """A program that imitates a system and then does this; it is run with ``python -c``."""
    assert importlib.util.find_spec(__name__) is not None
    return f"from {__name__} import imitate\nimitate({system!r})\nimport sys\n{code}"

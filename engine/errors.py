"""What goes wrong for users: one line that says what, where and how to mend it, and an exit code.

``run.py`` prints such an error as ``error: ...`` on stderr and exits with its code, as it does with what a library raises that
does what a model's files say; everything else is a defect of ours and shows its traceback. All are ``ValueError``, so Python
callers need no import from here.
"""

from __future__ import annotations

import errno
import os
import re
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path

from engine.console import is_main_process, one_line
from engine.installed import ROOT

WORKER_KILLED = (
    "a process that loads data was killed, most often by the system, which ran out of memory: lower --workers or "
    "--batch-size (or, in a container, give it more shared memory); what is on disk stands"
)


LIBRARIES = ("transformers", "peft")


class UserError(ValueError):
    """Base of the errors below. The message states the rule, the value found and the remedy.

    ``shared``: all ranks raise it alike, so rank 0 alone says it.
    """

    exit_code = 2
    shared = False

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: the line that the command prints. ``%debug`` goes to where it arose."""
        return [explain(self)[0]]  # type: ignore[index]


class UsageError(UserError):
    """A flag, a config file, or an output directory that cannot be used as asked (exit code 2)."""


class DataError(UserError):
    """A file or a data set that does not hold what the task needs (exit code 3)."""

    exit_code = 3


class MissingColumnError(DataError):
    """A table without a column that is asked for. ``column``; ``found``: those that there are."""

    def __init__(self, message: str, column: str, found: Sequence[str]):
        super().__init__(message)
        self.column, self.found = column, found


class ModelError(UserError):
    """A model or checkpoint that is missing, damaged or of the wrong kind (exit code 4)."""

    exit_code = 4


class DivergedError(UserError):
    """The loss or a gradient is not finite; the last good checkpoint stands (exit code 5)."""

    exit_code = 5
    shared = True  # what it is read from has been added up over the ranks


class ResourceError(UserError):
    """Out of memory, disk or permission (exit code 6)."""

    exit_code = 6


class DistributedError(UserError):
    """The ranks of a run cannot work together: not all there, told different things, or one is gone (exit code 7)."""

    exit_code = 7


class DriftError(UserError):
    """The data are not what they were, and it was asked that this is an error (exit code 8)."""

    exit_code = 8


class StoppedError(UserError):
    """The run was asked to stop, and has saved; the exit code says by whom (130 Ctrl-C, 143 SIGTERM or a
    time limit, 129 SIGHUP, 141 nobody reads stdout, 6 stdout is full)."""

    shared = True

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def explain(error: BaseException) -> tuple[str, int] | None:
    """The line for stderr ("": another rank says it) and the exit code of what a user can mend; None for everything else."""
    explained = _explain(error)
    if explained is None or is_main_process():
        return explained
    rank = getattr(error, "rank", None)  # it has left a World: every rank has come as far as that
    starts_alike = rank is None and os.environ.get("LOCAL_RANK") != "0"  # a wrong flag, say: one command starts a node
    is_heard = not (starts_alike or getattr(error, "shared", False))
    return (f"rank {os.environ['RANK']}: {explained[0]}" if is_heard else "", explained[1])


def _explain(error: BaseException) -> tuple[str, int] | None:
    if isinstance(error, StoppedError):
        return one_line(str(error)), error.exit_code
    if isinstance(error, UserError):
        return one_line(f"error: {error}"), error.exit_code
    if isinstance(error, BrokenPipeError):  # the reader of stdout has gone (| head): nothing more to say, as with SIGPIPE
        return "", 141
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C; a checkpoint, if there was one, stands (--resume continues from it)", 130
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):  # torch raises it wherever the main thread is
        return f"error: {WORKER_KILLED}", ResourceError.exit_code
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return (
            "error: out of memory: lower --batch-size, --eval-batch-size, or the number of rows; what is on disk stands",
            ResourceError.exit_code,
        )
    if isinstance(error, OSError) and error.strerror:  # of the system: the disk, a permission, a path that is too long
        kind = UsageError if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) else ResourceError
        return one_line(f"error: {error.filename or 'disk'}: {error.strerror}; what is there stands"), kind.exit_code
    if isinstance(error, ImportError) and (place := own_line(error)):
        return one_line(f"error: {place}: {error}: install it, or mend the file; what is on disk stands"), UsageError.exit_code
    is_panic = type(error).__name__ == "PanicException"  # of a library in Rust, and no Exception
    if (is_panic or isinstance(error, Exception)) and (library := raised_within(error)):
        half = "--precision fp32 may do without it. " if re.search("BFloat16|Half", str(error)) else ""
        return one_line(
            f"error: the model does not work as its files say: {library} fails with it ({type(error).__name__}: {error}). "
            f"{half}If they are whole, it is a defect of ours (--debug shows where); what is on disk stands"
        ), ModelError.exit_code
    return None


def raised_within(error: BaseException) -> str | None:
    """The library that does what a model's files say, if the error has come through it; None where code of a user's own was
    called: whoever writes a task wants to see where it fails.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if any(is_own_code(frame.filename) for frame in frames):
        return None
    return next((name for frame in frames for name in LIBRARIES if name in Path(frame.filename).parts), None)


def is_own_code(file: str) -> bool:
    """Is this a file of a user's own: of neither this project nor an installed package?"""
    path, ours = Path(file), ("engine", "tasks", "bench", "plainloop", "run.py", "__main__.py", "__init__.py")
    others = (*map(Path, sysconfig.get_paths().values()), *(ROOT / name for name in ours))
    is_command = path.name in ("plainloop", "plainloop.exe")  # which pip may have put anywhere
    return path.is_absolute() and not is_command and not any(path.is_relative_to(folder) for folder in others)


def own_line(error: BaseException) -> str:
    """``FILE.py, line N``: the innermost line of own code that the error has come through; "" if it has come through none."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own_code(frame.filename)]
    return f"{lines[-1].filename}, line {lines[-1].lineno}" if lines else ""

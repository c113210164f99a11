"""A save over two older checkpoints, with rotation: killed at each system call, and each call failed in each way it can fail.

By strace; without it at the calls that Python makes through the ``os`` module, which leaves out the writes themselves.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.reliability import forked
from bench.reliability.lab import die
from engine.checkpoint.store import commit, newest, rotate, steps_in
from engine.errors import ResourceError

ERRORS = {
    "mkdir": ("ENOSPC", "EDQUOT", "EROFS", "EACCES"),
    "openat": ("EMFILE", "ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO"),
    "write": ("ENOSPC", "EDQUOT", "EIO"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "close": ("EIO",),
    "rename": ("EIO", "ENOSPC", "EROFS", "EACCES"),
    "unlinkat": ("EIO", "EROFS", "EACCES"),
    "rmdir": ("EIO", "EROFS", "EACCES"),
}
TRACED = (*ERRORS, "newfstatat", "getdents64", "lseek")
IN_PYTHON = {"mkdir": "mkdir", "open": "openat", "fsync": "fsync", "close": "close", "rename": "rename", "unlink": "unlinkat",
             "rmdir": "rmdir"}  # fmt: skip
SAVED, REFUSED = 0, ResourceError.exit_code


def content(step: int) -> dict[str, bytes]:
    """Of a checkpoint that costs little."""
    state = json.dumps({"step": step, "progress": {"best": None}}).encode()
    return {name: bytes([step]) * 50_000 for name in ("model.safetensors", "optimizer.safetensors")} | {"state.json": state}


def save(root: Path, step: int = 3) -> int:
    """As Saver does it; returns what the run would exit with."""
    try:
        commit(root, step, content(step))
        rotate(root, 2, {step: step})  # the older ones are read before they are counted
    except ResourceError as error:
        print(f"error: {error}")
        return REFUSED
    return SAVED


def two_older(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for step in (1, 2):
        commit(root, step, content(step))


def newest_in(root: Path) -> dict[str, bytes] | None:
    """The contents of the newest whole checkpoint."""
    found = newest(root)
    return None if found is None else dict(found)


class Strace:
    """Strikes a forked process by its system calls."""

    name = "strace"

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder / "strace.txt"

    def calls(self, root: Path) -> list[tuple[str, int]]:
        """Every traced call of a save, and the how-manieth of its name it is."""
        ended = self.strike(root, ["-e", f"trace={','.join(TRACED)}"])
        assert ended == SAVED, "undisturbed, it saves"
        return numbered(re.findall(r"^\d+ +(\w+)\(", self.log.read_text(), flags=re.MULTILINE))

    def kill(self, root: Path, name: str, number: int) -> int:
        return self.strike(root, ["-e", f"inject={name}:signal=KILL:when={number}"])

    def fail(self, root: Path, name: str, number: int, error: str) -> int:
        return self.strike(root, ["-e", f"inject={name}:error={error}:when={number}"])

    def strike(self, root: Path, flags: Sequence[str]) -> int:
        """Save in a process that waits until strace watches it; returns its exit code, or that of a signal, negative."""
        go, ready = os.pipe()
        here, there = os.pipe()
        child = os.fork()
        if child == 0:
            work = lambda: (os.write(there, b"x"), os.read(go, 1), save(root))[2]  # noqa: E731
            forked.be_child(work, self.folder / "output.txt")
        os.read(here, 1)  # its own files are open: what it calls from now on is the save's
        watcher = subprocess.Popen(
            ["strace", "-f", *flags, "-o", str(self.log), "-p", str(child)], stderr=subprocess.PIPE, text=True
        )
        assert watcher.stderr is not None and "attached" in watcher.stderr.readline()
        os.write(ready, b"x")
        _, status = os.waitpid(child, 0)
        watcher.communicate()
        for end in (go, ready, here, there):
            os.close(end)
        return os.waitstatus_to_exitcode(status)


class InPython:
    """Strikes at the functions of ``os``, and at ``open``, where there is no strace."""

    name = "functions of os"

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder / "calls.txt"

    def calls(self, root: Path) -> list[tuple[str, int]]:
        self.log.unlink(missing_ok=True)

        def note_it(name: str, _: int) -> None:
            with open_file(self.log, "a") as stream:
                stream.write(f"{name}\n")

        open_file = open
        assert self.strike(root, note_it) == SAVED
        return numbered(self.log.read_text().split())

    def kill(self, root: Path, name: str, number: int) -> int:
        return self.strike(root, lambda called, count: die() if (called, count) == (name, number) else None)

    def fail(self, root: Path, name: str, number: int, error: str) -> int:
        import errno

        code = getattr(errno, error)

        def fail_it(called: str, count: int) -> None:
            if (called, count) == (name, number):
                raise OSError(code, os.strerror(code))

        return self.strike(root, fail_it)

    def strike(self, root: Path, before: Callable[[str, int], None]) -> int:
        def work(_: Callable[[], None]) -> int:
            import builtins

            counts: Counter[str] = Counter()
            busy = False

            def struck(function: Callable[..., Any], name: str) -> Callable[..., Any]:
                def wrapped(*arguments: Any, **named: Any) -> Any:
                    nonlocal busy
                    if not busy:
                        counts[name] += 1
                        busy = True  # what ``before`` itself calls does not count
                        try:
                            before(name, counts[name])
                        finally:
                            busy = False
                    return function(*arguments, **named)

                return wrapped

            for function, name in IN_PYTHON.items():
                setattr(os, function, struck(getattr(os, function), name))
            builtins.open = struck(builtins.open, "openat")
            return save(root)

        ended = forked.in_child(work, self.folder / "output.txt")
        return -signal.SIGKILL if ended.code is None else ended.code


def numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    found = []
    for name in names:
        counts[name] += 1
        found.append((name, counts[name]))
    return found


def strike_calls(folder: Path, tool: Strace | InPython) -> dict[str, Any]:
    """Each call killed once, then failed with each of its errors; after each, what is there and whether saving goes on."""
    root = folder / "checkpoints"
    two_older(root)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        save(root)  # what is imported on the way is then imported, and reading it is no call of a save
    two_older(root)
    calls = tool.calls(root)
    strikes = [(name, number, "SIGKILL") for name, number in calls]
    strikes += [(name, number, error) for name, number in calls for error in ERRORS.get(name, ())]
    wrong = []
    outcomes: Counter[str] = Counter()
    for name, number, what in strikes:
        two_older(root)
        code = tool.kill(root, name, number) if what == "SIGKILL" else tool.fail(root, name, number, what)
        for fault in verdict(root, code, killed=what == "SIGKILL"):
            wrong.append({"call": f"{name} {number}", "struck": what, "fault": fault})
        outcomes[
            {-signal.SIGKILL: "killed", SAVED: "saved all the same", REFUSED: "refused, exit code 6"}.get(code, "other")
        ] += 1
    kills = sum(what == "SIGKILL" for _, _, what in strikes)
    return {
        "by": tool.name, "calls": dict(Counter(name for name, _ in calls)), "kills": kills, "errors": len(strikes) - kills,
        "outcomes": dict(outcomes), "wrong": wrong,
    }  # fmt: skip


def verdict(root: Path, code: int, *, killed: bool) -> Iterator[str]:
    """What is not as promised after a save that was struck."""
    if killed != (code == -signal.SIGKILL):
        yield f"exit code {code}"
    if code not in (SAVED, REFUSED, -signal.SIGKILL):
        yield f"exit code {code}, not one line and 6"
    with contextlib.redirect_stderr(io.StringIO()):
        found = newest_in(root)
    if found not in (content(2), content(3)):
        yield "no whole checkpoint is left"
    if code == SAVED and found != content(3):
        yield "it said that it had saved, and had not"
    if code == REFUSED and found != content(2):
        yield "it said that it had not saved, and had"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        again = save(root, 4)
        if again != SAVED or newest_in(root) != content(4) or len(steps_in(root)) != 2:
            yield "the next save does not work"

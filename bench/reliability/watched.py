"""What the processes of a programme did, by strace: which files they opened and changed, what they started, whom they asked.

    strace -f -y -o LOG ... COMMAND        and then: judge(lines, place_of, ...)

Only calls that open, change, start or ask are traced, with --seccomp-bpf: the others cost nothing. Each process belongs to the
place (a folder of one case) whose ``output.txt`` it opens first; what it forks belongs there, too.
"""

from __future__ import annotations

import codecs
import os
import re
import shutil
import site
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

CHANGES = (
    "creat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "link", "linkat",
    "symlink", "symlinkat", "truncate", "chmod", "fchmodat", "chown", "lchown", "fchownat", "mknod", "mknodat",
)  # fmt: skip
STARTS = ("execve", "execveat")
ASKS = ("connect", "sendto", "sendmsg", "sendmmsg", "bind")
FORKS = ("clone", "clone3", "fork", "vfork")
OPENS = ("open", "openat", "openat2")
CALL = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$")
END = re.compile(r"\) += (-?\d+|\?)(?:<((?:[^>\\]|\\.)*)>)?[^\"]*$")
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
FOLDER = re.compile(r"(?:AT_FDCWD|\d+)<((?:[^>\\]|\\.)*)>, $")
# Locks of multiprocessing are files that are unlinked at once.
HARMLESS = ("/dev/null", "/dev/tty", "/dev/shm/sem.")
FLAGS = re.compile(r"O_[A-Z|_O]+")
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/proc", "/sys", "/dev/null", "/dev/urandom", "/dev/random", "/etc/ld.so.cache",
          "/etc/localtime", "/etc/mime.types", "/etc/ssl", "/etc/nsswitch.conf")  # fmt: skip


def is_there() -> bool:
    """Can strace be used here? It may be missing, or not be allowed to trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0


def command(log: Path, argv: list[str]) -> list[str]:
    """The command line that runs ``argv`` and writes what it does to ``log``."""
    traced = ",".join(f"?{name}" for name in (*OPENS, *CHANGES, *STARTS, *ASKS, *FORKS))
    return [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-q",
        "-y",
        "-s",
        "4096",
        "-e",
        f"trace={traced}",
        "-e",
        "signal=none",
        "-o",
        str(log),
        *argv,
    ]


def usual() -> list[str]:
    """Folders that a process of Python reads whatever it does."""
    return [*SYSTEM, sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix), *site.getsitepackages()]


@dataclass
class Watch:
    """``places``: pattern of the folder of a case. ``may_read``: folders that each may read beside its own and the usual ones.

    ``faults``: what was wrong, by place. ``calls``: how many calls of each name the cases made.
    """

    places: re.Pattern[str]
    may_read: Iterable[str] = ()
    faults: dict[str, list[str]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.readable = [*usual(), *map(str, self.may_read)]
        self.place: dict[str, str | None] = {}  # of a process; None: it belongs to no case
        self.waiting: dict[str, list[tuple[str, str]]] = {}  # calls of a process that no other has said to be its own yet

    def read(self, lines: Iterable[str]) -> None:
        """Take in a log."""
        for process, name, text in whole_calls(lines):
            if not self.place:
                self.place[process] = None  # the first is the programme itself
            self.take(process, name, text)

    def take(self, process: str, name: str, text: str) -> None:
        """One call."""
        if process not in self.place:
            found = (
                self.places.search(unescaped(text.partition("output.txt")[0].rpartition('"')[2]))
                if "/output.txt" in text
                else None
            )
            if found is None:
                self.waiting.setdefault(process, []).append((name, text))
                return
            self.belongs(process, found[0])
        place, result = self.place[process], END.search(text)
        child = result[1] if result and name in FORKS else ""
        if child.isdecimal() and child not in self.place and place is not None:
            self.belongs(child, place)  # of the programme itself: a child says by its output.txt whose it is
        if place is not None:
            self.calls[name] += 1
            if fault := self.fault(place, name, text):
                self.faults.setdefault(place, []).append(fault)

    def belongs(self, process: str, place: str) -> None:
        """It is known now, and so are the calls that it has made before."""
        self.place[process] = place
        for name, text in self.waiting.pop(process, []):
            self.take(process, name, text)

    def fault(self, place: str, name: str, text: str) -> str | None:
        """What is wrong with a call; None: nothing."""
        result = END.search(text)
        failed = result is None or result[1].startswith(("-", "?"))
        if name in STARTS:
            return f"{name} {text[:200]}"
        if name in ASKS:
            return f"{name} {text[:200]}" if "AF_INET" in text else None
        if name in FORKS or failed:
            return None
        for path in self.paths(name, text, result[2] if result else None):
            inside = is_below(path, [place])
            flags = FLAGS.search(text)
            writes = name in CHANGES or (flags is not None and re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", flags[0]))
            if writes and not inside and not path.startswith(HARMLESS):
                return f"{name} changes {path}"
            if not writes and not inside and not is_below(path, self.readable):
                return f"{name} reads {path}"
        return None

    def paths(self, name: str, text: str, opened: str | None) -> Iterator[str]:
        """The real paths that a call is about; ``opened``: what a descriptor that it returned stands for."""
        if opened is not None and name in OPENS:
            yield unescaped(opened)
            return
        for found in list(TEXT.finditer(text))[1 if name in ("symlink", "symlinkat") else 0 :]:
            folder = FOLDER.search(text[: found.start()])
            path = Path(unescaped(folder[1]) if folder else "/", unescaped(found[1]))
            yield str(Path(os.path.realpath(path.parent), path.name))


def is_below(path: str, folders: Iterable[str]) -> bool:
    """Is it one of these folders, or does it lie in one?"""
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def whole_calls(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Process, name and the rest of each call; what another process's call has interrupted is put together."""
    begun: dict[str, str] = {}
    for line in lines:
        if (found := CALL.match(line.rstrip("\n"))) is None:
            continue
        process, name, rest = found.groups()
        if rest.endswith("<unfinished ...>"):
            begun[process] = rest.removesuffix("<unfinished ...>")
            continue
        yield process, name, begun.pop(process, "") + rest


def unescaped(text: str) -> str:
    """A text as strace escapes it."""
    return codecs.escape_decode(text.encode("utf-8", "surrogateescape"))[0].decode("utf-8", "surrogateescape")  # type: ignore[attr-defined,no-any-return]

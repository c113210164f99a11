"""A checkpoint is there in full or not at all, whatever the system does: every call of a save killed, and failed.

    python -m bench.faults                 all parts, some minutes
    python -m bench.faults calls damage    those parts

calls   a save over two older ones, with rotation: SIGKILL at each system call, and each error it can return, by strace
        (without strace at the calls that Python makes through the os module, which leaves out the writes themselves)
disk    run.py on a small file system that fills up and becomes read-only; where mounting is not allowed, under RLIMIT_FSIZE
damage  random flipped bits and truncations in every file of a run's newest checkpoint
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import RESULTS, keep
from bench.reliability import forked
from bench.reliability.kill import Lab, die, differences, tiny_lab
from engine.checkpoint.store import commit, newest, open_checkpoint, rotate, steps_in
from engine.errors import ModelError, ResourceError

PARTS = ("calls", "disk", "damage")
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
FILE_LIMIT = 60_000  # bytes: more than a log, less than the tiny model


# ---------------------------------------------------------------------------------------------- every call of a save


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


# ------------------------------------------------------------------------------------------------------ a full disk


def fill_disks(lab: Lab, folder: Path) -> list[dict[str, Any]]:
    """run.py where there is no room, then again where there is: exit code 6 in one line, and the same end."""
    flags = ["--save-steps", "2", "--log-steps", "3"]
    undisturbed = lab.undisturbed(flags)
    size = sum(path.stat().st_size for path in (undisturbed / "checkpoints").glob("step-*/*"))
    place = folder / "disk"
    place.mkdir()
    rows = []
    if mount(place, size):
        try:
            rows.append(stopped_by("a full disk (tmpfs)", lab, flags, place / "run", undisturbed,
                                   mend=lambda: mount(place, 16 * size, "remount")))  # fmt: skip
            shutil.rmtree(place / "run")
            lab.run(flags, place / "run", lambda: die_after_step(7))
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
            rows.append(stopped_by("a read-only file system (tmpfs)", lab, flags, place / "run", undisturbed,
                                   mend=lambda: mount(place, 16 * size, "remount,rw")))  # fmt: skip
        finally:
            subprocess.run(["umount", str(place)], check=True)
    else:
        print("  mounting is not allowed here: RLIMIT_FSIZE alone")
    rows.append(stopped_by(f"files of at most {FILE_LIMIT} bytes (RLIMIT_FSIZE)", lab, flags, place / "limited", undisturbed,
                           patch=limit_files))  # fmt: skip
    rows.append(stopped_by("no room for the finished model (RLIMIT_FSIZE)", lab, flags, place / "last", undisturbed,
                           patch=limit_files_at_the_end))  # fmt: skip
    return rows


def die_after_step(step: int) -> None:
    from bench.reliability.kill import dies, step_is

    dies("engine.record.run:Run", "log", step_is(step))()


def limit_files() -> None:
    """Python ignores SIGXFSZ, so a write beyond it is an error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))


def limit_files_at_the_end() -> None:
    import importlib

    fit: Any = importlib.import_module("engine.fit")
    finish = fit.finish

    def limited(*arguments: Any) -> None:
        limit_files()
        finish(*arguments)

    fit.finish = limited


def mount(place: Path, size: int, options: str = "") -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"{options + ',' if options else ''}size={size}", "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def stopped_by(
    what: str,
    lab: Lab,
    flags: Sequence[str],
    output: Path,
    undisturbed: Path,
    *,
    patch: Callable[[], None] = lambda: None,
    mend: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """One row."""
    before = len(lab.log.read_text())
    stopped = lab.run(flags, output, patch)
    said = lab.log.read_text()[before:].strip().splitlines()
    checkpoints = [path for path in output.glob("checkpoints/step-*") if open_checkpoint(path)]
    mend()
    resumed = lab.run(flags, output)
    row = {
        "what": what, "exit_code": stopped.code, "said": re.sub(r"\S*/disk/", "", said[-1]) if said else "",
        "traceback": any("Traceback" in line for line in said), "whole_checkpoints_left": len(checkpoints),
        "resumed_exit_code": resumed.code, "differences": differences(undisturbed, output) if resumed.code == 0 else None,
    }  # fmt: skip
    row["as_it_must"] = (row["exit_code"], row["traceback"], row["resumed_exit_code"], row["differences"]) == (6, False, 0, [])
    print(f"  {what}: exit code {row['exit_code']}: {row['said']}", flush=True)
    return row


# ----------------------------------------------------------------------------------------------------------- damage


def damage(root: Path, number: int, seed: int) -> dict[str, Any]:
    """Flip a bit or cut off the end of one file of the newest checkpoint: the older one must be taken, with a warning."""
    generator = np.random.default_rng(seed)
    older, newer = (root / f"step-{step:08d}" for step in steps_in(root)[-2:])
    expected = dict(open_checkpoint(older))
    files = sorted(newer.iterdir())
    struck: Counter[str] = Counter()
    wrong = []
    for _ in range(number):
        path = files[generator.integers(len(files))]
        whole = path.read_bytes()
        harmed, how = bytearray(whole), "a bit flipped"
        if generator.integers(4):
            harmed[generator.integers(len(harmed))] ^= 1 << int(generator.integers(8))
        else:
            harmed, how = harmed[: generator.integers(len(harmed))], "cut short"
        path.write_bytes(bytes(harmed))
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            found = newest_in(root)
        path.write_bytes(whole)
        struck[f"{path.name}, {how}"] += 1
        if found != expected or "trying an older checkpoint" not in said.getvalue():
            wrong.append(f"{path.name}, {how}")
    return {"number": number, "detected": number - len(wrong), "struck": dict(sorted(struck.items())), "wrong": wrong,
            "all_damaged_is_refused": all_damaged_is_refused(root), "seed": seed}  # fmt: skip


def all_damaged_is_refused(root: Path) -> bool:
    kept = {path: path.read_bytes() for path in root.glob("step-*/model.safetensors")}
    for path, whole in kept.items():
        path.write_bytes(whole[:-1])
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            newest(root)
    except ModelError as error:
        return "is whole" in str(error)
    finally:
        for path, whole in kept.items():
            path.write_bytes(whole)
    return False


# -------------------------------------------------------------------------------------------------------------- main


def main(argv: Sequence[str]) -> int:
    """Exit code 0 if all was as promised."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--damages", type=int, default=1000, help="random flips and truncations")
    parser.add_argument("--seed", type=int, default=0, help="of the random damage")
    parser.add_argument("--results", type=Path, default=RESULTS / "faults-cpu.json")
    options = parser.parse_args(argv)
    forked.warm_up()
    document = json.loads(options.results.read_text()) if options.results.exists() else {}
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        os.environ["PLAINLOOP_CACHE"] = str(folder / "cache")
        for part in options.parts or PARTS:
            began = time.perf_counter()
            print(f"{part}:", flush=True)
            document[part] = measure(part, folder, options)
            document[f"{part}_seconds"] = round(time.perf_counter() - began, 1)
            keep(options.results, document)
    print(summary(document))
    return 0 if is_clean(document) else 1


def measure(part: str, folder: Path, options: argparse.Namespace) -> Any:
    if part == "calls":
        return strike_calls(folder, (Strace if shutil.which("strace") else InPython)(folder))
    lab = tiny_lab(folder / f"{part}-lab")
    if part == "disk":
        return fill_disks(lab, folder)
    return damage(lab.undisturbed(["--save-steps", "2"]) / "checkpoints", options.damages, options.seed)


def is_clean(document: dict[str, Any]) -> bool:
    harm = document.get("damage", {"wrong": [], "all_damaged_is_refused": True})
    return (
        not document.get("calls", {"wrong": []})["wrong"]
        and all(row["as_it_must"] for row in document.get("disk", ()))
        and not harm["wrong"]
        and harm["all_damaged_is_refused"]
    )


def summary(document: dict[str, Any]) -> str:
    """The table."""
    lines = []
    if "calls" in document:
        found = document["calls"]
        lines.append(f"one save, {sum(found['calls'].values())} calls (by {found['by']}): {found['kills']} killed, "
                     f"{found['errors']} failed; not as promised: {len(found['wrong'])}")  # fmt: skip
        lines += [f"    {number:>4} {what}" for what, number in found["outcomes"].items()]
        lines += [f"    WRONG {row['call']} {row['struck']}: {row['fault']}" for row in found["wrong"]]
    for row in document.get("disk", ()):
        verdict = "then resumed to the same end" if row["as_it_must"] else f"WRONG: {row}"
        lines.append(
            f"{row['what']}: exit code {row['exit_code']}, {row['whole_checkpoints_left']} whole checkpoints left, {verdict}"
        )
    if "damage" in document:
        found = document["damage"]
        lines.append(f"damage: {found['detected']} of {found['number']} noticed, the older checkpoint taken; all damaged: "
                     f"{'refused' if found['all_damaged_is_refused'] else 'WRONG, not refused'}")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
